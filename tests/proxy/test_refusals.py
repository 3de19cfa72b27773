"""What is refused, and that nothing of it reaches the upstream."""

from __future__ import annotations

import base64
import socket
import ssl
import threading

import pytest

from nono.errors import Refusal
from nono.policy.routes import EndpointRule
from nono.proxy.judge import Judge
from nono.proxy.server import Limits
from tests.fakes import Authority, Upstream
from tests.proxy.harness import TOKEN, Client, RunningProxy, bearer, route

B = bearer().encode()
POST = b"POST /api/x HTTP/1.1\r\nHost: a\r\n%b\r\n"
HEADS = {
    "length and chunked": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "length list": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "gzip coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "bare LF": b"GET /api/x HTTP/1.1\r\nHost: a\r\n%b\nX: y\r\n\r\n",
    "bare CR": b"GET /api/x HTTP/1.1\r\nHost: a\r\n%b\rX: y\r\n\r\n",
    "NUL": b"GET /api/x HTTP/1.1\r\nHost: a\r\n%b\r\nX: \0\r\n\r\n",
    "obs-fold": b"GET /api/x HTTP/1.1\r\nHost: a\r\n%b\r\nX: y\r\n z\r\n\r\n",
    "space before colon": b"GET /api/x HTTP/1.1\r\nHost: a\r\n%b\r\nX : y\r\n\r\n",
    "bad name": b"GET /api/x HTTP/1.1\r\nHost: a\r\n%b\r\nX(y): y\r\n\r\n",
    "no host": b"GET /api/x HTTP/1.1\r\n%b\r\n\r\n",
    "two hosts": b"GET /api/x HTTP/1.1\r\nHost: a\r\n%b\r\nHost: a\r\n\r\n",
    "empty host": b"GET /api/x HTTP/1.1\r\nHost:\r\n%b\r\n\r\n",
    "disagreeing host": b"GET http://b/x HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n",
    "connection lists framing": POST + b"Content-Length: 5\r\nConnection: content-length\r\n\r\n",
    "two spaces": b"GET  /api/x HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n",
    "fragment": b"GET /api/x#y HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n",
    "empty line first": b"\r\nGET /api/x HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01",
}


@pytest.mark.parametrize("kind", HEADS)
def test_head_that_could_be_misread_is_400_and_closes(proxy: RunningProxy, upstream: Upstream, kind: str) -> None:
    head = HEADS[kind]
    with Client(proxy) as client:
        client.send(head % B if b"%b" in head else head)
        answer = client.answer()
        assert (answer.status, answer.header("connection")) == (400, "close")
        assert client.at_end()
    assert upstream.requests == []


@pytest.mark.parametrize("size", [b"0x5", b"+5", b"1_0", b"-1", b"", b" 5", b"5 ", b"5\n", b"g", b"1" * 17, b"5;a=\r"])
def test_bad_chunk_size_is_400(proxy: RunningProxy, upstream: Upstream, size: bytes) -> None:
    with Client(proxy) as client:
        client.request("POST", "/api/echo", bearer(), "Transfer-Encoding: chunked")
        client.send(size + b"\r\nhello\r\n0\r\n\r\n")
        answer = client.answer()
        assert (answer.status, answer.code) == (400, "bad_body")
        assert client.at_end()
    assert upstream.requests == []


@pytest.mark.parametrize(
    "rest",
    [
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"0\r\nContent-Length: 3\r\n\r\n",
        b"0\r\nAuthorization: x\r\n\r\n",
        b"0\r\nX y: 1\r\n\r\n",
        b"0\r\nX: %b\r\n\r\n" % TOKEN,
        b"0;" + b"x" * 5000,
    ],
)
def test_bad_chunked_body_is_refused(proxy: RunningProxy, upstream: Upstream, rest: bytes) -> None:
    with Client(proxy) as client:
        client.request("POST", "/api/echo", bearer(), "Transfer-Encoding: chunked")
        client.send(rest)
        assert client.answer().status == 400
        assert client.at_end()
    assert upstream.requests == []


