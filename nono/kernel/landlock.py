"""Landlock: the kernel's file, port and scope rules for one process and its descendants.

A ruleset is built here, in the parent, and enforced in the child by the spawn (Landlock is per thread). A right that a
ruleset handles is denied everywhere but where a rule grants it; a right it does not handle stays free, so a ruleset
handles every right that the running kernel knows (`fs_mask(abi())`).

Source: landlock(7); numbers from include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import os
import struct
from errno import EINVAL, ENOSYS, EOPNOTSUPP

from nono.errors import KernelError
from nono.kernel._shim import ffi, lib

FS_EXECUTE = 1 << 0
FS_WRITE_FILE = 1 << 1
FS_READ_FILE = 1 << 2
FS_READ_DIR = 1 << 3
FS_REMOVE_DIR = 1 << 4
FS_REMOVE_FILE = 1 << 5
FS_MAKE_CHAR = 1 << 6
FS_MAKE_DIR = 1 << 7
FS_MAKE_REG = 1 << 8
FS_MAKE_SOCK = 1 << 9
FS_MAKE_FIFO = 1 << 10
FS_MAKE_BLOCK = 1 << 11
FS_MAKE_SYM = 1 << 12
FS_REFER = 1 << 13  # ABI 2
FS_TRUNCATE = 1 << 14  # ABI 3
FS_IOCTL_DEV = 1 << 15  # ABI 5

# The rights that a rule on something other than a directory may name (ACCESS_FILE in security/landlock/fs.c).
FILE_RIGHTS = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV

NET_BIND_TCP = 1 << 0  # ABI 4
NET_CONNECT_TCP = 1 << 1  # ABI 4

SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0  # ABI 6
SCOPE_SIGNAL = 1 << 1  # ABI 6

LOGGING_ABI = 7
LOG_NEW_EXEC_ON = 1 << 1  # LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON

_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_RULE_NET_PORT = 2

_FS_MASK_BY_ABI = ((5, 0xFFFF), (3, 0x7FFF), (2, 0x3FFF), (1, 0x1FFF))

_ABSENT = {
    ENOSYS: "This kernel has no Landlock (Linux 5.13 or newer, built with CONFIG_SECURITY_LANDLOCK, has it).",
    EOPNOTSUPP: "Landlock is built into this kernel but switched off: add landlock to the lsm= list on the kernel's "
    "command line (cat /sys/kernel/security/lsm shows the list in force) and reboot.",
}


def abi() -> int:
    """Return the running kernel's Landlock ABI version; 0 where Landlock is absent or switched off."""
    version = lib.nono_landlock_create_ruleset(ffi.NULL, 0, _CREATE_RULESET_VERSION)
    return int(version) if version > 0 else 0


def fs_mask(abi: int) -> int:
    """Return every FS_* right that Landlock ABI `abi` knows; those of newer ABIs than this table are not used."""
    for least, mask in _FS_MASK_BY_ABI:
        if abi >= least:
            return mask
    return 0


def create_ruleset(fs: int, net: int = 0, scoped: int = 0) -> int:
    """Return a new ruleset fd, close-on-exec, owned by the caller.

    fs, net, scoped: the FS_*, NET_* and SCOPE_* bits handled, all known to this kernel's ABI.
    Raises KernelError: ENOSYS or EOPNOTSUPP when there is no Landlock, EINVAL for a bit unknown to the kernel.
    Source: landlock_create_ruleset(2).
    """
    attr = struct.pack("=QQQ", fs, net, scoped)
    # An older kernel takes the longer structure as long as the tail that it does not know is zero.
    fd = int(lib.nono_landlock_create_ruleset(attr, len(attr), 0))
    if fd < 0:
        raise KernelError("landlock_create_ruleset", -fd, _ABSENT.get(-fd, ""))
    return fd


def add_path(ruleset_fd: int, path_fd: int, access: int) -> None:
    """Grant `access` (FS_* bits, a subset of the handled ones) on what `path_fd` (O_PATH) is and all below it.

    Raises KernelError: EINVAL when a right is not handled or only a directory can have it (mask with FILE_RIGHTS),
    EBADFD for a file system that cannot be ruled (a pipe, an anonymous inode).
    Source: landlock_add_rule(2).
    """
    attr = struct.pack("=Qi", access, path_fd)
    result = lib.nono_landlock_add_rule(ruleset_fd, _RULE_PATH_BENEATH, attr, 0)
    if result < 0:
        message = ""
        if result == -EINVAL:
            message = f"landlock_add_rule: {os.strerror(EINVAL)} (a right not handled, or a directory's on a file)"
        raise KernelError("landlock_add_rule", -result, message)


def add_port(ruleset_fd: int, port: int, access: int) -> None:
    """Grant `access` (NET_* bits) on a TCP port, at any address. ABI 4."""
    attr = struct.pack("=QQ", access, port)
    result = lib.nono_landlock_add_rule(ruleset_fd, _RULE_NET_PORT, attr, 0)
    if result < 0:
        raise KernelError("landlock_add_rule", -result)


def restrict_self(ruleset_fd: int) -> None:
    """Enforce the ruleset on the calling thread, for good; needs process.set_no_new_privs() before.

    Raises KernelError: EPERM without no_new_privs, E2BIG for the 17th layer.
    Source: landlock_restrict_self(2).
    """
    result = lib.nono_landlock_restrict_self(ruleset_fd, 0)
    if result < 0:
        raise KernelError("landlock_restrict_self", -result, _ABSENT.get(-result, ""))
