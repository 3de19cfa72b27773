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
import signal
from errno import EBADF

from nono.errors import KernelError
from nono.kernel import landlock
from nono.kernel.spawn import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWUSER, Child, SpawnError, spawn
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
from nono.sandbox.plan import make_plan

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
_AFTER_NAMESPACES = ("landlock", "seccomp", "exec")  # the steps of a spawn that come when its namespaces stand


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
    if wall.mounts or wall.name != SANDBOX_NAMESPACE:
        return "This version of nono does not have this wall yet."
    grant = PathGrant("/", READ, False, "setup")
    try:
        plan = make_plan(
            filesystem.expand(CapabilitySet((grant,), (), NETWORK_BLOCKED, (), "/")),
            landlock.abi(),
            os.uname().machine,
        )
        ruleset = filesystem.open_ruleset(plan)
        try:
            _run(plan.namespaces, ruleset, plan.seccomp_filter)
        finally:
            os.close(ruleset)
    except KernelError as error:
        return str(error)
    return ""


def attempt_namespaces(namespaces: int) -> SpawnError | None:
    """Return what goes wrong when namespaces (CLONE_NEW* bits, with CLONE_NEWUSER) are made here; None for nothing.

    Nothing is started: without a ruleset the spawn ends where the namespaces stand.
    """
    try:
        _run(namespaces | CLONE_NEWUSER, -1, b"")
    except SpawnError as error:
        return None if error.step in _AFTER_NAMESPACES else error
    return None


def attempt_user_namespace() -> SpawnError | None:
    """As `attempt_namespaces`, with those that need nothing but the user's own."""
    return attempt_namespaces(CLONE_NEWUSER | CLONE_NEWIPC)


def attempt_network_namespace() -> SpawnError | None:
    """As `attempt_namespaces`, with a network of its own, whose loopback is brought up."""
    return attempt_namespaces(CLONE_NEWUSER | CLONE_NEWIPC | CLONE_NEWNET)


def _run(namespaces: int, ruleset_fd: int, seccomp_filter: bytes) -> None:
    """Start a program that does nothing, and wait until it has ended. Raises KernelError."""
    program = next((path for path in _PROGRAMS if os.access(path, os.X_OK)), _PROGRAMS[0])
    _wait(
        spawn(
            path=os.fsencode(program),
            argv=[os.fsencode(program)],
            envp=[],
            workdir=b"/",
            namespaces=namespaces,
            ruleset_fd=ruleset_fd,
            seccomp_filter=seccomp_filter,
            new_process_group=True,
        )
    )


def _wait(child: Child) -> None:
    poll = select.poll()
    poll.register(child.pidfd, select.POLLIN)
    if not poll.poll(_TIMEOUT_S * 1000):
        os.kill(child.pid, signal.SIGKILL)
    os.close(child.pidfd)
    _, status = os.waitpid(child.pid, 0)
    if status:
        raise KernelError("execve", EBADF, "A program was started behind this wall, but did not end well.")
