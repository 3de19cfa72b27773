"""The child's life after its exec: signals, the terminal, and the exit status.

The supervisor is to the child what an interactive shell is to a job (glibc manual, "Implementing a Job Control Shell"):

- The child leads its own process group, and holds the terminal while it runs, so that a key like ^C reaches it from
  the kernel. Only where the terminal's foreground group is shared with others (`nono run … | less`: standard input is
  the terminal, output is not) the child stays in our group, because taking the terminal would stop them.
- INT, QUIT, TERM, HUP, USR1, USR2, WINCH and TSTP sent to us are sent on to the child's group.
- When the child stops, we take the terminal back and stop too, so that the user's shell sees it; when we are
  continued, we give the terminal back and continue the child.
- We are the subreaper of all that the child starts: when it is gone, whatever it left is killed, because it was
  granted to this run.

Signals arrive through signal.set_wakeup_fd(2 ends of a pipe); the handlers themselves do nothing. `watch()` starts
before the spawn, so that no signal falls between.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_FORWARDED = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGTSTP,
)
_FROM_THE_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH, signal.SIGTSTP)


def _wake(number: int, frame: object) -> None:
    """Do nothing: the byte on the wake-up pipe says it all."""


class Signals:
    """Catches this process's signals as bytes on a pipe; a context manager. `fd` is readable when there are any."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._previous_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in (*_FORWARDED, signal.SIGCHLD, signal.SIGCONT):
            self._previous[number] = signal.signal(number, _wake)
        self._previous[signal.SIGTTOU] = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # tcsetpgrp from the background
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self.fd)
        os.close(self._write_fd)

    def take(self) -> bytes:
        """Return the numbers of the signals that came, in order."""
        try:
            return os.read(self.fd, 4096)
        except BlockingIOError:
            return b""


class Terminal:
    """The controlling terminal, when standard input is it.

    fd: the terminal, ours to hand over; -1 where there is none or it is shared. shared: whether the child stays in
    our process group. handed_fd: what to hand to the child's group at its start; -1 for nothing.
    """

    def __init__(self) -> None:
        in_foreground = _foreground_group(0) == os.getpgrp()
        whole = os.isatty(0) and os.isatty(1) and os.isatty(2)
        self.shared = in_foreground and not whole
        self.fd = 0 if whole else -1
        self.handed_fd = self.fd if in_foreground else -1

    @property
    def interactive(self) -> bool:
        """Whether a shell may be watching us for stops."""
        return self.shared or self.fd >= 0

    def give_to(self, group: int) -> None:
        """Make `group` the foreground group, if this process's own one is it now."""
        if self.fd >= 0 and _foreground_group(self.fd) == os.getpgrp():
            _set_foreground(self.fd, group)

    def take_from(self, group: int) -> None:
        """Make this process's group the foreground group again, if `group` is it now."""
        if self.fd >= 0 and _foreground_group(self.fd) == group:
            _set_foreground(self.fd, os.getpgrp())


def _foreground_group(fd: int) -> int:
    try:
        return os.tcgetpgrp(fd)
    except OSError:
        return -1  # no terminal, or not ours


def _set_foreground(fd: int, group: int) -> None:
    try:
        os.tcsetpgrp(fd, group)
    except OSError:
        pass  # the terminal went away, or the group did: both end by themselves


class Job:
    """One child. Feed it the signals that came (`handle`); `on_exit` is called once with the exit status."""

    def __init__(self, pid: int, terminal: Terminal, on_exit: Callable[[int], None]) -> None:
        self.pid = pid
        self._terminal = terminal
        self._on_exit = on_exit
        self._exited = False

    def handle(self, numbers: bytes) -> None:
        """Act on each signal number."""
        for number in numbers:
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGCONT:
                self._continue()
            elif not (self._terminal.shared and number in _FROM_THE_TERMINAL):
                self.send(number)

    def send(self, number: int) -> None:
        """Send a signal to the child's process group (to the child alone, where it shares ours)."""
        if self._exited:
            return
        try:
            if self._terminal.shared:
                os.kill(self.pid, number)
            else:
                os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def _continue(self) -> None:
        if not self._exited:
            self._terminal.give_to(self.pid)
            self.send(signal.SIGCONT)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid != self.pid:
                continue  # an orphan of the child's, which became ours
            if os.WIFSTOPPED(status):
                self._stop()
            else:
                self._exited = True
                self._terminal.take_from(self.pid)
                self._on_exit(exit_status(status))

    def _stop(self) -> None:
        self._terminal.take_from(self.pid)
        if self._terminal.interactive:
            os.kill(os.getpid(), signal.SIGSTOP)
            # Continued: SIGCONT is now on the pipe, and `_continue` does the rest.


def exit_status(status: int) -> int:
    """Return what a shell would: the exit status, or 128 + the number of the signal that ended it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def kill_descendants() -> None:
    """End all that is left of this process's children and theirs, and reap them. The subreaper's last duty."""
    while True:
        children = _children()
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            os.waitpid(-1, 0 if children else os.WNOHANG)
        except ChildProcessError:
            return


def _children() -> list[int]:
    """Return the ids of this process's children, adopted ones included. Source: proc(5), /proc/PID/stat field 4."""
    me, found = str(os.getpid()), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue  # gone meanwhile
            if fields[1].decode() == me:
                found.append(int(name))
    return found
