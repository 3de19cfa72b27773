"""A control group of a run's own (cgroup v2), where this user may make one.

Found by doing. From the caller's own group upwards, each group is tried as the parent: the controllers must be switched
on for its children (or let themselves be), a group must be made below it, and a process must get in. The kernel's
rules decide which parent that is:

- a group that holds processes and is not the root has no children with controllers ("no internal processes"), so it is
  mostly not the caller's own group but one above, as `app.slice` of the user's systemd;
- to move a process one writes to `cgroup.procs` of the target, and needs the right to write to that of the group in
  which the way there turns, which is the parent. So nothing is gained by looking beside the way upwards: another
  branch (`user@UID.service`, from a session of ssh) turns in a group that is root's.

The file is opened here and written by the process that enters, once it exists: since Linux 5.16 the rights of whoever
opened it count. The group is this process's as long as it holds a lock on the directory, which the kernel releases
however a process ends; so whatever a killed one left behind is recognised, and removed by the next (only when empty).
Controllers that were switched on stay on: others may have come to rely on them.

Source: Documentation/admin-guide/cgroup-v2.rst, cgroups(7).
"""

from __future__ import annotations

import fcntl
import os
from signal import SIGKILL
from time import monotonic, sleep

from nono.kernel import mountinfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PREFIX = "nono-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REMOVAL_S = 2.0  # a killed process leaves its group soon, but not at once
_FIRST_PAUSE_S = 0.001


class Cgroup:
    """A group that was made. procs_fd: its cgroup.procs; writing "0" moves the writer in. To be closed."""

    def __init__(self, path: str, lock_fd: int, procs_fd: int) -> None:
        self.path = path
        self.procs_fd = procs_fd
        self._lock_fd = lock_fd

    def counts(self, file: str) -> dict[str, int] | None:
        """Return the counters of memory.events or pids.events; None when the controller was switched off meanwhile."""
        try:
            return {name: int(count) for name, count in map(str.split, _read(f"{self.path}/{file}").splitlines())}
        except OSError:
            return None

    def close(self) -> None:
        """Kill all that is in the group, and remove it."""
        os.close(self.procs_fd)
        deadline, pause = monotonic() + _REMOVAL_S, _FIRST_PAUSE_S
        while not _remove(self.path) and monotonic() < deadline:
            self._kill()
            sleep(pause)
            pause *= 2
        os.close(self._lock_fd)

    def _kill(self) -> None:
        try:
            _write(f"{self.path}/cgroup.kill", "1")
        except OSError:  # Linux 5.13 does not have it
            try:
                for pid in map(int, _read(f"{self.path}/cgroup.procs").split()):
                    if pid:  # 0: it is in a PID namespace that is none of ours
                        os.kill(pid, SIGKILL)
            except OSError:
                pass  # gone meanwhile; the next turn sees who is left


def mount_points(proc: str = "/proc") -> tuple[str, ...]:
    """Return where cgroup v2 is mounted."""
    return tuple(point for _, point in _mounts(proc))


def make(controllers: Mapping[str, Mapping[str, str]], proc: str = "/proc") -> Cgroup | None:
    """Return a new group with these limits; None where there is none to be had, and then nothing is left behind.

    controllers: for each controller that is needed, what is written to its files. A file whose name ends in "?" may
    be missing.
    """
    for parent in groups(proc):
        try:
            if group := _make_below(parent, controllers):
                return group
        except OSError:
            continue  # not delegated, or not to this user; the next may be
    return None


def _mounts(proc: str) -> Iterator[tuple[str, str]]:
    """Yield (root, mount point) of each mount of cgroup v2."""
    try:
        for mounted in mountinfo.read(f"{proc}/self/mountinfo"):
            if mounted.type == "cgroup2":
                yield mounted.root, mounted.point
    except OSError:
        return


def groups(proc: str = "/proc") -> Iterator[str]:
    """Yield the directory of this process's group, and those above it; none where none is to be seen."""
    try:
        lines = _read(f"{proc}/self/cgroup").splitlines()
    except OSError:
        return
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None or "/.." in path:  # outside of the cgroup namespace that this process sees
        return
    for root, point in _mounts(proc):
        prefix = root.rstrip("/")
        if f"{path}/".startswith(f"{prefix}/"):
            below = path[len(prefix) :].rstrip("/")
            while below:
                yield point + below
                below = below.rpartition("/")[0]
            yield point
            return


def _make_below(parent: str, controllers: Mapping[str, Mapping[str, str]]) -> Cgroup | None:
    """Return a new group below `parent`; None, or OSError, when there is none to be had."""
    if not os.access(f"{parent}/cgroup.procs", os.W_OK):
        return None
    enabled = _read(f"{parent}/cgroup.subtree_control").split()
    if missing := [f"+{name}" for name in controllers if name not in enabled]:
        _write(f"{parent}/cgroup.subtree_control", " ".join(missing))
    _sweep(parent)
    path, lock_fd = _make_directory(parent)
    procs_fd = -1
    try:
        procs_fd = os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        if _lets_in(procs_fd):  # before the limits: they are not for this process
            for files in controllers.values():
                for file, value in files.items():
                    try:
                        _write(f"{path}/{file.rstrip('?')}", value)
                    except FileNotFoundError:
                        if not file.endswith("?"):
                            raise
            group = Cgroup(path, lock_fd, procs_fd)
            procs_fd = lock_fd = -1
            return group
        return None
    finally:
        if lock_fd >= 0:
            if procs_fd >= 0:
                os.close(procs_fd)
            _remove(path)
            os.close(lock_fd)


def _make_directory(parent: str) -> tuple[str, int]:
    """Make a group; return its path, and its directory, locked."""
    while True:
        path = f"{parent}/{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        os.mkdir(path, 0o755)
        try:
            fd = os.open(path, _DIRECTORY)
        except FileNotFoundError:
            continue  # another nono's sweep was faster than our lock
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.path.isdir(path):
            return path, fd
        os.close(fd)


def _sweep(parent: str) -> None:
    """Remove the groups of runs that were killed."""
    for name in os.listdir(parent):
        if name.startswith(_PREFIX):
            try:
                fd = os.open(f"{parent}/{name}", _DIRECTORY)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(f"{parent}/{name}")
            except OSError:
                pass  # its run lives
            finally:
                os.close(fd)


def _lets_in(procs_fd: int) -> bool:
    """Whether a process gets into the group: a child of this one tries, and ends there."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(procs_fd, b"0")
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def _remove(path: str) -> bool:
    """Remove an empty group; return whether it is gone."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
