"""What every platform's keystore is to the rest of nono: one protocol, one list of statuses, one set of sentences.

A keystore fails with a status from the list below and nothing else: what a library or a daemon says about a failure may
quote the secret, so it is dropped where it is caught and `failure` writes a fixed text instead.

The modules that hold a class `Keystore` are imported by name from two tables, when a keystore is first needed: a run
whose keys are elsewhere pays for none of them, and here alone stands what is imported. In the supervisor no copy of a
key may be left: the Secret Service is read straight into locked memory, the Keychain by a helper process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module

from nono.credentials.reference import KEYRING, SIGNING, Reference
from nono.credentials.validation import TOO_LONG as _TOO_LONG_TEXT
from nono.errors import CredentialError
from nono.kernel.secretmem import SecretBuffer
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object

FOUND = 0
NOT_FOUND = 1
NO_BUS = 2  # no session bus to connect to
NO_SERVICE = 3  # a bus, but nothing on it keeps secrets
LOCKED = 4  # and nobody can be asked to unlock it: no display
DISMISSED = 5  # the user closed the dialog
PROMPT_TIMEOUT = 6  # nobody answered the dialog
CALL_TIMEOUT = 7
DENIED = 8
FAILED = 9
TOO_LONG = 10
NO_LIBRARY = 11

CALL_TIMEOUT_S = 10.0
PROMPT_TIMEOUT_S = 60.0

HERE = {"linux": "nono.credentials.secret_service", "darwin": "nono.credentials.keychain"}
IN_SUPERVISOR = {"linux": "nono.credentials.secret_service", "darwin": "nono.credentials.helper"}


class KeystoreError(Exception):
    """The keystore did not do it; `status` says why. Carries no text of anyone else's."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Limits(Record):
    """Seconds to wait for the keystore to answer a call, and for the user to answer its dialog."""

    call_s: float = CALL_TIMEOUT_S
    prompt_s: float = PROMPT_TIMEOUT_S


DEFAULT_LIMITS = Limits()


class Found(Record):
    """A secret: the first `length` bytes of `buffer`, which the receiver owns. several: more than one item matched."""

    buffer: SecretBuffer
    length: int
    several: bool


class Keystore(Protocol):
    """What a platform's class of this name does. Constructed with (limits, on_prompt); on_prompt is called before a
    dialog opens. Everything raises KeystoreError. IN_SUPERVISOR needs `get` and `close` only.
    """

    def get(self, service: str, account: str) -> Found: ...

    def set(self, service: str, account: str, secret: bytes) -> None: ...

    def remove(self, service: str, account: str) -> bool:
        """Remove every item that matches; False when there is none."""

    def status(self, service: str, account: str) -> str:
        """Return "unlocked" or "locked", or "" when there is no such item. Opens no dialog."""

    def accounts(self, service: str) -> list[str]: ...

    def close(self) -> None: ...


def open_keystore(
    limits: Limits = DEFAULT_LIMITS,
    on_prompt: Callable[[], None] = lambda: None,
    modules: Mapping[str, str] = HERE,
) -> Keystore:
    """Import the platform's module and return its Keystore. modules: HERE or IN_SUPERVISOR. Raises KeystoreError."""
    name = modules.get(sys.platform)
    if name is None:
        raise KeystoreError(NO_LIBRARY)
    try:
        module = import_module(name)
    except ImportError:
        raise KeystoreError(NO_LIBRARY) from None
    opened: Keystore = module.Keystore(limits, on_prompt)
    return opened


def keystore_name() -> str:
    return "the macOS Keychain" if sys.platform == "darwin" else "the Secret Service"


def described(reference: Reference) -> str:
    """Name an item of the keystore in the user's words."""
    if reference.service == SIGNING:
        return f"signing key '{reference.name}'"
    if reference.scheme == KEYRING:
        return f"credential '{reference.name}' of service '{reference.service}'"
    return f"credential '{reference.name}'"


def has_display() -> bool:
    """Whether a dialog can reach the user."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def failure(status: int, reference: Reference, set_name: str, *, is_wanted: bool = True) -> CredentialError:
    """Return the error for `status` of one credential. is_wanted: to use or keep it; else to remove it.

    set_name: what the user says to `nono credential set` for this credential: a route or the account.
    """
    what, store = described(reference), keystore_name()
    own = reference.scheme != KEYRING
    if status == NOT_FOUND:
        how = f"nono credential set {set_name}" if own else _other_program(reference)
        return CredentialError(f"no {what} in {store}. Store it with: {how}")
    if status == TOO_LONG:
        return CredentialError(f"the {what} in {store} {_TOO_LONG_TEXT}; store it again, the key alone.")
    if status in (DISMISSED, PROMPT_TIMEOUT):
        advice = "Run again and unlock it"
    elif status == NO_LIBRARY:
        advice = "Install nono again with pip"
    elif own and not is_wanted:
        advice = "What the other stores hold is listed by: nono credential list"
    elif own:
        command = f"nono credential set {set_name} --store"
        advice = f"Store it elsewhere: {command} file (or {command} session: in memory, until reboot)"
    elif reference.service == SIGNING:
        advice = "A key can be in a file, too: nono trust keygen --keyref file:///PATH"
    else:
        advice = "Give it another credential_key: file:///PATH or session://NAME"
    return CredentialError(f"cannot reach {what}: {reason(status)}. {advice}")


def unavailable(status: int) -> CredentialError:
    """Return the error for `status` of the keystore as a whole."""
    return CredentialError(f"{reason(status)}.")


def reason(status: int) -> str:
    """Return what `status` says about the keystore as a whole, as a clause."""
    store = keystore_name()
    return {
        NO_BUS: "there is no D-Bus session bus here, so no Secret Service",
        NO_SERVICE: "nothing on the session bus offers the Secret Service",
        LOCKED: f"{store} is locked and cannot ask for its password without a display",
        DISMISSED: f"{store} stayed locked, because its dialog was closed",
        PROMPT_TIMEOUT: f"{store} stayed locked, because nobody answered its dialog in time",
        CALL_TIMEOUT: f"{store} does not answer",
        DENIED: f"{store} denies access",
        NO_LIBRARY: f"the library that reads {store} is not installed",
    }.get(status, f"{store} failed")


def _other_program(reference: Reference) -> str:
    if reference.service == SIGNING:
        return f"nono trust keygen --id {reference.name}"
    if sys.platform == "darwin":
        return f"security add-generic-password -s '{reference.service}' -a '{reference.name}' -w"
    return f"secret-tool store --label='{reference.name}' service '{reference.service}' username '{reference.name}'"
