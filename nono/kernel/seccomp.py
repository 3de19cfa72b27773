"""Installing a seccomp filter on the calling thread, for good; and asking whether that is to be had at all.

`program` is packed struct sock_filter[] (8 bytes an instruction), as sandbox/bpf.py builds it. The spawn installs its
filter in the child by itself; this is for a process that restricts itself (`nono wrap`, tests).
Source: seccomp(2).
"""

from __future__ import annotations

from errno import EACCES, EFAULT, EINVAL

from nono.errors import KernelError
from nono.kernel._shim import ffi, lib

INSTRUCTION_BYTES = 8
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

# SECCOMP_FILTER_FLAG_*
NEW_LISTENER = 1 << 3  # Linux 5.0
WAIT_KILLABLE_RECV = 1 << 5  # Linux 5.19: no signal but a deadly one takes a call back that was received


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


def refused(flags: int) -> int:
    """Return the errno with which this system refuses filters with `flags`; 0 when it takes them. Installs nothing.

    The kernel looks at the flags before it reads the program, and where the program should be nothing is mapped.
    """
    nowhere = ffi.cast("void *", 8)
    result = int(lib.nono_seccomp_set_filter(nowhere, 1, flags))
    return 0 if result in (-EFAULT, -EACCES) else -result
