"""Start a program behind the whole wall: namespaces, mounts, Landlock, seccomp, no capabilities, no inherited files.

`prepare` makes the init of the new namespaces (csrc/spawn.c tells why there is one) and all around the agent; `start`
lets the init start the agent. Between the two the caller may look at what it got, and try something else with another
`prepare`. This module lays out the arguments and turns a failure, which comes back as (step, errno), into one sentence
that names what is missing and what to do. It fails closed: either the program runs behind all of it, or nothing is left
running and SpawnError is raised.

Facts for the caller:
- The thread that calls must live as long as the program: the kernel sends the init SIGKILL (PR_SET_PDEATHSIG) when that
  *thread* ends, and the end of the init is the end of its PID namespace. Without one, the init kills all that is left
  when its socket ends; that is tidiness and no wall, for it could be killed before.
- The caller is undumpable afterwards, from before the program's first instruction. Another `prepare` by the same
  process makes it dumpable for the moment in which the init writes its uid_map (an undumpable process does not own
  /proc/self/uid_map).
- The program is not the caller's child but the init's: what happens to it comes as messages on `control_fd`
  (EVENT_*), and signals are sent to it that way (COMMAND_*).
- The signal mask of the program is the caller's; every signal action is the default; umask, limits, standard input,
  output and error are inherited; no other file descriptor is. It leads a process group of its own, in a session of the
  init's, whose terminal is the one that was made for it, or none.
- chdir happens after the capabilities are gone, as the program's own user; Landlock does not judge it.
- With CLONE_NEWUSER one user and one group id are mapped, to themselves. What belongs to others shows as 65534.
"""

from __future__ import annotations

import os
import struct

from nono.kernel import process
from nono.kernel._shim import ffi, lib
from nono.kernel.landlock import LOG_NEW_EXEC_ON
from nono.kernel.seccomp import INSTRUCTION_BYTES
from nono.kernel.spawn_errors import STEPS, SpawnError, sentence
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any, NoReturn, Self

    from nono.kernel.probe import Probe

# include/uapi/linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

SUPPORTED_NAMESPACES = CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWPID

# struct nono_message: what init and caller say to each other, a packet each.
_MESSAGE = struct.Struct("=ii")
EVENT_EXITED = lib.NONO_EVENT_EXITED  # value: the agent's wait status
EVENT_STOPPED = lib.NONO_EVENT_STOPPED  # value: the signal that stopped it
COMMAND_SIGNAL = lib.NONO_COMMAND_SIGNAL  # value: for the agent's group, and for itself where it has left that
COMMAND_FOREGROUND = lib.NONO_COMMAND_FOREGROUND  # value: 1: its terminal is the agent's group's; 0: the init's

MOUNT_NEW = lib.NONO_MOUNT_NEW
MOUNT_BIND = lib.NONO_MOUNT_BIND
MOUNT_BIND_READ_ONLY = lib.NONO_MOUNT_BIND_READ_ONLY
MOUNT_BIND_WRITABLE = lib.NONO_MOUNT_BIND_WRITABLE
MOUNT_MOVE = lib.NONO_MOUNT_MOVE
MOUNT_READ_ONLY = lib.NONO_MOUNT_READ_ONLY
MOUNT_WRITABLE = lib.NONO_MOUNT_WRITABLE
MOUNT_DIRECTORY = lib.NONO_MOUNT_DIRECTORY
MOUNT_FILE = lib.NONO_MOUNT_FILE
MOUNT_LINK = lib.NONO_MOUNT_LINK

_HOST_MULTIPLEXER = "/dev/ptmx"


def send_command(control_fd: int, kind: int, value: int) -> None:
    """Tell the init something. kind: COMMAND_*. Raises OSError where it is gone, or does not listen."""
    os.write(control_fd, _MESSAGE.pack(kind, value))


def receive_event(control_fd: int) -> tuple[int, int] | None:
    """Return what the init says, as (EVENT_*, value); None when it is gone.

    Raises BlockingIOError where the descriptor does not block and nothing was said.
    """
    try:
        message = os.read(control_fd, _MESSAGE.size)
    except BlockingIOError:
        raise
    except OSError:
        message = b""
    if not message:
        return None
    kind, value = _MESSAGE.unpack(message)
    return kind, value


