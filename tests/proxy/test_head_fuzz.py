"""Differential fuzz: the head reader against `h11.Connection`, on mutated heads.

The reader calls h11's event constructors instead of a Connection, and remembers lines; this is the proof that neither
shortcut accepts what `h11.Connection` refuses, and that what is forwarded is what h11 read. A slice of it runs always,
600,000 heads with `ci/test --long`. NONO_FUZZ_SEED repeats a run.
"""

from __future__ import annotations

import os
import random

import h11
import pytest

from nono.errors import Refusal, UpstreamError
from nono.policy.routes import Presentation, Route
from nono.proxy.head import CHUNKED, HeadReader
from nono.proxy.inject import Outgoing, ScratchPool
from nono.proxy.judge import Judge
from nono.proxy.route import BoundRoute
from tests.proxy.harness import KEY, TOKEN, PlainBuffer

REQUEST = (
    b"POST /api/x?y=1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\nContent-Length: 5\r\nX-A: b c\r\n"
    b"Connection: keep-alive\r\nAccept: */*\r\nCookie: a=b\r\n\r\n" % TOKEN
)
CHUNKED_REQUEST = REQUEST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
RESPONSE = b"HTTP/1.1 200 OK\r\nServer: n\r\nContent-Length: 5\r\nX-A: b c\r\nConnection: keep-alive\r\nX-R: q\r\n\r\n"
CHUNKED_RESPONSE = RESPONSE.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
PIECES = [
    b"\n", b"\r", b" ", b"\t", b"\0", b":", b"\r\n ", b"\r\n\t", b"\x0b", b"\x0c", b"\x1c", b"\x85", b"\xa0", b"\x7f",
    b"Host: b\r\n", b"Host: a\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n",
    b"transfer-encoding: Chunked\r\n", b"Content-Length: 6\r\n", b"Content-Length: 5\r\n", b"Content-Length: +5\r\n",
    b"Content-Length: 5, 5\r\n", b"Content-Length: 05\r\n", b"Content-Length: \r\n", b"X-A : b\r\n", b"nocolon\r\n",
    b": v\r\n", b"\r\n", b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b",", b"-", b"0x5", b"X:a\nEvil: 1\r\n",
    b"X:a\rEvil: 1\r\n", b"Connection: close, x-a\r\n", b"Connection: content-length\r\n", b"Upgrade: websocket\r\n",
    b"Accept: */*\r\n", b"X-A: b c\r\n", b"X-R: q\r\n", b" 100", b" 204", b" 99", b"X-Long: " + b"v" * 600 + b"\r\n",
]  # fmt: skip
HOP = {b"connection", b"keep-alive", b"te", b"upgrade", b"proxy-connection"}


def mutate(rng: random.Random, base: bytes) -> bytes:
    head = bytearray(base[:-2])
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, piece, what = rng.randrange(len(head)), rng.choice(PIECES), rng.random()
        if what < 0.45:
            head[at:at] = piece
        elif what < 0.6:
            del head[at : at + rng.randrange(1, 4)]
        elif what < 0.75:
            head[at] = rng.randrange(256)
        else:
            line = head.find(b"\r\n", at)
            line = len(head) if line < 0 else line + 2
            head[line:line] = piece
        head = head or bytearray(b"x")
    whole = bytes(head) + b"\r\n"
    end = whole.find(b"\r\n\r\n")
    return whole[: end + 4] if end >= 0 else base  # the proxy cuts at the first CRLF CRLF


def by_connection(head: bytes, role: type) -> h11.Request | h11.Response | h11.InformationalResponse | None:
    connection = h11.Connection(role, max_incomplete_event_size=65536)
    if role is h11.CLIENT:  # interim answers are legal only to a request
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    try:
        connection.receive_data(head)
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, (h11.Request, h11.Response, h11.InformationalResponse)):
        return None
    return None if connection.trailing_data[0] else event


def sent(outgoing: Outgoing, pool: ScratchPool) -> bytes:
    """The head as it goes to the upstream, the credential in it."""
    slot = pool.take()
    assert slot is not None
    assert outgoing.secret is not None
    size, _ = slot.assemble(outgoing, b"")
    head = bytes(slot.view[:size])
    slot.release()
    return head


