"""The filter: what the table says is what the program does, for every call and argument."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nono.errors import KernelError
from nono.policy.capabilities import NETWORK_BLOCKED, NETWORK_OPEN, NETWORK_PROXY
from nono.sandbox import bpf
from nono.sandbox.syscalls import AUDIT_ARCH, NUMBERS, number

ARCHS = sorted(AUDIT_ARCH)
NETWORKS = [NETWORK_PROXY, NETWORK_BLOCKED, NETWORK_OPEN]
VARIANTS = [
    (arch, network, allow_ipc, landlock_truncate)
    for arch in ARCHS
    for network in NETWORKS
    for allow_ipc in (True, False)
    for landlock_truncate in (True, False)
]
PROGRAMS = {
    variant: bpf.build(arch=variant[0], network=variant[1], allow_ipc=variant[2], landlock_truncate=variant[3])
    for variant in VARIANTS
}


def verdict_of_the_table(variant: tuple[str, str, bool, bool], nr: int, args: list[int]) -> int:
    """Judge by the rules alone, knowing nothing of BPF."""
    arch, network, allow_ipc, landlock_truncate = variant
    if nr >= bpf.FIRST_UNKNOWN:
        return bpf.ENOSYS
    words = [half for arg in args for half in (arg & 0xFFFFFFFF, arg >> 32)]
    for rule in bpf.rules(network=network, allow_ipc=allow_ipc, landlock_truncate=landlock_truncate):
        if nr in [number(name, arch) for name in rule.syscalls] and all(
            ((words[test.word] & test.mask) in test.values) == test.among for test in rule.tests
        ):
            return rule.verdict
    return bpf.ALLOW


def interesting_words() -> st.SearchStrategy[int]:
    """Values that some test compares with, bits that some test masks, and anything."""
    known = {0, 1, 2, 10, 16, 0xFFFFFFFF}
    for network in NETWORKS:
        for rule in bpf.rules(network=network, allow_ipc=False, landlock_truncate=False):
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
def test_does_what_the_table_says(variant: tuple[str, str, bool, bool], nr: int, args: list[int]) -> None:
    assert bpf.simulate(PROGRAMS[variant], AUDIT_ARCH[variant[0]], nr, args) == verdict_of_the_table(variant, nr, args)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_listed_call_gets_its_verdict(variant: tuple[str, str, bool, bool]) -> None:
    for nr in KNOWN_NUMBERS:
        args = [0] * 6
        expected = verdict_of_the_table(variant, nr, args)
        assert bpf.simulate(PROGRAMS[variant], AUDIT_ARCH[variant[0]], nr, args) == expected


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_is_a_program_that_the_kernel_takes(variant: tuple[str, str, bool, bool]) -> None:
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
    return bpf.simulate(PROGRAMS[arch, network, allow_ipc, True], AUDIT_ARCH[arch], nr, args)


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
    for program in (PROGRAMS[arch, network, True, True] for network in NETWORKS):
        for nr in (470, 600, 0x40000000, 0x40000000 | 41, 0xFFFFFFFF):
            assert bpf.simulate(program, AUDIT_ARCH[arch], nr, []) == bpf.ENOSYS
        assert bpf.simulate(program, AUDIT_ARCH[arch], 469, []) == bpf.ALLOW


def test_stops_host_wide_ipc_without_a_namespace() -> None:
    assert {verdict(name, allow_ipc=False) for name in ("shmget", "msgsnd", "semop", "mq_open")} == {bpf.EPERM}


def test_truncation_is_stopped_where_landlock_does_not_know_it() -> None:
    program = PROGRAMS["x86_64", NETWORK_PROXY, True, False]
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
