"""Limits of whole runs: a fork bomb, a memory hog, and one who does not stop; as root and as an ordinary user.

Where a control group is delegated (in the lab: tests/lab) that enforces, elsewhere resource limits do; each test knows
what either gives. Most agents are shell scripts, which need nothing but /bin/sh.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nono.kernel import cgroup
from tests.runs import unfolded

ROOT, ANYBODY = 0, 12345
TIMEOUT_S = 60
IN_LAB = "NONO_LAB" in os.environ
BOMB_S = "20" if IN_LAB else "3"  # a machine that is translated takes long to start 50 processes
START_S = 30 if IN_LAB else 9  # the longest that nono may take to start and to end
# The users in the lab are each in a place of their own.
USERS = (ROOT, ANYBODY) if os.geteuid() == ROOT and not IN_LAB else (os.geteuid(),)
# Root's own may be closed to others: then the system's, of the same version, with the same packages.
PYTHONS = (sys.executable, "/usr/bin/python3")
COUNT = "i=1; while [ $i -lt 100 ]; do sleep 60 & i=$((i+1)); echo $i; done"
# In Python, because a shell ends when it cannot fork.
BOMB = """
import os, time
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)
"""
HOG = "head -c 1000000000 /dev/zero | tail -c 1000000000 | wc -c"  # tail keeps it all
DEAF = "trap '' TERM; while :; do sleep 1; done"


class Runner:
    """Runs nono for one user, from a home of his own."""

    def __init__(self, user: int, home: Path) -> None:
        self.user = user
        self.home = home
        # Others tell their own processes by it; see `left`.
        self.mark = f"NONO_TEST_MARK={home.name}"
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "TMPDIR": str(home),
            "PYTHONPATH": f"{os.getcwd()}:{sysconfig.get_path('platlib')}",
        }
        self.python = next(filter(self._can_run, PYTHONS), "")

    def start(self, flags: list[str], script: str, *shell: str) -> subprocess.Popen[str]:
        """Start the script with /bin/sh, or with the `shell` that is named."""
        run: subprocess.Popen[str] = subprocess.Popen(
            [
                *(self.python, "-m", "nono", "run", "--allow-cwd", "--block-net", *flags),
                *("--", *(shell or ("/bin/sh",)), "-c", f"{script} # {self.mark}"),
            ],
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **self.identity(),  # type: ignore[call-overload]
        )
        return run

    def run(self, flags: list[str], script: str) -> tuple[int, str, str]:
        """Return the exit status, standard output and standard error."""
        with self.start(flags, script) as run:
            try:
                output, errors = run.communicate(timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired:
                run.kill()
                raise
        return run.returncode, output, unfolded(errors)

    def _can_run(self, python: str) -> bool:
        try:
            return not subprocess.call(
                [python, "-c", "import nono.session.run"],
                env=self.environment,
                stderr=subprocess.DEVNULL,
                **self.identity(),  # type: ignore[arg-type]
            )
        except PermissionError:
            return False

    def identity(self) -> dict[str, object]:
        if self.user == os.geteuid():
            return {}
        return {"user": self.user, "group": self.user, "extra_groups": []}

    @property
    def has_group(self) -> bool:
        """Whether control groups are delegated to this user."""
        if self.user != os.geteuid():
            return False
        group = cgroup.make({"memory": {}, "pids": {}})
        if group is not None:
            group.close()
        assert group is not None or not IN_LAB, "the lab's machine delegates one"
        return group is not None

    def counts_processes(self) -> bool:
        """Whether processes can be limited; the kernel exempts root from the resource limit."""
        return self.user != ROOT or self.has_group

    def left(self) -> list[str]:
        """Return the processes of the runs that still exist."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                if self.mark.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    found.append(name)
            except OSError:
                continue
        return found


@pytest.fixture(params=USERS)
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    home = Path(tempfile.mkdtemp(prefix="nono-limits-", dir="/var/tmp" if os.path.isdir("/var/tmp") else None))
    os.chown(home, request.param, request.param)
    try:
        runner = Runner(request.param, home)
        if not runner.python:
            pytest.skip(f"uid {runner.user} can run no Python that has what nono needs")
        yield runner
        assert runner.left() == []
        assert [name for name in os.listdir(home) if name.startswith("nono-")] == []  # temporary directories
    finally:
        shutil.rmtree(home, ignore_errors=True)


