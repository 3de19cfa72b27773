"""`nono run` where something is missing that every program takes for granted: descriptors, memory, processes, places.

However bad it is, a run ends in one of two ways: the agent ran and its status is the run's, or one sentence says what
is missing, with nono's own status. No traceback, and nothing is left: no file, no process.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from nono.supervisor.enforcement import attempt_mount_namespace
from tests.runs import NOTHING, TIMEOUT_S, Site, as_ordinary_user, require_command

USAGE, OWN = 2, 1
RAN = "the agent ran\n"
USER = 20000 + os.getpid() % 10000  # nobody else's: RLIMIT_NPROC counts by user


class Bad:
    """How one run ended. left: processes that had not ended with it."""

    def __init__(self, site: Site, status: int, stdout: str, stderr: str, left: list[tuple[int, str]]) -> None:
        self.site = site
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        self.left = left

    def __repr__(self) -> str:
        return f"status {self.status}, stdout {self.stdout!r}, stderr:\n{self.stderr}\nleft: {self.left}"

    @property
    def ran(self) -> bool:
        """Whether the agent ran and ended as it would without nono."""
        return self.stdout == RAN and self.status == 0 and "nono: " not in self.stderr

    def check(self, sentence: str = "", statuses: Iterable[int] = (OWN, USAGE)) -> None:
        """Assert that it ended well, or in one sentence that matches `sentence`; that it must where one is given."""
        assert self.left == [], self
        assert list(self.site.tmp.iterdir()) == [], "nothing is left in TMPDIR"
        assert "Traceback" not in self.stderr, self
        assert "bug of nono" not in self.stderr, self
        lines = [line for line in self.stderr.splitlines() if line.startswith("nono: ")]
        if self.stdout == RAN and not lines and not sentence:
            return  # if it has failed, then by itself: the limit is its own, too
        assert self.status in statuses, self
        (line,) = lines
        assert re.search(sentence, line), self


def processes(mark: str) -> list[tuple[int, str]]:
    """Return pid and command line of all processes that have `mark` in it, but for this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # gone meanwhile
        if mark in command and path.parent.name != str(os.getpid()):
            found.append((int(path.parent.name), command))
    return found


