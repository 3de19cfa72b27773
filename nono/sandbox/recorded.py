"""The system calls whose paths `nono learn` records: which argument is the path, and what is wanted of it.

Data. Here are the calls for which a profile has to grant something: what Landlock judges (opening, executing, making,
removing, renaming, truncating), and what the read-only mounts judge (modes, owners, times, attributes). Not stat,
access, readlink, chdir and O_PATH: they need no grant, and are most of what a program does. openat2 and io_uring do not
exist behind the filter. A call on a descriptor is no news: its path was opened.

The first execve is nono's own: it happens before anybody can answer for it, so the filter lets it pass, by the address
of its path. A program that uses the same address hides its own exec from its own record.
"""

from __future__ import annotations

from nono.policy.capabilities import READ, WRITE
from nono.policy.learned import ENTRY, EXECUTE, MAKE, MKDIR
from nono.record import Record

BY_FLAGS = 0  # see wanted()

_O_ACCMODE, _O_WRONLY, _O_RDWR = 3, 1, 2
_O_CREAT, _O_TRUNC, _O_PATH, _O_TMPFILE_BIT = 0o100, 0o1000, 0o10000000, 0o20000000
_FLAGS = _O_ACCMODE | _O_CREAT | _O_TRUNC | _O_PATH | _O_TMPFILE_BIT


class PathCall(Record):
    """One path of a system call. directory, path, flags: indices of arguments; -1: the working directory, or none."""

    name: str
    access: int
    path: int = 0
    directory: int = -1
    flags: int = -1
    may_be_empty: bool = False

    @property
    def flags_mask(self) -> int:
        """Which flags matter."""
        return _FLAGS if self.access == BY_FLAGS else 0


PATH_CALLS = (
    PathCall("open", BY_FLAGS, 0, -1, 1),
    PathCall("openat", BY_FLAGS, 1, 0, 2),
    PathCall("creat", WRITE | MAKE),
    PathCall("execve", EXECUTE),
    PathCall("execveat", EXECUTE, 1, 0, may_be_empty=True),
    PathCall("truncate", WRITE),
    PathCall("mkdir", ENTRY | MKDIR),
    PathCall("mkdirat", ENTRY | MKDIR, 1, 0),
    *(PathCall(name, ENTRY) for name in ("rmdir", "unlink", "mknod")),
    *(PathCall(name, ENTRY, 1, 0) for name in ("unlinkat", "mknodat")),
    PathCall("rename", ENTRY),
    PathCall("rename", ENTRY, 1),
    *(PathCall(name, ENTRY, 1, 0) for name in ("renameat", "renameat2")),
    *(PathCall(name, ENTRY, 3, 2) for name in ("renameat", "renameat2")),
    PathCall("link", ENTRY, 1),
    PathCall("linkat", ENTRY, 3, 2),
    PathCall("symlink", ENTRY, 1),
    PathCall("symlinkat", ENTRY, 2, 1),
    *(PathCall(name, WRITE) for name in ("chmod", "chown", "lchown", "utime", "utimes")),
    *(PathCall(name, WRITE, 1, 0) for name in ("fchmodat", "fchmodat2", "fchownat", "futimesat", "utimensat")),
    *(PathCall(name, WRITE) for name in ("setxattr", "lsetxattr", "removexattr", "lremovexattr")),
)
RECORDED = tuple(dict.fromkeys(call.name for call in PATH_CALLS))


def wanted(call: PathCall, flags: int) -> int:
    """Return what the call wanted of its path: bits of policy/learned.py; 0 for nothing."""
    if call.access != BY_FLAGS:
        return call.access
    if flags & _O_PATH:
        return 0
    access = {_O_WRONLY: WRITE, _O_RDWR: READ | WRITE}.get(flags & _O_ACCMODE, READ)
    if flags & _O_TMPFILE_BIT:  # O_DIRECTORY is another bit: a file without a name is made in this directory
        return access & ~READ | WRITE
    if flags & _O_TRUNC:
        access |= WRITE
    if flags & _O_CREAT:
        access |= MAKE
    return access
