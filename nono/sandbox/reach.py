"""What the agent really has at a path: the plan, read backwards.

Pure, for those who explain: Landlock grants a right where any rule at or above the path has it, and the view of mounts
(mounts.py) shows directories of the agent's own in the place of the machine's. Nothing is enforced by this.
"""

from __future__ import annotations

from nono.kernel import landlock
from nono.kernel.spawn import MOUNT_BIND
from nono.policy.capabilities import READ, WRITE, is_at_or_below
from nono.record import Record
from nono.sandbox.mounts import has_own_tmp
from nono.sandbox.plan import Plan

_MAKE = landlock.FS_WRITE_FILE | landlock.FS_MAKE_REG
# Where the machine's kernel tells of itself; a mount there is never writable (mounts.py).
_KERNEL = "/proc"


class Reach(Record):
    """rules: (path, Landlock rights). private: directories of the agent's own; shown: what of the machine's is in them.

    mounts: the agent has a view of its own, in which /proc holds its own processes.
    """

    rules: tuple[tuple[str, int], ...]
    private: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    mounts: bool = False

    def rights(self, path: str) -> int:
        """Return the Landlock rights at a real path."""
        rights = 0
        for directory, access in self.rules:
            if is_at_or_below(path, directory):
                rights |= access
        return rights

    def access(self, path: str, *, is_directory: bool, to_make_in: str = "") -> int:
        """Return what may be done with a real path, READ | WRITE bits. to_make_in: the directory to make it in."""
        rights = self.rights(to_make_in or path)
        found = 0
        if rights & (landlock.FS_READ_DIR if is_directory else landlock.FS_READ_FILE):
            found |= READ
        to_write = _MAKE if is_directory or to_make_in else landlock.FS_WRITE_FILE
        if rights & to_write == to_write and not (self.mounts and is_at_or_below(path, _KERNEL)):
            found |= WRITE
        return found

    def own(self, path: str) -> str:
        """Return the directory of the agent's own in which it sees something else by this name; "" for none."""
        if self.mounts and path.startswith("/proc/") and path.split("/")[2].isdigit():
            return "/proc"
        if any(is_at_or_below(path, shown) for shown in self.shown):
            return ""
        return max((top for top in self.private if is_at_or_below(path, top)), key=len, default="")


def reach_of(plan: Plan, temporary_directory: str) -> Reach:
    """Return what a plan comes to. temporary_directory: the run's own."""
    rules = (*((rule.path, rule.access) for rule in plan.rules), *plan.late_rules)
    private: tuple[str, ...] = ("/dev", "/dev/pts", "/dev/shm") if plan.own_terminals else ()
    binds = [mount for mount in plan.mounts if mount.kind == MOUNT_BIND]
    if has_own_tmp(binds):
        private += ("/tmp",)
        rules += (("/tmp", next((access for path, access in rules if path == temporary_directory), _ALL)),)
    shown = tuple(
        mount.source
        for mount in binds
        if mount.source != temporary_directory and any(is_at_or_below(mount.source, top) for top in private)
    )
    return Reach(rules, private, shown, bool(plan.mounts))


_ALL = landlock.FS_READ_FILE | landlock.FS_READ_DIR | _MAKE
