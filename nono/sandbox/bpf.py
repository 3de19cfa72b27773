"""The static seccomp filter: a table of rules, the assembler that makes a BPF program of it, and a simulator.

Theory of operation. `rules()` says which system calls are stopped and how, as data: the first rule of a call whose
tests all hold gives the verdict, and a call without such a rule is allowed. `build()` turns the table into classic
BPF, in this order:

    another architecture (int $0x80 on x86-64)  -> the process is killed
    a call newer than this table, and x32       -> ENOSYS
    one block per call whose arguments matter, the frequent ones first; each block ends in a RET
    one chain of comparisons per verdict for the calls that are stopped whatever their arguments are
    everything else                             -> allowed

The kernel runs the program once per call number when it is loaded and remembers which numbers it allows without
looking at arguments, so the length of the chains costs an ordinary call nothing (seccomp_cache_prepare, Linux 5.11).

What it is for. The network namespace leaves the child one loopback device; this filter takes away the sockets that are
no part of that namespace (AF_UNIX by path: D-Bus, ssh-agent, docker.sock; vsock), the calls that Landlock does not see
(io_uring, keyrings, TIOCSTI, prlimit on others, set-user-id bits) and kernel surface that no agent needs. What Docker's
and Flatpak's default filters stop is stopped here as well. It never looks behind a pointer: nothing here can be raced.
A list of what is stopped is open to what is new, so calls that nobody has read for this table do not exist: programs
take ENOSYS for an older kernel.

What it leaves to the supervisor (USER_NOTIF: the call waits for supervisor/mediator.py, which performs it itself).
Without a network namespace (`notify`) that is every connect, bind and listen; what could turn a permitted connect
elsewhere is denied: another device (SO_BINDTODEVICE), a source route (IP_OPTIONS, which would send the SYN to any host
of the world where it needs no privilege) and a connect that happens later (TCP_FASTOPEN_CONNECT). With AF_UNIX sockets
(`unix_sockets`, `own_sockets`) it is every connect, behind a network namespace too, because the filter cannot see a
socket's family. Making one by bind(2) is left to Landlock's MAKE_SOCK where a path is meant; abstract names are the
network namespace's own, and without one (the network is open) listen is judged too, which alone makes a name answer.

What is only recorded (`recorded`, for `nono learn`; sandbox/recorded.py): the calls that name a path wait, too, and go
on after the supervisor has looked. That decides nothing: whatever another rule stops is stopped before.

Arguments are compared as the kernel reads them: an int argument by its low 32 bits only, because a comparison of all 64
bits is evaded by setting one that the kernel ignores.

Sources: seccomp(2), bpf(4), <linux/filter.h>, <linux/seccomp.h>.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Sequence

from nono.errors import KernelError
from nono.policy.capabilities import NETWORK_OPEN
from nono.record import Record
from nono.sandbox.syscalls import AUDIT_ARCH, number

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

# Verdicts: SECCOMP_RET_*; an errno stands in the low 16 bits.
ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
USER_NOTIF = 0x7FC00000
_RET_ERRNO = 0x00050000
EPERM = _RET_ERRNO | errno.EPERM
EACCES = _RET_ERRNO | errno.EACCES
EBUSY = _RET_ERRNO | errno.EBUSY
ENOSYS = _RET_ERRNO | errno.ENOSYS
EAFNOSUPPORT = _RET_ERRNO | errno.EAFNOSUPPORT
EPROTONOSUPPORT = _RET_ERRNO | errno.EPROTONOSUPPORT
EOPNOTSUPP = _RET_ERRNO | errno.EOPNOTSUPP

# Every call below has been judged (Linux 6.18: the last is file_setattr, 469); the numbers of x32 are above it too.
FIRST_UNKNOWN = 470

# <linux/sched.h>: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. In clone(2) the low byte is the exit
# signal, so NEWTIME (0x80) exists for unshare(2) only.
_CLONE_NEW = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_CLONE_NEWTIME = 0x80
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_SEQPACKET = 1, 2, 5
_SOCK_TYPE_MASK = 0xF  # the rest is SOCK_NONBLOCK and SOCK_CLOEXEC
_IPPROTO_TCP, _IPPROTO_UDP, _IPPROTO_ICMP, _IPPROTO_ICMPV6, _IPPROTO_MPTCP = 6, 17, 1, 58, 262
_SOL_SOCKET, _SOL_IP, _SOL_TCP = 1, 0, 6
_SO_BINDTODEVICE, _SO_BINDTOIFINDEX, _IP_OPTIONS, _TCP_FASTOPEN_CONNECT = 25, 62, 4, 30
_NETLINK_ROUTE = 0
_MSG_FASTOPEN = 0x20000000
_TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x5412, 0x541C, 0x5423
_S_ISUID = 0o4000
_INIT, _PRIO_PROCESS, _IOPRIO_WHO_PROCESS = 1, 0, 1
_O_ACCMODE, _O_CREAT, _O_TRUNC, _O_TMPFILE_BIT = 3, 0o100, 0o1000, 0o20000000
_ALL = 0xFFFFFFFF


class Test(Record):
    """`(word & mask) in values`, or its opposite where `among` is False.

    word: index of a 32-bit half of an argument, as `low(n)` and `high(n)` give it.
    """

    word: int
    mask: int
    values: tuple[int, ...]
    among: bool = True


class Rule(Record):
    """`verdict` for these system calls when all tests hold; without tests, always."""

    syscalls: tuple[str, ...]
    verdict: int
    tests: tuple[Test, ...] = ()


class Recorded(Record):
    """Calls that are recorded, but for the execve whose path is at the address `first_exec`: the child's own start."""

    calls: tuple[str, ...]
    first_exec: int


