"""What enforces limits: chosen, said, and tried on real processes; where a control group is delegated, on real ones.

A child of the test plays the part of the spawn: it enters a user namespace (or not), the control group, and takes the
resource limits on, in that order. Ordinary users are tried by root, too.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from nono.errors import UsageError
from nono.kernel import cgroup
from nono.kernel.spawn import CLONE_NEWUSER
from nono.loop import Loop
from nono.policy.capabilities import WRITE, Limits
from nono.supervisor import limits
from nono.supervisor.limits import Deadline, Limiter
from tests.users import become

ROOT, ANYBODY = 0, 23456  # who runs nothing else: other tests may be running as 12345
USER = ANYBODY if os.geteuid() == ROOT else os.geteuid()
MIB = 1 << 20
NO_USER_NAMESPACE = 77  # a child's status


def start_many() -> str:
    """Start 100 processes, and say how many there were at a time, with this one."""
    started: list[int] = []
    try:
        while len(started) < 100:
            if (pid := os.fork()) == 0:
                time.sleep(30)
                os._exit(0)
            started.append(pid)
    except BlockingIOError:
        pass
    for pid in started:
        os.kill(pid, signal.SIGKILL)
    return str(len(started) + 1)


def take_memory() -> str:
    held = [b"x" * MIB for _ in range(1000)]
    return str(len(held))


def take_shared_memory() -> str:
    with mmap.mmap(-1, 300 * MIB) as shared:
        for at in range(0, len(shared), mmap.PAGESIZE):
            shared[at] = 1
    return "300"


class FakeGroup:
    """A control group of which only the counters are told."""

    procs_fd = 99

    def __init__(self, **counts: Mapping[str, int] | None) -> None:
        self._counts = counts
        self.closed = False

    def counts(self, file: str) -> Mapping[str, int] | None:
        return self._counts[file.partition(".")[0]]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "make", lambda _: None)


def enter_user_namespace(inner: int) -> None:
    """As the user `inner` in there."""
    outer = os.getuid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER):
        os._exit(NO_USER_NAMESPACE)
    try:
        Path("/proc/self/uid_map").write_text(f"{inner} {outer} 1")
    except PermissionError:
        os._exit(NO_USER_NAMESPACE)  # AppArmor


def in_child(act: Callable[[], str]) -> tuple[int, str]:
    """Return the exit status, or minus the signal, of a process that does this, and what that returned."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setsid()
            try:
                text = act()
            except (MemoryError, UsageError) as error:
                text = type(error).__name__
            os.write(writing, text.encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    _, status = os.waitpid(pid, 0)
    with open(reading, encoding="utf-8") as file:
        text = file.read()
    if os.waitstatus_to_exitcode(status) == NO_USER_NAMESPACE:
        pytest.skip("no user namespace is to be had here")
    return os.waitstatus_to_exitcode(status), text


def run_limited(
    limiter: Limiter, agent: Callable[[], str], *, own_user_namespace: bool, user: int | None = None
) -> tuple[int, str]:
    """Run `agent` as that of a run of `user` with these limits; see in_child."""

    def act() -> str:
        become(os.getuid() if user is None else user)
        rlimits = limiter.rlimits(own_user_namespace=own_user_namespace)
        for fd in limiter.procs_fds:
            os.write(fd, b"0")
        if own_user_namespace:
            enter_user_namespace(os.getuid())
        for which, soft, hard in rlimits:
            resource.setrlimit(which, (soft, hard))
        return agent()

    return in_child(act)


# What is chosen, and said.


def test_no_limits_are_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "make", lambda _: pytest.fail("nothing is to be limited"))
    with Limiter(Limits()) as limiter:
        assert (limiter.procs_fds, limiter.denies) == ((), ())
        assert limiter.rlimits(own_user_namespace=True) == ()
        assert limiter.sentences(own_user_namespace=True) == ()
        assert limiter.outcome() == ()


def test_a_control_group_limits_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    group = FakeGroup(memory={}, pids={})
    monkeypatch.setattr(cgroup, "make", lambda settings: asked.append(settings) or group)  # type: ignore[func-returns-value]
    monkeypatch.setattr(cgroup, "mount_points", lambda: ("/sys/fs/cgroup",))
    with Limiter(Limits(memory_bytes=200 * MIB, max_processes=50, timeout_s=600)) as limiter:
        assert asked == [
            {
                "memory": {"memory.max": "209715200", "memory.swap.max?": "0", "memory.oom.group": "1"},
                "pids": {"pids.max": "50"},
            }
        ]
        assert limiter.procs_fds == (99,)
        assert [(deny.path, deny.access) for deny in limiter.denies] == [("/sys/fs/cgroup", WRITE)]
        assert limiter.rlimits(own_user_namespace=False) == ()
        assert limiter.sentences(own_user_namespace=False) == (
            "200 MiB memory for all together  (--memory)",
            "50 processes and threads  (--max-processes)",
            "10 min  (--timeout)",
        )
        assert not group.closed
    assert group.closed


