from __future__ import annotations

import pytest

from nono.credentials import user_keyring
from nono.errors import CredentialError


def read(name: str) -> bytes:
    buffer, length = user_keyring.read(name, "no such credential")
    with buffer:
        return bytes(buffer.view[:length])


def test_stores_reads_lists_and_removes(name: str) -> None:
    assert not user_keyring.exists(name)
    user_keyring.put(name, memoryview(b"one"))
    user_keyring.put(name, memoryview(b"two"))
    assert user_keyring.exists(name)
    assert read(name) == b"two"
    assert user_keyring.names().count(name) == 1
    assert user_keyring.remove(name)
    assert not user_keyring.remove(name)
    with pytest.raises(CredentialError, match=r"^no such credential$"):
        read(name)


def test_takes_the_longest_key_and_no_longer_one(name: str) -> None:
    user_keyring.put(name, memoryview(b"k" * 16386))
    assert len(read(name)) == 16386
    user_keyring.put(name, memoryview(b"k" * 16387))
    with pytest.raises(CredentialError, match=r"longer than"):
        read(name)
