"""Connect to the first of several addresses that answers (happy eyeballs).

The addresses are tried in their order. The next attempt begins when the last one has failed, or ATTEMPT_DELAY_S after
it began; those under way go on beside it, each for `connect_s` at most. The first connection that stands wins, the
others are closed. Where the first address answers at once, as on loopback, nothing is registered and no timer is made.

Source: RFC 8305 section 5. (Section 4's order of families is what `pins` hands out.)
"""

from __future__ import annotations

import _socket
import os
import socket
from collections.abc import Callable
from errno import EALREADY, EINPROGRESS, EINVAL, EISCONN
from math import inf

from nono.loop import WRITE, Loop, Timer
from nono.proxy.pins import Address, sockaddr

ATTEMPT_DELAY_S = 0.25

_PENDING = (EINPROGRESS, EALREADY)
_NON_BLOCKING = int(getattr(socket, "SOCK_NONBLOCK", 0))  # not on macOS
_NON_BLOCKING_STREAM = socket.SOCK_STREAM | _NON_BLOCKING


class _Attempt:
    """A connection that does not stand yet."""

    __slots__ = ("address", "deadline", "race", "sock")

    def __init__(self, race: Race, sock: _socket.socket, address: Address, deadline: float) -> None:
        self.race = race
        self.sock = sock
        self.address = address
        self.deadline = deadline

    def ready(self, events: int) -> None:
        self.race.decided(self)


class Race:
    """The attempts to reach one host.

    tried: the address that was connected to, or that failed last. error: why it failed. timed_out: whether one did.
    """

    __slots__ = (
        "_addresses", "_connect_s", "_connected", "_failed", "_loop", "_next", "_next_at", "_pending", "_timer",
        "error", "timed_out", "tried",
    )  # fmt: skip

    def __init__(
        self,
        loop: Loop,
        addresses: list[Address],
        connect_s: float,
        connected: Callable[[_socket.socket], None],
        failed: Callable[[], None],
    ) -> None:
        """connect_s: seconds for each address, 0 for as long as the kernel tries. One of the callbacks ends a start."""
        self._loop = loop
        self._addresses = addresses
        self._connect_s = connect_s
        self._connected = connected
        self._failed = failed
        self._next = 0
        self._next_at = 0.0
        self._pending: list[_Attempt] = []  # the oldest first
        self._timer: Timer | None = None
        self.tried: Address | None = None
        self.error = ""
        self.timed_out = False

    def start(self) -> None:
        """Try the addresses; again after a win, those that are left. May call back at once."""
        addresses = self._addresses
        while self._next < len(addresses):
            address = self.tried = addresses[self._next]
            self._next += 1
            try:
                # Without socket.py, whose enums and wrapper cost more than the call; ssl takes it as well.
                sock = _socket.socket(address.family, _NON_BLOCKING_STREAM)
            except OSError as error:
                self.error = os.strerror(error.errno or 0)
                continue
            try:
                if not _NON_BLOCKING:
                    sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                name = sockaddr(address)
                result = sock.connect_ex(name)
                if result in _PENDING:
                    result = sock.connect_ex(name)  # on loopback it stands already; costs less than asking poll
            except OSError as error:
                result = error.errno or EINVAL
            if result in (0, EISCONN):
                self._won(sock)
                return
            if result in _PENDING:
                deadline = self._loop.now + self._connect_s if self._connect_s else inf
                attempt = _Attempt(self, sock, address, deadline)
                self._pending.append(attempt)
                self._next_at = self._loop.now + ATTEMPT_DELAY_S
                self._loop.register(sock.fileno(), WRITE, attempt.ready)
                self._arm()
                return
            self.error = os.strerror(result)
            sock.close()
        if not self._pending:
            self.close()
            self._failed()
        else:
            self._arm()

    def close(self) -> None:
        """Give up; nothing is called any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._pending:
            self._drop(self._pending[-1])

    def decided(self, attempt: _Attempt) -> None:
        """The kernel knows how an attempt ended."""
        if attempt not in self._pending:
            return  # lost in this very turn
        result = attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self.tried = attempt.address
        if not result:
            self._pending.remove(attempt)
            self._loop.unregister(attempt.sock.fileno())
            self._won(attempt.sock)
            return
        self.error = os.strerror(result)
        self._drop(attempt)
        self.start()

    def _won(self, sock: _socket.socket) -> None:
        if self._pending or self._timer is not None:
            self.close()
        self._connected(sock)

    def _drop(self, attempt: _Attempt) -> None:
        self._pending.remove(attempt)
        self._loop.unregister(attempt.sock.fileno())
        attempt.sock.close()

    def _arm(self) -> None:
        """Wake up for the next attempt, or for the end of the oldest."""
        if self._timer is not None:
            self._timer.cancel()
        at = self._pending[0].deadline
        if self._next < len(self._addresses):
            at = min(at, self._next_at)
        self._timer = self._loop.call_later(at - self._loop.now, self._due) if at < inf else None

    def _due(self) -> None:
        now = self._loop.now
        while self._pending and self._pending[0].deadline <= now:
            self.tried = self._pending[0].address
            self.timed_out = True
            self._drop(self._pending[0])
        if not self._pending or (self._next < len(self._addresses) and self._next_at <= now):
            self.start()
        else:
            self._arm()
