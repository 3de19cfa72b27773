"""The audit log of one run: a JSON line for each exchange, in a file that the child can neither read nor write.

One file per run, `STATE/audit/YYYYMMDDTHHMMSSZ-PID[-NAME].jsonl`, 0600 in a 0700 directory that every sandbox denies.
Lines are collected and written with one write(2) when the loop comes to rest (`flush`), so that an exchange costs no
system call of its own; whoever watches (`view`) is shown the same entries then. A log that cannot be opened stops the
run before the agent starts (fail closed); one that cannot be written later is reported when the run ends.

Nothing secret is here to be written: an entry is made of the proxy's verdicts and of the request's method, route and
path without its query. Source of the format: JSON Lines, one object a line, UTF-8.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from operator import itemgetter

from nono.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

_MAX_KEPT = 1024  # strings remembered in their encoded form, and as many lines but for their numbers
_MAX_KEPT_CHARACTERS = 1024
_MAX_REFUSED = 256
_NUMBERS = {int: "%d", float: "%.6f"}
_encode = json.JSONEncoder(separators=(",", ":")).encode


class AuditLog:
    """An open audit file; a context manager. `path` is where it is."""

    def __init__(
        self,
        state_directory: str,
        notice: Callable[[str], None],
        view: Callable[[Sequence[Any]], None] | None = None,
        name: str = "",
    ) -> None:
        """Open a new log below `state_directory`. notice: told at the end if the log has gaps. Raises StoreError.

        view: shown the entries (each as `append` was given its values) once they are written; raises nothing. name: the
        run's, a part of the file's.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        directory = os.path.join(state_directory, "audit")
        self.path = os.path.join(directory, "-".join(filter(None, (stamp, str(os.getpid()), name))) + ".jsonl")
        self._notice = notice
        self._fault = ""
        self._pending: list[str] = []
        self._view = view
        self._refused: dict[Sequence[object], list[Any]] = {}  # by its texts: those by name, and how often
        self._seen: list[Sequence[object]] = []  # what the view is still to be shown
        self._fields: Sequence[str] = ()
        self._text_fields: Sequence[str] = ()
        self._kinds: list[str] = []  # for each field, how its numbers are written, or nothing for a text
        self._texts_of = self._numbers_of = _picker(())
        self._lines: dict[Sequence[object], str] = {}  # by their texts, with places for the numbers
        self._quoted: dict[object, str] = {}
        try:
            for path in (state_directory, directory):  # makedirs gives its mode to the last one only
                os.makedirs(path, mode=0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise StoreError(f"cannot open the audit log {self.path}: {error.strerror}") from None

    def append(self, fields: Sequence[str], values: Sequence[object]) -> bool:
        """Take one entry, its values in the order of `fields`; return whether it is the first since the last flush.

        What is a number in the first entry with these fields is one in all of them. The texts of entries are few and
        come again, so a line is made once for each, and the numbers are written into it (to the microsecond).
        """
        if fields is not self._fields:
            self._learn(fields, values)
        texts = self._texts_of(values)
        line = self._lines.get(texts) or self._line(texts)
        if self._refused and texts in self._refused:
            self._refused[texts][1] += 1
        self._pending.append(line % self._numbers_of(values))
        if self._view is not None:
            self._seen.append(values)
        return len(self._pending) == 1

    def _learn(self, fields: Sequence[str], values: Sequence[object]) -> None:
        self._fields = fields
        self._kinds = [_NUMBERS.get(value.__class__, "") for value in values]
        self._text_fields = [name for name, kind in zip(fields, self._kinds, strict=True) if not kind]
        self._numbers_of = _picker([index for index, kind in enumerate(self._kinds) if kind])
        self._texts_of = _picker([index for index, kind in enumerate(self._kinds) if not kind])
        self._lines.clear()

    def _line(self, texts: Sequence[object]) -> str:
        if "refused" in texts and len(self._refused) < _MAX_REFUSED:
            named = dict(zip(self._text_fields, texts, strict=True))
            if named.get("verdict") == "refused":
                self._refused.setdefault(texts, [named, 0])
        left = iter(texts)
        written = (kind or self._quote(next(left)).replace("%", "%%") for kind in self._kinds)
        members = (f"{_encode(name)}:{text}" for name, text in zip(self._fields, written, strict=True))
        line = "{" + ",".join(members) + "}"
        if len(line) <= _MAX_KEPT_CHARACTERS:
            if len(self._lines) >= _MAX_KEPT:
                self._lines.clear()
            self._lines[texts] = line
        return line

    def _quote(self, value: object) -> str:
        text = self._quoted.get(value)
        if text is None:
            text = _encode(value)
            if len(text) <= _MAX_KEPT_CHARACTERS:
                if len(self._quoted) >= _MAX_KEPT:
                    self._quoted.clear()
                self._quoted[value] = text
        return text

    @property
    def refused(self) -> list[tuple[dict[str, object], int]]:
        """What was refused: its texts by field, each once, at most _MAX_REFUSED; and how often."""
        return [(named, count) for named, count in self._refused.values()]

    @property
    def is_watched(self) -> bool:
        """Whether there is a view."""
        return self._view is not None

    def show(self, values: Sequence[object]) -> None:
        """Let the view see, at the next flush, what is no entry."""
        self._seen.append(values)

    def flush(self) -> None:
        """Write what was taken; an error is kept for the end, never raised into an exchange."""
        if self._pending:
            data = memoryview(("\n".join(self._pending) + "\n").encode())
            self._pending.clear()
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except OSError as error:
                self._fault = os.strerror(error.errno or 0)
        if self._view is not None and self._seen:
            seen, self._seen = self._seen, []
            self._view(seen)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.flush()
        os.close(self._fd)
        if self._fault:
            self._notice(f"the audit log {self.path} is not whole: {self._fault}")


def _picker(indices: Sequence[int]) -> Callable[[Sequence[object]], Sequence[object]]:
    """Return what takes the values at these indices, as a tuple."""
    if len(indices) > 1:
        return itemgetter(*indices)
    return lambda values: tuple(values[index] for index in indices)
