"""The filter: what the table says is what the program does, for every call and argument."""

from __future__ import annotations

import hashlib
import struct
from itertools import product
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nono.errors import KernelError
from nono.policy.capabilities import NETWORK_BLOCKED, NETWORK_OPEN, NETWORK_PROXY
from nono.sandbox import bpf
from nono.sandbox.syscalls import AUDIT_ARCH, NUMBERS, number

ARCHS = sorted(AUDIT_ARCH)
NETWORKS = [NETWORK_PROXY, NETWORK_BLOCKED, NETWORK_OPEN]


class Variant(NamedTuple):
    arch: str
    network: str
    allow_ipc: bool = True
    landlock_truncate: bool = True
    notify: bool = False
    unix_sockets: bool = False
    own_sockets: bool = False

    def build(self) -> bytes:
        return bpf.build(**self._asdict())

    def rules(self) -> tuple[bpf.Rule, ...]:
        return bpf.rules(**{name: value for name, value in self._asdict().items() if name != "arch"})


STATIC = [
    Variant(arch, network, allow_ipc, landlock_truncate)
    for arch in ARCHS
    for network in NETWORKS
    for allow_ipc in (True, False)
    for landlock_truncate in (True, False)
]
MEDIATED = [
    Variant(arch, network, not notify, True, notify, unix_sockets, own_sockets)
    for arch in ARCHS
    for network in NETWORKS
    for notify, unix_sockets, own_sockets in product((True, False), repeat=3)
    if notify or unix_sockets or own_sockets
]
VARIANTS = STATIC + MEDIATED
PROGRAMS = {variant: variant.build() for variant in VARIANTS}


def verdict_of_the_table(variant: Variant, nr: int, args: list[int]) -> int:
    """Judge by the rules alone, knowing nothing of BPF."""
    arch = variant.arch
    if nr >= bpf.FIRST_UNKNOWN:
        return bpf.ENOSYS
    words = [half for arg in args for half in (arg & 0xFFFFFFFF, arg >> 32)]
    for rule in variant.rules():
        if nr in [number(name, arch) for name in rule.syscalls] and all(
            ((words[test.word] & test.mask) in test.values) == test.among for test in rule.tests
        ):
            return rule.verdict
    return bpf.ALLOW


def interesting_words() -> st.SearchStrategy[int]:
    """Values that some test compares with, bits that some test masks, and anything."""
    known = {0, 1, 2, 10, 16, 0xFFFFFFFF}
    for network in NETWORKS:
        for rule in Variant("", network, False, False, True, True, True).rules():
            for test in rule.tests:
                known.update(test.values)
                known.add(test.mask)
    return st.one_of(st.sampled_from(sorted(known)), st.integers(0, 0xFFFFFFFF))


ARGUMENTS = st.lists(
    st.builds(lambda low, high: low | high << 32, interesting_words(), st.sampled_from([0, 0, 0, 1, 0x80000000])),
    min_size=6,
    max_size=6,
)
KNOWN_NUMBERS = sorted({n for pair in NUMBERS.values() for n in pair if n is not None})
ANY_NUMBER = st.one_of(
    st.sampled_from(KNOWN_NUMBERS), st.integers(0, 600), st.integers(0x40000000, 0x40000300), st.integers(0, 2**32 - 1)
)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(VARIANTS), ANY_NUMBER, ARGUMENTS)
def test_does_what_the_table_says(variant: Variant, nr: int, args: list[int]) -> None:
    assert bpf.simulate(PROGRAMS[variant], AUDIT_ARCH[variant[0]], nr, args) == verdict_of_the_table(variant, nr, args)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_listed_call_gets_its_verdict(variant: Variant) -> None:
    for nr in KNOWN_NUMBERS:
        args = [0] * 6
        expected = verdict_of_the_table(variant, nr, args)
        assert bpf.simulate(PROGRAMS[variant], AUDIT_ARCH[variant[0]], nr, args) == expected


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_is_a_program_that_the_kernel_takes(variant: Variant) -> None:
    instructions = list(struct.iter_unpack("=HBBI", PROGRAMS[variant]))
    assert len(instructions) <= bpf.MAX_INSTRUCTIONS
    for index, (code, if_true, if_false, _) in enumerate(instructions):
        if code & 7 == 5:  # BPF_JMP
            assert index + 1 + max(if_true, if_false) < len(instructions)
        else:
            assert (if_true, if_false) == (0, 0)
    assert instructions[-1][0] == 6  # BPF_RET | BPF_K


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), ANY_NUMBER)
def test_kills_any_other_architecture(arch: int, nr: int) -> None:
    for variant in VARIANTS:
        if arch != AUDIT_ARCH[variant[0]]:
            assert bpf.simulate(PROGRAMS[variant], arch, nr, []) == bpf.KILL_PROCESS


