"""Where the token is accepted, where the credential goes, and that the upstream never sees two."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import pytest

from nono.errors import PolicyError
from nono.loop import Loop
from nono.policy.routes import Presentation
from nono.proxy.judge import Judge
from nono.proxy.pattern import Pattern
from nono.proxy.server import BoundRoute
from tests.fakes import Request, Upstream
from tests.proxy.harness import KEY, TOKEN, Client, RunningProxy, route

T, K = TOKEN.decode(), KEY.decode()
CREDENTIAL_HEADERS = ("authorization", "x-api-key", "x-goog-api-key", "api-key", "private-token", "proxy-authorization")


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def seen_by_upstream(target: str, *headers: str, key: bytes = KEY, **fields: Any) -> tuple[int, Request | None]:
    """Send one request to route `api`; return the status and what the upstream got."""
    with Upstream() as upstream, RunningProxy([route("api", upstream.url, key=key, **fields)]) as proxy:
        with Client(proxy) as client:
            client.request("GET", "/api" + target, *headers)
            status = client.answer().status
        return status, upstream.requests[0] if upstream.requests else None


def credentials(request: Request) -> dict[str, list[str]]:
    return {name: request.all(name) for name in CREDENTIAL_HEADERS if request.all(name)}


ANTHROPIC = Presentation("header", "x-api-key", "{}")
GEMINI = Presentation("header", "x-goog-api-key", "{}")
GITLAB = Presentation("header", "PRIVATE-TOKEN", "{}")


@pytest.mark.parametrize(
    ("target", "header"),
    [
        ("/x", f"Authorization: Bearer {T}"),
        ("/x", f"authorization: bearer {T}"),
        ("/x", f"Authorization: token {T}"),
        ("/x", f"Authorization: Basic {basic('git:' + T)}"),
        ("/x", f"x-api-key: {T}"),
        ("/x", f"X-Goog-Api-Key: {T}"),
        ("/x", f"api-key: {T}"),
        (f"/x?key={T}", ""),
        (f"/x?a=1&key={T}&b=2", ""),
        ("/x", f"PRIVATE-TOKEN: {T}"),
    ],
)
def test_token_is_accepted_where_sdks_put_keys(target: str, header: str) -> None:
    status, request = seen_by_upstream(target, *([header] if header else []), inject=GITLAB)
    assert status == 200
    assert request is not None
    assert credentials(request) == {"private-token": [K]}
    assert request.target == ("/x?a=1&b=2" if "&" in target else "/x")
    assert T not in str(request)


@pytest.mark.parametrize(
    "header",
    [f"Authorization: {T}", f"Authorization: Digest {T}", f"X-Other: {T}", f"Authorization: Basic {basic(T)}x:"],
)
def test_token_is_not_accepted_elsewhere(header: str) -> None:
    status, request = seen_by_upstream("/x", header)
    assert status == 401
    assert request is None


@pytest.mark.parametrize("inject", [ANTHROPIC, Presentation(), GEMINI])
@pytest.mark.parametrize(
    "headers",
    [
        (f"Authorization: Bearer {T}", "x-api-key: sk-other"),  # Claude Code sends both
        ("x-api-key: sk-other", f"Authorization: Bearer {T}", "x-api-key: again"),
        (f"x-api-key: {T}", f"Authorization: Bearer {T}"),
        (f"x-api-key: {T}", "Authorization: Basic abc", "x-goog-api-key: mine", "api-key: mine"),
        (f"x-api-key: {T}", "Proxy-Authorization: Basic abc"),
    ],
)
def test_upstream_never_sees_two_credentials(inject: Presentation, headers: tuple[str, ...]) -> None:
    status, request = seen_by_upstream("/x", *headers, inject=inject)
    assert status == 200
    assert request is not None
    expected = inject.credential_format.replace("{}", K)
    assert credentials(request) == {inject.inject_header.lower(): [expected]}


def test_another_services_key_parameter_stays_but_googles_goes() -> None:
    _, request = seen_by_upstream("/x?key=mine&a=1", f"x-api-key: {T}", inject=GITLAB)
    assert request is not None
    assert request.target == "/x?key=mine&a=1"
    _, request = seen_by_upstream("/x?key=mine&a=1", f"x-goog-api-key: {T}", inject=GEMINI)
    assert request is not None
    assert request.target == "/x?a=1"


def test_credential_stands_where_the_token_stood() -> None:
    _, request = seen_by_upstream("/x", "A: 1", f"x-api-key: {T}", "B: 2", inject=Presentation())
    assert request is not None
    assert [name for name, _ in request.headers] == ["Host", "A", "Authorization", "B"]


def test_query_param_mode() -> None:
    inject = Presentation("query_param", query_param_name="token")
    for target, expected in (
        (f"/x?token={T}&a=1", "/x?a=1&token="), (f"/x?token={T}", "/x?token="), ("/x?token=mine&a", "/x?a&token=")
    ):  # fmt: skip
        headers = [] if T in target else [f"Authorization: Bearer {T}"]
        status, request = seen_by_upstream(target, *headers, inject=inject, key=b"k&y +%\xc3\xbc")
        assert status == 200
        assert request is not None
        assert request.target == expected + quote("k&y +%ü", safe="")
        assert credentials(request) == {}


def test_url_path_mode() -> None:
    inject = Presentation("url_path", path_pattern="/bot{}/", path_replacement="/bot{}/v2/")
    status, request = seen_by_upstream(f"/bot{T}/send?chat=1", inject=inject, key=b"12:ab/c")
    assert status == 200
    assert request is not None
    assert request.target == "/bot12%3Aab%2Fc/v2/send?chat=1"
    status, request = seen_by_upstream(f"/bot{'0' * 64}/send", inject=inject)
    assert (status, request) == (401, None)
    status, request = seen_by_upstream("/send", f"Authorization: Bearer {T}", inject=inject)
    assert (status, request) == (401, None)


@pytest.mark.parametrize("key", [b"user:pass", b"user:p", b"a:bc", b"ab:cd\xff\xfe", b"x:" + bytes(range(1, 256))])
def test_basic_auth_mode(key: bytes) -> None:
    inject = Presentation("basic_auth")
    status, request = seen_by_upstream("/x", f"Authorization: Basic {basic('x:' + T)}", inject=inject, key=key)
    assert status == 200
    assert request is not None
    assert request.all("authorization") == ["Basic " + base64.b64encode(key).decode()]


def test_agent_presents_its_token_in_another_way() -> None:
    proxy = Presentation("header", "X-Agent-Key", "Key {} end")
    status, request = seen_by_upstream("/x", f"X-Agent-Key: key {T} end", proxy=proxy, inject=GITLAB)
    assert status == 200
    assert request is not None
    assert request.all("x-agent-key") == []
    assert credentials(request) == {"private-token": [K]}
    inject = Presentation("header", "Authorization", "Bearer {}")
    status, request = seen_by_upstream(
        f"/x?auth={T}", proxy=Presentation("query_param", query_param_name="auth"), inject=inject
    )
    assert status == 200
    assert request is not None
    assert request.target == "/x"


def test_long_head_goes_around_the_slot_of_locked_memory() -> None:
    with Upstream() as upstream, RunningProxy([route("api", upstream.url)]) as proxy, Client(proxy) as client:
        for size in (16000, 16200, 16384, 40000):
            assert client.get("/api/x", "X-Long: " + "a" * size, method="POST", body=b"b" * 30000).status == 200
            assert client.get("/api/x", method="POST", body=b"b" * size).json()["length"] == size
        assert {request.all("authorization")[0] for request in upstream.requests} == {f"Bearer {K}"}


def test_paths_and_bases() -> None:
    with Upstream() as upstream:
        routes = [route("api", upstream.url + "/v1/"), route("bare", upstream.url)]
        with RunningProxy(routes) as proxy, Client(proxy) as client:
            for target, expected in {
                "/api": "/v1", "/api?a": "/v1?a", "/api/": "/v1/", "/api/x": "/v1/x", "/api//x": "/v1//x",
                "/bare": "/", "/bare?a": "/?a", "/bare/x?": "/x?",
            }.items():  # fmt: skip
                assert client.get(target).json()["target"] == expected
            own = f"http://127.0.0.1:{proxy.port}"
            client.request("GET", own + "/api/x", f"x-api-key: {T}", host=f"127.0.0.1:{proxy.port}")
            assert client.answer().json()["target"] == "/v1/x"  # a client that ignores NO_PROXY


@pytest.mark.parametrize(
    ("upstream", "inject"),
    [
        ("http://example.com", Presentation()),
        ("https://example.com/a/../b", Presentation()),
        ("https://user@example.com", Presentation()),
        ("https://example.com?x", Presentation()),
        ("https://example.com:0", Presentation()),
        ("example.com", Presentation()),
        ("https://example.com", Presentation("header", "Host", "{}")),
        ("https://example.com", Presentation("header", "X", "nothing")),
        ("https://example.com", Presentation("header", "X", "{}\r\nY: z")),
        ("https://example.com", Presentation("header", "X y", "{}")),
        ("https://example.com", Presentation("query_param")),
        ("https://example.com", Presentation("url_path", path_pattern="/x/")),
        ("https://example.com", Presentation("cookie")),
    ],
)
def test_route_that_cannot_be_carried_out_is_a_policy_error(upstream: str, inject: Presentation) -> None:
    with pytest.raises(PolicyError):
        Judge(TOKEN, [route("api", upstream, inject=inject)], 1, None, 16384)


@pytest.mark.parametrize(
    ("inject", "octet", "most"),
    [
        (Presentation(), b"k", 16384),
        (Presentation("basic_auth"), b"k", 12288),
        (Presentation("query_param", query_param_name="key"), b"k", 16384),
        (Presentation("query_param", query_param_name="key"), b"%", 5461),
        (Presentation("url_path", path_pattern="/bot{}/"), b"/", 5461),
    ],
)
def test_credential_too_long_for_locked_memory_is_a_policy_error(inject: Presentation, octet: bytes, most: int) -> None:
    with pytest.raises(PolicyError, match="longer than"):
        Judge(TOKEN, [route("api", "https://example.com", inject=inject, key=octet * (most + 1))], 1, None, 16384)
    headers = [f"Authorization: Bearer {T}"] if inject.inject_mode in ("header", "basic_auth") else []
    target = {"query_param": f"/x?key={T}", "url_path": f"/bot{T}/x"}.get(inject.inject_mode, "/x")
    status, request = seen_by_upstream(target, *headers, inject=inject, key=octet * most)
    assert status == 200
    assert request is not None


def test_what_is_remembered_of_a_head_holds_no_credential() -> None:
    judge = Judge(TOKEN, [route("api", "https://example.com")], 1, None, 16384)
    head = f"GET /api/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {T}\r\nX-Plain: 1\r\n\r\n".encode()
    assert judge(head) == judge(head)
    assert judge(head) is judge(head)
    assert K not in repr(judge._heads)
    with_cookie = head.replace(b"X-Plain: 1", b"Cookie: sesame").replace(b"/api/x", b"/api/y")
    assert judge(with_cookie) is not judge(with_cookie)
    assert len(judge._similar) == 2
    for known in judge._similar.values():
        everything = repr([getattr(known.pattern, name) for name in Pattern.__slots__] + [known.model])
        assert "sesame" not in everything
        assert K not in everything
    for path in range(3):
        judge(head.replace(b"/x", b"/%d" % path))
    lines = judge.reader._request_lines
    assert lines.plain | set(lines.contextual) == {b"X-Plain: 1", b"Host: a"}


@pytest.mark.parametrize("header", ["my_key", "My-Key"])
def test_a_header_that_holds_the_token_is_never_remembered(header: str) -> None:
    own = Presentation(inject_header=header, credential_format="{}")
    judge = Judge(TOKEN, [route("api", "https://example.com", inject=own)], 1, None, 16384)
    line = header.encode() + b": " + TOKEN
    for number in range(4):  # another path each time: no pattern fits
        judge(b"GET /api/%d HTTP/1.1\r\nHost: 127.0.0.1:1\r\n%b\r\n\r\n" % (number, line))
    assert line not in judge.reader._request_lines.plain


def test_memos_are_bounded() -> None:
    judge = Judge(TOKEN, [route("api", "https://example.com")], 1, None, 16384)
    for index in range(10000):
        judge(f"GET /api/{index} HTTP/1.1\r\nHost: a\r\nx-api-key: {T}\r\nX-{index}: 1\r\n\r\n".encode())
    assert len(judge._heads) <= 512
    assert len(judge.reader._request_lines.plain) + len(judge.reader._request_lines._old_plain) <= 2 * 1025


def test_head_that_was_refused_teaches_the_memo_nothing() -> None:
    judge = Judge(TOKEN, [route("api", "https://example.com")], 1, None, 16384)
    for head in (
        b"GET /api/x HTTP/1.1\r\nHost: a\r\nX-Evil: 1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nX-Evil: 1\r\n\r\n",
    ):
        with pytest.raises(Exception, match=r"token|route"):
            judge(head)
    assert not judge.reader._request_lines.plain
    assert not judge._heads


_ = (Loop, BoundRoute)