def run(
    site: Site,
    flags: Iterable[str] = ("--allow-cwd",),
    *,
    wrap: Iterable[str] = (),
    limits: Mapping[int, int] = NOTHING,  # type: ignore[assignment]
    environment: Mapping[str, str] = NOTHING,
    command: Iterable[str] = (),
    cwd: Path | None = None,
) -> Bad:
    """Run an agent that says that it ran, and lives on for a moment. limits: RLIMIT_* and the limit."""

    def confine() -> None:
        for which, limit in limits.items():
            resource.setrlimit(which, (limit, limit))

    mark = f"mark-{os.urandom(8).hex()}"
    agent = list(command) or ["sh", "-c", f"echo the agent ran; sleep 0.05; : {mark}"]
    process = subprocess.Popen(
        [*wrap, sys.executable, "-m", "nono", "run", *flags, "--", *agent],
        cwd=cwd or site.work,
        env={**site.environment, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=confine,
    )
    try:
        status = process.wait(TIMEOUT_S)
    finally:
        process.kill()
    left = processes(mark)  # at once: who outlives nono for a moment does outlive it
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    return Bad(site, status, stdout.decode(errors="replace"), stderr.decode(errors="replace"), left)


def flags_of(site: Site, kind: str) -> list[str]:
    """Return the flags of a KIND of run: each starts other parts of the supervisor."""
    if kind == "open":
        return ["--allow-cwd"]
    proxied = ["--allow-cwd", "--profile", str(site.profile(site.store_in_files()))]
    return proxied if kind == "proxied" else [*proxied, "--sandbox", "notify"]


KINDS = ("open", "proxied", "mediated")


@pytest.fixture
def user(site: Site) -> Iterator[tuple[str, ...]]:
    """What starts a command as an ordinary user; the site is his. He may read this Python, wherever it lies."""
    with as_ordinary_user(site, USER) as prefix:
        yield prefix


def test_the_measure_is_right(site: Site) -> None:
    for kind in KINDS:
        assert run(site, flags_of(site, kind)).ran, kind


# Descriptors.


@pytest.mark.parametrize("kind", KINDS)
def test_few_descriptors(site: Site, kind: str) -> None:
    flags = flags_of(site, kind)
    outcomes = {}
    least = next(most for most in range(4, 20) if python_starts(resource.RLIMIT_NOFILE, most))
    for most in (*range(least, 41, 2 if kind == "mediated" else 5), 64):
        outcomes[most] = run(site, flags, limits={resource.RLIMIT_NOFILE: most})
        outcomes[most].check()
    assert outcomes[64].ran
    assert any("ulimit -n" in each.stderr for each in outcomes.values())


@pytest.mark.parametrize("kind", ["proxied", "mediated"])
def test_an_agent_that_takes_all_descriptors_of_its_supervisor(site: Site, kind: str) -> None:
    """It gets no more answers while it holds them, and answers again when it has let go."""
    ended = run(site, flags_of(site, kind), limits={resource.RLIMIT_NOFILE: 64}, command=site.agent("crowd", "200"))
    assert ended.status == 0, ended
    found = json.loads(ended.stdout)
    assert found["held"] >= 40
    assert found["afterwards"] == 200, ended
    assert "Traceback" not in ended.stderr, ended
    assert ended.left == []
    assert list(site.tmp.iterdir()) == []


# Memory.


def python_starts(limit: int, most: int) -> bool:
    """Whether this Python itself can start and import what a run needs with so much of what `limit` counts."""

    def confine() -> None:
        resource.setrlimit(limit, (most, most))

    done = subprocess.run(
        [sys.executable, "-c", "import nono.session.run, nono.cli.run"], preexec_fn=confine, capture_output=True
    )
    return done.returncode == 0 and not done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_little_memory(site: Site, kind: str) -> None:
    flags = flags_of(site, kind)
    least = next(most for most in range(12 << 20, 200 << 20, 1 << 20) if python_starts(resource.RLIMIT_AS, most))
    for more in (0, 1, 2, 4, 6, 9, 13, 18, 24, 32, 64, 256):
        last = run(site, flags, limits={resource.RLIMIT_AS: least + (more << 20)})
        if "SystemError at " not in last.stderr:  # Python's own, where an import runs out of memory
            last.check()
    assert last.ran, last


# Processes.


@pytest.mark.parametrize("kind", KINDS)
def test_few_processes(site: Site, user: tuple[str, ...], kind: str) -> None:
    flags = flags_of(site, kind)
    for path in site.vault.iterdir():
        os.chown(path, USER, USER)
    for most in (*range(1, 8), 12):
        last = run(site, flags, wrap=user, limits={resource.RLIMIT_NPROC: most})
        last.check()
    assert last.ran, last


# Places.


def test_no_temporary_directory(site: Site) -> None:
    run(site, environment={"TMPDIR": f"{site.directory}/none"}).check(r"temporary directory.*Set TMPDIR")


def test_a_temporary_directory_that_cannot_be_written(site: Site, user: tuple[str, ...]) -> None:
    os.chown(site.tmp, 0, 0)
    site.tmp.chmod(0o755)
    run(site, wrap=user).check(r"temporary directory.*Permission denied.*Set TMPDIR")


@pytest.fixture
def in_own_mounts() -> Callable[[str], tuple[str, ...]]:
    """Return what starts a command after a shell's line, in a mount namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    require_command("unshare")
    return lambda line: ("unshare", "--mount", "sh", "-c", f'{line} && exec "$@"', "sh")


def test_a_full_temporary_directory(site: Site, in_own_mounts: Callable[[str], tuple[str, ...]]) -> None:
    wrap = in_own_mounts(f"mount -t tmpfs -o size=4k,nr_inodes=1 tmpfs {site.tmp}")
    run(site, wrap=wrap).check(r"temporary directory.*No space left.*Set TMPDIR")


def test_a_temporary_directory_that_becomes_full(site: Site, in_own_mounts: Callable[[str], tuple[str, ...]]) -> None:
    """The agent's directory is made; nothing fits into it."""
    wrap = in_own_mounts(f"mount -t tmpfs -o size=4k,nr_inodes=2 tmpfs {site.tmp}")
    run(site, flags_of(site, "proxied"), wrap=wrap).check()


def test_a_read_only_state_directory(site: Site, in_own_mounts: Callable[[str], tuple[str, ...]]) -> None:
    site.state.mkdir(parents=True)
    wrap = in_own_mounts(f"mount -t tmpfs -o ro tmpfs {site.state}")
    run(site, flags_of(site, "proxied"), wrap=wrap).check(r"audit.*Read-only file system")


def test_a_full_state_directory(site: Site, in_own_mounts: Callable[[str], tuple[str, ...]]) -> None:
    site.state.mkdir(parents=True)
    wrap = in_own_mounts(f"mount -t tmpfs -o size=4k,nr_inodes=1,mode=0700 tmpfs {site.state}")
    run(site, flags_of(site, "proxied"), wrap=wrap).check(r"audit.*No space left")


def test_a_state_directory_of_somebody_else(site: Site, user: tuple[str, ...]) -> None:
    site.state.mkdir(parents=True)
    flags = flags_of(site, "proxied")
    for path in site.vault.iterdir():
        os.chown(path, USER, USER)
    os.chown(site.state, 0, 0)
    site.state.chmod(0o755)
    run(site, flags, wrap=user).check(r"audit")


@pytest.mark.parametrize("home", ["", "relative"])
def test_no_home(site: Site, home: str) -> None:
    run(site, environment={"HOME": home}).check(r"HOME", (USAGE,))


def test_home_is_not_set_at_all(site: Site) -> None:
    del site.environment["HOME"]
    run(site).check(r"HOME", (USAGE,))


def test_a_home_that_is_not_there(site: Site) -> None:
    shutil.rmtree(site.home)
    run(site).check()


def test_a_home_that_is_a_file(site: Site) -> None:
    shutil.rmtree(site.home)
    site.home.write_text("no directory")
    run(site).check()
    run(site, flags_of(site, "proxied")).check(r"audit")


def test_a_working_directory_that_was_removed(site: Site) -> None:
    line = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    run(site, wrap=("sh", "-c", line, "sh")).check(r"current directory does not exist", (USAGE,))


def test_a_working_directory_that_cannot_be_entered(site: Site, user: tuple[str, ...]) -> None:
    """As after `sudo -u somebody`: the shell stands where this user could not go."""
    os.chown(site.work, 0, 0)
    site.work.chmod(0o700)
    run(site, (), wrap=user).check(r"may not be entered|working directory|current directory")


# Standard streams.

_STREAMS = {"input": "<&-", "output": ">&-", "errors": "2>&-", "all": "<&- >&- 2>&-"}


@pytest.mark.parametrize("closed", _STREAMS.values(), ids=_STREAMS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_closed_streams(site: Site, closed: str, kind: str) -> None:
    mark = site.work / "it ran"
    ended = run(
        site,
        flags_of(site, kind),
        wrap=("sh", "-c", f'exec "$@" {closed}', "sh"),
        command=["touch", str(mark)],
    )
    assert (ended.status, ended.stdout) == (0, ""), ended
    assert mark.exists()
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("full", [">/dev/full", "2>/dev/full", ">/dev/full 2>&1"])
def test_full_streams(site: Site, full: str) -> None:
    """What cannot be said is not said; the agent runs all the same."""
    mark = site.work / "it ran"
    ended = run(site, wrap=("sh", "-c", f'exec "$@" {full}', "sh"), command=["touch", str(mark)])
    assert ended.status == 0, ended
    assert mark.exists()


# A child that does not want to end.


WALLS = ("namespace", "notify")


@pytest.fixture(params=[(), *(("--sandbox", wall, "--block-net") for wall in WALLS)], ids=("auto", *WALLS))
def stubborn(site: Site, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A run whose agent ignores TERM, and so does all that it has started."""
    script = "trap '' TERM HUP; (while :; do sleep 1; done) & echo ready; while :; do sleep 1; done"
    with site.start(["--allow-cwd", *request.param], ["sh", "-c", f"{script}; : {site.directory}"]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()
    for pid, _ in processes(f": {site.directory}"):
        os.kill(pid, signal.SIGKILL)


def test_a_second_term_kills(site: Site, stubborn: subprocess.Popen[bytes]) -> None:
    stubborn.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        stubborn.wait(0.7)
    stubborn.send_signal(signal.SIGTERM)
    assert stubborn.wait(TIMEOUT_S) == 128 + signal.SIGKILL
    assert processes(f": {site.directory}") == []
    assert list(site.tmp.iterdir()) == []


def test_its_time_is_over_all_the_same(site: Site) -> None:
    script = f"trap '' TERM; echo ready; while :; do sleep 1; done; : {site.directory}"
    done = site.run(["--allow-cwd", "--timeout", "0.5"], ["sh", "-c", script])
    assert (done.returncode, done.stdout) == (124, "ready\n"), done.stderr
    assert "the agent's time is over" in done.stderr
    assert processes(f": {site.directory}") == []


@pytest.mark.parametrize("stubborn", [()], indirect=True, ids=["auto"])
def test_a_killed_supervisor_takes_it_along(site: Site, stubborn: subprocess.Popen[bytes]) -> None:
    """In a PID namespace; without one, what the agent has started can live on: test_p7_fail_closed.py has that."""
    if attempt_mount_namespace() is not None:
        pytest.skip("no PID namespace is to be had here")
    stubborn.kill()
    stubborn.wait(TIMEOUT_S)
    deadline = time.monotonic() + TIMEOUT_S
    while processes(f": {site.directory}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
