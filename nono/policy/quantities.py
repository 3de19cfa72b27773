"""Sizes, durations and counts as a user writes them -> numbers; and numbers as he reads them.

Pure. What parses raises UsageError with one sentence that shows how it is written; `flag` is named in it.
"""

from __future__ import annotations

from nono.errors import UsageError

_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATIONS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MIN_BYTES = 1 << 20  # in less no program starts: a bare 512 is a slip for 512M
_MAX_BYTES = 1 << 50
_MAX_DAYS = 365
_MAX_PROCESSES = 1 << 22  # PID_MAX_LIMIT, proc_sys_kernel(5)
_SHOWN = 32  # characters of what was typed


def parse_size(text: str, flag: str) -> int:
    """Return the bytes that `text` writes: 512M, 2G, 1.5g, or plain bytes; units are powers of 1024."""
    number, unit = _split(text.upper().removesuffix("IB").removesuffix("B"))
    if number is None or unit not in _SIZES or (unit == "" and number != int(number)):
        raise UsageError(f"{flag} {_quoted(text)} is not a size; write e.g. 512M or 2G (K, M, G, T, or plain bytes)")
    size = int(number * _SIZES[unit])
    if not _MIN_BYTES <= size <= _MAX_BYTES:
        raise UsageError(f"{flag} {_quoted(text)}: must be 1M to 1024T; write e.g. 512M or 2G")
    return size


def parse_duration(text: str, flag: str) -> float:
    """Return the seconds that `text` writes: 30, 90s, 10m, 1.5h, 1d."""
    number, unit = _split(text)
    if number is None or unit not in _DURATIONS:
        raise UsageError(f"{flag} {_quoted(text)} is not a duration; write seconds, e.g. 30, or 10m or 2h (s, m, h, d)")
    seconds = number * _DURATIONS[unit]
    if not 0 < seconds <= _MAX_DAYS * 86400:
        raise UsageError(f"{flag} {_quoted(text)}: must be more than 0 and at most {_MAX_DAYS}d")
    return seconds


def parse_count(text: str, flag: str) -> int:
    """Return the number of processes that `text` writes."""
    if not (text.isascii() and text.isdigit() and len(text) <= _SHOWN and 0 < int(text) <= _MAX_PROCESSES):
        raise UsageError(f"{flag} {_quoted(text)} is not a count; write a whole number from 1 to {_MAX_PROCESSES}")
    return int(text)


def counted(number: int, what: str) -> str:
    """Return how many: 1 file, 2 files."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def shown_bytes(count: float) -> str:
    """Return an amount of data: 12 B, 1.5 kB, 20 MB; units are powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _split(text: str) -> tuple[float | None, str]:
    """Return the number that `text` begins with and what follows; None where it begins with none."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    whole, _, fraction = digits.partition(".")
    if not digits.isascii() or len(digits) > _SHOWN or not whole.isdigit() or (fraction and not fraction.isdigit()):
        return None, ""
    return float(f"{whole}.{fraction or 0}"), text[len(digits) :]


def _quoted(text: str) -> str:
    return repr(text[:_SHOWN] + ("…" if len(text) > _SHOWN else ""))
