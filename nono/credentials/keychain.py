"""The macOS Keychain, through keyring's backend class for it.

Imported in the helper process of a run and in `nono credential`: keyring leaves copies of a key all over its process.
The class is named here and instantiated: never keyring.get_keyring(), which runs whatever module a configuration file
or an environment variable names. keyring's errors may quote what it was given, so each becomes a status. The Keychain
asks the user itself, in its own dialog, for as long as the user takes; the supervisor's time-out ends that.
"""

from __future__ import annotations

from collections.abc import Callable

import keyring.errors
from keyring.backends import macOS

from nono.credentials import keystore
from nono.credentials.keystore import Found, KeystoreError, Limits
from nono.credentials.validation import RAW_MAX_BYTES
from nono.kernel.secretmem import SecretBuffer


class Keystore:
    """The user's login Keychain (keystore.Keystore says what each method does)."""

    def __init__(self, limits: Limits, on_prompt: Callable[[], None]) -> None:
        self._keyring = macOS.Keyring()  # type: ignore[no-untyped-call]
        self._on_prompt = on_prompt

    def close(self) -> None:
        pass

    def get(self, service: str, account: str) -> Found:
        self._on_prompt()  # whether a dialog will open is not known before it does
        secret = self._do(lambda: self._keyring.get_password(service, account))
        if secret is None:
            raise KeystoreError(keystore.NOT_FOUND)
        value = str(secret).encode()
        if len(value) > RAW_MAX_BYTES:
            raise KeystoreError(keystore.TOO_LONG)
        buffer = SecretBuffer(max(len(value), 1))
        buffer.view[: len(value)] = value
        return Found(buffer, len(value), several=False)

    def set(self, service: str, account: str, secret: bytes) -> None:
        self._do(lambda: self._keyring.set_password(service, account, secret.decode()))

    def remove(self, service: str, account: str) -> bool:
        if not self.status(service, account):
            return False
        self._do(lambda: self._keyring.delete_password(service, account))
        return True

    def status(self, service: str, account: str) -> str:
        return "unlocked" if self._do(lambda: self._keyring.get_password(service, account)) is not None else ""

    def accounts(self, service: str) -> list[str]:
        return []  # keyring cannot list the Keychain

    def _do(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except keyring.errors.KeyringLocked:
            raise KeystoreError(keystore.DENIED) from None
        except Exception:  # noqa: BLE001  (what it says may quote the secret)
            raise KeystoreError(keystore.FAILED) from None
