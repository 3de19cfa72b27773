"""The agent's own terminal, and the user's while the agent runs.

Where one of standard input, output and error is a terminal, the agent gets a terminal of its own (pty(7)): those that
were the user's become it, the others stay what they are. The agent's is like the user's at the start (modes, size) and
the agent's alone: what it sets or sends there (job control, TIOCSTI) does not reach the user's shell. This module
copies bytes between the two, through the event loop, as sudo and ssh do:

- *Taken*: the user's terminal is raw, so that every key, ^C and ^Z too, is a byte for the agent's terminal, which does
  with it what the agent has set; and the agent's group is in the foreground there. So it is from the start where
  standard input is a terminal, none of the three is a pipe, and we are in the foreground.
- *Not taken*, otherwise: who else uses the user's terminal (`nono run … | less`, `echo x | nono run …`) finds it as it
  was, nobody's keys are read, and ^C and ^Z reach us as signals. What the agent writes comes out all the same. The
  agent is in the background of its own terminal: the kernel stops it when it reads from there or sets modes, and then
  the terminal is taken (if we are in the foreground; if not, we stop as it did, see job.py).

Nobody else's descriptor becomes non-blocking: the user's terminal is opened anew. Memory is bounded: what one side
does not take is not read from the other.

The modes are given back on every way out; those that somebody else has set meanwhile are left alone. For `kill -9`
there is a guard: a shell in a session of its own, out of reach of the terminal's keys, which waits for the end of a
pipe and then runs stty(1). It is a program and not a fork, so it holds nothing of our memory.

Sources: termios(3), ioctl_tty(2), pty(7); the numbers are those of include/uapi/asm-generic/{termbits,ioctls}.h, as
on x86-64 and aarch64 (the module termios would cost every run 0.3 ms).
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from fcntl import ioctl
from importlib import import_module
from time import monotonic

from nono.kernel.spawn import TerminalSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from nono.loop import Loop

_READ, _WRITE = 1, 2  # nono.loop's; it is imported after the spawn
_TCGETS, _TCSETS = 0x5401, 0x5402
_TIOCGWINSZ, _TIOCSWINSZ = 0x5413, 0x5414
_TIOCGPGRP, _TIOCGSID = 0x540F, 0x5429
# struct termios: c_iflag, c_oflag, c_cflag, c_lflag, c_line, c_cc[19]
_CC_AT = 17
_TERMIOS_BYTES = 36
_WINSIZE_BYTES = 8
# what cfmakeraw(3) clears; and IXANY and IMAXBEL, which are the agent's terminal's to act on
_RAW_IFLAG = 0o1 | 0o2 | 0o10 | 0o40 | 0o100 | 0o200 | 0o400 | 0o2000 | 0o4000 | 0o20000
_RAW_OFLAG = 0o1  # OPOST
_CSIZE, _CS8, _PARENB = 0o60, 0o60, 0o400
_RAW_LFLAG = 0o1 | 0o2 | 0o10 | 0o100 | 0o100000  # ISIG ICANON ECHO ECHONL IEXTEN
_ICANON = 0o2
_VEOF, _VTIME, _VMIN = 4, 5, 6

_CHUNK_BYTES = 65536
_LINE_BYTES = 4096  # of a terminal, N_TTY_BUF_SIZE
_IN_FLIGHT_BYTES = 256 * 1024  # more than a terminal holds (pty.c: 8 KiB, and 4 KiB of its line discipline)
_LAST_WORDS_S = 10.0  # how long the user's terminal may take nothing before what is left for it is given up
_BEFORE_A_STOP_S = 1.0
_TO_THE_FOREGROUND_S = 0.5  # it takes 0.1 ms

_GUARD_PATH = "/usr/bin:/bin"  # not the user's: the agent may be allowed to write there
_GUARD = 'read x; case $(stty -g <&3) in "$1"*) stty "$2" <&3 || stty sane <&3;; esac'


class Terminal:
    """The user's terminal, if there is one; a context manager. Made before the spawn, and attached after it.

    spec: what spawn makes for the agent; None: nothing. has_job_control: the user's terminal is our controlling one.
    interactive: whether a shell may be watching us for stops.
    on_hang_up: called once when the user's terminal has gone. watch: shown what the agent writes; raises nothing.
    """

    def __init__(self) -> None:
        self.on_hang_up: Callable[[], None] = lambda: None
        self.watch: Callable[[bytes], None] | None = None
        self._loop: Loop | None = None
        self._master = -1
        self._for_agent = self._for_user = b""
        self._waited: dict[int, int] = {}
        self._size = b""
        self._saved = self._raw = b""
        self._taken = False
        self._listens_by = 0.0  # until when the agent may be on its way into its terminal's foreground
        self._ended = False  # the agent's side of its terminal is closed for good
        self._guard_pid = self._guard_fd = -1
        self._fd = _open("/dev/tty")
        self.has_job_control = self._fd >= 0  # it is our controlling terminal
        self.spec = self._find()
        on = self.spec.descriptors if self.spec else ()
        # With standard error alone we were started by another program, which sends its signals to us.
        self.interactive = self.has_job_control and (0 in on or 1 in on)

    def _find(self) -> TerminalSpec | None:
        terminals = [fd for fd in (0, 1, 2) if os.isatty(fd)]
        kinds = {stat.S_IFMT(os.fstat(fd).st_mode) for fd in (0, 1, 2)}
        pipeline = bool(kinds & {stat.S_IFIFO, stat.S_IFSOCK})
        # Those that are not the user's keep what they are: somebody else's terminal, to which output is redirected.
        same = [fd for fd in terminals if _foreground_group(fd) >= 0] if self.has_job_control else []
        if not same and terminals:
            first = os.fstat(terminals[0])
            same = [fd for fd in terminals if os.path.samestat(os.fstat(fd), first)]
            if self._fd >= 0:
                os.close(self._fd)
            self.has_job_control = False
            self._fd = _open(f"/proc/self/fd/{same[0]}")
            if self._fd < 0:  # another user's terminal, as after su(1)
                self._fd = os.dup(same[0])
        self._is_shared = pipeline
        self._wanted = 0 in same and not pipeline
        if not same:
            return None
        return TerminalSpec(self._fd, tuple(same), self._wanted and self.in_front)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def in_front(self) -> bool:
        """Whether this process's group is in the foreground of the user's terminal."""
        if self.has_job_control:
            return _foreground_group(self._fd) == os.getpgrp()
        return self._fd >= 0  # no job control: whoever has it open may use it

    def attach(self, loop: Loop, master_fd: int) -> None:
        """Copy between the agent's terminal and the user's from now on. master_fd: -1 for none; owned from now on."""
        if master_fd < 0:
            return
        self._loop, self._master = loop, master_fd
        os.set_blocking(master_fd, False)
        self._size = ioctl(master_fd, _TIOCGWINSZ, bytes(_WINSIZE_BYTES))
        self.resize()
        self._waited = {master_fd: _READ, self._fd: 0}
        loop.register(master_fd, _READ, self._on_agent)
        loop.register(self._fd, 0, self._on_user)
        self.resume()

    def resize(self) -> bool:
        """Give the agent's terminal the size of the user's; return whether it had another: then the agent is told."""
        if self._master < 0:
            return False
        try:
            size = ioctl(self._fd, _TIOCGWINSZ, bytes(_WINSIZE_BYTES))
            if size == self._size:
                return False
            ioctl(self._master, _TIOCSWINSZ, size)
        except OSError:
            return False
        self._size = size
        return True

    def resume(self) -> bool:
        """Take the user's terminal again, if it was or would have been; return whether it is taken."""
        return self._wanted and self.take()

    def take(self) -> bool:
        """Take the user's terminal for the agent, if we are in its foreground; return whether it is taken."""
        if self._master < 0:
            return False
        self._wanted = True
        if not self.in_front:
            self._leave()
            return False
        try:
            modes = ioctl(self._fd, _TCGETS, bytes(_TERMIOS_BYTES))
            if modes != self._raw:  # a shell that saw us stopped by SIGSTOP has set its own
                self._leave()
                self._saved = modes
                self._for_agent += self._read_ahead(modes)
                self._set_raw(_make_raw(modes, self._ends_lines()))
        except OSError:
            return False  # it has gone; whoever reads or writes there learns it
        self._taken = True
        self._listens_by = monotonic() + _TO_THE_FOREGROUND_S
        self._wait()
        return True

    def give_back(self) -> None:
        """Let the user's terminal be as it was, before we stop. What the agent has written comes out before."""
        if self._master >= 0:
            self.drain(_BEFORE_A_STOP_S)
            self._restore()
            self._wait()

    def drain(self, limit_s: float = _LAST_WORDS_S) -> None:
        """Copy all that the agent has written until now. limit_s: how long the user's terminal may take nothing."""
        copied, deadline = 0, monotonic() + limit_s
        while self._master >= 0:
            before = len(self._for_user)
            if before == 0:
                if copied > _IN_FLIGHT_BYTES or not self._read_agent():
                    return  # whoever still writes there is not the agent
                copied += len(self._for_user)
            elif not self._write_user():
                return
            elif len(self._for_user) < before:
                deadline = monotonic() + limit_s
            else:
                poll = import_module("select").poll()
                poll.register(self._fd, 4)  # POLLOUT
                if not poll.poll(max(0.0, deadline - monotonic()) * 1000):
                    return

    def close(self) -> None:
        """Copy what the agent wrote last, give the terminal back, and forget both. Twice is once."""
        self.drain()
        self._restore()
        self._detach()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _detach(self) -> None:
        if self._master >= 0 and self._loop is not None:
            for fd in self._waited:
                self._loop.unregister(fd)
            os.close(self._master)
            self._master = -1

    def _on_agent(self, ready: int) -> None:
        if self._master < 0:
            return  # an event of this turn, from before the user's terminal went
        if ready & _WRITE and self._for_agent and self._agent_listens():
            self._write_agent()
        if ready & _READ and not self._for_user and self._read_agent():
            self._follow()
            self._write_user()
        self._wait()

    def _on_user(self, ready: int) -> None:
        if self._master < 0:
            return
        if ready & _WRITE and self._for_user:
            self._write_user()
        if ready & _READ and self._taken and not self._for_agent:
            if self.has_job_control and _foreground_group(self._fd) not in (os.getpgrp(), -1):
                self._leave()  # moved to the background while nobody looked: the keys are somebody else's
            elif self._agent_listens() and self._read_user():
                self._write_agent()
        self._wait()

    def _follow(self) -> None:
        """Where others write to the user's terminal too, let it end lines, unless the agent wants LF to be LF."""
        if not (self._is_shared and self._taken):
            return
        try:
            raw = _make_raw(self._saved, self._ends_lines())
            if raw != self._raw and ioctl(self._fd, _TCGETS, bytes(_TERMIOS_BYTES)) == self._raw:
                self._set_raw(raw)
        except OSError:
            pass  # it has gone; whoever reads or writes there learns it

    def _ends_lines(self) -> bool:
        return self._is_shared and bool(_flags(ioctl(self._master, _TCGETS, bytes(_TERMIOS_BYTES)))[1] & _RAW_OFLAG)

    def _set_raw(self, raw: bytes) -> None:
        ioctl(self._fd, _TCSETS, raw)
        self._end_guard()
        self._raw = ioctl(self._fd, _TCGETS, bytes(_TERMIOS_BYTES))
        self._start_guard()

    def _agent_listens(self) -> bool:
        """Whether the init has done what it was told, and put the agent in the foreground: ^C would be lost before."""
        if self._listens_by:
            try:
                group, session = (ioctl(self._master, request, bytes(4)) for request in (_TIOCGPGRP, _TIOCGSID))
            except OSError:
                group, session = b"", b"none"
            if group == session and monotonic() < self._listens_by:
                return False  # the loop asks again at once
            self._listens_by = 0.0
        return True

    def _read_agent(self) -> bool:
        """Read what the agent has written; return whether there was something."""
        if self._ended:
            return False
        try:
            self._for_user = os.read(self._master, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody has it open, nor can open it again
            self._ended = True
            return False
        if self.watch is not None:
            self.watch(self._for_user)
        return bool(self._for_user)

    def _write_user(self) -> bool:
        """Write what is there for the user; return whether the terminal is still there."""
        try:
            self._for_user = self._for_user[os.write(self._fd, self._for_user) :]
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up()
            return False
        return True

    def _read_user(self) -> bool:
        try:
            self._for_agent = os.read(self._fd, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            self._for_agent = b""
        if not self._for_agent:  # in raw mode no key does that
            self._hang_up()
        return bool(self._for_agent)

    def _read_ahead(self, modes: bytes) -> bytes:
        """Return the lines that were typed already; raw mode would make a NUL of an end of input among them."""
        typed, end = b"", bytes([modes[_CC_AT + _VEOF]])
        if _flags(modes)[3] & _ICANON and not os.get_blocking(self._fd):
            while len(typed) < _LINE_BYTES:
                try:
                    line = os.read(self._fd, _LINE_BYTES)
                except OSError:
                    break
                typed += line if line.endswith(b"\n") else line + end
        return typed

    def _write_agent(self) -> None:
        try:
            self._for_agent = self._for_agent[os.write(self._master, self._for_agent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._for_agent = b""

    def _wait(self) -> None:
        """Wait for what can go on now."""
        if self._master < 0 or self._loop is None:
            return
        idle = not self._for_user and not self._ended
        for fd, events in (
            (self._master, _READ * idle | _WRITE * bool(self._for_agent)),
            (self._fd, _READ * (self._taken and not self._for_agent) | _WRITE * bool(self._for_user)),
        ):
            if self._waited[fd] != events:
                self._waited[fd] = events
                self._loop.modify(fd, events)

    def _hang_up(self) -> None:
        """The user's terminal has gone: so does the agent's."""
        self.on_hang_up()
        self._for_user = self._for_agent = b""
        self._leave()
        self._detach()

    def _leave(self) -> None:
        """Read no more keys; the modes are somebody else's."""
        self._taken = False
        self._raw = b""
        self._end_guard()

    def _restore(self) -> None:
        if not self._taken:
            return
        previous = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # to set modes from the background, at the end
        try:
            if ioctl(self._fd, _TCGETS, bytes(_TERMIOS_BYTES)) == self._raw:
                ioctl(self._fd, _TCSETS, self._saved)
        except OSError:
            pass  # it has gone
        finally:
            signal.signal(signal.SIGTTOU, previous)
        self._leave()

    def _start_guard(self) -> None:
        try:
            read_fd, self._guard_fd = os.pipe2(os.O_CLOEXEC)
        except OSError:
            return
        arguments = ["sh", "-c", _GUARD, "nono-guard", _stty(self._raw), _stty(self._saved) + ":0" * 13]
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_DUP2, read_fd, 0), (os.POSIX_SPAWN_DUP2, self._fd, 3)]
        actions += [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
        try:
            self._guard_pid = os.posix_spawn(
                "/bin/sh", arguments, {"PATH": _GUARD_PATH}, file_actions=actions, setsid=True
            )
        except OSError:
            pass  # without a shell, `kill -9` leaves the terminal raw: no reason not to run
        finally:
            os.close(read_fd)

    def _end_guard(self) -> None:
        """End it before it looks at the terminal, whose modes are the next program's from now on."""
        if self._guard_pid > 0:
            try:
                if os.waitpid(self._guard_pid, os.WNOHANG)[0] == 0:
                    os.kill(self._guard_pid, signal.SIGKILL)
                    os.waitpid(self._guard_pid, 0)
            except (ChildProcessError, ProcessLookupError):
                pass
        if self._guard_fd >= 0:
            os.close(self._guard_fd)
        self._guard_pid = self._guard_fd = -1


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1


def _foreground_group(fd: int) -> int:
    try:
        return os.tcgetpgrp(fd)
    except OSError:
        return -1  # no terminal, or not ours, or it has gone


def _flags(modes: bytes) -> list[int]:
    return [int.from_bytes(modes[at : at + 4], sys.byteorder) for at in range(0, 16, 4)]


def _make_raw(modes: bytes, ends_lines: bool) -> bytes:
    """Return `modes` made raw. ends_lines: output is still processed, which makes CR LF of LF."""
    iflag, oflag, cflag, lflag = _flags(modes)
    iflag &= ~_RAW_IFLAG
    oflag &= ~(0 if ends_lines else _RAW_OFLAG)
    cflag = cflag & ~(_CSIZE | _PARENB) | _CS8
    lflag &= ~_RAW_LFLAG
    raw = bytearray(b"".join(flag.to_bytes(4, sys.byteorder) for flag in (iflag, oflag, cflag, lflag)))
    raw += modes[len(raw) :]
    raw[_CC_AT + _VTIME], raw[_CC_AT + _VMIN] = 0, 1
    return bytes(raw)


def _stty(modes: bytes) -> str:
    """Return `modes` as `stty -g` prints them, but for the last 13 characters, which Linux does not have."""
    return ":".join(f"{number:x}" for number in (*_flags(modes), *modes[_CC_AT:]))
