"""Why a program was not started: the steps of csrc/spawn.h by name, and a sentence for each refusal of the kernel's."""

from __future__ import annotations

import os
from errno import (
    E2BIG,
    EACCES,
    EADDRINUSE,
    EAGAIN,
    EBADF,
    EBUSY,
    EINTR,
    EINVAL,
    ELOOP,
    EMFILE,
    ENAMETOOLONG,
    ENFILE,
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

from nono.errors import KernelError
from nono.kernel._shim import lib


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
    lib.NONO_STEP_MOUNT: "mount",
    lib.NONO_STEP_SESSION: "session",
    lib.NONO_STEP_TERMINAL: "terminal",
    lib.NONO_STEP_PREPARED: "prepared",
    lib.NONO_STEP_AGENT: "agent",
    lib.NONO_STEP_PROCESS_GROUP: "process_group",
    lib.NONO_STEP_FOREGROUND: "foreground",
    lib.NONO_STEP_LIMITS: "limits",
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
_MOUNTS = (
    "This environment forbids mounts inside of a user namespace (a container whose /proc is masked, an AppArmor or "
    "seccomp profile): run nono outside of it, or leave the choice of the wall to nono with `--sandbox auto`."
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
    ("listen", EADDRINUSE): "The proxy's port is taken by another program: choose another with --proxy-port.",
    ("mount", EACCES): _MOUNTS,
    ("mount", EPERM): _MOUNTS,
    ("mount", ENOSPC): "No mount is left: the limit `fs.mount-max` is used up; raise it with sysctl.",
    ("terminal", ENOSPC): "No pseudo-terminal is left: close some, or raise the limit `kernel.pty.max`.",
    ("agent", EAGAIN): "Too many processes run under this user: end some, or raise `ulimit -u`.",
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
    (
        "seccomp",
        EBUSY,
    ): "Another sandbox around nono listens to system calls already (a seccomp notifier), and the "
    "kernel allows one: run nono outside of it.",
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


def sentence(step: str, errno: int, path: bytes, workdir: bytes) -> str:
    text = SENTENCES.get((step, errno))
    if text is not None:
        return text.format(path=os.fsdecode(path), workdir=os.fsdecode(workdir))
    if errno in (EMFILE, ENFILE):
        return f"Too many files are open here for the sandbox (step {step}): close some, or raise `ulimit -n`."
    if errno == EINTR:
        return f"The command was killed while it was being started (step {step})."
    of = f" of {os.fsdecode(path)}" if step == "mount" and path else ""
    return f"The sandbox could not be set up at the step '{step}'{of}: {os.strerror(errno)}."
