"""Heads that differ from ones seen before in a few values only.

Pure. An SDK's requests differ in an idempotency key and a length; an upstream's answers in a date and a request id. A
Pattern is made of a head that passed every check: the bytes that stay, cut into pieces by the values that change. A
head that consists of the same pieces has the same start line and as many lines, with the same names in the same case
and order, and differs in the values alone. Whatever the first head was judged by is then the same, and it is forwarded
by putting the new values between the pieces as they were forwarded.

Which values change is learned: a head that differs from the pattern's own where that is harmless makes another pattern
(`widened`) in which those values may differ too. Harmless are ordinary headers and Content-Length (its value is read
again). Never harmless: everything that frames, routes, authenticates or ends a connection. Values of cookies and of
credentials are never kept, so they always count as changing; but for the line that holds the session's token, which is
compared in constant time.

**h11 judges the values**, each time. What it asks of an ordinary header's value is a property of its octets, but for
white space at the ends: so it is asked about each of the 256 octets once, and of a value only the octets are looked up.
Where h11's expression is another one than this was worked out for, h11 is asked about every value whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hmac import compare_digest

import h11
import h11._headers

# More is not worth being kept.
MAX_PATTERN_LINES = 100
MAX_PATTERN_BYTES = 8192
_MAX_LENGTHS = 1024
_MAX_LENGTH_BYTES = 24


def _judge_value(value: bytes) -> bool:
    try:
        h11.EndOfMessage(headers=[(b"x", value.strip(b" \t"))])
    except h11.ProtocolError:
        return False
    return True


def _have_only_octets(values: list[bytes]) -> bool:
    return not b"".join(values).translate(None, _OCTETS)


def _judge_values(values: list[bytes]) -> bool:
    return all(map(_judge_value, values))


_EXPRESSION = getattr(getattr(h11._headers, "_field_value_re", None), "pattern", b"")
_KNOWN_EXPRESSION = rb"([^\x00\s]+(?:[ \t]+[^\x00\s]+)*)?"
_OCTETS = bytes(octet for octet in range(256) if _judge_value(b"a%cb" % octet))
# Whether h11 accepts each value, once the white space at its ends is gone.
are_values: Callable[[list[bytes]], bool] = _have_only_octets if _EXPRESSION == _KNOWN_EXPRESSION else _judge_values


class Pattern:
    """A head that was accepted.

    Lines are all of a head's, the start line first, without CRLF; places are indices into them.
    """

    __slots__ = (
        "_credential", "_forwarded", "_length_at", "_length_place", "_lines", "_may_vary", "_names", "_pieces_after",
        "_pieces_before", "_steps", "_tail", "_varying",
    )  # fmt: skip

    def __init__(
        self,
        lines: Sequence[bytes],
        forwarded: Sequence[bytes],
        may_vary: set[int],
        varying: set[int],
        length_place: int | None,
        credential: tuple[int, bytes, bytes] | None = None,
    ) -> None:
        """forwarded: what became of each line, blank where it was dropped; at places that may vary, the line itself.

        may_vary: places where another value is harmless. varying: those of them whose value is not to be kept, or is
        known to change. length_place: of a Content-Length that may vary. credential: the place of the line that holds
        the token, and what is forwarded before and after the credential instead.
        """
        self._names = _names(lines)
        self._lines = [self._names[place] if place in varying else line for place, line in enumerate(lines)]
        self._forwarded = [b"" if place in varying else line for place, line in enumerate(forwarded)]
        self._may_vary = may_vary
        self._varying = varying
        self._length_place = length_place
        self._credential = credential
        self._length_at: int | None = None  # which of the values it is
        # To recognise a head: a piece, its size, and whether a value follows it. Without one it ends with the token.
        self._steps: list[tuple[bytes, int, bool]] = []
        # To forward a head: pieces, and between them places for the values.
        self._pieces_before: list[bytes] = []
        self._pieces_after: list[bytes] = []
        self._cut()

    def _cut(self) -> None:
        piece = out = b""
        outs, count = self._pieces_before, 0
        for place, line in enumerate(self._lines):
            if self._credential is not None and place == self._credential[0]:
                piece += line
                self._steps.append((piece, len(piece), False))
                outs.append(out + self._credential[1])
                outs, out, piece = self._pieces_after, self._credential[2] + b"\r\n", b"\r\n"
            elif place in self._varying:
                if place == self._length_place:
                    self._length_at = count
                piece += line
                self._steps.append((piece, len(piece), True))
                outs += [out + line, b""]
                out = piece = b"\r\n"
                count += 1
            else:
                piece += line + b"\r\n"
                kept = self._forwarded[place]
                out += kept + b"\r\n" if kept else b""
        outs.append(out)
        self._tail = piece + b"\r\n"

    @property
    def size(self) -> int:
        """Bytes of the lines that are kept."""
        return sum(map(len, self._lines))

    def values(self, head: bytes) -> list[bytes] | None:
        """What a head has at the places that vary; None when it does not fit, or h11 refuses a value of it.

        head: ends with its first CRLF CRLF. A value is what stands between the colon and the line's end.
        """
        values: list[bytes] = []
        at = 0
        for piece, size, has_value in self._steps:
            if has_value:
                if not head.startswith(piece, at):
                    return None
                at += size
                end = head.find(b"\r\n", at)
                values.append(head[at:end])
                at = end
            else:
                if not compare_digest(head[at : at + size], piece):
                    return None
                at += size
        # Where it does not fit, or h11 refuses, the whole way will say why.
        return values if head[at:] == self._tail and are_values(values) else None

    def length(self, values: list[bytes], otherwise: int) -> int | None:
        """The Content-Length among these values, `otherwise` where it does not vary; None for one written oddly."""
        return otherwise if self._length_at is None else _read_length(values[self._length_at])

    def forwarded(self, values: list[bytes]) -> tuple[bytes, bytes]:
        """The head with these values as it is forwarded, before and after the credential; each line ends with CRLF."""
        before, after = self._pieces_before.copy(), self._pieces_after
        if after:
            cut = len(before) // 2
            before[1::2] = values[:cut]
            after = after.copy()
            after[1::2] = values[cut:]
        else:
            before[1::2] = values
        return b"".join(before), b"".join(after)

    def widened(self, lines: Sequence[bytes]) -> Pattern | None:
        """The pattern that these lines, which were accepted too, fit as well; None where that is not learned."""
        if lines[0] != self._lines[0] or _names(lines) != self._names:
            return None
        changed = {place for place, line in enumerate(lines) if line != self._lines[place]} - self._varying
        if not changed or not changed <= self._may_vary:
            return None
        return Pattern(
            self._lines, self._forwarded, self._may_vary, self._varying | changed, self._length_place, self._credential
        )


def _names(lines: Sequence[bytes]) -> list[bytes]:
    """The lines without their values; of the start line, what stands before its first colon, if it has one."""
    return [line[: line.find(b":") + 1] for line in lines]


_LENGTHS: dict[bytes, int] = {}


def _read_length(value: bytes) -> int | None:
    """The number that h11 accepts, where it is written as this proxy forwards it."""
    length = _LENGTHS.get(value)
    if length is None:
        digits = value.strip(b" \t")
        if not digits.isdigit() or (digits[0] == 48 and value != b" 0"):
            return None  # the whole way writes a value that begins with a zero anew, without white space behind it
        try:
            h11.EndOfMessage(headers=[(b"content-length", digits)])
        except h11.ProtocolError:
            return None
        length = int(digits)
        if len(value) <= _MAX_LENGTH_BYTES:
            if len(_LENGTHS) >= _MAX_LENGTHS:
                _LENGTHS.clear()
            _LENGTHS[value] = length
    return length
