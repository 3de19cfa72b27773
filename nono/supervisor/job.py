"""The child's life after its exec: signals, the terminal, and the exit status.

The supervisor is to the child what an interactive shell is to a job (glibc manual, "Implementing a Job Control Shell"):

- The child leads its own process group, and holds the terminal while it runs, so that a key like ^C reaches it from
  the kernel. Only where the terminal may be in use by others too (`nono run … | less`, `echo x | nono run …`) the child
  stays in our group, because taking the terminal would stop them; a key then reaches it as it reaches them.
- INT, QUIT, TERM, HUP, USR1, USR2, WINCH and TSTP sent to us are sent on to the child's group, and to the child itself
  where it has left that. TERM and HUP are followed by CONT, because a stopped process takes no other signal. A second
  TERM is KILL. INT never is: agents give ^C twice a meaning of their own.
- When the child stops, we take the terminal back and stop our group too, so that the user's shell sees it; when we are
  continued, we give the terminal back and continue the child. Where no shell watches (a terminal window that runs
  nono itself) the kernel does not let us stop, and the child is continued at once.
- We are the subreaper of all that the child starts: when it is gone, whatever it left is killed, because it was
  granted to this run, and the terminal is ours again if a group that is gone had it.

Signals arrive through signal.set_wakeup_fd(2 ends of a pipe); the handlers themselves do nothing. `Signals` is entered
before the spawn, so that no signal falls between.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from importlib import import_module
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

FORWARDED = (
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
_NEEDS_THE_TERMINAL = (signal.SIGTTIN, signal.SIGTTOU)
_SECOND_TERM_S = 0.5  # timeout(1) sends each signal twice at once, to us and to our group: that is one
_KILLED_S = 2.0  # how long a killed process may take to die; one that waits for a dead file server takes for ever


def _wake(number: int, frame: object) -> None:
    """Do nothing: the byte on the wake-up pipe says it all."""


class Signals:
    """Catches this process's signals as bytes on a pipe; a context manager. `fd` is readable when there are any."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._previous_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in (*FORWARDED, signal.SIGCHLD, signal.SIGCONT):
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
    """The controlling terminal, if there is one; a context manager.

    shared: whether the child stays in our process group. handed_fd: the terminal, for the child's group at its start;
    -1 for nothing. interactive: whether a shell may be watching us for stops.
    """

    def __init__(self) -> None:
        try:
            self._fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1
        on_input, on_output, on_errors = map(os.isatty, (0, 1, 2))
        # With standard error alone we were started by another program, which sends its signals to us.
        self.interactive = self._fd >= 0 and (on_input or on_output)
        self._was_in_front = self.in_front
        whole = on_input and on_output and on_errors
        self.shared = self.in_front and self.interactive and not whole
        self.handed_fd = self._fd if self.in_front and whole else -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Take the terminal back from a group that is gone; the run's processes have ended."""
        if self._was_in_front and not _exists(_foreground_group(self._fd)):
            _set_foreground(self._fd, os.getpgrp())
        if self._fd >= 0:
            os.close(self._fd)

    @property
    def in_front(self) -> bool:
        """Whether this process's group is the foreground group."""
        return _foreground_group(self._fd) == os.getpgrp()

    def give_to(self, group: int) -> None:
        """Make `group` the foreground group, if this process's own one is it now and the child uses the terminal."""
        if self.interactive and self.in_front:
            self._was_in_front = True
            _set_foreground(self._fd, group)

    def take_from(self, group: int) -> None:
        """Make this process's group the foreground group again, if `group` is it now."""
        if _foreground_group(self._fd) == group:
            _set_foreground(self._fd, os.getpgrp())


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


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Job:
    """One child. Feed it the signals that came (`handle`); `on_exit` is called once with the exit status."""

    def __init__(self, pid: int, terminal: Terminal, on_exit: Callable[[int], None]) -> None:
        self.pid = pid
        self._terminal = terminal
        self._on_exit = on_exit
        self._exited = False
        self._first_term: float | None = None

    def handle(self, numbers: bytes) -> None:
        """Act on each signal number."""
        for number in numbers:
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGCONT:
                self._continue()
            elif number == signal.SIGTERM and self._is_second_term():
                self.send(signal.SIGKILL)
            elif not (self._terminal.shared and number in _FROM_THE_TERMINAL):
                self.send(number)
                if number in (signal.SIGTERM, signal.SIGHUP):
                    self.send(signal.SIGCONT)

    def send(self, number: int) -> None:
        """Send a signal to the child's process group, and to the child itself where it is not in that one."""
        if self._exited:
            return
        try:
            if os.getpgid(self.pid) != self.pid:
                os.kill(self.pid, number)
            if not self._terminal.shared:
                os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def _is_second_term(self) -> bool:
        now = monotonic()
        if self._first_term is None:
            self._first_term = now
        return now - self._first_term >= _SECOND_TERM_S

    def _continue(self) -> None:
        if not self._exited:
            self._terminal.give_to(os.getpgid(self.pid))
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
                self._stop(os.WSTOPSIG(status))
            else:
                self._exited = True
                self._terminal.take_from(self.pid)
                self._on_exit(exit_status(status))

    def _stop(self, number: int) -> None:
        """The child was stopped by the signal `number`."""
        if number in _NEEDS_THE_TERMINAL and self._terminal.in_front:
            self._terminal.interactive = True  # it opened the terminal by itself, as to ask for a password
            self._continue()
            return
        self._terminal.take_from(os.getpgid(self.pid))
        if self._terminal.interactive:
            # As the terminal does it: a shell that runs us in a script has to see the script stop. The kernel ignores
            # it in an orphaned process group, where nobody could continue us (setpgid(2)).
            handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.killpg(0, signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, handler)
            if self._terminal.in_front:
                self._continue()


def exit_status(status: int) -> int:
    """Return what a shell would: the exit status, or 128 + the number of the signal that ended it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def children() -> set[int]:
    """Return the ids of this process's children, adopted ones included. Source: proc(5), /proc/PID/stat field 4."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()  # mostly so, and cheaper to learn than from hundreds of files
    me, found = str(os.getpid()).encode(), set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue  # gone meanwhile
            if fields[1] == me:
                found.add(int(name))
    return found


def kill_descendants(spared: AbstractSet[int]) -> None:
    """End all that is left of this process's children and theirs, and reap them. The subreaper's last duty.

    spared: children that are none of the run's: who exec'd nono had them before. One that cannot be killed is left.
    """
    while found := children() - spared:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        deadline = monotonic() + _KILLED_S
        spared = spared | {pid for pid in found if not _reap_killed(pid, deadline)}


def _reap_killed(pid: int, deadline: float) -> bool:
    """Wait for the end of the child `pid`, until `deadline`; return whether it came."""
    pidfd = os.pidfd_open(pid)
    try:
        end = import_module("select").poll()  # 0.3 ms that nobody waits for now
        end.register(pidfd)
        end.poll(max(0.0, deadline - monotonic()) * 1000)
    finally:
        os.close(pidfd)
    return os.waitpid(pid, os.WNOHANG)[0] == pid