def verdict(name: str, *args: int, network: str = NETWORK_PROXY, allow_ipc: bool = True, arch: str = "x86_64") -> int:
    nr = number(name, arch)
    assert nr is not None
    return bpf.simulate(PROGRAMS[Variant(arch, network, allow_ipc)], AUDIT_ARCH[arch], nr, args)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("socket", 2, 1, 0), bpf.ALLOW),
        (("socket", 10, 1 | 0o4000 | 0o2000000, 6), bpf.ALLOW),
        (("socket", 2, 1, 262), bpf.EPROTONOSUPPORT),
        (("socket", 2, 2, 0), bpf.EACCES),
        (("socket", 2, 3, 1), bpf.EACCES),
        (("socket", 1, 1, 0), bpf.EAFNOSUPPORT),
        (("socket", 1 | 1 << 32, 1, 0), bpf.EAFNOSUPPORT),
        (("socket", 1, 2, 0), bpf.EPROTONOSUPPORT),
        (("socket", 40, 1, 0), bpf.EAFNOSUPPORT),
        (("socket", 16, 3, 0), bpf.ALLOW),
        (("socket", 16, 3, 4), bpf.EPROTONOSUPPORT),
        (("socketpair", 1, 1, 0), bpf.ALLOW),
        (("socketpair", 1, 5 | 0o2000000, 0), bpf.ALLOW),
        (("socketpair", 1, 2, 0), bpf.EPROTONOSUPPORT),
        (("socketpair", 1, 3, 0), bpf.EPROTONOSUPPORT),
        (("sendto", 3, 0, 0, 0x20000000), bpf.EOPNOTSUPP),
        (("sendto", 3, 0, 0, 0x4000), bpf.ALLOW),
        (("sendmsg", 3, 0, 0x20000000), bpf.EOPNOTSUPP),
        (("sendmmsg", 3, 0, 1, 0x20004000), bpf.EOPNOTSUPP),
        (("ioctl", 0, 0x5412), bpf.EPERM),
        (("ioctl", 0, 0x5412 | 1 << 32), bpf.EPERM),
        (("ioctl", 0, 0x541C), bpf.EPERM),
        (("ioctl", 0, 0x5401), bpf.ALLOW),
        (("prlimit64", 0, 7, 0x1000), bpf.ALLOW),
        (("prlimit64", 99, 7, 0), bpf.ALLOW),
        (("prlimit64", 99, 7, 0x1000), bpf.EPERM),
        (("prlimit64", 99, 7, 1 << 32), bpf.EPERM),
        (("clone", 0x00010F00), bpf.ALLOW),
        (("clone", 17), bpf.ALLOW),
        (("clone", 0x10000000 | 17), bpf.EPERM),
        (("unshare", 0x400), bpf.ALLOW),
        (("unshare", 0x80), bpf.EPERM),
        (("clone3", 0, 0), bpf.ENOSYS),
        (("io_uring_setup", 8, 0), bpf.ENOSYS),
        (("sched_setscheduler", 0, 5), bpf.ALLOW),
        (("sched_setscheduler", 1, 5), bpf.EPERM),
        (("sched_setscheduler", (1 << 32) + 1, 5), bpf.EPERM),
        (("sched_setattr", 1), bpf.EPERM),
        (("sched_setparam", 1), bpf.EPERM),
        (("sched_setaffinity", 99), bpf.ALLOW),
        (("sched_setaffinity", 1), bpf.EPERM),
        (("setpriority", 0, 0, 19), bpf.ALLOW),
        (("setpriority", 0, 99, 19), bpf.ALLOW),
        (("setpriority", 0, 1, 19), bpf.EPERM),
        (("setpriority", 1, 0, 19), bpf.EPERM),
        (("setpriority", 2, 0, 19), bpf.EPERM),
        (("ioprio_set", 1, 0), bpf.ALLOW),
        (("ioprio_set", 1, 1), bpf.EPERM),
        (("ioprio_set", 3, 0), bpf.EPERM),
        (("personality", 0xFFFFFFFF), bpf.ALLOW),
        (("personality", 0x400000), bpf.EPERM),
        (("openat", 0, 0, 0o101, 0o644), bpf.ALLOW),
        (("openat", 0, 0, 0o101, 0o4755), bpf.EPERM),
        (("openat", 0, 0, 0, 0o4755), bpf.ALLOW),  # without O_CREAT the mode is whatever was in the register
        (("openat", 0, 0, 0o1000, 0), bpf.ALLOW),
        (("fchmodat", 0, 0, 0o4755), bpf.EPERM),
        (("fchmodat", 0, 0, 0o2755), bpf.ALLOW),
        (("keyctl",), bpf.EPERM),
        (("ptrace",), bpf.EPERM),
        (("shmget",), bpf.ALLOW),
    ],
    ids=str,
)
def test_names_each_case_of_the_facts(call: tuple[object, ...], expected: int, arch: str) -> None:
    name, *args = call
    assert verdict(str(name), *[int(str(arg)) for arg in args], arch=arch) == expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ((2, 2, 0), bpf.ALLOW),
        ((10, 2, 58), bpf.ALLOW),
        ((2, 1, 262), bpf.ALLOW),
        ((2, 2, 136), bpf.EPROTONOSUPPORT),
        ((2, 1, 132), bpf.EPROTONOSUPPORT),
        ((2, 3, 1), bpf.EACCES),
        ((1, 1, 0), bpf.EAFNOSUPPORT),
        ((16, 3, 9), bpf.EPROTONOSUPPORT),
        ((40, 1, 0), bpf.EAFNOSUPPORT),
    ],
)
def test_open_network_lets_through_what_programs_use(call: tuple[int, int, int], expected: int) -> None:
    assert verdict("socket", *call, network=NETWORK_OPEN) == expected
    assert verdict("sendto", 3, 0, 0, 0x20000000, network=NETWORK_OPEN) == bpf.ALLOW


