"""The live view of `-v`: a line on stderr for each exchange when it ends, and for each tunnel when it begins, too.

    nono  allowed     POST api.openai.com/chat/completions   200   812 ms  2.1 kB up, 14 kB down
    nono  denied      CONNECT example.org:443                403     0 ms  … not in the allowlist.  --allow-domain …

The terminal is the agent's, and the proxy's time too. So at most RATE lines a second are written (BURST at once), none
while nobody takes them (a stopped terminal, a full pipe), and what is left out is counted and said; the audit log has
all of it. A line is one piece without control characters, and ends in CR LF on a terminal, which the agent may have put
into raw mode. Nothing secret is here: an Exchange has no query, no header and no token.
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from time import monotonic

from nono.cli.render import printable
from nono.errors import GRANT
from nono.policy.quantities import shown_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from nono.cli.messages import Messages
    from nono.proxy.services import Exchange

RATE, BURST = 20, 60
_PIECE_BYTES = 4096  # PIPE_BUF: where poll(2) says that a pipe is writable, this much goes in without waiting
_TARGET, _REASON = 160, 240  # characters shown


class LiveView:
    """Shows exchanges on a file descriptor; never waits for it."""

    def __init__(self, messages: Messages | None = None, fd: int = 2) -> None:
        """messages: logs each line and, where it is silent and has a log, is all that hears of them."""
        self._messages = messages
        self._is_shown = messages is None or not (messages.is_silent and messages.is_logged)
        self._fd = fd
        self._end = "\r\n" if os.isatty(fd) else "\n"
        self._left = float(BURST)  # lines that may be written now
        self._at = monotonic()
        self._left_out = 0

    def show(self, exchanges: Sequence[Exchange]) -> None:
        """Write a line for each, as far as that may be. Raises nothing."""
        if self._messages is not None and self._messages.is_logged:
            for exchange in exchanges:
                self._messages.line(line(exchange))
        if not self._is_shown:
            return
        now = monotonic()
        self._left = min(BURST, self._left + (now - self._at) * RATE)
        self._at = now
        shown = exchanges[: int(self._left)]
        if not shown or not self._is_taken():
            self._left_out += len(exchanges)
            return
        self._left -= len(shown)
        self._say_left_out()
        self._write([line(exchange) for exchange in shown])
        self._left_out += len(exchanges) - len(shown)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Say how many were left out since the last line."""
        if self._is_taken():
            self._say_left_out()

    def _say_left_out(self) -> None:
        count, self._left_out = self._left_out, 0
        if count:
            self._write([f"nono  {'…':<11} {count:,} more, in the audit log"])

    def _write(self, lines: Sequence[str]) -> None:
        piece, count = b"", 0
        for text in (*lines, ""):
            data = (text + self._end).encode("utf-8", "backslashreplace") if text else b""
            if piece and (not data or len(piece) + len(data) > _PIECE_BYTES):
                if not self._is_taken() or not self._wrote(piece):
                    self._left_out += count
                piece, count = b"", 0
            piece += data
            count += 1

    def _wrote(self, piece: bytes) -> bool:
        try:
            return os.write(self._fd, piece) > 0
        except OSError:
            return False

    def _is_taken(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return any(events == select.POLLOUT for _, events in poll.poll(0))


def line(exchange: Exchange) -> str:
    """Return the line of one exchange, without its end."""
    label = "opened" if exchange.code == "opened" else "denied" if exchange.verdict == "refused" else "allowed"
    what = _cut(f"{exchange.method} {exchange.host}{exchange.path}" if exchange.method else "a connection", _TARGET)
    text = f"nono  {label:<11} {what:<44}  {exchange.status or '-':>3}  {_duration(exchange.duration_ms):>7}"
    if exchange.bytes_up or exchange.bytes_down:
        text += f"  {shown_bytes(exchange.bytes_up)} up, {shown_bytes(exchange.bytes_down)} down"
    if exchange.reason:
        flag = exchange.flag
        text += f"  {_cut(exchange.reason.removesuffix(f'{GRANT}{flag}'), _REASON)}"
        text += f"  {_cut(flag, _REASON)}" if flag else ""
    return text


def _cut(text: str, limit: int) -> str:
    return printable(text if len(text) <= limit else text[: limit - 1] + "…")


def _duration(ms: float) -> str:
    if ms < 1000:
        return f"{ms:.0f} ms"
    return f"{ms / 1000:.1f} s" if ms < 100_000 else f"{ms / 1000:.0f} s"
