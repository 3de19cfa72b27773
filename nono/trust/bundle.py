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

import json
import re
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64

from nono.record import Record
from nono.trust import strict
from nono.trust.errors import MALFORMED, BundleError

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
MOST_NAME = 4096  # PATH_MAX
# v0.1 to v0.3, as Sigstore's own tools have written them.
_MEDIA_TYPES = (
    MEDIA_TYPE,
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.1",
)
_KEYED = "publicKey"
_CERTIFICATES = ("certificate", "x509CertificateChain")
_BESIDE = ("tlogEntries", "timestampVerificationData")
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_URL_SAFE = str.maketrans("-_", "+/")
_NAMES = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}


class Statement(Record):
    """An in-toto statement. subjects: (name, SHA-256 in lower-case hex digits), no name twice."""

    predicate_type: str
    subjects: tuple[tuple[str, str], ...]
    predicate: Mapping[str, Any]

    @property
    def key_id(self) -> str:
        """What a keyed signer calls his key; "" where he does not say."""
        key_id = self._signer.get("key_id")
        return key_id if isinstance(key_id, str) else ""

    @property
    def kind(self) -> str:
        """ "keyed" or "keyless", as the statement says; "" where it does not."""
        kind = self._signer.get("kind")
        return kind if isinstance(kind, str) else ""

    @property
    def _signer(self) -> Mapping[str, Any]:
        signer = self.predicate.get("signer")
        return signer if isinstance(signer, dict) else {}


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
    try:
        return _parse(data, source)
    except strict.NotStrict as error:
        raise BundleError(MALFORMED, source, str(error)) from None


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def encode(statement: bytes, signature: bytes, hint: str) -> bytes:
    """Return the bundle file of a keyed signature. statement: the payload, as it was signed."""
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {
            _KEYED: {"hint": hint},
            "tlogEntries": [],
            "timestampVerificationData": {"rfc3161Timestamps": []},
        },
        "dsseEnvelope": {
            "payloadType": PAYLOAD_TYPE,
            "payload": b64encode(statement).decode(),
            "signatures": [{"sig": b64encode(signature).decode()}],
        },
    }
    return json.dumps(bundle, indent=2).encode() + b"\n"


def parse_statement(data: bytes) -> Statement:
    """Return the in-toto statement in a payload. Raises strict.NotStrict."""
    value = _object(strict.loads(data), "its statement")
    if _member(value, "_type", str, "its statement") != STATEMENT_TYPE:
        raise strict.NotStrict(f"has a statement that is not an in-toto statement: its _type is not {STATEMENT_TYPE}")
    listed = _member(value, "subject", list, "its statement")
    if not 1 <= len(listed) <= MOST_SUBJECTS:
        raise strict.NotStrict(f"names {len(listed)} files, where 1 to {MOST_SUBJECTS} can be")
    subjects: dict[str, str] = {}
    for entry in listed:
        name, digest = _subject(entry)
        if name in subjects:
            raise strict.NotStrict(f"names {strict.name(name)} twice")
        subjects[name] = digest
    predicate_type = _member(value, "predicateType", str, "its statement")
    predicate = value.get("predicate")  # in-toto lets it be left out
    return Statement(
        predicate_type, tuple(subjects.items()), {} if predicate is None else _object(predicate, "predicate")
    )