class Mount(Record):
    """One step of what the init does to its own view of the file system. kind: MOUNT_*.

    source: a path; for MOUNT_NEW the type of file system; for MOUNT_LINK what the link says. flags: MS_* (MOUNT_NEW),
    or the mode of what is made. optional: goes on where something is missing, out of reach, or there already.
    """

    kind: int
    target: str
    source: str = ""
    flags: int = 0
    data: str = ""
    optional: bool = False


class TerminalSpec(Record):
    """The terminal to make for the agent. like_fd: one to take attributes and size from.

    descriptors: which of 0, 1 and 2 become it. in_foreground: the agent's group has it from the start.
    """

    like_fd: int
    descriptors: tuple[int, ...]
    in_foreground: bool = True


class Child(Record):
    """A running agent's init. The caller owns the fds (close-on-exec) and reaps the pid; -1: there is none.

    pid, pidfd: the init's. control_fd: messages; closing it ends the init, and so everything in its PID namespace.
    listener_fds: one for each port, in their order. network_fd: its network namespace, for network.socket_in.
    terminal_fd: our side of the agent's terminal. notify_fd: the seccomp notifier.
    """

    pid: int
    pidfd: int
    control_fd: int
    listener_fds: tuple[int, ...] = ()
    network_fd: int = -1
    terminal_fd: int = -1
    notify_fd: int = -1


class Prepared:
    """An init that waits: `start` lets it start the agent, `abandon` ends it, and so does leaving the context."""

    def __init__(self, pid: int, call: object, listener_fds: tuple[int, ...], terminal: TerminalSpec | None) -> None:
        self.pid = pid
        self.listener_fds = listener_fds
        self._call = call
        self._terminal = terminal
        self._waits = True
        self._kept: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abandon()

    def abandon(self) -> None:
        """End the init; nothing of it is left. Nothing once the agent was started, and twice is once."""
        if not self._waits:
            return
        self._waits = False
        call = self._call
        lib.nono_abandon(call.handle, self.pid)  # type: ignore[attr-defined]
        kept = (call.network_fd, call.terminal_fd, call.pidfd, call.control_fd)  # type: ignore[attr-defined]
        for fd in (*self.listener_fds, *kept):
            if fd >= 0:
                os.close(fd)

    def start(
        self,
        *,
        path: bytes,
        argv: Sequence[bytes],
        envp: Sequence[bytes],
        workdir: bytes,
        ruleset_fd: int,
        seccomp_filter: bytes,
        filter_flags: int = 0,
        late_rules: Sequence[tuple[str, int]] = (),
        terminal_access: int = 0,
        procs_fds: Sequence[int] = (),
        rlimits: Sequence[tuple[int, int, int]] = (),
        probe: Probe | None = None,
        log_as: str = "",
    ) -> Child:
        """Start `path` and return once it runs its own code.

        path, workdir: absolute; there is no search in PATH, and nothing is looked up in the working directory.
        ruleset_fd, seccomp_filter: not optional; an invalid one fails. The ruleset stays the caller's.
        filter_flags: seccomp.FILTER_FLAG_*; with NEW_LISTENER the child has a notify_fd.
        late_rules: (path, Landlock rights) of what the mounts have made. terminal_access: rights on the agent's
        terminal, where it is one of the host's. procs_fds: cgroup.procs files into which the agent is written.
        rlimits: (resource, soft, hard). probe: what to ask in the place of executing `path`; then the child's fds stay
        ours, for the caller to look at, and `abandon` is to be called when EVENT_EXITED has come. log_as: the name by
        which the kernel's audit records know the agent, which are then kept after its exec, too (audit.py).
        Raises SpawnError, and ValueError for a NUL byte inside a string; then the init is abandoned.
        """
        keep: list[object] = []
        try:
            call = _start_call(
                keep, path=path, argv=argv, envp=envp, workdir=workdir, ruleset_fd=ruleset_fd,
                seccomp_filter=seccomp_filter, filter_flags=filter_flags, late_rules=late_rules,
                terminal_access=terminal_access, procs_fds=procs_fds, rlimits=rlimits,
            )  # fmt: skip
            if self._terminal is not None:
                call.terminal_descriptors = sum(1 << fd for fd in self._terminal.descriptors)
                call.in_foreground = self._terminal.in_foreground
            if probe is not None:
                call.probe = probe.questions
                self._kept = (keep, call, probe)  # the agent reads it beside us
            if log_as:
                call.landlock_flags = LOG_NEW_EXEC_ON
                call.comm = _string(log_as.encode(), keep)
            made = self._call
            error = lib.nono_start(made.handle, made.control_fd, made.pidfd, call)  # type: ignore[attr-defined]
            if error < 0:
                raise _error(STEPS[call.step], -error, path, workdir)
            self._waits = probe is not None
        except BaseException:
            self.abandon()
            raise
        return Child(
            self.pid, made.pidfd, made.control_fd, self.listener_fds, made.network_fd,  # type: ignore[attr-defined]
            made.terminal_fd, call.notify_fd,  # type: ignore[attr-defined]
        )  # fmt: skip


