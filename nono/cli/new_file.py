"""A file that is written after an agent has run, to a place that was chosen before.

The agent may write to that very directory. So the directory is opened, and tried by making a file in it, before the
agent starts, which is also when a mistake is told; the file itself is made after its end, by that open directory, under
a name that nobody could know, and takes its place by link(2), which never replaces, or rename(2). No link is followed.
"""

from __future__ import annotations

import os

from nono.errors import StoreError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHER_NAMES = 100


class NewFile:
    """A context manager. Nothing is there until `write`."""

    def __init__(self, path: str, *, over: bool, make_directory: bool = False) -> None:
        """over: replace what is there. Raises UsageError where the file cannot be made."""
        self._directory, self._name = os.path.split(path)
        self._over = over
        if not over and os.path.lexists(path):
            raise UsageError(f"{path} is there already; say --force to replace it, or another name")
        if os.path.isdir(path):
            raise UsageError(f"{path} is a directory; name a file")
        try:
            if make_directory:
                os.makedirs(self._directory, mode=0o700, exist_ok=True)
            self._fd = os.open(self._directory, _DIRECTORY)
        except OSError as error:
            raise UsageError(f"{self._directory}: cannot be opened: {error.strerror}") from None
        try:
            os.close(self._make(fresh := self._fresh()))
            os.unlink(fresh, dir_fd=self._fd)
        except OSError as error:
            os.close(self._fd)
            raise UsageError(f"{self._directory}: no file can be made there: {error.strerror}") from None

    def write(self, text: str | Iterable[str]) -> str:
        """Make the file; return its path, which has a number where the name is taken meanwhile. Raises StoreError.

        text: all of it, or its pieces; a byte that was no UTF-8 where it was read (surrogateescape) is that byte again.
        """
        fresh = self._fresh()
        pieces = (text,) if isinstance(text, str) else text
        try:
            with open(self._make(fresh), "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                try:
                    file.writelines(pieces)
                    file.flush()
                    name = self._put(fresh)
                except BaseException:
                    os.unlink(fresh, dir_fd=self._fd)
                    raise
        except OSError as error:
            raise StoreError(f"{self._directory}/{self._name} cannot be written: {error.strerror}") from None
        return os.path.join(self._directory, name)

    def _put(self, fresh: str) -> str:
        """Give the file its name; return that."""
        if self._over:
            os.rename(fresh, self._name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            return self._name
        name = self._link(fresh)
        os.unlink(fresh, dir_fd=self._fd)
        return name

    def _link(self, fresh: str) -> str:
        stem, dot, ending = self._name.rpartition(".")
        for number in range(1, _OTHER_NAMES):
            name = self._name if number == 1 else f"{stem or ending}-{number}{dot + ending if stem else ''}"
            try:
                os.link(fresh, name, src_dir_fd=self._fd, dst_dir_fd=self._fd, follow_symlinks=False)
            except FileExistsError:
                continue
            return name
        raise FileExistsError(0, "all names like it are taken")

    def _make(self, name: str) -> int:
        return os.open(name, _FILE, 0o600, dir_fd=self._fd)

    def _fresh(self) -> str:
        return f".nono-{os.urandom(8).hex()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)
