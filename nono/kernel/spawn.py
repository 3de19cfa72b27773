"""Start a program behind the whole wall: namespaces, Landlock, seccomp, no capabilities, no inherited files.

One C call (csrc/spawn.c) does everything between clone and exec; this module lays out its arguments and turns a
failure, which comes back as (step, errno), into one sentence that names what is missing and what to do. It fails
closed: either the program runs behind all of it, or nothing is left running and SpawnError is raised.

Facts for the caller:
- The thread that calls must live as long as the program: the kernel sends the program SIGKILL (PR_SET_PDEATHSIG) when
  that *thread* ends. This makes a killed supervisor take its agent along. It is tidiness, not a wall: the program can
  switch it off and its own children are not covered; what they lose for certain is the proxy, and so the network.
- The supervisor is undumpable afterwards, from before the program's first instruction. A second spawn by the same
  process makes it dumpable for the moment in which the child writes its uid_map (an undumpable process does not own
  /proc/self/uid_map).
- The signal mask of the program is the caller's; every signal action is the default; umask, limits, standard input,
  output and error are inherited; no other file descriptor is.
- chdir happens after the capabilities are gone, as the program's own user; Landlock does not judge it.
- With CLONE_NEWUSER one user and one group id are mapped, to themselves. What belongs to others shows as 65534.
"""

from __future__ import annotations

import os
from errno import (
    E2BIG,
    EACCES,
    EAGAIN,
    EBADF,
    EINTR,
    EINVAL,
    ELOOP,
    ENAMETOOLONG,
    ENOENT,
    ENOEXEC,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    ENOTDIR,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
    EUSERS,
)
from signal import SIGKILL

from nono.errors import KernelError
from nono.kernel import process
from nono.kernel._shim import ffi, lib
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# include/uapi/linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# What the C side was written for. A PID namespace would need an init and breaks the check that the parent still lives.
SUPPORTED_NAMESPACES = CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS

INSTRUCTION_BYTES = 8  # struct sock_filter


class Child(Record):
    """A running child. The caller owns the fds (close-on-exec) and reaps the pid; -1: there is none.

    listener_fds: one for each port, in their order. network_fd: its network namespace, for network.socket_in.
    """

    pid: int
    pidfd: int
    listener_fds: tuple[int, ...]
    network_fd: int = -1


class SpawnError(KernelError):
    """The program was not started. `step` is the name of what failed, `errno` the kernel's answer.

    For step "exec" (and "workdir") the errno is what a shell looks at: ENOENT is 127, EACCES and ENOEXEC are 126.
    """

    def __init__(self, step: str, errno: int, message: str) -> None:
        super().__init__(step, errno, message)
        self.step = step


STEPS: dict[int, str] = {
    lib.NONO_STEP_PREPARE: "prepare",
    lib.NONO_STEP_CLONE: "clone",
    lib.NONO_STEP_DEATH_SIGNAL: "death_signal",
    lib.NONO_STEP_SETGROUPS: "setgroups",
    lib.NONO_STEP_UID_MAP: "uid_map",
    lib.NONO_STEP_GID_MAP: "gid_map",
    lib.NONO_STEP_LOOPBACK: "loopback",
    lib.NONO_STEP_NETWORK: "network",
    lib.NONO_STEP_LISTEN: "listen",
    lib.NONO_STEP_PROCESS_GROUP: "process_group",
    lib.NONO_STEP_FOREGROUND: "foreground",
    lib.NONO_STEP_CAPABILITIES: "capabilities",
    lib.NONO_STEP_NO_NEW_PRIVS: "no_new_privs",
    lib.NONO_STEP_DUMPABLE: "dumpable",
    lib.NONO_STEP_CLOSE_RANGE: "close_range",
    lib.NONO_STEP_WORKDIR: "workdir",
    lib.NONO_STEP_SIGNALS: "signals",
    lib.NONO_STEP_LANDLOCK: "landlock",
    lib.NONO_STEP_SECCOMP: "seccomp",
    lib.NONO_STEP_EXEC: "exec",
}

_APPARMOR = (
    "The kernel gave a user namespace but no rights in it, as Ubuntu's AppArmor restriction does: allow it with "
    "`sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or give this Python an AppArmor profile "
    "with `userns,`."
)
_NO_PROC = "/proc is not mounted here, or hides this process; user namespaces are set up through it: mount /proc."

