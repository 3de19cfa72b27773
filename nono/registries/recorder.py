"""A proxy on loopback that lets nothing through and notes what it was asked for.

A program that is run with this as its proxy shows where it would connect, however it came to that; its output need not
be understood. It hangs up instead of answering 403, because after a failed connection programs try their next host, and
after a refusal some do not. Only who knows the token is noted: other users of the machine reach loopback, too.
"""

from __future__ import annotations

import base64
import os
import socket
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_HEAD_S = 5.0
_MAX_HEAD = 16384
_MAX_CONNECTIONS = 16
_MAX_NOTED = 64
_UNAUTHORISED = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)


class Recorder:
    """A context manager. proxy_url: for the program to be run; urls: what it asked for, in order, each once."""

    def __init__(self) -> None:
        token = os.urandom(16).hex()
        self._authorization = b"basic " + base64.b64encode(f"nono:{token}".encode())
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.proxy_url = f"http://nono:{token}@127.0.0.1:{self._listener.getsockname()[1]}"
        self.urls: dict[str, None] = {}
        self._free = threading.Semaphore(_MAX_CONNECTIONS)

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread up
        except OSError:
            pass
        self._listener.close()

    def environment(self) -> dict[str, str]:
        """Return the variables that make a program use this proxy for every host."""
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        proxies = {spelled: self.proxy_url for name in names for spelled in (name, name.lower())}
        return {**proxies, "NO_PROXY": "", "no_proxy": ""}

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            if self._free.acquire(blocking=False):
                threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()
            else:
                connection.close()

    def _serve_one(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._note(connection)
            except OSError:
                pass  # who hangs up is not noted
            finally:
                self._free.release()

    def _note(self, connection: socket.socket) -> None:
        head = b""
        deadline = time.monotonic() + _HEAD_S
        while b"\r\n\r\n" not in head:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            part = connection.recv(4096)
            head += part
            if not part or len(head) > _MAX_HEAD:
                return
        request, *fields = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
        named = {name.strip().lower(): value.strip() for name, _, value in (field.partition(b":") for field in fields)}
        scheme, _, credentials = named.get(b"proxy-authorization", b"").partition(b" ")
        if scheme.lower() + b" " + credentials != self._authorization:
            connection.sendall(_UNAUTHORISED)
            return
        method, _, rest = request.decode("ascii", "replace").partition(" ")
        target = rest.partition(" ")[0]
        if len(self.urls) < _MAX_NOTED:
            self.urls[f"https://{target}" if method == "CONNECT" else target] = None
