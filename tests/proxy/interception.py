"""What the tests of interception share: a name for the upstream, and a client inside TLS that the proxy ends."""

from __future__ import annotations

import base64
import ssl
from typing import TYPE_CHECKING

from nono.loop import Loop
from nono.proxy.pins import Pins
from nono.proxy.server import BoundRoute
from tests.fakes import Authority as UpstreamAuthority
from tests.fakes import Upstream
from tests.proxy.harness import TOKEN, Answer, Client, RunningProxy, route

if TYPE_CHECKING:
    from nono.proxy.authority import Authority  # which needs the extra `intercept`

PROXY_AUTH = "Proxy-Authorization: Basic " + base64.b64encode(b"nono:" + TOKEN).decode()
HOST = "api.test.example"


class Net:
    """Names that are all on loopback, and how often each was looked up."""

    def __init__(self) -> None:
        self.looked_up: list[str] = []

    def pins(self, loop: Loop) -> Pins:
        def lookup(host: str, port: int) -> list[str]:
            self.looked_up.append(host)
            return ["127.0.0.1"]

        return Pins(loop, lookup, lambda text, scope: True)


def api_route(api: Upstream, authority: UpstreamAuthority, base: str = "", **fields: object) -> BoundRoute:
    return route("api", f"https://{HOST}:{api.port}{base}", authority.ca, **fields)


class TlsClient(Client):
    """A client that has sent CONNECT and shaken hands."""

    def __init__(
        self, proxy: RunningProxy, authority: Authority, port: int, host: str = HOST, sni: str = "",
        context: ssl.SSLContext | None = None, rcvbuf: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(proxy, rcvbuf)
        self.request("CONNECT", f"{host}:{port}", PROXY_AUTH, host=f"{host}:{port}")
        self.connected = self.answer("HEAD")
        self.host = host
        assert self.connected.status == 200, self.connected.status_line
        assert self.buffer == b""
        context = context or trusting(authority)
        self.tls = self.sock = context.wrap_socket(
            self.sock, server_hostname=(sni or host).strip("[]"), suppress_ragged_eofs=False
        )

    def ask(self, target: str, *headers: str, method: str = "GET", body: bytes | None = None) -> Answer:
        self.request(method, target, *headers, body=body, host=self.host)
        return self.answer(method)


def trusting(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context
