"""Moving bytes between sockets inside the kernel: splice through a pipe, and tee.

splice(2) needs a pipe between two sockets; `open_pipe` makes one as large as the kernel lets this user have. The calls
never block: they raise BlockingIOError where they would, and return 0 at the end of the input.
Source: splice(2), tee(2), fcntl(2) F_SETPIPE_SZ.
"""

from __future__ import annotations

import fcntl
import os
from errno import EAGAIN
from typing import NamedTuple

from nono.errors import KernelError
from nono.kernel._shim import lib

# Linux only, in Python as in the kernel; 0 elsewhere keeps this module importable.
_SPLICE_FLAGS = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_F_GETPIPE_SZ = getattr(fcntl, "F_GETPIPE_SZ", 1032)


class Pipe(NamedTuple):
    """Both ends, non-blocking and close-on-exec, and how many bytes fit between them."""

    read_fd: int
    write_fd: int
    capacity: int

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)


def open_pipe(capacity: int) -> Pipe:
    """Return a pipe of about `capacity` bytes (0: the usual); smaller where the user's share is used up."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if capacity:
            fcntl.fcntl(write_fd, _F_SETPIPE_SZ, capacity)
    except OSError:  # EPERM above pipe-max-size, EBUSY: what it has by default serves as well, slower
        pass
    return Pipe(read_fd, write_fd, fcntl.fcntl(write_fd, _F_GETPIPE_SZ))


def splice(source_fd: int, target_fd: int, size: int) -> int:
    """Move up to `size` bytes; one of the two must be a pipe. Returns how many; 0 is the end of the input."""
    return os.splice(source_fd, target_fd, size, flags=_SPLICE_FLAGS)


def tee(source_pipe_fd: int, target_pipe_fd: int, size: int) -> int:
    """Copy up to `size` bytes from one pipe to another without taking them out of the first."""
    moved = int(lib.nono_tee(source_pipe_fd, target_pipe_fd, size, _SPLICE_FLAGS))
    if moved < 0:
        if moved == -EAGAIN:  # the same exception that splice raises
            raise BlockingIOError(-moved, os.strerror(-moved))
        raise KernelError("tee", -moved)
    return moved