def test_a_controller_alone_is_better_than_none(monkeypatch: pytest.MonkeyPatch) -> None:
    group = FakeGroup(pids={"max": 0})
    monkeypatch.setattr(cgroup, "make", lambda settings: None if "memory" in settings else group)
    with Limiter(Limits(memory_bytes=200 * MIB, max_processes=50)) as limiter:
        assert limiter.rlimits(own_user_namespace=True) == ((resource.RLIMIT_DATA, 200 * MIB, 200 * MIB),)
        memory, processes, why = limiter.sentences(own_user_namespace=True)
        assert memory == "200 MiB memory in each process, shared memory aside  (--memory)"
        assert processes == "50 processes and threads  (--max-processes)"
        assert why.startswith("no control group is delegated here")
        assert limiter.outcome() == ()


@pytest.mark.usefixtures("no_group")
def test_without_a_control_group_the_difference_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: ANYBODY)
    monkeypatch.setattr(limits, "has_user_manager", lambda: True)
    monkeypatch.setattr(cgroup, "mount_points", lambda: ("/sys/fs/cgroup",))
    with Limiter(Limits(memory_bytes=1536 * MIB, max_processes=50)) as limiter:
        assert (limiter.procs_fds, limiter.denies) == ((), ())
        assert limiter.rlimits(own_user_namespace=True) == (
            (resource.RLIMIT_DATA, 1536 * MIB, 1536 * MIB),
            (resource.RLIMIT_NPROC, 51, 51),  # with the run's init
        )
        assert limiter.sentences(own_user_namespace=True) == (
            "1.5 GiB memory in each process, shared memory aside  (--memory)",
            "50 processes and threads  (--max-processes)",
            "no control group is delegated here (systemd-run --user --scope has one)",
        )
        monkeypatch.setattr(cgroup, "mount_points", lambda: ())
        assert limiter.sentences(own_user_namespace=True)[-1].endswith("so nothing limits all together")
        _, processes, _ = limiter.sentences(own_user_namespace=False)
        assert processes == "50 processes and threads, less what you start meanwhile  (--max-processes)"
        monkeypatch.setattr(cgroup, "mount_points", lambda: ("/sys/fs/cgroup",))
        monkeypatch.setattr(limits, "has_user_manager", lambda: False)
        *_, why = limiter.sentences(own_user_namespace=True)
        assert why == "no control group is delegated here, so nothing limits all together"


@pytest.mark.usefixtures("no_group")
@pytest.mark.parametrize(
    ("release", "alone"),
    [("5.13.0-51-generic", False), ("5.14.0-427.el9.x86_64", True), ("6.1-rc1", True), ("10.0+", True)],
)
def test_before_linux_5_14_namespaces_do_not_count_alone(
    release: str, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.uname_result(("Linux", "host", release, "#1", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: name)
    (sentence, *_) = Limiter(Limits(max_processes=50)).sentences(own_user_namespace=True)
    assert ("less what you start" in sentence) is not alone


@pytest.mark.usefixtures("no_group")
def test_nobody_gets_more_than_he_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: ANYBODY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 40))
    with Limiter(Limits(memory_bytes=MIB, max_processes=50)) as limiter:
        assert [limit[1:] for limit in limiter.rlimits(own_user_namespace=True)] == [(40, 40), (40, 40)]


def test_what_the_limits_did_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(**counts: Mapping[str, int] | None) -> tuple[str, ...]:
        monkeypatch.setattr(cgroup, "make", lambda _: FakeGroup(**counts))
        with Limiter(Limits(memory_bytes=200 * MIB, max_processes=50)) as limiter:
            return limiter.outcome()

    assert told(memory={"oom_kill": 0}, pids={"max": 0}) == ()
    (memory,) = told(memory={"oom": 2, "oom_kill": 3, "oom_group_kill": 1}, pids={"max": 0})
    assert memory.startswith("the agent used up its 200 MiB of memory, so the kernel killed it")
    (processes,) = told(memory={"oom_kill": 0}, pids={"max": 7})
    assert processes.startswith("the agent could not start a process or thread 7 times: it had 50 already")
    (once,) = told(memory={}, pids={"max": 1})
    assert "thread once:" in once
    (gone,) = told(memory=None, pids={"max": 0})
    assert "did not hold to the end" in gone


