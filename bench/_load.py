"""The client of the benchmarks: what it sends, and one function for each thing that is measured.

Each function takes one sample from one peer and returns {metric: value}; `bench/proxy.py` calls them in turn. Latencies
are taken by a plain blocking client in this process, requests per second by wrk. The requests are those of an LLM SDK.
"""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from bench._peers import COMPLETIONS, EVENTS, RUST, Peer

Sample = dict[str, float]
MB = 1_000_000

BODY = json.dumps(
    {
        "model": "gpt-5",
        "messages": [
            {"role": "system", "content": "You are a careful engineer. " * 20},
            {"role": "user", "content": "Here is the traceback, say what is wrong with the test. " * 25},
        ],
    }
).encode()
SEQUENCE = b"@SEQUENCE@"
_WRK = Path(__file__).with_name("peers") / "request.lua"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE).search
_STAMP = re.compile(rb'"t":(\d+)').finditer
_ZEROS = bytes(16 * MB)
_RECV_BYTES = 1 << 20


def request(peer: Peer, service: str, path: str, length: int, *, method: str = "POST", sequence: bytes = b"") -> bytes:
    """Return a request's head as the OpenAI SDK sends it. sequence: makes it unique where it is not empty."""
    retry = b"Idempotency-Key: stainless-python-retry-" + sequence + b"\r\n" if sequence else b""
    framing = "" if method == "GET" else f"Content-Length: {length}\r\n"
    return (
        f"{method} {peer.prefixes[service]}{path} HTTP/1.1\r\n"
        f"Host: {peer.authority(service)}\r\n"
        "Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nAccept: application/json\r\n"
        "Content-Type: application/json\r\nUser-Agent: OpenAI/Python 1.99.9\r\nX-Stainless-Lang: python\r\n"
        "X-Stainless-Package-Version: 1.99.9\r\nX-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\n"
        "X-Stainless-Runtime: CPython\r\nX-Stainless-Runtime-Version: 3.11.7\r\n"
        f"Authorization: Bearer {peer.token}\r\n"
        "X-Stainless-Async: false\r\nx-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\n"
    ).encode() + retry + f"{framing}\r\n".encode()  # fmt: skip


