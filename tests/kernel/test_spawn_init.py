"""The init: what it tells and is told, that it reaps every orphan, and that nothing outlives it or its supervisor."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nono.kernel import process
from nono.kernel.spawn import (
    CLONE_NEWPID,
    COMMAND_FOREGROUND,
    EVENT_EXITED,
    EVENT_STOPPED,
    Child,
    Prepared,
    prepare,
    send_command,
)
from tests.kernel import inside
from tests.kernel.inside import (
    ALLOW_ALL,
    EVERYWHERE,
    ISOLATED,
    OWN_PROC,
    OWN_PROCESSES,
    event,
    read_all,
    running,
    send_signal,
    standard_output,
    start,
)

libc = ctypes.CDLL(None, use_errno=True)

# Leaves a process with a session of its own behind, deaf for all signals that can be ignored, and its child.
LEAVE_TWO = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(number, signal.SIG_IGN)
        os.fork()
        print("there", flush=True)
        time.sleep(600)
    os._exit(0)
os.wait()
"""


def program(script: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", script)


def read_line(fd: int, wait_s: float = 20) -> str:
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([fd], [], [], wait_s)[0], f"no line after {line!r}"
        part = os.read(fd, 1)
        assert part, f"the end after {line!r}"
        line += part
    return line.decode().rstrip("\r\n")


def until(condition: Callable[[], bool], wait_s: float = 20) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def children_of(pid: int) -> list[str]:
    """Zombies as well."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def has_ended(pidfd: int, wait_s: float = 20) -> bool:
    return bool(select.select([pidfd], [], [], wait_s)[0])


# ---- messages ---------------------------------------------------------------------------


@EVERYWHERE
@pytest.mark.parametrize(("script", "status"), [("exit 7", 7 << 8), ("kill -9 $$", 9), ("kill -ABRT $$", 6)])
def test_tells_how_the_agent_ended(namespaces: int, script: str, status: int) -> None:
    with running("/bin/sh", "-c", f"ulimit -c 0; {script}", namespaces=namespaces) as child:
        assert event(child) == (EVENT_EXITED, status)


@EVERYWHERE
def test_tells_the_end_of_an_agent_that_ends_at_once(namespaces: int) -> None:
    for _ in range(30):
        with running("/bin/true", namespaces=namespaces) as child:
            assert event(child) == (EVENT_EXITED, 0)


@EVERYWHERE
def test_stays_after_the_agent_until_the_socket_ends(namespaces: int) -> None:
    with running("/bin/true", namespaces=namespaces) as child:
        assert event(child) == (EVENT_EXITED, 0)
        send_signal(child, signal.SIGKILL)  # for nobody
        send_command(child.control_fd, COMMAND_FOREGROUND, 1)
        assert not has_ended(child.pidfd, 0.1)
        pidfd = os.dup(child.pidfd)
    assert has_ended(pidfd, 0)
    os.close(pidfd)


@EVERYWHERE
def test_passes_over_what_is_no_command(namespaces: int) -> None:
    with running("/bin/sleep", "600", namespaces=namespaces) as child:
        for message in (b"x", bytes(8), bytes(100), struct.pack("=ii", 99, 9)):
            os.write(child.control_fd, message)
        send_signal(child, signal.SIGTERM)
        assert event(child) == (EVENT_EXITED, signal.SIGTERM)


@EVERYWHERE
def test_descriptors_are_closed_on_exec_and_of_the_init(namespaces: int) -> None:
    with running("/bin/sleep", "600", namespaces=namespaces) as child:
        assert not os.get_inheritable(child.pidfd)
        assert not os.get_inheritable(child.control_fd)
        assert child.pid in inside.children()
        assert Path(f"/proc/{child.pid}/comm").read_text() == "nono-init\n"
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        assert event(child) == (EVENT_EXITED, signal.SIGKILL)


@EVERYWHERE
def test_init_has_neither_capabilities_nor_other_files(namespaces: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("an undumpable process shows its files to root only")
    with running("/bin/sleep", "600", namespaces=namespaces) as child:
        links = sorted(os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd"))
        assert len(links) == 3, links
        assert all(word in " ".join(links) for word in ("socket", "[signalfd]", "pidfd"))
        fields = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert int(fields["CapPrm"], 16) == int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
        assert fields["NoNewPrivs"] == "1"


# ---- signals and stops ------------------------------------------------------------------


@EVERYWHERE
def test_a_signal_is_for_the_agents_whole_group(namespaces: int) -> None:
    """The end of the output is the end of the agent's own child, too."""
    script = (
        "import os, signal, time\n"
        "term = {signal.SIGTERM}; signal.pthread_sigmask(signal.SIG_BLOCK, term)\n"
        "if os.fork() == 0:\n"
        "    signal.pthread_sigmask(signal.SIG_UNBLOCK, term); print('ready', flush=True); time.sleep(600)\n"
        "signal.sigwait(term); print('caught', flush=True); os._exit(3)\n"
    )
    with standard_output() as output:
        child = start(*program(script), namespaces=namespaces)
    assert read_line(output) == "ready"
    send_signal(child, signal.SIGTERM)
    assert read_all(output) == "caught\n"
    assert inside.wait(child) == 3


@EVERYWHERE
def test_a_signal_reaches_an_agent_that_has_left_its_group(namespaces: int) -> None:
    script = (
        "import os, signal, time\n"
        "ready, go = os.pipe()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.setpgid(0, 0); os.write(go, b'1'); time.sleep(600)\n"
        "os.read(ready, 1); os.setpgid(0, pid); print('ready', flush=True); time.sleep(600)\n"
    )
    with standard_output() as output:
        child = start(*program(script), namespaces=namespaces)
    assert read_line(output) == "ready"
    send_signal(child, signal.SIGUSR1)
    assert event(child) == (EVENT_EXITED, signal.SIGUSR1)
    inside.end(child)
    assert read_all(output) == ""


@EVERYWHERE
def test_stops_are_told_and_continued(namespaces: int) -> None:
    with running("/bin/sh", "-c", "kill -STOP $$; kill -TSTP $$; exit 4", namespaces=namespaces) as child:
        for number in (signal.SIGSTOP, signal.SIGTSTP):
            assert event(child) == (EVENT_STOPPED, number)
            send_signal(child, signal.SIGCONT)
        assert event(child) == (EVENT_EXITED, 4 << 8)


@EVERYWHERE
def test_a_stopped_agent_is_ended_with_its_init(namespaces: int) -> None:
    with standard_output() as output:
        child = start("/bin/sh", "-c", "sleep 600 & kill -STOP 0", namespaces=namespaces)
    assert event(child) == (EVENT_STOPPED, signal.SIGSTOP)
    inside.end(child)
    assert read_all(output) == ""


# ---- orphans ----------------------------------------------------------------------------

ORPHANS = """
import os, time
for _ in range({count}):
    pid = os.fork()
    if pid == 0:
        os.fork()
        os._exit(0)
    os.waitpid(pid, 0)
print("done", flush=True)
"""


@EVERYWHERE
def test_every_orphan_is_reaped(namespaces: int) -> None:
    with standard_output() as output:
        child = start(*program(ORPHANS.format(count=100) + "time.sleep(600)"), namespaces=namespaces)
    assert read_line(output) == "done"
    until(lambda: len(children_of(child.pid)) == 1)  # the agent
    send_signal(child, signal.SIGTERM)
    assert event(child) == (EVENT_EXITED, signal.SIGTERM)
    inside.end(child)
    assert read_all(output) == ""


@EVERYWHERE
def test_errno_of_the_callers_thread_is_its_own_meanwhile(namespaces: int) -> None:
    """The init runs on this thread's memory, with its `errno`, and its wait4 fails after each orphan."""
    libc.__errno_location.restype = ctypes.c_void_p
    ours = ctypes.c_int.from_address(libc.__errno_location())
    untouched = 4242
    with running(*program(ORPHANS.format(count=600)), namespaces=namespaces) as child:
        rounds = 0
        while not select.select([child.control_fd], [], [], 0)[0] and rounds < 20_000:
            rounds += 1
            assert libc.close(-1) == -1
            assert ctypes.get_errno() == errno.EBADF
            ours.value = untouched
            deadline = time.monotonic() + 0.0005
            while time.monotonic() < deadline:
                assert ours.value == untouched
        assert rounds > 10
        assert event(child) == (EVENT_EXITED, 0)


# ---- nothing outlives -------------------------------------------------------------------


@EVERYWHERE
def test_what_the_agent_leaves_ends_with_the_init(namespaces: int) -> None:
    with standard_output() as output:
        child = start(*program(LEAVE_TWO), namespaces=namespaces)
    assert (read_line(output), read_line(output)) == ("there", "there")
    assert event(child) == (EVENT_EXITED, 0)
    assert not select.select([output], [], [], 0.1)[0]  # they hold it
    inside.end(child)
    assert read_all(output) == ""


def test_many_that_were_left_end_with_the_init() -> None:
    """Without a PID namespace the init has to find them: more than one reading of its list."""
    script = "import os, time\nfor _ in range(300):\n    if os.fork() == 0: time.sleep(600)\nprint('done', flush=True)"
    with standard_output() as output:
        child = start(*program(script))
    assert read_line(output) == "done"
    assert event(child) == (EVENT_EXITED, 0)
    inside.end(child)
    assert read_all(output) == ""


@EVERYWHERE
def test_a_killed_supervisor_takes_all_of_it_along(namespaces: int) -> None:
    read_fd, write_fd = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        os.dup2(write_fd, 1)
        start(*program(LEAVE_TWO + "time.sleep(600)"), namespaces=namespaces)
        time.sleep(600)
        os._exit(1)
    os.close(write_fd)
    try:
        assert (read_line(read_fd), read_line(read_fd)) == ("there", "there")
    finally:
        os.kill(supervisor, signal.SIGKILL)
        os.waitpid(supervisor, 0)
    assert read_all(read_fd) == ""


@EVERYWHERE
def test_a_supervisor_killed_before_the_start_takes_the_init_along(namespaces: int) -> None:
    read_fd, write_fd = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        os.write(write_fd, b"%d\n" % make(namespaces).pid)
        time.sleep(600)
        os._exit(1)
    try:
        pidfd = os.pidfd_open(int(read_line(read_fd)))
        assert not has_ended(pidfd, 0)
    finally:
        os.kill(supervisor, signal.SIGKILL)
        os.waitpid(supervisor, 0)
    assert has_ended(pidfd)
    for fd in (pidfd, read_fd, write_fd):
        os.close(fd)


@EVERYWHERE
def test_a_killed_init_takes_the_agent_along(namespaces: int) -> None:
    with standard_output() as output:
        child = start("/bin/sleep", "600", namespaces=namespaces)
    os.kill(child.pid, signal.SIGKILL)
    assert read_all(output) == ""
    assert event(child) == (EVENT_EXITED, signal.SIGKILL)
    assert inside.end(child) == -signal.SIGKILL


# ---- prepared, and not started ----------------------------------------------------------


def make(namespaces: int, **options: object) -> Prepared:
    mounts = (OWN_PROC,) if namespaces & CLONE_NEWPID else ()
    return prepare(namespaces=namespaces, mounts=mounts, listen_ports=(0, 0), **options)  # type: ignore[arg-type]


def start_in(prepared: Prepared, path: str) -> Child:
    with inside.ruleset() as fd:
        return prepared.start(
            path=path.encode(), argv=[path.encode()], envp=[], workdir=b"/", ruleset_fd=fd, seccomp_filter=ALLOW_ALL
        )


@EVERYWHERE
def test_nothing_is_left_of_what_was_abandoned(namespaces: int) -> None:
    fds, before = os.listdir("/proc/self/fd"), inside.children()
    counts = []
    for count in (10, 100):
        for index in range(count):
            with make(namespaces) as prepared:
                assert prepared.pid in inside.children()
                assert len(prepared.listener_fds) == 2
                if index % 2:
                    prepared.abandon()
                    prepared.abandon()
        counts.append(Path("/proc/self/maps").read_text().count("\n"))
    process.set_dumpable(True)
    assert (os.listdir("/proc/self/fd"), inside.children()) == (fds, before)
    assert counts[1] - counts[0] < 12


@EVERYWHERE
def test_what_was_started_is_no_more_abandoned(namespaces: int) -> None:
    with make(namespaces) as prepared:
        child = start_in(prepared, "/usr/bin/env")
        assert child.listener_fds == prepared.listener_fds
    prepared.abandon()
    assert inside.wait(child) == 0


@EVERYWHERE
def test_an_init_that_died_is_no_success(namespaces: int) -> None:
    fds, before = os.listdir("/proc/self/fd"), inside.children()
    prepared = make(namespaces)
    os.kill(prepared.pid, signal.SIGKILL)
    with pytest.raises(OSError) as caught:
        start_in(prepared, "/bin/true")
    assert caught.value.errno in (errno.EINTR, errno.EPIPE)
    process.set_dumpable(True)
    assert (os.listdir("/proc/self/fd"), inside.children()) == (fds, before)


@EVERYWHERE
def test_nothing_is_left_after_many_rounds(namespaces: int) -> None:
    fds, before = os.listdir("/proc/self/fd"), inside.children()
    for index in range(200):
        with running("/bin/true", namespaces=namespaces, listen_ports=(0,)) as child:
            if index % 2:
                assert event(child) == (EVENT_EXITED, 0)
    process.set_dumpable(True)
    assert (os.listdir("/proc/self/fd"), inside.children()) == (fds, before)


def test_two_at_once_know_nothing_of_each_other() -> None:
    with running("/bin/sleep", "600", namespaces=OWN_PROCESSES) as first:
        with running("/bin/sh", "-c", "exit 5", namespaces=ISOLATED) as second:
            assert event(second) == (EVENT_EXITED, 5 << 8)
        assert not select.select([first.control_fd, first.pidfd], [], [], 0.1)[0]
        send_signal(first, signal.SIGTERM)
        assert event(first) == (EVENT_EXITED, signal.SIGTERM)