def normal(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """`Content-Length: 05` is forwarded as 5: not every upstream reads it as decimal."""
    return [(n, b"%d" % int(v)) if n == b"content-length" else (n, v) for n, v in headers]


class Differential:
    """One judge and one reader with their memos, over many heads."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        bound = BoundRoute(Route("api", "https://up.example/v1", "k", Presentation()), PlainBuffer(content=KEY))
        self.judge = Judge(TOKEN, [bound], 1, None, 16384)
        self.reader = HeadReader()
        self.pool = ScratchPool(PlainBuffer, 1)
        self.accepted = 0

    def request(self, head: bytes) -> None:
        try:
            outgoing = self.judge(head)
        except Refusal:
            return
        event = by_connection(head, h11.SERVER)
        assert isinstance(event, h11.Request), f"h11.Connection refuses {head!r}"
        assert isinstance(outgoing, Outgoing)
        self.accepted += 1
        forwarded = by_connection(sent(outgoing, self.pool), h11.SERVER)
        assert isinstance(forwarded, h11.Request), f"h11.Connection refuses what is forwarded for {head!r}"
        listed = {t.strip().lower() for n, v in event.headers if n == b"connection" for t in v.split(b",")}
        gone = HOP | listed | {b"host", b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"}
        own = {b"host", b"authorization", b"connection", b"upgrade"}
        expected = normal([(n, v) for n, v in event.headers if n not in gone and not n.startswith(b"proxy-")])
        assert [(n, v) for n, v in forwarded.headers if n not in own] == expected, head
        credentials = [v for n, v in forwarded.headers if n in (b"authorization", b"host")]
        assert sorted(credentials) == [b"Bearer " + KEY, b"up.example"], head
        chunked = any(n == b"transfer-encoding" for n, _ in event.headers)
        length = next((int(v) for n, v in event.headers if n == b"content-length"), 0)
        assert outgoing.length == (CHUNKED if chunked else length), head
        assert event.method == outgoing.method == forwarded.method
        assert TOKEN not in sent(outgoing, self.pool)

    def response(self, head: bytes) -> None:
        try:
            answer = self.reader.response(head)
        except UpstreamError:
            return
        event = by_connection(head, h11.CLIENT)
        assert isinstance(event, (h11.Response, h11.InformationalResponse)), f"h11.Connection refuses {head!r}"
        self.accepted += 1
        forwarded = by_connection(answer.head + b"\r\n", h11.CLIENT)
        assert isinstance(forwarded, (h11.Response, h11.InformationalResponse)), head
        listed = {t.strip().lower() for n, v in event.headers if n == b"connection" for t in v.split(b",")}
        gone = HOP | listed
        if event.status_code < 200 or event.status_code == 204:  # no body by definition
            gone |= {b"content-length", b"transfer-encoding"}
        expected = normal([(n, v) for n, v in event.headers if n not in gone and not n.startswith(b"proxy-")])
        assert list(forwarded.headers) == expected, head
        assert (forwarded.status_code, forwarded.reason) == (event.status_code, event.reason), head

    def run(self, heads: int) -> None:
        requests, responses = (REQUEST, CHUNKED_REQUEST), (RESPONSE, CHUNKED_RESPONSE)
        for base in requests:
            self.judge(base)  # teaches the memo the lines that are mutated next
        for base in responses:
            self.reader.response(base)
        for index in range(heads):
            if index % 2:
                self.request(mutate(self.rng, requests[index // 2 % 2]))
            else:
                self.response(mutate(self.rng, responses[index // 2 % 2]))
        assert self.accepted > heads // 20, "the mutations leave too few heads that are valid"


SEED = int(os.environ.get("NONO_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)


def test_nothing_is_accepted_that_h11_refuses() -> None:
    print(f"NONO_FUZZ_SEED={SEED}")
    Differential(SEED).run(12_000)


@pytest.mark.long
@pytest.mark.parametrize("part", range(6))
def test_nothing_is_accepted_that_h11_refuses_long(part: int) -> None:
    print(f"NONO_FUZZ_SEED={SEED}, part {part}")
    Differential(SEED + part).run(100_000)
