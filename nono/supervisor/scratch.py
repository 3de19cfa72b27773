"""The run's own temporary directory: TMPDIR of the child, made before it starts and removed after it ended.

The shared /tmp is not granted: other programs keep sockets and half-written secrets there. Removal happens after
every process of the run is dead. The agent may have left anything in there, and may even have been granted the
directory around it, so:

- only the directory that was made is emptied, known by its device and inode. If something else has its name now, the
  agent moved it to where it may write anyway, and both are left alone;
- each step names an entry of an open directory and never follows a symbolic link, so nothing planted leads out;
- no path gets long and nothing recurses: a directory inside a directory is first moved up to the top, so any depth is
  removed in steps of the same size;
- what cannot be removed is left, without a word: the run is over and its result stands. That this process has run out
  of descriptors or of memory is no such reason: what a removal needs is kept from the start, and where memory ran out
  on the way to it, or in it, `remove_left` is for when all that held some is gone.
"""

from __future__ import annotations

import os
from errno import EMFILE

from nono.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_PATH_ONLY: int = getattr(os, "O_PATH", os.O_RDONLY)  # TMPDIR need not be readable
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SPARE_FDS = 3  # open at once in _empty: the directory, one inside, and what scandir makes of either
_SPARE_BYTES = 1 << 18  # calloc(3), so address space only; opendir(3) takes 32 KiB
_left: list[ScratchDirectory] = []


class ScratchDirectory:
    """A context manager; `path` is absolute. With create=False it names a directory that is not made."""

    def __init__(self, parent: str, *, create: bool, prefix: str = "nono-") -> None:
        self.path = os.path.join(os.path.realpath(parent), f"{prefix}{os.urandom(8).hex()}")
        self._create = create

    def __enter__(self) -> Self:
        if self._create:
            parent, name = os.path.split(self.path)
            self._fds: list[int] = []
            try:
                self._fds.append(os.open(parent, _PATH_ONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                self._fds.extend(os.dup(self._fds[0]) for _ in range(_SPARE_FDS))
                self._memory = bytes(_SPARE_BYTES)
                os.mkdir(name, 0o700, dir_fd=self._fds[0])
                self._made = os.lstat(self.path)
                _left.append(self)
            except OSError as error:
                self._close()
                if error.errno == EMFILE:
                    raise
                raise StoreError(
                    f"cannot make a temporary directory in {parent}: {error.strerror}. "
                    "Set TMPDIR to one that you can write"
                ) from None
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._create:
            return
        self._memory = b""
        while len(self._fds) > 1:
            os.close(self._fds.pop())
        try:
            _remove(os.path.basename(self.path), self._fds[0], self._made)
        except OSError:
            pass
        self._close()
        _left.remove(self)

    def _close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


def remove_left() -> None:
    """Remove the directories whose context managers ended without doing so, or were never ended: memory ran out."""
    for directory in tuple(_left):
        directory.__exit__()


def sweep(parent: str, prefix: str) -> None:
    """Remove this user's directories in `parent` named PREFIX, the number of a process that is gone, "-" and more."""
    try:
        parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for name in os.listdir(parent_fd):
            number = name.removeprefix(prefix).partition("-")[0] if name.startswith(prefix) else ""
            if not (number.isascii() and number.isdigit()):
                continue
            try:
                found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
                if found.st_uid == os.geteuid() and not _is_running(int(number)):
                    _remove(name, parent_fd, found)
            except OSError:
                continue
    finally:
        os.close(parent_fd)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _remove(name: str, parent_fd: int, made: os.stat_result) -> None:
    """Remove the directory `name` with all that is in it, if it is the one that was made."""
    if not os.path.samestat(os.stat(name, dir_fd=parent_fd, follow_symlinks=False), made):
        return
    root = _open_directory(name, parent_fd)
    try:
        if not os.path.samestat(os.fstat(root), made):
            return
        _empty(root)
        os.rmdir(name, dir_fd=parent_fd)
    finally:
        os.close(root)


def _empty(root: int) -> None:
    """Remove all that is in the open directory `root`."""
    fresh = os.urandom(8).hex()  # the agent cannot have used these names
    count = 0
    directories = _unlink_files(root)
    while directories:
        name = directories.pop()
        try:
            directory = _open_directory(name, root)
        except OSError:
            continue
        try:
            for inner in _unlink_files(directory):
                count += 1
                moved = f"{fresh}-{count}"
                _open_up(inner, directory)  # moving a directory writes to it: its `..` changes
                os.rename(inner, moved, src_dir_fd=directory, dst_dir_fd=root)
                directories.append(moved)
            os.rmdir(name, dir_fd=root)
        except OSError:
            pass
        finally:
            os.close(directory)


def _open_directory(name: str, parent_fd: int) -> int:
    """Open a directory that is none but this user's, and that the agent may have closed even to itself."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent_fd)
    except PermissionError:
        _open_up(name, parent_fd)
        return os.open(name, _DIRECTORY, dir_fd=parent_fd)


def _open_up(name: str, parent_fd: int) -> None:
    """Give its owner a directory, never what a link leads to: chmod(2) follows, and who made it may live on (sweep)."""
    fd = os.open(name, _PATH_ONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


def _unlink_files(directory: int) -> list[str]:
    """Remove all but the directories from the open directory; return the names of those."""
    os.fchmod(directory, 0o700)
    names = []
    with os.scandir(directory) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                names.append(entry.name)
            else:
                try:
                    os.unlink(entry.name, dir_fd=directory)
                except OSError:
                    pass
    return names
