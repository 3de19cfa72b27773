"""Relays: single ports that join the child's network to the host's loopback, for what the user named and nothing else.

The child's network (wall (c)) has no device but its own loopback, so both ways lead through the supervisor:

- `--open-port N`: what connects to 127.0.0.1:N inside is joined to 127.0.0.1:N of the host. The listener is made inside
  at the spawn, like the proxy's own; no process of the host can connect to it.
- `--listen-port N`: what connects to 127.0.0.1:N of the host is joined to the server that listens on N inside, on
  127.0.0.1 (or 0.0.0.0) or else on ::1. For each connection a socket is made in the child's network (kernel/network.py:
  0.1 ms), because a socket stays for ever in the network that it was made in.

What this adds to P3 is exactly that: TCP, to 127.0.0.1, to those ports. The supervisor takes the address from the flag
and never from a byte that passes, and connects inwards only for who connected on the host; the child cannot make it
connect anywhere else. It cannot take a relay's port from it either: both listeners stand before the child runs.

Who may use them: a service behind --open-port sees a client of this user, and is as open to the agent as it is to him.
**Any user and any program of this machine can connect to a --listen-port**, as to every server on its loopback, web
pages in a browser included; the agent's server answers, and it is the agent who decides what.

Bytes move as in the proxy's tunnels, by splice(2), with back-pressure and half-close. A connection that finds nobody on
the other side is reset. There is no time-out but for the connect (a full backlog): loopback has none. Each connection
is one line of the audit log when it ends. When the child has ended, what it sent is still delivered (`drain`).
"""

from __future__ import annotations

import _socket
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from errno import ECONNREFUSED, EINPROGRESS
from functools import partial
from time import monotonic, time
from typing import NamedTuple

from nono.kernel import network
from nono.loop import WRITE, Loop, Timer
from nono.proxy.listener import Listener
from nono.proxy.services import Exchange
from nono.proxy.stream import Stream
from nono.proxy.tunnel import Pipes, Tunnel

CONNECT_S = 10.0
MAX_CONNECTIONS = 512  # of all relays of a run; each is two sockets and, with bytes under way, two pipes
_BUFFER_BYTES = 65536

OPEN = "OPEN-PORT"  # the audit's method
LISTEN = "LISTEN-PORT"
TOO_MANY = "too_many_connections"


class Target(NamedTuple):
    """Where a relay leads: `host`, by a non-blocking socket that `make(family)` returns."""

    make: Callable[[int], int]
    family: int
    host: str


def _socket_on_host(family: int) -> int:
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK).detach()


class Relays:
    """All relays of a run. `report` gets an Exchange for each connection that ended."""

    def __init__(self, loop: Loop, network_fd: int, report: Callable[[Exchange], None]) -> None:
        """network_fd: the child's network, owned from now on; -1 where no `listen_port` follows."""
        self.loop = loop
        self.report = report
        self.buffer = memoryview(bytearray(_BUFFER_BYTES))
        self.pipes = Pipes()
        self.connections: set[_Connection] = set()
        self._network_fd = network_fd
        self._listeners: list[Listener] = []
        self._drained: Callable[[], None] | None = None

    def open_port(self, port: int, listener_fd: int) -> None:
        """Join what connects to `listener_fd`, made inside, to the host's 127.0.0.1:port. The fd is owned from now."""
        self._serve(OPEN, port, listener_fd, (Target(_socket_on_host, socket.AF_INET, "127.0.0.1"),))

    def listen_port(self, port: int, listener_fd: int) -> None:
        """Join what connects to `listener_fd`, made on the host, to the port inside. The fd is owned from now.

        Raises KernelError where sockets cannot be made inside: better now than with each connection.
        """
        make = partial(network.socket_in, self._network_fd)
        os.close(make(socket.AF_INET))
        targets = (Target(make, socket.AF_INET, "127.0.0.1"), Target(make, socket.AF_INET6, "::1"))
        self._serve(LISTEN, port, listener_fd, targets)

    def drain(self, timeout_s: float, done: Callable[[], None]) -> None:
        """Call `done` when every connection has ended, after `timeout_s` at the latest.

        One that the child opened just before it ended may still wait to be accepted: a turn of the loop does that.
        """
        self._drained = done
        self.loop.call_later(timeout_s, self._drain_is_over)
        self.loop.call_soon(self._look_whether_drained)

    def close(self) -> None:
        """End everything now."""
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.close()
        self.pipes.close()
        if self._network_fd >= 0:
            os.close(self._network_fd)
            self._network_fd = -1

    def ended(self, connection: _Connection) -> None:
        """A connection is no more."""
        self.connections.discard(connection)
        self._look_whether_drained()

    def _look_whether_drained(self) -> None:
        if not self.connections:
            self._drain_is_over()

    def _drain_is_over(self) -> None:
        done, self._drained = self._drained, None
        if done is not None:
            done()

    def _serve(self, method: str, port: int, listener_fd: int, targets: Sequence[Target]) -> None:
        def accepted(sock: _socket.socket) -> None:
            connection = _Connection(self, method, port, Stream(self.loop, sock, _ignore))
            self.connections.add(connection)
            if len(self.connections) > MAX_CONNECTIONS:
                connection.refuse(TOO_MANY, f"more than {MAX_CONNECTIONS} connections at once")
            else:
                connection.dial(targets)

        self._listeners.append(Listener(self.loop, listener_fd, lambda: True, accepted, _ignore))


