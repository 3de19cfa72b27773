"""The proxy: the one door of this room.

Takes a listening descriptor, the session's token, the routes with their credentials, and the allowlist; serves until it
is closed. Runs on the loop it is given, and starts threads for what blocks (DNS, reading certificates) and nothing
else. It never prints and never raises into the loop: what happened to each request is told to `audit`.
"""

from __future__ import annotations

import _socket
import time
from collections.abc import Callable, Sequence

from nono.kernel.secretmem import SecretBuffer
from nono.loop import Loop, Timer
from nono.proxy.chain import Chain
from nono.proxy.exchange import Conversation
from nono.proxy.inject import LockedBuffer, ScratchPool
from nono.proxy.judge import Allowlist, Judge
from nono.proxy.latecomers import Latecomers
from nono.proxy.limits import Limits
from nono.proxy.listener import Listener
from nono.proxy.pins import Pins, scope_of_route
from nono.proxy.route import BoundRoute, Origin
from nono.proxy.services import BUFFER_BYTES, Exchange, Interceptor, Services
from nono.proxy.tls import Contexts
from nono.proxy.tunnel import Pipes
from nono.proxy.upstream import Pool

__all__ = ["Allowlist", "BoundRoute", "Chain", "Exchange", "Limits", "Proxy"]

# How often the time-outs are looked at: a quarter of the shortest, at most once a second.
_MAX_CHECK_S = 1.0


