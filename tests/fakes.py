"""Stand-ins for upstreams, on loopback: TLS with a throw-away authority, or plain; well-behaved, slow, or broken.

Each upstream is a thread that accepts and one thread for each connection; what a connection does is a function of it
(a *script*), so that a test reads as a transcript. `http_app` is the well-behaved one:

    /echo             the request as JSON (method, target, headers, body's length and sha256); also any other path
    /bytes/N          N bytes, by length          /chunked/N   N chunks, with an extension and a trailer
    /sse/N            N server-sent events        /gated/N     the same, each after `upstream.gate.release()`
    /status/N         an empty answer             /close/N     N bytes until the connection ends (HTTP/1.1)
    /continue         100 after the head, then as /echo
    /early            answers 413 before it reads the body, then hangs up
    /hint             103 before the answer       /websocket   101, then echoes bytes

Run alone, it prints one JSON line with its ports and the authority's file, and serves until SIGTERM:

    python -m tests.fakes [--directory D]
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import ipaddress
import json
import os
import signal
import socket
import ssl
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TIMEOUT_S = 20.0


class Authority:
    """A certificate authority that lives as long as its directory; `ca` is its certificate's file."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.ca = os.path.join(directory, "ca.pem")
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nono throw-away authority")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(self._name).issuer_name(self._name)
        builder = builder.public_key(self._key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=7))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False)
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"), False
        )  # fmt: skip
        builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())
        with open(self.ca, "wb") as file:
            file.write(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, *names: str, days: int = 7, client: bool = False) -> tuple[str, str]:
        """Return the files of a certificate for these names (IP addresses allowed) and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        stem = os.path.join(self.directory, f"{'client' if client else 'server'}-{names[0]}-{days}".replace(":", "_"))
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().issuer_name(self._name).public_key(key.public_key())
        builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]))
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=30)).not_valid_after(now + timedelta(days=days))
        alternatives = [x509.IPAddress(ipaddress.ip_address(n)) if _is_ip(n) else x509.DNSName(n) for n in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        with open(stem + ".pem", "wb") as file:
            file.write(certificate.public_bytes(serialization.Encoding.PEM))
        with open(stem + ".key", "wb") as file:
            file.write(
                key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            )
        return stem + ".pem", stem + ".key"

    def server_context(self, *names: str, days: int = 7) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(*(names or ("localhost", "127.0.0.1", "::1")), days=days))
        context.set_alpn_protocols(["http/1.1"])
        return context


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Request(NamedTuple):
    """One request as an upstream received it. headers: in order and case."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Connection:
    """An accepted connection, for scripts: reads heads and bodies, sends bytes, ends in every way there is."""

    def __init__(self, upstream: Upstream, sock: socket.socket, number: int) -> None:
        self.upstream = upstream
        self.sock = sock
        self.number = number
        self.buffer = b""

    def read(self) -> bytes:
        data = self.sock.recv(65536)
        self.buffer += data
        return data

    def read_head(self) -> tuple[str, str, list[tuple[str, str]]] | None:
        """Return (method, target, headers), or None at the connection's end."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.read():
                return None
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        return method, target, headers

    def read_body(self, headers: list[tuple[str, str]]) -> bytes:
        """Return the body, chunked bodies with their framing and trailers as they came."""
        named = {name.lower(): value for name, value in headers}
        if "content-length" in named:
            size = int(named["content-length"])
            while len(self.buffer) < size:
                if not self.read():
                    raise ConnectionError("the body broke off")
            body, self.buffer = self.buffer[:size], self.buffer[size:]
            return body
        if named.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                line = self._line()
                body += line
                size = int(line.split(b";")[0], 16)
                if not size:
                    break
                while len(self.buffer) < size + 2:
                    if not self.read():
                        raise ConnectionError("the body broke off")
                body, self.buffer = body + self.buffer[: size + 2], self.buffer[size + 2 :]
            while True:
                line = self._line()
                body += line
                if line == b"\r\n":
                    return body
        return b""

    def _line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            if not self.read():
                raise ConnectionError("the body broke off")
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line + b"\r\n"

    def read_request(self) -> Request | None:
        head = self.read_head()
        if head is None:
            return None
        return self.note(head, self.read_body(head[2]))

    def note(self, head: tuple[str, str, list[tuple[str, str]]], body: bytes = b"") -> Request:
        request = Request(*head, body, self.number)
        with self.upstream.changed:
            self.upstream.requests.append(request)
            self.upstream.changed.notify_all()
        return request

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, status: int = 200, body: bytes = b"", *headers: str, length: bool = True) -> None:
        lines = [f"HTTP/1.1 {status} Fine", *headers, *([f"Content-Length: {len(body)}"] if length else [])]
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def finish(self) -> None:
        """End as one should: close_notify first, where there is TLS."""
        if isinstance(self.sock, ssl.SSLSocket):
            try:
                self.sock.unwrap()
            except OSError:
                pass
        self.cut()

    def cut(self) -> None:
        """FIN without close_notify."""
        try:
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        except OSError:
            pass

    def reset(self) -> None:
        """RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def wait_closed(self) -> None:
        """Until the peer closes."""
        try:
            while self.sock.recv(65536):
                pass
        except OSError:
            pass


