"""Who judges what: the judge of the proxy's own port, and those of single hosts. Pure, so without sockets."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import Refusal
from nono.policy.allowlist import Allowlist
from nono.proxy.inject import Outgoing
from nono.proxy.judge import Judge
from nono.proxy.memo import ConnectGrant, MemoJudge
from nono.proxy.pins import NAMED, PUBLIC
from nono.proxy.server import BoundRoute
from tests.proxy.harness import TOKEN, bearer, route

PROXY_AUTH = "Proxy-Authorization: Basic " + base64.b64encode(b"nono:" + TOKEN).decode()
ALLOWED = Allowlist(["api.example", "https://paths.example/a/**", ".suffix.example", "named.example"])


def routes() -> list[BoundRoute]:
    return [
        route("one", "https://api.example/v1", key=b"1"),
        route("two", "https://api.example/v1/two", key=b"2"),
        route("other", "https://other.example", key=b"3"),
    ]


def judge(allowlist: Allowlist | None = ALLOWED) -> Judge:
    return Judge(TOKEN, routes(), 1, allowlist, 16384, intercepts=True)


def grant(judge: Judge, target: str) -> ConnectGrant:
    granted = judge(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{PROXY_AUTH}\r\n\r\n".encode())
    assert isinstance(granted, ConnectGrant)
    return granted


def inside(judge: Judge, host: str) -> MemoJudge:
    found = grant(judge, f"{host}:443").judge
    assert found is not None
    return found


def ask(judge: MemoJudge, target: str, host: str, *headers: str, method: str = "GET") -> Outgoing:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
    outgoing = judge("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
    assert isinstance(outgoing, Outgoing)
    return outgoing


def key(outgoing: Outgoing) -> bytes | None:
    return None if outgoing.secret is None else bytes(outgoing.secret)


def test_what_connect_leads_to() -> None:
    judging = judge()
    assert grant(judging, "named.example:443")[2:] == (NAMED, None)
    assert grant(judging, "a.suffix.example:443")[2:] == (PUBLIC, None)
    for host in ("api.example", "other.example", "paths.example"):
        assert inside(judging, host).authority == host
    assert inside(judging, "api.example") is inside(judging, "API.example.")


def test_a_verdict_holds_at_its_own_host_only() -> None:
    judging = judge()
    one, other = inside(judging, "api.example"), inside(judging, "other.example")
    for _ in range(3):  # the memos answer for the third
        assert key(ask(other, "/v1/x", "other.example", bearer())) == b"3"
        assert key(ask(one, "/v1/x", "api.example", bearer())) == b"1"
        with pytest.raises(Refusal, match="Host disagrees"):
            ask(one, "/v1/x", "other.example", bearer())
        with pytest.raises(Refusal, match="No route"):
            ask(judging, "/v1/x", "api.example", bearer())


def test_beside_a_route_the_allowlist_decides() -> None:
    assert key(ask(inside(judge(), "api.example"), "/v2", "api.example")) is None
    for allowlist in (None, Allowlist(["named.example"])):
        with pytest.raises(Refusal, match="only /v1/two/"):
            ask(inside(judge(allowlist), "api.example"), "/v2", "api.example")


def test_another_credential_is_in_no_memo() -> None:
    host = inside(judge(), "api.example")
    for _ in range(3):
        ask(host, "/v1/x", "api.example", "Authorization: Bearer of-somebody")
        ask(host, "/v1/x", "api.example", bearer(), "X-Api-Key: of-somebody")
    assert "of-somebody" not in repr((host._heads, host._similar))


TARGETS = st.text("/v12two.%eE25fF;?#\\ ~a\x00\xe4", max_size=24).map(lambda rest: "/" + rest)


@given(TARGETS)
def test_what_is_judged_is_what_is_sent(target: str) -> None:
    try:
        outgoing = ask(inside(judge(), "api.example"), target, "api.example")
    except Refusal:
        return
    assert outgoing.before.startswith(f"GET {target} HTTP/1.1\r\nHost: api.example\r\n".encode("latin-1"))
    path = target.partition("?")[0]
    expected = b"2" if f"{path}/".startswith("/v1/two/") else b"1" if f"{path}/".startswith("/v1/") else None
    assert key(outgoing) == expected
    assert not {".", ".."} & set(path.split("/"))


@given(TARGETS)
def test_rules_of_a_host_hold_for_what_is_sent(target: str) -> None:
    host = inside(judge(), "paths.example")
    try:
        outgoing = ask(host, "/a" + target, "paths.example")
    except Refusal:
        outgoing = None
    if outgoing is not None:
        assert outgoing.before.startswith(f"GET /a{target} HTTP/1.1\r\n".encode("latin-1"))
        assert (key(outgoing), outgoing.scope) == (None, NAMED)
    with pytest.raises(Refusal):
        ask(host, target.replace("/", "/b", 1), "paths.example")
