"""Secret memory on the real kernel, both backings: what is seen of it from outside, and what is left of it."""

from __future__ import annotations

import copy
import ctypes
import errno
import faulthandler
import os
import pickle
import resource
import signal
import socket
from pathlib import Path

import pytest

from nono.errors import KernelError
from nono.kernel import secretmem
from nono.kernel.secretmem import MEMFD_SECRET, MLOCK, SecretBuffer
from tests.kernel.inside import ORDINARY_UID, in_fork

SECRET = b"not-a-real-secret-0123456789"
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(params=[MEMFD_SECRET, MLOCK])
def backing(request: pytest.FixtureRequest) -> str:
    if request.param == MEMFD_SECRET and secretmem.secret_memory_kind() != MEMFD_SECRET:
        pytest.skip("this kernel has no memfd_secret")
    return str(request.param)


def filled(backing: str, size: int = 100) -> SecretBuffer:
    buffer = SecretBuffer(size, backing=backing)
    buffer.view[: len(SECRET)] = SECRET
    buffer.length = len(SECRET)
    return buffer


def address_of(buffer: SecretBuffer) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer.view))


def mapping(address: int) -> dict[str, str]:
    """The fields of /proc/self/smaps for the mapping that holds `address`; empty when nothing is mapped there."""
    fields: dict[str, str] = {}
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):
            start, end = (int(bound, 16) for bound in first.split("-"))
            found = start <= address < end
        elif found:
            fields[first[:-1]] = line.split(":", 1)[1].strip()
    return fields


def test_is_zero_writable_and_as_long_as_asked(backing: str) -> None:
    with SecretBuffer(5000, backing=backing) as buffer:
        assert len(buffer.view) == buffer.size == 5000
        assert not buffer.view.readonly
        assert bytes(buffer.view) == bytes(5000)
        assert buffer.length == 0
        buffer.view[-1] = 7
        buffer.length = 5000
        with pytest.raises(ValueError):
            buffer.length = 5001
        with pytest.raises(ValueError):
            buffer.length = -1


def test_is_filled_from_a_socket_without_a_copy(backing: str) -> None:
    near, far = socket.socketpair()
    with near, far, SecretBuffer(100, backing=backing) as buffer:
        far.sendall(SECRET)
        buffer.length = near.recv_into(buffer.view)
        assert bytes(buffer.view[: buffer.length]) == SECRET
        near.sendall(buffer.view[: buffer.length])
        assert far.recv(100) == SECRET


def test_is_locked_and_kept_from_dumps(backing: str) -> None:
    with filled(backing) as buffer:
        flags = mapping(address_of(buffer))["VmFlags"].split()
    assert "lo" in flags  # VM_LOCKED
    assert "dd" in flags  # VM_DONTDUMP
    assert ("dc" if backing == MEMFD_SECRET else "wf") in flags  # VM_DONTCOPY, VM_WIPEONFORK


def test_who_reads_the_processs_memory(backing: str) -> None:
    """The fallback is readable for root and, while dumpable, for the user; memfd_secret for nobody."""
    with filled(backing) as buffer, open("/proc/self/mem", "rb", buffering=0) as memory:
        memory.seek(address_of(buffer))
        if backing == MLOCK:
            assert memory.read(len(SECRET)) == SECRET
        else:
            with pytest.raises(OSError, match="Input/output error"):
                memory.read(len(SECRET))


def test_wipe_leaves_zeros_and_can_be_filled_again(backing: str) -> None:
    with filled(backing) as buffer:
        buffer.wipe()
        assert bytes(buffer.view) == bytes(100)
        assert buffer.length == 0
        buffer.view[:3] = b"new"
        assert bytes(buffer.view[:4]) == b"new\0"


def test_close_gives_the_memory_back(backing: str) -> None:
    buffer = filled(backing)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer.view))
    assert mapping(address)
    buffer.close()
    assert not mapping(address)


def test_close_twice_and_use_after_close(backing: str) -> None:
    buffer = filled(backing)
    view = buffer.view
    buffer.close()
    buffer.close()
    with pytest.raises(ValueError):
        _ = buffer.view
    with pytest.raises(ValueError):
        buffer.wipe()
    with pytest.raises(ValueError):
        _ = view[0]


