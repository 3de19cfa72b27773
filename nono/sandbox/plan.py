"""The plan: what the kernel is asked to enforce, as plain data. Everything that can be decided is decided here.

Pure. `make_plan` takes the pieces of the disk (expansion.py), what this kernel is and which wall is wanted, and returns
namespaces, mounts, Landlock rules and the seccomp program; `filesystem.open_ruleset` and `kernel.spawn` carry it out
without deciding anything.

The walls, in the order in which `walls_to_try` has them tried, each by doing:

- namespaces, with mounts: a user namespace that maps one user, IPC, mount and PID namespaces and, unless the network is
  open, a network namespace whose only device is its own loopback; the child's own view of the disk (mounts.py);
- namespaces without mounts, where /proc cannot be mounted (in many containers): the machine's /proc, /tmp and /dev;
- notify, where there are no user namespaces: the host's network, in which the supervisor performs each connect, bind
  and listen itself (supervisor/mediator.py), and lets nothing reach but the proxy;
- landlock, only where the user accepts its leaks: Landlock's rule for the port, and the filter.

All of them: no capability; Landlock, which handles every right that the kernel knows, so that whatever no rule grants
is denied; the seccomp filter of bpf.py.

Rights that no grant ever gives: MAKE_CHAR and MAKE_BLOCK (a device node is a way around every path), and MAKE_SOCK but
for --allow-unix-socket own. IOCTL_DEV is given for devices only.
"""

from __future__ import annotations

from errno import EOPNOTSUPP

from nono.errors import KernelError
from nono.kernel import landlock, seccomp
from nono.kernel.spawn import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, Mount
from nono.policy.capabilities import (
    LANDLOCK_LEAKS,
    NETWORK_OPEN,
    NETWORK_PROXY,
    READ,
    SANDBOX_AUTO,
    SANDBOX_LANDLOCK,
    SANDBOX_NAMESPACE,
    SANDBOX_NOTIFY,
    WRITE,
    PathGrant,
)
from nono.record import Record
from nono.sandbox import bpf
from nono.sandbox.expansion import DEVICE, DIRECTORY, EXPANDED, Expansion, Piece
from nono.sandbox.mounts import DIRECTORY_WRITE, View, private_view

_PORT_ABI = 4  # Linux 6.7
_TRUNCATE_ABI = 3  # Linux 6.2
_SCOPE_ABI = 6  # Linux 6.12

_DIRECTORY_READ = landlock.FS_EXECUTE | landlock.FS_READ_FILE | landlock.FS_READ_DIR
_TERMINAL = landlock.FS_READ_FILE | landlock.FS_WRITE_FILE | landlock.FS_IOCTL_DEV


class Rule(Record):
    """Landlock rights (FS_* bits) on a real path and, if it is a directory, on all below it."""

    path: str
    access: int


class Wall(Record):
    """name: one of SANDBOX_*. mounts: with a view of the disk and of processes of its own."""

    name: str
    mounts: bool = False


class Plan(Record):
    """What is enforced. namespaces: CLONE_NEW* bits. proxied: the child gets a proxy listener. text: for the summary.

    mounts, late_rules: see mounts.View. terminal_access: Landlock rights on a terminal of the host's.
    ports: (TCP port, Landlock's NET_* rights); None where Landlock does not handle ports.
    judged: the system calls that wait for a mediator; filter_flags: SECCOMP_FILTER_FLAG_* for them.
    grants: those that took effect. notes: sentences that the user should see before the child starts. leaks: what this
    wall does not stop.
    """

    wall: Wall
    namespaces: int
    proxied: bool
    handled_fs: int
    scoped: int
    rules: tuple[Rule, ...]
    seccomp_filter: bytes
    text: str
    grants: tuple[PathGrant, ...]
    notes: tuple[str, ...]
    mounts: tuple[Mount, ...] = ()
    late_rules: tuple[tuple[str, int], ...] = ()
    own_terminals: bool = False
    terminal_access: int = 0
    ports: tuple[tuple[int, int], ...] | None = None
    judged: tuple[str, ...] = ()
    filter_flags: int = 0
    leaks: tuple[str, ...] = ()


_TEXTS = {
    SANDBOX_NAMESPACE: "namespaces, Landlock {abi}, seccomp",
    SANDBOX_NOTIFY: "seccomp notifier, Landlock {abi}",
    SANDBOX_LANDLOCK: "Landlock {abi}, seccomp: leaks",
}


def walls_to_try(sandbox: str) -> tuple[Wall, ...]:
    """Return the walls that `--sandbox sandbox` allows, the strongest first."""
    namespaces = (Wall(SANDBOX_NAMESPACE, mounts=True), Wall(SANDBOX_NAMESPACE))
    return {
        SANDBOX_AUTO: (*namespaces, Wall(SANDBOX_NOTIFY)),
        SANDBOX_NAMESPACE: namespaces,
        SANDBOX_NOTIFY: (Wall(SANDBOX_NOTIFY),),
        SANDBOX_LANDLOCK: (Wall(SANDBOX_LANDLOCK),),
    }[sandbox]


