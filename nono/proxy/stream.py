"""One end of a connection: a non-blocking socket, plain or TLS, with what it could not send yet.

Knows no HTTP. Writing is optimistic: the kernel is tried at once, and only what it did not take is queued and waited
for; the read registration is permanent. Both save a system call and a selector update per message, which is most of
what a proxy in Python costs. Reading is paused only for back-pressure.

What is queued is a copy, except for secrets: those stay in the slot of locked memory where they were assembled, and
the slot is released (wiped) when the last byte was taken. TLS adds one rule: after WANT_WRITE OpenSSL has encrypted a
record already, so the same bytes must be offered again; the queue keeps each piece as it was first offered. (The buffer
may have moved: Python sets SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER and SSL_MODE_ENABLE_PARTIAL_WRITE.)

Reads must offer at least a TLS record (16 KiB), so that OpenSSL never keeps decrypted bytes that no selector sees.
"""

from __future__ import annotations

import _socket
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from errno import EBADF, ECONNABORTED
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from nono.loop import READ, WRITE, Loop

if TYPE_CHECKING:
    from nono.proxy.inject import Slot

RECORD_BYTES = 16384

# "Nothing now": not errors. A TLS read may want to write (key update) and the reverse; the next call does it.
WOULD_BLOCK = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError, InterruptedError)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def _is_closed(_: object) -> NoReturn:
    raise OSError(EBADF, "closed")


