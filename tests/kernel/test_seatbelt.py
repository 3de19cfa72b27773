"""sandbox_init is a symbol everywhere and a function on macOS."""

from __future__ import annotations

import errno
import sys

import pytest

from nono.errors import KernelError
from nono.kernel import seatbelt


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has it")
def test_absent_elsewhere() -> None:
    with pytest.raises(KernelError, match="macOS only") as caught:
        seatbelt.sandbox_init("(version 1)(deny default)")
    assert caught.value.errno == errno.ENOSYS
