"""Accept connections of the child.

The listening socket was made inside the child's network; its fd is all there is of it here. Each accepted connection
becomes a Conversation, and is read at once: the request is usually there already. Where the child has no network of
its own, a connection that is not the child's is closed. Above the limit a connection gets a 503 and is closed; when
descriptors run out, accepting pauses for a moment instead of spinning.
"""

from __future__ import annotations

import _socket
import socket
from collections.abc import Callable

from nono.loop import READ, Loop
from nono.proxy.answer import answer

_PAUSE_S = 0.1

_TOO_MANY_CODE = "too_many_connections"
_TOO_MANY_REASON = "Too many connections to the proxy at once; close some and try again."
_TOO_MANY = answer(503, _TOO_MANY_CODE, _TOO_MANY_REASON, close=True)


class Listener:
    """Serves one listening descriptor, which it owns."""

    def __init__(
        self,
        loop: Loop,
        listener_fd: int,
        has_room: Callable[[], bool],
        accepted: Callable[[_socket.socket], None],
        turned_away: Callable[[int, str, str], None],
        admits: Callable[[int], bool] | None = None,
    ) -> None:
        """turned_away: called with the status, the code and the reason of each answer that is given here.

        admits: whether the port that a connection came from is the child's; None: whoever reaches us is the child.
        """
        self._loop = loop
        self._sock: _socket.socket | None = _socket.socket(fileno=listener_fd)
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted ones have it from here
        self._has_room = has_room
        self._accepted = accepted
        self._turned_away = turned_away
        self._admits = admits
        loop.register(listener_fd, READ, self._ready)

    def close(self) -> None:
        """Accept no more."""
        if self._sock is not None:
            self._loop.unregister(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _ready(self, events: int) -> None:
        # One a turn: asking for another would cost every connection a call that fails, and the loop comes back anyway.
        if self._sock is None:
            return
        try:
            # Without socket.py: its enums and its own wrapper cost each connection four microseconds.
            fd, peer = self._sock._accept()  # type: ignore[attr-defined]
            sock = _socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # EMFILE, ENFILE, ENOBUFS, ENOMEM
            self._loop.modify(self._sock.fileno(), 0)
            self._loop.call_later(_PAUSE_S, self._go_on)
            return
        if self._admits is not None and not self._admits(peer[1]):
            sock.close()  # another program of this machine
            return
        try:
            sock.setblocking(False)
            if not self._has_room():
                self._turned_away(503, _TOO_MANY_CODE, _TOO_MANY_REASON)
                sock.send(_TOO_MANY)
                sock.shutdown(socket.SHUT_WR)
                sock.recv(65536)  # what was read cannot turn the close into a reset
                sock.close()
                return
        except OSError:
            sock.close()
            return
        self._accepted(sock)

    def _go_on(self) -> None:
        if self._sock is not None:
            self._loop.modify(self._sock.fileno(), READ)
