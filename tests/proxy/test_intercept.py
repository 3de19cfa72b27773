"""Interception: real TLS on both sides, the same rooms inside; what is no TLS, or not for this host, gets nowhere."""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nono.loop import Loop
from nono.policy.allowlist import Allowlist
from nono.policy.environment import CA_VARIABLES, child_environment
from nono.policy.routes import EndpointRule, Presentation
from nono.proxy.authority import Authority, bundle
from nono.proxy.pins import Pins
from nono.proxy.server import BoundRoute, Limits
from tests.fakes import TIMEOUT_S, Connection, Upstream, pattern
from tests.fakes import Authority as UpstreamAuthority
from tests.proxy.harness import KEY, TOKEN, Answer, Client, RunningProxy, bearer, route

PROXY_AUTH = "Proxy-Authorization: Basic " + base64.b64encode(b"nono:" + TOKEN).decode()
HOST = "api.test.example"


class Net:
    """Names that are all on loopback, and how often each was looked up."""

    def __init__(self) -> None:
        self.looked_up: list[str] = []

    def pins(self, loop: Loop) -> Pins:
        def lookup(host: str, port: int) -> list[str]:
            self.looked_up.append(host)
            return ["127.0.0.1"]

        return Pins(loop, lookup, lambda text, scope: True)


@pytest.fixture(scope="module")
def session_authority() -> Authority:
    return Authority()


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def api(authority: UpstreamAuthority) -> Iterator[Upstream]:
    """The route's upstream, by its real name."""
    with Upstream(context=authority.server_context(HOST)) as running:
        yield running


def api_route(api: Upstream, authority: UpstreamAuthority, base: str = "", **fields: object) -> BoundRoute:
    return route("api", f"https://{HOST}:{api.port}{base}", authority.ca, **fields)


@pytest.fixture
def intercepting(
    api: Upstream, authority: UpstreamAuthority, session_authority: Authority, net: Net
) -> Iterator[RunningProxy]:
    """A proxy with a route to `api`, whose TLS it ends."""
    with RunningProxy([api_route(api, authority)], intercept=session_authority, pins=net.pins) as running:
        yield running


