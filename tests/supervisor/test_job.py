"""What a job says to its init, and does at its word; the whole of it, on a terminal, is in tests/e2e/test_signals.py.

The init here is the other end of a socket; the real one is tested in tests/kernel/test_spawn.py.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from nono.kernel.spawn import COMMAND_FOREGROUND, COMMAND_SIGNAL, EVENT_EXITED, EVENT_STOPPED, Child, TerminalSpec
from nono.loop import READ, Loop
from nono.supervisor import job as jobs
from nono.supervisor.job import Job, Signals
from nono.supervisor.terminal import Terminal

TIMEOUT_S = 60


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(jobs, "monotonic", made)
    return made


class Window(Terminal):
    """A user's terminal of which is known what is asked of it."""

    def __init__(self, *, in_foreground: bool = True, interactive: bool = False) -> None:
        self.spec = TerminalSpec(-1, (0, 1, 2), in_foreground)
        self.interactive = self.has_job_control = interactive
        self.ours = True
        self.new_size = False
        self.asked: list[str] = []

    @property
    def in_front(self) -> bool:
        return self.ours

    def take(self) -> bool:
        self.asked.append("take")
        return self.ours

    def resume(self) -> bool:
        return self.take()

    def give_back(self) -> None:
        self.asked.append("give back")

    def resize(self) -> bool:
        return self.new_size


class Agent:
    """A job, its terminal, and the init's end of its socket."""

    def __init__(self, window: Terminal, init: subprocess.Popen[bytes] | None = None) -> None:
        self.init, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.init.settimeout(TIMEOUT_S)
        self._ours = ours
        self.job_fd = ours.fileno()
        self.window = window
        self.statuses: list[int] = []
        pidfd = os.pidfd_open(init.pid) if init is not None else -1
        self.job = Job(Child(0, pidfd, ours.fileno()), window, self.statuses.append)

    def says(self, kind: int, value: int) -> None:
        """Let the init say something, and the job hear it."""
        self.init.send(struct.pack("=ii", kind, value))
        self.job.handle_event()

    def told(self) -> list[str]:
        """Return what the init was told since."""
        self.init.setblocking(False)
        found = []
        while True:
            try:
                kind, value = struct.unpack("=ii", self.init.recv(64))
            except BlockingIOError:
                return found
            if kind == COMMAND_FOREGROUND:
                found.append(f"foreground {value}")
            else:
                assert kind == COMMAND_SIGNAL
                found.append(signal.Signals(value).name)

    def close(self) -> None:
        self.init.close()
        self._ours.close()


@pytest.fixture
def agent() -> Iterator[Agent]:
    made = Agent(Window())
    yield made
    made.close()


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGINT, ["SIGINT"]),
        (signal.SIGQUIT, ["SIGQUIT"]),
        (signal.SIGUSR1, ["SIGUSR1"]),
        (signal.SIGUSR2, ["SIGUSR2"]),
        (signal.SIGTSTP, ["SIGTSTP"]),
        (signal.SIGWINCH, ["SIGWINCH"]),
        (signal.SIGTERM, ["SIGTERM", "SIGCONT"]),
        (signal.SIGHUP, ["SIGHUP", "SIGCONT"]),
        (signal.SIGCHLD, []),
        (signal.SIGALRM, []),
    ],
)
def test_signals_are_sent_on(agent: Agent, number: int, told: list[str]) -> None:
    agent.job.handle(bytes([number]))
    assert agent.told() == told


def test_a_new_size_is_the_terminals_to_tell(agent: Agent) -> None:
    assert isinstance(agent.window, Window)
    agent.window.new_size = True
    agent.job.handle(bytes([signal.SIGWINCH]))
    assert agent.told() == []


def test_a_second_term_kills(agent: Agent, clock: Clock) -> None:
    agent.job.handle(bytes([signal.SIGTERM]))
    clock.now += 1
    agent.job.handle(bytes([signal.SIGTERM]))
    assert agent.told() == ["SIGTERM", "SIGCONT", "SIGKILL"]


def test_two_terms_at_once_are_one(agent: Agent, clock: Clock) -> None:
    """timeout(1) signals the process that it started, and then its group."""
    agent.job.handle(bytes([signal.SIGTERM, signal.SIGTERM]))
    assert agent.told() == ["SIGTERM", "SIGCONT"] * 2


