"""Drive the exchanges of one client connection, one after the other.

A Conversation owns a client stream for its whole life and at most one upstream at a time. It reads, asks the pure rooms
(judge, head, framing) what the bytes mean, moves both half-machines by the tables of `state.py`, and writes. Its rules:

- *Send first.* What is to be written is offered to the kernel at once; who cannot take it stops its peer from being
  read (back-pressure), and nobody else.
- *Early answers* are forwarded while the request is still arriving. When such an answer is over, the rest of the body
  is read and dropped, so that the connection can go on.
- *The client leaves*: its end is seen in every state, and the upstream's connection is closed at once (tokens cost
  money). A client that only half-closes is taken to have left, as nginx takes it.
- *An answer that breaks* breaks the client's connection: what came is flushed, then the end comes where it does not
  belong; where the end would look right (close-delimited) the connection is reset instead.
- *Retry once*: a request on a pooled connection of which no byte was answered, and whose body so far is still held
  (REPLAY_BYTES), goes to a fresh connection. Never one that was made for it.

Nothing is waited for here and there are no timers: the listener calls `check` on every conversation now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from nono.errors import NonoError, Refusal, UpstreamError
from nono.loop import READ, WRITE, Loop
from nono.proxy.answer import answer
from nono.proxy.framing import (
    CHUNKED,
    UNTIL_CLOSE,
    ChunkScanner,
    FramingError,
    answer_length,
    drop_framing,
)
from nono.proxy.head import ResponseHead
from nono.proxy.inject import Outgoing, ScratchPool, fits
from nono.proxy.judge import Judge
from nono.proxy.limits import Limits
from nono.proxy.route import ConnectTarget, Origin
from nono.proxy.state import (
    ANSWER,
    ANSWER_WHOLE,
    AWAITING,
    BODY,
    BOUND,
    BYTES,
    CLIENT,
    CLOSING,
    COUPLED,
    DEAF,
    DONE,
    DRAIN,
    END,
    FIRST_BYTES,
    GRANTED,
    HEAD,
    IDLE,
    INTERIM,
    LOST,
    NEXT,
    REFUSED,
    SENT_WHOLE,
    SENT_WITH_BODY,
    SWITCHED,
    TUNNEL,
    UPSTREAM,
    WAITING,
)
from nono.proxy.stream import RECORD_BYTES, WOULD_BLOCK, Stream
from nono.proxy.tunnel import Tunnel
from nono.proxy.upstream import Dial, Pool, Upstream

RECV_BYTES = 65536
BUFFER_BYTES = 262144  # fills of 128-256 KiB: larger ones gain nothing
HOLD_BYTES = 65536  # of pipelined requests, or of a body whose upstream is still being dialled
REPLAY_BYTES = 65536


class Exchange(NamedTuple):
    """What the audit learns of one request: no header, no query, no body.

    time: seconds since the epoch at its start. route: empty for CONNECT and absolute-form; host: where it went.
    status: what the client was answered, 0 when nothing. code: nono's own verdict, empty when it had none.
    """

    time: float
    route: str
    host: str
    method: str
    path: str
    status: int
    code: str
    bytes_up: int
    bytes_down: int
    duration_ms: float
    reason: str


class Services(NamedTuple):
    """What all conversations of one proxy share."""

    loop: Loop
    limits: Limits
    judge: Judge
    token: bytes
    scratch: ScratchPool
    pool: Callable[[Origin, bool], Pool]
    report: Callable[[Exchange], None]
    closed: Callable[[Any], None]
    buffer: bytearray
    view: memoryview


class _ClientGone(Exception):
    """Writing to the client failed."""


class Conversation:
    """One client connection."""

    __slots__ = (
        "_answer_inbox",
        "_answer_left",
        "_answer_scanner",
        "_bytes_down",
        "_bytes_up",
        "_client",
        "_close_after",
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
        "_started",
        "_status",
        "_target",
        "_tunnel",
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
        self._tunnel: Tunnel | None = None
        self._clear()
        self._client = Stream(services.loop, sock, self.client_event)

    def _clear(self) -> None:
        """Nothing of the last exchange is left."""
        self._outgoing: Outgoing | None = None
        self._target: ConnectTarget | None = None
        self._head = b""
        self._pool: Pool | None = None
        self._left = 0
        self._request_scanner: ChunkScanner | None = None
        self._replay: bytes | None = None
        self._reused = self._retried = self._close_after = False
        self._answer_inbox = b""
        self._answer_left = 0
        self._answer_scanner: ChunkScanner | None = None
        self._bytes_up = self._bytes_down = 0
        self._status = 0
        self._started = 0.0

    # -- what the loop and the listener call

    @property
    def active(self) -> bool:
        """Whether an exchange or a tunnel is under way."""
        return self.client_state not in (IDLE, CLOSING) or bool(self._client.queued)

    def client_event(self, events: int) -> None:
        if self._client.fd < 0:
            return
        try:
            if events & WRITE:
                self._client_writable()
            if events & READ and self._client.fd >= 0 and self.client_state != TUNNEL:
                self._client_readable()
        except _ClientGone:
            self._client_left()
        except Exception:  # noqa: BLE001 - a bug must end one conversation, not all
            self._failed_inside()

    def upstream_event(self, events: int) -> None:
        upstream = self._upstream
        if upstream is None or upstream.fd < 0:
            return
        try:
            if events & WRITE:
                self._upstream_writable(upstream)
            if events & READ and self._upstream is upstream and upstream.fd >= 0:
                self._upstream_readable(upstream)
        except _ClientGone:
            self._client_left()
        except Exception:  # noqa: BLE001 - a bug must end one conversation, not all
            self._failed_inside()

    def check(self, now: float) -> None:
        """Apply the time-outs; called now and then."""
        limits, waited, state = self._services.limits, now - self._since, self.client_state
        client, upstream = self._client, self._upstream
        if self._tunnel is not None:
            return
        try:
            if client.queued and limits.stalled_write_s and now - client.stalled_since > limits.stalled_write_s:
                self._client_left("the client stopped reading")
            elif state == IDLE:
                limit = limits.client_idle_s if self._was_used else limits.client_head_s
                if limit and waited > limit and not client.queued:
                    self.close()
            elif state == HEAD:
                if limits.client_head_s and waited > limits.client_head_s:
                    self._refuse(Refusal(408, "slow_head", "The request's head did not arrive in time."))
            elif state == CLOSING or (state == DRAIN and upstream is None):
                if waited > limits.linger_s and not client.queued:
                    self.close()
            elif upstream is not None:
                if (
                    upstream.queued
                    and limits.stalled_write_s
                    and now - upstream.stalled_since > limits.stalled_write_s
                ):
                    self._fail(UpstreamError(504, "upstream_stalled", "The upstream stopped reading the request."))
                elif 0 < limits.upstream_head_s < waited and state == DONE and self.upstream_state in (AWAITING, HEAD):
                    message = f"The upstream did not answer in {limits.upstream_head_s:g} s."
                    self._fail(UpstreamError(504, "head_timeout", message))
        except _ClientGone:
            self._client_left()

    def close(self) -> None:
        """Close at once whatever is open."""
        if self._tunnel is not None:
            self._tunnel.close()
        self._let_upstream_go()
        if self._client.fd >= 0:
            self._client.close()
            self._services.closed(self)

    # -- the request

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

    def _begin(self, head: bytes) -> None:
        services = self._services
        self._started = self._since = services.loop.now
        self._was_used = True
        self._head = head
        try:
            judged = services.judge(head)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        self.client_state = CLIENT[self.client_state][GRANTED]
        if isinstance(judged, ConnectTarget):
            self._target = judged
            pool = services.pool(Origin(False, judged.host, judged.port), True)
            self._dial = pool.dial(self._connected)
            return
        self._outgoing = judged
        self._pool = pool = services.pool(judged.origin, judged.bound is None)
        upstream = pool.take()
        if upstream is not None:
            self._reused = True
            self._send(upstream)
        else:
            self._find_fresh()

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
        if outgoing.bound is not None:
            slot = services.scratch.take()
            if slot is None:
                self._upstream = upstream  # bound, so that it is closed with us; not yet in use
                services.scratch.wait(lambda: self._slot_free(upstream))
                return
        self._upstream = upstream
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
                assert outgoing.bound is not None
                assert outgoing.bound.credential is not None
                credential = outgoing.bound.credential
                if fits(outgoing, credential):
                    size, used = slot.assemble(outgoing, credential, body)
                    upstream.write_slot(slot, size)
                    if used < len(body):
                        upstream.write(memoryview(body)[used:])
                else:  # a head longer than a slot: only the credential needs locked memory
                    upstream.write(outgoing.before)
                    size, _ = slot.assemble(outgoing._replace(before=b"", after=b""), credential, b"")
                    upstream.write_slot(slot, size)
                    upstream.write(outgoing.after)
                    if body:
                        upstream.write(body)
        except OSError:
            self._upstream_deaf()
            return
        if upstream.queued:
            self._client.pause()
        elif not self._client.reading and not self._client.queued:
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
            scanner = self._request_scanner = ChunkScanner(True, self._services.token)
            body = bytes(inbox)
            end = scanner.feed(body, 0, len(body))
            if end >= 0:
                self._inbox = body[end:]
                body = body[:end]
                left = 0
            else:
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
        if taken < size:
            self._inbox = bytes(view[taken:size])
        was_forwarding = self.client_state == BODY
        if not self._left:
            self.client_state = CLIENT[self.client_state][END]
            self._since = services.loop.now
        if was_forwarding:
            self._forward_body(view[:taken])
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
        upstream.forget_queue()
        self._upstream_readable(upstream)  # an answer, or the loss that leads to the retry
        if self._upstream is upstream:
            self.client_state = CLIENT[self.client_state][DEAF]
            self._client.resume()

    def _upstream_writable(self, upstream: Upstream) -> None:
        try:
            if not upstream.flush():
                return
        except OSError:
            self._upstream_deaf()
            return
        if len(self._inbox) < HOLD_BYTES:
            self._client.resume()

    # -- the answer

    def _upstream_readable(self, upstream: Upstream) -> None:
        if self.upstream_state == BODY:
            self._relay_answer(upstream)
            return
        try:
            data = upstream.recv(RECV_BYTES)
        except WOULD_BLOCK:
            return
        except OSError:
            data = b""
        if not data:
            self._upstream_lost(clean=False)
            return
        if self._answer_inbox:
            data = self._answer_inbox + data
            self._answer_inbox = b""
        try:
            self._read_answer(upstream, data)
        except UpstreamError as error:
            self._fail(error)

    def _read_answer(self, upstream: Upstream, data: bytes) -> None:
        reader = self._services.judge.reader
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > self._services.limits.max_head_bytes:
                    raise UpstreamError(502, "upstream_protocol", "The head of the upstream's answer is too large.")
                self.upstream_state = UPSTREAM[self.upstream_state][FIRST_BYTES]
                self._answer_inbox = data
                return
            head = reader.response(data[: end + 4])
            data = data[end + 4 :]
            if head.status >= 200:
                break
            if head.status == 101:
                self._switch(upstream, head, data)
                return
            drop_framing(head)
            self.upstream_state = UPSTREAM[self.upstream_state][INTERIM]
            self._to_client(b"\r\n".join(head.lines) + b"\r\n\r\n")
            if not data:
                return
        self._answer_begins(upstream, head, data)

    def _answer_begins(self, upstream: Upstream, head: ResponseHead, data: bytes) -> None:
        outgoing = self._outgoing
        assert outgoing is not None
        length = answer_length(head, outgoing.method)
        if head.status == 204:
            drop_framing(head)
        close = outgoing.close or length == UNTIL_CLOSE
        if outgoing.expects_continue and self.client_state == BODY:
            close = True  # the client may or may not send its body now: nobody can tell what comes next
        self._close_after = self._close_after or close
        if head.close:
            upstream.reusable = False
        self._status = head.status
        lines = head.lines
        lines.append(b"Connection: close\r\n\r\n" if close else b"\r\n")
        size = len(data)
        whole = False
        if length >= 0:
            if size > length:
                upstream.reusable = False  # more than an answer: whatever it is, it is not ours
                data = data[:length]
                size = length
            self._answer_left = length - size
            whole = not self._answer_left
        elif length == CHUNKED:
            scanner = self._answer_scanner = ChunkScanner(False)
            self._answer_left = CHUNKED
            try:
                end = scanner.feed(data, 0, size)
            except FramingError:
                raise UpstreamError(502, "upstream_protocol", "The upstream's answer is not valid chunked.") from None
            if end >= 0:
                if end < size:
                    upstream.reusable = False
                    data = data[:end]
                    size = end
                whole = True
        else:
            upstream.reusable = False
            self._answer_left = UNTIL_CLOSE
        self._bytes_down = size
        self.upstream_state = UPSTREAM[self.upstream_state][ANSWER_WHOLE if whole else ANSWER]
        self._replay = None
        lines.append(data)
        self._to_client(b"\r\n".join(lines[:-1]) + data)
        if whole:
            self._answered()
        elif self._client.queued:
            upstream.pause()

    def _relay_answer(self, upstream: Upstream) -> None:
        """Forward what arrived of the answer's body: as soon as it is here, but many full TLS records at once."""
        services = self._services
        view = services.view
        left = self._answer_left
        size = 0
        ended = lost = False
        try:
            size = upstream.recv_into(view)
            if not size:
                ended = True
            elif size == RECORD_BYTES:
                while size <= BUFFER_BYTES - RECORD_BYTES and not 0 <= left <= size:
                    more = upstream.recv_into(view[size:])
                    if not more:
                        ended = True
                        break
                    size += more
                    if more < RECORD_BYTES:
                        break
        except WOULD_BLOCK:
            pass
        except OSError:
            ended = lost = True
        if size:
            try:
                self._forward_answer(upstream, size)
            except FramingError:
                self._answer_broke()
                return
        if ended and self._upstream is upstream and self.upstream_state == BODY:
            self._upstream_lost(clean=not lost)

    def _forward_answer(self, upstream: Upstream, size: int) -> None:
        services, left = self._services, self._answer_left
        whole = False
        if left >= 0:
            if size >= left:
                if size > left:
                    upstream.reusable = False
                    size = left
                whole = True
            self._answer_left = left - size
        elif left == CHUNKED:
            assert self._answer_scanner is not None
            end = self._answer_scanner.feed(services.buffer, 0, size)
            if end >= 0:
                if end < size:
                    upstream.reusable = False
                    size = end
                whole = True
        self._bytes_down += size
        self._to_client(services.view[:size])
        if whole:
            self.upstream_state = UPSTREAM[self.upstream_state][END]
            self._answered()
        elif self._client.queued:
            upstream.pause()

    def _answered(self) -> None:
        """The answer's last byte was forwarded, or the request's last byte was read: what do both halves mean?"""
        event = COUPLED.get((self.client_state, self.upstream_state))
        if event is NEXT:
            self._finish()
        elif event is DEAF:
            # Answered before the body ended: neither this connection nor the rest of the body is of use.
            self._let_upstream_go()
            self._since = self._services.loop.now
            if self._close_after:
                self._report("")
                self._hang_up()
            else:
                self.client_state = CLIENT[self.client_state][DEAF]
                self._client.resume()

    def _finish(self) -> None:
        """Both halves are done: report, give the upstream back, go on with the next request."""
        upstream = self._upstream
        if upstream is not None:
            self._upstream = None
            if upstream.reusable and not upstream.queued:
                upstream.resume()
                upstream.pool.release(upstream)
            else:
                upstream.pool.discard(upstream)
        self._report("")
        if self._close_after:
            self._hang_up()
            return
        self.client_state = CLIENT[self.client_state][NEXT]
        self.upstream_state = UPSTREAM[self.upstream_state][NEXT]
        self._clear()
        self._since = self._services.loop.now
        client = self._client
        if not client.queued:
            if not client.reading:
                client.resume()
            if self._inbox:
                self._next_pipelined()

    def _next_pipelined(self) -> None:
        inbox, self._inbox = bytes(self._inbox), b""
        self._read_head(inbox)

    def _switch(self, upstream: Upstream, head: ResponseHead, early: bytes) -> None:
        """101: from here on the bytes are WebSocket's."""
        outgoing = self._outgoing
        assert outgoing is not None
        if outgoing.upgrade != b"websocket" or head.upgrade != b"websocket" or self.client_state != DONE:
            raise UpstreamError(502, "upstream_protocol", "The upstream switched protocols without being asked to.")
        drop_framing(head)
        lines = [*head.lines, b"Connection: Upgrade", b"Upgrade: websocket"]
        self._status = 101
        self._to_client(b"\r\n".join(lines) + b"\r\n\r\n" + early)
        self._bytes_down = len(early)
        self._tunnel_begins(upstream)

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
        self._to_client(b"HTTP/1.1 200 Connection Established\r\n\r\n")
        self._tunnel_begins(upstream)

    def _tunnel_begins(self, upstream: Upstream) -> None:
        self.client_state = CLIENT[self.client_state][SWITCHED]
        self.upstream_state = UPSTREAM[self.upstream_state][SWITCHED]
        early, self._inbox = bytes(self._inbox), b""
        self._upstream = None
        self._head = b""
        self._tunnel = tunnel = Tunnel(self._client, upstream, self._services.view, self._tunnel_over)
        tunnel.begin(early)

    def _tunnel_over(self, bytes_up: int, bytes_down: int) -> None:
        self._tunnel = None
        self._bytes_up += bytes_up
        self._bytes_down += bytes_down
        self._report("")
        self._services.closed(self)

    # -- what goes wrong

    def _client_left(self, reason: str = "the client left") -> None:
        if self.client_state not in (IDLE, HEAD, CLOSING):
            self._report("client_left", reason)
        self.close()

    def _upstream_lost(self, clean: bool) -> None:
        """The upstream's connection ended. clean: in the way that ends a close-delimited answer."""
        state = self.upstream_state
        if state == BODY:
            if clean and self._answer_left == UNTIL_CLOSE:
                self.upstream_state = UPSTREAM[state][END]
                self._answered()
            else:
                self._answer_broke()
            return
        if state == AWAITING and self._reused and not self._retried and self._replay is not None:
            self._let_upstream_go()
            self.upstream_state = UPSTREAM[state][LOST]
            if self.client_state == DRAIN:
                self._refuse_lost()
                return
            self._retried = True
            if self.client_state == BODY:
                self._client.pause()
            self._find_fresh()
            return
        self._refuse_lost()

    def _refuse_lost(self) -> None:
        message = "The upstream closed the connection without an answer."
        self._fail(UpstreamError(502, "upstream_closed", message))

    def _answer_broke(self) -> None:
        """The client has part of an answer that will not be completed: it must be able to see that."""
        self._report("upstream_broke", "the upstream's answer broke off")
        self._let_upstream_go()
        if self._answer_left == UNTIL_CLOSE:
            self._client.reset()
            self._services.closed(self)
        else:
            self._hang_up()

    def _fail(self, error: NonoError) -> None:
        """The upstream cannot be had, or failed before its answer: say so, and go on if the request is over."""
        outgoing = self._outgoing
        if outgoing is None or not isinstance(error, UpstreamError):
            self._refuse(error)
            return
        if self.client_state == WAITING:
            try:
                self._cut_body()
            except FramingError:
                pass
        if self.client_state != DONE:
            self._refuse(error)
            return
        self._let_upstream_go()
        self._close_after = self._close_after or outgoing.close
        self._status = error.status
        text = answer(
            error.status, error.code, str(error), close=self._close_after, head_only=outgoing.method == b"HEAD"
        )
        self._report(error.code, str(error))
        self._to_client(text)
        if self._close_after:
            self._hang_up()
            return
        self.upstream_state = IDLE
        self.client_state = CLIENT[self.client_state][NEXT]
        self._clear()
        self._since = self._services.loop.now
        if not self._client.queued:
            self._client.resume()
            if self._inbox:
                self._next_pipelined()

    def _refuse(self, error: NonoError) -> None:
        """Answer and hang up: nothing that follows on this connection will be looked at."""
        assert isinstance(error, (Refusal, UpstreamError))
        self._let_upstream_go()
        head_only = self._head.startswith(b"HEAD ")
        if not self._started:
            self._started = self._since
        if self._status == 0:
            self._status = error.status
            text = answer(error.status, error.code, str(error), close=True, head_only=head_only)
        else:
            text = b""  # an answer has begun: it breaks off here
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

    def _client_writable(self) -> None:
        client = self._client
        try:
            if not client.flush():
                return
        except OSError:
            raise _ClientGone from None
        if self.client_state == CLOSING:
            self._hang_up()
        elif self._upstream is not None:
            self._upstream.resume()
        elif self.client_state in (IDLE, HEAD):
            client.resume()
            if self._inbox:
                self._next_pipelined()

    def _failed_inside(self) -> None:
        """A bug of ours: this conversation ends, the others go on. The audit says so; no detail is shown to anyone."""
        self._report("internal_error", "an error inside nono; please report it")
        self.close()

    def _guarded(self, step: Callable[[], None]) -> None:
        """Run a step that neither stream's event has called."""
        try:
            step()
        except _ClientGone:
            self._client_left()
        except Exception:  # noqa: BLE001 - a bug must end one conversation, not all
            self._failed_inside()

    # -- small things

    def _to_client(self, data: bytes | memoryview) -> None:
        try:
            self._client.write(data)
        except OSError:
            raise _ClientGone from None

    def _let_upstream_go(self) -> None:
        """Close the upstream's connection, or stop waiting for it."""
        dial, self._dial = self._dial, None
        if dial is not None:
            dial.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.pool.discard(upstream)

    def _report(self, code: str, reason: str = "") -> None:
        outgoing, target = self._outgoing, self._target
        now = self._services.loop.now
        route = host = method = path = ""
        if outgoing is not None:
            route = outgoing.bound.route.name if outgoing.bound is not None else ""
            host = outgoing.origin.authority
            method = outgoing.method.decode()
            path = outgoing.path.decode()
        elif target is not None:
            method, host = "CONNECT", f"{target.host}:{target.port}"
        elif self._head:
            method, host, path = _shown(self._head, self._services.token)
        duration = now - self._started
        self._services.report(
            Exchange(
                time.time() - duration, route, host, method, path, self._status, code,
                self._bytes_up, self._bytes_down, round(duration * 1000, 3), reason,
            )
        )


def _too_large(limits: Limits) -> Refusal:
    return Refusal(431, "head_too_large", f"The request's head is larger than {limits.max_head_bytes} bytes.")


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
