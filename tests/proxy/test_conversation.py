"""Each exchange is told to the audit exactly once, however it ends; and each ends."""

from __future__ import annotations

import socket
import threading

import pytest

from nono.policy.allowlist import Allowlist
from nono.proxy.pins import Pins
from nono.proxy.server import Limits
from tests.fakes import Connection, Upstream
from tests.proxy.harness import TOKEN, Client, RunningProxy, route

BEARER = f"Authorization: Bearer {TOKEN.decode()}"


def head(*headers: str, method: str = "POST", target: str = "/api/x") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a", BEARER, *headers, "", ""]).encode()


def silent(connection: Connection) -> None:
    """Take a head, say nothing."""
    asked = connection.read_head()
    if asked is not None:
        connection.note(asked)
        connection.wait_closed()


def told(proxy: RunningProxy) -> list[tuple[str, int, str]]:
    return [(e.method, e.status, e.code) for e in proxy.exchanges]


# -- the run ends


@pytest.mark.parametrize("body", ["whole", "part"])
def test_an_exchange_under_way_when_the_run_ends_is_reported_once(body: str) -> None:
    with Upstream(silent) as upstream:
        proxy = RunningProxy([route("api", upstream.url)])
        with Client(proxy) as client:
            client.send(head("Content-Length: 2") + (b"hi" if body == "whole" else b"h"))
            upstream.wait(lambda: len(upstream.requests) == 1)
            proxy.close()
            proxy.proxy.close()
    assert told(proxy) == [("POST", 0, "cut_off")]
    assert proxy.exchanges[0].reason == "the run ended"
    assert proxy.exchanges[0].path == "/x"


def test_a_stream_under_way_when_the_drain_ends_is_reported_once() -> None:
    drained = threading.Event()
    with Upstream() as plain, RunningProxy([route("api", plain.url)]) as proxy, Client(proxy) as client:
        client.send(head(method="GET", target="/api/gated/2"))
        plain.gate.release()
        client.read_until(b'{"n": 0}')
        proxy.call(lambda: proxy.proxy.drain(0.01, drained.set))
        assert drained.wait(20)
        plain.gate.release()
    assert told(proxy) == [("GET", 200, "cut_off")]


def test_a_tunnel_that_stands_when_the_run_ends_is_reported_once_with_its_bytes() -> None:
    def echo(connection: Connection) -> None:
        while data := connection.sock.recv(100):
            connection.send(data)

    with Upstream(echo) as upstream:
        here = f"127.0.0.1:{upstream.port}"
        proxy = RunningProxy([], Allowlist([here]), pins=lambda loop: Pins(loop, check=lambda *_: True))
        with Client(proxy) as client:
            client.send(f"CONNECT {here} HTTP/1.1\r\nHost: {here}\r\nProxy-{BEARER}\r\n\r\n".encode())
            client.read_until(b"\r\n\r\n")
            client.send(b"hello")
            client.read_until(b"hello")
            proxy.close()
    assert [(e.method, e.code, e.bytes_up, e.bytes_down) for e in proxy.exchanges] == [("CONNECT", "cut_off", 5, 5)]


def test_idle_and_answered_connections_are_not_reported_again_when_the_run_ends() -> None:
    with Upstream() as upstream, RunningProxy([route("api", upstream.url)]) as proxy:
        with Client(proxy) as client, Client(proxy) as partial, Client(proxy) as refused:
            assert client.get("/api/x").status == 200
            partial.send(b"GET /api/")
            refused.send(b"nonsense\r\n\r\n")
            assert refused.answer().status == 400
            proxy.call(proxy.proxy.close)
    assert [(e.status, e.code) for e in proxy.exchanges] == [(200, ""), (400, "bad_request")]


# -- an answer before the request's end


def test_an_early_answer_is_reported_once_though_the_body_never_comes() -> None:
    def early(connection: Connection) -> None:
        asked = connection.read_head()
        assert asked is not None
        connection.answer(200, b"no need")
        connection.wait_closed()

    with Upstream(early) as upstream, RunningProxy([route("api", upstream.url)], limits=Limits(linger_s=0.05)) as proxy:
        with Client(proxy) as client:
            client.send(head("Content-Length: 50"))
            assert client.answer().status == 200
            while client.read():  # until the proxy has waited long enough for the body
                pass
        proxy.settle(lambda: proxy.proxy.connections == 0)
    assert told(proxy) == [("POST", 200, "")]