def test_no_other_signal_kills(agent: Agent, clock: Clock) -> None:
    for _ in range(3):
        clock.now += 1
        agent.job.handle(bytes([signal.SIGINT, signal.SIGHUP]))
    assert agent.told() == ["SIGINT", "SIGHUP", "SIGCONT"] * 3


def test_an_init_that_does_nothing_is_killed_by_a_third_term(clock: Clock) -> None:
    with subprocess.Popen(["/bin/sleep", "600"]) as init:
        agent = Agent(Window(), init)
        for _ in range(3):
            agent.job.handle(bytes([signal.SIGTERM]))
            clock.now += 1
        assert init.wait(TIMEOUT_S) == -signal.SIGKILL
    agent.close()


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (3 << 8, 3), (15, 143), (0x80 | 11, 139)])
def test_the_status_is_a_shells(agent: Agent, status: int, expected: int) -> None:
    agent.says(EVENT_EXITED, status)
    assert agent.statuses == [expected]
    agent.job.handle(bytes([signal.SIGTERM, signal.SIGCONT]))
    agent.job.handle_event()
    assert (agent.told(), agent.statuses) == ([], [expected])


def test_without_its_init_the_agent_is_gone(agent: Agent) -> None:
    agent.init.close()
    agent.job.handle(bytes([signal.SIGINT]))
    agent.job.handle_event()
    assert agent.statuses == [128 + signal.SIGKILL]


def test_the_loop_hears_no_more_after_the_end(agent: Agent) -> None:
    loop = Loop()
    agent.job.attach(loop)
    agent.init.send(struct.pack("=ii", EVENT_EXITED, 0))
    agent.init.close()
    loop.call_later(0.05, loop.stop)
    loop.run()
    assert agent.statuses == [0]
    loop.register(agent.job_fd, READ, lambda ready: None)  # it is free again
    loop.close()


@pytest.mark.parametrize("number", [signal.SIGTTIN, signal.SIGTTOU])
def test_who_needs_the_terminal_gets_it(number: int) -> None:
    window = Window(in_foreground=False)
    agent = Agent(window)
    agent.says(EVENT_STOPPED, number)
    assert agent.told() == ["foreground 1", "SIGCONT"]
    agent.close()


def test_an_agent_that_stops_where_nobody_watches_stays_stopped(agent: Agent) -> None:
    agent.says(EVENT_STOPPED, signal.SIGSTOP)
    assert agent.told() == []
    agent.job.handle(bytes([signal.SIGCONT]))
    assert agent.told() == ["foreground 1", "SIGCONT"]


def test_a_job_that_is_only_continued_leaves_the_foreground_alone(agent: Agent) -> None:
    """It may be that of a job of the agent's own."""
    agent.job.handle(bytes([signal.SIGCONT]))
    assert agent.told() == ["SIGCONT"]


def test_a_job_that_goes_on_in_the_background_has_no_terminal(agent: Agent) -> None:
    assert isinstance(agent.window, Window)
    agent.window.ours = False
    agent.job.handle(bytes([signal.SIGCONT]))
    assert agent.told() == ["foreground 0", "SIGCONT"]
    agent.job.handle(bytes([signal.SIGCONT]))
    assert agent.told() == ["SIGCONT"]
    agent.window.ours = True
    agent.job.handle(bytes([signal.SIGCONT]))
    assert agent.told() == ["foreground 1", "SIGCONT"]


@pytest.mark.parametrize("signal_first", [True, False])
def test_a_terminal_that_has_gone_hangs_up_once(agent: Agent, clock: Clock, signal_first: bool) -> None:
    for is_signal in (signal_first, not signal_first):
        if is_signal:
            agent.job.handle(bytes([signal.SIGHUP]))
        else:
            agent.window.on_hang_up()
    assert agent.told() == ["SIGHUP", "SIGCONT"]
    clock.now += 10
    agent.job.handle(bytes([signal.SIGHUP]))
    assert agent.told() == ["SIGHUP", "SIGCONT"]


def test_signals_that_were_ignored_stay_ignored() -> None:
    code = """if True:
        import os, signal
        from nono.supervisor.job import Signals
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with Signals() as signals:
            for number in (signal.SIGHUP, signal.SIGUSR1):
                os.kill(os.getpid(), number)
            print([*signals.take()] == [signal.SIGUSR1])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in range(1, 32)]
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert [*signals.take()] == [signal.SIGUSR2]
    assert [signal.getsignal(number) for number in range(1, 32)] == before


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
