"""Write a file whole or not at all: keys, bundles, policies.

The bytes go into a new file of the same directory, under a name that nobody could know, and to the disk, before it
takes its place: by link(2), which replaces nothing, or by rename(2). No link is followed, and what is no regular file
is never replaced: the directory may be a project's, and hold what its author planted.
"""

from __future__ import annotations

import os
import stat

from nono.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

PRIVATE = 0o600
SHARED = 0o666  # less the umask: for what is committed with a project
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Directory:
    """An open directory, to write to. A context manager. path: its own, for sentences. Raises StoreError."""

    def __init__(self, path: str) -> None:
        self._path = path or "."
        try:
            self._fd = os.open(self._path, _DIRECTORY)
        except (OSError, ValueError) as error:
            raise StoreError(f"{self._path} cannot be opened: {_reason(error)}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)

    def holds(self, name: str, device: int, inode: int) -> bool:
        """Whether the file `name` in it is this one."""
        try:
            found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (device, inode)

    def has(self, name: str) -> bool:
        """Whether it has a regular file of that name. Raises StoreError where that is something else."""
        path = self._shown(name)
        try:
            mode = os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}") from None
        if stat.S_ISLNK(mode):
            raise StoreError(f"{path} is a symbolic link, and nothing is written through one; remove it")
        if not stat.S_ISREG(mode):
            raise StoreError(f"{path} is not a regular file; move it away")
        return True

    def write(self, name: str, data: bytes, *, mode: int, over: bool) -> None:
        """Write a file; over: replace the one that is there. Raises StoreError; FileExistsError, not `over`."""
        if self.has(name) and not over:
            raise FileExistsError(name)
        fresh = f".nono-{os.urandom(8).hex()}"
        try:
            try:
                _fill(os.open(fresh, _NEW, mode, dir_fd=self._fd), data, mode)
                if over:
                    os.rename(fresh, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
                else:
                    os.link(fresh, name, src_dir_fd=self._fd, dst_dir_fd=self._fd, follow_symlinks=False)
            finally:
                self._remove(fresh)
            os.fsync(self._fd)
        except FileExistsError:
            raise
        except OSError as error:
            raise StoreError(f"{self._shown(name)} cannot be written: {error.strerror}") from None

    def _shown(self, name: str) -> str:
        return os.path.join(self._path, name)

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._fd)
        except OSError:
            pass  # it has taken its place


def write(path: str, data: bytes, *, mode: int, over: bool) -> None:
    """Write a file by its path, as Directory.write. Raises StoreError; FileExistsError, not `over`."""
    directory, name = os.path.split(path)
    with Directory(directory) as opened:
        opened.write(name, data, mode=mode, over=over)


def is_there(path: str) -> bool:
    """Whether there is a regular file. Raises StoreError where there is something else."""
    directory, name = os.path.split(path)
    if not os.path.isdir(directory or "."):
        return False
    with Directory(directory) as opened:
        return opened.has(name)


def _fill(fd: int, data: bytes, mode: int) -> None:
    try:
        if mode == PRIVATE:
            os.fchmod(fd, mode)  # whatever the umask took away
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _reason(error: OSError | ValueError) -> str:
    return str(error.strerror) if isinstance(error, OSError) else "that is no path"
