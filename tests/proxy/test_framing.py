"""Chunked bodies in pieces: nothing of a line leaves before the whole line was judged."""

from __future__ import annotations

import ssl
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.policy.routes import Presentation
from nono.proxy.framing import MAX_CHUNK_LINE_BYTES, ChunkScanner, FramingError
from nono.proxy.head import HeadReader
from tests.fakes import Authority, Connection, Upstream
from tests.proxy.harness import TOKEN, Client, RunningProxy, bearer, route


def forward(pieces: Iterable[bytes]) -> tuple[bytes, str]:
    """What leaves, as client_half forwards it, and how it ended."""
    scanner = ChunkScanner(True, TOKEN, HeadReader(frozenset((b"private-token",))).is_special)
    out, received = b"", b""
    for piece in pieces:
        received += piece
        try:
            end = scanner.feed(piece, 0, len(piece))
        except FramingError:
            return out, "refused"
        released, held = scanner.held_back()
        out += released + piece[: end if end >= 0 else len(piece) - held]
        if end >= 0:
            return out, "whole"
        assert received.startswith(out)
        assert len(received) - len(out) <= 65536
    return out, "more"


BAD = [  # what may leave, and the line that must not
    (b"", b"0x5\r\n"),
    (b"", b"5\n"),
    (b"", b"5;a=\rb\r\n"),
    (b"", b"5;a=%b\r\n" % TOKEN),
    (b"5\r\nhello", b"\rX"),
    (b"5\r\nhello\r\n", b"g\r\n"),
    (b"0\r\n", b"X: %b\r\n" % TOKEN),
    (b"0\r\n", b"Content-Length: 5\r\n"),
    (b"0\r\n", b"content_length: 5\r\n"),
    (b"0\r\n", b"Transfer-Encoding: chunked\r\n"),
    (b"0\r\n", b"Host: x\r\n"),
    (b"0\r\n", b"Authorization: x\r\n"),
    (b"0\r\n", b"Proxy-Authorization: x\r\n"),
    (b"0\r\n", b"PRIVATE-TOKEN: x\r\n"),
    (b"0\r\nA: b\r\n", b"X: y\n"),
    (b"0\r\nA: b\r\n", b"X: y\rZ: z\r\n"),
    (b"0\r\nA: b\r\n", b"X y: z\r\n"),
    (b"0\r\nA: b\r\n", b" folded: z\r\n"),
    (b"0\r\n", b"\n"),
]


@pytest.mark.parametrize(("good", "bad"), BAD)
def test_nothing_of_a_bad_line_leaves_however_it_is_split(good: bytes, bad: bytes) -> None:
    data = good + bad + b"\r\n"
    out, how = forward(data[at : at + 1] for at in range(len(data)))
    assert (out, how) == (good, "refused")
    for cut in range(1, len(data)):
        out, how = forward((data[:cut], data[cut:]))
        assert how == "refused"
        assert good.startswith(out)


@pytest.mark.parametrize("size", [1, 100, 4096])
def test_lines_without_an_end_are_refused(size: int) -> None:
    for start, limit in ((b"5;", MAX_CHUNK_LINE_BYTES), (b"0\r\nX: ", 65536)):
        pieces = [start] + [b"y" * size] * (limit // size + 1)
        out, how = forward(pieces)
        assert how == "refused"
        assert out in (b"", b"0\r\n")
    many = [b"0\r\n"] + [b"X: " + b"y" * 1000 + b"\r\n"] * 66
    assert forward(many)[1] == "refused"


@given(
    st.lists(st.sampled_from([b"5\r\nhello\r\n", b"a;b=c\r\n0123456789\r\n", b"1\r\n\r\r\n"]), max_size=5),
    st.lists(st.sampled_from([b"X: y\r\n", b"Checksum: \xc3\xbc\r\n"]), max_size=3),
    st.lists(st.integers(1, 6), min_size=1),
)
def test_a_good_body_leaves_whole(chunks: list[bytes], trailers: list[bytes], sizes: list[int]) -> None:
    data, pieces, at = b"".join([*chunks, b"0\r\n", *trailers, b"\r\n"]), [], 0
    while at < len(data):
        pieces.append(data[at : at + sizes[len(pieces) % len(sizes)]])
        at += len(pieces[-1])
    assert forward(pieces) == (data, "whole")


def test_the_upstream_gets_nothing_of_a_bad_trailer(authority: Authority, server_context: ssl.SSLContext) -> None:
    bodies: list[bytes] = []

    def serve(connection: Connection) -> None:
        connection.note(connection.read_head() or ("", "", []))
        while not connection.buffer.endswith(b"0\r\n"):
            connection.read()
        connection.note(("", "", []))
        try:
            while connection.read():
                pass
        except OSError:
            pass
        bodies.append(connection.buffer)
        connection.note(("", "", []))

    gitlab = Presentation("header", "PRIVATE-TOKEN", "{}")
    for trailer in (b"X: " + TOKEN, b"Private-Token: mine", b"Content-Length: 3"):
        with Upstream(serve, server_context) as upstream:
            with RunningProxy([route("api", upstream.url, authority.ca, inject=gitlab)]) as proxy:
                with Client(proxy) as client:
                    client.request("POST", "/api/x", bearer(), "Transfer-Encoding: chunked")
                    client.send(b"5\r\nhello\r\n0\r\n" + trailer[:40])
                    upstream.wait(lambda: len(upstream.requests) == 2)
                    client.send(trailer[40:] + b"\r\n\r\n")
                    assert client.answer().status == 400
                    upstream.wait(lambda: len(upstream.requests) == 3)
        assert bodies.pop() == b"5\r\nhello\r\n0\r\n"


def test_lines_in_pieces_arrive_whole(proxy: RunningProxy, upstream: Upstream) -> None:
    body = b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"
    with Client(proxy) as client:
        for _ in range(3):
            client.request("POST", "/api/echo", bearer(), "Transfer-Encoding: chunked")
            for at in range(len(body)):
                client.send(body[at : at + 1])
                proxy.call(lambda: None)
            assert client.answer().status == 200
    assert [request.body for request in upstream.requests] == [body] * 3
