"""The plan: what the kernel is asked to enforce, as plain data. Everything that can be decided is decided here.

Pure. `make_plan` takes the pieces of the disk (expansion.py) and what this kernel is, and returns namespaces, Landlock
rules and the seccomp program; `filesystem.open_ruleset` and `kernel.spawn` carry it out without deciding anything.

The wall, from the outside in: a user namespace that maps one user, an IPC namespace and, unless the network is open, a
network namespace whose only device is its own loopback; no capability; Landlock, which handles every right that the
kernel knows, so that whatever no rule grants is denied; the seccomp filter of bpf.py.

Rights that no grant ever gives: MAKE_CHAR, MAKE_BLOCK (a device node is a way around every path) and MAKE_SOCK (no
AF_UNIX socket can be made to bind). IOCTL_DEV is given for devices only.
"""

from __future__ import annotations

from errno import EOPNOTSUPP

from nono.errors import KernelError
from nono.kernel import landlock
from nono.kernel.spawn import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWUSER
from nono.policy.capabilities import NETWORK_OPEN, NETWORK_PROXY, READ, WRITE, PathGrant
from nono.record import Record
from nono.sandbox import bpf
from nono.sandbox.expansion import DEVICE, DIRECTORY, EXPANDED, Expansion, Piece

_TRUNCATE_ABI = 3  # Linux 6.2
_SCOPE_ABI = 6  # Linux 6.12

_DIRECTORY_READ = landlock.FS_EXECUTE | landlock.FS_READ_FILE | landlock.FS_READ_DIR
_DIRECTORY_WRITE = (
    landlock.FS_WRITE_FILE
    | landlock.FS_TRUNCATE
    | landlock.FS_REMOVE_DIR
    | landlock.FS_REMOVE_FILE
    | landlock.FS_MAKE_DIR
    | landlock.FS_MAKE_REG
    | landlock.FS_MAKE_FIFO
    | landlock.FS_MAKE_SYM
    | landlock.FS_REFER
)


class Rule(Record):
    """Landlock rights (FS_* bits) on a real path and, if it is a directory, on all below it."""

    path: str
    access: int


class Plan(Record):
    """What is enforced. namespaces: CLONE_NEW* bits. proxied: the child gets a proxy listener. wall: for the summary.

    grants: those that took effect. notes: sentences that the user should see before the child starts.
    """

    namespaces: int
    proxied: bool
    handled_fs: int
    scoped: int
    rules: tuple[Rule, ...]
    seccomp_filter: bytes
    wall: str
    grants: tuple[PathGrant, ...]
    notes: tuple[str, ...]


def make_plan(expansion: Expansion, abi: int, arch: str) -> Plan:
    """Return the plan for a kernel with Landlock ABI `abi` on `arch` (as os.uname() names it).

    Raises KernelError when the kernel has no Landlock or nono has no filter for the architecture.
    """
    if abi < 1:
        raise KernelError(
            "landlock_create_ruleset",
            EOPNOTSUPP,
            "This kernel does not offer Landlock, without which files are not confined: it needs Linux 5.13 or newer "
            "with landlock in the lsm= list (cat /sys/kernel/security/lsm).",
        )
    handled = landlock.fs_mask(abi)
    scoped = landlock.SCOPE_ABSTRACT_UNIX_SOCKET | landlock.SCOPE_SIGNAL if abi >= _SCOPE_ABI else 0
    notes = expansion.notes
    if not scoped:
        notes += (f"Landlock {abi} does not confine signals (Linux 6.12 does): the agent can end your other programs",)
    namespaces = CLONE_NEWUSER | CLONE_NEWIPC
    if expansion.network != NETWORK_OPEN:
        namespaces |= CLONE_NEWNET
    rules = (Rule(piece.path, _rights(piece) & handled) for piece in expansion.pieces)
    return Plan(
        namespaces=namespaces,
        proxied=expansion.network == NETWORK_PROXY,
        handled_fs=handled,
        scoped=scoped,
        rules=tuple(rule for rule in rules if rule.access),
        seccomp_filter=bpf.build(
            arch=arch,
            network=expansion.network,
            allow_ipc=bool(namespaces & CLONE_NEWIPC),
            landlock_truncate=abi >= _TRUNCATE_ABI,
        ),
        wall=f"namespaces, Landlock {abi}, seccomp",
        grants=expansion.grants,
        notes=notes,
    )


def _rights(piece: Piece) -> int:
    """Return the Landlock rights that READ and WRITE mean for this kind of file."""
    if piece.kind == EXPANDED:
        return landlock.FS_READ_DIR if piece.access & READ else 0
    rights = 0
    if piece.access & READ:
        rights |= _DIRECTORY_READ
    if piece.access & WRITE:
        rights |= _DIRECTORY_WRITE
        if piece.kind == DEVICE or f"{piece.path}/".startswith("/dev/"):
            rights |= landlock.FS_IOCTL_DEV
    if piece.kind == DEVICE:
        rights &= ~landlock.FS_EXECUTE
    return rights if piece.kind == DIRECTORY else rights & landlock.FILE_RIGHTS
