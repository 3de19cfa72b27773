"""The agent's life after its exec: signals, stops, and the exit status.

The agent's parent is the init that kernel.spawn left behind, which leads the agent's session; what happens comes from
there as messages, and signals go there as messages. The supervisor is to the user's shell what the agent would be, and
to the agent what a shell would be (glibc manual, "Implementing a Job Control Shell"):

- INT, QUIT, TERM, HUP, USR1, USR2, WINCH and TSTP sent to us are sent on to the agent's group, and to the agent itself
  where it has left that. TERM and HUP are followed by CONT, because a stopped process takes no other signal. A second
  TERM is KILL. INT never is: agents give ^C twice a meaning of their own. WINCH is the terminal's affair where the
  agent has one: its kernel tells the agent when the size is another.
- When the agent stops, the user's terminal is given back and we stop our group too, so that the user's shell sees it;
  when we are continued, the terminal is taken again and the agent continued. Where no shell watches (a terminal window
  that runs nono itself) the kernel does not let us stop, and the agent is continued at once.
- When the agent stops because it needs its terminal, it gets that at once if we are in the foreground of the user's.
- When the init is gone, so is the agent.
- Where there is no PID namespace, what the agent leaves becomes the init's, and then ours, because we are a subreaper:
  it is killed, because what it was granted was for this run (`kill_descendants`).

Signals arrive through signal.set_wakeup_fd (a pipe); the handlers themselves do nothing. `Signals` is entered before
the spawn, so that no signal falls between. Those that whoever started us had ignored (nohup(1), `nono run … &` in a
script) stay ignored.
"""

from __future__ import annotations

import os
import signal
from importlib import import_module
from time import monotonic

