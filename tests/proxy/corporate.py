"""A corporate proxy, and a client of a proxy of ours that goes through it."""

from __future__ import annotations

import base64
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from nono.policy.allowlist import Allowlist
from nono.proxy.chain import Chain
from nono.proxy.server import Limits
from tests.fakes import Connection, Upstream
from tests.proxy.harness import TOKEN, Answer, Client, PlainBuffer, RunningProxy

PROXY_AUTH = "Proxy-Authorization: Basic " + base64.b64encode(b"nono:" + TOKEN).decode()
USER = b"anna:corporate pass:word"
STANDS = b"HTTP/1.1 200 Connection established\r\n\r\n"
ALLOWED = Allowlist([".example", ".example:9", ".example:22"])


class Corporate:
    """A proxy that knows each name as 127.0.0.1; `heads` is what it was asked. Its port on the origin is given."""

    def __init__(self, port: int, answer: bytes = STANDS) -> None:
        self.heads: list[bytes] = []
        self._port = port
        self._answer = answer
        self.server = Upstream(self._script)

    def _script(self, connection: Connection) -> None:
        while b"\r\n\r\n" not in connection.buffer:
            if not connection.read():
                return
        head, _, early = connection.buffer.partition(b"\r\n\r\n")
        self.heads.append(head)
        with socket.create_connection(("127.0.0.1", self._port)) as origin:
            connection.send(self._answer)
            origin.sendall(early)
            ends: dict[Any, Any] = {connection.sock: origin, origin: connection.sock}
            while ends:
                for sock in select.select(list(ends), [], [])[0]:
                    data = sock.recv(65536)
                    if data:
                        ends[sock].sendall(data)
                    else:
                        ends.pop(sock).shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.close()


def a_chain(port: int, bypass: tuple[str, ...] = (), credential: bytes | None = None) -> Chain:
    secret = PlainBuffer(content=credential) if credential is not None else None
    return Chain("127.0.0.1", port, bypass, secret, PlainBuffer)


def no_lookup(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host} was looked up here")


@contextmanager
def behind(port: int, routes: list[Any] | None = None, limits: Limits | None = None, **how: Any) -> Iterator[Client]:
    """A client of a proxy that goes through the corporate proxy at `port`."""
    chain = a_chain(port, **how)
    with RunningProxy(routes or [], ALLOWED, limits, chain=chain) as proxy:
        proxy.proxy._pins._lookup = no_lookup
        with Client(proxy) as client:
            yield client


@contextmanager
def answering(answer: bytes | Callable[[Connection], None]) -> Iterator[int]:
    """A corporate proxy that answers each CONNECT in one way."""

    def script(connection: Connection) -> None:
        connection.read_head()
        if callable(answer):
            answer(connection)
        else:
            connection.send(answer)
            connection.finish()

    with Upstream(script) as corporate:
        yield corporate.port


def connect(client: Client, target: str = "origin.example:443") -> Answer:
    client.request("CONNECT", target, PROXY_AUTH, host=target)
    answer = client.answer("HEAD")
    if answer.status != 200:
        answer.body = client._take_bytes(int(answer.header("content-length") or 0))
    return answer


def echo(connection: Connection) -> None:
    while data := connection.sock.recv(65536):
        connection.send(data)
