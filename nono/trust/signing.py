"""Files -> statement -> bundle, with a key. (keyless.py signs without one.)

The statement is serialised once, and those bytes are signed and put into the bundle. What it says of the signer is for
a reader: who verifies goes by the key.

Source: the Rust tool's trust/signing.rs and trust/dsse.rs for the form.
"""

from __future__ import annotations

import json

from nono.errors import UsageError
from nono.trust import bundle, keys, strict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def keyed(key_id: str) -> dict[str, str]:
    """Return what a statement says of a signer with a key."""
    return {"kind": "keyed", "key_id": key_id}


def statement(
    subjects: Sequence[tuple[str, str]], predicate_type: str, signer: Mapping[str, str], **more: object
) -> bytes:
    """Return the in-toto statement, the payload that is to be signed.

    subjects: (name, SHA-256); the base name for one file or a policy, paths relative to the root for MULTI_FILE.
    more: members of the predicate, as JSON has them.
    Raises UsageError for subjects of which there can be no bundle: none, too many, twice the same.
    """
    value = {
        "_type": bundle.STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects],
        "predicateType": predicate_type,
        "predicate": {"version": 1, "signer": dict(signer), **more},
    }
    payload = json.dumps(value, separators=(",", ":")).encode()
    try:
        bundle.parse_statement(payload)  # what could not be verified is not signed
    except strict.NotStrict as error:
        raise UsageError(f"these files cannot be signed together: their statement {error}") from None
    return payload


def sign(payload: bytes, private: bytes) -> bytes:
    """Return the bundle file for a statement, signed with a private key (PKCS#8 DER)."""
    signature = keys.sign(private, bundle.pae(bundle.PAYLOAD_TYPE, payload))
    return bundle.encode(payload, signature, keys.fingerprint(keys.public_of(private)))
