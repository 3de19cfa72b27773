"""Connections to upstreams: dialled, pooled per origin, checked before they are used again.

A dial goes: addresses (pins) and TLS context side by side, then a connection to the first address that answers (race),
then, where the operator's proxy stands between (chain), a tunnel through it, then the handshake. Nothing in it blocks.
Failures are UpstreamErrors that say who must act.

The pool keeps idle connections, the last used first, because it is the warmest. An idle connection stays registered:
when its upstream closes it, it leaves the pool at once. Between the last turn of the loop and its use the kernel may
have learned more, so `take` peeks before handing out. What still slips through (the upstream closes while the request
is on its way) is the retry rule of `exchange.py`.

TLS sessions are kept per origin and offered on the next dial: an abbreviated handshake costs half.
"""

from __future__ import annotations

import _socket
import fcntl
import select
import ssl
import termios
from collections.abc import Callable
from typing import Protocol

from nono.errors import NonoError, Refusal, UpstreamError
from nono.loop import READ, WRITE, Loop, Timer
from nono.policy.allowlist import host_and_port
from nono.proxy.chain import Answer, Chain
from nono.proxy.limits import Limits
from nono.proxy.pins import NAMED, PUBLIC, Address, Pins
from nono.proxy.race import Race
from nono.proxy.route import Origin
from nono.proxy.stream import RECORD_BYTES, WOULD_BLOCK, Stream
from nono.proxy.tls import Contexts


class Owner(Protocol):
    """Who uses an upstream connection: the conversation bound to it."""

    def upstream_event(self, events: int) -> None: ...


class Upstream(Stream):
    """A connection to an origin, idle in the pool or bound to one exchange."""

    __slots__ = ("_readable", "address", "fresh", "idle_since", "origin", "owner", "pool", "reusable", "tls")

    def __init__(self, loop: Loop, sock: _socket.socket, origin: Origin, pool: Pool, address: str) -> None:
        """address: where its bytes go, in numbers; for the audit."""
        super().__init__(loop, sock, self.on_event, armed=False)
        self.origin = origin
        self.pool = pool
        self.address = address
        self.owner: Owner | None = None
        self.fresh = True  # nothing was read yet
        self.reusable = True  # false once an answer says, or shows, that another must not follow
        self.idle_since = loop.now
        self.tls = origin.tls
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        self._readable = poll.poll

    def on_event(self, events: int) -> None:
        owner = self.owner
        if owner is not None:
            owner.upstream_event(events)
        elif self.fd >= 0 and not self.still_open():
            self.pool.discard(self)

    def still_open(self) -> bool:
        """Whether nothing arrived on this idle connection but TLS's own messages (session tickets)."""
        # Beneath TLS first: this costs a third of a microsecond, OpenSSL's exception five.
        if not self._readable(0):
            return True
        if not self.tls:
            return False  # the end, or an answer nobody asked for
        try:
            self.recv(RECORD_BYTES)
        except WOULD_BLOCK:
            if self.fresh:
                self.pool.ticketed(self)
            return True
        except OSError:
            return False
        return False

    @property
    def holds_slot(self) -> bool:
        """Whether a credential in locked scratch is still to be sent."""
        return any(slot is not None for _, slot in self._queue or ())

    @property
    def unsent(self) -> bool:
        """Whether the kernel holds bytes that the peer's has not acknowledged (tcp(7), SIOCOUTQ)."""
        try:
            return any(fcntl.ioctl(self.fd, termios.TIOCOUTQ, b"\0\0\0\0"))  # the same number as SIOCOUTQ
        except OSError:
            return False  # a system that cannot tell


Dialled = Callable[[Upstream | NonoError], None]


