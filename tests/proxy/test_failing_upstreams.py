"""Upstreams that break off, answer what is not HTTP, hang up or are not there: nothing broken looks complete."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest

from nono.proxy.server import Limits
from tests.fakes import Authority, Connection, Upstream
from tests.proxy.harness import Client, RunningProxy, bearer, route


def scripted(data: bytes, end: str) -> object:
    """An upstream that answers every request with `data` and ends in some way."""

    def script(connection: Connection) -> None:
        if connection.read_request() is not None:
            connection.send(data)
            getattr(connection, end)()

    return script


BROKEN = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    "close": b"HTTP/1.1 200 OK\r\n\r\nhalf",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0x5\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("end", ["cut", "reset"])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_answer_never_looks_complete(
    server_context: ssl.SSLContext, authority: Authority, kind: str, end: str
) -> None:
    script = scripted(BROKEN[kind], end)
    with (
        Upstream(script, server_context) as upstream,
        RunningProxy([route("api", upstream.url, authority.ca)]) as proxy,
    ):  # type: ignore[arg-type]
        with Client(proxy) as client:
            client.request("GET", "/api/x", bearer())
            try:
                answer = client.answer()
            except (ConnectionResetError, AssertionError):
                return  # reset before the head was read: nothing looked complete
            assert not answer.complete or answer.status == 502


BAD_ANSWERS = {
    "garbage": b"hello\r\n\r\n",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "header without colon": b"HTTP/1.1 200 OK\r\nnothing\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok",
    "bare CR in reason": b"HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok",
    "switch unasked": b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "empty": b"",
    "half a head": b"HTTP/1.1 200",
    "bad first chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_answer_that_is_not_http_is_502(server_context: ssl.SSLContext, authority: Authority, kind: str) -> None:
    script = scripted(BAD_ANSWERS[kind], "finish")
    with (
        Upstream(script, server_context) as upstream,
        RunningProxy([route("api", upstream.url, authority.ca)]) as proxy,
    ):  # type: ignore[arg-type]
        with Client(proxy) as client:
            for _ in range(2):  # the client's connection goes on
                answer = client.get("/api/x")
                assert answer.status == 502
                assert answer.code in ("upstream_protocol", "upstream_closed")


def test_bytes_after_an_answer_are_not_the_next_one(server_context: ssl.SSLContext, authority: Authority) -> None:
    answers = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    script = scripted(answers, "wait_closed")
    with (
        Upstream(script, server_context) as upstream,
        RunningProxy([route("api", upstream.url, authority.ca)]) as proxy,
    ):  # type: ignore[arg-type]
        with Client(proxy) as client:
            assert client.get("/api/x").body == b"ok"
            assert client.get("/api/y").body == b"ok"
        assert upstream.connections == 2


def test_answers_of_http_1_0_pass_and_close(authority: Authority) -> None:
    script = scripted(b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nold", "finish")
    with Upstream(script) as upstream, RunningProxy([route("local", upstream.url)]) as proxy:  # type: ignore[arg-type]
        with Client(proxy) as client:
            answer = client.get("/local/x")
            assert (answer.status_line, answer.body) == ("HTTP/1.1 200 OK", b"old")


def silent_on_the_second(connection: Connection) -> None:
    """Answers the first request of each connection; reads the second and hangs up."""
    if connection.read_request() is not None:
        connection.answer(200, b"ok")
        head = connection.read_head()
        if head is not None:
            connection.note(head)
            connection.finish()


def test_request_that_was_not_answered_is_retried_once(server_context: ssl.SSLContext, authority: Authority) -> None:
    with Upstream(silent_on_the_second, server_context) as upstream:
        with RunningProxy([route("api", upstream.url, authority.ca)]) as proxy, Client(proxy) as client:
            assert client.get("/api/1").status == 200
            assert client.get("/api/2", method="POST", body=b"abc").body == b"ok"
        assert [r.target for r in upstream.requests] == ["/1", "/2", "/2"]
        assert upstream.requests[-1].body == b"abc"


def never_answers(connection: Connection) -> None:
    if connection.read_request() is not None:
        connection.finish()


def test_fresh_connection_is_not_retried(server_context: ssl.SSLContext, authority: Authority) -> None:
    with Upstream(never_answers, server_context) as upstream:
        with RunningProxy([route("api", upstream.url, authority.ca)]) as proxy, Client(proxy) as client:
            answer = client.get("/api/1")
            assert (answer.status, answer.code) == (502, "upstream_closed")
        assert len(upstream.requests) == 1


def silent_after_the_second_body(connection: Connection) -> None:
    """As silent_on_the_second, once it has the whole body: a hang-up on its first bytes could still be made good."""
    if connection.read_request() is not None:
        connection.answer(200, b"ok")
        if connection.read_request() is not None:
            connection.finish()


def test_large_body_is_not_retried(server_context: ssl.SSLContext, authority: Authority) -> None:
    with Upstream(silent_after_the_second_body, server_context) as upstream:
        with RunningProxy([route("api", upstream.url, authority.ca)]) as proxy, Client(proxy) as client:
            assert client.get("/api/1").status == 200
            client.request("POST", "/api/2", bearer(), body=bytes(3_000_000))
            assert client.answer().status == 502
        assert [r.target for r in upstream.requests].count("/2") == 1


def test_upstream_that_hangs_up_on_the_body_may_answer_first(
    server_context: ssl.SSLContext, authority: Authority
) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.answer(413, b"too much")
        connection.finish()

    with (
        Upstream(script, server_context) as upstream,
        RunningProxy([route("api", upstream.url, authority.ca)]) as proxy,
    ):
        with Client(proxy) as client:
            client.request("POST", "/api/x", bearer(), "Content-Length: 20000000")
            for _ in range(20):
                client.send(bytes(1_000_000))
            assert client.answer().status == 413


def test_stalled_request_does_not_put_an_error_into_its_early_answer(authority: Authority) -> None:
    """The answer streams while the request's body is stuck: it breaks off, and no second answer follows in it."""
    release = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegin")
        release.wait(20)

    limits = Limits(stalled_write_s=0.2)
    with Upstream(script, rcvbuf=4096) as upstream:
        with RunningProxy([route("local", upstream.url)], limits=limits) as proxy, Client(proxy) as client:
            client.request("POST", "/local/x", bearer(), "Content-Length: 50000000")
            client.read_until(b"begin")
            client.sock.setblocking(False)
            try:
                while True:
                    client.sock.send(bytes(65536))
            except BlockingIOError:
                client.sock.settimeout(20)
            assert client.at_end()
            release.set()


def test_pipeline_to_an_upstream_that_is_not_there(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bound = route("local", f"http://127.0.0.1:{port}")
    with RunningProxy([bound]) as proxy, Client(proxy) as client:
        client.send(f"GET /local/x HTTP/1.1\r\nHost: a\r\n{bearer()}\r\n\r\n".encode() * 400)
        for _ in range(400):
            assert client.answer().status == 502