PATHS = [
    "/api/..", "/api/../x", "/api/a/../b", "/api/./x", "/api/%2e%2e/x", "/api/%2E./x", "/api/.%2e", "/api/..%2fx",
    "/api/%252e%252e/x", "/api/%25252e%25252e/x", "/api/a\\b", "/api/a%5cb", "/api/%00", "/api/a%00b", "/api/..;/x",
    "/api/%2e%2e%3b/x", "/api/%c0%ae%c0%ae/x", "/api/..%5c..", "/api//../x",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_ambiguous_path_is_400(proxy: RunningProxy, upstream: Upstream, path: str) -> None:
    with Client(proxy) as client:
        answer = client.get(path)
        assert (answer.status, answer.code) == (400, "ambiguous_path")
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/a%2Fb", "/a..b", "/...", "/.a", "/a%20b", "//a", "/gpt-4.1", "/a;x=1", "/%25"])
def test_other_paths_are_forwarded_as_they_are(proxy: RunningProxy, upstream: Upstream, path: str) -> None:
    with Client(proxy) as client:
        assert client.get("/api" + path + "?../..%00").status == 200
    assert upstream.requests[0].target == "/v1" + path + "?../..%00"


def test_large_heads(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        assert client.get("/api/echo", "X-A: " + "a" * 60000).status == 200
        client.request("GET", "/api/echo", bearer(), "X-A: " + "a" * 70000)
        answer = client.answer()
        assert (answer.status, answer.code) == (431, "head_too_large")
    with Client(proxy) as client:
        assert client.get("/api/echo?" + "a" * 16000).status == 200
        assert client.get("/api/echo?" + "a" * 17000).status == 414
    with Client(proxy) as client:
        client.send(b"GET /" + b"a" * 20000)
        assert client.answer().status == 414
    with Client(proxy) as client:
        client.send(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 12000)
        assert client.answer().status == 431


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ("GET /nowhere/x", 404, "unknown_route"),
        ("GET /", 404, "unknown_route"),
        ("GET /API/x", 404, "unknown_route"),
        ("TRACE /api/x", 405, "method_not_allowed"),
        ("OPTIONS *", 400, "bad_target"),
        ("GET ftp://x/y", 400, "bad_target"),
    ],
)
def test_what_has_no_route(proxy: RunningProxy, request_: str, status: int, code: str) -> None:
    with Client(proxy) as client:
        answer = client.get(request_.partition(" ")[2], method=request_.partition(" ")[0])
    assert (answer.status, answer.code) == (status, code)
    assert answer.json()["error"]["message"]


