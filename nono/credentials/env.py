"""Credentials in nono's own environment: env://VAR.

A process's environment lies in its memory and in /proc/PID/environ as long as it runs; os.environ is a second copy.
So nono does not keep it: the value goes into a pipe, and nono executes itself again, same interpreter and arguments,
with an environment that holds only the pipe's number. The new image reads the pipe straight into locked memory.

`hand_over` must run before anything that should not run twice. It costs a second interpreter start, which is why env://
is the slow source. The shell that set the variable keeps it: see SECURITY.md.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Mapping

from nono.credentials.reference import ENV, Reference
from nono.credentials.validation import RAW_MAX_BYTES, TOO_LONG
from nono.errors import CredentialError
from nono.kernel.secretmem import SecretBuffer
from nono.record import Record

_MARK = "NONO_HANDED_OVER"  # VAR=FD:BYTES[,...]: nothing secret


class HandedOver(Record):
    """A value that waits in a pipe: `length` bytes on `fd`, owned by whoever reads them."""

    fd: int
    length: int


def hand_over(references: Iterable[Reference]) -> Mapping[str, HandedOver]:
    """Return the values of all env:// references that were handed over, by variable.

    The first time, when any of these variables is set, it executes nono again and does not return.
    Raises CredentialError.
    """
    handed_over = _received(os.environ.pop(_MARK, ""))
    environment = dict(os.environb)
    marks = []
    for variable in sorted({reference.name for reference in references if reference.scheme == ENV}):
        value = environment.pop(os.fsencode(variable), None)
        if value is None:
            continue
        if variable in handed_over:  # set again by whatever ran in between: what was there first counts
            del os.environ[variable]
            continue
        marks.append(f"{variable}={_fill_pipe(value, variable)}:{len(value)}")
    if not marks:
        return handed_over
    marks += [f"{variable}={value.fd}:{value.length}" for variable, value in handed_over.items()]
    environment[os.fsencode(_MARK)] = os.fsencode(",".join(marks))
    try:
        os.execve(sys.executable, sys.orig_argv, environment)
    except OSError as exc:
        raise CredentialError(
            f"nono cannot start itself again to clear {variable} from its environment: {exc.strerror}."
        ) from None


def read(variable: str, handed_over: Mapping[str, HandedOver]) -> tuple[SecretBuffer, int]:
    """Return the value of `variable` in a new locked buffer that the caller owns, and its length.

    Can be done once. Raises CredentialError.
    """
    value = handed_over.get(variable)
    if value is None:
        raise CredentialError(f"the environment variable {variable} is not set, so env://{variable} has no credential.")
    buffer = SecretBuffer(max(value.length, 1))
    try:
        length = 0
        while length < value.length:
            with buffer.view[length : value.length] as rest:
                count = os.readv(value.fd, [rest])
            if not count:
                break
            length += count
    except OSError as exc:
        buffer.close()
        raise CredentialError(f"the value of {variable} was not handed over: {exc.strerror}.") from None
    finally:
        os.close(value.fd)
    return buffer, length


def _fill_pipe(value: bytes, variable: str) -> int:
    """Return the read end of a new inheritable pipe that holds `value` and is closed for writing."""
    if len(value) > RAW_MAX_BYTES:  # also keeps the write below from blocking: a pipe takes 64 KiB (16 on macOS)
        raise CredentialError(f"the value of the environment variable {variable} {TOO_LONG}.")
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    written = os.write(write_fd, value) if value else 0
    os.close(write_fd)
    if written != len(value):
        raise CredentialError(f"the value of the environment variable {variable} cannot be handed over.")
    os.set_inheritable(read_fd, True)
    return read_fd


def _received(mark: str) -> dict[str, HandedOver]:
    """Read the mark that the first image left. One that it cannot have left is ignored."""
    handed_over = {}
    for entry in mark.split(",") if mark else ():
        variable, _, rest = entry.partition("=")
        fd_text, _, length_text = rest.partition(":")
        if not (fd_text.isdecimal() and length_text.isdecimal() and int(length_text) <= RAW_MAX_BYTES):
            continue
        fd = int(fd_text)
        try:
            if fd < 3 or not stat.S_ISFIFO(os.fstat(fd).st_mode):
                continue
            os.set_inheritable(fd, False)
        except OSError:
            continue
        handed_over[variable] = HandedOver(fd, int(length_text))
    return handed_over
