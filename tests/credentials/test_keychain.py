"""The macOS Keychain, with a stand-in for keyring's backend class: what is asked of it, what becomes of its errors."""

from __future__ import annotations

import pytest
from keyring import errors
from keyring.backends import macOS

from nono.credentials import keychain, keystore
from nono.credentials.keystore import DEFAULT_LIMITS, KeystoreError

SECRET = "sk-Vw3kQ9zLx7RbTn5HcYp2"


class StandIn:
    """keyring.backends.macOS.Keyring as its documentation has it; `fails` is raised by every method."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.items: dict[tuple[str, str], str] = {}
        self._fails = fails

    def get_password(self, service: str, account: str) -> str | None:
        if self._fails:
            raise self._fails
        return self.items.get((service, account))

    def set_password(self, service: str, account: str, password: str) -> None:
        if self._fails:
            raise self._fails
        self.items[service, account] = password

    def delete_password(self, service: str, account: str) -> None:
        del self.items[service, account]


def opened(monkeypatch: pytest.MonkeyPatch, stand_in: StandIn) -> keychain.Keystore:
    monkeypatch.setattr(macOS, "Keyring", lambda: stand_in)
    return keychain.Keystore(DEFAULT_LIMITS, lambda: None)


def test_sets_gets_and_removes(monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(monkeypatch, StandIn())
    assert store.status("nono", "k") == ""
    store.set("nono", "k", SECRET.encode())
    found = store.get("nono", "k")
    assert found.buffer.view[: found.length] == SECRET.encode()
    assert store.status("nono", "k") == "unlocked"
    assert store.remove("nono", "k")
    assert not store.remove("nono", "k")
    with pytest.raises(KeystoreError) as error:
        store.get("nono", "k")
    assert error.value.status == keystore.NOT_FOUND


@pytest.mark.parametrize(
    ("fails", "status"),
    [
        (errors.KeyringLocked(SECRET), keystore.DENIED),
        (errors.KeyringError(SECRET), keystore.FAILED),
        (UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, "x"), keystore.FAILED),
    ],
)
def test_an_error_becomes_a_status_and_quotes_nothing(
    monkeypatch: pytest.MonkeyPatch, fails: Exception, status: int
) -> None:
    store = opened(monkeypatch, StandIn(fails))
    for action in (lambda: store.get("nono", "k"), lambda: store.set("nono", "k", SECRET.encode())):
        with pytest.raises(KeystoreError) as error:
            action()
        assert error.value.status == status
        assert error.value.__cause__ is None
        assert SECRET not in repr(error.value)
