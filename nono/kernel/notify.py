"""System calls that wait for the supervisor (seccomp user notification): receiving, answering, looking up safely.

A filter that returns USER_NOTIF suspends the calling thread; whoever holds the filter's notification fd receives the
call and answers it. `Line` is that fd with the tables of what is answered without Python, and `Call` one call: both are
C structures (csrc/shim.h says what each field means, csrc/notify.c why it is safe). A thread that serves calls
`prepare_thread()` and then `Line.serve()` in turns; the interpreter's lock is not held while it waits or connects.

The rest here is what only somebody who acts for another process needs: a path looked up below *its* root directory.

Source: seccomp_unotify(2), pidfd_getfd(2), openat2(2).
"""

from __future__ import annotations

import os
import time
from errno import E2BIG, EAGAIN, EINVAL, ENOSYS, EPERM

from nono.errors import KernelError
from nono.kernel import process
from nono.kernel._shim import ffi, lib
from nono.kernel.seccomp import INSTRUCTION_BYTES, NEW_LISTENER, WAIT_KILLABLE_RECV

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nono.kernel.recording import Recording

ENDED = lib.NONO_NOTIFY_ENDED
JUDGE = lib.NONO_NOTIFY_JUDGE

CONNECT = lib.NONO_CALL_CONNECT
BIND = lib.NONO_CALL_BIND
LISTEN = lib.NONO_CALL_LISTEN

OTHER = lib.NONO_CALL_OTHER  # one that is recorded

CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE: the kernel reads the arguments again; whoever uses it says why it may

RESOLVE_NO_MAGICLINKS = 0x02  # linux/openat2.h
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

_PORTS = 65536
_LOOKUPS = 64  # a rename anywhere on the machine makes "..", below a root, EAGAIN: to be tried again
_ADMITTED_S = 150  # the last SYN of a connect is sent after 127 seconds

_WHY = {
    ENOSYS: "This kernel cannot hand system calls to the supervisor: seccomp user notification and pidfd_getfd need "
    "Linux 5.6 or newer.",
    EPERM: "A seccomp profile around nono forbids pidfd_getfd or process_vm_readv, without which connects cannot be "
    "judged: run nono outside of that container, or allow them there (Docker: `--cap-add SYS_PTRACE`).",
    E2BIG: "This kernel's notifications are larger than those that nono was written for.",
}


def check() -> None:
    """Raise KernelError where calls cannot be mediated; to be called before the spawn. Yama has a say of its own."""
    error = -int(lib.nono_notify_check())
    if error:
        raise KernelError("seccomp", error, _WHY.get(error, ""))


