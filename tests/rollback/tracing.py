"""A process that is killed as it enters its Nth system call, wherever that is made: in Python, in C, in a thread.

ptrace(2) stops it there. The tracer is a process of its own, so that it waits for no child of pytest's. Calls that
change nothing on the disk are not counted on x86-64, where their numbers are known: dying before one of them is dying
before the next.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import traceback
from collections.abc import Callable, Iterable

ENDED, FAILED, KILLED, CANNOT = 0, 1, 42, 43

_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_OPTIONS = 0x1 | 0x8 | 0x100000  # TRACESYSGOOD, TRACECLONE, EXITKILL
_WALL = 0x40000000
_AT_CALL = signal.SIGTRAP | 0x80
_ENTRY = 1
_OPENAT, _CHANGING_FLAGS = 257, os.O_CREAT | os.O_TRUNC
# read close stat fstat lstat poll lseek mmap mprotect munmap brk sigaction sigprocmask pread access madvise dup getpid
# fcntl getcwd getuid getgid geteuid getegid readlink sigaltstack statfs fstatfs gettid getxattr lgetxattr fgetxattr
# listxattr llistxattr flistxattr futex getdents64 clock_gettime newfstatat readlinkat getrandom statx close_range rseq
_LOOKING = {
    0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 21, 28, 32, 39, 72, 79, 102, 104, 107, 108, 89, 131, 137, 138, 186,
    191, 192, 193, 194, 195, 196, 202, 217, 228, 262, 267, 318, 332, 334, 436,
}  # fmt: skip


class _Info(ctypes.Structure):
    _fields_ = (
        ("op", ctypes.c_uint8), ("pad", ctypes.c_uint8 * 3), ("arch", ctypes.c_uint32), ("ip", ctypes.c_uint64),
        ("sp", ctypes.c_uint64), ("number", ctypes.c_uint64), ("args", ctypes.c_uint64 * 6), ("more", ctypes.c_uint64),
    )  # fmt: skip


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def count(run: Callable[[], object]) -> int:
    """How many calls it makes; -1 where nothing can be traced. `run` is carried out."""
    reads, writes = os.pipe()
    status = _in_child(lambda: _trace(run, -1, writes))
    os.close(writes)
    with os.fdopen(reads) as file:
        told = file.read()
    assert status in (ENDED, CANNOT), status
    return int(told) if status == ENDED else -1


def killed_at(run: Callable[[], object], at: int) -> bool:
    """Run it in a process of its own, which is killed at that call; False if it came to its end."""
    status = _in_child(lambda: _trace(run, at, -1))
    assert status in (ENDED, KILLED), status
    return status == KILLED


def points(total: int, most: int) -> Iterable[int]:
    """Where to kill: at all of them with NONO_TEST_EVERY_CALL, else at so many, spread over all."""
    if os.environ.get("NONO_TEST_EVERY_CALL"):
        return range(1, total + 1)
    return sorted({1 + index * (total - 1) // (most - 1) for index in range(most)})


def _in_child(run: Callable[[], int]) -> int:
    pid = os.fork()
    if pid == 0:
        status = FAILED
        try:
            status = run()
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _trace(run: Callable[[], object], at: int, tell: int) -> int:
    pid = os.fork()
    if pid == 0:
        _run_traced(run)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        return os.waitstatus_to_exitcode(status)
    assert _libc.ptrace(_SETOPTIONS, pid, None, _OPTIONS) == 0, os.strerror(ctypes.get_errno())
    thread, deliver, calls = pid, 0, 0
    while True:
        _libc.ptrace(_SYSCALL, thread, None, deliver)
        deliver = 0
        thread, status = os.waitpid(-1, _WALL)
        while not os.WIFSTOPPED(status) and thread != pid:  # one of its threads has ended
            thread, status = os.waitpid(-1, _WALL)
        if not os.WIFSTOPPED(status):
            break
        if os.WSTOPSIG(status) == _AT_CALL:
            calls += _changes(thread)
            if calls == at:
                os.kill(pid, signal.SIGKILL)
                while os.waitpid(-1, _WALL)[0] != pid:
                    pass
                return KILLED
        elif os.WSTOPSIG(status) not in (signal.SIGTRAP, signal.SIGSTOP):
            deliver = os.WSTOPSIG(status)
    if tell >= 0:
        os.write(tell, b"%d" % calls)
    return os.waitstatus_to_exitcode(status)


def _run_traced(run: Callable[[], object]) -> None:
    status = FAILED
    try:
        if _libc.ptrace(_TRACEME, 0, None, None) < 0:
            os._exit(CANNOT)
        os.kill(os.getpid(), signal.SIGSTOP)
        run()
        status = ENDED
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        os._exit(status)


def _changes(thread: int) -> bool:
    """Whether a call is being entered that may change something."""
    info = _Info()
    size = ctypes.sizeof(info)
    if _libc.ptrace(_GET_SYSCALL_INFO, thread, size, ctypes.addressof(info)) <= 0 or info.op != _ENTRY:
        return False
    if platform.machine() != "x86_64":
        return True
    if info.number == _OPENAT:
        return bool(info.args[2] & _CHANGING_FLAGS)
    return info.number not in _LOOKING