def low(argument: int) -> int:
    """The word index of the low half of argument 0-5."""
    return 2 * argument


def high(argument: int) -> int:
    """The word index of the high half of argument 0-5."""
    return 2 * argument + 1


def _is(argument: int, *values: int, mask: int = _ALL) -> Test:
    return Test(low(argument), mask, values)


def _is_not(argument: int, *values: int, mask: int = _ALL) -> Test:
    return Test(low(argument), mask, values, among=False)


def _has(argument: int, bits: int) -> Test:
    return Test(low(argument), bits, (0,), among=False)


# Another process's memory, descriptors and threads; the kernel's keyrings; namespaces and mounts; modules, clocks, swap
# and the rest of what needs a privilege that the child has not, or that has only been a source of kernel bugs.
_ALWAYS_EPERM = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "pidfd_getfd", "kcmp"),
    *("keyctl", "add_key", "request_key", "bpf", "userfaultfd", "perf_event_open", "fanotify_init"),
    *("mount", "umount2", "pivot_root", "chroot", "open_tree", "open_tree_attr", "move_mount", "fsopen", "fsconfig"),
    *("fsmount", "fspick", "mount_setattr", "setns", "open_by_handle_at", "quotactl", "quotactl_fd", "acct"),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "create_module", "query_module"),
    *("get_kernel_syms", "swapon", "swapoff", "reboot", "iopl", "ioperm", "modify_ldt", "vhangup", "syslog"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname"),
    *("move_pages", "migrate_pages", "mbind", "set_mempolicy", "get_mempolicy", "set_mempolicy_home_node"),
    *("lookup_dcookie", "uselib", "ustat", "sysfs", "_sysctl", "nfsservctl"),
)

# Programs fall back from these as on an older kernel. clone3 and openat2 keep their arguments behind a pointer, where
# no filter can judge them; clone and openat do the same work in sight.
_ALWAYS_ENOSYS = ("clone3", "openat2", "io_uring_setup", "io_uring_enter", "io_uring_register")

_SYSV_AND_MQ_IPC = (
    *("shmget", "shmat", "shmctl", "shmdt", "semget", "semop", "semtimedop", "semctl"),
    *("msgget", "msgsnd", "msgrcv", "msgctl"),
    *("mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr"),
)