from nono.kernel.spawn import (
    COMMAND_FOREGROUND,
    COMMAND_SIGNAL,
    EVENT_EXITED,
    EVENT_STOPPED,
    receive_event,
    send_command,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet
    from typing import Self

    from nono.kernel.spawn import Child
    from nono.loop import Loop
    from nono.supervisor.terminal import Terminal

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
_NEEDS_THE_TERMINAL = (signal.SIGTTIN, signal.SIGTTOU)
_SECOND_TERM_S = 0.5  # timeout(1) sends each signal twice at once, to us and to our group: that is one
_ONE_HANG_UP_S = 2.0  # within which the end of the terminal and a HUP are one
_KILLED_S = 2.0  # how long a killed process may take to die; one that waits for a dead file server takes for ever
_READ = 1  # nono.loop's; it is imported after the spawn


def _wake(number: int, frame: object) -> None:
    """Do nothing: the byte on the wake-up pipe says it all."""


class Signals:
    """Catches this process's signals as bytes on a pipe; a context manager. `fd` is readable when there are any."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._previous_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in (*_FORWARDED, signal.SIGCONT):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, _wake)
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


class Job:
    """One agent. Feed it the signals that came (`handle`); `on_exit` is called once with the exit status.

    The status is what a shell has: 128 + the number of the signal that ended the agent.
    """

    def __init__(self, child: Child, terminal: Terminal, on_exit: Callable[[int], None]) -> None:
        self._child = child
        self._terminal = terminal
        self._on_exit = on_exit
        self._loop: Loop | None = None
        self._exited = False
        self._stopped = False
        self._in_foreground = terminal.spec is not None and terminal.spec.in_foreground
        self._last_term: float | None = None
        self._kills = 0
        os.set_blocking(child.control_fd, False)
        self._last_hup = self._terminal_gone = float("-inf")
        terminal.on_hang_up = self._hang_up

    def attach(self, loop: Loop) -> None:
        """Have the loop call `handle_event`, until the agent's end."""
        self._loop = loop
        loop.register(self._child.control_fd, _READ, self.handle_event)

    def handle(self, numbers: bytes) -> None:
        """Act on each signal number."""
        for number in numbers:
            if number == signal.SIGCONT:
                self._continue()
            elif number == signal.SIGTERM and self._is_second_term():
                self.kill()
            elif number in _FORWARDED and not self._is_known(number):
                self.send(number)
                if number in (signal.SIGTERM, signal.SIGHUP):
                    self.send(signal.SIGCONT)

    def handle_event(self, ready: int = _READ) -> None:
        """Act on what the init has said; does not wait."""
        while not self._exited:
            try:
                event = receive_event(self._child.control_fd)
            except BlockingIOError:
                return
            kind, value = event or (EVENT_EXITED, signal.SIGKILL)
            if kind == EVENT_EXITED:
                self._end(value)
            elif kind == EVENT_STOPPED:
                self._stop(value)

    def send(self, number: int) -> None:
        """Send a signal to the agent's process group, and to the agent itself where it is not in that one."""
        self._tell(COMMAND_SIGNAL, number)

    def kill(self) -> None:
        """End the agent; asked again, its init."""
        self._kills += 1
        if self._kills == 1:
            self.send(signal.SIGKILL)
        elif not self._exited:
            signal.pidfd_send_signal(self._child.pidfd, signal.SIGKILL)

    def _hang_up(self) -> None:
        """The user's terminal has gone, of which kernel or shell may tell us by a signal, before or after."""
        if monotonic() - self._last_hup >= _ONE_HANG_UP_S:
            self.handle(bytes([signal.SIGHUP]))
        self._terminal_gone = monotonic()

    def _tell(self, kind: int, value: int) -> None:
        if self._exited:
            return
        try:
            send_command(self._child.control_fd, kind, value)
        except OSError:
            pass  # it has ended, which comes as an event

    def _is_known(self, number: int) -> bool:
        """Whether the agent knows by its terminal already what this signal says."""
        if number == signal.SIGWINCH:
            return self._terminal.resize()
        if number == signal.SIGHUP:
            self._last_hup = monotonic()
            return self._last_hup - self._terminal_gone < _ONE_HANG_UP_S
        return False

    def _is_second_term(self) -> bool:
        now, last = monotonic(), self._last_term
        if last is not None and now - last < _SECOND_TERM_S:
            return False
        self._last_term = now
        return last is not None

    def _end(self, status: int) -> None:
        self._exited = True
        if self._loop is not None:
            self._loop.unregister(self._child.control_fd)
        self._on_exit(exit_status(status))

    def _stop(self, number: int) -> None:
        """The agent was stopped by the signal `number`."""
        self._stopped = True
        terminal = self._terminal
        if number in _NEEDS_THE_TERMINAL and terminal.take():
            self._continue()
            return
        terminal.give_back()
        if not (terminal.interactive or (number == signal.SIGTSTP and terminal.has_job_control and terminal.in_front)):
            return
        # As the terminal does it: a shell that runs us in a script has to see the script stop. The kernel ignores it in
        # an orphaned process group, where nobody could continue us (setpgid(2)).
        if not _stop_group(number if number in _NEEDS_THE_TERMINAL else signal.SIGTSTP):
            if not terminal.in_front:
                self.send(signal.SIGHUP)  # it waits for what will never come; the kernel does so with orphans
            self._continue()

    def _continue(self) -> None:
        if self._exited:
            return
        self._terminal.resize()
        in_foreground = self._terminal.resume()
        if self._terminal.spec is not None and (self._stopped or in_foreground != self._in_foreground):
            self._tell(COMMAND_FOREGROUND, int(in_foreground))
        self._in_foreground = in_foreground
        self._stopped = False
        self.send(signal.SIGCONT)


def _stop_group(number: int) -> bool:
    """Stop this process's group, as by `number`; return, when it was continued, whether it had been stopped."""
    if signal.getsignal(number) == signal.SIG_IGN:
        return False  # a shell without job control started us
    continued: list[int] = []
    on_continue = signal.signal(signal.SIGCONT, lambda number, frame: continued.append(number))
    on_stop = signal.signal(number, signal.SIG_DFL)
    os.killpg(0, number)
    signal.signal(number, on_stop)
    signal.signal(signal.SIGCONT, on_continue)
    return bool(continued)  # and its byte is on the wake-up pipe, so that `handle` continues the agent


def exit_status(status: int) -> int:
    """Return what a shell would: the exit status, or 128 + the number of the signal that ended it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def children() -> set[int]:
    """Return the ids of this process's children, adopted ones included.

    Sources: proc(5), /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN), which is exact while none is reaped, and
    nobody but this thread reaps; /proc/PID/stat field 4, in hundreds of files.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()
    found: set[int] = set()
    try:
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children", "rb") as file:
                found.update(map(int, file.read().split()))
    except OSError:
        pass  # this kernel has no such file, or a thread of ours has ended
    else:
        if found:
            return found
    me = str(os.getpid()).encode()
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
