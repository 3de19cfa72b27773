"""The proxy's pure rooms, one by one (pytest-benchmark): ./ci/bench rooms

Heads read, judged and made ready to send; the ends of bodies found. No sockets. These figures explain those of
`bench/proxy.py`; they are not compared with anything, so they stand in no table. `--smoke` runs each once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from bench import _load
from bench._peers import COMPLETIONS, SECRET, TOKEN, Peer
from nono.kernel.secretmem import SecretBuffer
from nono.policy.routes import Route
from nono.proxy.framing import ChunkScanner
from nono.proxy.head import HeadReader
from nono.proxy.inject import SLOT_BYTES, ScratchPool
from nono.proxy.judge import Judge
from nono.proxy.route import BoundRoute

Benchmark = Callable[..., Any]
PEER = Peer("", TOKEN, {COMPLETIONS: 61000}, {COMPLETIONS: "/openai/"}, (), None, 0.0, "")
HEAD = _load.request(PEER, COMPLETIONS, "chat/completions", len(_load.BODY), sequence=b"%036d" % 0)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Fri, 21 Nov 2025 17:32:23 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1024\r\nConnection: keep-alive\r\nopenai-organization: user-3f9c1b7d2a\r\n"
    b"openai-processing-ms: 412\r\nopenai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 10000\r\n"
    b"x-ratelimit-limit-tokens: 200000\r\nx-ratelimit-remaining-requests: 9999\r\n"
    b"x-ratelimit-remaining-tokens: 199978\r\nx-ratelimit-reset-requests: 8.64s\r\nx-ratelimit-reset-tokens: 6ms\r\n"
    b"x-request-id: req_%032d\r\ncf-cache-status: DYNAMIC\r\n"
    b"set-cookie: __cf_bm=%064d; path=/; domain=.api.openai.com; HttpOnly; Secure; SameSite=None\r\n"
    b"strict-transport-security: max-age=31536000; includeSubDomains; preload\r\nx-content-type-options: nosniff\r\n"
    b"cf-ray: %016d-FRA\r\nalt-svc: h3=\":443\"; ma=86400\r\n\r\n"
)  # fmt: skip


class Key:
    """A credential as the proxy wants it."""

    view = memoryview(SECRET.encode())
    length = len(SECRET)


def new_judge() -> Judge:
    route = Route("openai", "https://localhost/v1", "openai_api_key")
    return Judge(TOKEN.encode(), [BoundRoute(route, Key())], 61000, None, 16384)


@pytest.fixture
def judge() -> Judge:
    return new_judge()


@pytest.fixture
def scratch() -> Iterator[ScratchPool]:
    pool = ScratchPool(SecretBuffer, 1)
    yield pool
    pool.close()


def heads() -> Iterator[bytes]:
    """Yield request heads that differ in one header, as an SDK's do."""
    return (HEAD.replace(b"%036d" % 0, b"%036d" % number) for number in count())


def test_judge_a_head_seen_before(benchmark: Benchmark, judge: Judge) -> None:
    for _ in range(3):
        judge(HEAD)
    benchmark(judge, HEAD)


def test_judge_a_head_never_seen(benchmark: Benchmark, judge: Judge) -> None:
    unique = heads()
    for _ in range(50):
        judge(next(unique))
    benchmark.pedantic(judge, setup=lambda: ((next(unique),), {}), rounds=5000)  # type: ignore[attr-defined]


def test_judge_the_first_head(benchmark: Benchmark) -> None:
    benchmark.pedantic(  # type: ignore[attr-defined]
        lambda judge: judge(HEAD), setup=lambda: ((new_judge(),), {}), rounds=1000
    )


def test_read_an_answers_head(benchmark: Benchmark) -> None:
    reader = HeadReader()
    unique = (ANSWER % (number, number, number) for number in count())
    for _ in range(50):
        reader.response(next(unique))
    benchmark.pedantic(reader.response, setup=lambda: ((next(unique),), {}), rounds=5000)  # type: ignore[attr-defined]


def test_put_the_key_into_a_head(benchmark: Benchmark, judge: Judge, scratch: ScratchPool) -> None:
    outgoing = judge(HEAD)

    def assemble() -> None:
        slot = scratch.take()
        assert slot is not None
        slot.assemble(outgoing, _load.BODY)  # type: ignore[arg-type]
        slot.release()

    benchmark(assemble)
    assert len(HEAD) + len(_load.BODY) < SLOT_BYTES


def test_scan_an_event(benchmark: Benchmark) -> None:
    scanner = ChunkScanner(False)
    event = b"c6\r\n" + b"x" * 0xC6 + b"\r\n"
    benchmark(scanner.feed, event, 0, len(event))


def test_scan_hostile_chunks_of_one_byte(benchmark: Benchmark) -> None:
    scanner = ChunkScanner(True)
    chunks = b"1\r\nx\r\n" * (65536 // 6)
    benchmark(scanner.feed, chunks, 0, len(chunks))


if __name__ == "__main__":
    how = (
        ["--benchmark-disable"] if "--smoke" in sys.argv else ["--benchmark-only", "--benchmark-columns=min,median,ops"]
    )
    sys.exit(pytest.main([__file__, "-q", "-o", "addopts=", "-p", "no:cacheprovider", *how]))