# A program with the set-user-id bit in a granted directory would run as this user for every other user of the machine.
_SET_USER_ID = (
    Rule(("openat",), EPERM, (_has(2, _O_CREAT | _O_TMPFILE_BIT), _has(3, _S_ISUID))),
    Rule(("open",), EPERM, (_has(1, _O_CREAT | _O_TMPFILE_BIT), _has(2, _S_ISUID))),
    Rule(("chmod", "fchmod", "creat", "mknod"), EPERM, (_has(1, _S_ISUID),)),
    Rule(("fchmodat", "fchmodat2", "mknodat"), EPERM, (_has(2, _S_ISUID),)),
)

# Landlock before ABI 3 does not restrict truncation: truncate(2) by path, and O_TRUNC on a descriptor that is not open
# for writing (access mode 3 asks for no access at all).
_TRUNCATION = (
    Rule(("openat",), EACCES, (_has(2, _O_TRUNC), _is(2, 0, 3, mask=_O_ACCMODE))),
    Rule(("open",), EACCES, (_has(1, _O_TRUNC), _is(1, 0, 3, mask=_O_ACCMODE))),
    Rule(("truncate",), EACCES),
)

_PROCESS = (
    Rule(("ioctl",), EPERM, (_is(1, _TIOCSTI, _TIOCLINUX, _TIOCSETD),)),
    Rule(("clone",), EPERM, (_has(0, _CLONE_NEW),)),
    Rule(("unshare",), EPERM, (_has(0, _CLONE_NEW | _CLONE_NEWTIME),)),
    # prlimit64(pid, resource, new, old): setting (new is a pointer: either half may be the non-zero one) another's.
    Rule(("prlimit64",), EPERM, (_is_not(0, 0), _is_not(2, 0))),
    Rule(("prlimit64",), EPERM, (_is_not(0, 0), Test(high(2), _ALL, (0,), among=False))),
    # In a PID namespace, process 1 is nono's init. Starved of CPU by SCHED_IDLE and busy loops it could end nothing.
    Rule(("sched_setscheduler", "sched_setparam", "sched_setattr", "sched_setaffinity"), EPERM, (_is(0, _INIT),)),
    Rule(("setpriority",), EPERM, (_is(0, _PRIO_PROCESS), _is(1, _INIT))),
    Rule(("setpriority",), EPERM, (_is_not(0, _PRIO_PROCESS),)),
    Rule(("ioprio_set",), EPERM, (_is(0, _IOPRIO_WHO_PROCESS), _is(1, _INIT))),
    Rule(("ioprio_set",), EPERM, (_is_not(0, _IOPRIO_WHO_PROCESS),)),
    # PER_LINUX, PER_LINUX32, either with UNAME26, and the query; so no READ_IMPLIES_EXEC and no ADDR_NO_RANDOMIZE.
    Rule(("personality",), EPERM, (_is_not(0, 0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF),)),
)

# A datagram or raw pair of AF_UNIX sockets can be turned to any path afterwards; a connected stream pair cannot.
_LOCAL_PAIRS = (
    Rule(("socketpair",), EAFNOSUPPORT, (_is_not(0, _AF_UNIX),)),
    Rule(("socketpair",), EPROTONOSUPPORT, (_is_not(1, _SOCK_STREAM, _SOCK_SEQPACKET, mask=_SOCK_TYPE_MASK),)),
    Rule(
        ("socket",),
        EPROTONOSUPPORT,
        (_is(0, _AF_UNIX), _is_not(1, _SOCK_STREAM, _SOCK_SEQPACKET, mask=_SOCK_TYPE_MASK)),
    ),
)
_UNIX_SOCKETS = (Rule(("socket",), ALLOW, (_is(0, _AF_UNIX),)),)  # of the types that the rules above leave
_OTHER_FAMILIES = (
    Rule(("socket",), ALLOW, (_is(0, _AF_NETLINK), _is(2, _NETLINK_ROUTE))),  # getifaddrs(3)
    Rule(("socket",), EPROTONOSUPPORT, (_is(0, _AF_NETLINK),)),
    Rule(("socket",), EAFNOSUPPORT, (_is_not(0, _AF_INET, _AF_INET6),)),
)

_NO_FASTOPEN = (
    Rule(("sendto", "sendmmsg"), EOPNOTSUPP, (_has(3, _MSG_FASTOPEN),)),
    Rule(("sendmsg",), EOPNOTSUPP, (_has(2, _MSG_FASTOPEN),)),
)