# Resource limits, on real processes.


@pytest.mark.usefixtures("no_group")
def test_root_is_refused_what_does_not_hold_for_him(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: ROOT)
    monkeypatch.setattr(limits, "_is_exempt", lambda: True)
    with Limiter(Limits(max_processes=50)) as limiter:
        with pytest.raises(UsageError, match=r"--max-processes .*root.*no control group.*Run nono as an ordinary user"):
            limiter.rlimits(own_user_namespace=True)
        monkeypatch.setattr(limits, "_is_exempt", lambda: False)  # of a rootless container
        assert limiter.rlimits(own_user_namespace=True) == ((resource.RLIMIT_NPROC, 51, 51),)


def test_who_is_exempt_is_found_out() -> None:
    assert limits._is_exempt() is (os.geteuid() == ROOT)

    def as_root_of_a_rootless_container() -> str:
        become(USER)
        enter_user_namespace(ROOT)
        return f"{os.geteuid()} {limits._is_exempt()}"

    assert in_child(as_root_of_a_rootless_container) == (0, "0 False")


@contextmanager
def others(count: int) -> Iterator[None]:
    """Other programs of the user."""
    running = []
    try:
        for _ in range(count):
            running.append(subprocess.Popen(["sleep", "60"], user=USER if os.geteuid() == ROOT else None))  # noqa: PERF401
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


@pytest.mark.usefixtures("no_group")
@pytest.mark.parametrize("own_user_namespace", [True, False])
def test_a_fork_bomb_stops_at_the_limit(own_user_namespace: bool) -> None:
    with others(30), Limiter(Limits(max_processes=20)) as limiter:
        status, count = run_limited(limiter, start_many, own_user_namespace=own_user_namespace, user=USER)
    assert status == 0
    # One is for the init of a run, and the process itself was counted among the user's: both are none here.
    if own_user_namespace:
        assert count == "21"
    else:
        assert 22 - 5 <= int(count) <= 22 + 5  # a user's other programs come and go


@pytest.mark.usefixtures("no_group")
@pytest.mark.parametrize("user", [ROOT, USER] if os.geteuid() == ROOT else [USER])
def test_a_memory_hog_gets_no_more(user: int) -> None:
    with Limiter(Limits(memory_bytes=200 * MIB)) as limiter:
        assert run_limited(limiter, take_memory, own_user_namespace=False, user=user) == (0, "MemoryError")
        # as the summary says
        assert run_limited(limiter, take_shared_memory, own_user_namespace=False, user=user) == (0, "300")


# Control groups, on real processes: in the lab (tests/lab), or where nono runs below a delegated one.


@pytest.fixture
def limiter(request: pytest.FixtureRequest) -> Iterator[Limiter]:
    with Limiter(request.param) as made:
        if not made.procs_fds:
            assert "NONO_LAB" not in os.environ, "the lab's machine delegates one"
            pytest.skip("no control group with memory and pids is delegated to this user")
        yield made


@pytest.mark.parametrize("limiter", [Limits(max_processes=20)], indirect=True)
def test_a_fork_bomb_in_a_control_group(limiter: Limiter) -> None:
    assert run_limited(limiter, start_many, own_user_namespace=False) == (0, "20")
    (sentence,) = limiter.outcome()
    assert "once: it had 20 already" in sentence


@pytest.mark.parametrize("take", [take_memory, take_shared_memory])
@pytest.mark.parametrize("limiter", [Limits(memory_bytes=100 * MIB, max_processes=20)], indirect=True)
def test_a_memory_hog_in_a_control_group(limiter: Limiter, take: Callable[[], str]) -> None:
    def agent() -> str:
        if os.fork() == 0:
            take()
        time.sleep(30)  # it is killed with what it started
        return "spared"

    assert run_limited(limiter, agent, own_user_namespace=False) == (-signal.SIGKILL, "")
    (sentence,) = limiter.outcome()
    assert sentence.startswith("the agent used up its 100 MiB of memory")