@pytest.mark.parametrize("arch", ARCHS)
def test_a_call_that_nobody_has_judged_does_not_exist(arch: str) -> None:
    for program in (PROGRAMS[Variant(arch, network)] for network in NETWORKS):
        for nr in (470, 600, 0x40000000, 0x40000000 | 41, 0xFFFFFFFF):
            assert bpf.simulate(program, AUDIT_ARCH[arch], nr, []) == bpf.ENOSYS
        assert bpf.simulate(program, AUDIT_ARCH[arch], 469, []) == bpf.ALLOW


def test_stops_host_wide_ipc_without_a_namespace() -> None:
    assert {verdict(name, allow_ipc=False) for name in ("shmget", "msgsnd", "semop", "mq_open")} == {bpf.EPERM}


def mediated(name: str, *args: int, network: str = NETWORK_PROXY, arch: str = "x86_64", **flags: bool) -> int:
    """flags: notify, unix_sockets, own_sockets."""
    nr = number(name, arch)
    assert nr is not None
    program = bpf.build(arch=arch, network=network, allow_ipc=not flags.get("notify"), **flags)
    return bpf.simulate(program, AUDIT_ARCH[arch], nr, args)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("network", [NETWORK_PROXY, NETWORK_BLOCKED])
def test_without_a_network_of_its_own_every_address_is_judged(arch: str, network: str) -> None:
    for call in ("connect", "bind", "listen"):
        assert mediated(call, 3, 0x1000, 16, network=network, arch=arch, notify=True) == bpf.USER_NOTIF


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(
    ("level", "option", "expected"),
    [
        (1, 25, bpf.EPERM),  # SO_BINDTODEVICE
        (1 | 1 << 32, 25 | 7 << 32, bpf.EPERM),
        (1, 62, bpf.EPERM),  # SO_BINDTOIFINDEX
        (0, 4, bpf.EPERM),  # IP_OPTIONS: a loose source route
        (6, 30, bpf.EOPNOTSUPP),  # TCP_FASTOPEN_CONNECT
        (1, 2, bpf.ALLOW),  # SO_REUSEADDR
        (6, 1, bpf.ALLOW),  # TCP_NODELAY
        (6, 25, bpf.ALLOW),
    ],
)
def test_nothing_leads_a_judged_connect_elsewhere(level: int, option: int, expected: int, arch: str) -> None:
    assert mediated("setsockopt", 3, level, option, 0x1000, 4, arch=arch, notify=True) == expected
    assert mediated("setsockopt", 3, level, option, 0x1000, 4, arch=arch, unix_sockets=True) == bpf.ALLOW


@pytest.mark.parametrize(
    "flags", [{"unix_sockets": True}, {"own_sockets": True}, {"notify": True, "own_sockets": True}]
)
def test_unix_streams_can_be_made_where_they_are_granted(flags: dict[str, bool]) -> None:
    for kind in (1, 5, 1 | 0o2000000, 5 | 0o4000):
        assert mediated("socket", 1, kind, 0, **flags) == bpf.ALLOW
    for kind in (2, 3, 2 | 0o4000):  # these send to any path without a connect
        assert mediated("socket", 1, kind, 0, **flags) == bpf.EPROTONOSUPPORT
        assert mediated("socketpair", 1, kind, 0, **flags) == bpf.EPROTONOSUPPORT
    assert mediated("connect", 3, 0x1000, 110, **flags) == bpf.USER_NOTIF
    assert mediated("socket", 40, 1, 0, **flags) == bpf.EAFNOSUPPORT
    assert mediated("socket", 2, 2, 0, **flags) == bpf.EACCES