class Pool:
    """The connections to one origin."""

    def __init__(
        self,
        loop: Loop,
        origin: Origin,
        scope: str,
        pins: Pins,
        contexts: Contexts,
        limits: Limits,
        chain: Chain | None = None,
    ) -> None:
        """chain: the operator's proxy; whether it is used for this origin is decided here, once."""
        self.loop = loop
        self.origin = origin
        self.scope = scope
        self.pins = pins
        self.contexts = contexts
        self.limits = limits
        self.chain = chain if chain is not None and chain.takes(origin) else None
        self.session: ssl.SSLSession | None = None
        self._idle: list[Upstream] = []
        self._bound: set[Upstream] = set()  # in an exchange; a tunnel closes its own
        self._dials: set[Dial] = set()

    def take(self) -> Upstream | None:
        """Return an idle connection that is still open, or None: then `dial`."""
        idle = self._idle
        oldest = self.loop.now - self.limits.pool_idle_s
        while idle:
            upstream = idle.pop()
            if upstream.idle_since >= oldest and upstream.still_open():
                self._bound.add(upstream)
                return upstream
            upstream.close()
        return None

    def dial(self, callback: Dialled) -> Dial:
        """Make a connection and hand it, or the error, to `callback`; take one that nobody waits for, if there is."""
        for dial in self._dials:
            if dial.claim(callback):
                return dial
        dial = Dial(self, callback)
        self._dials.add(dial)
        dial.start()
        return dial

    def warm(self, done: Callable[[], None]) -> None:
        """Make a connection for whoever comes first, unless there is one; call `done` soon after, made or not."""
        if self._idle or self._dials:
            self.loop.call_soon(done)
        else:
            dial = Dial(self, None, done)
            self._dials.add(dial)
            dial.start()

    def ticketed(self, upstream: Upstream) -> None:
        """Keep the session: something was read on a fresh connection, and TLS 1.3 sends its tickets first."""
        upstream.fresh = False
        # Not one that was resumed: the session it came from still serves, and Python's getter parses certificates anew.
        if upstream.tls:
            if not upstream.sock.session_reused:  # type: ignore[attr-defined]
                self.session = upstream.sock.session  # type: ignore[attr-defined]
            # After tickets OpenSSL keeps a write buffer of 16 KiB until the next write: writing nothing frees it.
            try:
                upstream.send(b"")
            except OSError:
                pass  # would block, or lost: the next read says so

    def keep(self, upstream: Upstream) -> None:
        """Put a connection among the idle ones: its exchange was completed on both sides, or it carried none yet."""
        upstream.owner = None
        self._bound.discard(upstream)
        upstream.idle_since = self.loop.now
        if len(self._idle) >= self.limits.pool_size:
            upstream.close()
        else:
            self._idle.append(upstream)

    def discard(self, upstream: Upstream) -> None:
        """Close a connection that will not be used again."""
        if upstream in self._idle:
            self._idle.remove(upstream)
        self.let_go(upstream)
        upstream.close()

    def bind(self, upstream: Upstream) -> None:
        """Note that an exchange uses a connection: until it is given back, the pool is not done with."""
        self._bound.add(upstream)

    def let_go(self, upstream: Upstream) -> None:
        """Forget a connection that another will close: a tunnel's."""
        self._bound.discard(upstream)
        upstream.owner = None

    def expire(self) -> None:
        """Close what was idle for too long; called now and then."""
        oldest = self.loop.now - self.limits.pool_idle_s
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.pop(0).close()

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def unused(self) -> bool:
        """Whether nothing is idle, in an exchange, or being dialled."""
        return not self._idle and not self._dials and not self._bound

    def close(self) -> None:
        for dial in list(self._dials):
            dial.abandon()
        for upstream in (*self._idle, *self._bound):
            upstream.close()
        self._idle.clear()
        self._bound.clear()

    def dialled(self, dial: Dial) -> None:
        self._dials.discard(dial)