def test_a_client_that_resets_while_it_is_refused_is_reported_once() -> None:
    with Upstream(silent) as upstream, RunningProxy([route("api", upstream.url)]) as proxy:
        for _ in range(20):
            with Client(proxy) as client:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.send(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
        proxy.settle(lambda: proxy.proxy.connections == 0)
    assert len(proxy.exchanges) <= 20


# -- the upstream breaks off


def test_an_answer_cut_by_a_reset_that_a_write_was_told_of_does_not_look_complete() -> None:
    begun, gone = threading.Event(), threading.Event()

    def cut(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nfirst part")
        assert begun.wait(20)
        connection.sock.recv(1)
        connection.reset()
        gone.set()

    with Upstream(cut) as upstream, RunningProxy([route("api", upstream.url)]) as proxy, Client(proxy) as client:
        client.send(head("Content-Length: 40"))
        client.read_until(b"first part")

        def write_before_reading() -> None:
            conversation = next(iter(proxy.proxy._conversations))
            client.send(b"x" * 10)
            conversation._client_readable()
            begun.set()
            assert gone.wait(20)
            client.send(b"x" * 10)  # in one turn of the loop: the write is told of the reset, the read sees an end
            conversation._client_readable()

        proxy.call(write_before_reading)
        with pytest.raises(ConnectionResetError):
            client.read()
    assert told(proxy) == [("POST", 200, "upstream_broke")]


# -- locked scratch is every route's


def answered_unread(connection: Connection) -> None:
    """Answer each time the gate opens, and read nothing but the first head."""
    asked = connection.read_head()
    if asked is None:
        return
    connection.note(asked)
    while connection.upstream.gate.acquire(timeout=20):
        connection.answer(200, b"ok")


def test_a_connection_whose_upstream_has_not_read_the_request_is_not_used_again() -> None:
    body = b"x" * 300_000
    with Upstream(answered_unread, rcvbuf=4096) as upstream, RunningProxy([route("api", upstream.url)]) as proxy:
        with Client(proxy) as client:
            client.send(head(f"Content-Length: {len(body)}") + body)
            proxy.settle(lambda: any(c.client_state == "DONE" for c in proxy.proxy._conversations))
            upstream.gate.release()
            assert client.answer().status == 200
            client.send(head(method="GET"))
            upstream.wait(lambda: upstream.connections == 2)
            upstream.gate.release(8)  # the first connection's script may take some before it sees the end
            assert client.answer().status == 200


def stuck(proxy: RunningProxy, upstream: Upstream, client: Client) -> None:
    """Leave a head in the only slot: the upstream does not read, and the kernel's buffers are small."""
    client.send(head(method="GET", target="/evil/x"))
    upstream.gate.release()
    assert client.answer().status == 200

    def shrink() -> None:
        for pool in proxy.proxy._pools.values():
            for idle in pool._idle:
                idle.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    proxy.call(shrink)
    client.send(head("X-Pad: " + "p" * 15000, method="GET", target="/evil/y"))
    proxy.settle(lambda: not proxy.proxy._scratch._free)


def test_an_upstream_that_takes_no_head_loses_the_slot_to_the_other_routes() -> None:
    limits = Limits(scratch_slots=1, slot_s=0.05, slot_wait_s=0)
    with Upstream(answered_unread, rcvbuf=4096) as evil, Upstream() as good:
        routes = [route("evil", evil.url), route("api", good.url)]
        with RunningProxy(routes, limits=limits) as proxy, Client(proxy) as client, Client(proxy) as other:
            stuck(proxy, evil, client)
            assert other.get("/api/x").status == 200
            assert client.answer().code == "upstream_stalled"
        evil.gate.release(4)
    assert sorted((e.route, e.code) for e in proxy.exchanges) == [
        ("api", ""),
        ("evil", ""),
        ("evil", "upstream_stalled"),
    ]


def test_a_head_that_waits_too_long_for_a_slot_is_answered() -> None:
    limits = Limits(scratch_slots=1, slot_s=0, slot_wait_s=0.05)
    with Upstream(answered_unread, rcvbuf=4096) as evil, Upstream() as good:
        routes = [route("evil", evil.url), route("api", good.url)]
        with RunningProxy(routes, limits=limits) as proxy, Client(proxy) as other:
            with Client(proxy) as client:
                stuck(proxy, evil, client)
                answer = other.get("/api/x")
                assert (answer.status, answer.code) == (503, "no_slot")
            proxy.settle(lambda: proxy.proxy.connections == 1)  # the one that held the slot has left
            assert other.get("/api/x").status == 200
        evil.gate.release(4)


# -- clients that leave, or do not go on


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_pipelined_more_than_is_held_is_seen_to_leave(how: str) -> None:
    with (
        Upstream(silent) as upstream,
        RunningProxy([route("api", upstream.url)], limits=Limits(linger_s=0.05)) as proxy,
    ):
        with Client(proxy) as client:
            client.send(head(method="GET") + b"x" * 70_000)
            upstream.wait(lambda: len(upstream.requests) == 1)
            proxy.settle(lambda: all(c._client.paused for c in proxy.proxy._conversations))
            if how == "reset":
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        upstream.wait(lambda: upstream.open == 0)
    assert told(proxy) == [("GET", 0, "client_left")]


def test_a_body_that_stops_arriving_is_408_and_the_upstream_is_let_go() -> None:
    limits = Limits(client_body_s=0.05)
    with Upstream(silent) as upstream, RunningProxy([route("api", upstream.url)], limits=limits) as proxy:
        with Client(proxy) as client:
            client.send(head("Content-Length: 50") + b"x")
            answer = client.answer()
            assert (answer.status, answer.code) == (408, "slow_body")
            assert not client.read()
            upstream.wait(lambda: upstream.open == 0)
    assert told(proxy) == [("POST", 408, "slow_body")]


def test_a_body_may_pause_while_its_answer_arrives() -> None:
    def duplex(connection: Connection) -> None:
        asked = connection.read_head()
        assert asked is not None
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        connection.read_body(asked[2])
        connection.send(b"cd")

    with Upstream(duplex) as upstream, RunningProxy([route("api", upstream.url)]) as proxy, Client(proxy) as client:
        client.send(head("Content-Length: 2") + b"x")
        client.read_until(b"ab")
        proxy.call(lambda: [c.check(proxy.loop.now + 3600) for c in proxy.proxy._conversations])
        client.send(b"y")
        client.read_until(b"cd")
    assert told(proxy) == [("POST", 200, "")]
