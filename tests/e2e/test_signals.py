"""Signals, the terminal and the end of a run, on a real pseudo-terminal, as an interactive shell would have it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import TIMEOUT_S, Site

FLAGS = ["--allow-cwd", "--block-net", "--silent"]
EXIT = 7  # the agent's status after USR1


class TerminalSession:
    """`nono run` as the only job of a terminal; `expect` reads what appears there."""

    def __init__(self, site: Site, command: list[str]) -> None:
        argv = [sys.executable, "-m", "nono", "run", *FLAGS, "--", *command]
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(site.work)
                os.execve(argv[0], argv, site.environment)
            finally:
                os._exit(99)
        self._seen = b""

    def expect(self, text: bytes) -> bytes:
        """Return all that appeared up to the end of `text`; fail when it does not come."""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self._seen:
            ready, _, _ = select.select([self.terminal], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                pytest.fail(f"{text!r} did not appear; the terminal shows {self._seen!r}")
            try:
                self._seen += os.read(self.terminal, 4096)
            except OSError:  # EIO: everybody has closed it
                pytest.fail(f"{text!r} did not appear before the end; the terminal shows {self._seen!r}")
        before, self._seen = self._seen.split(text, 1)
        return before + text

    def type(self, keys: bytes) -> None:
        os.write(self.terminal, keys)

    def wait(self, flags: int = 0) -> int:
        """Wait for nono itself to end (or, with WUNTRACED, to stop); return its wait status."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, flags | os.WNOHANG)
            if pid:
                return status
            select.select([self.terminal], [], [], 0.02)
        pytest.fail("nono did not end")

    def close(self) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.terminal)


@pytest.fixture
def session(site: Site) -> Iterator[TerminalSession]:
    made = TerminalSession(site, site.agent("signals"))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("key", "name"), [(b"\x03", b"SIGINT"), (b"\x1c", b"SIGQUIT")], ids=["control-C", "control-backslash"]
)
def test_a_key_reaches_the_child_once(session: TerminalSession, key: bytes, name: bytes) -> None:
    session.expect(b"ready")
    session.type(key)
    session.expect(name)
    os.kill(session.pid, signal.SIGUSR1)
    assert session.expect(b"SIGUSR1").count(name) == 0
    assert os.waitstatus_to_exitcode(session.wait()) == EXIT


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGWINCH"])
def test_a_signal_to_nono_reaches_the_child(session: TerminalSession, name: str) -> None:
    session.expect(b"ready")
    os.kill(session.pid, getattr(signal, name))
    session.expect(name.encode())
    os.kill(session.pid, signal.SIGUSR1)
    assert os.waitstatus_to_exitcode(session.wait()) == EXIT


def test_a_new_window_size_reaches_the_child(session: TerminalSession) -> None:
    session.expect(b"ready")
    fcntl.ioctl(session.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    session.expect(b"SIGWINCH")


def test_control_z_stops_both_and_continues_both(session: TerminalSession) -> None:
    child = int(session.expect(b"\n").split()[1])
    session.type(b"\x1a")
    assert os.WIFSTOPPED(session.wait(os.WUNTRACED))
    assert state(child) == "T"
    os.kill(session.pid, signal.SIGCONT)
    session.expect(b"SIGCONT")
    session.type(b"\x03")  # the child has the terminal again
    session.expect(b"SIGINT")
    os.kill(session.pid, signal.SIGUSR1)
    assert os.waitstatus_to_exitcode(session.wait()) == EXIT


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_reaches_the_child_without_a_terminal(site: Site, name: str) -> None:
    with site.start(FLAGS, site.agent("signals")) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready")
        process.send_signal(getattr(signal, name))
        assert process.stdout.readline() == name.encode() + b"\n"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(TIMEOUT_S) == EXIT


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_reaches_the_whole_group(site: Site, name: str) -> None:
    """Not only the child itself: a shell that handles the signal, and the program that it runs."""
    python = ["--read", sys.prefix, "--read", sys.base_prefix]
    script = 'trap "caught=yes" TERM HUP; trap : USR1; "$@"; echo "shell $caught"'
    with site.start([*FLAGS, *python], ["/bin/sh", "-c", script, "sh", *site.agent("signals")]) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready")
        process.send_signal(getattr(signal, name))
        assert process.stdout.readline() == name.encode() + b"\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == b"SIGUSR1\nshell yes\n"


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -TERM $$", 128 + 15), ("kill -KILL $$", 128 + 9)],
)
def test_the_exit_status_is_the_childs(site: Site, script: str, status: int) -> None:
    assert site.run(FLAGS, ["/bin/sh", "-c", script]).returncode == status


def test_standard_output_is_the_childs_alone(site: Site) -> None:
    done = site.run(["--allow-cwd", "--block-net"], ["/bin/sh", "-c", "printf out; printf err >&2"])
    assert done.stdout == "out"
    assert done.stderr.endswith("err")
    assert done.stderr.startswith("nono")


def test_nothing_that_the_child_started_is_left_running(site: Site) -> None:
    # The second one keeps standard output open: run() would not return while it lives.
    script = "setsid sleep 600 >/dev/null 2>&1 & echo $!; (sleep 600 & echo $!) ; exit 0"
    done = site.run(FLAGS, ["/bin/sh", "-c", script])
    for pid in done.stdout.split():
        assert not Path(f"/proc/{pid}").exists()
    assert list(site.tmp.iterdir()) == []


def state(pid: int) -> str:
    """Return the state letter of a process, as ps(1) shows it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