_TCP_ONLY = (
    Rule(("socket",), EACCES, (_is_not(1, _SOCK_STREAM, mask=_SOCK_TYPE_MASK),)),
    Rule(("socket",), EPROTONOSUPPORT, (_is_not(2, 0, _IPPROTO_TCP),)),
)

_TCP_UDP_AND_PING = (
    Rule(("socket",), EACCES, (_is_not(1, _SOCK_STREAM, _SOCK_DGRAM, mask=_SOCK_TYPE_MASK),)),
    Rule(
        ("socket",),
        EPROTONOSUPPORT,
        (_is(1, _SOCK_STREAM, mask=_SOCK_TYPE_MASK), _is_not(2, 0, _IPPROTO_TCP, _IPPROTO_MPTCP)),
    ),
    Rule(
        ("socket",),
        EPROTONOSUPPORT,
        (_is(1, _SOCK_DGRAM, mask=_SOCK_TYPE_MASK), _is_not(2, 0, _IPPROTO_UDP, _IPPROTO_ICMP, _IPPROTO_ICMPV6)),
    ),
)


# What leads a TCP socket elsewhere than its connect said, without a privilege.
_NO_DETOURS = (
    Rule(("setsockopt",), EPERM, (_is(1, _SOL_SOCKET), _is(2, _SO_BINDTODEVICE, _SO_BINDTOIFINDEX))),
    Rule(("setsockopt",), EPERM, (_is(1, _SOL_IP), _is(2, _IP_OPTIONS))),
    Rule(("setsockopt",), EOPNOTSUPP, (_is(1, _SOL_TCP), _is(2, _TCP_FASTOPEN_CONNECT))),
)


# A filter has one listener, and the kernel refuses a second: until the first is closed. Then the child could install a
# filter of its own above this one, with a listener of its own, and answer its own connect with "go on".
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_NEW_LISTENER = 1, 1 << 3
_NO_OTHER_JUDGE = (
    Rule(("seccomp",), EBUSY, (_is(0, _SECCOMP_SET_MODE_FILTER), _has(1, _SECCOMP_FILTER_FLAG_NEW_LISTENER))),
)


def judged(
    *,
    network: str,
    notify: bool = False,
    unix_sockets: bool = False,
    own_sockets: bool = False,
    recorded: Recorded | None = None,
) -> tuple[str, ...]:
    """Return the names of the calls that wait for the supervisor; () when no mediator is needed. See `rules()`."""
    if recorded is not None:
        calls = judged(network=network, notify=notify, unix_sockets=unix_sockets, own_sockets=own_sockets)
        return (*calls, *recorded.calls)
    if notify and network != NETWORK_OPEN:
        return ("connect", "bind", "listen")
    if unix_sockets or own_sockets:
        return ("connect", "listen") if network == NETWORK_OPEN else ("connect",)
    return ()


def rules(
    *,
    network: str,
    allow_ipc: bool,
    landlock_truncate: bool = True,
    notify: bool = False,
    unix_sockets: bool = False,
    own_sockets: bool = False,
    recorded: Recorded | None = None,
) -> tuple[Rule, ...]:
    """Return the rules in the order in which they are tried.

    network: NETWORK_OPEN lets UDP, ping and MPTCP through; the other modes leave TCP only. AF_UNIX is denied in all.
    allow_ipc: System V and POSIX message queues, which only an IPC namespace of the child's own makes harmless.
    landlock_truncate: whether Landlock handles truncation (ABI 3); if not, the filter does.
    notify: no network namespace stands behind the filter, so the supervisor judges addresses. Without effect where the
    network is open. unix_sockets, own_sockets: AF_UNIX streams can be made; the supervisor judges where they connect.
    recorded: calls that wait, too, and then go on.
    A filter with one of these is installed with a listener, where `judged()` names a call that waits for it.
    """
    open_network = network == NETWORK_OPEN
    sockets = {"unix_sockets": unix_sockets, "own_sockets": own_sockets}
    calls = judged(network=network, notify=notify, recorded=recorded, **sockets)
    return (
        *(() if landlock_truncate else _TRUNCATION),
        *_SET_USER_ID,
        *_PROCESS,
        *(() if open_network else _NO_FASTOPEN),
        *_LOCAL_PAIRS,
        *(_UNIX_SOCKETS if unix_sockets or own_sockets else ()),
        *_OTHER_FAMILIES,
        *(_TCP_UDP_AND_PING if open_network else _TCP_ONLY),
        *(_NO_DETOURS if notify and not open_network else ()),
        *(() if recorded is None else (_nonos_own(recorded.first_exec),)),
        *((*_NO_OTHER_JUDGE, Rule(calls, USER_NOTIF)) if calls else ()),
        Rule(_ALWAYS_ENOSYS, ENOSYS),
        Rule(_ALWAYS_EPERM if allow_ipc else _ALWAYS_EPERM + _SYSV_AND_MQ_IPC, EPERM),
    )