def test_processes_stop_at_the_limit(runner: Runner) -> None:
    status, output, errors = runner.run(["--max-processes", "50"], COUNT)
    if not runner.counts_processes():
        assert status == 2
        assert "--max-processes cannot be enforced here" in errors
        assert "Run nono as an ordinary user" in errors
        assert output == ""
        return
    assert output.split()[-1] == "50"
    assert "limits 50 processes and threads (--max-processes)" in errors
    if runner.has_group:
        assert "it had 50 already; a greater --max-processes" in errors


def test_a_fork_bomb_leaves_the_machine_usable(runner: Runner) -> None:
    if not runner.counts_processes():
        pytest.skip("without a control group --max-processes is refused to root")
    most = 0
    with runner.start(["--silent", "--max-processes", "50", "--timeout", BOMB_S], BOMB, runner.python, "-I") as run:
        while run.poll() is None:
            # Whoever started the bomb can still start what he likes.
            subprocess.run(["/bin/true"], check=True, **runner.identity())  # type: ignore[call-overload]
            most = max(most, len(runner.left()))
            time.sleep(0.05)
        assert run.wait(TIMEOUT_S) == 124
        assert run.stdout is not None
        assert run.stderr is not None
    assert 40 <= most <= 53  # with nono, its init, and what ends while it is looked at


def test_a_memory_hog_stops_at_the_limit(runner: Runner) -> None:
    status, output, errors = runner.run(["--memory", "100M"], f"sleep 60 & {HOG}")
    if runner.has_group:
        assert status == 128 + signal.SIGKILL
        assert "limits 100 MiB memory for all together (--memory)" in errors
        assert "used up its 100 MiB of memory, so the kernel killed it and all that it had started" in errors
    else:
        assert (status, output) == (0, "0\n"), "tail alone had no more"
        assert "tail: memory exhausted" in errors
        assert "limits 100 MiB memory in each process, shared memory aside (--memory)" in errors
        assert "no control group is delegated here" in errors


def test_a_limit_that_no_program_starts_with_is_an_ordinary_failure(runner: Runner) -> None:
    # Until its exec the agent is on the supervisor's memory: the kernel must not kill both (it spares who is in vfork).
    status, output, _ = runner.run(["--silent", "--memory", "1M"], f": {'x' * 100_000}; {HOG}")
    assert 0 <= status <= 255
    assert output in ("", "0\n")


def test_memory_is_counted_for_all_together(runner: Runner) -> None:
    if not runner.has_group:
        pytest.skip("no control group with memory is delegated to this user")
    part = "(head -c 64000000 /dev/zero; sleep 30) | tail -c 64000000 > /dev/null &"
    status, _, errors = runner.run(["--memory", "150M"], f"{part * 3} wait")
    assert status == 128 + signal.SIGKILL
    assert "used up its 150 MiB" in errors


def test_an_agent_cannot_leave_its_control_group(runner: Runner) -> None:
    if not runner.has_group:
        pytest.skip("no control group is delegated to this user")
    (mount,) = cgroup.mount_points()
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    outside = f"{mount}{own.rstrip('/')}/cgroup.procs"
    leave = f"echo 0 > {outside} && echo escaped; cat {outside} > /dev/null && echo read"
    around = ["--allow", os.path.dirname(mount)]
    _, output, _ = runner.run(around, leave)
    assert output.split() == ["escaped", "read"], "without limits it is only a file"
    _, output, errors = runner.run([*around, "--max-processes", "50"], leave)
    assert output.split() == ["read"], errors
    status, _, errors = runner.run(["--allow", mount, "--max-processes", "50"], leave)
    assert (status, "limits of this run" in errors) == (2, True)


def test_time_is_over(runner: Runner) -> None:
    start = time.monotonic()
    status, _, errors = runner.run(["--timeout", "1"], "sleep 60 & trap 'exit 3' TERM; wait")
    assert status == 124
    assert 1 <= time.monotonic() - start < 1 + START_S
    assert "killed" not in errors
    assert "limits 1 s (--timeout)" in errors
    assert "the agent's time is over: 1 s (--timeout)" in errors


@pytest.mark.parametrize("runner", USERS[-1:], indirect=True)
def test_one_who_does_not_heed_it_is_killed(runner: Runner) -> None:
    start = time.monotonic()
    status, _, errors = runner.run(["--silent", "--timeout", "0.5"], DEAF)
    assert status == 124
    assert 5.5 <= time.monotonic() - start < 5.5 + START_S
    assert "did not end within 5 s, so it is killed" in errors


def test_one_who_ends_in_time_has_his_own_status(runner: Runner) -> None:
    status, output, errors = runner.run(["--silent", "--timeout", "30", "--memory", "200M"], "echo done; exit 7")
    assert (status, output, errors) == (7, "done\n", "")
