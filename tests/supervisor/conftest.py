"""What the mediator's tests share."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.confined import Place
from tests.supervisor.mediated import LOOPBACK, Server


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.remove()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(address: Any = (LOOPBACK, 0), family: int = socket.AF_INET) -> Server:
        sock = socket.socket(family)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        servers.append(Server(sock))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