def test_slice_kept_after_close_reads_zeros(backing: str) -> None:
    buffer = filled(backing)
    kept = buffer.view[: len(SECRET)]
    buffer.close()
    other = filled(backing)  # takes the same address, had the first been unmapped
    assert bytes(kept) == bytes(len(SECRET))
    kept.release()
    other.close()


def test_close_while_somebody_holds_the_memory(backing: str) -> None:
    buffer = filled(backing)
    export = ctypes.c_char.from_buffer(buffer.view)  # as a read into it in another thread would
    buffer.close()
    assert export.value == b"\0"
    del export


def test_forgotten_buffer_is_wiped_and_unmapped(backing: str) -> None:
    buffer = filled(backing)
    kept = buffer.view[: len(SECRET)]
    address = ctypes.addressof(ctypes.c_char.from_buffer(kept))
    del buffer
    assert bytes(kept) == bytes(len(SECRET))
    del kept
    assert not mapping(address)


def test_shows_nothing_and_is_not_copied(backing: str) -> None:
    with filled(backing) as buffer:
        assert repr(buffer) == str(buffer) == f"<SecretBuffer {backing}>"
        for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                duplicate(buffer)
        assert not hasattr(buffer, "__dict__")
    assert repr(buffer) == "<SecretBuffer closed>"


def test_forked_child_does_not_have_it(backing: str) -> None:
    buffer = filled(backing)
    kept = buffer.view[: len(SECRET)]

    def through_the_object() -> None:
        with pytest.raises(ValueError):
            _ = buffer.view
        buffer.wipe()
        buffer.close()

    def directly() -> None:
        faulthandler.disable()  # pytest's, which would print the crash that is expected
        assert bytes(kept) == bytes(len(SECRET))

    assert in_fork(through_the_object) == 0
    assert in_fork(directly) == (-signal.SIGSEGV if backing == MEMFD_SECRET else 0)
    assert bytes(buffer.view[: buffer.length]) == SECRET  # nothing that the child did reached it
    kept.release()
    buffer.close()


def test_opens_no_file_and_leaks_none(backing: str) -> None:
    before = os.listdir("/proc/self/fd")
    buffers = [filled(backing) for _ in range(8)]
    assert os.listdir("/proc/self/fd") == before
    for buffer in buffers:
        buffer.close()


def test_five_pages_are_enough_and_a_lower_limit_is_named(backing: str) -> None:
    def work() -> None:
        if os.geteuid() == 0:  # root may lock what it likes
            os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
            os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (5 * PAGE, 5 * PAGE))
        buffers = [SecretBuffer(1, backing=backing) for _ in range(4)]
        buffers.append(SecretBuffer(PAGE, backing=backing))
        with pytest.raises(KernelError) as caught:
            SecretBuffer(1, backing=backing)
        assert caught.value.errno in (errno.EAGAIN, errno.ENOMEM, errno.EPERM)
        assert "RLIMIT_MEMLOCK" in str(caught.value)
        buffers.pop().close()
        SecretBuffer(1, backing=backing).close()

    assert in_fork(work) == 0


def test_no_locked_memory_at_all_is_an_error_not_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secretmem, "_probed", None)

    def work() -> None:
        if os.geteuid() == 0:
            os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        with pytest.raises(KernelError, match="RLIMIT_MEMLOCK"):
            SecretBuffer(1)

    assert in_fork(work) == 0


def test_environment_asks_for_the_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secretmem, "_probed", None)
    monkeypatch.setenv("NONO_SECRET_MEMORY", "mlock")
    with SecretBuffer(1) as buffer:
        assert buffer.backing == secretmem.secret_memory_kind() == MLOCK


@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.EPERM])
def test_kernel_without_memfd_secret(answer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from nono.kernel import process, seccomp
    from tests.kernel.inside import refuse

    monkeypatch.setattr(secretmem, "_probed", None)

    def work() -> None:
        process.set_no_new_privs()
        seccomp.set_filter(refuse(447, answer))
        with SecretBuffer(1) as buffer:
            assert buffer.backing == MLOCK

    assert in_fork(work) == 0


def test_wrong_calls() -> None:
    for size in (0, -1):
        with pytest.raises(ValueError):
            SecretBuffer(size)
    with pytest.raises(TypeError):
        SecretBuffer()  # type: ignore[call-arg]