def yama_scope(root: str = "/") -> int | None:
    """Return kernel.yama.ptrace_scope; None where there is no Yama. root: where /proc is."""
    try:
        with open(os.path.join(root, "proc/sys/kernel/yama/ptrace_scope"), "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def yama_forbids(scope: int | None) -> bool:
    """Whether the sockets of the agent, who is a descendant, cannot be taken: 3 forbids it to everybody, root included.

    Source: Documentation/admin-guide/LSM/Yama.rst; pidfd_getfd(2) asks what ptrace(2) asks for an attachment.
    """
    return scope is not None and (scope > 2 or (scope == 2 and not process.has_capability(process.CAP_SYS_PTRACE)))


def yama_remedy(scope: int | None) -> str:
    """Return what to do where Yama forbids it."""
    if scope is not None and scope > 2:
        return "take kernel.yama.ptrace_scope=3 out of /etc/sysctl.d and reboot"
    return "sudo sysctl kernel.yama.ptrace_scope=1"


def set_filter(program: bytes) -> int:
    """Install `program` on the calling thread, for good, and return its notification fd (close-on-exec, the caller's).

    The spawn does this by itself; here for a process that restricts itself, and for tests.
    Raises KernelError: EBUSY where a filter with a notification fd is in force already.
    """
    count = len(program) // INSTRUCTION_BYTES
    fd = int(lib.nono_seccomp_set_filter(program, count, NEW_LISTENER | WAIT_KILLABLE_RECV))
    if fd == -EINVAL:
        fd = int(lib.nono_seccomp_set_filter(program, count, NEW_LISTENER))
    if fd < 0:
        raise KernelError("seccomp", -fd)
    return fd


def prepare_thread() -> None:
    """Block every signal in the calling thread, so that none ends a child's connect, but the one of `interrupt`."""
    error = -int(lib.nono_notify_prepare_thread())
    if error:
        raise KernelError("sigaction", error)


def interrupt(native_id: int) -> None:
    """Make the system call in which a prepared thread waits return; to be repeated until it has."""
    lib.nono_notify_interrupt(native_id)  # ESRCH: it has ended


class Call:
    """One call that was received, and the place for the next one. `raw`: struct nono_call."""

    def __init__(self) -> None:
        self.raw: Any = ffi.new("struct nono_call *")
        self.raw.fd = -1

    @property
    def address(self) -> bytes:
        """What connect or bind was given: a copy that the child cannot reach."""
        return bytes(ffi.buffer(self.raw.address, self.raw.address_size))


class Line:
    """A notification fd and what is answered on it without Python. Owns the fd.

    crowded_fd: an eventfd, readable once no thread waited for the next call; `still_crowded` begins anew.
    """

    def __init__(
        self,
        notify_fd: int,
        *,
        as_it_is: bool,
        ports: Mapping[int, int],
        guarded_port: int,
        reports: int,
        recording: Recording | None = None,
    ) -> None:
        """as_it_is: INET connects are made to where they were asked; else to `ports` (asked: real) on 127.0.0.1 alone.

        guarded_port: the real port for which `admits` keeps account; 0 none. reports: so many refusals are handed up.
        recording: of the calls that are none of CONNECT, BIND and LISTEN, which go on; without it they are refused.
        """
        self.raw: Any = ffi.new("struct nono_mediation *")
        self._asked = ffi.new("uint16_t[]", list(ports))
        self._real = ffi.new("uint16_t[]", list(ports.values()))
        self._admitted: Any = ffi.new("uint32_t[]", _PORTS)
        self._recording = recording
        self.raw.notify_fd = notify_fd
        self.raw.recording = recording.raw if recording is not None else ffi.NULL
        self.raw.as_it_is = as_it_is
        self.raw.port_count = len(ports)
        self.raw.asked_ports = self._asked
        self.raw.real_ports = self._real
        self.raw.guarded_port = guarded_port
        self.raw.admitted = self._admitted
        self.raw.reports_left = reports
        self.crowded_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self.raw.crowded_fd = self.crowded_fd
        lib.nono_notify_sync_wake_up(notify_fd)  # before Linux 6.6 it is slower

    def serve(self, call: Call) -> int:
        """Answer calls until one needs a judge (JUDGE) or none will come (ENDED). Raises KernelError."""
        result = int(lib.nono_notify_serve(self.raw, call.raw))
        if result < 0:
            raise KernelError("ioctl(SECCOMP_IOCTL_NOTIF_RECV)", -result)
        return result

    def answer(self, call: Call, error: int, flags: int = 0) -> None:
        """End the call with `error`, an errno, or 0; its duplicate of the socket is closed."""
        lib.nono_notify_answer(self.raw.notify_fd, call.raw, error, flags)

    def still_waits(self, call: Call) -> bool:
        """Whether the thread is still there; then what was read from it under its number was its own."""
        return int(lib.nono_notify_still_waits(self.raw.notify_fd, call.raw.id)) == 1

    def connect(self, call: Call, address: bytes) -> int:
        """connect(2) on the duplicate; return an errno, or 0. Blocks where the child would have."""
        return -int(lib.nono_notify_connect(self.raw, call.raw, address, len(address)))

    def admits(self, port: int) -> bool:
        """Whether a connect from that port to the guarded one was made here; True once for each."""
        began = int(self._admitted[port])
        self._admitted[port] = 0
        return began != 0 and int(time.monotonic()) + 1 - began <= _ADMITTED_S

    def still_crowded(self) -> bool:
        """Read `crowded_fd`, so that the next crowd is told of; return whether no thread waits at this moment."""
        os.eventfd_read(self.crowded_fd)
        self.raw.crowded = 0  # a system call or a lock before the next line keeps the processor's order
        os.sched_yield()
        return int(self.raw.waiting) == 0

    def stop(self) -> None:
        """`serve` returns ENDED from now on; who waits in it is to be interrupted. `crowded_fd` is readable."""
        self.raw.closing = 1
        os.eventfd_write(self.crowded_fd, 1)

    def close(self) -> None:
        """Calls fail with ENOSYS from now on. Only when nobody serves any more."""
        os.close(self.raw.notify_fd)
        os.close(self.crowded_fd)
        self.raw.notify_fd = self.raw.crowded_fd = self.crowded_fd = -1


def bind(call: Call, address: bytes) -> int:
    """bind(2) on the duplicate; return an errno, or 0."""
    return -int(lib.nono_bind(call.raw.fd, address, len(address)))


def listen(call: Call) -> int:
    """listen(2) on the duplicate, with the child's backlog; return an errno, or 0."""
    return -int(lib.nono_listen(call.raw.fd, int(ffi.cast("int", call.raw.arguments[1]))))


def getsockname(call: Call) -> bytes:
    """getsockname(2) of the duplicate, as the kernel writes it; empty when it fails."""
    buffer = ffi.new("uint8_t[]", 128)  # struct sockaddr_storage
    size = int(lib.nono_getsockname(call.raw.fd, buffer, 128))
    return bytes(ffi.buffer(buffer, size)) if 0 <= size <= 128 else b""


def open_path(path: bytes, *, root_fd: int = -1, resolve: int) -> int:
    """Return an O_PATH descriptor of what `path` (absolute) leads to, below `root_fd` with RESOLVE_IN_ROOT.

    Raises KernelError: openat2(2)'s errors; ENOSYS before Linux 5.6.
    """
    for _ in range(_LOOKUPS):
        fd = int(lib.nono_openat2(root_fd, path, os.O_PATH | os.O_CLOEXEC, resolve))
        if fd != -EAGAIN:
            break
    if fd < 0:
        raise KernelError("openat2", -fd)
    return fd