def make_plan(
    expansion: Expansion,
    abi: int,
    arch: str,
    wall: Wall = Wall(SANDBOX_NAMESPACE),  # noqa: B008 (it is a tuple)
    *,
    temporary_directory: str = "",
    workdir: str = "/",
    connect_ports: tuple[int, ...] = (),
    bind_ports: tuple[int, ...] = (),
    recorded: bpf.Recorded | None = None,
) -> Plan:
    """Return the plan for a kernel with Landlock ABI `abi` on `arch` (as os.uname() names it).

    temporary_directory: the run's own, granted; needed with mounts. connect_ports, bind_ports: which the child may
    reach, and have, on the host's loopback. recorded: for `nono learn`, see bpf.rules(); then AF_UNIX sockets can be
    made, so that the mediator sees, and refuses, where they would connect.
    expansion: for a wall without mounts, one that was not made for those.
    Raises KernelError when the kernel has no Landlock, or one too old for the wall, or nono has no filter for the
    architecture.
    """
    if expansion.pinned and not wall.mounts:
        raise ValueError("nothing would keep the pinned files from being written")
    if abi < 1:
        raise KernelError(
            "landlock_create_ruleset",
            EOPNOTSUPP,
            "This kernel does not offer Landlock, without which files are not confined: it needs Linux 5.13 or newer "
            "with landlock in the lsm= list (cat /sys/kernel/security/lsm).",
        )
    restricted = expansion.network != NETWORK_OPEN
    by_port = restricted and wall.name == SANDBOX_LANDLOCK
    if by_port and abi < _PORT_ABI:
        raise KernelError(
            "landlock_create_ruleset",
            EOPNOTSUPP,
            f"--sandbox landlock needs Landlock {_PORT_ABI} (Linux 6.7), which rules ports; this kernel has {abi}.",
        )
    handled = landlock.fs_mask(abi)
    scoped = landlock.SCOPE_ABSTRACT_UNIX_SOCKET | landlock.SCOPE_SIGNAL if abi >= _SCOPE_ABI else 0
    namespaces = _namespaces(wall, restricted)
    notes = expansion.notes
    if not scoped and not namespaces & CLONE_NEWPID:
        notes += (f"Landlock {abi} does not confine signals (Linux 6.12 does): the agent can end your other programs",)
    view = private_view(expansion, temporary_directory, workdir) if wall.mounts else View((), (), False)
    is_recorded = recorded is not None
    sockets = {"unix_sockets": is_recorded or bool(expansion.unix_sockets), "own_sockets": expansion.own_sockets}
    notify = wall.name == SANDBOX_NOTIFY
    mediated = notify and restricted  # what the supervisor performs is not in the domain, so nothing need be granted
    judged = bpf.judged(network=expansion.network, notify=notify, recorded=recorded, **sockets)
    return Plan(
        wall=wall,
        namespaces=namespaces,
        proxied=expansion.network == NETWORK_PROXY,
        handled_fs=handled,
        scoped=scoped,
        rules=tuple(
            [
                Rule(piece.path, access)
                for piece in expansion.pieces
                if (access := _rights(piece, expansion.own_sockets) & handled)
            ]
        ),
        seccomp_filter=bpf.build(
            arch=arch,
            network=expansion.network,
            allow_ipc=bool(namespaces & CLONE_NEWIPC),
            landlock_truncate=abi >= _TRUNCATE_ABI,
            notify=notify,
            recorded=recorded,
            **sockets,
        ),
        text=_TEXTS[wall.name].format(abi=abi),
        grants=expansion.grants,
        notes=notes,
        mounts=view.mounts,
        late_rules=tuple((path, access & handled) for path, access in view.rules),
        own_terminals=view.own_terminals,
        terminal_access=0 if view.own_terminals else _TERMINAL & handled,
        ports=_port_rules(connect_ports, bind_ports) if by_port else () if mediated and abi >= _PORT_ABI else None,
        judged=judged,
        filter_flags=_listener_flags() if judged else 0,
        leaks=LANDLOCK_LEAKS if by_port else (),
    )


def _port_rules(connect_ports: tuple[int, ...], bind_ports: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    connects = ((port, landlock.NET_CONNECT_TCP) for port in connect_ports)
    return (*connects, *((port, landlock.NET_BIND_TCP) for port in bind_ports))


def _namespaces(wall: Wall, restricted: bool) -> int:
    if wall.name != SANDBOX_NAMESPACE:
        return 0
    namespaces = CLONE_NEWUSER | CLONE_NEWIPC
    if restricted:
        namespaces |= CLONE_NEWNET
    return namespaces | CLONE_NEWNS | CLONE_NEWPID if wall.mounts else namespaces


def _listener_flags() -> int:
    """A notifier; and, where the kernel has it, calls that wait for one are interrupted by deadly signals only."""
    patient = seccomp.NEW_LISTENER | seccomp.WAIT_KILLABLE_RECV
    return seccomp.NEW_LISTENER if seccomp.refused(patient) else patient


def _rights(piece: Piece, own_sockets: bool) -> int:
    """Return the Landlock rights that READ and WRITE mean for this kind of file."""
    path, kind, access = piece
    if kind == EXPANDED:
        return landlock.FS_READ_DIR if access & READ else 0
    rights = 0
    if access & READ:
        rights |= _DIRECTORY_READ
    if access & WRITE:
        rights |= DIRECTORY_WRITE
        if own_sockets:
            rights |= landlock.FS_MAKE_SOCK
        if kind == DEVICE or path.startswith("/dev/") or path == "/dev":
            rights |= landlock.FS_IOCTL_DEV
    if kind == DEVICE:
        rights &= ~landlock.FS_EXECUTE
    return rights if kind == DIRECTORY else rights & landlock.FILE_RIGHTS
