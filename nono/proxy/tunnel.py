"""Two ends whose bytes are no longer HTTP: after CONNECT, or after 101 Switching Protocols.

Each direction moves on its own and ends on its own: a FIN from one side is passed on after everything before it, and
the tunnel is over when both directions are. Between two plain sockets the bytes go through a pipe by splice(2) and
never enter this process (half the CPU of copying); to or from TLS they are copied through the shared buffer. Back-
pressure: a direction whose target takes no more stops reading its source.

TLS cannot be closed in one direction only: when the plain side ends, what is under way is sent and both are closed.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

from nono.kernel import splice
from nono.loop import READ, WRITE
from nono.proxy.stream import WOULD_BLOCK, Stream

PIPE_BYTES = 1 << 20
CAN_SPLICE = hasattr(os, "splice")  # Linux; elsewhere bytes are copied


class _Direction:
    """Bytes from `source` to `target`."""

    __slots__ = ("ended", "in_pipe", "moved", "pipe", "source", "spliced", "target")

    def __init__(self, source: Stream, target: Stream, spliced: bool) -> None:
        self.source = source
        self.target = target
        self.spliced = spliced
        self.pipe: splice.Pipe | None = None  # opened with the first byte: an idle tunnel costs no pipe
        self.in_pipe = 0
        self.moved = 0
        self.ended = False  # the source said FIN

    @property
    def blocked(self) -> bool:
        """Whether the target must become writable before more is read."""
        return bool(self.in_pipe or self.target.queued)

    @property
    def over(self) -> bool:
        return self.ended and not self.blocked

    def pump(self, buffer: memoryview) -> None:
        """Move what can be moved now. Raises OSError when either end failed."""
        if self.spliced:
            self._splice()
        else:
            self._copy(buffer)

    def close(self) -> None:
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None

    def _splice(self) -> None:
        if self.target.queued and not self.target.flush():  # bytes that came before the tunnel
            return
        pipe = self.pipe
        if pipe is None:
            pipe = self.pipe = splice.open_pipe(PIPE_BYTES)
        try:
            while True:
                if not self.in_pipe:
                    if self.ended:
                        return
                    self.in_pipe = splice.splice(self.source.fd, pipe.write_fd, pipe.capacity)
                    if not self.in_pipe:
                        self.ended = True
                        return
                sent = splice.splice(pipe.read_fd, self.target.fd, self.in_pipe)
                self.in_pipe -= sent
                self.moved += sent
                if self.in_pipe:
                    return
        except BlockingIOError:
            return

    def _copy(self, buffer: memoryview) -> None:
        if self.target.queued and not self.target.flush():
            return
        if self.ended:
            return
        try:
            size = self.source.recv_into(buffer)
        except WOULD_BLOCK:
            return
        if not size:
            self.ended = True
            return
        self.moved += size
        self.target.write(buffer[:size])


class Tunnel:
    """Takes over both streams; calls `done(bytes_up, bytes_down)` once, when both are closed."""

    def __init__(self, client: Stream, upstream: Stream, buffer: memoryview, done: Callable[[int, int], None]) -> None:
        self._client = client
        self._upstream = upstream
        self._buffer = buffer
        self._moved_at = client.loop.now
        self._done: Callable[[int, int], None] | None = done
        plain = not isinstance(client.sock, ssl.SSLSocket) and not isinstance(upstream.sock, ssl.SSLSocket)
        self._is_plain = plain
        self._up = _Direction(client, upstream, plain and CAN_SPLICE)
        self._down = _Direction(upstream, client, plain and CAN_SPLICE)

    def begin(self, early: bytes) -> None:
        """Start moving. early: what the client sent before the tunnel stood."""
        self._client.rebind(self._client_event)
        self._upstream.rebind(self._upstream_event)
        if early:
            self._up.moved = len(early)
            try:
                self._upstream.write(early)
            except OSError:
                self.close()
                return
        self._settle()

    def check(self, now: float, stalled_s: float) -> None:
        """End a tunnel that is half closed, or whose reader takes nothing, and where nothing has moved for a while."""
        hindered = self._up.ended or self._down.ended or self._up.blocked or self._down.blocked
        if hindered and stalled_s and now - self._moved_at > stalled_s:
            self.close()

    def close(self) -> None:
        """End it now."""
        done, self._done = self._done, None
        self._up.close()
        self._down.close()
        self._client.close()
        self._upstream.close()
        if done is not None:
            done(self._up.moved, self._down.moved)

    def _client_event(self, events: int) -> None:
        self._moved(self._up if events & READ else None, self._down if events & WRITE else None)

    def _upstream_event(self, events: int) -> None:
        self._moved(self._down if events & READ else None, self._up if events & WRITE else None)

    def _moved(self, reader: _Direction | None, writer: _Direction | None) -> None:
        if self._done is None:
            return
        self._moved_at = self._client.loop.now
        try:
            for direction in (reader, writer):
                if direction is not None:
                    was_ended = direction.over
                    direction.pump(self._buffer)
                    if direction.over and not was_ended:
                        if not self._is_plain:
                            self.close()
                            return
                        direction.target.shutdown_write()
        except OSError:
            self.close()
            return
        self._settle()

    def _settle(self) -> None:
        if self._up.over and self._down.over:
            self.close()
            return
        for stream, outward, inward in (
            (self._client, self._up, self._down),
            (self._upstream, self._down, self._up),
        ):
            # `outward` reads this stream, `inward` writes to it.
            stream.want(outward.ended or outward.blocked, inward.blocked)
