"""The ends of one conversation: the client's stream, the upstream's, and what both halves do to them.

Holds the state of the exchange under way (see `state.py`), answers refusals, hangs up, reports to the audit. Reading is
done by the halves: `client_half.py` reads requests, `upstream_half.py` reads answers, `exchange.py` joins them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nono.errors import NonoError, Refusal, UpstreamError
from nono.proxy.answer import answer
from nono.proxy.framing import UNTIL_CLOSE, ChunkScanner
from nono.proxy.inject import Outgoing
from nono.proxy.memo import ConnectGrant
from nono.proxy.services import Exchange, Services
from nono.proxy.state import BODY, CLIENT, CLOSING, IDLE, REFUSED
from nono.proxy.stream import Stream
from nono.proxy.tunnel import Tunnel
from nono.proxy.upstream import Dial, Pool, Upstream


class ClientGone(Exception):
    """Writing to the client failed."""


class Ends:
    """Both ends of one client connection's exchanges."""

    __slots__ = (
        "_address",
        "_answer_inbox",
        "_answer_left",
        "_answer_scanner",
        "_bytes_down",
        "_bytes_up",
        "_client",
        "_close_after",
        "_deaf",
        "_dial",
        "_head",
        "_inbox",
        "_left",
        "_outgoing",
        "_pool",
        "_replay",
        "_request_scanner",
        "_retried",
        "_reused",
        "_scanned",
        "_services",
        "_since",
        "_slot_at",
        "_started",
        "_status",
        "_target",
        "_tunnel",
        "_under_way",
        "_upstream",
        "_was_used",
        "client_state",
        "upstream_state",
    )

    def __init__(self, services: Services, sock: Any) -> None:
        self._services = services
        self.client_state: str = IDLE
        self.upstream_state: str = IDLE
        self._inbox: bytes | bytearray = b""
        self._scanned = 0
        self._since = services.loop.now
        self._was_used = False
        self._upstream: Upstream | None = None
        self._dial: Dial | None = None
        self._pool: Pool | None = None  # the last one: most conversations have one upstream
        self._tunnel: Tunnel | None = None
        self._clear()
        self._client = Stream(services.loop, sock, self.client_event, armed=False)

    def _clear(self) -> None:
        """Nothing of the last exchange is left."""
        self._outgoing: Outgoing | None = None
        self._target: ConnectGrant | None = None
        self._head = b""
        self._left = 0
        self._request_scanner: ChunkScanner | None = None
        self._replay: bytes | None = None
        self._reused = self._retried = self._close_after = self._deaf = False
        self._answer_inbox = b""
        self._answer_left = 0
        self._answer_scanner: ChunkScanner | None = None
        self._bytes_up = self._bytes_down = 0
        self._status = 0
        self._address = ""  # of the upstream's connection
        self._started = 0.0
        self._slot_at = 0.0  # since when a slot is waited for, or held by a head that the kernel did not take whole
        self._under_way = False  # from the request's head until it was reported: each is, exactly once

    def close(self, reason: str = "the run ended") -> None:
        """Close at once whatever is open, and report the exchange or tunnel that is cut off by it."""
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()  # it reports, with the bytes it has moved
        try:
            self._report("cut_off", reason)
        except Exception:  # noqa: BLE001 - an audit that fails must not keep connections open
            pass
        self._let_upstream_go()
        self._services.latecomers.forget(self)
        if self._client.fd >= 0:
            self._client.close()
            self._services.closed(self)

    def _client_left(self, reason: str = "the client left") -> None:
        self._report("client_left", reason)
        self.close()

    def _refuse(self, error: NonoError) -> None:
        """Answer and hang up: nothing that follows on this connection will be looked at."""
        assert isinstance(error, (Refusal, UpstreamError))
        if isinstance(error, UpstreamError) and error.address:
            self._address = error.address
        self._let_upstream_go()
        head_only, to_connect = self._head.startswith(b"HEAD "), self._head.startswith(b"CONNECT ")
        if not self._started:  # its head never was complete
            self._started = self._since
            self._under_way = True
        if self._status == 0:
            self._status = error.status
            text = answer(error.status, error.code, str(error), close=True, head_only=head_only, to_connect=to_connect)
        else:
            text = b""  # an answer has begun: it breaks off here
        if isinstance(error, Refusal):
            self._report(error.code, str(error), error.flag, refused=True)
        else:
            self._report(error.code, str(error))
        if text:
            self._to_client(text)
        elif self.upstream_state == BODY and self._answer_left == UNTIL_CLOSE:
            self._client.reset()
            self._services.closed(self)
            return
        self._hang_up()

    def _hang_up(self) -> None:
        """End the connection once all was sent; then linger, so that the client can read before it sees a reset."""
        if self.client_state != CLOSING:
            self.client_state = CLIENT[self.client_state][REFUSED]
        self._inbox = b""
        self._since = self._services.loop.now
        client = self._client
        if not client.queued:
            client.shutdown_write()
            client.resume()

    def _failed_inside(self) -> None:
        """A bug of ours: this conversation ends, the others go on. The audit says so; no detail is shown to anyone."""
        self._under_way = True  # also where this exchange was reported already, or none has begun
        try:
            self._report("internal_error", "an error inside nono; please report it")
        except Exception:  # noqa: BLE001 - the audit itself may be what failed
            pass
        self.close()

    def _guarded(self, step: Callable[[], None]) -> None:
        """Run a step that neither stream's event has called."""
        try:
            step()
        except ClientGone:
            self._client_left()
        except Exception:  # noqa: BLE001 - a bug must end one conversation, not all
            self._failed_inside()

    def _to_client(self, data: bytes | memoryview) -> None:
        try:
            self._client.write(data)
        except OSError:
            raise ClientGone from None

    def _let_upstream_go(self) -> None:
        """Close the upstream's connection, or stop waiting for it."""
        dial, self._dial = self._dial, None
        if dial is not None:
            dial.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.pool.discard(upstream)

    def _report(self, code: str, reason: str = "", flag: str = "", *, refused: bool = False) -> None:
        if self._under_way:
            self._under_way = False
            self._services.report(self._exchange(code, reason, "refused" if refused else "allowed", flag))

    def _opening(self) -> Exchange:
        """What can be told of a tunnel that begins."""
        return self._exchange("opened", "", "allowed")._replace(time=time.time(), bytes_up=0, bytes_down=0)

    def _exchange(self, code: str, reason: str, verdict: str, flag: str = "") -> Exchange:
        """What can be told of the exchange under way. One that was not understood is refused, whatever became of it."""
        outgoing, target = self._outgoing, self._target
        now = self._services.loop.now
        if outgoing is not None:
            route, host, method, path = outgoing.shown
        elif target is not None:
            route, host, method, path = "", f"{target.host}:{target.port}", "CONNECT", ""
        else:
            route, verdict = "", "refused"
            method, host, path = _shown(self._head, self._services.token)
            host = self._services.judge.authority or host
        duration = now - self._started
        return Exchange(
            time.time() - duration, route, host, self._address, method, path, verdict, self._status, code,
            self._bytes_up, self._bytes_down, int(duration * 1e6) / 1e3, reason, flag,
        )  # fmt: skip

    # What the halves do, for each other.

    def client_event(self, events: int) -> None:
        raise NotImplementedError

    def upstream_event(self, events: int) -> None:
        raise NotImplementedError


def _shown(head: bytes, token: bytes) -> tuple[str, str, str]:
    """Method, host and path of a request that was refused before it was understood; for the audit only."""
    line = head[: head.find(b"\r\n")].replace(token, b"***").decode("ascii", "replace")
    method, _, target = line.partition(" ")
    target = target.partition(" ")[0].partition("?")[0][:256]
    if method == "CONNECT":
        return method, target, ""
    if target.startswith("/"):
        return method[:32], "", target
    host, slash, path = target.partition("://")[2].partition("/")
    return method[:32], host, slash + path
