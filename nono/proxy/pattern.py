"""Heads that differ from one seen before in a few lines only.

Pure. An SDK's requests differ in an idempotency key and a length; an upstream's answers in a date and a request id. A
Pattern is made of a head that passed every check. Another head fits it when it has the same start line, as many lines,
and at every place either the same bytes or, where that is harmless, another value under the same name in the same case.
Whatever the first head was judged by is then the same: which headers there are, how often, in which order, and every
one that means something to this proxy. The lines that differ are judged by h11, each time.

Harmless are ordinary headers and Content-Length (its value is read again). Never harmless: everything that frames,
routes, authenticates or ends a connection. Lines with cookies are not kept, so they always count as different; a
credential's line is kept only where it is the session token's, and is compared in constant time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hmac import compare_digest
from itertools import compress
from operator import ne

import h11
import h11._headers


def _judge_value(value: bytes) -> bool:
    try:
        h11.EndOfMessage(headers=[(b"x", value)])
    except h11.ProtocolError:
        return False
    return True


# What h11 asks of the value of an ordinary header, and all it asks when it has accepted the name before. Its own
# expression, without the event around it: that costs ten times as much.
_VALUE = getattr(h11._headers, "_field_value_re", None)
_is_value: Callable[[bytes], object] = _judge_value if _VALUE is None else _VALUE.fullmatch


class Pattern:
    """A head that was accepted. `lines` are all of its lines but the start line."""

    __slots__ = ("_credential", "_indices", "_judged_as", "_lines", "length_index", "unkept")

    def __init__(
        self,
        lines: Sequence[bytes],
        fixed: set[int],
        unkept: set[int],
        credential: int | None = None,
        length_index: int | None = None,
    ) -> None:
        """fixed: places that must not differ. unkept: places that may, and whose line is not to be remembered.

        credential: the place of the line that holds the token. length_index: the place of Content-Length.
        """
        names = [line[: line.index(b":") + 1] for line in lines]
        self._judged_as = [None if index in fixed else name for index, name in enumerate(names)]
        self._lines = [b"" if index in unkept or index == credential else line for index, line in enumerate(lines)]
        self._indices = range(len(lines))
        self._credential = None if credential is None else (credential, lines[credential])
        self.length_index = length_index
        self.unkept = unkept

    def kept(self, lines: Sequence[bytes]) -> list[bytes]:
        """These lines as they may be remembered: blank where they will be replaced anyway."""
        return [b"" if index in self.unkept else line for index, line in enumerate(lines)]

    def differences(self, lines: list[bytes]) -> list[int] | None:
        """Where another head's lines differ harmlessly; None when it does not fit, or h11 refuses a line of it."""
        if len(lines) != len(self._lines):
            return None
        places = list(compress(self._indices, map(ne, lines, self._lines)))
        if self._credential is not None:
            place, expected = self._credential
            if not compare_digest(lines[place], expected):
                return None
            places.remove(place)
        judged_as = self._judged_as
        for place in places:
            name, line = judged_as[place], lines[place]
            if name is None or not line.startswith(name):
                return None
            value = line[len(name) :].strip(b" \t")
            if not _is_value(value):
                return None  # the whole way will say why
            if place == self.length_index:
                try:
                    h11.EndOfMessage(headers=[(name[:-1], value)])
                except h11.ProtocolError:
                    return None
        return places


def read_length(line: bytes) -> int | None:
    """The value of a Content-Length line that h11 accepted, where it is written as this proxy forwards it."""
    value = line[15:].strip(b" \t")
    if not value.isdigit() or (value[0] == 48 and line[14:] != b": 0"):
        return None  # the whole way writes a value that begins with a zero anew, and so without white space behind it
    return int(value)