def _parse(data: bytes, source: str) -> Bundle:
    if len(data) > MOST_BYTES:
        raise strict.NotStrict(f"is larger than {MOST_BYTES >> 20} MiB, which no bundle is")
    value = _object(strict.loads(data), "it")
    if "messageSignature" in value:
        raise strict.NotStrict("signs the bytes of a file, not a statement about it; nono takes only the latter")
    _only(value, ("mediaType", "verificationMaterial", "dsseEnvelope"), "")
    media_type = _member(value, "mediaType", str, "it")
    if media_type not in _MEDIA_TYPES:
        raise strict.NotStrict(
            "is not a Sigstore bundle of a version that nono knows: mediaType has to be " + MEDIA_TYPE
        )
    material = _object(_member(value, "verificationMaterial", dict, "it"), "verificationMaterial")
    _only(material, (_KEYED, *_CERTIFICATES, *_BESIDE), "verificationMaterial.")
    given = [key for key in (_KEYED, *_CERTIFICATES) if key in material]
    if len(given) != 1:
        raise strict.NotStrict(
            f"has {' and '.join(given)} in verificationMaterial, and which counts cannot be said"
            if given
            else "names neither a public key nor a certificate in verificationMaterial"
        )
    _member(material, given[0], dict, "verificationMaterial")
    for key, kind in zip(_BESIDE, (list, dict), strict=True):
        if key in material:
            _member(material, key, kind, "verificationMaterial")
    hint = ""
    if given[0] == _KEYED:
        _only(material[_KEYED], ("hint",), "verificationMaterial.publicKey.")
        hint = _member(material[_KEYED], "hint", str, "publicKey")
    envelope = _object(_member(value, "dsseEnvelope", dict, "it"), "dsseEnvelope")
    _only(envelope, ("payloadType", "payload", "signatures"), "dsseEnvelope.")
    payload_type = _member(envelope, "payloadType", str, "dsseEnvelope")
    if payload_type != PAYLOAD_TYPE:
        raise strict.NotStrict(f"does not sign a statement: dsseEnvelope.payloadType has to be {PAYLOAD_TYPE}")
    payload = _base64(_member(envelope, "payload", str, "dsseEnvelope"), "dsseEnvelope.payload")
    signatures = _member(envelope, "signatures", list, "dsseEnvelope")
    if len(signatures) != 1:
        raise strict.NotStrict(f"has {len(signatures) or 'no'} signatures, where one has to be")
    only = _object(signatures[0], "the signature")
    _only(only, ("sig", "keyid"), "the signature's ")
    if "keyid" in only:
        _member(only, "keyid", str, "the signature")
    signature = _base64(_member(only, "sig", str, "the signature"), "the signature")
    statement = parse_statement(payload)
    return Bundle(media_type, payload_type, payload, signature, hint, given[0] != _KEYED, statement, data, source)


def _subject(entry: object) -> tuple[str, str]:
    subject = _object(entry, "a subject")
    name = _member(subject, "name", str, "a subject")
    if not name or len(name) > MOST_NAME or "\0" in name or not _is_text(name):
        raise strict.NotStrict("names a file by what can be no file's name")
    digest = _member(_object(_member(subject, "digest", dict, "a subject"), "digest"), "sha256", str, "a digest")
    if not _SHA256.fullmatch(digest):
        raise strict.NotStrict(f"has a sha256 for {strict.name(name)} that is not 64 lower-case hexadecimal digits")
    return name, digest


def _is_text(text: str) -> bool:
    """Whether it has no half of a surrogate pair, which JSON can write and no file system has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise strict.NotStrict(f"is not a bundle: {what} is no JSON object")
    return value


def _member(value: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in value:
        raise strict.NotStrict(f"is not a bundle: {where} lacks {key}")
    if type(value[key]) is not kind:
        raise strict.NotStrict(f"is not a bundle: {key} is not {_NAMES[kind]}")
    return value[key]


def _only(value: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in value:
        if key not in known:
            raise strict.NotStrict(f"has {where}{strict.name(key)[1:-1]}, which no bundle has")


def _base64(text: str, what: str) -> bytes:
    """Either alphabet, padded or not, as DSSE lets them be; nothing else between."""
    plain = text.translate(_URL_SAFE)
    try:
        decoded = a2b_base64(plain + "=" * (-len(plain) % 4), strict_mode=True)
    except (ValueError, Base64Error):
        raise strict.NotStrict(f"has {what} that is not base64") from None
    if not decoded:
        raise strict.NotStrict(f"has {what} that is empty")
    return decoded
