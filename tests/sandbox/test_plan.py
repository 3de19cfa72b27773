"""What the kernel is asked for."""

from __future__ import annotations

import pytest

from nono.errors import KernelError
from nono.kernel import landlock
from nono.kernel.spawn import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWUSER
from nono.policy.capabilities import NETWORK_BLOCKED, NETWORK_OPEN, NETWORK_PROXY, READ, WRITE
from nono.sandbox import bpf
from nono.sandbox.expansion import DEVICE, DIRECTORY, EXPANDED, FILE, Expansion, Piece
from nono.sandbox.plan import Plan, make_plan

ALL = READ | WRITE


def plan(*pieces: Piece, network: str = NETWORK_PROXY, abi: int = 7, arch: str = "x86_64") -> Plan:
    return make_plan(Expansion(pieces, (), (), network), abi, arch)


def rights(path: str, kind: str, access: int, abi: int = 7) -> int:
    rules = plan(Piece(path, kind, access), abi=abi).rules
    return rules[0].access if rules else 0


@pytest.mark.parametrize(
    ("network", "namespaces", "proxied"),
    [
        (NETWORK_PROXY, CLONE_NEWUSER | CLONE_NEWIPC | CLONE_NEWNET, True),
        (NETWORK_BLOCKED, CLONE_NEWUSER | CLONE_NEWIPC | CLONE_NEWNET, False),
        (NETWORK_OPEN, CLONE_NEWUSER | CLONE_NEWIPC, False),
    ],
)
def test_network_decides_the_namespaces_and_the_filter(network: str, namespaces: int, proxied: bool) -> None:
    made = plan(network=network)
    assert (made.namespaces, made.proxied) == (namespaces, proxied)
    assert made.seccomp_filter == bpf.build(arch="x86_64", network=network, allow_ipc=True)


@pytest.mark.parametrize("abi", range(1, 9))
def test_handles_every_right_of_the_running_kernel(abi: int) -> None:
    made = plan(Piece("/d", DIRECTORY, ALL), Piece("/dev/x", DEVICE, ALL), abi=abi)
    assert made.handled_fs == landlock.fs_mask(abi)
    assert all(rule.access & ~made.handled_fs == 0 for rule in made.rules)
    assert made.text == f"namespaces, Landlock {abi}, seccomp"


def test_signals_are_confined_where_the_kernel_can() -> None:
    assert plan(abi=6).scoped == landlock.SCOPE_ABSTRACT_UNIX_SOCKET | landlock.SCOPE_SIGNAL
    assert plan(abi=6).notes == ()
    assert plan(abi=5).scoped == 0
    assert "does not confine signals" in plan(abi=5).notes[0]


def test_an_old_landlock_leaves_truncation_to_the_filter() -> None:
    assert plan(abi=2).seccomp_filter != plan(abi=3).seccomp_filter


def test_refuses_a_kernel_without_landlock() -> None:
    with pytest.raises(KernelError, match=r"does not offer Landlock.*Linux 5\.13"):
        plan(abi=0)


def test_never_grants_devices_or_sockets() -> None:
    never = landlock.FS_MAKE_CHAR | landlock.FS_MAKE_BLOCK | landlock.FS_MAKE_SOCK
    assert rights("/d", DIRECTORY, ALL) & never == 0
    assert rights("/d", DIRECTORY, ALL) & landlock.FS_IOCTL_DEV == 0


def test_reading_is_no_writing() -> None:
    read = landlock.FS_EXECUTE | landlock.FS_READ_FILE | landlock.FS_READ_DIR
    assert rights("/d", DIRECTORY, READ) == read
    assert rights("/d", DIRECTORY, WRITE) & read == 0
    assert rights("/d", DIRECTORY, ALL) == read | rights("/d", DIRECTORY, WRITE)


def test_a_file_gets_rights_of_files_only() -> None:
    assert rights("/f", FILE, ALL) & ~landlock.FILE_RIGHTS == 0
    assert rights("/f", FILE, READ) == landlock.FS_EXECUTE | landlock.FS_READ_FILE
    assert rights("/f", FILE, WRITE) == landlock.FS_WRITE_FILE | landlock.FS_TRUNCATE


def test_a_device_can_be_asked_but_not_executed() -> None:
    assert rights("/dev/tty", DEVICE, ALL) & landlock.FS_IOCTL_DEV
    assert rights("/dev/tty", DEVICE, ALL) & landlock.FS_EXECUTE == 0
    assert rights("/dev/urandom", DEVICE, READ) == landlock.FS_READ_FILE
    assert rights("/dev/dri", DIRECTORY, ALL) & landlock.FS_IOCTL_DEV
    assert rights("/developer", DIRECTORY, ALL) & landlock.FS_IOCTL_DEV == 0


def test_an_expanded_directory_can_be_listed_and_nothing_more() -> None:
    assert rights("/home/u", EXPANDED, READ) == landlock.FS_READ_DIR
    assert rights("/home/u", EXPANDED, WRITE) == 0


def test_a_wall_without_mounts_is_not_planned_for_what_only_mounts_protect() -> None:
    with pytest.raises(ValueError):
        make_plan(Expansion((), (), (), NETWORK_PROXY, pinned=("/home/u/CLAUDE.md",)), 7, "x86_64")
