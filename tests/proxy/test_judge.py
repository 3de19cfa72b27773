"""Who judges what: the judge of the proxy's own port, and those of single hosts. Pure, so without sockets."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import Refusal
from nono.policy.allowlist import Allowlist
from nono.policy.routes import EndpointRule
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


def test_one_judge_is_for_all_spellings_of_an_address() -> None:
    judging = Judge(TOKEN, [route("six", "https://[2001:DB8::1]:8443/v1", key=b"6")], 1, None, 16384, intercepts=True)
    first, second = grant(judging, "[2001:db8:0::1]:8443").judge, grant(judging, "[2001:db8::1]:8443").judge
    assert first is not None
    assert first is second
    for host in ("[2001:db8::1]:8443", "[2001:db8:0::1]:8443", "[2001:DB8::0.0.0.1]:8443", "[2001:db8::1]"):
        outgoing = ask(first, "/v1/x", host, bearer())
        assert key(outgoing) == b"6"
        assert b"\r\nHost: [2001:db8::1]:8443\r\n" in outgoing.before + outgoing.after
    for host in ("[2001:db8::2]:8443", "[2001:db8::1]:443", "[2001:db8::1]:99999", "[::1::1]", "2001:db8::1"):
        with pytest.raises(Refusal):
            ask(first, "/v1/x", host, bearer())


def test_the_audit_shows_the_beginning_of_a_long_path() -> None:
    judging = judge()
    long, cut = "/v9/" + 400 * "a", "/v9/" + 252 * "a" + "…"
    assert ask(inside(judging, "api.example"), long, "api.example").shown.path == cut
    assert ask(judging, "/one" + 300 * "/a", "127.0.0.1:1", bearer()).shown.path == 128 * "/a" + "…"
    plain = ask(judging, f"http://named.example{long}?q", "named.example", PROXY_AUTH)
    assert plain.shown.path == cut
    assert long.encode() in plain.before
    fits = "/v9/" + 252 * "a"
    assert ask(inside(judging, "api.example"), fits, "api.example").shown.path == fits


def test_options_of_the_whole_server() -> None:
    everything = Allowlist(["api.example"])
    outgoing = ask(inside(judge(everything), "api.example"), "*", "api.example", method="OPTIONS")
    assert outgoing.before.startswith(b"OPTIONS * HTTP/1.1\r\nHost: api.example\r\n")
    assert key(outgoing) is None
    for allowlist, host in ((None, "api.example"), (Allowlist(["https://paths.example/**"]), "paths.example")):
        with pytest.raises(Refusal) as refused:
            ask(inside(judge(allowlist), host), "*", host, method="OPTIONS")
        assert refused.value.code == "bad_target"
    with pytest.raises(Refusal, match="must be a path"):
        ask(inside(judge(everything), "api.example"), "*", "api.example")


GRANT = " The operator can grant it with "


def flag(judge: MemoJudge, target: str, host: str, *headers: str, method: str = "GET") -> str:
    with pytest.raises(Refusal) as refused:
        ask(judge, target, host, *headers, method=method)
    assert refused.value.code == "endpoint_denied"
    return str(refused.value).partition(GRANT)[2]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/b/c", "/b/c"),
        ("/b?q=1", "/b"),
        ("/b/", "/b/"),
        ("/", ""),
        ("/b;id", "/PATH"),
        ("/$(id)", "/PATH"),
        ("/%41", "/PATH"),
        ("/**", "/PATH"),
        ("/" + "b" * 300, "/PATH"),
    ],
)
def test_a_refused_path_names_the_flag_that_would_grant_it(path: str, shown: str) -> None:
    paths = inside(judge(), "paths.example")
    assert flag(paths, path, "paths.example") == f"--allow-domain https://paths.example{shown}"
    beside = inside(judge(None), "api.example")
    assert flag(beside, path, "api.example") == f"--allow-domain https://api.example{shown}"
    plain = judge(Allowlist(["http://paths.example:81/a"]))
    found = flag(plain, f"http://paths.example:81{path}", "paths.example:81", PROXY_AUTH)
    assert found == f"--allow-domain http://paths.example:81{shown}"
    if shown.startswith("/b"):
        ask(inside(judge(Allowlist([f"https://paths.example{shown}"])), "paths.example"), path, "paths.example")


def test_a_refused_endpoint_names_the_flag_that_would_grant_it() -> None:
    one = route("one", "https://api.example", key=b"1", endpoint_rules=(EndpointRule("GET", "/models"),))
    judging = Judge(TOKEN, [one], 1, None, 16384)
    token = TOKEN.decode()
    for target, shown in (("/one/chat", "/chat"), ("/one", "/"), ("/one/a`b", "/PATH"), (f"/one/{token}/x", "/*/x")):
        found = flag(judging, target, "127.0.0.1:1", bearer(), method="POST")
        assert found == f"--allow-endpoint one:POST:{shown}"
    assert flag(judging, "/one/a", "127.0.0.1:1", bearer(), method="G$T") == "--allow-endpoint one:METHOD:/a"
    assert not flag(judging, "/one/models", "127.0.0.1:1", bearer(), "X-HTTP-Method-Override: DELETE")
