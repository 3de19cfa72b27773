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

import select

from nono.errors import Refusal, UpstreamError
from nono.loop import READ, WRITE
from nono.proxy.client_half import ClientHalf
from nono.proxy.conversation import ClientGone
from nono.proxy.services import HOLD_BYTES
from nono.proxy.state import (
    AWAITING,
    BODY,
    CLOSING,
    DONE,
    DRAIN,
    HANDSHAKE,
    HEAD,
    IDLE,
    TUNNEL,
)
from nono.proxy.upstream import Upstream


class Conversation(ClientHalf):
    """One client connection."""

    __slots__ = ()

    @property
    def active(self) -> bool:
        """Whether an exchange or a tunnel is under way."""
        return self.client_state not in (IDLE, CLOSING) or bool(self._client.queued)

    def begin(self) -> None:
        """Read what has come with the connection, then wait for more."""
        self.client_event(READ)
        self._client.arm()

    def client_event(self, events: int) -> None:
        if self._client.fd < 0:
            return
        try:
            if events & WRITE:
                self._client_writable()
            if events & READ and self._client.fd >= 0 and self.client_state not in (TUNNEL, HANDSHAKE):
                self._client_readable()
        except ClientGone:
            self._client_left()
        except Exception:  # noqa: BLE001 - a bug must end one conversation, not all
            self._failed_inside()

    def upstream_event(self, events: int) -> None:
        upstream = self._upstream
        if upstream is None or upstream.fd < 0:
            return
        try:
            if events == READ and self.upstream_state == BODY:  # the event of a stream: no frame more than needed
                self._relay_answer(upstream)
                return
            if events & WRITE:
                self._upstream_writable(upstream)
            if events & READ and self._upstream is upstream and upstream.fd >= 0:
                self._upstream_readable(upstream)
        except ClientGone:
            self._client_left()
        except Exception:  # noqa: BLE001 - a bug must end one conversation, not all
            self._failed_inside()

    def check(self, now: float) -> None:
        """Apply the time-outs; called now and then."""
        limits, waited, state = self._services.limits, now - self._since, self.client_state
        client, upstream = self._client, self._upstream
        if self._tunnel is not None:
            overdue = self._tunnel.overdue(now, limits.stalled_write_s, limits.tunnel_idle_s)
            if overdue:
                self.close(overdue)
            return
        try:
            if client.queued and limits.stalled_write_s and now - client.stalled_since > limits.stalled_write_s:
                self._client_left("the client stopped reading")
            elif self._under_way and client.paused and _has_hung_up(client.fd):
                self._client_left()
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
                self._check_exchange(upstream, now)
            elif state == HANDSHAKE and 0 < limits.tls_s < waited:
                self._handshake_failed(
                    "tls_timeout", f"the client did not finish its TLS handshake in {limits.tls_s:g} s"
                )
        except ClientGone:
            self._client_left()
        except Exception:  # noqa: BLE001 - a bug must end one conversation, not all
            self._failed_inside()

    def _check_exchange(self, upstream: Upstream, now: float) -> None:
        limits, waited, state = self._services.limits, now - self._since, self.client_state
        if upstream.queued and limits.stalled_write_s and now - upstream.stalled_since > limits.stalled_write_s:
            self._fail(UpstreamError(504, "upstream_stalled", "The upstream stopped reading the request."))
        elif upstream.queued and 0 < limits.slot_s < now - self._slot_at and upstream.holds_slot:
            message = f"The upstream did not take the request's head in {limits.slot_s:g} s."
            self._fail(UpstreamError(504, "upstream_stalled", message))
        elif self.upstream_state == IDLE:  # also before a retry
            if 0 < limits.slot_wait_s < now - self._slot_at:
                message = "Too many requests wait for upstreams that do not take them; try again."
                self._fail(UpstreamError(503, "no_slot", message))
        elif self.upstream_state not in (AWAITING, HEAD):
            pass  # the answer has begun: it may take its time, and so may the request beside it
        elif state == DONE:
            if 0 < limits.upstream_head_s < waited:
                message = f"The upstream did not answer in {limits.upstream_head_s:g} s."
                self._fail(UpstreamError(504, "head_timeout", message))
        elif 0 < limits.client_body_s < waited and not upstream.queued and not self._client.paused:
            message = f"No byte of the request's body arrived in {limits.client_body_s:g} s."
            self._refuse(Refusal(408, "slow_body", message))

    def _client_writable(self) -> None:
        client = self._client
        try:
            if not client.flush():
                return
        except OSError:
            raise ClientGone from None
        if self.client_state == CLOSING:
            self._hang_up()
        elif self._upstream is not None:
            self._upstream.resume()
        elif self.client_state in (IDLE, HEAD):
            client.resume()
            if self._inbox:
                self._next_pipelined()

    def _upstream_writable(self, upstream: Upstream) -> None:
        try:
            if not upstream.flush():
                return
        except OSError:
            self._upstream_deaf()
            return
        if len(self._inbox) < HOLD_BYTES:
            if self.client_state == BODY:
                self._since = self._services.loop.now  # its silence was ours
            self._client.resume()


def _has_hung_up(fd: int) -> bool:
    """Whether a client that is not being read has left. Not seen: an end behind more than the kernel's buffer holds."""
    poll = select.poll()
    poll.register(fd, getattr(select, "POLLRDHUP", 0))  # Linux; errors and full hang-ups are told everywhere
    return bool(poll.poll(0))