class TlsClient(Client):
    """A client that has sent CONNECT and shaken hands."""

    def __init__(
        self, proxy: RunningProxy, authority: Authority, port: int, host: str = HOST, sni: str = "",
        context: ssl.SSLContext | None = None, rcvbuf: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(proxy, rcvbuf)
        self.request("CONNECT", f"{host}:{port}", PROXY_AUTH, host=f"{host}:{port}")
        self.connected = self.answer("HEAD")
        self.host = host
        assert self.connected.status == 200, self.connected.status_line
        assert self.buffer == b""
        context = context or trusting(authority)
        self.tls = self.sock = context.wrap_socket(
            self.sock, server_hostname=(sni or host).strip("[]"), suppress_ragged_eofs=False
        )

    def ask(self, target: str, *headers: str, method: str = "GET", body: bytes | None = None) -> Answer:
        self.request(method, target, *headers, body=body, host=self.host)
        return self.answer(method)


def trusting(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def test_the_key_is_injected_whatever_credential_came(
    intercepting: RunningProxy, session_authority: Authority, api: Upstream, net: Net
) -> None:
    with TlsClient(intercepting, session_authority, api.port) as client:
        assert client.tls.selected_alpn_protocol() == "http/1.1"
        basic = base64.b64encode(b"x-access-token:" + TOKEN).decode()
        for headers in (
            [bearer()], [], ["Authorization: Bearer something-else"], [f"Authorization: Basic {basic}"],
            [f"X-Api-Key: {TOKEN.decode()}"], ["X-Api-Key: other", "Authorization: token other"], [PROXY_AUTH],
        ):  # fmt: skip
            for _ in range(3):  # the memo answers for the third
                answer = client.ask("/repos/a/b?x=1", *headers)
                assert answer.status == 200
                seen = api.requests[-1]
                assert seen.all("authorization") == [f"Bearer {KEY.decode()}"]
                assert seen.all("host") == [f"{HOST}:{api.port}"]
                assert (seen.target, seen.all("x-api-key"), seen.all("proxy-authorization")) == (
                    "/repos/a/b?x=1",
                    [],
                    [],
                )
                assert TOKEN.decode() not in str(seen)
                assert "other" not in str(seen)
    assert {seen.connection for seen in api.requests} == {1}
    assert net.looked_up == [HOST]
    entries = intercepting.wait(lambda exchanges: len(exchanges) == 22)
    assert (entries[0].method, entries[0].host, entries[0].status) == ("CONNECT", f"{HOST}:{api.port}", 200)
    assert {(e.method, e.route, e.host, e.path, e.code) for e in entries[1:]} == {
        ("GET", "api", f"{HOST}:{api.port}", "/repos/a/b", "")
    }


def test_bodies_streams_and_pipelines_pass_as_on_a_route(
    intercepting: RunningProxy, session_authority: Authority, api: Upstream
) -> None:
    with TlsClient(intercepting, session_authority, api.port) as client:
        body = os.urandom(300_000)
        assert client.ask("/echo", method="POST", body=body).json()["length"] == 300_000
        assert len(client.ask("/bytes/3000000").body) == 3_000_000
        assert client.ask("/chunked/3").body.endswith(b"0\r\nX-Sum: 3\r\n\r\n")
        client.send(b"".join(b"GET /status/%d HTTP/1.1\r\nHost: %b\r\n\r\n" % (n, HOST.encode()) for n in (201, 404)))
        assert [client.answer().status, client.answer().status] == [201, 404]
        client.request("GET", "/gated/2", host=HOST)
        client.read_until(b"\r\n\r\n")
        for number in range(2):
            api.gate.release()
            assert b'{"n": %d}' % number in client.read_until(b"\n\n\r\n")
        client.read_until(b"0\r\n\r\n")
        assert client.ask("/close/100000").complete
        assert client.at_end()


def test_back_pressure_holds_inside(intercepting: RunningProxy, session_authority: Authority, api: Upstream) -> None:
    with TlsClient(intercepting, session_authority, api.port, rcvbuf=8192) as client:
        for size in (20_000_000, 1):
            client.request("GET", f"/bytes/{size}", host=HOST)
            client.read_until(b"\r\n\r\n")
            assert client._take_bytes(size) == b"".join(pattern(size))


def test_an_early_answer_is_read_whole_while_the_body_is_still_sent(
    intercepting: RunningProxy, session_authority: Authority, api: Upstream
) -> None:
    for headers, target, status in ((["Connection: close"], "/early", 413), ([], "/x/../y", 400)):
        with TlsClient(intercepting, session_authority, api.port) as client:
            client.request("POST", target, "Content-Length: 30000000", *headers, host=HOST)
            for _ in range(40):  # more than all buffers on the way hold, were nobody reading
                try:
                    client.send(bytes(65536))
                except OSError:
                    break
            answer = client.answer()
            assert (answer.status, answer.complete) == (status, True)
            assert client.at_end(), "close_notify, and no reset before it"


def test_websocket_inside(intercepting: RunningProxy, session_authority: Authority, api: Upstream) -> None:
    with TlsClient(intercepting, session_authority, api.port) as client:
        client.request(
            "GET", "/websocket", "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", host=HOST,
        )  # fmt: skip
        assert client.answer().status == 101
        for size in (1, 100_000):
            client.send(bytes(size))
            assert len(client._take_bytes(size)) == size
    assert api.requests[0].all("authorization") == [f"Bearer {KEY.decode()}"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_sessions_resume(
    intercepting: RunningProxy, session_authority: Authority, api: Upstream, version: ssl.TLSVersion
) -> None:
    context = trusting(session_authority)
    context.minimum_version = context.maximum_version = version
    with TlsClient(intercepting, session_authority, api.port, context=context) as client:
        assert client.ask("/echo").status == 200
        session = client.tls.session
    raw = Client(intercepting)
    raw.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
    raw.answer("HEAD")
    with context.wrap_socket(raw.sock, server_hostname=HOST, session=session) as tls:
        assert tls.session_reused


def test_a_client_that_closes_its_tls_is_done(
    intercepting: RunningProxy, session_authority: Authority, api: Upstream
) -> None:
    with TlsClient(intercepting, session_authority, api.port) as client:
        client.request("GET", "/gated/1", host=HOST)
        client.read_until(b"\r\n\r\n")
        with contextlib.suppress(OSError):
            client.tls.unwrap()
    entries = intercepting.wait(lambda exchanges: len(exchanges) == 2)
    assert entries[1].code == "client_left"
    api.gate.release()


def test_an_answer_that_breaks_off_does_not_look_complete(
    session_authority: Authority, authority: UpstreamAuthority, net: Net
) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
        connection.cut()

    with (
        Upstream(script, authority.server_context(HOST)) as api,
        RunningProxy([api_route(api, authority)], intercept=session_authority, pins=net.pins) as proxy,
        TlsClient(proxy, session_authority, api.port) as client,
    ):
        client.request("GET", "/", host=HOST)
        client.read_until(b"\r\n\r\n")
        if not client.buffer:
            client.read()
        assert client.buffer == b"half of it"
        with pytest.raises(OSError):  # no end as there is after a whole answer (close_notify)
            client.tls.recv(65536)


@pytest.mark.parametrize(
    ("request_lines", "status", "code"),
    [
        ("GET /x HTTP/1.1\r\nHost: other.example\r\n", 400, "bad_host"),
        ("GET /x HTTP/1.1\r\nHost: api.test.example:1\r\n", 400, "bad_host"),
        ("GET /x HTTP/1.1\r\n", 400, "bad_request"),
        ("GET http://api.test.example/x HTTP/1.1\r\nHost: api.test.example\r\n", 400, "bad_target"),
        ("GET https://api.test.example/x HTTP/1.1\r\nHost: api.test.example\r\n", 400, "bad_target"),
        ("CONNECT api.test.example:443 HTTP/1.1\r\nHost: api.test.example:443\r\n", 400, "bad_target"),
        ("OPTIONS * HTTP/1.1\r\nHost: api.test.example\r\n", 400, "bad_target"),
        ("TRACE / HTTP/1.1\r\nHost: api.test.example\r\n", 405, "method_not_allowed"),
        ("GET /a/../b HTTP/1.1\r\nHost: api.test.example\r\n", 400, "ambiguous_path"),
        (f"GET /{TOKEN.decode()} HTTP/1.1\r\nHost: api.test.example\r\n", 400, "token_misplaced"),
        ("POST / HTTP/1.1\r\nHost: api.test.example\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400,
         "bad_request"),
        ("PRI * HTTP/2.0\r\n", 505, "http_version"),
    ],
)  # fmt: skip
def test_what_is_refused_inside_is_answered_inside(
    intercepting: RunningProxy, session_authority: Authority, api: Upstream, request_lines: str, status: int, code: str
) -> None:
    with TlsClient(intercepting, session_authority, api.port) as client:
        client.send(request_lines.encode() + b"\r\n")
        client.send(b"GET /pipelined HTTP/1.1\r\nHost: api.test.example\r\n\r\n")
        answer = client.answer()
        assert (answer.status, answer.code, answer.header("connection")) == (status, code, "close")
        assert answer.complete
        assert client.at_end()
    assert api.requests == []
    entries = intercepting.wait(lambda exchanges: len(exchanges) == 2)
    assert (entries[1].host, entries[1].code) == (f"{HOST}:{api.port}", code)
    assert TOKEN.decode() not in str(entries)


def test_base_paths_choose_the_route(
    api: Upstream, authority: UpstreamAuthority, session_authority: Authority, net: Net
) -> None:
    routes = [
        route("one", f"https://{HOST}:{api.port}/v1", authority.ca, key=b"key-of-one"),
        route("two", f"https://{HOST}:{api.port}/v1/beta", authority.ca, key=b"key-of-two"),
    ]
    with RunningProxy(routes, intercept=session_authority, pins=net.pins) as proxy:
        with TlsClient(proxy, session_authority, api.port) as client:
            assert client.ask("/v1").status == 200
            assert client.ask("/v1/betas").status == 200
            assert client.ask("/v1/beta/x").status == 200
        for path in ("/v2/x", "/v1x", "/", "/V1/x", "//v1/x"):
            with TlsClient(proxy, session_authority, api.port) as client:
                answer = client.ask(path)
                assert (answer.status, answer.code) == (403, "endpoint_denied")
                assert "/v1/ (route 'one')" in answer.json()["error"]["message"]
    keys = [seen.all("authorization") for seen in api.requests]
    assert keys == [["Bearer key-of-one"], ["Bearer key-of-one"], ["Bearer key-of-two"]]


def test_endpoint_rules_of_the_route_hold_inside(
    api: Upstream, authority: UpstreamAuthority, session_authority: Authority, net: Net
) -> None:
    bound = api_route(api, authority, endpoint_rules=(EndpointRule("GET", "/repos/*/issues"),))
    with RunningProxy([bound], intercept=session_authority, pins=net.pins) as proxy:
        with TlsClient(proxy, session_authority, api.port) as client:
            assert client.ask("/repos/a/issues?q").status == 200
        for method, path in (("POST", "/repos/a/issues"), ("GET", "/repos/a/b/issues"), ("GET", "/repos/a%2fb/issues")):
            with TlsClient(proxy, session_authority, api.port) as client:
                assert client.ask(path, method=method).code == "endpoint_denied"
    assert len(api.requests) == 1


def test_a_token_in_the_path_is_replaced(
    api: Upstream, authority: UpstreamAuthority, session_authority: Authority, net: Net
) -> None:
    inject = Presentation("url_path", path_pattern="/bot{}/")
    with (
        RunningProxy([api_route(api, authority, inject=inject)], intercept=session_authority, pins=net.pins) as proxy,
        TlsClient(proxy, session_authority, api.port) as client,
    ):
        assert client.ask(f"/bot{TOKEN.decode()}/getMe").status == 200
        assert api.requests[0].target == f"/bot{KEY.decode()}/getMe"
        assert client.ask("/getMe").code == "token_missing"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_host_that_is_an_address(authority: UpstreamAuthority, session_authority: Authority, address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with Upstream(context=authority.server_context(), host=address) as api:
        bound = route("api", f"https://{host}:{api.port}", authority.ca)
        with (
            RunningProxy([bound], intercept=session_authority) as proxy,
            TlsClient(proxy, session_authority, api.port, host) as client,
        ):
            assert client.ask("/echo").status == 200
        assert api.requests[0].all("host") == [f"{host}:{api.port}"]


def test_missing_credential_is_503_inside(
    api: Upstream, authority: UpstreamAuthority, session_authority: Authority, net: Net
) -> None:
    with (
        RunningProxy([api_route(api, authority, key=None)], intercept=session_authority, pins=net.pins) as proxy,
        TlsClient(proxy, session_authority, api.port) as client,
    ):
        answer = client.ask("/")
        assert (answer.status, answer.code) == (503, "credential_missing")
    assert api.requests == []


def test_an_upstream_that_fails_is_502_inside_and_the_connection_goes_on(
    session_authority: Authority, authority: UpstreamAuthority, net: Net
) -> None:
    with Upstream(context=authority.server_context("other.example")) as api:
        proxy = RunningProxy([api_route(api, authority)], intercept=session_authority, pins=net.pins)
        with proxy, TlsClient(proxy, session_authority, api.port) as client:
            for _ in range(2):
                answer = client.ask("/")
                assert (answer.status, answer.code) == (502, "tls_certificate")


# Hosts with path rules and no route.


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_host_with_paths_is_judged_request_by_request(
    authority: UpstreamAuthority, session_authority: Authority, net: Net, scheme: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", authority.ca)  # how the supervisor trusts this host
    context = authority.server_context(HOST) if scheme == "https" else None
    with Upstream(context=context) as host:
        allowlist = Allowlist([f"{scheme}://{HOST}:{host.port}/public/**"])
        with RunningProxy([], allowlist, intercept=session_authority, pins=net.pins) as proxy:

            def ask(target: str, *headers: str) -> Answer:
                if scheme == "https":
                    with TlsClient(proxy, session_authority, host.port) as client:
                        return client.ask(target, *headers)
                with Client(proxy) as client:
                    authority_text = f"{HOST}:{host.port}"
                    client.request("GET", f"http://{authority_text}{target}", PROXY_AUTH, *headers, host=authority_text)
                    return client.answer()

            assert ask("/public/a/b?q=1", "Authorization: Basic mine").status == 200
            seen = host.requests[0]
            assert (seen.target, seen.all("authorization")) == ("/public/a/b?q=1", ["Basic mine"])
            assert ask("/private").code == "endpoint_denied"
            assert ask("/publicx").code == "endpoint_denied"
            assert ask("/public/../private").code == "ambiguous_path"
            assert ask("/public/%2e%2e/private").code == "ambiguous_path"
            assert ask("/public/x", "X-HTTP-Method-Override: DELETE").code == "endpoint_denied"
            assert ask("/public/x", bearer()).code == "token_misplaced"
        assert len(host.requests) == 1


def test_named_hosts_may_be_private_and_others_not(session_authority: Authority) -> None:
    """The scope reaches the dial: judged here by the real check, with names that resolve to loopback."""

    def pins(loop: Loop) -> Pins:
        return Pins(loop, lambda host, port: ["127.0.0.1"])

    with Upstream() as host:
        allowlist = Allowlist([f"named.example:{host.port}", f".suffix.example:{host.port}"])
        with RunningProxy([], allowlist, intercept=session_authority, pins=pins) as proxy:
            for name, expected in (("named.example", 200), ("a.suffix.example", 403)):
                with Client(proxy) as client:
                    text = f"{name}:{host.port}"
                    client.request("GET", f"http://{text}/", PROXY_AUTH, host=text)
                    assert client.answer().status == expected
                with Client(proxy) as client:
                    client.request("CONNECT", text, PROXY_AUTH, host=text)
                    assert client.answer("HEAD").status == expected


# What is no TLS handshake for this host.


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: api.test.example\r\n\r\n", b"\x80\x2e\x01", b"SSH-2.0-x\r\n"]
)
def test_plain_bytes_after_connect_are_never_interpreted(
    intercepting: RunningProxy, api: Upstream, data: bytes
) -> None:
    with Client(intercepting) as client:
        client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
        assert client.answer("HEAD").status == 200
        client.send(data)
        assert client.at_end()
    (entry,) = intercepting.wait(lambda exchanges: bool(exchanges))
    assert (entry.code, entry.verdict, entry.status) == ("not_tls", "refused", 200)
    assert api.requests == []


def test_bytes_that_come_with_connect_are_refused(intercepting: RunningProxy, api: Upstream) -> None:
    with Client(intercepting) as client:
        text = f"{HOST}:{api.port}"
        client.send(f"CONNECT {text} HTTP/1.1\r\nHost: {text}\r\n{PROXY_AUTH}\r\n\r\n".encode() + b"\x16\x03\x01")
        assert client.answer().status == 400
        assert client.at_end()


def test_another_name_in_tls_is_refused(
    intercepting: RunningProxy, session_authority: Authority, api: Upstream
) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        TlsClient(intercepting, session_authority, api.port, sni="other.example")
    (entry,) = intercepting.wait(lambda exchanges: bool(exchanges))
    assert (entry.code, entry.verdict) == ("sni_mismatch", "refused")
    with TlsClient(intercepting, session_authority, api.port, sni=HOST.upper()) as client:
        assert client.ask("/").status == 200


def test_a_client_that_does_not_trust_us_is_told_about_in_the_audit(
    intercepting: RunningProxy, session_authority: Authority, api: Upstream
) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context()
        context.minimum_version = context.maximum_version = version
        with pytest.raises(ssl.SSLCertVerificationError):
            TlsClient(intercepting, session_authority, api.port, context=context)
    entries = intercepting.wait(lambda exchanges: len(exchanges) == 2)
    for entry in entries:
        assert entry.code == "tls_distrust"
        assert "SSL_CERT_FILE" in entry.reason


def test_a_client_that_hangs_up_or_dawdles_in_the_handshake(
    api: Upstream, authority: UpstreamAuthority, session_authority: Authority, net: Net
) -> None:
    limits = Limits(tls_s=0.2)
    with RunningProxy(
        [api_route(api, authority)], limits=limits, intercept=session_authority, pins=net.pins
    ) as proxy:  # fmt: skip
        for data in (b"", b"\x16\x03\x01"):
            with Client(proxy) as client:
                client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
                client.answer("HEAD")
                client.send(data)
                assert client.at_end()
        assert [e.code for e in proxy.wait(lambda exchanges: len(exchanges) == 2)] == ["tls_timeout", "tls_timeout"]
        with Client(proxy) as client:
            client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
            client.answer("HEAD")
            client.send(b"\x16\x03\x01")
        assert proxy.wait(lambda exchanges: len(exchanges) == 3)[2].code in ("tls_client", "client_left")
        proxy.settle(lambda: proxy.proxy.connections == 0)


def test_a_machine_without_descriptors_left_is_no_bug_of_ours(
    api: Upstream, authority: UpstreamAuthority, net: Net
) -> None:
    class Poor:
        def context_for(self, host: str) -> ssl.SSLContext:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with RunningProxy([api_route(api, authority)], intercept=Poor(), pins=net.pins) as proxy:
        with Client(proxy) as client:
            client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
            client.answer("HEAD")
            client.send(b"\x16\x03\x01")
            assert client.at_end()
        (entry,) = proxy.wait(lambda exchanges: bool(exchanges))
        assert entry.code == "tls_config"


def test_a_handshake_that_comes_octet_by_octet(
    intercepting: RunningProxy, session_authority: Authority, api: Upstream
) -> None:
    with Client(intercepting) as client:
        client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
        client.answer("HEAD")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusting(session_authority).wrap_bio(incoming, outgoing, server_hostname=HOST)
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            for octet in outgoing.read():
                client.send(bytes((octet,)))
            incoming.write(client.sock.recv(1000))
        tls.write(b"GET /echo HTTP/1.1\r\nHost: api.test.example\r\n\r\n")
        client.send(outgoing.read())
        while True:
            try:
                assert tls.read(1000).startswith(b"HTTP/1.1 200")
                break
            except ssl.SSLWantReadError:
                incoming.write(client.sock.recv(1000))


def test_drain_and_close_with_handshakes_under_way(intercepting: RunningProxy, api: Upstream) -> None:
    with Client(intercepting) as client:
        client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
        client.answer("HEAD")
        assert intercepting.call(lambda: intercepting.proxy.active) == 1
        intercepting.call(intercepting.proxy.close)
        assert client.at_end()


# Without what interception takes.


def test_without_an_interceptor_connect_to_a_routes_host_is_403(
    api: Upstream, authority: UpstreamAuthority, net: Net
) -> None:
    for lacks_library in (False, True):
        bound = api_route(api, authority, base_url_vars=("API_BASE_URL",))
        allowlist = Allowlist([f"{HOST}:{api.port}"])
        with (
            RunningProxy([bound], allowlist, lacks_library=lacks_library, pins=net.pins) as proxy,
            Client(proxy) as client,
        ):
            client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
            answer = client.answer()
            assert (answer.status, answer.code) == (403, "host_denied")
            message = answer.json()["error"]["message"]
            assert "API_BASE_URL" in message
            assert ("pip install 'nono[intercept]'" in message) is lacks_library
    assert net.looked_up == []


def test_without_an_interceptor_connect_to_a_host_with_paths_is_403(net: Net) -> None:
    for lacks_library in (False, True):
        allowlist = Allowlist([f"https://{HOST}/public/**"])
        with RunningProxy([], allowlist, lacks_library=lacks_library, pins=net.pins) as proxy, Client(proxy) as client:
            client.request("CONNECT", f"{HOST}:443", PROXY_AUTH, host=f"{HOST}:443")
            answer = client.answer()
            assert (answer.status, answer.code) == (403, "host_denied")
            assert ("pip install 'nono[intercept]'" in answer.json()["error"]["message"]) is lacks_library
    assert net.looked_up == []


# The authority.


def test_leaves_are_minted_once_and_kept_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nono.proxy.authority._MAX_CONTEXTS", 3)
    authority = Authority()
    first = authority.context_for("a.example")
    for name in ("b.example", "c.example", "a.example", "d.example"):
        authority.context_for(name)
    assert authority.context_for("a.example") is first
    assert len(authority._contexts) == 3
    clock = [1e9]
    monkeypatch.setattr("nono.proxy.authority.time.monotonic", lambda: clock[0])
    assert authority.context_for("a.example") is not first


@pytest.mark.parametrize(
    "name", ["a.example", "127.0.0.1", "::1", "a" * 60 + "." + "b" * 60 + ".example", "a_b.example"]
)
def test_leaves_are_what_strict_clients_ask_for(name: str, tmp_path: Path) -> None:
    authority = Authority()
    server = authority.context_for(name)
    context = trusting(authority)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(theirs, ours, server_hostname=name)
    end = server.wrap_bio(ours, theirs, server_side=True)
    for side in (client, end, client, end):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert client.version() == "TLSv1.3"
    assert client.getpeercert()


def test_nothing_of_the_authority_is_left_open_or_shown() -> None:
    before = len(os.listdir("/dev/fd"))
    authority = Authority()
    authority.context_for("a.example")
    assert len(os.listdir("/dev/fd")) == before
    assert repr(authority) == "<Authority>"
    assert b"PRIVATE" not in authority.certificate_pem


def test_the_bundle_has_the_users_roots_and_no_keys(authority: UpstreamAuthority, tmp_path: Path) -> None:
    with open(authority.ca) as file:
        own = file.read()
    both = tmp_path / "both.pem"
    both.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n" + own)
    directory = tmp_path / "certs"
    directory.mkdir()
    (directory / "0.pem").write_text(own)
    session = Authority().certificate_pem
    environment = {"REQUESTS_CA_BUNDLE": str(both), "CURL_CA_BUNDLE": "/nonexistent", "PIP_CERT": str(directory)}
    text = bundle(session, environment)
    assert b"PRIVATE" not in text
    assert text.count(own.strip().encode()) == 1
    assert text.endswith(session)
    system = len(ssl.create_default_context().get_ca_certs())
    assert len(ssl.create_default_context(cadata=text.decode()).get_ca_certs()) >= system + 2
    only = bundle(session, {"SSL_CERT_FILE": str(both)})
    assert only.count(b"BEGIN CERTIFICATE") == 2


# Real clients.


@pytest.fixture
def child_variables(intercepting: RunningProxy, session_authority: Authority, tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "bundle.pem"
    path.write_bytes(bundle(session_authority.certificate_pem, {}))
    made = child_environment(
        {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, network="proxy", proxy_port=intercepting.port,
        token=TOKEN.decode(), ca_bundle=str(path),
    )  # fmt: skip
    assert {made.variables[name] for name in CA_VARIABLES} == {str(path)}
    return made.variables


def run(variables: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=variables, capture_output=True, timeout=TIMEOUT_S, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("options", [[], ["--proxy-anyauth"], ["--http2"], ["-H", "Authorization: Bearer mine"]])
def test_curl(child_variables: dict[str, str], api: Upstream, options: list[str]) -> None:
    url = f"https://{HOST}:{api.port}/echo"
    shown = run(child_variables, "curl", "-sS", "--fail-with-body", *options, url, url, "-d", "x=1")
    assert shown.count('"method": "POST"') == 2
    assert [seen.all("authorization") for seen in api.requests] == [[f"Bearer {KEY.decode()}"]] * 2


@pytest.mark.parametrize(
    "code",
    [
        "import urllib.request as u; print(u.urlopen(URL).read().decode())",
        "import requests; print(requests.get(URL).text)",
        "import httpx; print(httpx.get(URL).text)",
    ],
)
def test_python_clients(child_variables: dict[str, str], api: Upstream, code: str) -> None:
    library = code.split()[1].rstrip(";")
    if library != "urllib.request":
        pytest.importorskip(library, reason=f"{library} is not installed")
    shown = run(child_variables, sys.executable, "-c", f"URL = 'https://{HOST}:{api.port}/echo'\n{code}")
    assert '"method": "GET"' in shown
    assert api.requests[0].all("authorization") == [f"Bearer {KEY.decode()}"]


def test_http_client(intercepting: RunningProxy, session_authority: Authority, api: Upstream) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", intercepting.port, context=trusting(session_authority))
    connection.set_tunnel(HOST, api.port, {"Proxy-Authorization": PROXY_AUTH.partition(": ")[2]})
    for _ in range(3):
        connection.request("GET", "/echo")
        assert connection.getresponse().read()
    connection.close()
    assert len(api.requests) == 3


def test_no_name_in_tls_is_accepted(intercepting: RunningProxy, session_authority: Authority, api: Upstream) -> None:
    context = trusting(session_authority)
    context.check_hostname = False
    with Client(intercepting) as client:
        client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
        client.answer("HEAD")
        with context.wrap_socket(client.sock) as tls:
            tls.sendall(b"GET /echo HTTP/1.1\r\nHost: api.test.example\r\nConnection: close\r\n\r\n")
            with tls.makefile("rb") as file:
                assert file.readline().startswith(b"HTTP/1.1 200")
            assert isinstance(tls, socket.socket)
