"""The client half's TLS: after CONNECT to a host whose requests are judged one by one.

CONNECT is answered at once and nothing is dialled: upstreams belong to the requests. What follows must be a TLS
handshake for that host (`authority.py` has its certificate); when it is done the conversation starts anew on the
encrypted stream, with the judge of that host, and is the same as any other from there on: keep-alive, pipelining, SSE
and WebSocket, early answers, time-outs. Refusals are answered inside, where the client reads them.

Here, before the handshake is done, nothing can be answered; the connection closes, and the audit says why. Nothing that
is no TLS is ever interpreted: neither what comes with CONNECT in one piece, nor what comes instead of a ClientHello.
"""

from __future__ import annotations

import socket
import ssl

from nono.errors import Refusal
from nono.loop import READ
from nono.proxy.state import CLIENT, INTERCEPTED, NEXT
from nono.proxy.stream import WOULD_BLOCK, Stream
from nono.proxy.upstream_half import UpstreamHalf

ESTABLISHED = b"HTTP/1.1 200 Connection Established\r\n\r\n"
_HANDSHAKE_RECORD = b"\x16"  # RFC 8446 section 5.1

_DISTRUST = (
    "the client does not trust nono's certificate: let it read the bundle that SSL_CERT_FILE names "
    "(Java and browsers keep a trust store of their own)"
)
# Alerts of a client that did not accept a certificate, as OpenSSL names them (RFC 8446 section 6.2).
_ALERTS_OF_DISTRUST = ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "UNSUPPORTED_CERTIFICATE")


class InterceptingHalf(UpstreamHalf):
    """Takes over a client's TLS."""

    __slots__ = ()

    def _begin_interception(self) -> None:
        if self._inbox:
            message = "Bytes follow CONNECT that did not wait for its answer; send the ClientHello after it."
            self._refuse(Refusal(400, "bad_request", message))
            return
        self.client_state = CLIENT[self.client_state][INTERCEPTED]
        self._status = 200
        self._to_client(ESTABLISHED)
        if self._client.queued:  # behind answers that were never read
            self._client_left("the client stopped reading")
            return
        self._client.rebind(self._hello_event)

    def _hello_event(self, events: int) -> None:
        if self._client.fd >= 0:
            self._guarded(self._read_hello)

    def _read_hello(self) -> None:
        services, client, target = self._services, self._client, self._target
        assert target is not None
        assert services.interceptor is not None
        try:
            first = client.sock.recv(1, socket.MSG_PEEK)
        except WOULD_BLOCK:
            return
        except OSError:
            first = b""
        if not first:
            self._client_left()
            return
        if first != _HANDSHAKE_RECORD:
            self._handshake_failed(
                "not_tls", "what follows CONNECT is no TLS, and nothing of it was read", refused=True
            )
            return
        try:
            context = services.interceptor.context_for(target.host)
        except OSError as error:  # EMFILE, ENFILE
            self._handshake_failed("tls_config", f"no certificate could be made for this host: {error.strerror}")
            return
        sock = client.release()
        try:
            tls = context.wrap_socket(
                sock,  # type: ignore[arg-type]  # it needs no more than _socket.socket has
                server_side=True,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,  # a connection cut without close_notify must not look like an end
            )
        except (OSError, ValueError):  # lost meanwhile
            sock.close()
            self._report("client_left", "the client left")
            services.closed(self)
            return
        self._client = Stream(services.loop, tls, self._handshake_event)
        self._shake_hands()

    def _handshake_event(self, events: int) -> None:
        if self._client.fd >= 0:
            self._guarded(self._shake_hands)

    def _shake_hands(self) -> None:
        client = self._client
        try:
            client.sock.do_handshake()  # type: ignore[attr-defined]
        except ssl.SSLWantReadError:
            client.want(no_read=False, write=False)
        except ssl.SSLWantWriteError:
            client.want(no_read=True, write=True)
        except OSError as error:
            self._explain(error)
        else:
            client.want(no_read=False, write=False)
            self._intercepted()

    def _intercepted(self) -> None:
        """The client speaks TLS with us: begin anew inside."""
        target = self._target
        assert target is not None
        assert target.judge is not None
        if self._inbox:
            self._handshake_failed("not_tls", "bytes that are no TLS came before the handshake", refused=True)
            return
        self._report("")
        self._clear()
        self._services = self._services._replace(judge=target.judge)
        self._pool = None
        self.client_state = CLIENT[self.client_state][NEXT]
        self._since = self._services.loop.now
        self._client.rebind(self.client_event)
        self.client_event(READ)  # the first request often comes with the handshake's last message

    def _explain(self, error: OSError) -> None:
        reason = str(getattr(error, "reason", None) or "")
        if reason == "CALLBACK_FAILED":
            text = "the client's TLS asks for another host (SNI) than its CONNECT did"
            self._handshake_failed("sni_mismatch", text, refused=True)
        elif any(alert in reason for alert in _ALERTS_OF_DISTRUST):
            self._handshake_failed("tls_distrust", _DISTRUST)
        elif isinstance(error, (ssl.SSLEOFError, ConnectionError)):
            self._handshake_failed("tls_client", f"the client hung up in the TLS handshake; perhaps {_DISTRUST}")
        else:
            text = reason.lower().replace("_", " ") or "connection lost"
            self._handshake_failed("tls_client", f"the TLS handshake with the client failed: {text}")

    def _handshake_failed(self, code: str, reason: str, *, refused: bool = False) -> None:
        self._report(code, reason, refused=refused)
        self.close()
