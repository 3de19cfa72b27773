"""What was written reaches the disk within WINDOW_S, without anybody waiting for it: a thread of its own.

A write only says that there is something (`wake`). The thread then lets WINDOW_S pass, in which more may come, and
syncs all of it at once: fdatasync(2) gives up the interpreter's lock, so the proxy's loop goes on. One second costs at
most one sync a second under load, nothing when idle, and is what a power failure may take; the death of nono alone
takes nothing, because the kernel has every record by then.
"""

from __future__ import annotations

import errno
import os
from _thread import allocate_lock, stack_size, start_new_thread
from collections.abc import Callable

WINDOW_S = 1.0
_BEGIN_TRIES, _BEGIN_PAUSE_S = 200, 0.005  # for which a thread may take to begin
_STACK_BYTES = 256 * 1024  # of the threads: eight megabytes, as usual, count where the address space is limited


class _Thread:
    """Runs `work` once; `wait` returns when it is over, or was never begun because no memory was left for it."""

    def __init__(self, work: Callable[[], None]) -> None:
        """Raises RuntimeError when no thread can be had."""
        self._work = work
        self._has_begun = False
        self._ended = allocate_lock()
        self._ended.acquire()
        before = stack_size(_STACK_BYTES)
        try:
            start_new_thread(self._main, ())
        finally:
            stack_size(before)

    def _main(self) -> None:
        try:
            self._has_begun = True
            self._work()
        except MemoryError:
            pass  # what was not synced is synced at the end, or by the kernel
        finally:
            self._ended.release()

    def wait(self) -> None:
        for _ in range(_BEGIN_TRIES):
            if self._has_begun:
                self._ended.acquire()
                return
            if self._ended.acquire(timeout=_BEGIN_PAUSE_S):
                return


class Syncer:
    """Calls `sync`, which raises nothing, on a thread, WINDOW_S after `wake`. Only one thread wakes and stops it."""

    def __init__(self, sync: Callable[[], None]) -> None:
        """Raises RuntimeError when no thread can be had."""
        self._sync = sync
        self._work, self._stop = allocate_lock(), allocate_lock()
        for lock in (self._work, self._stop):
            lock.acquire()
        self._thread = _Thread(self._run)

    def wake(self) -> None:
        """Say that something was written."""
        if self._work.locked():
            self._work.release()

    def stop(self) -> None:
        """End the thread, and wait for the sync that is under way. What was not synced is the caller's to sync."""
        self._stop.release()
        self.wake()
        self._thread.wait()

    def _run(self) -> None:
        while True:
            self._work.acquire()
            if self._stop.acquire(timeout=WINDOW_S):
                break
            self._sync()


def aside(sync: Callable[[], None]) -> Callable[[], object]:
    """Call `sync`, which raises nothing, on a thread; return what waits for its end. Two files take the time of one."""
    try:
        return _Thread(sync).wait
    except RuntimeError:  # no thread can be had
        sync()
        return lambda: None


def fault_of(fd: int) -> str:
    """Have the data of `fd` written to the disk; return what went wrong, or nothing."""
    try:
        getattr(os, "fdatasync", os.fsync)(fd)  # macOS has the latter only
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):  # it is no file: a pipe, /dev/full
            return os.strerror(error.errno or 0)
    return ""
