"""The agent's standard error, passed on byte for byte by way of a pipe of nono's, so that what it tells can be read.

Only where it can be done without a trace: standard error is a pipe or a file, and nothing else of the agent's is the
same one (`2>&1`: the order between the two would be lost). A terminal is read where it is copied anyway (terminal.py);
sockets and devices are left alone.

What goes in comes out, in order and at once: a thread reads what there is and writes it to where it was to go, and
waits there as the agent would have (back-pressure). It does nothing else but show each piece to `observe`. Into a pipe,
which others may share, it writes whole lines of up to PIPE_BUF bytes, so that those stay in one piece as they would
have. When the reader has gone, the pipe is closed, and the agent meets SIGPIPE or EPIPE at its next write (one write
later than without nono). What a full disk does not take is lost, and the agent does not learn it.

What differs: the agent sees a pipe where it would have seen a file (fstat(2), lseek(2)), and a pipe more holds bytes.

At the end, when all of the agent's processes are gone, what is still in the pipe is passed on, as long as somebody
takes it. If nono was told to end, or has ended the agent itself, it does not wait for a reader that takes nothing.
"""

from __future__ import annotations

import _thread
import os
import stat
import sys
from fcntl import F_DUPFD_CLOEXEC, fcntl, ioctl
from importlib import import_module
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from nono.loop import Loop

_READ = 1  # nono.loop's; it is imported after the spawn
_STDERR = 2
_CHUNK_BYTES = 65536
_PIPE_BUF = 4096
_FIONREAD = 0x541B  # asm-generic/ioctls.h
_LOOK_S = 0.05  # how often the end is looked for, while the reader is slow
_HURRIED_S = 2.0  # how long a reader may take nothing when the run was ended from outside


class ErrorOutput:
    """The pipe in between; a context manager that is the agent's standard error while the agent is being started.

    Entered around the start: nono's own descriptor 2 is the pipe meanwhile, and what nono says there comes out of it
    like all else. `serve` then passes on, and `finish` waits for the last of it.
    """

    def __init__(self) -> None:
        self._read_fd = self._kept_fd = -1
        self._observe: Callable[[bytes], None] = lambda data: None
        self._to_pipe = False
        self._serving: _thread.LockType | None = None
        self._moved = 0  # bytes passed on
        self._taken = self._settled = 0  # bytes read; bytes that there is nothing more to do with
        self._is_writing = False

    def __enter__(self) -> Self:
        self._read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        self._kept_fd = fcntl(_STDERR, F_DUPFD_CLOEXEC, 3)
        self._to_pipe = stat.S_ISFIFO(os.fstat(_STDERR).st_mode)
        os.dup2(write_fd, _STDERR)
        os.close(write_fd)
        return self

    def __exit__(self, *exc: object) -> None:
        os.dup2(self._kept_fd, _STDERR)

    def serve(self, observe: Callable[[bytes], None], loop: Loop) -> None:
        """Pass on from now on, in a thread; where there can be none, in the loop.

        observe: called with each piece; raises nothing.
        """
        self._observe = observe
        self._serving = _thread.allocate_lock()
        self._serving.acquire()
        try:
            _thread.start_new_thread(self._pass_on, ())
        except RuntimeError:  # the limit of processes is reached
            self._serving = None
            loop.register(self._read_fd, _READ, lambda ready: self._pass_one_on(loop))

    def finish(self, told_to_end: Callable[[], bool]) -> None:
        """Wait until all is passed on; nobody but us has the pipe any more. told_to_end: asked now and then."""
        if self._read_fd >= 0 and self._serving is None:  # no thread; or no agent, but we may have said something
            os.set_blocking(self._read_fd, False)
            self._pass_on()
        stuck_since, moved, hurried = 0.0, -1, False
        held = last = -1  # bytes in the pipe at first; how many there are up to the last of the run's own
        while self._serving is not None and not self._serving.acquire(timeout=_LOOK_S):
            now = monotonic()
            hurried |= told_to_end()
            if moved != self._moved:
                stuck_since, moved = now, self._moved
            elif not self._held_bytes() and not self._is_writing:
                return  # somebody outside of the run was handed the other end
            elif hurried and now - stuck_since > _HURRIED_S:
                return
            if held < 0:
                held = self._held_bytes()
            elif last < 0:  # a piece that was on its way from the pipe to us is counted by now
                last = self._taken + held
            elif self._settled >= last:
                return  # he writes on

    def _held_bytes(self) -> int:
        """How many bytes wait in the pipe."""
        try:
            return int.from_bytes(ioctl(self._read_fd, _FIONREAD, bytes(4)), sys.byteorder)
        except (OSError, ValueError):  # closed by now; as -1
            return 0

    def _pass_one_on(self, loop: Loop) -> None:
        """In the loop: one piece."""
        try:
            data = os.read(self._read_fd, _CHUNK_BYTES)
            self._write(data)
        except BrokenPipeError:
            data = b""
        if data:
            self._observe(data)
        else:
            loop.unregister(self._read_fd)
            self._close()

    def _pass_on(self) -> None:
        """In the thread, until the agent's side is closed for good, or the reader has gone."""
        try:
            while data := os.read(self._read_fd, _CHUNK_BYTES):
                self._taken += len(data)
                self._is_writing = True
                self._write(data)
                self._is_writing = False
                self._observe(data)
                self._settled = self._taken
        except (BrokenPipeError, BlockingIOError):
            pass
        finally:
            self._close()
            if self._serving is not None:
                self._serving.release()

    def _close(self) -> None:
        os.close(self._read_fd)
        os.close(self._kept_fd)
        self._read_fd = self._kept_fd = -1

    def _write(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            end = len(data)
            if self._to_pipe and end - at > _PIPE_BUF:
                end = data.rfind(b"\n", at, at + _PIPE_BUF) + 1 or at + _PIPE_BUF
            try:
                written = os.write(self._kept_fd, data[at:end])
                at += written
                self._moved += written
            except BlockingIOError:  # somebody else has made it non-blocking
                poll = import_module("select").poll()
                poll.register(self._kept_fd, 4)  # POLLOUT
                poll.poll()
            except BrokenPipeError:
                raise
            except OSError:
                return  # a full disk: the agent would have been told, and most programs do not ask


def can_be_passed_on() -> bool:
    """Whether the agent's standard error may be a pipe of ours: see above."""
    try:
        error = os.fstat(_STDERR)
        if not (stat.S_ISFIFO(error.st_mode) or stat.S_ISREG(error.st_mode)):
            return False
        others = []
        for fd in (0, 1):
            try:
                others.append(os.fstat(fd))
            except OSError:
                continue  # closed
    except OSError:
        return False
    return not any(os.path.samestat(error, other) for other in others)
