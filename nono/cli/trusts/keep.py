"""Where signing keys are kept: the platform's keystore, or a file that only its owner can read.

In the keystore: service `nono-trust`, account ID, value base64 of the PKCS#8 DER; a file has the same text, or PEM. The
text is read into locked memory; what is made of it lives in a process that signs and ends, and that no debugger of the
same user and no core dump reaches (not dumpable). Nothing here quotes a key, or what a library says about one.
"""

from __future__ import annotations

import base64
import sys

from nono.cli.trusts import writing
from nono.cli.trusts.keyref import FILE_SCHEME, KeyReference
from nono.credentials import files as key_files
from nono.credentials import keystore
from nono.credentials.keystore import Keystore, KeystoreError
from nono.credentials.reference import SIGNING
from nono.errors import CredentialError, UsageError
from nono.kernel import process
from nono.policy.verdict import shell_quoted
from nono.trust import keys

_WHAT = "signing key"


def protect() -> None:
    """Keep this process from being looked into, before it holds a key."""
    if sys.platform == "linux":
        process.set_dumpable(False)


def label(reference: KeyReference) -> str:
    """Name the place of a key in the user's words."""
    return reference.path or keystore.keystore_name()


def is_there(reference: KeyReference, config: str) -> bool:
    """Whether there is a private key of that name. Raises CredentialError, StoreError."""
    if reference.path:
        return writing.is_there(reference.path)
    with _Opened(reference, config) as opened:
        return bool(opened.status(SIGNING, reference.key_id))


def put(reference: KeyReference, private: bytes, config: str, *, over: bool) -> None:
    """Keep a private key (PKCS#8 DER). over: replace the one that is there. Raises CredentialError, StoreError.

    Raises FileExistsError, not `over`, for a file that is there.
    """
    text = base64.b64encode(private)
    if reference.path:
        key_files.check_place(reference.path, _WHAT)
        writing.write(reference.path, text + b"\n", mode=writing.PRIVATE, over=over)
        return
    with _Opened(reference, config) as opened:
        opened.set(SIGNING, reference.key_id, text)


def load(reference: KeyReference, config: str) -> bytes:
    """Return a private key, PKCS#8 DER. Raises CredentialError, UsageError."""
    make = f"nono trust keygen{reference.typed('--id')}"
    if reference.path:
        missing = f"there is no signing key {reference.path}. Make one with: {make}"
        buffer, length = key_files.read(reference.path, missing, _WHAT)
    else:
        with _Opened(reference, config) as opened:
            try:
                buffer, length, _ = opened.get(SIGNING, reference.key_id)
            except KeystoreError as error:
                if error.status != keystore.NOT_FOUND:
                    raise
                raise CredentialError(
                    f"there is no signing key '{reference.key_id}' in {label(reference)}. Make one with: {make}"
                ) from None
    with buffer, buffer.view[:length] as text:
        try:
            return keys.load_private(text)
        except UsageError as error:
            raise type(error)(f"{label(reference)}: {error}") from None


class _Opened:
    """The keystore, open for one operation on a key; what it fails with becomes a CredentialError."""

    def __init__(self, reference: KeyReference, config: str) -> None:
        self._reference = reference
        self._config = config
        self._keystore: Keystore | None = None

    def __enter__(self) -> Keystore:
        try:
            self._keystore = keystore.open_keystore(on_prompt=lambda: None)
        except KeystoreError as error:
            raise self._failure(error) from None
        return self._keystore

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._keystore is not None:
            self._keystore.close()
        if isinstance(error, KeystoreError):
            raise self._failure(error) from None

    def _failure(self, error: KeystoreError) -> CredentialError:
        file = shell_quoted(f"{FILE_SCHEME}{self._config}/trust/{self._reference.key_id}.pem")
        return CredentialError(
            f"cannot reach the signing key '{self._reference.key_id}': {keystore.reason(error.status)}. A key can be "
            f"in a file that only you can read, too: nono trust keygen --keyref {file}"
        )
