"""Memory that holds secrets: page-locked, kept out of dumps and of forked children, wiped before it is given back.

Two backings, the better one first:
- memfd_secret: pages that the kernel itself has no mapping of; not even root reads them through /proc/PID/mem. A forked
  child does not have them at all (MADV_DONTFORK). While one is mapped the machine does not hibernate.
- mlock: a private mapping, locked (never swapped), excluded from core dumps, zero-filled in a forked child.
Which one is found out by asking for it, once; NONO_SECRET_MEMORY=mlock in the environment asks for the second one.

Each buffer takes whole pages, which count against RLIMIT_MEMLOCK in both cases: sixteen fit in the smallest default in
use (64 KiB), and a run needs about five.

A buffer is in use until close(). Slices of its view that somebody still holds keep the (wiped) pages mapped, so that a
use after close reads zeros and never somebody else's memory.
Source: memfd_secret(2), mlock(2), madvise(2).
"""

from __future__ import annotations

import os
import sys
from errno import EAGAIN, ENOMEM

from nono.errors import KernelError
from nono.kernel._shim import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

MEMFD_SECRET = "memfd_secret"
MLOCK = "mlock"

# include/uapi/asm-generic/mman-common.h
_MADV_DONTFORK = 10
_MADV_DONTDUMP = 16
_MADV_WIPEONFORK = 18
_VM_INHERIT_NONE = 2  # macOS, mach/vm_inherit.h

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_probed: str | None = None


def _check(call: str, result: int) -> int:
    if result < 0:
        raise KernelError(call, -result)
    return result


def _locking_failed(size: int, errno: int) -> KernelError:
    return KernelError(
        "mlock",
        errno,
        f"Memory for a secret cannot be locked ({size} bytes, {os.strerror(errno)}): the limit RLIMIT_MEMLOCK is too "
        "low; raise it with `ulimit -l 64` (KiB), or LimitMEMLOCK= in a systemd unit.",
    )


def _map_memfd_secret(size: int) -> ffi.CData:
    fd = _check("memfd_secret", lib.nono_memfd_secret(os.O_CLOEXEC))
    try:
        os.ftruncate(fd, size)
        address = ffi.new("void **")
        result = lib.nono_map(size, fd, address)
    finally:
        os.close(fd)  # the mapping keeps the pages; an fd would be one more way to them
    if result in (-EAGAIN, -ENOMEM):
        raise _locking_failed(size, -result)
    _check("mmap", result)
    return address[0]


def _map_locked(size: int) -> ffi.CData:
    address = ffi.new("void **")
    _check("mmap", lib.nono_map(size, -1, address))
    result = lib.nono_mlock(address[0], size)
    if result < 0:
        lib.nono_unmap(address[0], size)
        raise _locking_failed(size, -result)
    return address[0]


def _protect(address: ffi.CData, size: int, backing: str) -> None:
    """Keep the pages from forked children and from core dumps."""
    if sys.platform != "linux":
        _check("minherit", lib.nono_minherit(address, size, _VM_INHERIT_NONE))
        return
    if backing == MEMFD_SECRET:
        # Shared mappings cannot be wiped on fork, and secret memory is never dumped (VM_DONTDUMP is built in).
        _check("madvise", lib.nono_madvise(address, size, _MADV_DONTFORK))
        return
    _check("madvise", lib.nono_madvise(address, size, _MADV_DONTDUMP))
    _check("madvise", lib.nono_madvise(address, size, _MADV_WIPEONFORK))


def _map(size: int, backing: str) -> ffi.CData:
    address = _map_memfd_secret(size) if backing == MEMFD_SECRET else _map_locked(size)
    try:
        _protect(address, size, backing)
    except KernelError:
        lib.nono_unmap(address, size)
        raise
    return address


def secret_memory_kind() -> str:
    """Return the backing that a SecretBuffer gets here: MEMFD_SECRET or MLOCK. Found out once."""
    global _probed
    if _probed is None:
        if os.environ.get("NONO_SECRET_MEMORY") == MLOCK:
            _probed = MLOCK
            return _probed
        try:
            lib.nono_unmap(_map(_PAGE_BYTES, MEMFD_SECRET), _PAGE_BYTES)
            _probed = MEMFD_SECRET
        except OSError as error:
            if isinstance(error, KernelError) and error.call == "mlock":
                raise  # the limit holds for both
            _probed = MLOCK  # no such call, secretmem.enable=0, a seccomp profile, an architecture that cannot
    return _probed


class SecretBuffer:
    """`size` bytes of secret memory, zero at first.

    view: writable memoryview of all of them. length: how many of them are the secret; whoever fills the buffer sets it.
    Works as a context manager. Only the process that made it may use it: in a forked child there is nothing to see.
    Raises KernelError naming RLIMIT_MEMLOCK when the memory cannot be locked; ValueError when used after close().
    """

    __slots__ = ("_address", "_length", "_mapped_bytes", "_pid", "_view", "backing", "size")

    def __init__(self, size: int, *, backing: str | None = None) -> None:
        self._view: memoryview | None = None
        if size <= 0:
            raise ValueError("a secret buffer has at least one byte")
        self.size = size
        self.backing = backing or secret_memory_kind()
        self._length = 0
        self._pid = os.getpid()
        self._mapped_bytes = -(-size // _PAGE_BYTES) * _PAGE_BYTES
        mapped_bytes, pid = self._mapped_bytes, self._pid

        def unmap(address: ffi.CData, getpid=os.getpid, unmap=lib.nono_unmap) -> None:  # type: ignore[no-untyped-def]
            if getpid() == pid:  # a forked child may have something else at this address
                unmap(address, mapped_bytes)

        # The pages go when the last slice of the view has gone, which close() cannot know.
        self._address = ffi.gc(_map(mapped_bytes, self.backing), unmap)
        self._view = memoryview(ffi.buffer(self._address, size))

    @property
    def view(self) -> memoryview:
        """All `size` bytes, writable."""
        if self._view is None:
            raise ValueError("secret buffer is closed")
        if os.getpid() != self._pid:
            raise ValueError("secret buffer belongs to the parent process")
        return self._view

    @property
    def length(self) -> int:
        """How many bytes from the start are the secret."""
        return self._length

    @length.setter
    def length(self, length: int) -> None:
        if not 0 <= length <= self.size:
            raise ValueError("length is outside of the buffer")
        self._length = length

    def wipe(self) -> None:
        """Overwrite everything with zeros; the buffer can be filled again."""
        if self._view is None:
            raise ValueError("secret buffer is closed")
        if os.getpid() == self._pid:
            lib.nono_wipe(self._address, self._mapped_bytes)
        self._length = 0

    def close(self) -> None:
        """Wipe, then give the memory back. Twice is once."""
        view = self._view
        if view is None:
            return
        self.wipe()
        self._view = None
        try:
            view.release()
        except BufferError:  # somebody reads from or writes to it just now: the pages stay until that ends
            pass
        self._address = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_view"):  # not when __init__ was called wrongly
            self.close()

    def __repr__(self) -> str:
        return f"<SecretBuffer {'closed' if self._view is None else self.backing}>"

    def __reduce__(self) -> str:
        raise TypeError("a secret buffer cannot be pickled or copied")
