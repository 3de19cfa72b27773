"""Keys, bundles and trees for the tests of trust. Bundles are built here with `cryptography` and `json` alone, in the
form in which the Rust tool writes them, so that nothing of nono.trust vouches for itself."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from nono.trust import anchors, own, policy
from nono.trust.bundle import Bundle
from nono.trust.policy import Keyless, Policy, Publisher, Rules

FILE = "https://nono.sh/attestation/instruction-file/v1"
POLICY = "https://nono.sh/attestation/trust-policy/v1"
TREE = "https://nono.sh/attestation/multi-file/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


class Signer:
    """Someone with a key."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.public = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.private = self.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        self.fingerprint = sha256(self.public).hexdigest()
        self.public_text = b64encode(self.public).decode()

    @property
    def publisher(self) -> Publisher:
        return Publisher(name=self.key_id, key_id=self.key_id, public_key=self.public)

    @property
    def entry(self) -> dict[str, str]:
        """As a policy has it."""
        return {"name": self.key_id, "key_id": self.key_id, "public_key": self.public_text}

    def sign(self, payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
        pae = b"DSSEv1 %d %b %d %b" % (len(payload_type), payload_type.encode(), len(payload), payload)
        return self.key.sign(pae, ec.ECDSA(SHA256()))


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def statement(
    subjects: Sequence[tuple[str, str]], kind: str = FILE, key_id: str = "default", signer: Any = None
) -> dict[str, Any]:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": value}} for name, value in subjects],
        "predicateType": kind,
        "predicate": {"version": 1, "signer": {"kind": "keyed", "key_id": key_id} if signer is None else signer},
    }


def enveloped(payload: bytes, signature: bytes, hint: str) -> dict[str, Any]:
    """What the Rust tool writes: sigstore-types' Bundle, serialised by serde."""
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": hint},
            "tlogEntries": [],
            "timestampVerificationData": {"rfc3161Timestamps": []},
        },
        "dsseEnvelope": {
            "payloadType": PAYLOAD_TYPE,
            "payload": b64encode(payload).decode(),
            "signatures": [{"sig": b64encode(signature).decode()}],
        },
    }


def bundled(signer: Signer, said: dict[str, Any], hint: str = "") -> bytes:
    payload = json.dumps(said, separators=(",", ":")).encode()
    return json.dumps(enveloped(payload, signer.sign(payload), hint or signer.fingerprint), indent=2).encode()


def signed_by(
    signer: Signer, name: str, content: bytes, kind: str = FILE, *, key_id: str | None = None, hint: str = ""
) -> bytes:
    """The bundle of one file."""
    said = statement([(name, digest(content))], kind, signer.key_id if key_id is None else key_id)
    return bundled(signer, said, hint)


def put(path: Path, content: bytes, signer: Signer | None = None, kind: str = FILE) -> Path:
    """Write a file and, where somebody signs it, its bundle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if signer is not None:
        path.with_name(path.name + ".bundle").write_bytes(signed_by(signer, path.name, content, kind))
    return path


def policy_text(
    publishers: Sequence[dict[str, Any]] = (),
    includes: Sequence[str] = ("CLAUDE.md",),
    enforcement: str = "deny",
    **more: Any,
) -> bytes:
    value = {
        "predicate": POLICY,
        "includes": list(includes),
        "publishers": list(publishers),
        "blocklist": {"digests": [], "publishers": []},
        "enforcement": enforcement,
    }
    return json.dumps({**value, **more}).encode()


def rules_of(*publishers: Publisher, own_keys: Sequence[Publisher] = (), **more: Any) -> Rules:
    """Rules by a user's policy with these publishers."""
    built_in = anchors.built_in()
    return policy.merge(built_in, Policy("your trust policy", publishers=publishers, **more), None, own_keys)


def own_key(config: Path, signer: Signer) -> None:
    own.add(str(config), signer.key_id, signer.public)


def descriptors() -> int:
    """How many are open; 0 where that cannot be seen."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def no_keyless(bundle: Bundle) -> Keyless:
    raise AssertionError("nobody signed without a key here")
