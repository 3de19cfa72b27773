"""Sequences that may be too long for memory: on the disk, an item a row; what stays is where each is (16 bytes).

What a restore is to do is written once, in the order of the walk, and read forward and backward a few times. The file
has no name: it is gone with the process that wrote it. So the rows are Python's own (marshal) and nobody else's input;
the journal (journal.py), which another process reads, has its rows as JSON, and uses Rows to find them.
"""

from __future__ import annotations

import os
from array import array
from typing import Generic, TypeVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
PLAN = "plan-"  # and the process; there is such a name for an instant only
_BLOCK = 1 << 16


class Spool:
    """What holds the rows of several sequences: in memory, or in a file without a name."""

    def __init__(self, fd: int = -1, *, is_owned: bool = True) -> None:
        """fd: to be read and written; -1 for memory. is_owned: whether it is closed with the Spool."""
        self._fd, self._is_owned = fd, is_owned
        self._flushed = 0  # so much is in the file
        self._buffer = bytearray()

    @classmethod
    def beside(cls, directory: str) -> Spool:
        """Return one in a file of this directory. Raises OSError."""
        path = os.path.join(directory, f"{PLAN}{os.getpid()}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        return cls(fd)

    def __del__(self) -> None:
        if self._is_owned and self._fd >= 0:
            os.close(self._fd)

    @property
    def fd(self) -> int:
        """The file's descriptor; -1 for memory."""
        return self._fd

    def append(self, row: bytes) -> int:
        """Add a row; return where it is. Raises OSError."""
        at = self._flushed + len(self._buffer)
        self._buffer += row
        if self._fd >= 0 and len(self._buffer) >= _BLOCK:
            data = memoryview(bytes(self._buffer))
            while data:
                done = os.pwrite(self._fd, data, self._flushed)
                data, self._flushed = data[done:], self._flushed + done
            self._buffer.clear()
        return at

    def read(self, at: int, size: int) -> bytes:
        """Return so many bytes, or fewer, from there on. Raises OSError."""
        if self._fd < 0 or (at >= self._flushed and self._buffer):
            return bytes(self._buffer[at - self._flushed : at - self._flushed + size])
        return os.pread(self._fd, size, at)


class Rows(Generic[T]):
    """One sequence in a Spool."""

    def __init__(self, spool: Spool, encode: Callable[[T], bytes], decode: Callable[[bytes], T]) -> None:
        self._spool, self._encode, self._decode = spool, encode, decode
        self._at, self._lengths = array("Q"), array("Q")  # a length of 0: it was taken back
        self._count = 0

    def append(self, value: T) -> int:
        """Add an item; return its index, for `drop`. Raises OSError."""
        row = self._encode(value)
        return self.note(self._spool.append(row), len(row))

    def note(self, at: int, length: int) -> int:
        """Add an item that is in the file already."""
        self._at.append(at)
        self._lengths.append(length)
        self._count += 1
        return len(self._at) - 1

    def drop(self, index: int) -> None:
        """Take an item back."""
        self._count -= bool(self._lengths[index])
        self._lengths[index] = 0

    def reverse(self) -> None:
        """Turn the order round."""
        self._at.reverse()
        self._lengths.reverse()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return self._read(zip(self._at, self._lengths, strict=True), backward=False)

    def __reversed__(self) -> Iterator[T]:
        return self._read(zip(reversed(self._at), reversed(self._lengths), strict=True), backward=True)

    def _read(self, rows: Iterable[tuple[int, int]], *, backward: bool) -> Iterator[T]:
        block, begin = b"", 0  # what was read last, and where it is
        for at, length in rows:
            if not length:
                continue
            if not begin <= at <= at + length <= begin + len(block):
                begin = at if not backward else max(at + length - _BLOCK, 0) if length < _BLOCK else at
                block = self._spool.read(begin, max(_BLOCK, length))
            if begin + len(block) < at + length:  # it ends where what is still in memory begins
                begin, block = at, self._spool.read(at, length)
            yield self._decode(block[at - begin : at - begin + length])
