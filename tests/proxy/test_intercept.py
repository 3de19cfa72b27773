"""Interception: real TLS on both sides, the same rooms inside."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from nono.loop import Loop
from nono.policy.allowlist import Allowlist
from nono.policy.routes import EndpointRule, Presentation
from nono.proxy.authority import Authority
from nono.proxy.pins import Pins
from tests.fakes import Authority as UpstreamAuthority
from tests.fakes import Connection, Upstream, pattern
from tests.proxy.harness import KEY, TOKEN, Answer, Client, RunningProxy, bearer, route
from tests.proxy.interception import HOST, PROXY_AUTH, Net, TlsClient, api_route


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
