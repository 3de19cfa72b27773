"""Sockets in the network of a child that was spawned with `keep_network`.

`socket_in` costs about a tenth of a millisecond: a process that shares this one's memory enters the child's namespaces
in our place (csrc/network.c says why, and why the child cannot reach it). It works after the child's exec and whatever
the child does, for whoever spawned it: the user who made a user namespace has every capability in it.
"""

from __future__ import annotations

from errno import EPERM

from nono.errors import KernelError
from nono.kernel import process
from nono.kernel._shim import ffi, lib

_FORBIDDEN = (
    "The sandbox's own network cannot be entered, as --listen-port needs: a seccomp profile around nono forbids setns; "
    "run nono outside of that container, or without --listen-port."
)


def check() -> None:
    """Raise KernelError where `socket_in` cannot work; to be called before the spawn."""
    error = -int(lib.nono_setns_allowed())
    if error:
        raise KernelError("setns", error, _FORBIDDEN)


def socket_in(network_fd: int, family: int) -> int:
    """Return a new TCP socket in the network namespace `network_fd`: non-blocking, close-on-exec, the caller's.

    family: AF_INET or AF_INET6. Raises KernelError with the name of the system call that failed.
    """
    assert not process.is_dumpable(), "the child's user namespace must not reach this memory"
    call = ffi.new("char **")
    fd = int(lib.nono_socket_in_network(network_fd, family, call))
    if fd < 0:
        name = ffi.string(call[0]).decode()
        raise KernelError(name, -fd, _FORBIDDEN if (name, -fd) == ("setns", EPERM) else "")
    return fd
