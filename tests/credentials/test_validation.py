from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.credentials import validation
from nono.credentials.validation import MAX_BYTES
from nono.errors import CredentialError

KEY = b"sk-Vw3kQ9zLx7RbTn5HcYp2MfJd8GsXe4"


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_drops_one_newline(end: bytes) -> None:
    assert validation.check(memoryview(KEY + end), "key") == len(KEY)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\r\n", "is empty"),
        (KEY + b"\n\n", "line break"),
        (KEY + b"\r", "line break"),
        (KEY + b"\r\nx-evil: 1", "line break"),
        (KEY + b"\0", "NUL"),
        (KEY + b"\0\n", "NUL"),
        (KEY + b"\x1b[2J", "control character"),
        (KEY + b"\t", "control character"),
        (KEY + b"\x7f", "control character"),
        (KEY + b"\xff", "not valid UTF-8"),
        (KEY + b"\xc3", "not valid UTF-8"),
        (KEY + "é".encode(), "outside ASCII"),
        (b"k" * (MAX_BYTES + 1), "longer than 16384 bytes"),
    ],
)
def test_refuses_each_fault_with_its_own_sentence(raw: bytes, reason: str) -> None:
    with pytest.raises(CredentialError, match=f"^the credential 'x' .*{reason}") as error:
        validation.check(memoryview(raw), "credential 'x'")
    assert b"Vw3kQ9zLx7" not in repr(error.value).encode()
    assert error.value.__cause__ is None


def test_takes_the_longest_key_with_its_newline() -> None:
    assert validation.check(memoryview(b"k" * MAX_BYTES + b"\r\n"), "key") == MAX_BYTES


@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
def test_agrees_with_the_codecs(raw: bytes) -> None:
    length = validation.trimmed_length(memoryview(raw))
    value = raw[:length]
    assert raw[length:] in (b"", b"\n", b"\r\n")
    with memoryview(value) as view:
        fault = validation.fault(view)
    if not fault:
        assert value
        assert value.isascii()
        assert value.decode().isprintable()
    if "UTF-8" in fault:
        with pytest.raises(UnicodeDecodeError):
            value.decode()
    if "outside ASCII" in fault:
        assert not value.decode().isascii()
