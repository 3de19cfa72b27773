"""A real WebSocket client and server (the `websockets` library) through a route: text, binary, large, ping, close."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import Server, ServerConnection, serve

from tests.fakes import Authority
from tests.proxy.harness import KEY, TOKEN, RunningProxy, route

LARGE = bytes(range(256)) * 4096  # 1 MiB


class EchoServer:
    """Echoes every message until the client closes; remembers what key each handshake carried."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.keys: list[str] = []
        self.heads: list[str] = []
        self._server: Server = serve(self._echo, "127.0.0.1", 0, ssl=context, max_size=None)
        self.url = f"https://localhost:{self._server.socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _echo(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.keys.append(connection.request.headers.get("Authorization", ""))
        self.heads.append(str(connection.request))
        for message in connection:
            connection.send(message)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)


@pytest.fixture
def server(server_context: ssl.SSLContext) -> Iterator[EchoServer]:
    running = EchoServer(server_context)
    yield running
    running.close()


@pytest.fixture
def proxy(server: EchoServer, authority: Authority) -> Iterator[RunningProxy]:
    with RunningProxy([route("api", server.url + "/v1", authority.ca)]) as running:
        yield running


def bearer(token: bytes) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.decode()}"}


def test_messages_pass_both_ways_with_the_key_put_in(proxy: RunningProxy, server: EchoServer) -> None:
    url = f"ws://127.0.0.1:{proxy.port}/api/realtime?model=x"
    with connect(url, additional_headers=bearer(TOKEN), proxy=None, max_size=None, compression=None) as client:
        for message in ("héllo", b"\0\xff", LARGE, ""):
            client.send(message)
            assert client.recv(timeout=10) == message
        assert client.ping().wait(10)
    assert server.keys == [f"Bearer {KEY.decode()}"]
    assert TOKEN.decode() not in server.heads[0]
    (exchange,) = proxy.wait(lambda exchanges: len(exchanges) == 1)
    assert exchange.status == 101
    assert exchange.bytes_up > len(LARGE)


def test_without_the_token_there_is_no_upgrade(proxy: RunningProxy, server: EchoServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{proxy.port}/api/realtime", additional_headers=bearer(b"0" * 64), proxy=None)
    assert refused.value.response.status_code == 401
    assert server.keys == []
