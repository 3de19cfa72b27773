"""Connections to upstreams: which are made, used again and resumed; none is forgotten, or waited for without end."""

from __future__ import annotations

import base64
import socket
import ssl
import threading

import pytest

from nono.loop import Loop
from nono.policy.allowlist import Allowlist
from nono.proxy.pins import THREADS, Pins
from nono.proxy.route import Origin
from nono.proxy.server import Limits
from nono.proxy.stream import Stream
from tests.fakes import TIMEOUT_S, Authority, Connection, Upstream
from tests.proxy.harness import TOKEN, Client, RunningProxy, bearer, route

PROXY_AUTH = "Proxy-Authorization: Basic " + base64.b64encode(b"nono:" + TOKEN).decode()


def test_a_connection_in_use_keeps_the_pool_of_its_host() -> None:
    with Upstream() as upstream:
        here = f"127.0.0.1:{upstream.port}"
        with RunningProxy([], Allowlist([here]), pins=lambda loop: Pins(loop, check=lambda *_: True)) as proxy:
            with Client(proxy) as client:
                for _ in range(2):
                    client.request("GET", f"http://{here}/gated/1", PROXY_AUTH, host=here)
                    client.read_until(b"\r\n\r\n")
                    proxy.call(proxy.proxy._check)
                    upstream.gate.release()
                    client.read_until(b"0\r\n\r\n")
            assert upstream.connections == 1
        upstream.wait(lambda: upstream.open == 0)


def test_a_tunnel_does_not_keep_the_pool_of_its_host() -> None:
    with Upstream() as upstream:
        here = f"127.0.0.1:{upstream.port}"
        with RunningProxy([], Allowlist([here]), pins=lambda loop: Pins(loop, check=lambda *_: True)) as proxy:
            with Client(proxy) as client:
                client.request("CONNECT", here, PROXY_AUTH, host=here)
                assert client.answer("HEAD").status == 200
            proxy.settle(lambda: proxy.proxy.connections == 0)
            proxy.call(proxy.proxy._check)
            assert not proxy.proxy._pools


def test_clients_that_leave_while_names_are_slow_leave_nothing_behind() -> None:
    gate = threading.Event()

    def lookup(host: str, port: int) -> list[str]:
        assert gate.wait(TIMEOUT_S)
        return []

    try:
        with RunningProxy([], Allowlist([".example"]), pins=lambda loop: Pins(loop, lookup)) as proxy:
            for number in range(50):
                with Client(proxy) as client:
                    client.request("CONNECT", f"{number}.example:443", PROXY_AUTH, host=f"{number}.example:443")
                    proxy.settle(lambda n=number: len(proxy.proxy._pools) > n)  # type: ignore[misc]
            proxy.settle(lambda: not any(proxy.proxy._pins._queues.values()))
            # Nobody connects any more, and the timer goes on until it has looked at every pool.
            proxy.settle(lambda: not proxy.proxy._pools and proxy.proxy._timer is None)
            assert len(proxy.proxy._pins._waiting) <= THREADS
            gate.set()
            proxy.settle(lambda: not proxy.proxy._pins._waiting)
    finally:
        gate.set()


def test_a_dial_that_times_out_before_its_look_up_begins_takes_it_back() -> None:
    gate = threading.Event()

    def lookup(host: str, port: int) -> list[str]:
        assert gate.wait(TIMEOUT_S)
        return []

    try:
        limits = Limits(connect_s=0.2)
        with RunningProxy([], Allowlist([".example"]), limits, pins=lambda loop: Pins(loop, lookup)) as proxy:
            clients = [Client(proxy) for _ in range(2 * THREADS)]
            for number, client in enumerate(clients):
                client.request("CONNECT", f"{number}.example:443", PROXY_AUTH, host=f"{number}.example:443")
            for client in clients:
                assert client.answer().code == "dns_timeout"
                client.sock.close()
            assert not any(proxy.proxy._pins._queues.values())
            assert len(proxy.proxy._pins._waiting) <= THREADS
            gate.set()
    finally:
        gate.set()


def test_the_connection_of_a_route_is_made_also_when_its_client_has_left() -> None:
    gate = threading.Event()

    def lookup(host: str, port: int) -> list[str]:
        assert gate.wait(TIMEOUT_S)
        return ["127.0.0.1"]

    def pins(loop: Loop) -> Pins:
        return Pins(loop, lookup, lambda text, scope: True)

    with Upstream() as upstream, RunningProxy([], pins=pins) as proxy:
        pool = proxy.call(lambda: proxy.proxy._pool(Origin(False, "api.example", upstream.port), None))
        proxy.call(lambda: pool.dial(lambda made: None).cancel())
        gate.set()
        proxy.settle(lambda: pool.idle == 1)


