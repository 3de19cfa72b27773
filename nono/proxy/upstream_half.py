"""The upstream half: read the answer, forward it, and decide what its end means.

An answer leaves as it comes: a head at once, an event of a stream at once, and only where full TLS records follow each
other are several of them gathered into one write. Interim answers (1xx) pass; 101 turns the conversation into a tunnel.
"""

from __future__ import annotations

from nono.errors import NonoError, UpstreamError
from nono.proxy.answer import answer
from nono.proxy.conversation import ClientGone, Ends
from nono.proxy.framing import (
    CHUNKED,
    UNTIL_CLOSE,
    ChunkScanner,
    FramingError,
    answer_length,
)
from nono.proxy.head import ResponseHead
from nono.proxy.services import BUFFER_BYTES, RECV_BYTES
from nono.proxy.state import (
    ANSWER,
    ANSWER_WHOLE,
    AWAITING,
    BODY,
    CLIENT,
    COUPLED,
    DEAF,
    DONE,
    DRAIN,
    END,
    FIRST_BYTES,
    IDLE,
    INTERIM,
    LOST,
    NEXT,
    SWITCHED,
    UPSTREAM,
    WAITING,
)
from nono.proxy.stream import RECORD_BYTES, WOULD_BLOCK
from nono.proxy.tunnel import Tunnel
from nono.proxy.upstream import Upstream


class UpstreamHalf(Ends):
    """Reads answers."""

    __slots__ = ()

    def _upstream_readable(self, upstream: Upstream) -> None:
        if self.upstream_state == BODY:
            self._relay_answer(upstream)
            return
        try:
            data = upstream.recv(RECORD_BYTES)
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
            self.upstream_state = UPSTREAM[self.upstream_state][INTERIM]
            self._to_client(head.head + b"\r\n")
            if self._client.queued:
                upstream.pause()
            if not data:
                return
        self._answer_begins(upstream, head, data)

    def _answer_begins(self, upstream: Upstream, head: ResponseHead, data: bytes) -> None:
        outgoing = self._outgoing
        assert outgoing is not None
        length = answer_length(head, outgoing.method)
        close = outgoing.close or length == UNTIL_CLOSE
        if outgoing.expects_continue and self.client_state == BODY:
            close = True  # the client may or may not send its body now: nobody can tell what comes next
        self._close_after = self._close_after or close
        if head.close:
            upstream.reusable = False
        if upstream.fresh:
            upstream.pool.ticketed(upstream)
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
        self._status = head.status
        self._to_client(head.head + (b"Connection: close\r\n\r\n" if close else b"\r\n") + data)
        if whole:
            self._answered()
        elif self._client.queued:
            upstream.pause()

    def _relay_answer(self, upstream: Upstream) -> None:
        """Forward what arrived of the answer's body: as soon as it is here, but many full TLS records at once."""
        services, client = self._services, self._client
        view = services.view
        left = self._answer_left
        size = 0
        ended = lost = whole = False
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
            if left >= 0:
                if size >= left:
                    if size > left:
                        upstream.reusable = False
                        size = left
                    whole = True
                self._answer_left = left - size
            elif left == CHUNKED:
                assert self._answer_scanner is not None
                try:
                    end = self._answer_scanner.feed(services.buffer, 0, size)
                except FramingError:
                    self._answer_broke()
                    return
                if end >= 0:
                    if end < size:
                        upstream.reusable = False
                        size = end
                    whole = True
            self._bytes_down += size
            try:
                client.write(view[:size])
            except OSError:
                raise ClientGone from None
            if whole:
                self.upstream_state = UPSTREAM[self.upstream_state][END]
                self._answered()
            elif client.queued:
                upstream.pause()
        if ended and self._upstream is upstream and self.upstream_state == BODY:
            self._upstream_lost(clean=not lost)

    def _answered(self) -> None:
        """The answer's last byte was forwarded, or the request's last byte was read: what do both halves mean?"""
        event = COUPLED.get((self.client_state, self.upstream_state))
        if event is NEXT:
            self._finish()
        elif event is DEAF:
            # Answered before the body ended: neither this connection nor the rest of the body is of use.
            self._let_upstream_go()
            self._since = self._services.loop.now
            self._report("")
            if self._close_after:
                self._hang_up()
            else:
                self.client_state = CLIENT[self.client_state][DEAF]
                self._client.resume()

    def _finish(self) -> None:
        """Both halves are done: report, give the upstream back, go on with the next request."""
        upstream = self._upstream
        if upstream is not None:
            self._upstream = None
            # An answer to a large request that was never read: the next head would be stuck behind it, in its slot.
            is_large = self._bytes_up + len(self._head) > RECV_BYTES
            if upstream.reusable and not upstream.queued and not (is_large and upstream.unsent):
                upstream.resume()
                upstream.pool.keep(upstream)
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
            if client.paused:
                client.resume()
            if self._inbox:
                self._next_pipelined()

    def _switch(self, upstream: Upstream, head: ResponseHead, early: bytes) -> None:
        """101: from here on the bytes are WebSocket's."""
        outgoing = self._outgoing
        assert outgoing is not None
        if outgoing.upgrade != b"websocket" or head.upgrade != b"websocket" or self.client_state != DONE:
            raise UpstreamError(502, "upstream_protocol", "The upstream switched protocols without being asked to.")
        self._status = 101
        self._to_client(head.head + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + early)
        self._bytes_down = len(early)
        self._tunnel_begins(upstream)

    def _tunnel_begins(self, upstream: Upstream) -> None:
        self.client_state = CLIENT[self.client_state][SWITCHED]
        self.upstream_state = UPSTREAM[self.upstream_state][SWITCHED]
        early, self._inbox = bytes(self._inbox), b""
        self._upstream = None
        upstream.pool.let_go(upstream)
        self._head = b""
        services = self._services
        if services.opened is not None:
            services.opened(self._opening())
        self._tunnel = tunnel = Tunnel(self._client, upstream, services.view, self._tunnel_over, services.pipes)
        tunnel.begin(early)

    def _tunnel_over(self, bytes_up: int, bytes_down: int) -> None:
        is_cut_off = self._tunnel is None  # by `close`
        self._tunnel = None
        self._bytes_up += bytes_up
        self._bytes_down += bytes_down
        if not is_cut_off:
            self._report("")
        self._services.closed(self)

    def _upstream_lost(self, clean: bool) -> None:
        """The upstream's connection ended. clean: in the way that ends a close-delimited answer."""
        state = self.upstream_state
        if state == BODY:
            upstream = self._upstream
            if self._deaf and upstream is not None and not upstream.tls:
                clean = False  # a write was told of the reset, so the read that follows sees an end like any other
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
            self._deaf = False
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
        if self.upstream_state == BODY:
            self._answer_broke()  # part of an answer was forwarded: another one must not follow in it
            return
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
        if error.address:
            self._address = error.address
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
                # Not now: where connecting fails at once, a pipeline would be answered by recursion.
                self._services.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._client.fd >= 0 and self.client_state == IDLE and self._inbox and not self._client.queued:
            self._guarded(self._next_pipelined)

    # What the client half does, for this one.

    def _cut_body(self) -> bytes:
        raise NotImplementedError

    def _find_fresh(self) -> None:
        raise NotImplementedError

    def _next_pipelined(self) -> None:
        raise NotImplementedError
