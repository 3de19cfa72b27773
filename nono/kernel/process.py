"""Attributes of the calling process.

Source: prctl(2), getrlimit(2); numbers from include/uapi/linux/prctl.h.
"""

from __future__ import annotations

import resource

from nono.errors import KernelError
from nono.kernel._shim import lib

_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

CAP_SYS_PTRACE = 19  # capability.h
CAP_AUDIT_READ = 37


def _prctl(option: int, argument: int) -> int:
    result = int(lib.nono_prctl(option, argument))
    if result < 0:
        raise KernelError("prctl", -result)
    return result


def set_dumpable(dumpable: bool) -> None:
    """Allow or forbid core dumps and, for processes of the same user, ptrace and reading /proc/PID/{mem,environ,…}.

    An undumpable process does not own its /proc/self: unprivileged, it cannot list its own /proc/self/fd either.
    """
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def is_dumpable() -> bool:
    """Whether this process can be dumped and traced by others of its user."""
    return _prctl(_PR_GET_DUMPABLE, 0) == 1


def has_capability(number: int) -> bool:
    """Whether this process has the capability in its effective set. Source: proc_pid_status(5)."""
    with open("/proc/self/status", "rb") as file:
        effective = file.read().partition(b"\nCapEff:")[2].split(None, 1)[0]
    return bool(int(effective, 16) >> number & 1)


def set_child_subreaper() -> None:
    """Become the parent of orphaned descendants, so that they can be found and waited for."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def raise_open_files_limit() -> None:
    """Raise the soft limit of open files to the hard one; call it after the spawn, whose child keeps the old one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS: an "infinite" hard limit is not what it says
            pass


def set_no_new_privs() -> None:
    """Give up gaining privilege by exec, for this thread and all its descendants, for good."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
