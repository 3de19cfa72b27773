"""A window: a terminal that the test holds, in which a piece of code runs in a process of its own."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TIMEOUT_S = 60
PREAMBLE = """if True:
    import fcntl, os, signal, subprocess, sys, termios, time
    from nono.loop import Loop
    from nono.supervisor import terminal as terminals
    from nono.supervisor.terminal import Terminal

    def modes(fd):
        return termios.tcgetattr(fd)

    def is_raw(fd):
        return not modes(fd)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def attached():
        "A terminal with an agent's, whose side is `agent`."
        made, loop = Terminal(), Loop()
        master, agent = os.openpty()
        made.attach(loop, master)
        return made, loop, agent

    def run(loop, seconds=0.05):
        loop.call_later(seconds, loop.stop)
        loop.run()
"""


class Window:
    """A terminal in which `code` runs; what goes wrong there is in the file `errors`."""

    def __init__(self, directory: Path, code: str) -> None:
        self._errors = directory / "errors"
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.dup2(os.open(self._errors, os.O_CREAT | os.O_WRONLY), 2)
                os.execv(sys.executable, [sys.executable, "-c", PREAMBLE + code])
            finally:
                os._exit(99)
        self.seen = b""

    def expect(self, text: bytes) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.seen:
            if not select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                pytest.fail(f"{text!r} did not appear, but {self.seen!r}; {self._errors.read_text()}")
            try:
                self.seen += os.read(self.fd, 65536)
            except OSError:
                pytest.fail(f"{text!r} did not appear before the end, but {self.seen!r}; {self._errors.read_text()}")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def close(self) -> None:
        """Wait for the end, which must be a good one."""
        deadline = time.monotonic() + TIMEOUT_S
        while (ended := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"it does not end; {self._errors.read_text()}")
            if select.select([self.fd], [], [], 0.02)[0]:
                try:
                    self.seen += os.read(self.fd, 65536)
                except OSError:
                    time.sleep(0.01)  # its end comes
        os.close(self.fd)
        assert ended[1] == 0, self._errors.read_text()


def in_window(directory: Path, code: str, act: Callable[[Window], None] = lambda window: None) -> bytes:
    """Run `code` in a window while `act` uses that; return all that appeared."""
    window = Window(directory, code)
    try:
        act(window)
    except BaseException:
        window.kill()
        raise
    window.close()
    return window.seen