Script = Callable[[Connection], None]


class Upstream:
    """A listening upstream. Works as a context manager; `url` is for a route's `upstream`."""

    def __init__(
        self, script: Script | None = None, context: ssl.SSLContext | None = None, *, host: str = "127.0.0.1",
        port: int = 0, rcvbuf: int = 0, listener: socket.socket | None = None,
    ) -> None:  # fmt: skip
        """listener: a listening socket, its own from now on; without one it makes its own."""
        self.script = script or http_app
        self.context = context
        self.requests: list[Request] = []
        self.errors: list[str] = []
        self.connections = 0
        self.open = 0
        self.resumed = 0
        self.changed = threading.Condition()
        self.gate = threading.Semaphore(0)
        self._socks: set[socket.socket] = set()
        self._listener = listener or _listen(host, port, rcvbuf)
        self.host: str = self._listener.getsockname()[0]
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://{'localhost' if self.context else '127.0.0.1'}:{self.port}"

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until a condition on requests, connections or errors holds."""
        with self.changed:
            assert self.changed.wait_for(condition, TIMEOUT_S), "the upstream did not see what was awaited"

    def close(self) -> None:
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts, which holds the port
        except OSError:
            pass
        self._listener.close()
        with self.changed:
            socks = list(self._socks)
        for sock in socks:
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self.context:
                sock = self.context.wrap_socket(sock, server_side=True)
        except OSError as error:
            with self.changed:
                self.errors.append(getattr(error, "reason", "") or str(error))
                self.changed.notify_all()
            return
        with self.changed:
            self.connections += 1
            self.open += 1
            self.resumed += isinstance(sock, ssl.SSLSocket) and bool(sock.session_reused)
            number = self.connections
            self._socks.add(sock)
            self.changed.notify_all()
        try:
            self.script(Connection(self, sock, number))
        except (OSError, ValueError) as error:
            self.errors.append(str(error))
        finally:
            sock.close()
            with self.changed:
                self.open -= 1
                self._socks.discard(sock)
                self.changed.notify_all()


def _listen(host: str, port: int, rcvbuf: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if rcvbuf:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    listener.bind((host, port))
    listener.listen(4096)
    return listener


def http_app(connection: Connection) -> None:
    """The well-behaved upstream: keep-alive until the peer ends."""
    while (head := connection.read_head()) is not None:
        method, target, headers = head
        kind, _, number = target.split("?")[0].strip("/").rpartition("/")
        kind = kind.rpartition("/")[2]
        count = int(number) if number.isdigit() else 0
        name = kind if number.isdigit() else number
        if name == "early":
            connection.note(head)
            connection.answer(413, b"too much")
            connection.finish()
            return
        if name == "continue" and ("expect", "100-continue") in [(n.lower(), v) for n, v in headers]:
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = connection.note(head, connection.read_body(headers))
        if name == "bytes":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % count)
            if method != "HEAD":
                for piece in pattern(count):
                    connection.send(piece)
        elif name == "close":
            connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
            for piece in pattern(count):
                connection.send(piece)
            connection.finish()
            return
        elif name == "chunked":
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
            for index in range(count):
                connection.send(b"5;n=%d\r\nhello\r\n" % index)
            connection.send(b"0\r\nX-Sum: %d\r\n\r\n" % count)
        elif name in ("sse", "gated"):
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for index in range(count):
                if name == "gated":
                    connection.upstream.gate.acquire(timeout=TIMEOUT_S)
                event = b'data: {"n": %d}\n\n' % index
                connection.send(b"%x\r\n%b\r\n" % (len(event), event))
            connection.send(b"0\r\n\r\n")
        elif name == "status":
            connection.answer(count, length=count not in (204, 304))
        elif name == "hint":
            connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
            connection.answer(200, b"hinted")
        elif name == "websocket":
            key = request.all("sec-websocket-key")[0]
            digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            connection.send(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % base64.b64encode(digest)
            )
            data = connection.buffer or connection.sock.recv(65536)
            while data:
                connection.send(data)
                data = connection.sock.recv(65536)
            return
        else:
            body = json.dumps(
                {
                    "method": method, "target": target, "headers": headers, "length": len(request.body),
                    "sha256": hashlib.sha256(request.body).hexdigest(),
                }
            ).encode()  # fmt: skip
            connection.answer(200, b"" if method == "HEAD" else body, "Content-Type: application/json")


def pattern(size: int) -> Iterator[bytes]:
    """`size` bytes that show when some are lost or swapped."""
    block = b"".join(struct.pack(">I", index) for index in range(16384))
    while size > 0:
        yield block[:size]
        size -= len(block)


def main() -> None:
    parser = argparse.ArgumentParser(description="A TLS and a plain upstream on loopback.")
    parser.add_argument("--directory", default="")
    arguments = parser.parse_args()
    authority = Authority(arguments.directory or tempfile.mkdtemp(prefix="nono-fakes-"))
    with Upstream(context=authority.server_context()) as tls, Upstream() as plain:
        print(json.dumps({"tls_port": tls.port, "port": plain.port, "ca": authority.ca}), flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.pause()


if __name__ == "__main__":
    main()