def wrap(
    *,
    namespaces: int,
    path: bytes,
    argv: Sequence[bytes],
    envp: Sequence[bytes],
    workdir: bytes,
    ruleset_fd: int,
    seccomp_filter: bytes,
) -> NoReturn:
    """Become `path`, behind Landlock, the filter and new namespaces: the same process, and nobody beside it.

    For a process with one thread. namespaces: CLONE_NEW* bits, neither NEWPID nor NEWNS. The rest: see Prepared.start.
    Raises SpawnError; what was given up until then is given up for good, so the caller can only say so and exit.
    """
    if namespaces & ~(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS):
        raise ValueError("unsupported namespace")
    keep: list[object] = []
    call = _start_call(
        keep, path=path, argv=argv, envp=envp, workdir=workdir, ruleset_fd=ruleset_fd, seccomp_filter=seccomp_filter
    )
    process.set_dumpable(True)  # an undumpable process does not own /proc/self/uid_map
    error = lib.nono_wrap(namespaces, call)
    raise _error(STEPS[call.step], -error, path, workdir)


def _start_call(
    keep: list[object],
    *,
    path: bytes,
    argv: Sequence[bytes],
    envp: Sequence[bytes],
    workdir: bytes,
    ruleset_fd: int,
    seccomp_filter: bytes,
    filter_flags: int = 0,
    late_rules: Sequence[tuple[str, int]] = (),
    terminal_access: int = 0,
    procs_fds: Sequence[int] = (),
    rlimits: Sequence[tuple[int, int, int]] = (),
) -> Any:
    """Return a struct nono_start; `keep` is what must live as long."""
    count, rest = divmod(len(seccomp_filter), INSTRUCTION_BYTES)
    if rest:
        raise ValueError("a seccomp filter is a whole number of instructions")
    if not (path.startswith(b"/") and workdir.startswith(b"/")):
        raise ValueError("the command and the working directory are absolute paths")
    call = ffi.new("struct nono_start *")
    call.path = _string(path, keep)
    call.argv = _strings(argv, keep)
    call.envp = _strings(envp, keep)
    call.workdir = _string(workdir, keep)
    call.ruleset_fd = ruleset_fd
    call.rules = rules = ffi.new("struct nono_path_access[]", len(late_rules))
    for rule, (late_path, access) in zip(rules, late_rules, strict=True):
        rule.path, rule.access = _string(os.fsencode(late_path), keep), access
    call.rule_count = len(late_rules)
    call.terminal_access = terminal_access
    call.filter = ffi.from_buffer(seccomp_filter)
    call.filter_count = count
    call.filter_flags = filter_flags
    call.procs_fds = procs = ffi.new("int[]", procs_fds)
    call.procs_count = len(procs_fds)
    call.limits = limits = ffi.new("struct nono_limit[]", rlimits)
    call.limit_count = len(rlimits)
    keep += (rules, procs, limits, seccomp_filter)
    return call