class Stream:
    """A registered socket. `callback(events)` is the loop's; whoever holds the stream flushes and reads."""

    __slots__ = (
        "_events",
        "_queue",
        "fd",
        "loop",
        "paused",
        "queued",
        "recv",
        "recv_into",
        "send",
        "sock",
        "stalled_since",
    )

    def __init__(
        self, loop: Loop, sock: _socket.socket, callback: Callable[[int], None], *, armed: bool = True
    ) -> None:
        """armed: false for one that is used at once; its events are not waited for until `arm`."""
        self.loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        # Of the TLS object itself where it can be had: SSLSocket's methods put two frames of Python around each.
        tls: Any = getattr(sock, "_sslobj", None)
        self.recv: Callable[[int], bytes] = sock.recv if tls is None else tls.read
        self.recv_into: Callable[[memoryview], int] = sock.recv_into if tls is None else partial(tls.read, 0)
        self.send: Callable[[bytes | memoryview], int] = sock.send if tls is None else tls.write
        self._queue: deque[tuple[memoryview, Slot | None]] | None = None
        self.queued = 0  # bytes; whoever feeds this stream stops while there are any
        self.stalled_since = 0.0
        self.paused = False
        self._events = READ
        loop.register(self.fd, READ if armed else 0, callback)

    def arm(self) -> None:
        """Wait for events from now on. That comes after the first use: it costs a new connection 10 µs."""
        if self.fd >= 0:
            self.loop.modify(self.fd, self._events)

    def write(self, data: bytes | memoryview) -> None:
        """Send what the kernel takes, queue a copy of the rest. Raises OSError when the connection is gone."""
        size = len(data)
        sent = 0
        if not self.queued:
            try:
                sent = self.send(data)
                if sent < size:  # TLS takes one record at a time
                    view = memoryview(data)
                    while sent < size:
                        sent += self.send(view[sent:])
                return
            except WOULD_BLOCK:
                pass
        if sent < size:
            self._enqueue(memoryview(bytes(memoryview(data)[sent:])), None)

    def write_slot(self, slot: Slot, size: int) -> None:
        """Send `size` bytes of a slot of locked memory; it is released when they are sent or the stream closes."""
        view = slot.view[:size]
        sent = 0
        if not self.queued:
            try:
                sent = self.send(view)
                while sent < size:
                    sent += self.send(view[sent:])
            except WOULD_BLOCK:
                pass
            except BaseException:
                slot.release()
                raise
        if sent < size:
            self._enqueue(view[sent:], slot)
        else:
            slot.release()

    def write_before(self, slot: Slot, data: bytes) -> None:
        """Write what comes before a slot's content; the slot is released if that fails."""
        try:
            self.write(data)
        except OSError:
            slot.release()
            raise

    def flush(self) -> bool:
        """Send what is queued; return whether all of it is gone. Raises OSError."""
        queue = self._queue
        while queue:
            data, slot = queue[0]
            try:
                sent = self.send(data)
            except ssl.SSLWantReadError:
                # A renegotiation (no later handshake makes a write wait for a read): refused, and waiting for a
                # socket that is writable all the time would only burn the CPU.
                raise ConnectionAbortedError(ECONNABORTED, "the peer wants to renegotiate") from None
            except WOULD_BLOCK:
                return False
            self.queued -= sent
            self.stalled_since = self.loop.now
            if sent < len(data):
                queue[0] = (data[sent:], slot)
            else:
                queue.popleft()
                if slot is not None:
                    slot.release()
        self._queue = None
        if self._events & WRITE:
            self._want(self._events & ~WRITE)
        return True

    def forget_queue(self) -> None:
        """Drop what is queued: nobody will take it."""
        queue, self._queue, self.queued = self._queue, None, 0
        for _, slot in queue or ():
            if slot is not None:
                slot.release()
        if self._events & WRITE:
            self._want(self._events & ~WRITE)

    def pause(self) -> None:
        """Stop reading; the peer's bytes stay in the kernel, and so in the peer."""
        if self._events & READ:
            self._want(self._events & ~READ)

    def resume(self) -> None:
        """Read again."""
        if not self._events & READ and self.fd >= 0:
            self._want(self._events | READ)

    def want(self, no_read: bool, write: bool) -> None:
        """Choose both events at once, for those who keep their own queue (tunnels)."""
        events = (0 if no_read else READ) | (WRITE if write else 0)
        if events != self._events:
            self._want(events)

    def rebind(self, callback: Callable[[int], None]) -> None:
        """Let another callback have this stream's events."""
        self.loop.rebind(self.fd, self._events, callback)

    def shutdown_write(self) -> None:
        """Say that no more will be written: FIN, with TLS close_notify before it; what still comes is not decrypted."""
        tls: Any = getattr(self.sock, "_sslobj", None)
        if tls is not None:
            try:
                tls.shutdown()
            except OSError:
                pass  # it was sent, and the peer's own is not there yet; or the connection is lost
            # What still comes is dropped: not worth decrypting, and OpenSSL would take data after its end for an error.
            self.recv = partial(_socket.socket.recv, self.sock)
        try:
            _socket.socket.shutdown(self.sock, socket.SHUT_WR)
        except OSError:
            pass

    def release(self) -> _socket.socket:
        """Stop watching; the socket is the caller's."""
        self.loop.unregister(self.fd)
        self.fd = -1
        return self.sock

    def close(self) -> None:
        """Close at once; queued bytes are dropped, slots wiped. Twice is once."""
        if self.fd < 0:
            return
        if self.queued:
            self.forget_queue()
        self.loop.unregister(self.fd)
        self.fd = -1
        self.recv = self.recv_into = self.send = _is_closed  # the TLS object would go on with the descriptor's number
        self.sock.close()

    def reset(self) -> None:
        """Close with RST, so that the peer cannot take what it has for the whole."""
        if self.fd >= 0:
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            except OSError:
                pass
            self.close()

    def _enqueue(self, data: memoryview, slot: Slot | None) -> None:
        if self._queue is None:
            self._queue = deque()
            self.stalled_since = self.loop.now
            self._want(self._events | WRITE)
        self._queue.append((data, slot))
        self.queued += len(data)

    def _want(self, events: int) -> None:
        self._events = events
        self.paused = not events & READ
        self.loop.modify(self.fd, events)
