"""Installing a filter on a forked process."""

from __future__ import annotations

import errno
import os

import pytest

from nono.errors import KernelError
from nono.kernel import process, seccomp
from tests.kernel.inside import ALLOW_ALL, UNAME, in_fork, refuse


def test_one_call_denied_the_others_not() -> None:
    def work() -> None:
        os.uname()
        process.set_no_new_privs()
        seccomp.set_filter(refuse(UNAME, errno.ENOTTY))
        assert os.getpid() > 0
        with pytest.raises(OSError, match="ioctl") as caught:  # strerror(ENOTTY)
            os.uname()
        assert caught.value.errno == errno.ENOTTY

    assert in_fork(work) == 0


@pytest.mark.parametrize("program", [b"", ALLOW_ALL[:-1], bytes(8), ALLOW_ALL * 4097, ALLOW_ALL * 65537])
def test_malformed_programs(program: bytes) -> None:
    """The last one would be one instruction long if its length were cut to the kernel's 16 bits."""

    def work() -> None:
        process.set_no_new_privs()
        with pytest.raises(KernelError) as caught:
            seccomp.set_filter(program)
        assert caught.value.errno == errno.EINVAL

    assert in_fork(work) == 0


def test_needs_no_new_privileges() -> None:
    if os.geteuid() == 0:
        pytest.skip("CAP_SYS_ADMIN may do without")

    def work() -> None:
        with pytest.raises(KernelError) as caught:
            seccomp.set_filter(ALLOW_ALL)
        assert caught.value.errno == errno.EACCES

    assert in_fork(work) == 0
