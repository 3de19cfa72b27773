"""Standard error by way of nono's pipe: byte for byte, at once, and as it would have been without."""

from __future__ import annotations

import _thread
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nono.loop import READ, Loop
from nono.supervisor.error_output import ErrorOutput, can_be_passed_on


def in_a_process(work: Callable[[], object]) -> int:
    """Run `work` in a process of its own, whose descriptor 2 it may change; return its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            result = work()
            os._exit(int(result) if isinstance(result, int) else 0)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def relayed(agent: Callable[[], object], stderr: int, told_to_end: Callable[[], bool] = lambda: False) -> int:
    """Run `agent` with its standard error passed on to `stderr`; return its exit status, minus a signal."""

    def supervisor() -> int:
        os.dup2(stderr, 2)
        os.close(stderr)
        output = ErrorOutput()
        with output:
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                os.closerange(3, 100)
                agent()
                os._exit(0)
        seen: list[bytes] = []
        loop = Loop()
        output.serve(seen.append, loop)
        if output._serving is None:  # no thread: what the loop does until the agent's end
            watch = os.pidfd_open(pid)
            loop.register(watch, READ, lambda ready: loop.stop())
            loop.run()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        output.finish(told_to_end)
        return status if status >= 0 else 128 - status

    return in_a_process(supervisor)


def written(data: bytes) -> Callable[[], object]:
    def agent() -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(2, left) :]

    return agent


def test_a_file_gets_every_byte(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    file = os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, b"before\n")
    assert relayed(written(data), file) == 0
    os.close(file)
    assert (tmp_path / "err").read_bytes() == b"before\n" + data


def test_where_no_thread_can_be_had_the_loop_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    test_a_file_gets_every_byte(tmp_path)
    test_the_agent_meets_sigpipe_when_nobody_reads_any_more()


@pytest.mark.parametrize(("blocks", "pause_s"), [(True, 0.001), (False, 0)])
def test_a_pipe_gets_every_byte(blocks: bool, pause_s: float) -> None:
    """Also when its reader is slow, and when somebody has made it non-blocking."""
    data = os.urandom(700_000)
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, blocks)
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        os._exit(relayed(written(data), write_fd))
    os.close(write_fd)
    got = b""
    while piece := os.read(read_fd, 30_000):
        got += piece
        time.sleep(pause_s)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert got == data


def test_lines_arrive_whole_beside_those_of_others() -> None:
    """As write(2) promises for a pipe: up to PIPE_BUF bytes stay in one piece."""
    lines = [b"%06d %s\n" % (number, b"a" * 90) for number in range(20_000)]

    def agent() -> None:
        for line in lines:
            os.write(2, line)

    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        other = os.fork()
        if other == 0:
            for line in lines:
                os.write(write_fd, line.upper())
            os._exit(0)
        status = relayed(agent, write_fd)
        os.waitpid(other, 0)
        os._exit(status)
    os.close(write_fd)
    got = b""
    while piece := os.read(read_fd, 65536):
        got += piece
    os.waitpid(pid, 0)
    assert [line for line in got.splitlines(keepends=True) if b"A" not in line] == lines
    assert [line for line in got.splitlines(keepends=True) if b"A" in line] == [line.upper() for line in lines]


def test_what_is_written_comes_out_at_once() -> None:
    """Not only when there is more, or when the agent ends: who reads is answered before the agent goes on."""
    read_fd, write_fd = os.pipe()
    go_read, go_write = os.pipe()
    os.set_inheritable(go_read, True)
    pid = os.fork()
    if pid == 0:
        os.dup2(go_read, 0)

        def agent() -> None:
            for _ in range(20):
                os.write(2, b"?")
                os.read(0, 1)

        os._exit(relayed(agent, write_fd))
    os.close(write_fd)
    for _ in range(20):
        assert select.select([read_fd], [], [], 10)[0]
        assert os.read(read_fd, 10) == b"?"
        os.write(go_write, b"!")
    os.waitpid(pid, 0)


def test_the_agent_meets_sigpipe_when_nobody_reads_any_more() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)

    def agent() -> None:
        while True:
            os.write(2, b"anybody?\n")
            time.sleep(0.001)

    try:
        assert relayed(agent, write_fd) == 128 + signal.SIGPIPE
    finally:
        os.close(write_fd)


def test_a_full_disk_does_not_stop_the_agent() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    assert relayed(written(b"x" * 200_000), full) == 0
    os.close(full)


def test_nobody_waits_for_a_reader_that_takes_nothing_once_the_run_was_ended() -> None:
    read_fd, write_fd = os.pipe()
    begin = time.monotonic()
    assert relayed(lambda: os.write(2, b"x" * 65536) and os.write(2, b"y" * 65536), write_fd, lambda: True) == 0
    assert 1.5 < time.monotonic() - begin < 10
    assert os.read(read_fd, 10) == b"x" * 10
    os.close(read_fd)
    os.close(write_fd)


def test_nobody_waits_for_who_was_handed_the_pipe_and_is_none_of_the_run(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    begin = time.monotonic()

    def agent() -> None:
        os.write(2, b"hello")
        socket.send_fds(socket.socket(fileno=os.dup(0)), [b"x"], [2])

    file = os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT, 0o600)

    def supervisor() -> int:
        os.dup2(theirs.fileno(), 0)
        return relayed(agent, file)

    assert in_a_process(supervisor) == 0
    _, (kept,), _, _ = socket.recv_fds(ours, 1, 1)
    os.close(kept)
    assert time.monotonic() - begin < 5
    assert (tmp_path / "err").read_bytes() == b"hello"


def test_nobody_waits_for_who_was_handed_the_pipe_and_writes_on(tmp_path: Path) -> None:
    """All that the agent wrote arrives; what others write afterwards keeps no run from its end."""
    text = b"agent\n" * 100_000

    def agent() -> None:
        if os.fork() == 0:  # in the place of a program outside, which got it by way of a Unix socket
            end = time.monotonic() + 20
            while time.monotonic() < end:
                os.write(2, b"other\n")
                time.sleep(0.01)
            os._exit(0)
        written(text)()

    file = os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT, 0o600)
    begin = time.monotonic()
    assert relayed(agent, file) == 0
    assert time.monotonic() - begin < 10
    assert (tmp_path / "err").read_bytes().replace(b"other\n", b"") == text


def test_what_was_said_before_a_start_that_failed_is_not_lost(tmp_path: Path) -> None:
    file = os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT, 0o600)

    def supervisor() -> int:
        os.dup2(file, 2)
        before = len(os.listdir("/proc/self/fd"))
        output = ErrorOutput()
        with output:
            os.write(2, b"no such program")
        output.finish(lambda: False)
        output.finish(lambda: False)
        return len(os.listdir("/proc/self/fd")) - before

    assert in_a_process(supervisor) == 0
    assert (tmp_path / "err").read_bytes() == b"no such program"


@pytest.mark.parametrize(
    ("stdout", "stderr", "expected"),
    [
        ("pipe", "pipe", True),
        ("pipe", "file", True),
        ("file", "file", True),
        ("pipe", "same", False),
        ("file", "same", False),
        ("pipe", "null", False),
        ("pipe", "socket", False),
        ("pipe", "closed", False),
    ],
)
def test_it_is_done_only_where_it_leaves_no_trace(stdout: str, stderr: str, expected: bool, tmp_path: Path) -> None:
    def work() -> int:
        for fd, kind in ((1, stdout), (2, stderr)):
            if kind == "pipe":
                os.dup2(os.pipe()[1], fd)
            elif kind == "file":
                os.dup2(os.open(tmp_path / str(fd), os.O_WRONLY | os.O_CREAT, 0o600), fd)
            elif kind == "same":
                os.dup2(1, 2)
            elif kind == "null":
                os.dup2(os.open("/dev/null", os.O_WRONLY), fd)
            elif kind == "socket":
                os.dup2(socket.socketpair()[0].detach(), fd)
            else:
                os.close(fd)
        return can_be_passed_on() is expected and 7

    assert in_a_process(work) == 7
