"""The run's own temporary directory: TMPDIR of the child, made before it starts and removed after it ended.

The shared /tmp is not granted: other programs keep sockets and half-written secrets there. Removal happens after
every process of the run is dead, walks by file descriptor and never follows a symbolic link (shutil.rmtree), so that
nothing planted inside leads out.
"""

from __future__ import annotations

import os
from importlib import import_module

from nono.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class ScratchDirectory:
    """A context manager; `path` is absolute. With create=False it names a directory that is not made."""

    def __init__(self, parent: str, *, create: bool) -> None:
        self.path = os.path.join(os.path.realpath(parent), f"nono-{os.urandom(8).hex()}")
        self._create = create

    def __enter__(self) -> Self:
        if self._create:
            try:
                os.mkdir(self.path, 0o700)
            except OSError as error:
                parent = os.path.dirname(self.path)
                raise StoreError(
                    f"cannot make a temporary directory in {parent}: {error.strerror}. "
                    "Set TMPDIR to one that you can write"
                ) from None
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._create:
            return
        rmtree = import_module("shutil").rmtree  # 11 ms that nobody waits for now
        rmtree(self.path, ignore_errors=True)
        if os.path.lexists(self.path):
            _open_up(self.path)
            rmtree(self.path, ignore_errors=True)


def _open_up(path: str) -> None:
    """Give the owner access again to directories that the agent had closed even to itself."""
    os.chmod(path, 0o700)
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _open_up(entry.path)