def test_http_1_0_is_505_but_for_connect(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        client.send(b"GET /api/x HTTP/1.0\r\nHost: a\r\n%b\r\n\r\n" % B)
        assert client.answer().status == 505
    with Client(proxy) as client:
        client.send(b"CONNECT example.org:443 HTTP/1.0\r\n\r\n")
        assert client.answer().status == 407


def test_refusal_of_head_has_no_body(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        client.request("HEAD", "/api/x")
        assert client.answer("HEAD").status == 401
        assert client.at_end()


@pytest.mark.parametrize(
    "present", ["", "Authorization: Bearer wrong", f"Authorization: {TOKEN.decode()}x", "x-api-key: ü"]
)
def test_missing_or_wrong_token_is_401(proxy: RunningProxy, upstream: Upstream, present: str) -> None:
    with Client(proxy) as client:
        client.request("POST", "/api/echo", *([present] if present else []), body=b"x" * 100000)
        answer = client.answer()
        assert (answer.status, answer.code) == (401, "token_wrong" if present else "token_missing")
        assert answer.header("x-should-retry") == "false"
        assert client.at_end()
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("target", "header"),
    [("/api/echo", "X-Other: {}"), ("/api/echo?other={}", ""), ("/api/{}", ""), ("/api/echo", "Cookie: a={}")],
)
def test_token_elsewhere_is_400(proxy: RunningProxy, upstream: Upstream, target: str, header: str) -> None:
    token = TOKEN.decode()
    with Client(proxy) as client:
        answer = client.get(target.format(token), *([header.format(token)] if header else []))
    assert (answer.status, answer.code) == (400, "token_misplaced")
    assert upstream.requests == []


def test_slow_head_is_408(upstream: Upstream, authority: Authority) -> None:
    limits = Limits(client_head_s=0.1)
    with RunningProxy([route("api", upstream.url, authority.ca)], limits=limits) as proxy, Client(proxy) as client:
        client.send(b"GET /api/x HTTP/1.1\r\n")
        answer = client.answer()
        assert (answer.status, answer.code) == (408, "slow_head")


def test_idle_connections_are_closed(upstream: Upstream, authority: Authority) -> None:
    limits = Limits(client_idle_s=0.1, client_head_s=0.1)
    with RunningProxy([route("api", upstream.url, authority.ca)], limits=limits) as proxy:
        with Client(proxy) as used, Client(proxy) as unused:
            assert used.get("/api/echo").status == 200
            assert used.at_end()
            assert unused.at_end()


def test_upstream_head_time_out_is_504(server_context: ssl.SSLContext, authority: Authority) -> None:
    limits = Limits(upstream_head_s=0.1)
    with Upstream(lambda connection: connection.wait_closed(), server_context) as upstream:
        with RunningProxy([route("api", upstream.url, authority.ca)], limits=limits) as proxy, Client(proxy) as client:
            answer = client.get("/api/x")
            assert (answer.status, answer.code) == (504, "head_timeout")


def test_upstream_that_stops_reading_is_504(server_context: ssl.SSLContext, authority: Authority) -> None:
    release = threading.Event()
    limits = Limits(stalled_write_s=0.1)
    with Upstream(lambda connection: release.wait(20) and None, server_context, rcvbuf=4096) as upstream:
        with RunningProxy([route("api", upstream.url, authority.ca)], limits=limits) as proxy, Client(proxy) as client:
            client.request("POST", "/api/x", bearer(), "Content-Length: 50000000")
            client.sock.setblocking(False)
            try:
                while True:
                    client.sock.send(bytes(65536))
            except BlockingIOError:
                client.sock.settimeout(20)
            answer = client.answer()
            assert (answer.status, answer.code) == (504, "upstream_stalled")
            release.set()


def test_client_that_stops_reading_is_dropped(upstream: Upstream, authority: Authority) -> None:
    limits = Limits(stalled_write_s=0.1)
    with RunningProxy([route("api", upstream.url, authority.ca)], limits=limits) as proxy:
        with Client(proxy, rcvbuf=4096) as client:
            client.request("GET", "/api/bytes/50000000", bearer())
            exchanges = proxy.wait(lambda exchanges: bool(exchanges))
            assert exchanges[0].reason == "the client stopped reading"


def test_tls_handshake_time_out_is_504(authority: Authority) -> None:
    limits = Limits(tls_s=0.1)
    with Upstream(lambda connection: connection.wait_closed()) as upstream:  # speaks no TLS
        url = f"https://localhost:{upstream.port}"
        with RunningProxy([route("api", url, authority.ca)], limits=limits) as proxy, Client(proxy) as client:
            answer = client.get("/api/x")
            assert (answer.status, answer.code) == (504, "tls_timeout")


def test_connect_time_out_is_504(authority: Authority) -> None:
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    address = full.getsockname()
    fillers = []
    for _ in range(4):  # a full backlog drops further SYNs
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(address)
        fillers.append(filler)
    bound = route("api", f"http://127.0.0.1:{address[1]}")
    with RunningProxy([bound], limits=Limits(connect_s=0.1)) as proxy, Client(proxy) as client:
        answer = client.get("/api/x")
        assert (answer.status, answer.code) == (504, "connect_timeout")
    for sock in (full, *fillers):
        sock.close()


def test_refused_connection_is_502(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with RunningProxy([route("api", f"https://localhost:{port}", authority.ca)]) as proxy, Client(proxy) as client:
        for _ in range(2):
            answer = client.get("/api/x", method="POST", body=b"abc")
            assert (answer.status, answer.code) == (502, "connect")


@pytest.mark.parametrize("kind", ["other name", "expired", "unknown authority"])
def test_certificate_that_is_not_accepted_is_502(authority: Authority, kind: str) -> None:
    context = authority.server_context(
        *(["other.example"] if kind == "other name" else []), days=-1 if kind == "expired" else 7
    )
    ca = "" if kind == "unknown authority" else authority.ca
    with Upstream(context=context) as upstream:
        with RunningProxy([route("api", upstream.url, ca)]) as proxy, Client(proxy) as client:
            answer = client.get("/api/x")
            assert (answer.status, answer.code) == (502, "tls_certificate")
        assert upstream.requests == []


def test_old_tls_is_refused(authority: Authority) -> None:
    context = authority.server_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with Upstream(context=context) as upstream:
        with RunningProxy([route("api", upstream.url, authority.ca)]) as proxy, Client(proxy) as client:
            assert (client.get("/api/x").status, upstream.requests) == (502, [])


def test_certificates_that_cannot_be_read_are_502(upstream: Upstream) -> None:
    with RunningProxy([route("api", upstream.url, "/nowhere/ca.pem")]) as proxy, Client(proxy) as client:
        answer = client.get("/api/x")
        assert (answer.status, answer.code) == (502, "tls_config")


def test_missing_credential_is_503_and_says_how_to_store_it(upstream: Upstream, authority: Authority) -> None:
    with RunningProxy([route("api", upstream.url, authority.ca, key=None)]) as proxy, Client(proxy) as client:
        answer = client.get("/api/x")
        assert (answer.status, answer.code) == (503, "credential_missing")
        assert "nono credential set" in answer.json()["error"]["message"]


def test_too_many_connections_is_503_and_the_others_are_served(upstream: Upstream, authority: Authority) -> None:
    limits = Limits(max_connections=2)
    with RunningProxy([route("api", upstream.url, authority.ca)], limits=limits) as proxy:
        with Client(proxy) as one, Client(proxy) as two:
            assert one.get("/api/echo").status == two.get("/api/echo").status == 200
            for _ in range(20):
                with Client(proxy) as three:
                    assert three.answer().status == 503
            assert one.get("/api/echo").status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/chat/completions", 200),
        ("GET", "/chat/completions", 403),
        ("GET", "/repos/a/issues", 200),
        ("GET", "/repos/a%2Fb/issues", 403),
        ("GET", "/repos/a%252fb/issues", 403),
        ("GET", "/projects/a%2Fb/issues", 200),
        ("GET", "/files/a%2Fb", 200),
        ("GET", "/repos/a/b/issues", 403),
        ("GET", "/files/a/b/c", 200),
        ("GET", "/files", 200),
        ("GET", "/filesystem", 403),
        ("DELETE", "/any", 200),
        ("GET", "/chat/completions/", 403),
    ],
)
def test_endpoint_rules(upstream: Upstream, authority: Authority, method: str, path: str, status: int) -> None:
    rules = (
        EndpointRule("POST", "/chat/completions"),
        EndpointRule("GET", "/repos/*/issues"),
        EndpointRule("GET", "/projects/*%2F*/issues"),
        EndpointRule("GET", "/files/**"),
        EndpointRule("*", "/any"),
    )
    with RunningProxy([route("api", upstream.url, authority.ca, endpoint_rules=rules)]) as proxy:
        with Client(proxy) as client:
            assert client.get("/api" + path + "?q=/chat/completions", method=method).status == status


