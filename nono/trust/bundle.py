"""FILE.bundle -> Bundle, with its statement; and back.

A bundle is JSON (Sigstore's, v0.3) around a DSSE envelope, whose payload is an in-toto statement: the names and digests
of files. This module says what a bundle claims. Nothing in it is true until a signature over pae() has verified, by
keys.verify() or by keyless.identity_of().

What has two readings is refused: a key that stands twice, a subject that stands twice, a second signature, a
certificate beside a public key, base64 with anything else between; so are keys that no bundle has. A statement may have
more fields than these, as in-toto wants it. Digests are lower-case, as in-toto wants them, too.

Source: sigstore/protobuf-specs sigstore_bundle.proto; DSSE protocol.md; in-toto attestation spec/v1/statement.md.
"""

from __future__ import annotations

from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

INSTRUCTION_FILE = "https://nono.sh/attestation/instruction-file/v1"
TRUST_POLICY = "https://nono.sh/attestation/trust-policy/v1"
MULTI_FILE = "https://nono.sh/attestation/multi-file/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SUFFIX = ".bundle"
MULTI_NAME = ".nono-trust.bundle"
MOST_BYTES = 1 << 20
MOST_SUBJECTS = 1000


class Statement(Record):
    """An in-toto statement. subjects: (name, SHA-256 in lower-case hex digits), no name twice."""

    predicate_type: str
    subjects: tuple[tuple[str, str], ...]
    predicate: Mapping[str, Any]

    @property
    def key_id(self) -> str:
        """What a keyed signer calls his key; "" where he does not say."""
        raise NotImplementedError


class Bundle(Record):
    """What a bundle claims. hint: of a keyed one, the fingerprint of the key. raw: the file. source: for messages."""

    media_type: str
    payload_type: str
    payload: bytes
    signature: bytes
    hint: str
    is_keyless: bool
    statement: Statement
    raw: bytes
    source: str


def parse(data: bytes, source: str) -> Bundle:
    """Return the bundle. source: its path as a user knows it. Raises BundleError (malformed)."""
    raise NotImplementedError


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def encode(statement: bytes, signature: bytes, hint: str) -> bytes:
    """Return the bundle file of a keyed signature. statement: the payload, as it was signed."""
    raise NotImplementedError
