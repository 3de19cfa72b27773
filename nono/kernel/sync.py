"""Bring what was written to the disk: a directory's names, or all of a file system. Source: fsync(2), syncfs(2)."""

from __future__ import annotations

import os
from errno import ENOSYS

from nono.errors import KernelError
from nono.kernel._shim import lib


def sync_directory(path: str) -> None:
    """Wait until the names in a directory are on its disk: a file that was renamed there has its name by then."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(fd: int) -> None:
    """Wait until what was written to the file system of `fd`, by anybody, is on its disk. Raises KernelError.

    One call for any number of files, where fsync(2) costs each of them a turn of the disk. Where there is no syncfs
    (macOS), every file system is synced.
    """
    result = int(lib.nono_syncfs(fd))
    if result == -ENOSYS:
        os.sync()
    elif result < 0:
        raise KernelError("syncfs", -result)