class _Connection:
    """One accepted connection: dialling, then a tunnel, then reported."""

    def __init__(self, relays: Relays, method: str, port: int, client: Stream) -> None:
        self._relays = relays
        self._method = method
        self._port = port
        self._client = client
        self._time = time()
        self._began_at = monotonic()
        self._targets: Iterator[Target] = iter(())
        self._dialled: socket.socket | None = None  # until it is connected
        self._timer: Timer  # while it is
        self._address = ""
        self._tunnel: Tunnel | None = None
        client.pause()  # what it sends waits in the kernel

    def dial(self, targets: Iterable[Target]) -> None:
        """Connect to the first of `targets` that answers, and join the two."""
        self._targets = iter(targets)
        self._dial_next()

    def refuse(self, code: str, reason: str) -> None:
        """Reset the connection."""
        dialled = self._take_dialled()
        if dialled is not None:
            dialled.close()
        self._client.reset()
        self._report(code, reason, 0, 0)

    def close(self) -> None:
        """End it now, in whatever state it is."""
        if self._tunnel is not None:
            self._tunnel.close()
        else:
            self.refuse("run_ended", "the run ended")

    def _dial_next(self, error: int = 0) -> None:
        """error: why the first target failed, 0 before it did."""
        for target in self._targets:
            try:
                dialled = socket.socket(target.family, socket.SOCK_STREAM, 0, target.make(target.family))
            except OSError as failure:  # no IPv6 here; or no descriptor, no process left
                error = error or failure.errno or ECONNREFUSED
                continue
            self._address = f"[{target.host}]:{self._port}" if ":" in target.host else f"{target.host}:{self._port}"
            dialled.setblocking(False)  # Python's own idea of it
            result = dialled.connect_ex((target.host, self._port))
            if result in (0, EINPROGRESS):
                self._dialled = dialled
                self._relays.loop.register(dialled.fileno(), WRITE, self._answered)
                self._timer = self._relays.loop.call_later(CONNECT_S, self._gave_up)
                return
            dialled.close()
            error = error or result
        where = "inside the sandbox" if self._method == LISTEN else "on this machine"
        self.refuse("connect_failed", f"nothing answers on port {self._port} {where}: {os.strerror(error)}")

    def _answered(self, _: int) -> None:
        dialled = self._take_dialled()
        if dialled is None:
            return
        error = dialled.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            dialled.close()
            self._dial_next(error)
            return
        dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upstream = Stream(self._relays.loop, dialled, _ignore)
        relays = self._relays
        self._tunnel = Tunnel(self._client, upstream, relays.buffer, partial(self._report, "", ""), relays.pipes)
        self._tunnel.begin(b"")

    def _gave_up(self) -> None:
        if self._dialled is not None:
            self.refuse("connect_timeout", f"port {self._port} did not answer within {CONNECT_S:.0f} seconds")

    def _take_dialled(self) -> socket.socket | None:
        """Return the socket that is being connected, watched no more."""
        dialled, self._dialled = self._dialled, None
        if dialled is not None:
            self._relays.loop.unregister(dialled.fileno())
            self._timer.cancel()
        return dialled

    def _report(self, code: str, reason: str, bytes_up: int, bytes_down: int) -> None:
        self._relays.report(
            Exchange(
                time=self._time,
                route="",
                host=f"127.0.0.1:{self._port}",
                address=self._address,
                method=self._method,
                path="",
                verdict="refused" if code == TOO_MANY else "allowed",
                status=0,
                code=code,
                bytes_up=bytes_up,
                bytes_down=bytes_down,
                duration_ms=(monotonic() - self._began_at) * 1000,
                reason=reason,
            )
        )
        self._relays.ended(self)


def _ignore(*_: object) -> None:
    """For who has nothing to hear yet."""
