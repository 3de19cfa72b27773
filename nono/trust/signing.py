"""Files -> statement -> bundle, with a key. (keyless.py signs without one.)

The statement is serialised once, and those bytes are signed and put into the bundle. What it says of the signer is for
a reader: who verifies goes by the key.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def keyed(key_id: str) -> dict[str, str]:
    """Return what a statement says of a signer with a key."""
    return {"kind": "keyed", "key_id": key_id}


def statement(subjects: Sequence[tuple[str, str]], predicate_type: str, signer: Mapping[str, str]) -> bytes:
    """Return the in-toto statement, the payload that is to be signed.

    subjects: (name, SHA-256); the base name for one file or a policy, paths relative to the root for MULTI_FILE.
    Raises UsageError for subjects of which there can be no bundle: none, too many, twice the same.
    """
    raise NotImplementedError


def sign(payload: bytes, private: bytes) -> bytes:
    """Return the bundle file for a statement, signed with a private key (PKCS#8 DER)."""
    raise NotImplementedError