def _nonos_own(path_address: int) -> Rule:
    halves = ((low(0), path_address & _ALL), (high(0), path_address >> 32))
    return Rule(("execve",), ALLOW, tuple(Test(word, _ALL, (value,)) for word, value in halves))


# The assembler. Opcodes of <linux/filter.h>; jump targets are labels until _resolve() makes distances of them.
_LD_W_ABS = 0x20
_ALU_AND_K = 0x54
_JMP_JEQ_K = 0x15
_JMP_JGE_K = 0x35
_RET_K = 0x06

_NR_OFFSET, _ARCH_OFFSET, _ARGS_OFFSET = 0, 4, 16  # struct seccomp_data
_SOCK_FILTER = struct.Struct("=HBBI")


class _Program:
    """Instructions with labels: a label is a number from `label()`, given a place once by `place()`."""

    def __init__(self) -> None:
        self.instructions: list[tuple[int, int, int, int]] = []  # code, k, label if true, label if false
        self._places: list[int] = []

    def label(self) -> int:
        self._places.append(-1)
        return len(self._places) - 1

    def place(self, label: int) -> None:
        self._places[label] = len(self.instructions)

    def add(self, code: int, k: int) -> None:
        self.instructions.append((code, k, -1, -1))

    def jump(self, code: int, k: int, if_true: int, if_false: int) -> None:
        """Add a comparison; -1 as a target is the next instruction."""
        self.instructions.append((code, k, if_true, if_false))

    def pack(self) -> bytes:
        if len(self.instructions) > MAX_INSTRUCTIONS:
            raise ValueError(f"{len(self.instructions)} instructions, the kernel takes {MAX_INSTRUCTIONS}")
        places, pack = self._places, _SOCK_FILTER.pack
        packed = []
        for index, (code, k, if_true, if_false) in enumerate(self.instructions, start=1):
            true = places[if_true] - index if if_true >= 0 else 0
            false = places[if_false] - index if if_false >= 0 else 0
            packed.append(pack(code, true, false, k))  # struct.error: farther than 255, or backwards
        return b"".join(packed)


def _add_test(program: _Program, test: Test, otherwise: int) -> None:
    """Fall through when the test holds, jump to `otherwise` when it does not."""
    program.add(_LD_W_ABS, _ARGS_OFFSET + 4 * test.word)
    if test.mask != _ALL:
        program.add(_ALU_AND_K, test.mask)
    holds = program.label()
    found, exhausted = (holds, otherwise) if test.among else (otherwise, holds)
    for value in test.values[:-1]:
        program.jump(_JMP_JEQ_K, value, found, -1)
    program.jump(_JMP_JEQ_K, test.values[-1], found, exhausted)
    program.place(holds)


def _add_checked(program: _Program, nr: int, checks: Sequence[Rule]) -> None:
    """The block of one call whose arguments matter. Entered with the number loaded; it always returns a verdict."""
    after = program.label()
    program.jump(_JMP_JEQ_K, nr, -1, after)
    for rule in checks:
        following = program.label()
        for test in rule.tests:
            _add_test(program, test, following)
        program.add(_RET_K, rule.verdict)
        program.place(following)
    if checks[-1].tests:
        program.add(_RET_K, ALLOW)
    program.place(after)


