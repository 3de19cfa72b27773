"""A Sigstore of our own: Fulcio, its certificate log, and Rekor. sigstore_services.py has it answer over HTTP.

    world = World()           an authority with an intermediate, a certificate log, a Rekor with some entries
    world.trusted_root()      what a verifier is told, as trusted_root.json
    world.bundle(payload)     a keyless bundle of a job's; every part can be made wrong by a keyword

Everything is real (keys, X.509, Merkle trees, signed notes); nothing is copied from a service. Each test that wants a
wrong part asks for it when the bundle is made, so that all that depends on it is right: the signature over a false
promise is there, it is just not Rekor's.

Sources: RFC 6962 (SCTs, Merkle trees), Fulcio docs/oid-info.md, Rekor's openapi.yaml, C2SP signed-note and
tlog-checkpoint, sigstore/protobuf-specs.
"""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nono.trust.bundle import PAYLOAD_TYPE, Bundle, pae, parse
from nono.trust.trusted_root import TrustRoot

Key = ec.EllipticCurvePrivateKey

ISSUER = "https://token.actions.githubusercontent.com"
REPOSITORY = "acme/skills"
REF = "refs/heads/main"
WORKFLOW = ".github/workflows/sign.yml"
SIGNER_URI = f"https://github.com/{REPOSITORY}/{WORKFLOW}@{REF}"
FULCIO = "1.3.6.1.4.1.57264.1."
SIGNED_AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
REKOR_NAME = "rekor.test"
EXTENSIONS = {
    "8": ISSUER,
    "9": SIGNER_URI,
    "12": f"https://github.com/{REPOSITORY}",
    "14": REF,
    "18": SIGNER_URI,
}
"""What Fulcio writes about a job of GitHub's, by the last number of the extension."""
EXTENSIONS_V1 = {"1": ISSUER, "5": REPOSITORY, "6": REF}


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def log_id(key: Key) -> bytes:
    return sha256(spki(key)).digest()


def sign(key: Key, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def text(data: bytes) -> str:
    return b64encode(data).decode()


def der(tag: int, content: bytes) -> bytes:
    """Return a DER value of fewer than 64 KiB."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    return bytes((tag, 0x81, length)) + content if length < 0x100 else struct.pack("!BBH", tag, 0x82, length) + content


def utf8_string(value: str) -> bytes:
    return der(0x0C, value.encode())


def github_extensions(**changes: str | None) -> dict[str, bytes]:
    """Return a job's extensions by OID. changes: `_8="…"` replaces one, None leaves it out."""
    values = EXTENSIONS | {name.removeprefix("_"): value for name, value in changes.items()}
    return {FULCIO + number: utf8_string(value) for number, value in values.items() if value is not None}


# ---- certificates


@dataclass
class Authority:
    """A certificate authority: Fulcio's root, or the intermediate below it."""

    name: str
    key: Key = field(default_factory=new_key)
    issuer: Authority | None = None
    start: datetime = BEGINNING
    end: datetime = datetime(2036, 1, 1, tzinfo=UTC)
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        above = self.issuer or self
        usage = dict.fromkeys(_USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(above.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.start)
            .not_valid_after(self.end)
            .add_extension(
                x509.BasicConstraints(ca=True, path_length=None if self.issuer is None else 0), critical=True
            )
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above.key.public_key()), critical=False)
            .sign(above.key, hashes.SHA256())
        )

    @property
    def subject(self) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])


_USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


@dataclass
class Certificate:
    """What to certify. extensions: DER values by OID; san: a URI."""

    key: Key = field(default_factory=new_key)
    start: datetime = SIGNED_AT
    lifetime: timedelta = timedelta(minutes=10)
    san: Sequence[x509.GeneralName] = (x509.UniformResourceIdentifier(SIGNER_URI),)
    extensions: Mapping[str, bytes] = field(default_factory=github_extensions)
    code_signing: bool = True
    sct_time: datetime | None = None
    sct: bool = True


# ---- Merkle trees (RFC 6962 section 2.1)


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\0" + entry).digest()


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    split = _split(len(leaves))
    return sha256(b"\1" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


def inclusion_path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*inclusion_path(index, leaves[:split]), tree_hash(leaves[split:])]
    return [*inclusion_path(index - split, leaves[split:]), tree_hash(leaves[:split])]