def test_method_override_does_not_pass_endpoint_rules(upstream: Upstream, authority: Authority) -> None:
    rules = (EndpointRule("POST", "/x"),)
    with RunningProxy([route("api", upstream.url, authority.ca, endpoint_rules=rules)]) as proxy:
        with Client(proxy) as client:
            assert client.get("/api/x", method="POST").status == 200
        for name in ("X-HTTP-Method-Override", "X_HTTP_Method-Override", "X-Original-URL", "x_rewrite_url"):
            with Client(proxy) as client:
                assert client.get("/api/x", name + ": /x", method="POST").status == 403


def test_override_learned_on_a_free_route_does_not_pass_endpoint_rules() -> None:
    rules = (EndpointRule("POST", "/x"),)
    routes = [route("free", "https://a.example"), route("api", "https://b.example", endpoint_rules=rules)]
    judge = Judge(TOKEN, routes, 1, None, 16384)
    head = f"POST /%s/x HTTP/1.1\r\nHost: a\r\n{bearer()}\r\nX_Original_URL: /y\r\n\r\n"
    for _ in range(4):
        judge((head % "free").encode())
    with pytest.raises(Refusal) as refused:
        judge((head % "api").encode())
    assert refused.value.status == 403


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "trace", "Track"])
def test_methods_that_echo_are_405(proxy: RunningProxy, upstream: Upstream, method: str) -> None:
    with Client(proxy) as client:
        assert client.get("/api/echo").status == 200
        assert client.get("/api/echo", method=method).status == 405
    assert len(upstream.requests) == 1


def test_token_is_judged_before_endpoint_rules(upstream: Upstream, authority: Authority) -> None:
    rules = (EndpointRule("POST", "/x"),)
    with RunningProxy([route("api", upstream.url, authority.ca, endpoint_rules=rules)]) as proxy:
        with Client(proxy) as client:
            client.request("GET", "/api/y")
            assert client.answer().status == 401


def basic(user: bytes, password: bytes) -> str:
    return base64.b64encode(user + b":" + password).decode()


@pytest.mark.parametrize("value", ["", "Proxy-Authorization: Basic bm9ubzp4", "Proxy-Authorization: Bearer x"])
@pytest.mark.parametrize("request_", ["CONNECT up.example:443", "GET http://up.example/"])
def test_proxying_without_the_token_is_407(proxy: RunningProxy, request_: str, value: str) -> None:
    method, target = request_.split(" ")
    with Client(proxy) as client:
        client.request(method, target, *([value] if value else []), host=target.removeprefix("http://").rstrip("/"))
        answer = client.answer()
        assert answer.status == 407
        assert "Basic" in str(answer.header("proxy-authenticate"))
        assert client.at_end()


def test_only_routes_are_reachable_without_an_allowlist(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        value = f"Proxy-Authorization: Basic {basic(b'nono', TOKEN)}"
        client.request("CONNECT", "example.org:443", value, host="example.org:443")
        client.send(b"GET /api/x HTTP/1.1\r\nHost: a\r\n\r\n")  # never interpreted
        answer = client.answer()
        assert (answer.status, answer.code) == (403, "host_denied")
        assert "--allow-domain example.org" in answer.json()["error"]["message"]
        assert client.at_end()
    assert proxy.exchanges[0].host == "example.org:443"