def test_unix_streams_cannot_be_made_where_they_are_not_granted() -> None:
    assert mediated("socket", 1, 1, 0, notify=True) == bpf.EAFNOSUPPORT


def test_a_network_of_its_own_makes_only_connect_wait() -> None:
    for call in ("bind", "listen"):
        assert mediated(call, 3, unix_sockets=True, own_sockets=True) == bpf.ALLOW
    assert bpf.judged(network=NETWORK_PROXY) == ()
    assert bpf.judged(network=NETWORK_PROXY, own_sockets=True) == ("connect",)


def test_nobody_else_becomes_the_judge() -> None:
    for flags in ({"notify": True}, {"unix_sockets": True}, {"own_sockets": True, "network": NETWORK_OPEN}):
        assert mediated("seccomp", 1, 8, 0x1000, **flags) == bpf.EBUSY
        assert mediated("seccomp", 1 | 1 << 32, 1 | 8 | 32, 0x1000, **flags) == bpf.EBUSY
        assert mediated("seccomp", 1, 1, 0x1000, **flags) == bpf.ALLOW  # a filter as browsers have it
    assert verdict("seccomp", 1, 8, 0x1000) == bpf.ALLOW


def test_an_open_network_has_abstract_names_of_the_host() -> None:
    assert mediated("listen", 3, network=NETWORK_OPEN, unix_sockets=True) == bpf.USER_NOTIF
    assert mediated("connect", 3, network=NETWORK_OPEN, unix_sockets=True) == bpf.USER_NOTIF
    assert mediated("bind", 3, network=NETWORK_OPEN, unix_sockets=True) == bpf.ALLOW
    assert mediated("connect", 3, network=NETWORK_OPEN, notify=True) == bpf.ALLOW
    assert bpf.judged(network=NETWORK_OPEN, notify=True) == ()


def test_the_filter_without_any_of_this_is_what_it_was() -> None:
    """The digest is renewed with the rules of all runs only: what most runs get is not touched by accident."""
    together = hashlib.sha256()
    for arch in ("x86_64", "aarch64"):
        for network in ("open", "proxy", "blocked"):
            for allow_ipc, landlock_truncate in product((False, True), repeat=2):
                together.update(PROGRAMS[Variant(arch, network, allow_ipc, landlock_truncate)])
    assert together.hexdigest() == "966d4c081ff725bf00e4eb477ac7476e126154f1bb6265ff3db02f7aeb57f793"


def test_truncation_is_stopped_where_landlock_does_not_know_it() -> None:
    program = PROGRAMS[Variant("x86_64", NETWORK_PROXY, True, False)]
    arch = AUDIT_ARCH["x86_64"]
    assert bpf.simulate(program, arch, 76, [0, 0]) == bpf.EACCES
    assert bpf.simulate(program, arch, 257, [0, 0, 0o1000]) == bpf.EACCES
    assert bpf.simulate(program, arch, 257, [0, 0, 0o1003]) == bpf.EACCES
    assert bpf.simulate(program, arch, 257, [0, 0, 0o1001]) == bpf.ALLOW
    assert bpf.simulate(program, arch, 257, [0, 0, 0o1101, 0o4755]) == bpf.EPERM


def test_refuses_an_architecture_without_a_table() -> None:
    with pytest.raises(KernelError, match="no system-call filter for riscv64"):
        bpf.build(arch="riscv64", network=NETWORK_PROXY, allow_ipc=True)


def test_the_simulator_refuses_what_the_kernel_would() -> None:
    with pytest.raises(ValueError, match="without a verdict"):
        bpf.simulate(struct.pack("=HBBI", 0x20, 0, 0, 0), 0, 0, [])
    with pytest.raises(ValueError, match="unknown code"):
        bpf.simulate(struct.pack("=HBBI", 0x99, 0, 0, 0), 0, 0, [])


def test_the_assembler_refuses_a_jump_that_is_too_far() -> None:
    far = [bpf.Rule(("ioctl",), bpf.EPERM, (bpf.Test(2, 0xFFFFFFFF, tuple(range(300))),))]
    with pytest.raises(struct.error):
        bpf.assemble(far, "x86_64")
