"""The disk, as the sandbox sees it: what paths are, and the Landlock ruleset made of the plan's paths.

The only module of the sandbox that looks at the disk. It looks twice: when the plan is made (Disk) and when the ruleset
is (open_ruleset). In between somebody might have put a symbolic link where a directory was, so none is followed then; a
path that leads through one is refused.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable
from errno import ELOOP

from nono.errors import PolicyError
from nono.kernel import landlock, mountinfo
from nono.kernel.paths import open_real
from nono.policy.capabilities import READ, WRITE, CapabilitySet, PathGrant, is_at_or_below
from nono.sandbox import expansion
from nono.sandbox.expansion import ABSENT, DEVICE, DIRECTORY, FILE, LINK, STREAM, Entry, Expansion, ancestors
from nono.sandbox.plan import Plan

_STANDARD_FDS = (0, 1, 2)
_KINDS = {stat.S_IFDIR: DIRECTORY, stat.S_IFCHR: DEVICE, stat.S_IFBLK: DEVICE}


class Disk:
    """A `Listing` of the real file system. Remembers what it looked up, so one lives for one plan."""

    def __init__(self, mounts: str = mountinfo.MOUNTINFO) -> None:
        self._seen: dict[str, Entry] = {"/": Entry("/", DIRECTORY)}
        self._mountinfo = mounts
        self._mounts: _Mounts | None = None

    def look(self, path: str) -> Entry:
        """Follow every symbolic link of `path`; what is not there, or not for this user to see, is ABSENT."""
        seen = self._seen.get(path)
        if seen is None and path.startswith("//"):  # one place, one name: see policy/paths.py
            seen = self._seen[path] = self.look(f"/{path.lstrip('/')}")
        if seen is None:
            above, _, name = path.rpartition("/")
            parent = self._seen.get(above) or self.look(above or "/")
            real = path if parent.path == above else f"{parent.path.rstrip('/')}/{name}"
            seen = self._seen[path] = _look(real) if parent.kind == DIRECTORY else Entry(real, ABSENT)
        return seen

    def children(self, path: str) -> list[tuple[str, str]]:
        """Return name and kind of each entry of a directory, sorted; nothing where it cannot be listed."""
        try:
            with os.scandir(path) as entries:
                return sorted((entry.name, _kind_of(entry)) for entry in entries)
        except OSError:
            return []

    def aliases(self, path: str) -> list[str]:
        """Return the other paths at which mounts show the real path `path`, or a part of it."""
        if self._mounts is None:
            self._mounts = _Mounts(self._mountinfo)
        return self._mounts.aliases(path)

    def is_socket(self, path: str) -> bool:
        """Whether the real path `path` is an AF_UNIX socket."""
        try:
            return stat.S_ISSOCK(os.lstat(path).st_mode)
        except OSError:
            return False


def _look(path: str) -> Entry:
    """Look at a path whose directory is a real one."""
    try:
        kind = stat.S_IFMT(os.lstat(path).st_mode)
        if kind == stat.S_IFLNK:
            path = os.path.realpath(path)
            kind = stat.S_IFMT(os.stat(path).st_mode)
    except OSError:
        return Entry(path, ABSENT)
    return Entry(path, _KINDS.get(kind, FILE))


def _kind_of(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return LINK
    if entry.is_dir(follow_symlinks=False):
        return DIRECTORY
    if entry.is_file(follow_symlinks=False):
        return FILE
    try:
        return _KINDS.get(stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode), FILE)
    except OSError:
        return FILE  # gone meanwhile; the ruleset leaves it out


class _Mounts:
    """Which file systems are mounted at several places (bind mounts, subvolumes)."""

    def __init__(self, path: str) -> None:
        self._at: dict[str, tuple[str, str]] = {}  # mount point: device, root within the file system
        try:
            for mounted in mountinfo.read(path):
                self._at[mounted.point] = (mounted.device, mounted.root)
        except FileNotFoundError:
            raise PolicyError("/proc is not mounted here, and tells what is mounted where: mount it first") from None
        self._points: dict[str, list[str]] = {}  # device: mount points
        for path, (device_name, _) in self._at.items():
            self._points.setdefault(device_name, []).append(path)
        self._all_different = len(self._points) == len(self._at)

    def aliases(self, path: str) -> list[str]:
        if self._all_different:
            return []
        point = next((directory for directory in ancestors(path) if directory in self._at), None)
        if point is None:
            return []
        device, root = self._at[point]
        others = self._points[device]
        if len(others) == 1:
            return []
        inside = _join(root, path[len(point) :])  # the same place as the file system itself calls it
        found = []
        for other in others:
            other_root = self._at[other][1]
            if other != point and is_at_or_below(inside, other_root):
                found.append(_join(other, inside[len(other_root) if other_root != "/" else 0 :]))
            elif other != point and is_at_or_below(other_root, inside):
                found.append(other)
        return found


def _join(directory: str, rest: str) -> str:
    rest = rest.strip("/")
    return f"{directory.rstrip('/')}/{rest}" if rest else directory


def expand(capabilities: CapabilitySet, *, mounts: bool = False) -> Expansion:
    """Return the pieces of this machine's disk that the capabilities come to; mounts, raises: see expansion.expand."""
    return expansion.expand(capabilities, Disk(), mounts=mounts)


def standard_stream_grants(fds: Iterable[int] = _STANDARD_FDS) -> tuple[PathGrant, ...]:
    """Return grants of the terminals and files that the child inherits, so that it can reopen them by name.

    Scripts do (`echo … > /dev/stderr`). A terminal by its own path only: the directory /dev/pts would hand over every
    other terminal of the user. A file with the access that its descriptor has, which the child could use anyway.
    """
    grants = []
    for fd in fds:
        try:
            status = os.fstat(fd)
            path = os.readlink(f"/proc/self/fd/{fd}")
            is_named = os.path.samestat(status, os.stat(path))
        except OSError:
            continue  # closed, a pipe, or a file that has no name any more
        if is_named and stat.S_ISREG(status.st_mode):
            mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
            access = {os.O_RDONLY: READ, os.O_WRONLY: WRITE}.get(mode, READ | WRITE)
            grants.append(PathGrant(path, access, True, STREAM, optional=True))
        elif is_named and os.isatty(fd):
            grants.append(PathGrant(path, READ | WRITE, True, "terminal", optional=True))
    return tuple(dict.fromkeys(grants))


def open_ruleset(plan: Plan) -> int:
    """Return a new Landlock ruleset fd with every rule of the plan, owned by the caller.

    A path that has vanished since the plan was made is left out. Raises PolicyError when one has become another file,
    KernelError when the kernel refuses.
    """
    net = landlock.NET_BIND_TCP | landlock.NET_CONNECT_TCP if plan.ports is not None else 0
    ruleset = landlock.create_ruleset(plan.handled_fs, net, plan.scoped)
    try:
        for port, access in plan.ports or ():
            landlock.add_port(ruleset, port, access)
        for path, access in plan.rules:
            try:
                fd = open_real(path)
            except OSError as error:
                if error.errno != ELOOP:
                    continue
                replaced = f"{path} was replaced while the sandbox was being built; look at it, run again"
                raise PolicyError(replaced) from None
            try:
                landlock.add_path(ruleset, fd, access)
            finally:
                os.close(fd)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset
