"""The ledger: which sessions there were. `STATE/audit/ledger`, a chain as the logs are (chain.py), one for all of them.

    {"n":7,"kind":"start","time":…,"session":"20261122T050000Z-4711","first":"…","hash":"…"}
    {"n":8,"kind":"end","time":…,"session":"20261122T050000Z-4711","records":12,"last":"…","hash":"…"}

A session is entered before its agent starts, with the hash of its log's first record, and again when it has ended, with
how many records its log has and the hash of the last. So a log that was removed, or cut off behind some record, is
missed. One that the user removed himself (nono audit cleanup) has a line that says so:

    {"n":9,"kind":"removed","time":…,"session":"20261122T050000Z-4711","records":12,"state":"whole","hash":"…"}

and one that was signed has one for that ("signed", with the SHA-256 of the signature's file as "signature").

Sessions that run at once take turns (flock), for as long as a line takes to be written; nobody holds the lock
while the disk is waited for.
"""

from __future__ import annotations

import errno
import os
import time
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

from nono.audit import chain

NAME = "ledger"
_PATIENCE_S = 2.0  # for whoever else writes
_PAUSE_S = 0.005
_LAST = 4096  # bytes that hold the last line, nearly always: a session's name is short


def enter(path: str, members: str) -> int:
    """Append a record, its members as JSON without braces; return the open ledger, for its data to be synced.

    Raises OSError; EWOULDBLOCK when another process keeps the lock.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    try:
        _lock(fd)
        size = os.fstat(fd).st_size
        number, previous, half = _last(fd, size)
        if half:  # it stays, to be seen: see chain.py
            is_record = chain.parse(half) is not None
            members = members if is_record else f"{members},{chain.torn(half)}"
        line, _, _ = chain.seal(number, previous, (members,))
        _write(fd, b"\n" + line if half else line, size)
        flock(fd, LOCK_UN)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock(fd: int) -> None:
    patient_until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            flock(fd, LOCK_EX | LOCK_NB)
            return
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
                return  # a file system without locks, where sessions that begin in the same instant break the chain
            if error.errno != errno.EWOULDBLOCK or time.monotonic() > patient_until:
                raise
        time.sleep(_PAUSE_S)


def _last(fd: int, size: int) -> tuple[int, bytes, bytes]:
    """Return the number and hash of the last whole record, and what stands behind the last line's end."""
    span, half = _LAST, b""
    while True:
        lines = os.pread(fd, span, max(0, size - span)).split(b"\n")
        half = lines[-1]
        for line in reversed(lines):
            link = chain.parse(line)
            if link is not None:
                return link.number, link.hash, half
        if span >= size:
            return 0, chain.NOTHING, half
        span *= 16


def _write(fd: int, data: bytes, size: int) -> None:
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(fd, left) :]
    except OSError:
        os.ftruncate(fd, size)  # no half line of ours; nobody else writes meanwhile
        raise
