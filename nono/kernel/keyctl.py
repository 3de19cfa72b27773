"""Secrets in the kernel's keyring of the user (@u): in RAM only, never on a disk.

They are gone at reboot, and earlier when the last process of the user ends (a server without lingering sessions).
Keys are of type "user" and named "nono:NAME". The payload is read straight into the caller's (locked) memory.
A key in @u can be read by who *possesses* it, which a login without pam_keyinit does not: so @u is first linked into
the process keyring, which is this process's own and dies with it.
Source: keyrings(7), keyctl(2); numbers from include/uapi/linux/keyctl.h.
"""

from __future__ import annotations

import struct
from errno import EACCES, EDQUOT, EINVAL, EKEYEXPIRED, EKEYREVOKED, ENOKEY, ENOSYS, EPERM

from nono.errors import KernelError
from nono.kernel._shim import ffi, lib

NAME_PREFIX = "nono:"
MAX_PAYLOAD_BYTES = 32767  # security/keys/user_defined.c

_TYPE = b"user"
_PROCESS_KEYRING = -2
_USER_KEYRING = -4
_DESCRIBE = 6
_LINK = 8
_UNLINK = 9
_SEARCH = 10
_READ = 11

_UNAVAILABLE = "The kernel's keyring is not available here ({why}): use another store, such as `--store file`."
_MESSAGES = {
    ENOSYS: _UNAVAILABLE.format(why="not built into this kernel"),
    EPERM: _UNAVAILABLE.format(why="a container forbids it"),
    EACCES: _UNAVAILABLE.format(why="permission denied"),
    EDQUOT: "The kernel's keyring of this user is full (kernel.keys.maxkeys, kernel.keys.maxbytes): remove keys there.",
}
_ABSENT = (ENOKEY, EKEYEXPIRED, EKEYREVOKED)


def _keyctl(operation: int, a: int, b: int = 0, c: int = 0, d: int = 0) -> int:
    """Key serials and special keyrings are signed 32-bit; the kernel reads the low half of each register."""
    result = int(lib.nono_keyctl(operation, a & 0xFFFFFFFF, b, c, d))
    if result < 0:
        raise KernelError("keyctl", -result, _MESSAGES.get(-result, ""))
    return result


def _address(data: ffi.CData) -> int:
    return int(ffi.cast("uintptr_t", data))


def _possess_user_keyring() -> None:
    _keyctl(_LINK, _USER_KEYRING, _PROCESS_KEYRING & 0xFFFFFFFF)


def add_key(name: str, payload: bytes | memoryview) -> int:
    """Store `payload` as "nono:NAME", replacing one of that name; return the key's serial number.

    Raises KernelError: EINVAL for an empty or oversized payload, EDQUOT when the user's quota is used up.
    """
    _possess_user_keyring()
    with memoryview(payload) as view:
        if not 0 < view.nbytes <= MAX_PAYLOAD_BYTES:
            raise KernelError(
                "add_key", EINVAL, f"The kernel's keyring takes 1 to {MAX_PAYLOAD_BYTES} bytes as a secret."
            )
        description = (NAME_PREFIX + name).encode()
        result = int(lib.nono_add_key(_TYPE, description, ffi.from_buffer(view), view.nbytes, _USER_KEYRING))
    if result < 0:
        raise KernelError("add_key", -result, _MESSAGES.get(-result, ""))
    return result


def search(name: str) -> int | None:
    """Return the serial number of "nono:NAME", None where there is none."""
    _possess_user_keyring()
    description = ffi.new("char[]", (NAME_PREFIX + name).encode())
    kind = ffi.new("char[]", _TYPE)
    try:
        return _keyctl(_SEARCH, _USER_KEYRING, _address(kind), _address(description), 0)
    except KernelError as error:
        if error.errno in _ABSENT:
            return None
        raise


def read_into(serial: int, target: memoryview) -> int:
    """Read the payload into `target` and return its length, which may be larger than what fitted."""
    _possess_user_keyring()
    buffer = ffi.from_buffer(target)
    return _keyctl(_READ, serial, _address(buffer), target.nbytes)


def unlink(name: str) -> bool:
    """Remove "nono:NAME"; whether there was one."""
    serial = search(name)
    if serial is None:
        return False
    _keyctl(_UNLINK, serial, _USER_KEYRING & 0xFFFFFFFF)
    return True


def list_names() -> list[str]:
    """Return the NAMEs stored, sorted, without reading any of them."""
    _possess_user_keyring()
    size = _keyctl(_READ, _USER_KEYRING)
    ring = ffi.new("char[]", max(size, 4))
    size = min(_keyctl(_READ, _USER_KEYRING, _address(ring), len(ring)), len(ring))
    names = []
    for (serial,) in struct.iter_unpack("=i", ffi.buffer(ring, size - size % 4)):
        description = ffi.new("char[]", 4200)  # KEY_MAX_DESC_SIZE and the fields before it
        try:
            _keyctl(_DESCRIBE, serial, _address(description), len(description))
        except KernelError:  # gone meanwhile, or not ours to see
            continue
        # "type;uid;gid;perm;description"
        fields = ffi.string(description).decode("utf-8", "replace").split(";", 4)
        if fields[0] == _TYPE.decode() and fields[-1].startswith(NAME_PREFIX):
            names.append(fields[-1][len(NAME_PREFIX) :])
    return sorted(names)