class Client:
    """One connection, on which one request follows the other; made anew where the peer closes it."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._sock: socket.socket | None = None
        self._request = request(peer, COMPLETIONS, "chat/completions", len(BODY)) + BODY

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def ask(self) -> float:
        """Send the request, read the whole answer; return the microseconds that took, with connecting if needed."""
        began = time.perf_counter()
        for _ in range(2):
            if self._sock is None:
                self._sock = self._peer.connect(COMPLETIONS)
            try:
                self._sock.sendall(self._request)
                answer = self._sock.recv(65536)
            except OSError:
                answer = b""
            if answer:
                break
            self.close()  # the peer had closed it meanwhile
        self._read_answer(answer)
        return (time.perf_counter() - began) * 1e6

    def _read_answer(self, answer: bytes) -> None:
        sock = self._sock
        assert sock is not None, f"{self._peer.name} hangs up"
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += _some(sock)
        head = answer[:end].lower()
        assert head[9:12] == b"200", answer[:300]
        close = b"connection: close" in head
        if match := _LENGTH(answer, 0, end + 2):
            left = end + 4 + int(match[1]) - len(answer)
            while left > 0:
                left -= len(_some(sock))
        elif b"chunked" in head:
            while not answer.endswith(b"0\r\n\r\n"):
                answer += _some(sock)
        else:
            close = True
            while sock.recv(65536):
                pass
        if close:
            self.close()


def latency(peer: Peer, count: int) -> Sample:
    """p50 and p99 of one request at a time, on one connection."""
    with Client(peer) as client:
        for _ in range(20):
            client.ask()
        times = sorted(client.ask() for _ in range(count))
    return {"p50": times[len(times) // 2], "p99": _p99(times)}


def throughput(peer: Peer, directory: Path, connections: int, seconds: int, *, unique: bool) -> Sample:
    """Requests per second at so many connections, and the proxy's CPU for each."""
    file = directory / "request"
    sequence = SEQUENCE if unique else b""
    file.write_bytes(request(peer, COMPLETIONS, "chat/completions", len(BODY), sequence=sequence) + BODY)
    scheme, host = ("https", "localhost") if peer.tls else ("http", "127.0.0.1")
    url = f"{scheme}://{host}:{peer.ports[COMPLETIONS]}/"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(_WRK), url]
    before = cpu_us(peer)
    environment = {**os.environ, "BENCH_REQUEST": str(file)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    used = cpu_us(peer) - before
    found = re.search(r"(\d+) requests in", done.stdout)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if found is None or rate is None or not int(found[1]) or "Non-2xx" in done.stdout:
        raise SystemExit(f"wrk against {peer.name}: {done.stdout} {done.stderr}")
    sample = {"rate": float(rate[1])}
    return {**sample, "cpu": used / int(found[1])} if peer.pids else sample


def streams(peer: Peer, openings: int, events: int) -> Sample:
    """Microseconds from the request to a stream's first event, and of each event from upstream to client."""
    firsts = []
    for _ in range(openings + 1):
        first, _ = _stream(peer, 3, 0)
        firsts.append(first)
    _, delays = _stream(peer, events, 1000)
    delays.sort()
    return {"first": sorted(firsts[1:])[openings // 2], "p50": delays[len(delays) // 2], "p99": _p99(delays)}


def _stream(peer: Peer, count: int, interval_us: int) -> tuple[float, list[float]]:
    head = request(peer, EVENTS, f"stream/{count}/{interval_us}", len(BODY)) + BODY
    delays: list[float] = []
    with peer.connect(EVENTS) as sock:
        began = time.perf_counter_ns()
        sock.sendall(head)
        received, first = b"", 0.0
        while len(delays) < count:
            received += _some(sock)
            now = time.perf_counter_ns()
            end = received.rfind(b"}\n\n")
            if end >= 0:
                first = first or (now - began) / 1e3
                delays += [(now - int(match[1])) / 1e3 for match in _STAMP(received, 0, end)]
                received = received[end:]
        while not received.endswith(b"0\r\n\r\n") and (data := sock.recv(65536)):
            received += data
    return first, delays


def download(peer: Peer, size: int) -> Sample:
    """MB/s of one download."""
    head = request(peer, COMPLETIONS, f"files/{size}", 0, method="GET")
    buffer = bytearray(_RECV_BYTES)
    with peer.connect(COMPLETIONS) as sock:
        before, began = cpu_us(peer), time.perf_counter()
        sock.sendall(head)
        start = sock.recv(65536)
        while b"\r\n\r\n" not in start:
            start += _some(sock)
        assert start[9:12] == b"200", start[:300]
        got = len(start) - start.index(b"\r\n\r\n") - 4
        while got < size:
            more = sock.recv_into(buffer)
            assert more, f"{peer.name} breaks off at {got} of {size}"
            got += more
        seconds = time.perf_counter() - began
    return {"rate": size / MB / seconds, "cpu": (cpu_us(peer) - before) / 1000}


def upload(peer: Peer, size: int) -> Sample:
    """MB/s of one upload, to the answer."""
    with peer.connect(EVENTS) as sock:
        before, began = cpu_us(peer), time.perf_counter()
        sock.sendall(request(peer, EVENTS, "sink", size))
        left = size
        while left:
            left -= sock.send(memoryview(_ZEROS)[:left])
        answer = sock.recv(65536)
        assert answer[9:12] == b"200", f"{peer.name}: {answer[:300]!r}"
        seconds = time.perf_counter() - began
    return {"rate": size / MB / seconds, "cpu": (cpu_us(peer) - before) / 1000}


def peaks(peer: Peer, size: int) -> Sample:
    """The largest resident set, in MiB, during one long download and one long upload."""
    _reset_peak(peer)
    download(peer, size)
    sample = {"down": _memory_kb(peer, "VmHWM") / 1024}
    if peer.name != RUST:  # refuses more than 16 MiB
        _reset_peak(peer)
        upload(peer, size)
        sample["up"] = _memory_kb(peer, "VmHWM") / 1024
    return sample


def cold(peer: Peer) -> Sample:
    """The first request, in milliseconds, of a process that has just said that it serves; and since its exec."""
    with Client(peer) as client:
        first = client.ask() / 1000
    return {"first": first, "since_exec": peer.start_ms + first, "start": peer.start_ms}


def many_streams(peer: Peer, count: int, asked: int, wait: Callable[[], None]) -> Sample:
    """Open `count` streams that stay silent: CPU and memory for each, and p50 of requests meanwhile.

    Also the resident set before, after some requests. wait: returns when the upstream has seen all streams end.
    """
    wait()
    head = request(peer, EVENTS, "hold", len(BODY)) + BODY
    sample: Sample = {}
    with Client(peer) as client, ExitStack() as undo:
        for _ in range(50):
            client.ask()
        idle_kb = _memory_kb(peer, "VmRSS")
        before = cpu_us(peer)
        for _ in range(count):
            sock = undo.enter_context(peer.connect(EVENTS))
            sock.sendall(head)
            received = b""
            while b"}\n\n" not in received:
                received += _some(sock)
        sample["cpu"] = (cpu_us(peer) - before) / count
        if peer.pids:
            sample["idle"] = idle_kb / 1024
            sample["memory"] = (_memory_kb(peer, "VmRSS") - idle_kb) / count
        times = sorted(client.ask() for _ in range(asked))
        sample["p50"] = times[len(times) // 2]
    return sample


def cpu_us(peer: Peer) -> float:
    """Return the CPU time that all of the peer's processes have used, with threads that have ended.

    The kernel's clock of another process is ~PID << 3 | CPUCLOCK_SCHED: clock_getcpuclockid(3).
    """
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in peer.pids) / 1000


def resident_kb(peer: Peer) -> int:
    """Return the resident set of all of the peer's processes."""
    return _memory_kb(peer, "VmRSS")


def allow_many_files() -> None:
    """Raise the soft limit of open files, for the client and for what it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def threads(pid: int) -> int:
    """Return how many threads a process has."""
    return _status(pid, "Threads")


def _memory_kb(peer: Peer, field: str) -> int:
    return sum(_status(pid, field) for pid in peer.pids)


def _status(pid: int, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found, field
    return int(found[1])


def _reset_peak(peer: Peer) -> None:
    for pid in peer.pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _some(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    assert data, "the peer hangs up in the middle of an answer"
    return data


def _p99(ordered: list[float]) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
