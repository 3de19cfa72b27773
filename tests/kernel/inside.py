"""Running things behind the wall, and in forked processes, for the kernel's tests."""

from __future__ import annotations

import os
import select
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from nono.kernel import landlock, process
from nono.kernel.spawn import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    COMMAND_SIGNAL,
    EVENT_EXITED,
    EVENT_STOPPED,
    MOUNT_NEW,
    Child,
    Mount,
    TerminalSpec,
    prepare,
    receive_event,
    send_command,
)
from nono.kernel.spawn_errors import SpawnError

ISOLATED = CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC
OWN_PROCESSES = ISOLATED | CLONE_NEWNS | CLONE_NEWPID
OWN_PROC = Mount(MOUNT_NEW, "/proc", "proc")
PROC_ACCESS = landlock.FS_READ_FILE | landlock.FS_READ_DIR | landlock.FS_WRITE_FILE
ORDINARY_UID = 12345

EVERYWHERE = pytest.mark.parametrize(
    "namespaces", [0, ISOLATED, OWN_PROCESSES], ids=["host network", "isolated", "own processes"]
)

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
    mounts: Sequence[Mount] | None = None,
    terminal: TerminalSpec | None = None,
    multiplexer: str = "/dev/ptmx",
    late_rules: Sequence[tuple[str, int]] = (),
    ruleset_fd: int | None = None,
    seccomp_filter: bytes = ALLOW_ALL,
    workdir: str = "/",
    envp: Sequence[bytes] = (b"PATH=/usr/bin:/bin",),
    **more: Any,
) -> Child:
    """`prepare` and `start`. mounts: None: the /proc of the PID namespace, where there is one."""
    if mounts is None:
        mounts = (OWN_PROC,) if namespaces & CLONE_NEWPID else ()
    with ruleset() as everything:
        prepared = prepare(
            namespaces=namespaces,
            listen_ports=listen_ports,
            keep_network=keep_network,
            mounts=mounts,
            terminal=terminal,
            multiplexer=multiplexer,
        )
        return prepared.start(
            path=os.fsencode(argv[0]),
            argv=[os.fsencode(argument) for argument in argv],
            envp=envp,
            workdir=os.fsencode(workdir),
            ruleset_fd=everything if ruleset_fd is None else ruleset_fd,
            seccomp_filter=seccomp_filter,
            late_rules=(*late_rules, *([("/proc", PROC_ACCESS)] if OWN_PROC in mounts else ())),
            **more,
        )


def event(child: Child, wait_s: float = 20) -> tuple[int, int]:
    """Return kind and value of the next message of the init; (EVENT_EXITED, 9) when it is gone itself."""
    assert select.select([child.control_fd, child.pidfd], [], [], wait_s)[0], "the init says nothing"
    said = receive_event(child.control_fd) if select.select([child.control_fd], [], [], 0)[0] else None
    return said or (EVENT_EXITED, signal.SIGKILL)


def send_signal(child: Child, number: int) -> None:
    send_command(child.control_fd, COMMAND_SIGNAL, number)


def wait(child: Child, wait_s: float = 20) -> int:
    """Wait for the agent's end, then end the init; return the agent's exit code, negative for the signal."""
    kind, status = event(child, wait_s)
    while kind == EVENT_STOPPED:
        kind, status = event(child, wait_s)
    end(child)
    return os.waitstatus_to_exitcode(status)


def end(child: Child) -> int:
    """Close all that the child left here, which ends and reaps the init; return its exit code."""
    pidfd = os.dup(child.pidfd)
    close(child)
    try:
        return reap(child.pid, pidfd)
    finally:
        os.close(pidfd)


def reap(pid: int, pidfd: int, wait_s: float = 20) -> int:
    """Wait for a child of ours; it is killed when that takes too long."""
    ended = bool(select.select([pidfd], [], [], wait_s)[0])
    if not ended:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert ended, f"process {pid} did not end"
    return status


def close(child: Child) -> None:
    for fd in (
        child.pidfd, child.control_fd, child.network_fd, child.terminal_fd, child.notify_fd, *child.listener_fds
    ):  # fmt: skip
        if fd >= 0:
            os.close(fd)


@contextmanager
def running(*argv: str, **options: Any) -> Iterator[Child]:
    """`start`; at the end all of it is ended."""
    child = start(*argv, **options)
    try:
        yield child
    finally:
        end(child)


@contextmanager
def standard_output() -> Iterator[int]:
    """Standard output and error are a pipe meanwhile; the end to read from."""
    read_fd, write_fd = os.pipe()
    saved = [os.dup(1), os.dup(2)]
    try:
        os.dup2(write_fd, 1)
        os.dup2(write_fd, 2)
        os.close(write_fd)
        yield read_fd
    finally:
        for number, fd in enumerate(saved, 1):
            os.dup2(fd, number)
            os.close(fd)


def read_all(fd: int, wait_s: float = 20) -> str:
    """What comes until nobody can write any more. Closes the fd."""
    parts = []
    with open(fd, "rb", buffering=0) as stream:
        while True:
            assert select.select([stream], [], [], wait_s)[0], f"no end after {b''.join(parts)!r}"
            part = stream.read(65536)
            if not part:
                return b"".join(parts).decode()
            parts.append(part)


class Finished(NamedTuple):
    exit_code: int  # negative: the signal
    output: str


def run(*argv: str, **options: Any) -> Finished:
    """`start`, with standard output and error caught, until it ends."""
    with standard_output() as read_fd:
        child = start(*argv, **options)
    try:
        output = read_all(read_fd)
    except BaseException:
        end(child)
        raise
    return Finished(wait(child), output)


def shell(script: str, **options: Any) -> Finished:
    return run("/bin/sh", "-c", script, **options)


def python(script: str, **options: Any) -> Finished:
    return run(sys.executable, "-I", "-S", "-c", script, **options)


def failure(*argv: str, **options: Any) -> SpawnError:
    """Return the error, after checking that no child and no fd is left of the attempt."""
    process.set_dumpable(True)
    before = os.listdir("/proc/self/fd"), children()
    with pytest.raises(SpawnError) as caught:
        start(*argv, **options)
    process.set_dumpable(True)
    assert (os.listdir("/proc/self/fd"), children()) == before
    return caught.value


def children() -> list[int]:
    """The children of this thread, not yet reaped ones as well. Source: proc_pid_task(5)."""
    with open("/proc/thread-self/children") as file:
        return [int(pid) for pid in file.read().split()]


def in_fork(work: Callable[[], None], wait_s: float = 60) -> int:
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
    pidfd = os.pidfd_open(pid)
    try:
        return reap(pid, pidfd, wait_s)
    finally:
        os.close(pidfd)
