"""Clients and upstreams as event scripts: split anywhere, cut off, reset, early; and any bytes for what parses them."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nono.errors import Refusal, UpstreamError
from nono.policy.endpoints import is_ambiguous
from nono.proxy.framing import ChunkScanner, FramingError
from nono.proxy.head import HeadReader
from nono.proxy.judge import Judge
from nono.proxy.server import Limits
from tests.fakes import Authority, Connection, Upstream
from tests.proxy.harness import TOKEN, Client, RunningProxy, bearer, route

FRAMINGS = ("none", "length", "chunked")
bodies = st.binary(max_size=200) | st.integers(1, 200_000).map(lambda size: bytes(size))


def framed(kind: str, body: bytes) -> tuple[str, bytes]:
    """A header that frames a body, and the body so framed."""
    if kind == "length":
        return f"Content-Length: {len(body)}\r\n", body
    if kind == "chunked":
        pieces = [body[i : i + 70_000] for i in range(0, len(body), 70_000)]
        return "Transfer-Encoding: chunked\r\n", b"".join(
            b"%x;e\r\n%b\r\n" % (len(p), p) for p in pieces
        ) + b"0\r\n\r\n"
    return "", b""


def split(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    at = 0
    for cut in sorted({cut % (len(data) + 1) for cut in cuts}):
        if cut > at:
            yield data[at:cut]
            at = cut
    yield data[at:]


class Stage:
    """One proxy and one upstream for all examples; the example puts its script in place."""

    def __init__(self, authority: Authority, context: object) -> None:
        self.answer: list[bytes] = []
        self.end = "keep"
        self.early = False
        self.targets: list[str] = []
        self.upstream = Upstream(self.script, context)  # type: ignore[arg-type]
        self.proxy = RunningProxy([route("api", self.upstream.url, authority.ca)])

    def script(self, connection: Connection) -> None:
        while (head := connection.read_head()) is not None:
            self.targets.append(head[1])
            if not self.early:
                connection.note(head, connection.read_body(head[2]))
            for piece in self.answer:
                connection.send(piece)
            if self.end != "keep":
                getattr(connection, self.end)()
                return
            if self.early:
                connection.read_body(head[2])


@pytest.fixture(scope="module")
def stage(authority: Authority, server_context: object) -> Iterator[Stage]:
    stage = Stage(authority, server_context)
    yield stage
    stage.upstream.close()
    stage.proxy.close()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    request_framing=st.sampled_from(FRAMINGS),
    request_body=bodies,
    request_cuts=st.lists(st.integers(0, 1 << 20), max_size=8),
    answer_framing=st.sampled_from(FRAMINGS[1:]),
    answer_body=bodies,
    answer_cuts=st.lists(st.integers(0, 1 << 20), max_size=8),
    interim=st.integers(0, 2),
    early=st.booleans(),
)
def test_every_byte_arrives_however_it_is_split(
    stage: Stage, request_framing: str, request_body: bytes, request_cuts: list[int], answer_framing: str,
    answer_body: bytes, answer_cuts: list[int], interim: int, early: bool,
) -> None:  # fmt: skip
    header, body = framed(request_framing, request_body)
    answer_header, answer_body = framed(answer_framing, answer_body)
    interims = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" * interim
    answer = interims + f"HTTP/1.1 200 OK\r\n{answer_header}\r\n".encode() + answer_body
    stage.answer, stage.end, stage.early = list(split(answer, answer_cuts)), "keep", early
    seen, told = len(stage.upstream.requests), len(stage.proxy.exchanges)
    with Client(stage.proxy) as client:
        head = f"POST /api/x HTTP/1.1\r\nHost: a\r\n{bearer()}\r\n{header}\r\n".encode()
        sender = threading.Thread(target=lambda: [client.send(p) for p in split(head + body, request_cuts) if p])
        sender.start()
        for _ in range(interim):
            assert client.answer().status == 103
        got = client.answer()
        assert got.complete
        assert got.body == answer_body
        sender.join()
        stage.early = False
        stage.answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]
        assert client.get("/api/next").body == b"ok"  # and the connection is where it should be
    if not early:
        assert stage.upstream.requests[seen].body == body
    stage.proxy.settle(lambda: stage.proxy.proxy.connections == 0)
    assert [(e.status, e.code) for e in stage.proxy.exchanges[told:]] == [(200, ""), (200, "")]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    answer_framing=st.sampled_from(("length", "chunked", "close")),
    answer_body=st.binary(min_size=1, max_size=60) | st.just(bytes(100_000)),
    cut_at=st.integers(0, 1 << 20),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=4),
    end=st.sampled_from(("cut", "reset", "finish")),
    request_body=bodies,
)
def test_answer_cut_off_anywhere_never_looks_complete(
    stage: Stage, answer_framing: str, answer_body: bytes, cut_at: int, cuts: list[int], end: str, request_body: bytes
) -> None:
    header, body = framed(answer_framing, answer_body)
    whole = f"HTTP/1.1 200 OK\r\n{header}\r\n".encode() + (body or answer_body)
    part, told = whole[: cut_at % len(whole)], len(stage.proxy.exchanges)
    stage.answer, stage.end, stage.early = list(split(part, cuts)), end, False
    with Client(stage.proxy) as client:
        client.request("POST", "/api/x", bearer(), body=request_body)
        try:
            got = client.answer()
        except (AssertionError, ConnectionResetError):
            got = None
        if got is not None and got.status == 200:
            ended_well = answer_framing == "close" and end == "finish"  # nobody can tell that this is not all
            assert not got.complete or ended_well
            assert (body or answer_body).startswith(got.body)
        elif got is not None:
            assert got.status == 502
    stage.proxy.settle(lambda: stage.proxy.proxy.connections == 0)
    assert len(stage.proxy.exchanges) == told + 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=60) | st.just(b""),
    cut_at=st.integers(0, 300),
    how=st.sampled_from(("close", "reset", "half")),
)
def test_client_may_end_anywhere(stage: Stage, data: bytes, cut_at: int, how: str) -> None:
    stage.answer, stage.end, stage.early = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"], "keep", False
    mine = f"/x?{len(stage.proxy.exchanges)}"  # what a request before left unread, the upstream may read late
    request = (
        f"POST /api{mine} HTTP/1.1\r\nHost: a\r\n{bearer()}\r\nContent-Length: 20\r\n\r\n".encode() + bytes(20) + data
    )
    told = len(stage.proxy.exchanges)
    with Client(stage.proxy) as client:
        client.send(request[:cut_at])
        if how == "reset":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif how == "half":
            client.sock.shutdown(socket.SHUT_WR)
            try:
                while client.read():
                    pass
            except ConnectionResetError:
                pass
    with Client(stage.proxy) as client:  # once this one is served, the one before was accepted
        assert client.get("/api/x").body == b"ok"
    stage.proxy.settle(lambda: stage.proxy.proxy.connections == 0)
    posts = [e for e in stage.proxy.exchanges[told:] if (e.method, e.path) == ("POST", "/x")]
    assert sum(target.endswith(mine) for target in stage.targets) <= len(posts) <= 1


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def exchanges_leave_nothing(upstream: Upstream, authority: Authority, rounds: int) -> None:
    with RunningProxy([route("api", upstream.url, authority.ca)], limits=Limits(pool_size=4)) as proxy:
        before = memory = 0
        for index in range(rounds):
            with Client(proxy) as client:
                client.get("/api/echo", method="POST", body=b"x" * 1000)
                client.get("/api/chunked/3")
                client.request("GET", "/api/bytes/100000", bearer())
                if index % 3 == 0:
                    client.read_until(b"\r\n\r\n")
                else:
                    client.answer()
            if index == rounds // 5:
                proxy.settle(lambda: proxy.proxy.connections == 0)
                before, memory = descriptors(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        proxy.settle(lambda: proxy.proxy.connections == 0)
        upstream.wait(lambda: upstream.open <= 4)
        assert descriptors() <= before + 8
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < memory + 16384
        upstream.requests.clear()


def test_exchanges_leave_nothing_behind(upstream: Upstream, authority: Authority) -> None:
    exchanges_leave_nothing(upstream, authority, 100)


@pytest.mark.long
def test_ten_thousand_exchanges_leave_nothing_behind(upstream: Upstream, authority: Authority) -> None:
    exchanges_leave_nothing(upstream, authority, 3400)


def test_a_flood_of_connections_does_not_stop_the_others(upstream: Upstream, authority: Authority) -> None:
    with RunningProxy([route("api", upstream.url, authority.ca)], limits=Limits(max_connections=50)) as proxy:
        with Client(proxy) as served:
            assert served.get("/api/echo").status == 200
            flood = [Client(proxy) for _ in range(300)]
            for client in flood[:20]:
                client.send(b"GET /api/")  # slow-loris heads
            for _ in range(5):
                assert served.get("/api/echo").status == 200
            for client in flood:
                client.sock.close()
        proxy.settle(lambda: proxy.proxy.connections == 0)
        with Client(proxy) as client:
            assert client.get("/api/echo").status == 200


def test_upstream_killed_under_load_and_back_again(authority: Authority, server_context: object) -> None:
    upstream = Upstream(context=server_context)  # type: ignore[arg-type]
    with RunningProxy([route("api", upstream.url, authority.ca)]) as proxy:
        clients = [Client(proxy) for _ in range(10)]
        for client in clients:
            assert client.get("/api/echo").status == 200
        upstream.close()
        upstream.wait(lambda: upstream.open == 0)
        with Upstream(context=server_context, port=upstream.port):  # type: ignore[arg-type]
            for client in clients:
                assert client.get("/api/echo", method="POST", body=b"abc").status == 200
        for client in clients:
            client.sock.close()


# -- the pure rooms, on any bytes

texts = st.binary(max_size=300) | st.lists(
    st.sampled_from([b"GET", b" ", b"/api/", b"HTTP/1.1", b"\r\n", b"\n", b"Host: a", b":", b"\0", b"Content-Length: 1",
                     b"Transfer-Encoding: chunked", b"Authorization: Bearer " + TOKEN, b"HTTP/1.1 200 OK"]),
    max_size=20,
).map(b"".join)  # fmt: skip


@given(texts)
def test_any_request_head_is_read_or_refused(data: bytes) -> None:
    judge = Judge(TOKEN, [route("api", "https://example.com")], 1, None, 16384)
    statuses = [200]
    try:
        judge(data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    except Refusal as refusal:
        statuses.append(refusal.status)
    assert statuses[-1] in (200, 400, 401, 403, 404, 405, 407, 414, 505)


@given(texts)
def test_any_answer_head_is_read_or_an_upstream_error(data: bytes) -> None:
    statuses = [502]
    try:
        HeadReader().response(data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    except UpstreamError as error:
        statuses.append(error.status)
    assert statuses[-1] == 502


chunk_texts = st.lists(
    st.sampled_from([b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\n", b"1", b"a", b"\r\n", b"\n", b"\r", b";x=y", b" ",
                     b"X: y\r\n", b"0x", b"+", b"F\r\n" + bytes(15) + b"\r\n"]),
    max_size=8,
).map(b"".join) | st.binary(max_size=40)  # fmt: skip


@given(chunk_texts, st.lists(st.integers(0, 60), max_size=4))
def test_chunks_end_at_the_same_place_however_they_are_split(data: bytes, cuts: list[int]) -> None:
    def verdict(pieces: list[bytes]) -> int | str:
        scanner, at = ChunkScanner(strict=True), 0
        for piece in pieces:
            try:
                end = scanner.feed(piece, 0, len(piece))
            except FramingError:
                return "refused"
            if end >= 0:
                return at + end
            at += len(piece)
        return "more"

    whole = verdict([data])
    assert verdict(list(split(data, cuts))) == whole
    if isinstance(whole, int):
        connection = h11.Connection(h11.SERVER)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.receive_data(head + data[:whole])
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            assert event is not h11.NEED_DATA
        assert connection.trailing_data[0] == b""  # h11 sees the end where we see it


@given(
    st.lists(
        st.sampled_from(["/", ".", "%2e", "%2E", "%252e", "a", "%2f", "%5c", "\\", "%00", ";", "%25", "%3b"]),
        max_size=8,
    )
)
def test_a_path_that_passes_has_no_dot_segments_in_any_reading(parts: list[str]) -> None:
    path = "".join(parts).encode()
    if is_ambiguous(path):
        return
    for _ in range(5):
        assert b"\\" not in path
        assert b"\0" not in path
        assert not {b".", b".."} & {segment.partition(b";")[0] for segment in path.split(b"/")}
        path = unquote_to_bytes(path)
