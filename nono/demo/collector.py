"""Where the agent's loot would arrive: a TCP port, a UDP port and a unix socket, all on this machine.

Each answers whoever reaches it, and remembers by which way the message came: that a theft failed is seen at this end
too, not only in the thief's error. The unix socket stands for a password agent (ssh-agent, gpg-agent, a keystore): it
gives the key to everybody who can connect, as those do.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Self

_HELLO = b"collected, thank you"


class Collector:
    """Listens as long as the `with` block lasts. `arrived` holds "tcp", "udp" and "unix_socket", as they came."""

    def __init__(self, unix_path: str, password: str, key: str) -> None:
        self.arrived: set[str] = set()
        self._password = password.encode()
        self._key = key.encode()
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._unix.bind(unix_path)
        self._unix.listen()
        self._sockets = (self._tcp, self._udp, self._unix)
        self.tcp_port: int = self._tcp.getsockname()[1]
        self.udp_port: int = self._udp.getsockname()[1]

    def __enter__(self) -> Self:
        for serve in (self._serve_tcp, self._serve_udp, self._serve_unix):
            threading.Thread(target=self._until_closed, args=(serve,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        for each in self._sockets:
            each.close()

    def forget(self) -> None:
        """Begin anew, for the next run of the agent."""
        self.arrived.clear()

    def _until_closed(self, serve: Callable[[], None]) -> None:
        while all(each.fileno() >= 0 for each in self._sockets):
            try:
                serve()
            except OSError:
                continue  # a client that broke off, or our own close()

    def _serve_tcp(self) -> None:
        self._answer(self._tcp.accept()[0], "tcp", _HELLO)

    def _serve_unix(self) -> None:
        self._answer(self._unix.accept()[0], "unix_socket", self._key)

    def _serve_udp(self) -> None:
        message, sender = self._udp.recvfrom(4096)
        if self._password in message:
            self.arrived.add("udp")
            self._udp.sendto(_HELLO, sender)

    def _answer(self, connection: socket.socket, way: str, reply: bytes) -> None:
        with connection:
            connection.settimeout(2.0)
            if self._password in connection.recv(4096):
                self.arrived.add(way)
                connection.sendall(reply)