class Proxy:
    """One session's proxy."""

    def __init__(
        self,
        loop: Loop,
        listener_fd: int,
        token: bytes,
        port: int,
        routes: Sequence[BoundRoute],
        allowlist: Allowlist | None,
        limits: Limits,
        audit: Callable[[Exchange], None],
        *,
        intercept: Interceptor | None = None,
        lacks_library: bool = False,
        chain: Chain | None = None,
        opened: Callable[[Exchange], None] | None = None,
        pins: Pins | None = None,
        make_scratch: Callable[[int], LockedBuffer] = SecretBuffer,
        admits: Callable[[int], bool] | None = None,
    ) -> None:
        """Serve `listener_fd` (owned from now on) for 127.0.0.1:`port`.

        token: the phantom token, 64 hex characters. allowlist: None when only the routes are reachable.
        intercept: ends clients' TLS for routes' hosts and for hosts of which some paths are granted. lacks_library: the
        operator wants that, but what it takes is not installed; refusals then say how to get it.
        chain: the operator's own proxy, through which upstreams are reached; closed with this one.
        opened: told of each tunnel that begins, as `audit` is of its end; its code is "opened".
        admits: whether a connection from this port of 127.0.0.1 is the child's; None: whoever can connect is.
        pins, make_scratch: stand-ins for tests. Raises PolicyError for a route that cannot be carried out, KernelError
        when no memory can be locked.
        """
        self._loop = loop
        self._limits = limits
        self._pins = pins or Pins(loop)
        self._chain = chain
        self._contexts = Contexts(loop)
        self._pools: dict[tuple[Origin, str | None], Pool] = {}
        self._conversations: set[Conversation] = set()
        judge = self._judge = Judge(
            token, routes, port, allowlist, limits.max_target_bytes, intercepts=intercept is not None,
            lacks_library=lacks_library,
        )  # fmt: skip
        self._destinations = judge.router.destinations
        self._scratch = ScratchPool(make_scratch, limits.scratch_slots)
        self._pipes = Pipes()
        self.latecomers = Latecomers(loop)
        buffer = bytearray(BUFFER_BYTES)
        self._services = Services(
            loop, limits, judge, token, self._scratch, self._pool, audit, self._conversations.discard,
            buffer, memoryview(buffer), self._pipes, self.latecomers, intercept, opened,
        )  # fmt: skip
        seconds = (
            limits.client_head_s, limits.client_body_s, limits.client_idle_s, limits.upstream_head_s,
            limits.stalled_write_s, limits.linger_s, limits.slot_s, limits.slot_wait_s, limits.tunnel_idle_s,
            limits.tls_s,
        )  # fmt: skip
        self._check_s = min([_MAX_CHECK_S, *(s / 4 for s in seconds if s)])
        self._timer: Timer | None = None
        self._closed = False
        self._drained: Callable[[], None] | None = None
        self._listener = Listener(loop, listener_fd, self._has_room, self._accepted, self._turned_away, admits)

    @property
    def active(self) -> int:
        """Exchanges and tunnels under way."""
        return sum(conversation.active for conversation in self._conversations)

    @property
    def connections(self) -> int:
        """Client connections, also idle ones."""
        return len(self._conversations)

    def warm(self, done: Callable[[], None] | None = None) -> None:
        """Connect to each route's upstream in the background, while the child starts.

        done: called once, in the loop, when each has been connected to, or cannot be.
        """
        origins = {d.origin for d in self._destinations if d.bound.credential is not None}
        left = len(origins)

        def ended() -> None:
            nonlocal left
            left -= 1
            if left == 0 and done is not None:
                done()

        for origin in origins:
            self._pool(origin, None).warm(ended)
        if not origins and done is not None:
            self._loop.call_soon(done)

    def drain(self, timeout_s: float, done: Callable[[], None]) -> None:
        """Accept no more, let exchanges end for at most `timeout_s`, then close everything and call `done` once."""
        self._listener.close()
        self._drained = done
        self.latecomers.over()
        for conversation in list(self._conversations):
            if not conversation.active:
                conversation.close()
        self._loop.call_later(timeout_s, self._drain_ends)
        self._drain_checks()

    def close(self) -> None:
        """Close every connection at once, wipe the scratch, let go of the credentials (their owner wipes them)."""
        if self._closed:
            return
        self._closed = True
        self._listener.close()
        if self._timer is not None:
            self._timer.cancel()
        for conversation in list(self._conversations):
            conversation.close()
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        self._pipes.close()
        self._scratch.close()
        self._judge.close()
        if self._chain is not None:
            self._chain.close()

    def _drain_checks(self) -> None:
        if self._drained is not None:
            if self.active:
                self._loop.call_later(0.01, self._drain_checks)
            else:
                self._drain_ends()

    def _drain_ends(self) -> None:
        done, self._drained = self._drained, None
        if done is not None:
            self.close()
            done()

    def _pool(self, origin: Origin, scope: str | None) -> Pool:
        # An origin has a pool for its route and another for the allowlist: an address may be permitted to one only.
        key = (origin, scope)
        pool = self._pools.get(key)
        if pool is None:
            scope = scope or scope_of_route(origin.host)
            pool = Pool(self._loop, origin, scope, self._pins, self._contexts, self._limits, self._chain)
            self._pools[key] = pool
        return pool

    def _has_room(self) -> bool:
        return len(self._conversations) < self._limits.max_connections

    def _turned_away(self, status: int, code: str, reason: str) -> None:
        # Nothing was read of the request: there is no more to tell.
        try:
            self._services.report(Exchange(time.time(), "", "", "", "", "", "refused", status, code, 0, 0, 0.0, reason))
        except Exception:  # noqa: BLE001 - an audit that fails must not end the loop
            pass

    def _accepted(self, sock: _socket.socket) -> None:
        conversation = Conversation(self._services, sock)
        self._conversations.add(conversation)
        if self._timer is None:
            self._timer = self._loop.call_later(self._check_s, self._check)
        conversation.begin()

    def _check(self) -> None:
        now = self._loop.now
        for conversation in list(self._conversations):
            conversation.check(now)
        busy = bool(self._conversations)
        for key, pool in list(self._pools.items()):
            pool.expire()
            if key[1] and pool.unused:  # hosts of the allowlist come and go
                del self._pools[key]
            elif key[1] or pool.idle:
                busy = True
        # With nothing to watch the process sleeps; the next connection starts the timer again.
        self._timer = self._loop.call_later(self._check_s, self._check) if busy else None
