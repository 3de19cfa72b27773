"""Take a key from the user into locked memory: typed at a hidden prompt, or from standard input.

Never from an argument: every process of the machine can read those. The kernel writes what is typed or piped straight
into the buffer, so the only other copy is the terminal's own.
"""

from __future__ import annotations

import os
import termios

from nono.credentials.validation import RAW_MAX_BYTES, TOO_LONG
from nono.errors import CredentialError
from nono.kernel.secretmem import SecretBuffer

_LINE_MAX_BYTES = 4095  # N_TTY_BUF_SIZE - 1: of a longer line the terminal drops the rest without a word
_LOCAL_FLAGS = 3  # the index of c_lflag in what tcgetattr returns


def read(prompt: str) -> tuple[SecretBuffer, int]:
    """Return what the user enters, in a new locked buffer that the caller owns, and its length.

    Asks on the terminal when standard input is one, else reads standard input to its end. Raises CredentialError.
    """
    buffer = SecretBuffer(RAW_MAX_BYTES + 1)
    try:
        return buffer, _read_hidden(prompt, buffer) if os.isatty(0) else _read_to_end(0, buffer)
    except BaseException:
        buffer.close()
        raise


def _read_to_end(fd: int, buffer: SecretBuffer) -> int:
    length = 0
    while length < buffer.size:
        with buffer.view[length:] as rest:
            count = os.readv(fd, [rest])
        if not count:
            return length
        length += count
    raise CredentialError(f"the key {TOO_LONG}; nothing was stored")


def _read_hidden(prompt: str, buffer: SecretBuffer) -> int:
    fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        before = termios.tcgetattr(fd)
        hidden = before[:]
        hidden[_LOCAL_FLAGS] &= ~(termios.ECHO | termios.ECHONL)
        hidden[_LOCAL_FLAGS] |= termios.ICANON | termios.ISIG
        try:
            termios.tcsetattr(fd, termios.TCSAFLUSH, hidden)
            os.write(fd, prompt.encode())
            with buffer.view[:] as view:
                length = os.readv(fd, [view])
        finally:
            # FLUSH: the second line of something pasted must not be left for the shell to execute and to record.
            termios.tcsetattr(fd, termios.TCSAFLUSH, before)
            os.write(fd, b"\n")
    finally:
        os.close(fd)
    if length >= _LINE_MAX_BYTES:
        raise CredentialError("the key is too long for a terminal's line; pipe it in instead; nothing was stored")
    return length