class Dial:
    """One connection being made. Its callback is called once, unless `cancel` comes before."""

    def __init__(self, pool: Pool, callback: Dialled | None, ended: Callable[[], None] | None = None) -> None:
        """callback: None for a connection that nobody waits for yet. ended: called soon after it was made or failed."""
        self._pool = pool
        self._loop = pool.loop
        # Bytes, because ssl sends text through the IDNA codec, whose import alone takes milliseconds.
        self._host = pool.origin.host.encode("ascii")
        self._callback = callback
        self._ended = ended
        self._race: Race | None = None
        self._name: tuple[str, int, str] | None = None  # host, port and scope, once they are being resolved
        self._addresses: list[Address] | None = None
        self._context: ssl.SSLContext | None = None
        self._sock: _socket.socket | None = None
        self._answer: Answer | None = None
        self._events = 0
        self._timer: Timer | None = None
        self._over = False

    @property
    def over(self) -> bool:
        """Whether the callback was called; it may be, before `Pool.dial` returns."""
        return self._over

    def start(self) -> None:
        pool, origin = self._pool, self._pool.origin
        host, port, scope = origin.host, origin.port, pool.scope
        if pool.chain is not None:
            try:
                pool.chain.check(origin, scope)
            except Refusal as refusal:
                self._fail(refusal)
                return
            host, port, scope = pool.chain.host, pool.chain.port, NAMED
        if origin.tls:
            pool.contexts.get(origin, self._context_made)
        if not self._over:
            self._name = (host, port, scope)
            pool.pins.resolve(host, port, scope, self._resolved)
            if self._race is None and not self._over:  # for the name, the certificates, or both
                self._arm(pool.limits.connect_s, self._preparing_timed_out)

    def claim(self, callback: Dialled) -> bool:
        """Take over a connection that nobody waits for (made to warm up, or for a client that left)."""
        if self._callback is not None or self._over:
            return False
        self._callback = callback
        return True

    def cancel(self) -> None:
        """The exchange is gone. The connection, once made, goes to the pool: the next one will want it.

        But a host that the agent may have chosen is not dialled for nobody: of such names there is no end.
        """
        self._callback = None
        if self._pool.scope in (NAMED, PUBLIC) and not self._over:
            self.abandon()

    def abandon(self) -> None:
        """Stop and close whatever there is."""
        self._callback = None
        self._end()
        self._close_socket()

    def _context_made(self, made: ssl.SSLContext | UpstreamError) -> None:
        if self._over:
            return
        if isinstance(made, UpstreamError):
            self._fail(made)
        else:
            self._context = made
            self._begin()

    def _resolved(self, answer: list[Address] | NonoError) -> None:
        if self._over:
            return
        if not isinstance(answer, NonoError):
            self._addresses = answer
            self._begin()
        elif self._pool.chain is None:
            self._fail(answer)
        else:
            self._fail(self._pool.chain.failure(f"cannot be reached: {answer}"))

    def _begin(self) -> None:
        if self._addresses is not None and (self._context is not None or not self._pool.origin.tls):
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._race = Race(
                self._loop, self._addresses, self._pool.limits.connect_s, self._connected, self._unreachable
            )
            self._race.start()

    def _unreachable(self) -> None:
        race, pool = self._race, self._pool
        assert race is not None
        origin, chain, seconds = pool.origin, pool.chain, pool.limits.connect_s
        status = 504 if race.timed_out else 502
        if chain is not None:
            pool.pins.forget(chain.host, chain.port, NAMED)
            why = f"no answer in {seconds:g} s" if race.timed_out else race.error
            self._fail(chain.failure(f"cannot be reached: {why}. Check its address and the network.", status))
            return
        pool.pins.forget(origin.host, origin.port, pool.scope)
        if race.timed_out:
            message = f"{origin.authority} did not answer the connection attempt in {seconds:g} s."
            self._fail(UpstreamError(status, "connect_timeout", message))
        else:
            message = f"Cannot connect to {origin.authority}: {race.error}. Check the upstream and the network."
            self._fail(UpstreamError(status, "connect", message))

    def _connected(self, sock: _socket.socket) -> None:
        self._sock = sock
        chain = self._pool.chain
        if chain is None:
            self._secure(sock)
            return
        try:
            self._answer = chain.ask(sock, self._pool.origin)
        except OSError:
            self._fail(chain.failure("closed the connection before it was asked for anything."))
            return
        self._arm(self._pool.limits.chain_s, self._chain_timed_out)
        self._watch(READ, self._chain_answers)

    def _chain_answers(self, events: int) -> None:
        sock, answer = self._sock, self._answer
        if sock is None or answer is None:
            return
        try:
            if not answer.read(sock):
                return
        except UpstreamError as error:
            self._fail(error)
            return
        self._answer = None
        self._unwatch()
        self._secure(sock)

    def _secure(self, sock: _socket.socket) -> None:
        """The bytes reach the origin; agree on TLS where it speaks that."""
        if self._context is None:
            self._done(sock)
            return
        try:
            self._sock = self._context.wrap_socket(
                sock,  # type: ignore[arg-type]  # ssl takes the base class as well
                server_hostname=self._host,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,  # a connection cut without close_notify must not look like an end
                session=self._pool.session,
            )
        except (OSError, ValueError):
            self._close_socket()
            assert self._race is not None
            self._race.error = "the connection was lost"
            self._race.start()
            return
        self._arm(self._pool.limits.tls_s, self._tls_timed_out)
        self._handshake(0)

    def _handshake(self, events: int) -> None:
        sock = self._sock
        if sock is None:
            return
        authority = self._pool.origin.authority
        try:
            sock.do_handshake()  # type: ignore[attr-defined]
        except ssl.SSLWantReadError:
            self._watch(READ, self._handshake)
            return
        except ssl.SSLWantWriteError:
            self._watch(WRITE, self._handshake)
            return
        except ssl.SSLCertVerificationError as error:
            message = f"The certificate of {authority} was not accepted: {error.verify_message}."
            self._fail(UpstreamError(502, "tls_certificate", message))
            return
        except OSError as error:
            self._pool.session = None
            reason = getattr(error, "reason", None) or "connection lost"
            self._fail(UpstreamError(502, "tls", f"The TLS handshake with {authority} failed: {reason}."))
            return
        self._done(sock)

    def _done(self, sock: _socket.socket) -> None:
        tried = self._race.tried if self._race is not None else None
        self._end()
        self._unwatch()
        self._sock = None
        address = host_and_port(tried.host, tried.port) if tried is not None else ""
        upstream = Upstream(self._loop, sock, self._pool.origin, self._pool, address)
        callback, self._callback = self._callback, None
        if callback is not None:
            self._pool.bind(upstream)
            callback(upstream)
        else:
            self._pool.keep(upstream)
        upstream.arm()

    def _fail(self, error: NonoError) -> None:
        race = self._race
        self._end()
        self._close_socket()
        if isinstance(error, UpstreamError) and race is not None and race.tried is not None:
            error.address = host_and_port(race.tried.host, race.tried.port)
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(error)

    def _end(self) -> None:
        self._over = True
        if self._name is not None and self._addresses is None:
            self._pool.pins.withdraw(*self._name, self._resolved)
        race, self._race = self._race, None
        if race is not None:
            race.close()
        self._pool.dialled(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._ended is not None:
            self._loop.call_soon(self._ended)
            self._ended = None

    def _preparing_timed_out(self) -> None:
        host, seconds = self._pool.origin.host, self._pool.limits.connect_s
        if self._addresses is None and self._pool.chain is not None:
            self._fail(self._pool.chain.failure(f"cannot be reached: its name was not resolved in {seconds:g} s.", 504))
        elif self._addresses is None:
            self._fail(UpstreamError(504, "dns_timeout", f"The name {host} was not resolved in {seconds:g} s."))
        else:
            message = f"The certificates for {host} were not loaded in {seconds:g} s; check where they are stored."
            self._fail(UpstreamError(504, "tls_config", message))

    def _chain_timed_out(self) -> None:
        chain, origin, seconds = self._pool.chain, self._pool.origin, self._pool.limits.chain_s
        assert chain is not None
        message = f"did not answer in {seconds:g} s for {origin.host}:{origin.port}; try again, or see why it is slow."
        self._fail(chain.failure(message, 504))

    def _tls_timed_out(self) -> None:
        message = f"{self._pool.origin.authority} did not finish the TLS handshake in {self._pool.limits.tls_s:g} s."
        self._fail(UpstreamError(504, "tls_timeout", message))

    def _arm(self, seconds: float, callback: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, callback) if seconds else None

    def _watch(self, events: int, callback: Callable[[int], None]) -> None:
        if self._events == events and callback == self._handshake:
            return
        self._unwatch()
        assert self._sock is not None
        self._events = events
        self._loop.register(self._sock.fileno(), events, callback)

    def _unwatch(self) -> None:
        if self._events and self._sock is not None:
            self._events = 0
            self._loop.unregister(self._sock.fileno())

    def _close_socket(self) -> None:
        self._unwatch()
        if self._sock is not None:
            self._sock.close()
            self._sock = None
