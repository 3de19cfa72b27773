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
"""

from __future__ import annotations

import os
import signal
import sys
from time import monotonic

from nono.kernel.spawn import COMMAND_FOREGROUND, COMMAND_SIGNAL, EVENT_EXITED, EVENT_STOPPED, MESSAGE_BYTES
from nono.supervisor.job import FORWARDED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nono.kernel.spawn import Child
    from nono.loop import Loop
    from nono.supervisor.terminal import Terminal

_READ = 1  # nono.loop's; it is imported after the spawn
_NEEDS_THE_TERMINAL = (signal.SIGTTIN, signal.SIGTTOU)
_SECOND_TERM_S = 0.5  # timeout(1) sends each signal twice at once, to us and to our group: that is one


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
        terminal.on_hang_up = lambda: self.handle(bytes([signal.SIGHUP]))

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
            elif number == signal.SIGWINCH and self._terminal.resize():
                pass
            elif number in FORWARDED:
                self.send(number)
                if number in (signal.SIGTERM, signal.SIGHUP):
                    self.send(signal.SIGCONT)

    def handle_event(self, ready: int = _READ) -> None:
        """Act on what the init has said; does not wait."""
        while not self._exited:
            try:
                message = os.read(self._child.control_fd, MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            kind, value = (int.from_bytes(message[at : at + 4], sys.byteorder, signed=True) for at in (0, 4))
            if not message:
                self._end(signal.SIGKILL)
            elif kind == EVENT_EXITED:
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

    def _tell(self, kind: int, value: int) -> None:
        if self._exited:
            return
        try:
            message = b"".join(each.to_bytes(4, sys.byteorder, signed=True) for each in (kind, value))
            os.write(self._child.control_fd, message)
        except OSError:
            pass  # it has ended, which comes as an event

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
