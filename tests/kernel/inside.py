"""Running things behind the wall, and in forked processes, for the kernel's tests."""

from __future__ import annotations

import os
import struct
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from nono.kernel import landlock
from nono.kernel.spawn import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWUSER, Child, spawn

ISOLATED = CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC
ORDINARY_UID = 12345

# linux/filter.h, linux/seccomp.h
BPF_LD_W_ABS, BPF_JEQ_K, BPF_RET_K = 0x20, 0x15, 0x06
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000
MACHINE = os.uname().machine
UNAME = {"x86_64": 63, "aarch64": 160}[MACHINE]


def instruction(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, k)


ALLOW_ALL = instruction(BPF_RET_K, RET_ALLOW)


def refuse(syscall: int, errno: int) -> bytes:
    """A filter that lets everything pass but one system call."""
    return (
        instruction(BPF_LD_W_ABS, 0)
        + instruction(BPF_JEQ_K, syscall, 0, 1)
        + instruction(BPF_RET_K, RET_ERRNO | errno)
        + ALLOW_ALL
    )


@contextmanager
def ruleset(*paths: str, access: int | None = None) -> Iterator[int]:
    """A ruleset that handles every file right and grants `access` (all by default) on `paths` ("/" by default)."""
    everything = landlock.fs_mask(landlock.abi())
    fd = landlock.create_ruleset(everything)
    try:
        for path in paths or ("/",):
            path_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights = everything if access is None else access
            landlock.add_path(fd, path_fd, rights if os.path.isdir(path) else rights & landlock.FILE_RIGHTS)
            os.close(path_fd)
        yield fd
    finally:
        os.close(fd)


def start(
    *argv: str,
    namespaces: int = 0,
    listen_ports: Sequence[int] = (),
    keep_network: bool = False,
    ruleset_fd: int | None = None,
    seccomp_filter: bytes = ALLOW_ALL,
    workdir: str = "/",
    envp: Sequence[bytes] = (b"PATH=/usr/bin:/bin",),
    new_process_group: bool = False,
    foreground_tty_fd: int = -1,
) -> Child:
    with ruleset() as everything:
        return spawn(
            path=os.fsencode(argv[0]),
            argv=[os.fsencode(argument) for argument in argv],
            envp=envp,
            workdir=os.fsencode(workdir),
            namespaces=namespaces,
            listen_ports=listen_ports,
            keep_network=keep_network,
            ruleset_fd=everything if ruleset_fd is None else ruleset_fd,
            seccomp_filter=seccomp_filter,
            new_process_group=new_process_group,
            foreground_tty_fd=foreground_tty_fd,
        )


def close(child: Child) -> None:
    for fd in (child.pidfd, child.network_fd, *child.listener_fds):
        if fd >= 0:
            os.close(fd)


class Finished(NamedTuple):
    exit_code: int  # negative: the signal
    output: str


def run(*argv: str, **options: object) -> Finished:
    """`start`, with standard output and error caught, until it ends."""
    read_fd, write_fd = os.pipe()
    saved = [os.dup(1), os.dup(2)]
    try:
        os.dup2(write_fd, 1)
        os.dup2(write_fd, 2)
        child = start(*argv, **options)  # type: ignore[arg-type]
    finally:
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for fd in (*saved, write_fd):
            os.close(fd)
    with open(read_fd, encoding="utf-8") as output:
        text = output.read()
    close(child)
    return Finished(os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]), text)


def shell(script: str, **options: object) -> Finished:
    return run("/bin/sh", "-c", script, **options)


def python(script: str, **options: object) -> Finished:
    return run(sys.executable, "-I", "-S", "-c", script, **options)


def in_fork(work: Callable[[], None]) -> int:
    """Do `work` in a forked process; 0 when it returned, 1 when it raised, negative for the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001  the test's own failure has to reach its parent as a status
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
