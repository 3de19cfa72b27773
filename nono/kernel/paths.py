"""Opening what a path names, and nothing that was put in its place: no link is followed anywhere in it.

Source: openat2(2).
"""

from __future__ import annotations

import os
from errno import ELOOP, ENOSYS, EPERM

from nono.kernel._shim import lib

_RESOLVE_NO_SYMLINKS = 0x04  # linux/openat2.h


def open_real(path: str) -> int:
    """Return an O_PATH descriptor of `path` (absolute, normalised), close-on-exec. Raises OSError: ELOOP for a link."""
    fd = int(lib.nono_openat2(-1, os.fsencode(path), os.O_PATH | os.O_CLOEXEC, _RESOLVE_NO_SYMLINKS))
    if fd in (-ENOSYS, -EPERM):  # a seccomp filter around us, such as nono's own
        return _open_and_look(path)
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd), path)
    return fd


def _open_and_look(path: str) -> int:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if os.readlink(f"/proc/self/fd/{fd}") != path:
            raise OSError(ELOOP, os.strerror(ELOOP), path)
    except BaseException:
        os.close(fd)
        raise
    return fd
