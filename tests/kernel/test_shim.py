"""The C shim itself: one contract, clean under the strictest warnings, the same symbols on every system."""

from __future__ import annotations

import ctypes
import errno
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = sorted(CSRC.glob("*.c"))
CC = shutil.which("cc")
STRICT = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", f"-I{CSRC}"]

pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler")


def declared() -> set[str]:
    return set(re.findall(r"^(?:int|long|void) (nono_\w+)\(", (CSRC / "shim.h").read_text(), re.MULTILINE))


def cc(*arguments: str) -> None:
    assert CC is not None
    done = subprocess.run([CC, *STRICT, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_compiles_without_a_warning(source: Path) -> None:
    cc("-fsyntax-only", str(source))


@pytest.mark.skipif(sys.platform != "linux", reason="takes Linux away from the sources")
def test_other_systems_have_the_same_symbols(tmp_path: Path) -> None:
    library = tmp_path / "other.so"
    cc("-U__linux__", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", str(library), *map(str, SOURCES))
    loaded = ctypes.CDLL(str(library))
    assert len(declared()) > 15
    for name in declared():
        assert getattr(loaded, name)
    everywhere = {"nono_map", "nono_unmap", "nono_mlock", "nono_wipe"}
    returns_nothing = {"nono_abandon"}
    fills_in = {"nono_prepare": (), "nono_start": (0, 0, 0), "nono_wrap": (0,)}  # with what comes before the structure
    for name in declared() - everywhere - returns_nothing - set(fills_in):
        function = getattr(loaded, name)
        function.restype = ctypes.c_long if name in ("nono_keyctl", "nono_tee") else ctypes.c_int
        assert function(0, 0, 0, 0, 0) == -errno.ENOSYS, name
    structure = (ctypes.c_char * 512)()
    for name, before in fills_in.items():
        assert getattr(loaded, name)(*before, structure) == -errno.ENOSYS, name
