"""The client half: read requests, find each an upstream, and send it there.

A head is collected, judged and sent with its credential in one go; of its body, what came with it goes along. Later
parts are forwarded as they come, or dropped when the upstream has answered and wants no more.
"""

from __future__ import annotations

from nono.errors import NonoError, Refusal
from nono.proxy.framing import (
    CHUNKED,
    ChunkScanner,
    FramingError,
)
from nono.proxy.intercept import ESTABLISHED, InterceptingHalf
from nono.proxy.limits import Limits
from nono.proxy.memo import ConnectGrant
from nono.proxy.route import Origin
from nono.proxy.services import HOLD_BYTES, RECV_BYTES, REPLAY_BYTES
from nono.proxy.state import (
    AWAITING,
    BODY,
    BOUND,
    BYTES,
    CLIENT,
    CLOSING,
    DEAF,
    DRAIN,
    END,
    GRANTED,
    HEAD,
    IDLE,
    SENT_WHOLE,
    SENT_WITH_BODY,
    UNLISTED,
    UPSTREAM,
)
from nono.proxy.stream import WOULD_BLOCK
from nono.proxy.upstream import Upstream


class ClientHalf(InterceptingHalf):
    """Reads requests."""

    __slots__ = ()

    def _client_readable(self) -> None:
        state = self.client_state
        if state in (BODY, DRAIN):
            self._read_body()
            return
        try:
            data = self._client.recv(RECV_BYTES)
        except WOULD_BLOCK:
            return
        except OSError:
            data = b""
        if not data:
            self._client_left()
        elif state in (IDLE, HEAD) and not self._client.queued:
            self._read_head(data)
        elif state != CLOSING:
            self._hold(data)

    def _hold(self, data: bytes) -> None:
        """Keep what cannot be looked at yet: a body without an upstream, or the next request."""
        if not self._inbox:
            self._inbox = data
        else:
            if not isinstance(self._inbox, bytearray):
                self._inbox = bytearray(self._inbox)
            self._inbox += data
        if len(self._inbox) >= HOLD_BYTES:
            self._client.pause()

    def _read_head(self, data: bytes) -> None:
        inbox = self._inbox
        if not inbox:
            end = data.find(b"\r\n\r\n")
        else:
            if not isinstance(inbox, bytearray):
                inbox = bytearray(inbox)
            inbox += data
            end = inbox.find(b"\r\n\r\n", max(0, self._scanned - 3))
            data = bytes(inbox) if end >= 0 else data
        limits = self._services.limits
        if end >= 0:
            self._inbox = data[end + 4 :]
            self._scanned = 0
            if end + 4 > limits.max_head_bytes:
                self._refuse(_too_large(limits))
            else:
                self._begin(data[: end + 4])
            return
        self._inbox = inbox = inbox or bytearray(data)
        self._scanned = len(inbox)
        if inbox[0] < 0x21:
            hint = " This port speaks plain HTTP, not TLS: use http://." if inbox[0] == 0x16 else ""
            self._refuse(Refusal(400, "bad_request", "The request is not valid HTTP/1.1." + hint))
        elif len(inbox) > limits.max_head_bytes:
            self._refuse(_too_large(limits))
        elif len(inbox) > limits.max_target_bytes + 64 and inbox.find(b"\r\n", 0, limits.max_target_bytes + 64) < 0:
            message = f"The request target is longer than {limits.max_target_bytes} bytes."
            self._refuse(Refusal(414, "uri_too_long", message))
        else:
            if self.client_state == IDLE:
                self._since = self._services.loop.now
            self.client_state = CLIENT[self.client_state][BYTES]

    def _next_pipelined(self) -> None:
        inbox, self._inbox = bytes(self._inbox), b""
        self._read_head(inbox)

    def _begin(self, head: bytes) -> None:
        services = self._services
        self._started = self._since = services.loop.now
        self._under_way = True
        self._was_used = True
        self._head = head
        try:
            judged = services.judge(head)
        except Refusal as refusal:
            if refusal.unlisted and services.latecomers.expected:
                self.client_state = CLIENT[self.client_state][UNLISTED]
                self._client.pause()
                services.latecomers.wait(self, self._judge_again)
            else:
                self._refuse(refusal)
            return
        self.client_state = CLIENT[self.client_state][GRANTED]
        if isinstance(judged, ConnectGrant):
            self._target = judged
            if judged.judge is not None:
                self._begin_interception()
                return
            pool = services.pool(Origin(False, judged.host, judged.port), judged.scope)
            dial = pool.dial(self._connected)
            if not dial.over:
                self._dial = dial
            return
        self._outgoing = judged
        if self._pool is None or self._pool.origin is not judged.origin or judged.secret is None:
            self._pool = services.pool(judged.origin, judged.scope)
        pool = self._pool
        upstream = pool.take()
        if upstream is not None:
            self._reused = True
            self._send(upstream)
        else:
            self._find_fresh()

    def _judge_again(self) -> None:
        self._client.resume()
        self._guarded(lambda: self._begin(self._head))

    def _find_fresh(self) -> None:
        assert self._pool is not None
        dial = self._pool.dial(self._dialled)
        if not dial.over:
            self._dial = dial

    def _dialled(self, made: Upstream | NonoError) -> None:
        self._dial = None
        with_ = self._fail if isinstance(made, NonoError) else self._send
        self._guarded(lambda: with_(made))  # type: ignore[arg-type]

    def _send(self, upstream: Upstream) -> None:
        """Send the head, the credential in it, and what is here of the body."""
        outgoing, services = self._outgoing, self._services
        assert outgoing is not None
        slot = None
        if outgoing.secret is not None:
            slot = services.scratch.take()
            if slot is None:
                self._upstream = upstream  # bound, so that it is closed with us; not yet in use
                self._slot_at = self._slot_at or services.loop.now
                services.scratch.wait(lambda: self._slot_free(upstream))
                return
        self._upstream = upstream
        self._address = upstream.address
        upstream.owner = self
        self.upstream_state = UPSTREAM[self.upstream_state][BOUND]
        try:
            body: bytes | None = self._replay if self._retried else self._cut_body()
        except FramingError as error:
            if slot is not None:
                slot.release()
            self._refuse(Refusal(400, "bad_body", f"The request's body is malformed: {error}."))
            return
        assert body is not None
        try:
            if slot is None:
                upstream.write(outgoing.before)
                if body:
                    upstream.write(body)
            else:
                if outgoing.fits:
                    size, used = slot.assemble(outgoing, body)
                    upstream.write_slot(slot, size)
                    if used < len(body):
                        upstream.write(memoryview(body)[used:])
                else:  # a head longer than a slot: only the credential needs locked memory
                    upstream.write_before(slot, outgoing.before)
                    size, _ = slot.assemble(outgoing._replace(before=b"", after=b""), b"")
                    upstream.write_slot(slot, size)
                    upstream.write(outgoing.after)
                    if body:
                        upstream.write(body)
        except OSError:
            self._upstream_deaf()
            return
        if self._left:
            self._since = services.loop.now
        if upstream.queued:
            self._slot_at = services.loop.now
            self._client.pause()
        elif self._client.paused and not self._client.queued:
            self._client.resume()

    def _slot_free(self, upstream: Upstream) -> None:
        if self._upstream is not upstream or self.upstream_state != IDLE:
            return  # this exchange is over
        self._upstream = None
        if upstream.fd >= 0:
            self._guarded(lambda: self._send(upstream))
        else:  # closed while it waited
            self._guarded(self._find_fresh)

    def _cut_body(self) -> bytes:
        """Take from the inbox what belongs to this request, and find out how much is still to come."""
        outgoing = self._outgoing
        assert outgoing is not None
        inbox, length = self._inbox, outgoing.length
        if not length:
            body = b""
            left = 0
        elif length == CHUNKED:
            scanner = self._request_scanner = ChunkScanner(
                True, self._services.token, self._services.judge.reader.is_special
            )
            body = bytes(inbox)
            end = scanner.feed(body, 0, len(body))
            if end >= 0:
                self._inbox = body[end:]
                body = body[:end]
                left = 0
            else:
                _, held = scanner.held_back()
                body = body[: len(body) - held]
                self._inbox = b""
                left = CHUNKED
        else:
            body = bytes(inbox[:length]) if len(inbox) > length else bytes(inbox)
            self._inbox = inbox[length:]
            left = length - len(body)
        self._left = left
        self._bytes_up = len(body)
        self._replay = body if len(body) <= REPLAY_BYTES else None
        self.client_state = CLIENT[self.client_state][SENT_WITH_BODY if left else SENT_WHOLE]
        return body

    def _read_body(self) -> None:
        """Forward what arrived of the request's body, or drop it when nobody wants it."""
        services, client = self._services, self._client
        view = services.view
        try:
            size = client.recv_into(view)
        except WOULD_BLOCK:
            return
        except OSError:
            size = 0
        if not size:
            self._client_left()
            return
        released, held = b"", 0
        if self._left >= 0:
            taken = min(size, self._left)
            self._left -= taken
        else:
            assert self._request_scanner is not None
            try:
                taken = self._request_scanner.feed(services.buffer, 0, size)
            except FramingError as error:
                self._refuse(Refusal(400, "bad_body", f"The request's body is malformed: {error}."))
                return
            if taken >= 0:
                self._left = 0
            else:
                taken = size
            released, held = self._request_scanner.held_back()
        if taken < size:
            self._inbox = bytes(view[taken:size])
        was_forwarding = self.client_state == BODY
        if was_forwarding:
            self._since = services.loop.now  # not while dropping: a drip must not keep the connection
        if not self._left:
            self.client_state = CLIENT[self.client_state][END]
            self._since = services.loop.now
        if was_forwarding:
            data = view[: taken - held]
            if released:
                data = memoryview(released + bytes(data))
            if data:
                self._forward_body(data)
        elif not self._left:
            self._answered()

    def _forward_body(self, data: memoryview) -> None:
        upstream = self._upstream
        assert upstream is not None
        self._bytes_up += len(data)
        if self._replay is not None:
            short = self._bytes_up <= REPLAY_BYTES and self.upstream_state == AWAITING
            self._replay = self._replay + data if short else None
        try:
            upstream.write(data)
        except OSError:
            self._upstream_deaf()
            return
        if upstream.queued:
            self._client.pause()

    def _upstream_deaf(self) -> None:
        """The upstream takes no more; it may still have answered before it hung up, so go on reading."""
        upstream = self._upstream
        if upstream is None or upstream.fd < 0:
            return
        upstream.reusable = False
        self._deaf = True
        upstream.forget_queue()
        self._upstream_readable(upstream)  # an answer, or the loss that leads to the retry
        if self._upstream is upstream:
            self.client_state = CLIENT[self.client_state][DEAF]
            self._client.resume()

    def _connected(self, made: Upstream | NonoError) -> None:
        """CONNECT: the host answered, or not."""
        self._dial = None
        if isinstance(made, NonoError):
            self._guarded(lambda: self._fail(made))
        else:
            self._guarded(lambda: self._tunnel_stands(made))

    def _tunnel_stands(self, upstream: Upstream) -> None:
        self._status = 200
        self._upstream = upstream
        self._address = upstream.address
        self._to_client(ESTABLISHED)
        self._tunnel_begins(upstream)


def _too_large(limits: Limits) -> Refusal:
    return Refusal(431, "head_too_large", f"The request's head is larger than {limits.max_head_bytes} bytes.")
