"""Where the logs are, and lines about them: what the actions of `nono audit` share."""

from __future__ import annotations

import os
import sys
import time

from nono.cli.render import printable
from nono.supervisor.whereabouts import find_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def directory() -> str:
    """Return the directory of the logs, of whoever calls."""
    return os.path.join(find_place(None, os.environ).state, "audit")


def say(line: str) -> None:
    """Print one line of which nothing moves a cursor."""
    sys.stdout.write(f"{printable(line)}\n")


def cut(text: str, width: int) -> str:
    """Return `text` on one line, of at most `width` columns."""
    text = printable(text)
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def command(words: Iterable[str]) -> str:
    """Return a command line as one would type it, for reading only."""
    return " ".join(f"'{word}'" if not word or any(c in ' \t\n"$;&|<>' for c in word) else word for word in words)


def moment(seconds: float, form: str) -> str:
    """Return a time, of UTC, as strftime(3) writes it; "" for one that there is not."""
    try:
        return time.strftime(form, time.gmtime(seconds))
    except (OverflowError, OSError, ValueError):
        return ""


def duration(seconds: float) -> str:
    """Return a span of time in a few letters."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, size in (("s", 60.0), ("min", 60.0), ("h", 48.0)):
        if seconds < size * 2:
            return f"{seconds:.0f} {unit}"
        seconds /= 60
    return f"{seconds / 24:.0f} d"