def prepare(
    *,
    namespaces: int,
    listen_ports: Sequence[int] = (),
    keep_network: bool = False,
    mounts: Sequence[Mount] = (),
    terminal: TerminalSpec | None = None,
    multiplexer: str = _HOST_MULTIPLEXER,
) -> Prepared:
    """Make the init and all around the agent.

    namespaces: CLONE_NEW* bits out of SUPPORTED_NAMESPACES; 0 leaves the host's network.
    listen_ports: listeners on 127.0.0.1 of the child's network (0: any port, ask the fd); their fds are non-blocking,
    close-on-exec, backlog 4096. Ports below 1024 are no exception in a network of its own.
    keep_network: whether network.socket_in will be used on the child. Needs CLONE_NEWUSER and CLONE_NEWNET.
    mounts: carried out in order, before the terminal is made. They need CLONE_NEWUSER and CLONE_NEWNS.
    multiplexer: path of the ptmx from which the terminal is made, as the child sees it.
    Raises SpawnError; then no child and no fd is left. ValueError for a combination that cannot be.
    """
    if not all(0 <= port <= 0xFFFF for port in listen_ports):
        raise ValueError("a port is 0 to 65535")
    if keep_network and namespaces & (CLONE_NEWUSER | CLONE_NEWNET) != CLONE_NEWUSER | CLONE_NEWNET:
        raise ValueError("only a network namespace in a user namespace of its own can be kept")
    if mounts and namespaces & (CLONE_NEWUSER | CLONE_NEWNS) != CLONE_NEWUSER | CLONE_NEWNS:
        raise ValueError("mounts need a mount namespace in a user namespace of its own")
    if namespaces & ~SUPPORTED_NAMESPACES:
        raise ValueError("unsupported namespace")
    keep: list[object] = []
    call = ffi.new("struct nono_prepare *")
    call.namespaces = namespaces
    call.listen_ports = ports = ffi.new("uint16_t[]", listen_ports)
    call.listener_fds = listener_fds = ffi.new("int[]", len(listen_ports))
    call.listener_count = len(listen_ports)
    call.keep_network = keep_network
    strings = _pointers({text for mount in mounts for text in (mount.source, mount.target, mount.data)}, keep)
    call.mounts = steps = ffi.new(
        "struct nono_mount[]",
        [
            (kind, optional, strings[source], strings[target], flags, strings[data])
            for kind, target, source, flags, data, optional in mounts
        ],
    )
    call.mount_count = len(mounts)
    call.terminal_like_fd = terminal.like_fd if terminal is not None else -1
    call.terminal_multiplexer = _string(os.fsencode(multiplexer), keep)
    keep += (ports, steps)
    if namespaces & CLONE_NEWUSER and not process.is_dumpable():
        process.set_dumpable(True)  # left so by an earlier call; this one undoes it before any exec
    pid = lib.nono_prepare(call)
    if pid < 0:
        failed = STEPS[call.step]
        target = os.fsencode(mounts[call.mount_index].target) if failed == "mount" and mounts else b""
        raise _error(failed, -pid, target, b"")
    return Prepared(pid, call, tuple(listener_fds), terminal)


def address_of(path: bytes) -> int:
    """Return where the argument of execve(2) will be when `path`, this very object, is started."""
    return int(ffi.cast("uintptr_t", ffi.from_buffer("char[]", path)))


def _string(value: bytes, keep: list[object]) -> object:
    """Return const char *; it lives as long as `keep`. Raises ValueError for a NUL byte."""
    if b"\0" in value:
        raise ValueError("embedded NUL byte in a path, the command, its arguments or its environment")
    pointer = ffi.from_buffer("char[]", value)  # bytes end in NUL
    keep.append(pointer)
    return pointer


def _pointers(texts: Collection[str], keep: list[object]) -> dict[str, object]:
    """Return const char * for each text, into one piece of memory; they live as long as `keep`. ValueError: a NUL."""
    joined = os.fsencode("".join([f"{text}\0" for text in texts]))
    if joined.count(b"\0") != len(texts):
        raise ValueError("embedded NUL byte in a path")
    start: Any = ffi.from_buffer("char[]", joined)
    keep.append(start)
    pointers: dict[str, object] = {}
    at = 0
    for text in texts:
        pointers[text] = start + at
        at += (len(text) if text.isascii() else len(os.fsencode(text))) + 1
    return pointers


def _strings(values: Sequence[bytes], keep: list[object]) -> object:
    """Return char *[] with a NULL at its end; it lives as long as `keep`, which also holds what it points to."""
    array = ffi.new("char *[]", [*(_string(value, keep) for value in values), ffi.NULL])
    keep.append(array)
    return array


def _error(step: str, errno: int, path: bytes, workdir: bytes) -> SpawnError:
    return SpawnError(step, errno, sentence(step, errno, path, workdir))
