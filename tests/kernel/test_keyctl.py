"""The kernel's keyring of this user, for real; each test has names of its own."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from nono.errors import KernelError
from nono.kernel import keyctl, process, seccomp
from nono.kernel._shim import lib
from tests.kernel.inside import MACHINE, in_fork, refuse

ADD_KEY, KEYCTL = {"x86_64": (248, 250), "aarch64": (217, 219)}[MACHINE]
JOIN_SESSION_KEYRING = 1


def available() -> bool:
    try:
        keyctl.list_names()
    except KernelError:
        return False
    return True


pytestmark = pytest.mark.skipif(not available(), reason="this kernel or container has no keyring")


@pytest.fixture
def name() -> Iterator[str]:
    name = f"test-{os.getpid()}-{os.urandom(4).hex()}"
    yield name
    keyctl.unlink(name)


def read(serial: int, size: int = 100) -> bytes:
    target = bytearray(size)
    length = keyctl.read_into(serial, memoryview(target))
    return bytes(target[: min(length, size)])


def test_stored_found_read_listed_removed(name: str) -> None:
    assert keyctl.search(name) is None
    assert name not in keyctl.list_names()
    serial = keyctl.add_key(name, b"\0v\xffalue\n")
    assert keyctl.search(name) == serial
    assert read(serial) == b"\0v\xffalue\n"
    assert name in keyctl.list_names()
    assert keyctl.unlink(name)
    assert keyctl.search(name) is None
    assert not keyctl.unlink(name)


def test_stored_again_is_replaced(name: str) -> None:
    first = keyctl.add_key(name, b"first value")
    assert keyctl.add_key(name, memoryview(bytearray(b"second"))) == first
    assert read(first) == b"second"
    assert keyctl.list_names().count(name) == 1


def test_reports_the_whole_length_when_it_does_not_fit(name: str) -> None:
    serial = keyctl.add_key(name, b"0123456789")
    target = bytearray(4)
    assert keyctl.read_into(serial, memoryview(target)) == 10


def test_readable_from_a_login_of_another_kind(name: str) -> None:
    """A session keyring that does not lead to @u, as cron, a container or a systemd unit has."""
    serial = keyctl.add_key(name, b"value")

    def work() -> None:
        assert lib.nono_keyctl(JOIN_SESSION_KEYRING, 0, 0, 0, 0) > 0
        assert keyctl.search(name) == serial
        assert read(serial) == b"value"
        assert keyctl.add_key(name, b"other") == serial
        assert name in keyctl.list_names()

    assert in_fork(work) == 0
    assert read(serial) == b"other"


@pytest.mark.parametrize("payload", [b"", bytes(32768)])
def test_sizes_that_the_kernel_does_not_take(name: str, payload: bytes) -> None:
    with pytest.raises(KernelError, match="1 to 32767 bytes") as caught:
        keyctl.add_key(name, payload)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.EPERM])
def test_where_there_is_no_keyring(answer: int) -> None:
    def work() -> None:
        process.set_no_new_privs()
        seccomp.set_filter(refuse(KEYCTL, answer))
        for call in (keyctl.list_names, lambda: keyctl.search("a"), lambda: keyctl.add_key("a", b"b")):
            with pytest.raises(KernelError, match="--store file") as caught:
                call()
            assert caught.value.errno == answer

    assert in_fork(work) == 0
