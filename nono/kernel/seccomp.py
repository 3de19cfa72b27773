"""Installing a seccomp filter on the calling thread, for good.

`program` is packed struct sock_filter[] (8 bytes an instruction), as sandbox/bpf.py builds it. The spawn installs its
filter in the child by itself; this is for a process that restricts itself (`nono wrap`, tests).
Source: seccomp(2).
"""

from __future__ import annotations

from errno import EINVAL

from nono.errors import KernelError
from nono.kernel._shim import lib

INSTRUCTION_BYTES = 8
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS


def set_filter(program: bytes) -> None:
    """Install `program`; needs process.set_no_new_privs() before.

    Raises KernelError: EINVAL for a malformed program, EACCES without no_new_privs, ENOSYS without seccomp.
    """
    count, rest = divmod(len(program), INSTRUCTION_BYTES)
    if rest:
        raise KernelError("seccomp", EINVAL)
    result = lib.nono_seccomp_set_filter(program, count, 0)
    if result < 0:
        raise KernelError("seccomp", -result)
