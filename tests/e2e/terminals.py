"""A terminal as a test has it: commands that run in it, keys that are typed, what appears."""

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from tests.runs import TIMEOUT_S, Site, require_command

FLAGS = ["--allow-cwd", "--block-net", "--silent"]


_TIOCGPTN = 0x80045430  # ioctl_tty(2)


class TerminalSession:
    """A terminal and the one command that was started in it; `expect` reads what appears there."""

    def __init__(self, site: Site, argv: list[str]) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(site.work)
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
                os.execve(argv[0], argv, {**site.environment, "PS1": "$ ", "HISTFILE": "", "TERM": "xterm"})
            finally:
                os._exit(99)
        self._seen = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.terminal)

    @property
    def name(self) -> str:
        """The path of the terminal, which the command has as its standard input."""
        number = fcntl.ioctl(self.terminal, _TIOCGPTN, bytes(4))
        return f"/dev/pts/{int.from_bytes(number, sys.byteorder)}"

    def hang_up(self) -> None:
        """Let the terminal end, as a window that is closed."""
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, self.terminal)
        os.close(null)

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

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes that appear."""
        while len(self._seen) < count:
            ready, _, _ = select.select([self.terminal], [], [], TIMEOUT_S)
            if not ready:
                pytest.fail(f"no more than {len(self._seen)} bytes appeared")
            self._seen += os.read(self.terminal, 65536)
        taken, self._seen = self._seen[:count], self._seen[count:]
        return taken

    @property
    def modes(self) -> list[Any]:
        """What termios.tcgetattr says of the terminal."""
        return termios.tcgetattr(self.terminal)

    @property
    def is_raw(self) -> bool:
        return not self.modes[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def process(self, pid: int) -> int:
        """Return the id, as this process sees it, of what has the id `pid` in a PID namespace of the session's."""
        return seen_from_here(self.pid, pid)

    def type(self, keys: bytes) -> None:
        os.write(self.terminal, keys)

    def run(self, command: str) -> None:
        """Type a command line to a shell, once it waits for one."""
        self.expect(b"$ ")
        self.type(f"{command}\n".encode())
        self.expect(b"\n")  # the echo

    def wait(self) -> int:
        """Wait for the command to end; return its exit status."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            select.select([self.terminal], [], [], 0.02)
        pytest.fail("nono did not end")


def nono(*command: str, flags: Sequence[str] = FLAGS) -> list[str]:
    return [sys.executable, "-m", "nono", "run", *flags, "--", *command]


def shell(site: Site) -> TerminalSession:
    """An interactive shell, which does job control."""
    return TerminalSession(site, [require_command("bash"), "--norc", "--noediting", "-i"])


def wait_for(happened: Callable[[], bool]) -> None:
    """Ask again and again, for what sends no event."""
    deadline = time.monotonic() + TIMEOUT_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def seen_from_here(ancestor: int, pid: int) -> int:
    """Return the id, as this process sees it, of that descendant of `ancestor` that has the id `pid` for itself."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in path.read_text().splitlines())
        except OSError:
            continue  # gone meanwhile
        parents[int(fields["Pid"])] = int(fields["PPid"]), int(fields["NSpid"].split()[-1])
    found = []
    for each, (parent, own) in parents.items():
        while own == pid and parent in parents and parent != ancestor:
            parent = parents[parent][0]
        if own == pid and parent == ancestor:
            found.append(each)
    assert len(found) == 1, f"no process {pid} below {ancestor}: {found}"
    return found[0]


def state(pid: int) -> str:
    """Return the state letter of a process, as ps(1) shows it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
