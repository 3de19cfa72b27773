"""What a job does with signals and leftovers; the whole of it, on a terminal, is in tests/e2e/test_signals.py."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from nono.supervisor import job as jobs
from nono.supervisor.job import Job, Terminal

TIMEOUT_S = 60
CHILD = """if True:
    import os, signal
    names = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCONT, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, names)
    print("ready", flush=True)
    while True:
        print(signal.Signals(signal.sigwait(names)).name, flush=True)
"""


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(jobs, "monotonic", made)
    return made


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """Names each signal that it gets, and ends with KILL only."""
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def tell(child: subprocess.Popen[bytes], job: Job, numbers: list[signal.Signals], expected: str) -> None:
    """Hand `numbers` to the job, one after the other, and see what the child gets."""
    assert child.stdout is not None
    for number, names in zip(numbers, expected.split(), strict=True):
        job.handle(bytes([number]))
        got = {child.stdout.readline().decode().strip() for _ in names.split("+")}
        assert got == {f"SIG{name}" for name in names.split("+")}


@pytest.fixture
def job(child: subprocess.Popen[bytes]) -> Iterator[Job]:
    with Terminal() as terminal:
        terminal.shared = False
        yield Job(child.pid, terminal, lambda status: None)


def test_term_and_hup_are_followed_by_cont(child: subprocess.Popen[bytes], job: Job) -> None:
    tell(child, job, [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], "TERM+CONT HUP+CONT INT")


def test_a_second_term_kills(child: subprocess.Popen[bytes], job: Job, clock: Clock) -> None:
    tell(child, job, [signal.SIGTERM], "TERM+CONT")
    clock.now += 1
    job.handle(bytes([signal.SIGTERM]))
    assert child.wait(TIMEOUT_S) == -signal.SIGKILL


def test_two_terms_at_once_are_one(child: subprocess.Popen[bytes], job: Job, clock: Clock) -> None:
    """timeout(1) signals the process that it started, and then its group."""
    tell(child, job, [signal.SIGTERM, signal.SIGTERM], "TERM+CONT TERM+CONT")


def test_no_other_signal_kills(child: subprocess.Popen[bytes], job: Job, clock: Clock) -> None:
    for _ in range(3):
        clock.now += 1
        tell(child, job, [signal.SIGINT, signal.SIGHUP], "INT HUP+CONT")


def test_the_terminal_is_closed() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            before = os.listdir("/proc/self/fd")
            with Terminal() as made:
                held = made.in_front and len(os.listdir("/proc/self/fd")) == len(before) + 1
            os._exit(0 if held and os.listdir("/proc/self/fd") == before else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)


LEFTOVERS = """if True:
    import os, signal, subprocess, sys
    from nono.kernel import process
    from nono.supervisor import job

    listings = []
    listdir = os.listdir
    def counting(path="."):
        listings.append(path)
        return listdir(path)
    os.listdir = counting

    stranger = subprocess.Popen(["/bin/sleep", "600"])
    process.set_child_subreaper()
    strangers = {stranger.pid}
    {leave}
    before = len(listings)
    job.kill_descendants(strangers)
    print(len(listings) - before, job.children() == strangers, stranger.poll() is None)
    stranger.kill()
"""


def leftovers(leave: str) -> list[str]:
    """Return how often all processes were looked at, whether only the stranger is left, and whether it lives."""
    code = LEFTOVERS.replace("{leave}", leave)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_kills_many_leftovers_at_one_look() -> None:
    many = """subprocess.run(["/bin/sh", "-c", 'for i in $(seq 100); do sleep 600 & done'])"""
    scans, only_the_stranger_left, it_lives = leftovers(many)
    assert (only_the_stranger_left, it_lives) == ("True", "True")
    assert int(scans) <= 3  # finds them; finds none


def test_kills_leftovers_of_leftovers() -> None:
    chain = (
        """subprocess.run(["/bin/sh", "-c", '(sh -c "sleep 600 & sleep 600 & wait" & wait) & setsid sleep 600 &'])"""
    )
    assert leftovers(chain)[1:] == ["True", "True"]


def test_goes_on_where_one_cannot_be_killed() -> None:
    stubborn = """if True:
        real_kill, stubborn = os.kill, subprocess.Popen(["/bin/sleep", "600"])
        strangers = {stranger.pid}
        def kill(pid, number):
            if pid == stubborn.pid:
                raise PermissionError
            real_kill(pid, number)
        os.kill, job._KILLED_S = kill, 0.01
        subprocess.Popen(["/bin/sleep", "600"])
        job.kill_descendants(strangers)
        strangers.add(stubborn.pid)
        assert job.children() == strangers
        os.kill = real_kill
        stubborn.kill()
        strangers.remove(stubborn.pid)
"""
    assert leftovers(stubborn.replace("\n", "\n    "))[1:] == ["True", "True"]


def test_without_children_nothing_is_looked_at() -> None:
    done = """stranger.kill(); stranger.wait(); strangers.clear()"""
    assert leftovers(done) == ["0", "True", "False"]
