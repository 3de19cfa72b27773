"""Two ends whose bytes are no longer HTTP: after CONNECT, or after 101 Switching Protocols.

Each direction moves on its own and ends on its own: a FIN from one side is passed on after everything before it, and
the tunnel is over when both directions are. Between two plain sockets the bytes go through a pipe by splice(2) and
never enter this process (half the CPU of copying); to or from TLS they are copied through the shared buffer. Back-
pressure: a direction whose target takes no more stops reading its source.

A direction holds a pipe only while there are bytes in it: what its target did not take. So a few pipes serve thousands
of tunnels. The kernel counts pipes' capacity for each user and, past pipe-user-pages-soft (64 MiB), gives all programs
of this user pipes of a page or two; therefore only LARGE_PIPES get the large capacity, and the others the usual one.
Where no pipe can be had at all, the bytes are copied.

A fast direction rests. The kernel wakes a reader for each record that comes, and waking costs more than moving one: a
direction that has moved BULKY_BYTES within REST_S is left alone for REST_S, while the kernel's buffers fill, and then
moved in one go. So a tunnel costs few turns a millisecond, however the packets fall; what comes in small pieces, with
time between them, is never kept waiting.

TLS cannot be closed in one direction only: when the plain side ends, what is under way is sent and both are closed.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from functools import partial

from nono.kernel import splice
from nono.loop import READ, WRITE
from nono.proxy.stream import WOULD_BLOCK, Stream

PIPE_BYTES = 1 << 20
LARGE_PIPES = 16  # at once; a quarter of what the kernel lets a user have
KEPT_PIPES = 4
BULKY_BYTES = 256 << 10
REST_S = 0.001  # the grain of the loop's timers, and far below what the buffers of a fast connection hold
MAX_ROUNDS = 4  # of splicing in one turn, so that two fast peers do not hold up everybody else
CAN_SPLICE = hasattr(os, "splice")  # Linux; elsewhere bytes are copied


class Pipes:
    """The empty pipes of one proxy, for whichever tunnel has bytes to move."""

    __slots__ = ("_free", "_large")

    def __init__(self) -> None:
        self._free: list[splice.Pipe] = []
        self._large = 0

    def take(self) -> splice.Pipe | None:
        """Return an empty pipe; None when there are no descriptors left."""
        if self._free:
            return self._free.pop()
        try:
            pipe = splice.open_pipe(PIPE_BYTES if self._large < LARGE_PIPES else 0)
        except OSError:
            return None
        self._large += pipe.capacity >= PIPE_BYTES
        return pipe

    def give_back(self, pipe: splice.Pipe) -> None:
        """Keep an empty pipe for the next."""
        if len(self._free) < KEPT_PIPES and pipe.capacity >= PIPE_BYTES:
            self._free.append(pipe)
        else:
            self.discard(pipe)

    def discard(self, pipe: splice.Pipe) -> None:
        """Close a pipe, and drop what is in it."""
        self._large -= pipe.capacity >= PIPE_BYTES
        pipe.close()

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._free:
            self.discard(self._free.pop())


class _Direction:
    """Bytes from `source` to `target`."""

    __slots__ = (
        *("_since", "_start", "ended", "in_pipe", "moved"),
        *("over", "pipe", "pipes", "resting", "source", "target"),
    )

    def __init__(self, source: Stream, target: Stream, pipes: Pipes | None) -> None:
        """pipes: None where bytes must be copied."""
        self.source = source
        self.target = target
        self.pipes = pipes
        self.pipe: splice.Pipe | None = None  # while there are bytes in it
        self.in_pipe = 0
        self.moved = 0
        self.ended = False  # the source said FIN
        self.over = False  # and nothing is left to be sent
        self.resting = False  # its source is not read for a while
        self._since = 0.0  # the time from which bytes are counted, and how many had been moved then
        self._start = 0

    @property
    def blocked(self) -> bool:
        """Whether the target must become writable before more is read."""
        return bool(self.in_pipe or self.target.queued)

    def must_rest(self, now: float) -> bool:
        """Whether so much was spliced of late that it should rest."""
        if now - self._since > REST_S:
            self._since, self._start = now, self.moved
            return False
        return self.moved - self._start >= BULKY_BYTES and not self.in_pipe and self.pipes is not None

    def pump(self, buffer: memoryview) -> bool:
        """Move what can be moved now; return whether all has been. Raises OSError when either end failed."""
        if self.target.queued and not self.target.flush():  # copied bytes, or some that came before the tunnel
            return False
        pipes = self.pipes
        pipe = self.pipe or (pipes.take() if pipes is not None else None)
        if pipes is None or pipe is None:
            self._copy(buffer)
        else:
            self.pipe = pipe
            try:
                self._splice(pipe)
            finally:
                if not self.in_pipe:
                    self.pipe = None
                    pipes.give_back(pipe)
        self.over = self.ended and not self.blocked
        return self.over

    def close(self) -> None:
        pipe, self.pipe = self.pipe, None
        if pipe is not None and self.pipes is not None:
            self.pipes.discard(pipe)

    def _splice(self, pipe: splice.Pipe) -> None:
        try:
            for _ in range(MAX_ROUNDS):
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

    __slots__ = ("_buffer", "_client", "_done", "_down", "_is_plain", "_moved_at", "_up", "_upstream")

    def __init__(
        self,
        client: Stream,
        upstream: Stream,
        buffer: memoryview,
        done: Callable[[int, int], None],
        pipes: Pipes,
    ) -> None:
        """buffer, pipes: shared by all tunnels of one loop."""
        self._client = client
        self._upstream = upstream
        self._buffer = buffer
        self._moved_at = client.loop.now
        self._done: Callable[[int, int], None] | None = done
        plain = not isinstance(client.sock, ssl.SSLSocket) and not isinstance(upstream.sock, ssl.SSLSocket)
        self._is_plain = plain
        shared = pipes if plain and CAN_SPLICE else None
        self._up = _Direction(client, upstream, shared)
        self._down = _Direction(upstream, client, shared)

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

    def overdue(self, now: float, stalled_s: float, idle_s: float) -> str:
        """Why it should be ended, empty where it should not; 0 is no limit.

        stalled_s: for one that is half closed, or whose reader takes nothing. idle_s: for any in which nothing moves.
        """
        still_s = now - self._moved_at
        if idle_s and still_s > idle_s:
            return f"no byte moved for {idle_s:g} s"
        if stalled_s and still_s > stalled_s:
            if self._up.blocked or self._down.blocked:
                return "its reader takes nothing"
            if self._up.ended or self._down.ended:
                return "half closed, and nothing moved"
        return ""

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
        loop = self._client.loop
        self._moved_at = loop.now
        try:
            for direction in (reader, writer):
                if direction is None or direction.over:
                    continue
                if direction.pump(self._buffer):
                    if not self._is_plain or (self._up.over and self._down.over):
                        self.close()
                        return
                    direction.target.shutdown_write()
                elif direction.must_rest(loop.now) and not direction.resting:
                    direction.resting = True
                    loop.call_later(REST_S, partial(self._go_on, direction))
        except OSError:
            self.close()
            return
        self._settle()

    def _go_on(self, direction: _Direction) -> None:
        """Move what came while `direction` rested."""
        direction.resting = False
        self._moved(direction, None)

    def _settle(self) -> None:
        up, down = self._up, self._down
        up_blocked, down_blocked = up.blocked, down.blocked
        self._client.want(up.ended or up.resting or up_blocked, down_blocked)
        self._upstream.want(down.ended or down.resting or down_blocked, up_blocked)
