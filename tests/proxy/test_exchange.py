"""The HTTP contract of DESIGN section 4, row by row, on real sockets and TLS."""

from __future__ import annotations

import hashlib
import ssl
import threading

import pytest

from nono.proxy.server import Limits
from tests.fakes import Authority, Connection, Upstream, pattern
from tests.proxy.harness import KEY, TOKEN, Client, RunningProxy, bearer, route


def test_the_key_replaces_the_token(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client:
        answer = client.get("/api/chat?x=1", "X-A: b", body=b'{"a": 1}', method="POST")
    assert answer.status == 200
    seen = upstream.requests[0]
    assert seen.target == "/v1/chat?x=1"
    assert seen.all("authorization") == [f"Bearer {KEY.decode()}"]
    assert seen.all("host") == [f"localhost:{upstream.port}"]
    assert seen.body == b'{"a": 1}'
    assert TOKEN.decode() not in str(seen)


def test_order_and_case_of_headers_are_kept(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client:
        client.request(
            "GET", "/api/echo", "X-Zed:  1 ", "accept: */*", bearer(), "X-aBc: ü", "TE: trailers", "Keep-Alive: 1",
            "Proxy-Connection: x", "Connection: keep-alive, X-Gone", "X-Gone: 1", "x-zed: 2",
        )  # fmt: skip
        client.answer()
    names = [name for name, _ in upstream.requests[0].headers]
    assert names == ["Host", "X-Zed", "accept", "Authorization", "X-aBc", "x-zed"]
    assert upstream.requests[0].all("x-abc") == ["ü"]


def test_many_requests_on_one_connection(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client:
        for index in range(50):
            assert client.get(f"/api/echo?{index}").json()["target"] == f"/v1/echo?{index}"
    assert upstream.connections == 1


def test_pipelined_requests_are_answered_in_order(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        for index in range(20):
            client.request("POST", f"/api/echo?{index}", bearer(), body=b"x" * index)
        for index in range(20):
            answer = client.answer().json()
            assert (answer["target"], answer["length"]) == (f"/v1/echo?{index}", index)


def test_pipelined_requests_beyond_what_is_held(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        request = f"POST /api/echo HTTP/1.1\r\nHost: a\r\n{bearer()}\r\nContent-Length: 50000\r\n\r\n".encode()
        for _ in range(8):
            client.send(request + b"y" * 50000)
        for _ in range(8):
            assert client.answer().json()["length"] == 50000


def test_chunked_both_ways_with_extensions_and_trailers(proxy: RunningProxy, upstream: Upstream) -> None:
    body = b"5;a=b\r\nhello\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    with Client(proxy) as client:
        for _ in range(2):
            client.request("POST", "/api/chunked/3", bearer(), "Transfer-Encoding: chunked", "Trailer: X-T")
            client.send(body)
            answer = client.answer()
            assert answer.complete
            assert answer.body == b"5;n=0\r\nhello\r\n5;n=1\r\nhello\r\n5;n=2\r\nhello\r\n0\r\nX-Sum: 3\r\n\r\n"
    assert [request.body for request in upstream.requests] == [body, body]


def test_chunked_request_byte_by_byte(proxy: RunningProxy, upstream: Upstream) -> None:
    body = b"5\r\nhello\r\n0a\r\n0123456789\r\n0\r\n\r\n"
    with Client(proxy) as client:
        client.request("POST", "/api/echo", bearer(), "Transfer-Encoding: chunked")
        for octet in body:
            client.send(bytes((octet,)))
        assert client.answer().status == 200
    assert upstream.requests[0].body == body


def test_events_leave_when_they_arrive(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client:
        client.request("GET", "/api/gated/3", bearer())
        client.read_until(b"\r\n\r\n")
        for index in range(3):
            upstream.gate.release()  # the next event is only written once the one before was read here
            assert client.read_until(b"\n\n\r\n").endswith(b'data: {"n": %d}\n\n\r\n' % index)
        client.read_until(b"0\r\n\r\n")


def test_large_bodies_both_ways(proxy: RunningProxy) -> None:
    body = bytes(range(256)) * 32768  # 8 MiB
    with Client(proxy) as client:
        assert client.get("/api/echo", method="POST", body=body).json()["sha256"] == hashlib.sha256(body).hexdigest()
        answer = client.get("/api/bytes/8388608")
        assert answer.complete
        assert answer.body == b"".join(pattern(8388608))


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body(proxy: RunningProxy, status: int) -> None:
    with Client(proxy) as client:
        assert client.get(f"/api/status/{status}").status == status
        assert client.get("/api/echo").status == 200


def test_head_has_a_length_and_no_body(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        answer = client.get("/api/bytes/1000", method="HEAD")
        assert answer.header("content-length") == "1000"
        assert client.get("/api/echo").status == 200


def test_close_delimited_answer_ends_with_the_connection(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        answer = client.get("/api/close/100000")
        assert answer.header("connection") == "close"
        assert answer.body == b"".join(pattern(100000))


def test_expect_continue_passes(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client:
        client.request("POST", "/api/continue", bearer(), "Expect: 100-continue", "Content-Length: 5")
        assert client.answer().status == 100
        client.send(b"hello")
        assert client.answer().status == 200
        assert client.get("/api/echo").status == 200
    assert upstream.requests[0].body == b"hello"


def test_expect_continue_refused_by_a_final_answer(server_context: ssl.SSLContext, authority: Authority) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.answer(417)
        connection.wait_closed()

    with (
        Upstream(script, server_context) as upstream,
        RunningProxy([route("api", upstream.url, authority.ca)]) as proxy,
    ):
        with Client(proxy) as client:
            client.request("POST", "/api/x", bearer(), "Expect: 100-continue", "Content-Length: 5")
            answer = client.answer()
            assert (answer.status, answer.header("connection")) == (417, "close")
            assert client.at_end()


def test_interim_answers_pass(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        client.request("GET", "/api/hint", bearer())
        assert client.answer().status == 103
        assert client.answer().body == b"hinted"


def test_early_answer_is_forwarded_while_the_body_arrives(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        client.request("POST", "/api/early", bearer(), "Content-Length: 1000000")
        assert client.answer().status == 413
        client.send(bytes(1000000))  # read and dropped, so that the connection can go on
        assert client.get("/api/echo").status == 200


def test_client_that_leaves_cancels_the_upstream(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client:
        client.request("GET", "/api/gated/3", bearer())
        client.read_until(b"\r\n\r\n")
    proxy.wait(lambda exchanges: [e.code for e in exchanges] == ["client_left"])
    upstream.gate.release(3)
    upstream.wait(lambda: upstream.open == 0)


def test_plain_http_upstream_on_loopback() -> None:
    with Upstream() as upstream, RunningProxy([route("local", upstream.url)]) as proxy, Client(proxy) as client:
        assert client.get("/local/echo").status == 200
        assert client.get("/local/bytes/3000000").body == b"".join(pattern(3000000))
        assert upstream.requests[0].all("authorization") == [f"Bearer {KEY.decode()}"]


def test_slow_reader_stops_its_own_upstream_only(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy, rcvbuf=4096) as slow, Client(proxy) as other:
        slow.request("GET", "/api/bytes/50000000", bearer())
        slow.read_until(b"\r\n\r\n")
        proxy.settle(lambda: any(c._client.queued for c in proxy.proxy._conversations))
        for _ in range(10):
            assert other.get("/api/echo").status == 200
        held = proxy.call(lambda: [c._client.queued for c in proxy.proxy._conversations])
        assert sum(held) <= 262144  # nothing is buffered but one read
        slow.sock.setsockopt(1, 8, 1 << 20)
        assert len(slow._take_bytes(50000000)) == 50000000


def test_one_exchange_is_one_audit_entry(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        client.get("/api/echo?secret=1", method="POST", body=b"abc")
        client.request("GET", "/nowhere?a=b", bearer())
        client.answer()
    first, second = proxy.wait(lambda exchanges: len(exchanges) == 2)
    assert (first.route, first.method, first.path, first.status, first.code) == ("api", "POST", "/echo", 200, "")
    assert (first.bytes_up, first.host.partition(":")[0]) == (3, "localhost")
    assert (second.method, second.path, second.status, second.code) == ("GET", "/nowhere", 404, "unknown_route")
    assert second.reason


def test_drain_lets_exchanges_end(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client, Client(proxy) as idle:
        idle.get("/api/echo")
        client.request("GET", "/api/gated/1", bearer())
        client.read_until(b"\r\n\r\n")
        drained: list[bool] = []
        proxy.call(lambda: proxy.proxy.drain(20, lambda: drained.append(True)))
        assert idle.at_end()
        upstream.gate.release()
        client.read_until(b"0\r\n\r\n")
        proxy.settle(lambda: bool(drained))


def test_limits_have_the_defaults_of_the_contract() -> None:
    limits = Limits()
    assert (limits.connect_s, limits.tls_s, limits.client_head_s, limits.client_idle_s) == (10, 10, 30, 75)
    assert (limits.upstream_head_s, limits.stalled_write_s) == (0, 60)
    assert (limits.max_head_bytes, limits.max_target_bytes) == (65536, 16384)


def test_client_that_never_ends_its_body_after_the_answer_is_dropped(
    server_context: ssl.SSLContext, authority: Authority
) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.answer(413, b"too much")
        connection.finish()

    limits = Limits(linger_s=0.1)
    with Upstream(script, server_context) as upstream:
        with RunningProxy([route("api", upstream.url, authority.ca)], limits=limits) as proxy, Client(proxy) as client:
            client.request("POST", "/api/x", bearer(), "Content-Length: 20000000")
            client.send(bytes(1_000_000))
            assert client.answer().status == 413
            assert client.at_end()


def test_head_waits_for_a_free_slot_of_locked_memory(upstream: Upstream, authority: Authority) -> None:
    limits = Limits(scratch_slots=1)
    with RunningProxy([route("api", upstream.url, authority.ca)], limits=limits) as proxy:
        with Client(proxy) as first, Client(proxy) as second, Client(proxy) as leaves:
            assert first.get("/api/echo").status == 200
            slot = proxy.call(proxy.proxy._scratch.take)
            for client in (first, second, leaves):
                client.request("GET", "/api/echo", bearer())
            proxy.settle(lambda: len(proxy.proxy._scratch._waiting) == 3)
            leaves.sock.close()
            proxy.settle(lambda: proxy.proxy.connections == 2)
            proxy.call(slot.release)
            assert first.answer().status == second.answer().status == 200
        proxy.settle(lambda: proxy.proxy.connections == 0)


@pytest.mark.parametrize("over_tls", [False, True])
def test_stalled_head_stays_in_locked_memory_and_is_wiped(authority: Authority, over_tls: bool) -> None:
    """A connection that takes nothing for a while: the head waits in its slot, is sent when it can be, and wiped."""
    go_on = threading.Event()
    context = authority.server_context() if over_tls else None
    with (
        Upstream(context=context) as upstream,
        RunningProxy([route("local", upstream.url, authority.ca if over_tls else "")]) as proxy,
    ):

        def stall() -> None:
            stream = next(iter(proxy.proxy._pools.values()))._idle[0]
            send = stream.send

            def stalled(data: memoryview) -> int:
                if not go_on.is_set():
                    raise BlockingIOError
                return int(send(data))

            stream.send = stalled

        proxy.call(proxy.proxy.warm)
        proxy.settle(lambda: all(pool.idle == 1 for pool in proxy.proxy._pools.values()))
        proxy.call(stall)
        with Client(proxy) as client:
            client.request("POST", "/local/echo", bearer(), body=bytes(100_000))
            proxy.settle(lambda: any(KEY in bytes(buffer.memory) for buffer in proxy.buffers))
            go_on.set()
            assert client.answer().json()["length"] == 100_000
            proxy.settle(lambda: not any(KEY in bytes(buffer.memory) for buffer in proxy.buffers))
        assert upstream.requests[0].all("authorization") == [f"Bearer {KEY.decode()}"]


def test_audit_that_fails_ends_one_conversation(upstream: Upstream, authority: Authority) -> None:
    with RunningProxy([route("api", upstream.url, authority.ca)]) as proxy:
        record = proxy._record
        proxy.proxy._services = proxy.proxy._services._replace(report=lambda exchange: 1 / 0)
        with Client(proxy) as client:
            client.request("GET", "/api/echo", bearer())
            client.answer()
            assert client.at_end()
        proxy.proxy._services = proxy.proxy._services._replace(report=record)
        with Client(proxy) as client:
            assert client.get("/api/echo").status == 200