def test_certificates_that_never_load_are_an_error_in_time(upstream: Upstream, authority: Authority) -> None:
    limits = Limits(connect_s=0.05)
    with RunningProxy([route("api", upstream.url, authority.ca)], limits=limits) as proxy, Client(proxy) as client:
        proxy.proxy._pins.resolve = lambda host, port, scope, callback: callback([])  # type: ignore[method-assign]
        proxy.proxy._contexts.get = lambda origin, callback: None  # type: ignore[method-assign]
        answer = client.get("/api/x")
        assert (answer.status, answer.code) == (504, "tls_config")


class Renegotiating(socket.socket):
    """A writable socket whose TLS would have to read before it writes."""

    def send(self, data: object, flags: int = 0) -> int:
        raise ssl.SSLWantReadError


def test_a_write_that_would_have_to_read_first_fails_instead_of_spinning() -> None:
    loop = Loop()
    ours, theirs = socket.socketpair()
    stream = Stream(loop, Renegotiating(fileno=ours.detach()), lambda events: None)
    stream.write(b"x")
    with pytest.raises(ConnectionAbortedError):
        stream.flush()
    stream.close()
    theirs.close()
    loop.close()


def test_a_connection_that_is_turned_away_is_told_to_the_audit() -> None:
    with Upstream() as upstream:
        with RunningProxy([route("api", upstream.url)], limits=Limits(max_connections=1)) as proxy:
            with Client(proxy) as one:
                one.request("GET", "/api/x", bearer())
                assert one.answer().status == 200
                with Client(proxy) as two:
                    assert two.answer().code == "too_many_connections"
    assert [(e.status, e.code) for e in proxy.exchanges] == [(200, ""), (503, "too_many_connections")]


def one_answer_each(connection: Connection) -> None:
    """Closes after each answer without saying so."""
    if connection.read_request() is not None:
        connection.answer(200, b"ok")
        connection.finish()


def test_stale_pooled_connection_is_not_used(server_context: ssl.SSLContext, authority: Authority) -> None:
    with Upstream(one_answer_each, server_context) as upstream:
        with RunningProxy([route("api", upstream.url, authority.ca)]) as proxy, Client(proxy) as client:
            for _ in range(20):
                assert client.get("/api/x", method="POST", body=b"abc").body == b"ok"
        assert [request.body for request in upstream.requests] == [b"abc"] * 20


def test_tls_session_is_resumed(server_context: ssl.SSLContext, authority: Authority) -> None:
    with Upstream(one_answer_each, server_context) as upstream:
        with RunningProxy([route("api", upstream.url, authority.ca)]) as proxy, Client(proxy) as client:
            for _ in range(4):
                assert client.get("/api/x").status == 200
        assert upstream.resumed >= 2


def test_warm_connection_serves_the_first_request(upstream: Upstream, authority: Authority) -> None:
    with RunningProxy([route("api", upstream.url, authority.ca)], warm=True) as proxy:
        upstream.wait(lambda: upstream.connections == 1)
        proxy.settle(lambda: all(pool.idle == 1 for pool in proxy.proxy._pools.values()))
        with Client(proxy) as client:
            assert client.get("/api/echo").status == 200
    assert upstream.connections == 1


@pytest.mark.parametrize("reachable", [True, False])
def test_warming_says_when_it_has_ended(upstream: Upstream, authority: Authority, reachable: bool) -> None:
    url = upstream.url if reachable else "https://localhost:1"
    ended: list[int] = []
    with RunningProxy([route("api", url, authority.ca), route("same", url, authority.ca)]) as proxy:
        proxy.call(lambda: proxy.proxy.warm(lambda: ended.append(sum(p.idle for p in proxy.proxy._pools.values()))))
        proxy.settle(lambda: ended == [int(reachable)])
        proxy.call(lambda: proxy.proxy.warm(lambda: ended.append(-1)))
        proxy.settle(lambda: ended[1:] == [-1])


def test_a_request_takes_over_the_connection_being_warmed(upstream: Upstream, authority: Authority) -> None:
    """One handshake, not two, for a request that comes while its upstream is being connected to."""
    with RunningProxy([route("api", upstream.url, authority.ca)]) as proxy, Client(proxy) as client:

        def warm_and_answer() -> None:
            proxy.proxy.warm()
            client.request("GET", "/api/echo", bearer())  # before the loop turns, so before the dial ends

        proxy.call(warm_and_answer)
        assert client.answer().status == 200
    assert upstream.connections == 1


def test_client_certificate_is_presented(authority: Authority) -> None:
    context = authority.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.ca)
    certificate, key = authority.issue("agent", client=True)
    with Upstream(context=context) as upstream:
        bound = route("api", upstream.url, authority.ca, tls_client_cert=certificate, tls_client_key=key)
        with RunningProxy([bound]) as proxy, Client(proxy) as client:
            assert client.get("/api/echo").status == 200