def _split(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


# ---- the world


class World:
    """Fulcio, its certificate log, and Rekor, with the keys that a trusted root names."""

    def __init__(self) -> None:
        self.root = Authority("sigstore.test")
        self.intermediate = Authority("sigstore-intermediate.test", issuer=self.root)
        self.ct_key = new_key()
        self.rekor_key = new_key()
        self.leaves = [leaf_hash(f"an older entry {number}".encode()) for number in range(5)]

    def trusted_root(self, **changes: Any) -> bytes:
        """Return trusted_root.json. changes: replace its members."""
        start = {"start": "2026-01-01T00:00:00Z"}
        document = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [self.log(self.rekor_key, start)],
            "certificateAuthorities": [self.authority(start)],
            "ctlogs": [self.log(self.ct_key, start)],
            "timestampAuthorities": [],
        }
        return json.dumps(document | changes).encode()

    def trust_root(self, **changes: Any) -> TrustRoot:
        return TrustRoot("trusted_root.json", self.trusted_root(**changes), "this library")

    def log(self, key: Key, valid_for: Mapping[str, str]) -> dict[str, Any]:
        return {
            "baseUrl": f"https://{REKOR_NAME}",
            "hashAlgorithm": "SHA2_256",
            "publicKey": {"rawBytes": text(spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": valid_for},
            "logId": {"keyId": text(log_id(key))},
        }

    def authority(self, valid_for: Mapping[str, str]) -> dict[str, Any]:
        chain = (self.intermediate.certificate, self.root.certificate)
        return {
            "subject": {"organization": "sigstore.test", "commonName": "sigstore.test"},
            "uri": "https://fulcio.test",
            "certChain": {"certificates": [{"rawBytes": text(made.public_bytes(Encoding.DER))} for made in chain]},
            "validFor": valid_for,
        }

    # Fulcio

    def certify(self, wanted: Certificate, public_key: ec.EllipticCurvePublicKey | None = None) -> x509.Certificate:
        """Return a certificate with the certificate log's signature in it."""
        usage = dict.fromkeys(_USAGES, False) | {"digital_signature": True}
        purpose = ExtendedKeyUsageOID.CODE_SIGNING if wanted.code_signing else ExtendedKeyUsageOID.SERVER_AUTH
        public_key = public_key or wanted.key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.intermediate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(wanted.start)
            .not_valid_after(wanted.start + wanted.lifetime)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.intermediate.key.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName(wanted.san), critical=True)
        )
        for oid, value in wanted.extensions.items():
            builder = builder.add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False
            )
        if wanted.sct:
            logged = builder.sign(self.intermediate.key, hashes.SHA256()).tbs_certificate_bytes
            stamps = self._stamps(logged, wanted.sct_time or wanted.start)
            oid = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, der(0x04, stamps)), critical=False)
        return builder.sign(self.intermediate.key, hashes.SHA256())

    def _stamps(self, precertificate: bytes, when: datetime) -> bytes:
        """Return a list of one signed certificate timestamp (RFC 6962 sections 3.2, 3.3)."""
        milliseconds = int(when.timestamp()) * 1000
        signed = struct.pack("!BBQH", 0, 0, milliseconds, 1) + log_id(self.intermediate.key)
        signed += len(precertificate).to_bytes(3) + precertificate + b"\0\0"
        signature = sign(self.ct_key, signed)
        stamp = b"\0" + log_id(self.ct_key) + struct.pack("!QHBBH", milliseconds, 0, 4, 3, len(signature)) + signature
        return struct.pack("!HH", len(stamp) + 2, len(stamp)) + stamp

    # Rekor

    def entry(self, body: bytes, when: datetime, *, newer: int = 2, rekor_key: Key | None = None) -> dict[str, Any]:
        """Log `body`, and return the entry as a bundle has it. newer: how many entries come after it."""
        key = rekor_key or self.rekor_key
        index = len(self.leaves)
        self.leaves.append(leaf_hash(body))
        self.leaves += [leaf_hash(f"a newer entry {index} {number}".encode()) for number in range(newer)]
        root_hash = tree_hash(self.leaves)
        promise = {
            "body": text(body),
            "integratedTime": int(when.timestamp()),
            "logID": log_id(key).hex(),
            "logIndex": index,
        }
        kind = json.loads(body)
        return {
            "logIndex": str(index),
            "logId": {"keyId": text(log_id(key))},
            "kindVersion": {"kind": kind["kind"], "version": kind["apiVersion"]},
            "integratedTime": str(int(when.timestamp())),
            "inclusionPromise": {"signedEntryTimestamp": text(sign(key, canonical(promise)))},
            "inclusionProof": {
                "logIndex": str(index),
                "rootHash": text(root_hash),
                "treeSize": str(len(self.leaves)),
                "hashes": [text(node) for node in inclusion_path(index, self.leaves)],
                "checkpoint": {"envelope": self.checkpoint(root_hash, key)},
            },
            "canonicalizedBody": text(body),
        }

    def checkpoint(self, root_hash: bytes, key: Key | None = None) -> str:
        key = key or self.rekor_key
        note = f"{REKOR_NAME} - 1\n{len(self.leaves)}\n{text(root_hash)}\n"
        return f"{note}\n— {REKOR_NAME} {text(log_id(key)[:4] + sign(key, note.encode()))}\n"

    # a job that signs

    def bundle(
        self,
        payload: bytes,
        *,
        wanted: Certificate | None = None,
        when: datetime = SIGNED_AT + timedelta(minutes=1),
        signed: bytes | None = None,
        logged: bytes | None = None,
        rekor_key: Key | None = None,
    ) -> dict[str, Any]:
        """Return a bundle. signed, logged: another payload, to sign or to log in the place of this one."""
        wanted = wanted or Certificate()
        certificate = self.certify(wanted)
        signature = sign(wanted.key, pae(PAYLOAD_TYPE, payload if signed is None else signed))
        body = dsse_body(payload if logged is None else logged, signature, certificate)
        return {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {
                "certificate": {"rawBytes": text(certificate.public_bytes(Encoding.DER))},
                "tlogEntries": [self.entry(body, when, rekor_key=rekor_key)],
            },
            "dsseEnvelope": {
                "payloadType": PAYLOAD_TYPE,
                "payload": text(payload),
                "signatures": [{"sig": text(signature)}],
            },
        }


def canonical(value: Any) -> bytes:
    """Canonical JSON (RFC 8785), as far as these values need it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def dsse_body(payload: bytes, signature: bytes, certificate: x509.Certificate) -> bytes:
    """Return the body of Rekor's entry for an envelope (kind dsse, 0.0.1)."""
    signer = {"signature": text(signature), "verifier": text(certificate.public_bytes(Encoding.PEM))}
    spec = {
        "envelopeHash": {"algorithm": "sha256", "value": sha256(payload + signature).hexdigest()},
        "payloadHash": {"algorithm": "sha256", "value": sha256(payload).hexdigest()},
        "signatures": [signer],
    }
    return canonical({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})


def read(bundle: Mapping[str, Any], source: str = "SKILL.md.bundle") -> Bundle:
    return parse(json.dumps(bundle).encode(), source)
