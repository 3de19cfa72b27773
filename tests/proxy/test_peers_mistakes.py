"""What the Rust proxy of the same purpose gets wrong (facts/proxy-speed.md), done right: one test a line."""

from __future__ import annotations

import base64
import hashlib

import pytest

from nono.errors import Refusal
from nono.policy.allowlist import Allowlist
from nono.policy.routes import EndpointRule
from nono.proxy.server import Limits
from tests.fakes import Authority, Upstream
from tests.proxy.harness import TOKEN, Client, RunningProxy, any_host, bearer, route


def test_chunked_request_bodies_arrive(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client:
        client.request("POST", "/api/echo", bearer(), "Transfer-Encoding: chunked")
        client.send(b"5\r\nhello\r\n0\r\n\r\n")
        assert client.answer().status == 200
    assert upstream.requests[0].body == b"5\r\nhello\r\n0\r\n\r\n"


def test_more_than_16_mib_is_no_413(proxy: RunningProxy) -> None:
    body = bytes(17 << 20)
    with Client(proxy) as client:
        answer = client.get("/api/echo", method="POST", body=body)
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()


def test_expect_continue_does_not_stall(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        client.request("POST", "/api/continue", bearer(), "Expect: 100-continue", "Content-Length: 2")
        assert client.answer().status == 100
        client.send(b"ok")
        assert client.answer().status == 200


def test_a_connection_carries_more_than_one_request(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        assert [client.get("/api/echo").status for _ in range(3)] == [200, 200, 200]


def test_websocket_passes_on_routes(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        client.request(
            "GET", "/api/websocket", bearer(), "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"
        )
        assert client.answer().status == 101
        client.send(b"frame")
        assert client._take_bytes(5) == b"frame"


def test_a_client_that_sends_nothing_does_not_stay_for_ever(upstream: Upstream, authority: Authority) -> None:
    limits = Limits(client_head_s=0.1)
    with RunningProxy([route("api", upstream.url, authority.ca)], limits=limits) as proxy, Client(proxy) as client:
        assert client.at_end()


def test_an_unknown_route_is_answered(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        assert client.get("/unknown/x").status == 404


def test_too_many_connections_are_answered(upstream: Upstream, authority: Authority) -> None:
    limits = Limits(max_connections=1)
    with RunningProxy([route("api", upstream.url, authority.ca)], limits=limits) as proxy:
        with Client(proxy) as one, Client(proxy) as two:
            assert one.get("/api/echo").status == 200
            assert two.answer().status == 503


def test_headers_that_are_not_utf_8_pass_both_ways(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client:
        answer = client.get("/api/echo", "X-Latin: caf\xe9")
    assert upstream.requests[0].all("x-latin") == ["caf\xe9"]
    assert ["X-Latin", "caf\xe9"] in answer.json()["headers"]


def test_a_star_in_an_endpoint_rule_does_not_cross_a_slash(upstream: Upstream, authority: Authority) -> None:
    rules = (EndpointRule("GET", "/repos/*/issues"),)
    with (
        RunningProxy([route("api", upstream.url, authority.ca, endpoint_rules=rules)]) as proxy,
        Client(proxy) as client,
    ):
        assert client.get("/api/repos/a/issues").status == 200
        assert client.get("/api/repos/a/b/issues").status == 403


def test_a_path_does_not_leave_the_routes_base(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client:
        assert client.get("/api/../../etc").status == 400
    assert upstream.requests == []


def test_connect_needs_the_right_token() -> None:
    with RunningProxy([], any_host) as proxy, Client(proxy) as client:
        wrong = base64.b64encode(b"nono:" + b"0" * 64).decode()
        client.request("CONNECT", "a.example:443", f"Proxy-Authorization: Basic {wrong}", host="a.example:443")
        assert client.answer().status == 407


def test_with_credentials_only_no_other_host_is_reachable(proxy: RunningProxy) -> None:
    right = base64.b64encode(b"nono:" + TOKEN).decode()
    with Client(proxy) as client:
        client.request("CONNECT", "example.org:443", f"Proxy-Authorization: Basic {right}", host="example.org:443")
        assert client.answer().status == 403


def test_answer_headers_that_are_not_ascii_are_not_blanked(authority: Authority) -> None:
    with Upstream(lambda c: (c.read_request(), c.answer(200, b"ok", "X-Name: caf\xe9"), c.finish())[-1]) as upstream:
        with RunningProxy([route("local", upstream.url)]) as proxy, Client(proxy) as client:
            assert client.get("/local/x").header("x-name") == "caf\xe9"


def test_the_audit_learns_of_every_request(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        for _ in range(4200):
            client.request("GET", "/api/echo", bearer())
            client.answer()
    assert len(proxy.wait(lambda exchanges: len(exchanges) >= 4200)) == 4200


@pytest.mark.parametrize("host", ["evilfoo.com", "foo.com.evil.org"])
def test_a_suffix_does_not_match_half_a_name(host: str) -> None:
    with pytest.raises(Refusal):
        Allowlist(["*.foo.com"])(host, 443, tunnel=True)
