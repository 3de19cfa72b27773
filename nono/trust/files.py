"""One file, opened once: what is hashed is what the descriptor holds, and that is looked at again later.

A path is walked from its root one name at a time, and no symlink is followed on the way: between two looks at it nobody
can lead nono elsewhere. What is opened must be a regular file with one name (st_nlink 1: through another name it could
be written where nothing is protected) of at most 16 MiB. A fifo or a device is never waited for (O_NONBLOCK).

An Opened keeps its descriptor until close(). recheck() is for just before the child starts: the same inode under the
same path, and no write since, as far as size, mtime and ctime tell; ctime cannot be set back by its owner.

Source: open(2), inode(7).
"""

from __future__ import annotations

from nono.record import Record

MOST_BYTES = 16 << 20


class Opened(Record):
    """A file that was read. fd: open, close() it. root: absolute; relative: below it. sha256: 64 lower-case hex digits.

    identity: device, inode, size, mtime and ctime in ns. data: its contents, where they were asked for.
    """

    fd: int
    root: str
    relative: str
    sha256: str
    identity: tuple[int, int, int, int, int]
    data: bytes = b""

    @property
    def path(self) -> str:
        """The absolute path."""
        return f"{self.root.rstrip('/')}/{self.relative}"


def open_file(root: str, relative: str, *, most: int = MOST_BYTES, keep: bool = False) -> Opened:
    """Return the file `relative` below the directory `root`, read and hashed.

    root: absolute; links in it are followed. relative: without "." and "..". keep: whether .data is wanted.
    Raises UnsafeFile; FileNotFoundError where there is nothing of that name.
    """
    raise NotImplementedError


def open_path(path: str, *, most: int = MOST_BYTES, keep: bool = False) -> Opened:
    """Return a file of the user's own by its absolute path: links are followed in its directory, not in its name."""
    raise NotImplementedError


def recheck(opened: Opened) -> None:
    """Raise UnsafeFile (outcome `changed`) unless the path still leads to what was read."""
    raise NotImplementedError


def close(opened: Opened) -> None:
    """Close its descriptor."""
    raise NotImplementedError
