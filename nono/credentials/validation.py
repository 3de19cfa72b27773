"""Decide whether some bytes can be a credential, without copying them.

Pure: reads a memoryview byte by byte (small integers, which CPython shares), so that no fragment of the value comes to
lie in ordinary memory. One trailing newline is dropped: editors and `echo` add it, and no key ends in one. Anything
that cannot stand in a header field unaltered is refused here, at the edge, each with its own sentence.
Source: RFC 9110 section 5.5 (field values).
"""

from __future__ import annotations

from nono.errors import CredentialError

MAX_BYTES = 16 * 1024
RAW_MAX_BYTES = MAX_BYTES + 2  # a trailing \r\n may follow the longest value

TOO_LONG = f"is longer than {MAX_BYTES} bytes"
_EMPTY = "is empty"
_NUL = "contains a NUL byte"
_NEWLINE = "contains a line break"
_CONTROL = "contains a control character"
_NOT_UTF8 = "is not valid UTF-8 text"
_NOT_ASCII = "contains a character outside ASCII, which cannot stand in an HTTP header"


def trimmed_length(raw: memoryview) -> int:
    """Return the length of `raw` without one trailing newline (\\n or \\r\\n)."""
    length = len(raw)
    if length and raw[length - 1] == 0x0A:
        length -= 1
        if length and raw[length - 1] == 0x0D:
            length -= 1
    return length


def fault(value: memoryview) -> str:
    """Say why `value` cannot be a credential, as the end of a sentence; "" when it can."""
    if not len(value):
        return _EMPTY
    if len(value) > MAX_BYTES:
        return TOO_LONG
    control = False
    ascii_only = True
    for byte in value:
        if byte < 0x20 or byte == 0x7F:
            if byte == 0:
                return _NUL
            if byte in (0x0A, 0x0D):
                return _NEWLINE
            control = True
        elif byte >= 0x80:
            ascii_only = False
    if not ascii_only:
        return _NOT_ASCII if _is_utf8(value) else _NOT_UTF8
    return _CONTROL if control else ""


def check(raw: memoryview, what: str, advice: str = "store it again, the key alone") -> int:
    """Return the length of the credential at the start of `raw`.

    what: the credential in the user's words, "credential 'openai_api_key' in the Secret Service".
    advice: the end of the error. Raises CredentialError.
    """
    length = trimmed_length(raw)
    with raw[:length] as value:
        reason = fault(value)
    if reason:
        raise CredentialError(f"the {what} {reason}; {advice}")
    return length


def _is_utf8(value: memoryview) -> bool:
    """Whether `value` is well-formed UTF-8. Source: RFC 3629 section 4 (the ranges of each second byte)."""
    pending = 0
    low, high = 0x80, 0xBF
    for byte in value:
        if pending:
            if not low <= byte <= high:
                return False
            pending -= 1
            low, high = 0x80, 0xBF
        elif byte < 0x80:
            continue
        elif 0xC2 <= byte <= 0xDF:
            pending = 1
        elif 0xE0 <= byte <= 0xEF:
            pending = 2
            low, high = (0xA0 if byte == 0xE0 else 0x80), (0x9F if byte == 0xED else 0xBF)
        elif 0xF0 <= byte <= 0xF4:
            pending = 3
            low, high = (0x90 if byte == 0xF0 else 0x80), (0x8F if byte == 0xF4 else 0xBF)
        else:
            return False
    return not pending