# (step, errno) → the whole sentence. {path} and {workdir} are filled in.
SENTENCES: dict[tuple[str, int], str] = {
    ("clone", ENOSYS): "This system has no Linux namespaces; nono can start agents on Linux 5.13 or newer only.",
    ("clone", ENOSPC): "No namespace is left: one of the limits `user.max_user_namespaces`, `user.max_net_namespaces` "
    "and `user.max_ipc_namespaces` is 0 or used up; raise it, as with `sudo sysctl user.max_user_namespaces=15000`.",
    ("clone", EUSERS): "User namespaces are nested too deep here (the kernel's limit is 32): run nono further out.",
    ("clone", EPERM): "This environment forbids user namespaces (a container's seccomp profile, another sandbox, "
    "a chroot, or `kernel.unprivileged_userns_clone=0`): run nono outside of it, or allow them there (Docker: "
    "`--security-opt seccomp=unconfined`; Debian: `sudo sysctl kernel.unprivileged_userns_clone=1`).",
    ("clone", EINVAL): "This kernel lacks a namespace that the sandbox needs: user, network and IPC namespaces "
    "(CONFIG_USER_NS, CONFIG_NET_NS, CONFIG_IPC_NS) have to be built in.",
    ("clone", EAGAIN): "Too many processes run under this user: end some, or raise `ulimit -u`.",
    ("clone", ENOMEM): "The kernel is out of memory for another process: free some and try again.",
    ("death_signal", ESRCH): "nono was killed while it started the command; the command was not started.",
    ("setgroups", ENOENT): _NO_PROC,
    ("setgroups", EACCES): _APPARMOR,
    ("setgroups", EPERM): _APPARMOR,
    ("uid_map", ENOENT): _NO_PROC,
    ("uid_map", EACCES): _APPARMOR,
    ("uid_map", EPERM): _APPARMOR,
    ("gid_map", ENOENT): _NO_PROC,
    ("gid_map", EACCES): _APPARMOR,
    ("gid_map", EPERM): _APPARMOR,
    ("loopback", EPERM): _APPARMOR,
    ("loopback", EACCES): _APPARMOR,
    ("network", ENOENT): _NO_PROC,
    ("listen", EACCES): _APPARMOR,
    ("listen", EPERM): _APPARMOR,
    ("process_group", EPERM): "The command could not be put into a process group of its own.",
    ("capabilities", EPERM): "This root user may not give up its capabilities (no CAP_SETPCAP), so the command would "
    "keep them: run nono as an ordinary user, or with CAP_SETPCAP.",
    ("close_range", ENOSYS): "This kernel has no close_range (Linux 5.11 or newer has it), so files that are open here "
    "could leak into the sandbox.",
    ("close_range", EPERM): "A seccomp profile around nono forbids close_range, so files that are open here could leak "
    "into the sandbox: allow it, or run nono outside of that container.",
    ("workdir", ENOENT): "The working directory {workdir} does not exist.",
    ("workdir", ENOTDIR): "The working directory {workdir} is not a directory.",
    ("workdir", EACCES): "The working directory {workdir} may not be entered by this user without its privileges.",
    ("landlock", ENOSYS): "This kernel has no Landlock (Linux 5.13 or newer has it).",
    ("landlock", EOPNOTSUPP): "Landlock is built into this kernel but switched off: add landlock to the lsm= list on "
    "the kernel's command line and reboot.",
    ("landlock", E2BIG): "Sixteen Landlock sandboxes are nested here, the kernel's limit: run nono further out.",
    ("landlock", EPERM): "A seccomp profile around nono forbids Landlock: allow landlock_restrict_self there, or run "
    "nono outside of that container.",
    ("landlock", EBADF): "No Landlock ruleset was given; nothing is started without one.",
    ("seccomp", ENOSYS): "This kernel has no seccomp filters (CONFIG_SECCOMP_FILTER).",
    ("seccomp", EINVAL): "The kernel refused the seccomp filter as malformed, or has no seccomp filters "
    "(CONFIG_SECCOMP_FILTER).",
    ("seccomp", ENOMEM): "The kernel refused the seccomp filter as too long together with those already in force: run "
    "nono further out.",
    ("exec", ENOENT): "The command {path} does not exist, or the interpreter that it names does not.",
    ("exec", ENOTDIR): "The command {path} does not exist: a part of its path is not a directory.",
    ("exec", EACCES): "The command {path} is not executable, or is outside of what the sandbox may read: "
    "`--read` its directory.",
    ("exec", EPERM): "The command {path} may not be executed inside the sandbox (set-user-ID or mount options).",
    ("exec", ENOEXEC): "The command {path} is not a program for this machine and names no interpreter (a script needs "
    "a first line such as `#!/bin/sh`).",
    ("exec", E2BIG): "The command's arguments and environment are larger than the kernel takes.",
    ("exec", ELOOP): "The command {path} cannot be found: its links, or the interpreters it names, form a loop.",
    ("exec", ENAMETOOLONG): "The command's path is longer than the kernel takes.",
}


