"""The HTTP contract of DESIGN section 4, row by row, on real sockets and TLS."""

from __future__ import annotations

import hashlib

from tests.fakes import Upstream
from tests.proxy.harness import KEY, TOKEN, Client, RunningProxy, bearer


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


def test_chunked_both_ways_with_extensions_and_trailers(proxy: RunningProxy, upstream: Upstream) -> None:
    body = b"5;a=b\r\nhello\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    with Client(proxy) as client:
        client.request("POST", "/api/chunked/3", bearer(), "Transfer-Encoding: chunked", "Trailer: X-T")
        client.send(body)
        answer = client.answer()
    assert upstream.requests[0].body == body
    assert answer.body == b"5;n=0\r\nhello\r\n5;n=1\r\nhello\r\n5;n=2\r\nhello\r\n0\r\nX-Sum: 3\r\n\r\n"
    assert answer.complete


def test_events_leave_when_they_arrive(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client:
        client.request("GET", "/api/gated/3", bearer())
        client.read_until(b"\r\n\r\n")
        for index in range(3):
            upstream.gate.release()  # the next event is only written once the one before was read here
            assert client.read_until(b"\n\n\r\n").endswith(b'data: {"n": %d}\n\n\r\n' % index)
        client.read_until(b"0\r\n\r\n")


def test_large_bodies_both_ways(proxy: RunningProxy, upstream: Upstream) -> None:
    body = bytes(range(256)) * 32768  # 8 MiB
    with Client(proxy) as client:
        assert client.get("/api/echo", method="POST", body=body).json()["sha256"] == hashlib.sha256(body).hexdigest()
        answer = client.get("/api/bytes/8388608")
        assert (len(answer.body), answer.complete) == (8388608, True)


def test_wrong_token_is_401_as_json(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        client.request("GET", "/api/echo", "Authorization: Bearer " + "f" * 64)
        answer = client.answer()
        assert client.at_end()
    assert (answer.status, answer.code) == (401, "token_wrong")
    assert answer.json()["error"]["type"] == "nono_error"
