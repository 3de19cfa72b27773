"""Sessions as data: which there are, and what their records say.

What is read may be anything: the records are the agent's doings, in names and paths that it chose, and the files may
have been tampered with. So nothing is assumed of a line but that it may be a JSON object, and a value of the wrong kind
is as one that is absent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from errno import EINVAL, ELOOP
from fcntl import LOCK_NB, LOCK_SH, flock
from functools import partial
from heapq import heappop, heappush
from stat import S_ISREG

from nono.audit import ledger
from nono.errors import GRANT, StoreError, UsageError
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

LEDGER = ledger.NAME
SUFFIX = ".jsonl"
LONGEST = 1 << 25  # bytes of a line; a start with the longest arguments has 24 MB
_ENDS = 8192  # bytes at the end of a log that hold its last record
_BUFFER = 1 << 18
_WAITING = 2000  # exchanges that are held back, to be put in the order in which they began


class NoFileError(OSError):
    """What is called like a log is none: a link, a directory, a fifo or a device. nono makes no such thing."""


class Brief(Record):
    """One session, by the first and the last record of its log. name: the user's, of the run.

    status: None while it runs, or where it was killed. started: seconds since 1970; 0 for logs of old, which have none.
    """

    session: str
    name: str
    started: float
    duration_s: float | None
    status: int | None
    argv: tuple[str, ...]
    workdir: str
    version: str
    bytes: int
    is_running: bool


def names_of(directory: str) -> list[str]:
    """Return the names of the logs, oldest first. Raises OSError."""
    try:
        return sorted(name for name in os.listdir(directory) if name.endswith(SUFFIX))
    except FileNotFoundError:
        return []


def session_of(name: str) -> str:
    """Return the id of the session whose log has this name."""
    return name.removesuffix(SUFFIX)


def find(directory: str, wanted: str) -> str:
    """Return the file of one session: by its id, what its id begins with, the name of the run, or `last`.

    Of several with the name it is the latest. Raises UsageError for none, and for a beginning of several.
    """
    names = names_of(directory)
    if not names:
        raise UsageError("there is no audit log yet; each nono run writes one")
    if wanted == "last":
        return max(names, key=lambda name: (name[:16], _written(directory, name)))
    if f"{wanted}{SUFFIX}" in names:
        return f"{wanted}{SUFFIX}"
    begin = [name for name in names if name.startswith(wanted)] if wanted else []
    if len(begin) == 1:
        return begin[0]
    named = [name for name in names if session_of(name).split("-", 2)[2:] == [wanted]]
    if named:
        return named[-1]
    if begin:
        raise UsageError(f"{len(begin)} sessions begin with that; type more of it. See: nono audit list")
    raise UsageError("no session is called that. See: nono audit list")


def _written(directory: str, name: str) -> float:
    try:
        return os.stat(os.path.join(directory, name), follow_symlinks=False).st_mtime
    except OSError:
        return 0.0


def is_open(path: str) -> bool:
    """Whether the nono that writes this log still runs."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        flock(fd, LOCK_SH | LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def records(path: str) -> Iterable[dict[str, Any]]:
    """Return the records of a log, each as it is; what is none is left out. They are read whenever gone through.

    That raises StoreError.
    """
    return _Records(path)


class _Records:
    def __init__(self, path: str) -> None:
        self._path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            with opened(self._path) as file:
                yield from filter(None, map(object_of, lines_of(file)))
        except OSError as error:
            raise StoreError(f"cannot read {self._path}: {error.strerror}") from None


def opened(path: str) -> BinaryIO:
    """Open one of nono's files, to be read. Raises OSError: NoFileError for what is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == ELOOP:
            raise NoFileError(ELOOP, "it is a link", path) from None
        raise
    if not S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NoFileError(EINVAL, "it is a directory, a fifo or a device", path)
    return open(fd, "rb", buffering=_BUFFER)


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file, with their ends; one that is longer than any record, in pieces."""
    return iter(partial(file.readline, LONGEST), b"")


def object_of(line: bytes) -> dict[str, Any]:
    """Return the JSON object of a line, an empty one where it is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def brief(directory: str, name: str) -> Brief:
    """Return what a list says of one session. Raises StoreError."""
    path = os.path.join(directory, name)
    first, last, size = dict[str, object](), dict[str, object](), 0
    try:
        with opened(path) as file:
            first = object_of(file.readline(LONGEST))
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _ENDS))
            last = object_of(file.read().rstrip(b"\n").rpartition(b"\n")[2])
    except NoFileError:
        pass  # verify says so
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from None
    start = first if first.get("kind") == "start" else {}
    end = last if last.get("kind") == "exit" else {}
    status = end.get("status")
    return Brief(
        session_of(name), text(start, "name"), number(start, "time"),
        number(end, "duration_ms") / 1000 if end else None,
        status if isinstance(status, int) else None,
        tuple(str(word) for word in sequence(start, "argv")), text(start, "workdir"), text(start, "version"),
        size, is_open(path),
    )  # fmt: skip


def text(record: Mapping[str, Any], member: str) -> str:
    """Return a member that is a text; "" for any other."""
    value = record.get(member)
    return value if isinstance(value, str) else ""


def number(record: Mapping[str, Any], member: str) -> float:
    """Return a member that is a number; 0 for any other."""
    value = record.get(member)
    return value if isinstance(value, (int, float)) and abs(value) < 1e15 else 0


def sequence(record: Mapping[str, Any], member: str) -> Sequence[Any]:
    """Return a member that is a list; an empty one for any other."""
    value = record.get(member)
    return value if isinstance(value, list) else ()


def reason(record: Mapping[str, Any]) -> str:
    """Return the reason of a refusal, without the flag that would grant it, which is a member of its own."""
    return text(record, "reason").removesuffix(f"{GRANT}{text(record, 'flag')}")


def in_time(exchanges: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield exchanges in the order in which they began: they are written when they are over.

    One that lasted longer than the next _WAITING of them comes late.
    """
    waiting: list[tuple[float, int, Mapping[str, Any]]] = []
    for at, each in enumerate(exchanges):
        heappush(waiting, (number(each, "time"), at, each))
        if len(waiting) > _WAITING:
            yield heappop(waiting)[2]
    while waiting:
        yield heappop(waiting)[2]


def entered(directory: str) -> set[str]:
    """Return the sessions that the ledger knows of, as it says, whether or not that is to be believed."""
    try:
        with opened(os.path.join(directory, LEDGER)) as file:
            return {text(entry, "session") for entry in map(object_of, lines_of(file)) if entry.get("kind") == "start"}
    except FileNotFoundError:
        return set()


def has_side_effects(exchange: Mapping[str, Any]) -> bool:
    """Whether a request that was let through may have changed something elsewhere (RFC 9110, 9.2.1)."""
    method = text(exchange, "method")
    return text(exchange, "verdict") == "allowed" and method not in ("GET", "HEAD", "OPTIONS", "CONNECT", "")
