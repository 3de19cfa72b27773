"""A proxy on a thread of its own, and a client that says exactly which bytes it sends."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

from nono.loop import Loop
from nono.policy.allowlist import Verdict
from nono.policy.routes import Presentation, Route
from nono.proxy.pins import Pins
from nono.proxy.server import Allowlist, BoundRoute, Exchange, Limits, Proxy
from tests.fakes import TIMEOUT_S, Upstream

TOKEN = b"0123456789abcdef" * 4
KEY = b"sk-real-0123456789-key"


class PlainBuffer:
    """Stand-in for secret memory: the tests run where little memory can be locked."""

    made = 0

    def __init__(self, size: int = 0, content: bytes = b"") -> None:
        self.memory = bytearray(content or size)
        self.view = memoryview(self.memory)
        self.length = len(content)

    def close(self) -> None:
        self.view[:] = bytes(len(self.view))


def route(name: str, upstream: str, ca: str = "", **fields: Any) -> BoundRoute:
    key = fields.pop("key", KEY)
    credential = PlainBuffer(content=key) if key is not None else None
    fields.setdefault("inject", Presentation())
    return BoundRoute(Route(name, upstream, f"{name}_api_key", tls_ca=ca, **fields), credential)


def any_host(host: str, port: int, *, tunnel: bool) -> Verdict:
    """An allowlist that lets every host pass."""
    return Verdict(False)


class RunningProxy:
    """A proxy that serves until closed. `exchanges` is what the audit was told."""

    def __init__(
        self, routes: Sequence[BoundRoute], allowlist: Allowlist | None = None, limits: Limits | None = None,
        pins: Callable[[Loop], Pins] | None = None, warm: bool = False, **more: Any,
    ) -> None:  # fmt: skip
        self.loop = Loop()
        self.exchanges: list[Exchange] = []
        self.changed = threading.Condition()
        self.buffers: list[PlainBuffer] = []
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = listener.getsockname()[1]
        self.proxy = Proxy(
            self.loop, listener.detach(), TOKEN, self.port, routes, allowlist, limits or Limits(), self._record,
            pins=pins(self.loop) if pins else None, make_scratch=self._scratch, **more,
        )  # fmt: skip
        if warm:
            self.proxy.warm()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.error: BaseException | None = None

    def call(self, function: Callable[[], Any]) -> Any:
        """Run a function in the loop's thread and return its result."""
        done = threading.Event()
        result: list[Any] = []

        def run() -> None:
            result.append(function())
            done.set()

        self.loop.call_from_thread(run)
        assert done.wait(TIMEOUT_S)
        return result[0]

    def wait(self, condition: Callable[[list[Exchange]], bool]) -> list[Exchange]:
        """Until the audit was told what is awaited."""
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self.exchanges), TIMEOUT_S), self.exchanges
            return list(self.exchanges)

    def settle(self, condition: Callable[[], bool]) -> None:
        """Until a condition on the proxy holds, looked at in every turn of its loop."""
        done = threading.Event()

        def look() -> None:
            if condition():
                done.set()
            elif not done.is_set():
                self.loop.call_later(0.002, look)

        self.loop.call_from_thread(look)
        assert done.wait(TIMEOUT_S), "the proxy did not come to rest"

    def close(self) -> None:
        self.loop.call_from_thread(self.loop.stop)
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        self.proxy.close()
        self.loop.close()
        assert self.error is None, self.error
        assert not [e for e in self.exchanges if e.code == "internal_error"], self.exchanges
        for buffer in self.buffers:
            assert not any(buffer.memory), "a credential was left in the scratch"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _scratch(self, size: int) -> PlainBuffer:
        self.buffers.append(PlainBuffer(size))
        return self.buffers[-1]

    def _record(self, exchange: Exchange) -> None:
        with self.changed:
            self.exchanges.append(exchange)
            self.changed.notify_all()

    def _run(self) -> None:
        try:
            self.loop.run()
        except BaseException as error:
            self.error = error
            raise


class Answer:
    """One answer as the client read it. raw: head and body as they came."""

    def __init__(self, raw_head: bytes, body: bytes, complete: bool) -> None:
        lines = raw_head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.status_line = lines[0]
        self.headers = [(n, v.strip()) for n, _, v in (line.partition(":") for line in lines[1:] if line)]
        self.body = body
        self.complete = complete

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def code(self) -> str | None:
        return self.header("x-nono-error")

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A connection to a proxy. `send` takes bytes as they are; `{TOKEN}` is the caller's affair."""

    def __init__(self, proxy: RunningProxy | int, rcvbuf: int = 0) -> None:
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(("127.0.0.1", proxy if isinstance(proxy, int) else proxy.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def request(self, method: str, target: str, *headers: str, body: bytes | None = None, host: str = "proxy") -> None:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))

    def get(self, target: str, *headers: str, method: str = "GET", body: bytes | None = None) -> Answer:
        """A request with the token as Bearer, and its answer."""
        self.request(method, target, f"Authorization: Bearer {TOKEN.decode()}", *headers, body=body)
        return self.answer(method)

    def read(self) -> bytes:
        data = self.sock.recv(65536)
        self.buffer += data
        return data

    def read_until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            assert self.read(), f"the connection ended before {end!r}: {self.buffer!r}"
        data, _, self.buffer = self.buffer.partition(end)
        return data + end

    def answer(self, method: str = "GET") -> Answer:
        """Read one answer. `complete` is false when the connection ended before it did."""
        head = self.read_until(b"\r\n\r\n")
        probe = Answer(head, b"", True)
        if method == "HEAD" or probe.status in (204, 304) or probe.status < 200:
            return probe
        length, chunked = probe.header("content-length"), probe.header("transfer-encoding") == "chunked"
        body, complete = b"", True
        try:
            if chunked:
                while True:
                    line = self._take(b"\r\n")
                    body += line
                    size = int(line.split(b";")[0], 16)
                    if not size:
                        break
                    body += self._take_bytes(size + 2)
                while True:
                    line = self._take(b"\r\n")
                    body += line
                    if line == b"\r\n":
                        break
            elif length is not None:
                body = self._take_bytes(int(length))
            else:
                while self.read():
                    pass
                body, self.buffer = self.buffer, b""
        except (EOFError, ConnectionResetError):
            body, self.buffer, complete = self.buffer if not chunked else body + self.buffer, b"", False
        return Answer(head, body, complete)

    def at_end(self) -> bool:
        """Whether the proxy closes without sending more."""
        try:
            return not self.buffer and not self.read()
        except ConnectionResetError:
            return True

    def _take(self, end: bytes) -> bytes:
        while end not in self.buffer:
            if not self.read():
                raise EOFError
        data, _, self.buffer = self.buffer.partition(end)
        return data + end

    def _take_bytes(self, size: int) -> bytes:
        pieces, have = [self.buffer], len(self.buffer)
        self.buffer = b""
        while have < size:
            data = self.sock.recv(262144)
            if not data:
                self.buffer = b"".join(pieces)
                raise EOFError
            pieces.append(data)
            have += len(data)
        whole = b"".join(pieces)
        self.buffer = whole[size:]
        return whole[:size]


def bearer() -> str:
    return f"Authorization: Bearer {TOKEN.decode()}"


__all__ = ["KEY", "TOKEN", "Answer", "Client", "PlainBuffer", "RunningProxy", "Upstream", "bearer", "route"]
