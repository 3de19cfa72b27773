"""The walls that nono can put around an agent: what each enforces, and whether it stands on this machine.

Two things, and nothing else. `WALLS` is a table: for each wall, how far it enforces each of ASPECTS; SECURITY.md
repeats it. `attempt` finds out by doing: it starts a program that does nothing behind the wall, as a run would, and
waits for its end. What fails is told in the words of the spawn, which names the step and what to do.

A cell of the table is FULL, PARTIAL or NONE, or names what decides it on a machine: BY_SCOPES (Landlock's own
confinement of signals, Linux 6.12) or BY_CGROUP (a delegated control group).
"""

from __future__ import annotations

import os
import select
import struct
from errno import ENOSYS
from time import monotonic

from nono.errors import KernelError
from nono.kernel import landlock
from nono.kernel.spawn import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    EVENT_EXITED,
    MESSAGE_BYTES,
    MOUNT_NEW,
    Mount,
    SpawnError,
    prepare,
)
from nono.policy.capabilities import (
    LANDLOCK_LEAKS,
    NETWORK_BLOCKED,
    READ,
    SANDBOX_LANDLOCK,
    SANDBOX_NAMESPACE,
    SANDBOX_NOTIFY,
    CapabilitySet,
    PathGrant,
)
from nono.record import Record
from nono.sandbox import filesystem
from nono.sandbox.plan import Plan, make_plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

FULL, PARTIAL, NONE = "full", "partial", "none"
BY_SCOPES, BY_CGROUP = "by scopes", "by cgroup"

# What a wall may enforce, with what it means where it is not enforced in full.
ASPECTS = {
    "files": "",
    "modes": "chmod, chown, utime and setxattr reach your own files outside of the grants",
    "network": " and ".join(LANDLOCK_LEAKS) + " are not stopped",
    "unix_sockets": "",
    "signals": "the agent can end your other programs",
    "processes": "the agent sees the command lines of all processes",
    "tmp": "/tmp is the machine's; a temporary directory of the run's own lies in it",
    "limits": "limits hold for each process, not for all together",
}

_TIMEOUT_S = 10.0
_PROGRAMS = ("/bin/true", "/usr/bin/true")


class Wall(Record):
    """A wall, by the name that --sandbox has for it. mounts: with a mount and a PID namespace.

    is_whole: whether nothing goes by it but through the proxy. cells: aspect, and how far it is enforced.
    """

    name: str
    mounts: bool
    is_whole: bool
    cells: tuple[tuple[str, str], ...]


def _wall(name: str, mounts: bool, is_whole: bool, **different: str) -> Wall:
    return Wall(name, mounts, is_whole, tuple((aspect, different.get(aspect, FULL)) for aspect in ASPECTS))


_WITHOUT_MOUNTS = {"modes": NONE, "signals": BY_SCOPES, "processes": NONE, "tmp": NONE, "limits": BY_CGROUP}
# In the order in which a run tries them.
WALLS = (
    _wall(SANDBOX_NAMESPACE, True, True, limits=BY_CGROUP),
    _wall(SANDBOX_NAMESPACE, False, True, **_WITHOUT_MOUNTS),
    _wall(SANDBOX_NOTIFY, False, True, **_WITHOUT_MOUNTS),
    _wall(SANDBOX_LANDLOCK, False, False, **_WITHOUT_MOUNTS, network=PARTIAL),
)


def enforced(wall: Wall, *, scopes: bool, cgroup: bool) -> dict[str, str]:
    """Return how far `wall` enforces each aspect: FULL, PARTIAL or NONE.

    scopes: whether Landlock confines signals here. cgroup: whether a control group is delegated.
    """
    decided = {BY_SCOPES: FULL if scopes else NONE, BY_CGROUP: FULL if cgroup else PARTIAL}
    return {aspect: decided.get(cell, cell) for aspect, cell in wall.cells}


def attempt(wall: Wall) -> str:
    """Return "" when a program runs behind `wall` here, or why it does not. Leaves nothing behind."""
    try:
        plan, flags = _plan(wall)
        ruleset = filesystem.open_ruleset(plan)
        try:
            return _run(plan, ruleset, flags)
        finally:
            os.close(ruleset)
    except KernelError as error:
        return str(error)


def _plan(wall: Wall) -> tuple[Plan, int]:
    """Return what a run without a network that may read everything comes to behind `wall`, and flags for its filter."""
    grant = PathGrant("/", READ, False, "setup")
    expansion = filesystem.expand(CapabilitySet((grant,), (), NETWORK_BLOCKED, (), "/"))
    plan = make_plan(expansion, landlock.abi(), os.uname().machine)
    if wall.name == SANDBOX_NAMESPACE and not wall.mounts:
        return plan, 0
    raise KernelError("nono", ENOSYS, "This version of nono does not have this wall yet.")


def attempt_namespaces(namespaces: int, mounts: Sequence[Mount] = ()) -> SpawnError | None:
    """Return what goes wrong when namespaces (CLONE_NEW* bits) and mounts in them are made here; None for nothing."""
    try:
        prepare(namespaces=namespaces, mounts=mounts).abandon()
    except SpawnError as error:
        return error
    return None


def attempt_user_namespace() -> SpawnError | None:
    """As `attempt_namespaces`, with those that need nothing but the user's own."""
    return attempt_namespaces(CLONE_NEWUSER | CLONE_NEWIPC)


def attempt_network_namespace() -> SpawnError | None:
    """As `attempt_namespaces`, with a network of its own, whose loopback is brought up."""
    return attempt_namespaces(CLONE_NEWUSER | CLONE_NEWIPC | CLONE_NEWNET)


def attempt_mount_namespace() -> SpawnError | None:
    """As `attempt_namespaces`, with processes and mounts of its own: /proc is mounted anew, which containers mask."""
    return attempt_namespaces(
        CLONE_NEWUSER | CLONE_NEWIPC | CLONE_NEWNS | CLONE_NEWPID,
        (Mount(MOUNT_NEW, "/tmp", "tmpfs"), Mount(MOUNT_NEW, "/proc", "proc")),
    )


def _run(plan: Plan, ruleset_fd: int, filter_flags: int) -> str:
    """Start a program that does nothing, and wait until it has ended; return "" when it did so well. KernelError."""
    program = next((path for path in _PROGRAMS if os.access(path, os.X_OK)), _PROGRAMS[0])
    prepared = prepare(namespaces=plan.namespaces)
    child = prepared.start(
        path=os.fsencode(program),
        argv=[os.fsencode(program)],
        envp=[],
        workdir=b"/",
        ruleset_fd=ruleset_fd,
        seccomp_filter=plan.seccomp_filter,
        filter_flags=filter_flags,
    )
    try:
        return "" if _ends_well(child.control_fd) else f"{program} was started behind this wall, but did not end well."
    finally:
        for fd in (child.control_fd, child.pidfd, child.notify_fd, child.terminal_fd, child.network_fd):
            if fd >= 0:
                os.close(fd)
        os.waitpid(child.pid, 0)


def _ends_well(control_fd: int) -> bool:
    """Wait for the event that says how the program ended."""
    poll = select.poll()
    poll.register(control_fd, select.POLLIN)
    deadline = monotonic() + _TIMEOUT_S
    while poll.poll(max(0.0, deadline - monotonic()) * 1000):
        message = os.read(control_fd, MESSAGE_BYTES)
        if len(message) < MESSAGE_BYTES:
            break
        kind, value = struct.unpack("=ii", message)
        if kind == EVENT_EXITED:
            return bool(value == 0)
    return False