def _sentence(step: str, errno: int, path: bytes, workdir: bytes) -> str:
    text = SENTENCES.get((step, errno))
    if text is not None:
        return text.format(path=os.fsdecode(path), workdir=os.fsdecode(workdir))
    if errno == EINTR:
        return f"The command was killed while it was being started (step {step})."
    return f"The sandbox could not be set up at the step '{step}': {os.strerror(errno)}; the command was not started."


def _strings(values: Sequence[bytes], keep: list[object]) -> object:
    """Return char *[] with a NULL at its end; it lives as long as `keep`, which also holds what it points to."""
    pointers = [ffi.from_buffer("char[]", value) for value in values]  # bytes end in NUL
    keep.extend(pointers)
    pointers.append(ffi.NULL)
    array = ffi.new("char *[]", pointers)
    keep.append(array)
    return array


def spawn(
    *,
    path: bytes,
    argv: Sequence[bytes],
    envp: Sequence[bytes],
    workdir: bytes,
    namespaces: int,
    listen_ports: Sequence[int] = (),
    keep_network: bool = False,
    ruleset_fd: int,
    seccomp_filter: bytes,
    new_process_group: bool,
    foreground_tty_fd: int = -1,
) -> Child:
    """Start `path` and return once it runs its own code.

    path, workdir: absolute; there is no search in PATH, and nothing is looked up in the working directory.

    namespaces: CLONE_NEW* bits out of SUPPORTED_NAMESPACES; 0 leaves the host's network.
    listen_ports: listeners on 127.0.0.1 inside the new network (0: any port, ask the fd); their fds are non-blocking,
    close-on-exec, backlog 4096. Ports below 1024 are no exception. Need CLONE_NEWNET.
    keep_network: whether network.socket_in will be used on the child. Needs CLONE_NEWUSER and CLONE_NEWNET.
    ruleset_fd, seccomp_filter: not optional; an invalid one fails. The ruleset stays the caller's.
    foreground_tty_fd: a terminal in whose foreground the child's process group is put; -1 none.
    Raises SpawnError; then no child, no fd and no change of the terminal is left. ValueError for a NUL byte inside a
    string, or a combination that cannot be.
    """
    if listen_ports and not (namespaces & CLONE_NEWNET and all(0 <= port <= 0xFFFF for port in listen_ports)):
        raise ValueError("a listener needs a network namespace and a port of 0 to 65535")
    if keep_network and namespaces & (CLONE_NEWUSER | CLONE_NEWNET) != CLONE_NEWUSER | CLONE_NEWNET:
        raise ValueError("only a network namespace in a user namespace of its own can be kept")
    if namespaces & ~SUPPORTED_NAMESPACES:
        raise ValueError("unsupported namespace")
    if not (path.startswith(b"/") and workdir.startswith(b"/")):
        raise ValueError("the command and the working directory are absolute paths")
    count, rest = divmod(len(seccomp_filter), INSTRUCTION_BYTES)
    if rest:
        raise ValueError("a seccomp filter is a whole number of instructions")
    for string in (path, workdir, *argv, *envp):
        if b"\0" in string:
            raise ValueError("embedded NUL byte in the command, its arguments or its environment")
    if foreground_tty_fd >= 0 and not new_process_group:
        raise ValueError("only a process group of its own can be put in the foreground")

    keep: list[object] = []
    call = ffi.new("struct nono_spawn *")
    call.path = _strings((path,), keep)[0]  # type: ignore[index]
    call.argv = _strings(argv, keep)
    call.envp = _strings(envp, keep)
    call.workdir = _strings((workdir,), keep)[0]  # type: ignore[index]
    call.namespaces = namespaces
    ports = ffi.new("uint16_t[]", listen_ports)
    call.listen_ports = ports
    listener_fds = ffi.new("int[]", len(listen_ports))
    call.listener_fds = listener_fds
    call.listener_count = len(listen_ports)
    call.keep_network = keep_network
    call.ruleset_fd = ruleset_fd
    filter_buffer = ffi.from_buffer(seccomp_filter)
    call.filter = filter_buffer
    call.filter_count = count
    call.new_process_group = new_process_group
    call.foreground_tty_fd = foreground_tty_fd
    call.death_signal = SIGKILL
    if namespaces & CLONE_NEWUSER and not process.is_dumpable():
        process.set_dumpable(True)  # left so by an earlier spawn; this one undoes it before its exec
    pid = lib.nono_spawn(call)
    if pid < 0:
        step = STEPS[call.step]
        raise SpawnError(step, -pid, _sentence(step, -pid, path, workdir))
    return Child(pid, call.pidfd, tuple(listener_fds), call.network_fd)
