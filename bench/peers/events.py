"""The upstream of the streams and of the uploads: a TLS server in plain Python, one thread a connection.

    POST /stream/N/US   N events, US microseconds apart, each with the monotonic clock at which it left
    POST /hold          one event, then nothing until the client leaves
    POST /sink          the body is read and dropped; the answer follows its last byte

Arguments: PORT CERTIFICATE KEY SECRET. Whoever does not present the secret gets 401. Serves until it is terminated.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time

PADDING = b"x" * 150
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nDate: Fri, 21 Nov 2025 17:32:23 GMT\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\nConnection: keep-alive\r\nCache-Control: no-cache\r\nServer: cloudflare\r\n"
    b"x-request-id: req_%032x\r\nopenai-processing-ms: 412\r\nopenai-version: 2020-10-01\r\ncf-ray: %016x-FRA\r\n\r\n"
)
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
UNAUTHORIZED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def event() -> bytes:
    """Return one event as a chunk, stamped now."""
    text = b'data: {"t":%d,"p":"%b"}\n\n' % (time.perf_counter_ns(), PADDING)
    return b"%x\r\n%b\r\n" % (len(text), text)


def drop_body(tls: ssl.SSLSocket, head: bytes, begun: bytes, buffer: bytearray) -> None:
    """Read the request's body, framed either way, and drop it."""
    fields = dict(line.lower().partition(b":")[::2] for line in head.split(b"\r\n")[1:])
    if b"content-length" in fields:
        left = int(fields[b"content-length"]) - len(begun)
        while left > 0:
            if not (size := tls.recv_into(buffer)):
                raise EOFError
            left -= size
    elif b"transfer-encoding" in fields:
        tail = begun[-5:]
        while tail != b"0\r\n\r\n":
            if not (size := tls.recv_into(buffer)):
                raise EOFError
            tail = (tail + buffer[max(0, size - 5) : size])[-5:]


def serve(connection: socket.socket, context: ssl.SSLContext, secret: bytes) -> None:
    """Answer one connection's requests until it ends."""
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(connection, server_side=True) as tls:
            while True:
                received = b""
                while b"\r\n\r\n" not in received:
                    if not (data := tls.recv(16384)):
                        return
                    received += data
                head, _, begun = received.partition(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].split(b"/")
                drop_body(tls, head, begun, bytearray(65536 if path[1] == b"sink" else 4096))
                if b"Bearer " + secret not in head:
                    tls.sendall(UNAUTHORIZED)
                    return
                if path[1] == b"sink":
                    tls.sendall(OK)
                    continue
                now = time.perf_counter_ns()
                tls.sendall(STREAM_HEAD % (now, now))
                if path[1] == b"hold":
                    tls.sendall(event())
                    tls.recv(1)
                    return
                for number in range(1, int(path[2]) + 1):
                    tls.sendall(event())
                    late = time.perf_counter_ns() - now - number * int(path[3]) * 1000
                    if late < 0:
                        time.sleep(-late / 1e9)
                tls.sendall(b"0\r\n\r\n")
    except (OSError, EOFError):
        pass  # the client left


def main() -> None:
    """Listen, and start a thread for each connection."""
    port, certificate, key, secret = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    threading.stack_size(256 * 1024)
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=4096)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, context, secret.encode()), daemon=True).start()


if __name__ == "__main__":
    main()
