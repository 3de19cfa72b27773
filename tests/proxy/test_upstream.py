"""Connections to upstreams: none is forgotten, none is waited for without end."""

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
from tests.fakes import TIMEOUT_S, Authority, Upstream
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