@pytest.mark.parametrize("limiter", [Limits(memory_bytes=100 * MIB)], indirect=True)
def test_nothing_of_a_control_group_is_left(limiter: Limiter) -> None:
    assert limiter._group is not None
    path = limiter._group.path

    def leave_one() -> str:
        if os.fork() == 0:
            os.closerange(3, 1000)
            os.setsid()
            time.sleep(60)
            os._exit(0)
        return "left"

    assert run_limited(limiter, leave_one, own_user_namespace=False) == (0, "left")
    assert Path(path, "cgroup.procs").read_text()
    limiter._group.close()
    limiter._group = None
    assert not os.path.exists(path)


# Time.


class Agent:
    """Signals that were sent, sentences that were told, and a loop that ends with the signal `until`."""

    def __init__(self, until: int) -> None:
        self.loop = Loop()
        self.signals: list[int] = []
        self.told: list[str] = []
        self._until = until

    def send(self, number: int) -> None:
        self.signals.append(number)
        if number == self._until:
            self.loop.stop()

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def run(self, timeout_s: float) -> Deadline:
        deadline = Deadline(self.loop, timeout_s, self.send, self.kill, self.told.append)
        self.loop.run()
        return deadline


@pytest.fixture
def agent() -> Iterator[Callable[[int], Agent]]:
    made: list[Agent] = []

    def make(until: int) -> Agent:
        made.append(Agent(until))
        return made[-1]

    yield make
    for each in made:
        each.loop.close()


def test_time_is_over(agent: Callable[[int], Agent]) -> None:
    asked = agent(signal.SIGCONT)
    start = time.monotonic()
    deadline = asked.run(0.05)
    assert 0.05 <= time.monotonic() - start < 2
    assert asked.signals == [signal.SIGTERM, signal.SIGCONT]
    assert asked.told == ["the agent's time is over: 0.05 s  (--timeout)"]
    assert deadline.expired
    assert (deadline.exit_status(0), deadline.exit_status(143)) == (124, 124)
    deadline.cancel()


def test_who_does_not_heed_term_is_killed(agent: Callable[[int], Agent], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_GRACE_S", 0.05)
    deaf = agent(signal.SIGKILL)
    assert deaf.run(0.01).exit_status(137) == 124
    assert deaf.signals == [signal.SIGTERM, signal.SIGCONT, signal.SIGKILL]
    assert len(deaf.told) == 2


def test_a_kill_that_does_not_arrive_is_asked_for_again(
    agent: Callable[[int], Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one is for the init, and does not need its ear: Job.kill."""
    monkeypatch.setattr(limits, "_GRACE_S", 0.01)
    monkeypatch.setattr(limits, "_KILLED_S", 0.01)
    deaf = agent(0)
    deaf.loop.call_later(0.2, deaf.loop.stop)
    deaf.run(0.01)
    assert deaf.signals[2:] == [signal.SIGKILL, signal.SIGKILL]


def test_who_ends_in_time_is_left_alone(agent: Callable[[int], Agent]) -> None:
    quick = agent(0)
    deadline = Deadline(quick.loop, 0.02, quick.send, quick.kill, quick.told.append)
    deadline.cancel()
    quick.loop.call_later(0.05, quick.loop.stop)
    quick.loop.run()
    assert (quick.signals, quick.told, deadline.expired) == ([], [], False)
    assert deadline.exit_status(7) == 7


def test_a_year_is_waited_for_in_parts(agent: Callable[[int], Agent], monkeypatch: pytest.MonkeyPatch) -> None:
    patient = agent(0)
    deadline = Deadline(patient.loop, 365 * 86400.0, patient.send, patient.kill, patient.told.append)
    patient.loop.call_later(0.01, patient.loop.stop)
    patient.loop.run()  # epoll_wait(2) refuses more than 24 days
    deadline.cancel()
    monkeypatch.setattr(limits, "_LONGEST_TIMER_S", 0.01)
    assert agent(signal.SIGCONT).run(0.05).expired
    assert patient.signals == []


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (Limits(memory_bytes=512 * MIB), "512 MiB memory in each process"),
        (Limits(memory_bytes=1536 * MIB), "1.5 GiB memory"),
        (Limits(memory_bytes=3_000_000), "2.861 MiB memory"),
        (Limits(max_processes=1), "1 process  "),
        (Limits(timeout_s=90), "1 min 30 s  (--timeout)"),
        (Limits(timeout_s=0.5), "0.5 s"),
        (Limits(timeout_s=7200), "2 h"),
        (Limits(timeout_s=365 * 86400), "8760 h"),
    ],
)
def test_a_limit_in_words(asked: Limits, text: str) -> None:
    assert Limiter(asked).sentences(own_user_namespace=True)[0].startswith(text)
