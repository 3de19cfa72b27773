"""Build nono.kernel._shim, the compiled half of the kernel room.

The declarations come from shim.h itself, so that there is one contract: everything between its two marker comments. The
module is built in cffi's API mode against Python's limited API: one binary (abi3) for every Python from 3.11 on.

setup.py names `ffibuilder`; `python csrc/build.py` builds in place, for working in the tree.
"""

from __future__ import annotations

import os
import shutil
import tempfile

from cffi import FFI

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BEGIN = "/* cffi declarations start here */"
END = "/* cffi declarations end here */"
SOURCES = (
    *("spawn", "init", "mounts", "agent", "probe"),
    *("keyctl", "landlock", "network", "notify", "process", "record", "seatbelt", "seccomp", "secret", "splice"),
)

# The wrappers are compiled with -Werror by ci/lint; here a newer compiler's new warning must not stop an installation.
# cffi's own generated code has unused parameters and partial initialisers.
COMPILE_ARGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]


def declarations(header: str) -> str:
    """Return the part of shim.h that cffi reads."""
    with open(header, encoding="utf-8") as file:
        return file.read().split(BEGIN)[1].split(END)[0]


ffibuilder = FFI()
ffibuilder.cdef(declarations(os.path.join(ROOT, "csrc", "shim.h")))
ffibuilder.set_source(
    "nono.kernel._shim",
    '#include "shim.h"',
    sources=[f"csrc/{name}.c" for name in SOURCES],  # relative: setuptools refuses absolute paths
    include_dirs=["csrc"],
    depends=["csrc/shim.h", "csrc/linux_compat.h", "csrc/spawn.h", "csrc/bare.h"],
    extra_compile_args=COMPILE_ARGS,
)


def build_in_place() -> str:
    """Compile into the tree, where `import nono.kernel._shim` from the tree finds it; return the module's path."""
    kernel = os.path.join(ROOT, "nono", "kernel")
    with tempfile.TemporaryDirectory(dir=kernel, prefix="_shim.build.") as scratch:
        shutil.copytree(os.path.join(ROOT, "csrc"), os.path.join(scratch, "csrc"))  # objects land beside sources
        compiled = ffibuilder.compile(tmpdir=scratch)
        target = os.path.join(kernel, "_shim.abi3.so")
        os.replace(compiled, target)  # at once: somebody may be importing it
    for name in os.listdir(kernel):
        if name.startswith("_shim.cpython-"):  # found before abi3, and now older
            os.unlink(os.path.join(kernel, name))
    return target


if __name__ == "__main__":
    print(build_in_place())
