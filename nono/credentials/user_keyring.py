"""Credentials in the kernel's user keyring: session://NAME, and what `--store session` keeps. In memory until reboot.

The key's payload is read by the kernel straight into locked memory. The sandbox denies the child keyctl(2), for a
process of this user could read the keyring otherwise.
"""

from __future__ import annotations

from nono.credentials.validation import RAW_MAX_BYTES, TOO_LONG
from nono.errors import CredentialError, KernelError
from nono.kernel import keyctl
from nono.kernel.secretmem import SecretBuffer


def put(name: str, secret: memoryview) -> None:
    """Store `secret`, replacing what was there. Raises CredentialError."""
    try:
        keyctl.add_key(name, secret)
    except KernelError as exc:
        raise _failure(exc) from None


def exists(name: str) -> bool:
    """Whether there is such a credential. Raises CredentialError."""
    try:
        return keyctl.search(name) is not None
    except KernelError as exc:
        raise _failure(exc) from None


def read(name: str, missing: str) -> tuple[SecretBuffer, int]:
    """Return the credential in a new locked buffer that the caller owns, and its length.

    missing: the sentence when there is none. Raises CredentialError.
    """
    try:
        serial = keyctl.search(name)
        if serial is None:
            raise CredentialError(missing)
        buffer = SecretBuffer(RAW_MAX_BYTES)
        try:
            with buffer.view[:] as view:
                length = keyctl.read_into(serial, view)
            if length > len(buffer.view):
                raise CredentialError(f"the credential '{name}' in the session keyring {TOO_LONG}; store it again")
        except BaseException:
            buffer.close()
            raise
    except KernelError as exc:
        raise _failure(exc) from None
    return buffer, length


def remove(name: str) -> bool:
    """Remove the credential; False when there was none. Raises CredentialError."""
    try:
        return keyctl.unlink(name)
    except KernelError as exc:
        raise _failure(exc) from None


def names() -> list[str]:
    """Return the names of all credentials here. Raises CredentialError."""
    try:
        return keyctl.list_names()
    except KernelError as exc:
        raise _failure(exc) from None


def _failure(error: KernelError) -> CredentialError:
    return CredentialError(f"the session keyring does not work here: {error}")