def _add_stopped(program: _Program, numbers: Sequence[int], verdict: int) -> None:
    """The calls that get `verdict` whatever their arguments are."""
    stop, after = program.label(), program.label()
    for nr in numbers[:-1]:
        program.jump(_JMP_JEQ_K, nr, stop, -1)
    program.jump(_JMP_JEQ_K, numbers[-1], stop, after)
    program.place(stop)
    program.add(_RET_K, verdict)
    program.place(after)


def assemble(table: Iterable[Rule], arch: str) -> bytes:
    """Compile rules into packed `struct sock_filter`s for `arch`. Raises KernelError on an unknown architecture."""
    if arch not in AUDIT_ARCH:
        message = f"nono has no system-call filter for {arch} machines: it runs on x86_64 and aarch64."
        raise KernelError("seccomp", errno.ENOSYS, message)
    checked: dict[int, list[Rule]] = {}
    stopped: dict[int, list[int]] = {}
    for rule in table:
        for name in rule.syscalls:
            nr = number(name, arch)
            if nr is None:
                continue
            if rule.tests or nr in checked:
                checked.setdefault(nr, []).append(rule)
            else:
                stopped.setdefault(rule.verdict, []).append(nr)

    program = _Program()
    program.add(_LD_W_ABS, _ARCH_OFFSET)
    native = program.label()
    program.jump(_JMP_JEQ_K, AUDIT_ARCH[arch], native, -1)
    program.add(_RET_K, KILL_PROCESS)
    program.place(native)
    program.add(_LD_W_ABS, _NR_OFFSET)
    known = program.label()
    program.jump(_JMP_JGE_K, FIRST_UNKNOWN, -1, known)
    program.add(_RET_K, ENOSYS)
    program.place(known)
    for nr, checks in checked.items():
        _add_checked(program, nr, checks)
    for verdict, numbers in stopped.items():
        _add_stopped(program, numbers, verdict)
    program.add(_RET_K, ALLOW)
    return program.pack()


def build(
    *,
    arch: str,
    network: str,
    allow_ipc: bool,
    landlock_truncate: bool = True,
    notify: bool = False,
    unix_sockets: bool = False,
    own_sockets: bool = False,
    recorded: Recorded | None = None,
) -> bytes:
    """Return the filter as packed `struct sock_filter`s, 8 bytes each, ready for seccomp(2).

    arch: "x86_64" or "aarch64", as os.uname() names it. The rest as in `rules()`.
    Raises KernelError on an architecture without a table.
    """
    table = rules(
        network=network,
        allow_ipc=allow_ipc,
        landlock_truncate=landlock_truncate,
        notify=notify,
        unix_sockets=unix_sockets,
        own_sockets=own_sockets,
        recorded=recorded,
    )
    return assemble(table, arch)


def simulate(program: bytes, arch: int, nr: int, args: Sequence[int]) -> int:
    """Run a filter as the kernel would and return its verdict (SECCOMP_RET_* with data).

    arch: AUDIT_ARCH_*. args: up to six 64-bit arguments, missing ones are 0.
    Raises ValueError when the program leaves its bounds or uses an instruction that `build()` never emits.
    """
    data = struct.pack("=iIQ6Q", nr if nr < 1 << 31 else nr - (1 << 32), arch, 0, *args, *[0] * (6 - len(args)))
    code_at = list(_SOCK_FILTER.iter_unpack(program))
    accumulator = counter = 0
    while counter < len(code_at):
        code, if_true, if_false, k = code_at[counter]
        counter += 1
        if code == _LD_W_ABS:
            accumulator = struct.unpack_from("=I", data, k)[0]
        elif code == _ALU_AND_K:
            accumulator &= k
        elif code == _JMP_JEQ_K:
            counter += if_true if accumulator == k else if_false
        elif code == _JMP_JGE_K:
            counter += if_true if accumulator >= k else if_false
        elif code == _RET_K:
            return int(k)
        else:
            raise ValueError(f"instruction {counter - 1}: unknown code {code:#x}")
    raise ValueError("the program ended without a verdict")
