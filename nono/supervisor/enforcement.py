"""The walls that nono can put around an agent: what each enforces, and whether it stands on this machine.

Two things, and nothing else. `TABLE` says for each wall how far it enforces each of ASPECTS; SECURITY.md repeats it.
`attempt` finds out by doing: it starts a program that does nothing behind the wall, planned and prepared as for a run,
and waits for its end. What fails is told in the words of the spawn, which names the step and what to do.

A cell of the table is FULL, PARTIAL or NONE, or names what decides it on a machine: BY_SCOPES (Landlock's own
confinement of signals, Linux 6.12) or BY_CGROUP (a delegated control group).
"""

from __future__ import annotations

import os
import select
from signal import SIGKILL
from time import monotonic

from nono.errors import NonoError
from nono.kernel import landlock, notify
from nono.kernel.spawn import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    EVENT_EXITED,
    MOUNT_NEW,
    Mount,
    prepare,
    receive_event,
)
from nono.kernel.spawn_errors import SpawnError
from nono.policy.capabilities import (
    LANDLOCK_LEAKS,
    NETWORK_PROXY,
    READ,
    SANDBOX_LANDLOCK,
    SANDBOX_NAMESPACE,
    SANDBOX_NOTIFY,
    WRITE,
    CapabilitySet,
    PathGrant,
)
from nono.policy.groups import system_grants
from nono.record import Record
from nono.sandbox import filesystem
from nono.sandbox.plan import Plan, Wall, make_plan
from nono.supervisor.scratch import ScratchDirectory

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


class Row(Record):
    """is_whole: whether nothing gets by this wall but through the proxy. cells: aspect, how far it is enforced."""

    wall: Wall
    is_whole: bool
    cells: tuple[tuple[str, str], ...]


def _row(wall: Wall, is_whole: bool, **different: str) -> Row:
    return Row(wall, is_whole, tuple((aspect, different.get(aspect, FULL)) for aspect in ASPECTS))


_WITHOUT_MOUNTS = {"modes": NONE, "signals": BY_SCOPES, "processes": NONE, "tmp": NONE, "limits": BY_CGROUP}
# In the order in which a run tries them.
TABLE = (
    _row(Wall(SANDBOX_NAMESPACE, mounts=True), True, limits=BY_CGROUP),
    _row(Wall(SANDBOX_NAMESPACE), True, **_WITHOUT_MOUNTS),
    _row(Wall(SANDBOX_NOTIFY), True, **_WITHOUT_MOUNTS),
    _row(Wall(SANDBOX_LANDLOCK), False, **_WITHOUT_MOUNTS, network=PARTIAL),
)


def enforced(row: Row, *, scopes: bool, cgroup: bool) -> dict[str, str]:
    """Return how far a wall enforces each aspect: FULL, PARTIAL or NONE.

    scopes: whether Landlock confines signals here. cgroup: whether a control group is delegated.
    """
    decided = {BY_SCOPES: FULL if scopes else NONE, BY_CGROUP: FULL if cgroup else PARTIAL}
    return {aspect: decided.get(cell, cell) for aspect, cell in row.cells}


def attempt(wall: Wall, home: str) -> str:
    """Return "" when a program runs behind `wall` here, or why it does not. Leaves nothing behind."""
    try:
        if wall.name == SANDBOX_NOTIFY:
            notify.check()
        with ScratchDirectory(os.environ.get("TMPDIR") or "/tmp", create=True) as scratch:
            plan = _plan(wall, home, scratch.path)
            ruleset = filesystem.open_ruleset(plan)
            try:
                return _run(plan, ruleset)
            finally:
                os.close(ruleset)
    except NonoError as error:
        return str(error)
    except OSError as error:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}."


def _plan(wall: Wall, home: str, scratch: str) -> Plan:
    """Return the plan of a run that was granted nothing but its temporary directory and the proxy."""
    grant = PathGrant(scratch, READ | WRITE, False, "temporary directory", optional=True)
    grants = (*system_grants(home, f"{home}/.config"), grant)
    return make_plan(
        filesystem.expand(CapabilitySet(grants, (), NETWORK_PROXY, (), scratch)),
        landlock.abi(),
        os.uname().machine,
        wall,
        temporary_directory=scratch,
        workdir=scratch,
    )


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


def _run(plan: Plan, ruleset_fd: int) -> str:
    """Start a program that does nothing, and wait until it has ended; return "" when it did so well. KernelError."""
    program = next((path for path in _PROGRAMS if os.access(path, os.X_OK)), _PROGRAMS[0])
    prepared = prepare(namespaces=plan.namespaces, listen_ports=(0,), mounts=plan.mounts)
    child = prepared.start(
        path=os.fsencode(program),
        argv=[os.fsencode(program)],
        envp=[],
        workdir=b"/",
        ruleset_fd=ruleset_fd,
        seccomp_filter=plan.seccomp_filter,
        filter_flags=plan.filter_flags,
        late_rules=plan.late_rules,
        terminal_access=plan.terminal_access,
    )
    try:
        return "" if _ends_well(child.control_fd) else f"{program} was started behind this wall, but did not end well."
    finally:
        for fd in (child.control_fd, child.pidfd, child.notify_fd, child.terminal_fd, *child.listener_fds):
            if fd >= 0:
                os.close(fd)
        os.waitpid(child.pid, 0)


def _ends_well(control_fd: int) -> bool:
    """Wait for the event that says how the program ended."""
    poll = select.poll()
    poll.register(control_fd, select.POLLIN)
    deadline = monotonic() + _TIMEOUT_S
    while poll.poll(max(0.0, deadline - monotonic()) * 1000):
        kind, value = receive_event(control_fd) or (EVENT_EXITED, SIGKILL)
        if kind == EVENT_EXITED:
            return value == 0
    return False
