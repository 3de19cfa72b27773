"""A TLS server on loopback that stands in for the three services, and remembers what it received.

It answers only a caller who presents the service's key, and streams each event on its own, `pause_s` apart. One thread
a connection, keep-alive, HTTP/1.1. Used by `nono demo` and by tests/e2e.
"""

from __future__ import annotations

import http.server
import ssl
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple, Self

from nono.demo import answers
from nono.demo.certificates import Certificates


class Received(NamedTuple):
    """One request as it arrived: the service asked, the header that carries its key, and every byte of the head."""

    service: str
    presented: str  # the value of the service's key header, "" when absent
    accepted: bool
    head: str
    body: bytes


class Upstream:
    """The stand-in services, listening as long as the `with` block lasts. `keys` maps a service's name to its key."""

    def __init__(self, certificates: Certificates, keys: Mapping[str, str], pause_s: float = 0.0) -> None:
        self.keys = dict(keys)
        self.pause_s = pause_s
        self.received: list[Received] = []
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificates.server, certificates.server_key)
        self.tls.set_alpn_protocols(["http/1.1"])
        self._server = _Server(self)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, service: str) -> str:
        """Return the base URL that `service` has here."""
        base = next(each.base for each in answers.SERVICES if each.name == service)
        return f"https://localhost:{self.port}{base}"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that breaks off is no event: threads end without a word on the demo's stderr."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        # The handshake is done here, in the connection's own thread, so that a slow client blocks no other.
        self.request = self.server.upstream.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.request.close()

    def do_POST(self) -> None:
        upstream = self.server.upstream
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        service = answers.service_of(self.path)
        if service is None:
            self._send(answers.Answer(404, b'{"error":{"message":"No such service."}}'))
            return
        presented = self.headers.get(service.header, "")
        accepted = presented == service.key_format.format(upstream.keys[service.name])
        head = f"{self.requestline}\r\n{self.headers}"
        upstream.received.append(Received(service.name, presented, accepted, head, body))
        self._send(answers.answer(service, self.path, body) if accepted else answers.unauthorized(service))

    def _send(self, answer: answers.Answer) -> None:
        self.send_response(answer.status)
        if not answer.events:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer.document)))
            self.end_headers()
            self.wfile.write(answer.document)
            return
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in answer.events:
            time.sleep(self.server.upstream.pause_s)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *arguments: object) -> None:
        """Silent: what arrived is in Upstream.received."""
