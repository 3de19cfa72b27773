"""Bring all that was written to one file system to its disk. Source: syncfs(2)."""

from __future__ import annotations

import os
from errno import ENOSYS

from nono.errors import KernelError
from nono.kernel._shim import lib


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
