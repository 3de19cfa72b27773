"""Bundles of others verify here, ours verify with others: by their code where it is Python, by their rules elsewhere.

tests/trust/data/README.md says where theirs are from. Not here, because it takes compilers and node: ours, with a key
and without, were verified by the Rust tool's own library (crate nono 0.81), by @sigstore/verify 3.1, and by
sigstore-go 1.1, with which cosign verifies bundles.
"""

from __future__ import annotations

import json
import subprocess
from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import sigstore
from cryptography.hazmat.primitives.serialization import load_der_public_key
from securesystemslib.dsse import Envelope as ReferenceEnvelope
from securesystemslib.signer import SSlibKey
from sigstore.dsse import Envelope as SigstoreEnvelope
from sigstore.models import Bundle as SigstoreBundle
from sigstore.models import InvalidBundle
from sigstore_models.bundle.v1 import Bundle as SigstoreMessage

from nono.trust import bundle, keyless, keys, signing, trusted_root
from nono.trust.bundle import INSTRUCTION_FILE, MULTI_FILE, PAYLOAD_TYPE, TRUST_POLICY, Bundle, pae, parse
from nono.trust.errors import BAD_SIGNATURE, MALFORMED, BundleError
from nono.trust.policy import Keyless
from nono.trust.trusted_root import TrustRoot
from tests.runs import require_command
from tests.trust.sigstore_world import World, read

DATA = Path(__file__).parent / "data"
RUST = DATA / "rust"
GITHUB = "https://token.actions.githubusercontent.com"
STORE = Path(sigstore.__file__).parent / "_store"
STAGING = STORE / "https%3A%2F%2Ftuf-repo-cdn.sigstage.dev" / "trusted_root.json"


# ---- theirs, here


@pytest.mark.parametrize(
    ("name", "predicate_type", "files"),
    [
        ("SKILL.md.bundle", INSTRUCTION_FILE, ["SKILL.md"]),
        ("trust-policy.json.bundle", TRUST_POLICY, ["trust-policy.json"]),
        (".nono-trust.bundle", MULTI_FILE, ["SKILL.md", "lib/helper.py"]),
    ],
)
def test_what_the_rust_tool_signed_verifies(name: str, predicate_type: str, files: list[str]) -> None:
    public = keys.load_public((RUST / "key.pub").read_bytes())
    made = parse((RUST / name).read_bytes(), name)
    assert made.hint == keys.fingerprint(public)
    assert (made.is_keyless, made.statement.key_id) == (False, "default")
    assert made.statement.predicate_type == predicate_type
    assert dict(made.statement.subjects) == {
        file: sha256((RUST / file).read_bytes()).hexdigest() for file in files
    }  # fmt: skip
    assert keys.verify(public, made.signature, pae(made.payload_type, made.payload))
    assert not keys.verify(public, made.signature, pae(made.payload_type, made.payload + b" "))
    assert not keys.verify(keys.public_of(keys.generate()), made.signature, pae(made.payload_type, made.payload))


def root_named(name: str) -> TrustRoot:
    return trusted_root.load("/nonexistent", {"public": "", "staging": str(STAGING)}[name])


CONFORMANCE = "sigstore-conformance/extremely-dangerous-public-oidc-beacon"
CONFORMANCE_WORKFLOW = ".github/workflows/extremely-dangerous-oidc-beacon.yml"
CONFORMANCE_URI = f"https://github.com/{CONFORMANCE}/{CONFORMANCE_WORKFLOW}@refs/heads/main"
CONDA, CONDA_WORKFLOW = "prefix-dev/sigstore-example", ".github/workflows/action.yaml"
CONDA_URI = f"https://github.com/{CONDA}/{CONDA_WORKFLOW}@refs/heads/main"
PUBLISHED = {
    "conda-attestation.sigstore.json": (
        "public", Keyless(GITHUB, CONDA, CONDA_WORKFLOW, "refs/heads/main", CONDA_URI, CONDA_URI)),
    "conda-attestation-rekor2.sigstore.json": (
        "staging", Keyless("https://github.com/login/oauth", "", "", "", "", "jku@goto.fi")),
    "a.dsse.staging-rekor-v2.txt.sigstore.json": (
        "staging",
        Keyless(
            GITHUB, CONFORMANCE, CONFORMANCE_WORKFLOW, "refs/heads/main", CONFORMANCE_URI, CONFORMANCE_URI)),
}  # fmt: skip
"""Of the two Rekors, the older and the newer, which has its time from a timestamp authority."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_bundles_verify_and_say_who_signed(name: str) -> None:
    root, identity = PUBLISHED[name]
    published = parse((DATA / "published" / name).read_bytes(), name)
    assert keyless.identity_of(published, root_named(root)) == identity
    with pytest.raises(BundleError, match="is in a log that the root does not name"):
        keyless.identity_of(published, root_named("staging" if root == "public" else "public"))


REFUSED = {
    "bundle_v3_github.whl.sigstore": "signs the bytes of a file, not a statement about it",
    "bundle_cve_2022_36056.txt.sigstore": "signs the bytes of a file, not a statement about it",
    "bundle_invalid_version.txt.sigstore": "of a version that is not read",
    "bundle_no_cert_v1.txt.sigstore": "has no certificate",
    "bundle_no_checkpoint.txt.sigstore": "without a checkpoint",
    "bundle_no_log_entry.txt.sigstore": "has no entry in Rekor",
    "bundle_v3_no_signed_time.txt.sigstore.json": "carries no signed time",
    "dsse.sigstore.json": "without an inclusion proof",
    "dsse-2sigs.sigstore.json": "without an inclusion proof",
    "github-private-attestation.sigstore.json": "has no entry in Rekor",
    "managed-key.sigstore.json": "has no certificate",
    "othername.sigstore.json": "signs the bytes of a file",
    "sigstore.js@2.0.0-provenance.sigstore.json": "of a kind that is not read",
}


@pytest.mark.parametrize("name", REFUSED)
def test_published_bundles_that_are_not_for_nono_are_refused_by_name(name: str) -> None:
    """By the reader already; were it to let one pass, by the verifier."""
    data = (DATA / "published" / name).read_bytes()
    with pytest.raises(BundleError) as raised:
        parse(data, name)
    assert raised.value.outcome == MALFORMED
    with pytest.raises(BundleError) as raised:
        keyless.identity_of(unparsed(data), root_named("public"))
    assert raised.value.outcome in (MALFORMED, BAD_SIGNATURE)
    assert REFUSED[name] in str(raised.value)


def test_the_conformance_suites_broken_entry_is_refused() -> None:
    data = (DATA / "conformance" / "d.stmt.tlog-body-error.sigstore").read_bytes()
    root = trusted_root.load("/nonexistent", str(DATA / "conformance" / "trusted_root.d.json"))
    with pytest.raises(BundleError, match="carries a timestamp that cannot be read"):
        keyless.identity_of(unparsed(data), root)
    without_stamps = json.loads(data)
    del without_stamps["verificationMaterial"]["timestampVerificationData"]
    with pytest.raises(BundleError, match="has an entry in Rekor of a kind that is not read"):
        keyless.identity_of(unparsed(json.dumps(without_stamps).encode()), root)


def unparsed(data: bytes) -> Bundle:
    """The bundle as bundle.py would read it if it did not refuse it first."""
    envelope = json.loads(data).get("dsseEnvelope", {})
    payload = b64decode(envelope.get("payload", ""))
    some = read(World().bundle(signing.statement([("a", "0" * 64)], INSTRUCTION_FILE, {"kind": "keyless"})))
    return some._replace(raw=data, payload=payload, payload_type=envelope.get("payloadType", ""))


# ---- ours, there


PRIVATE = keys.generate()
PUBLIC = keys.public_of(PRIVATE)
SUBJECTS = [("SKILL.md", "0" * 64), ("lib/é x.py", "1" * 64)]


@pytest.fixture(scope="module")
def ours() -> bytes:
    return signing.sign(signing.statement(SUBJECTS, MULTI_FILE, signing.keyed("default")), PRIVATE)


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(below) for key, below in value.items()}
    return [shape(below) for below in value] if isinstance(value, list) else type(value).__name__


def test_ours_has_the_shape_of_the_rust_tools(ours: bytes) -> None:
    made, theirs = json.loads(ours), json.loads((RUST / ".nono-trust.bundle").read_bytes())
    assert made["verificationMaterial"].pop("timestampVerificationData") in ({}, {"rfc3161Timestamps": []})
    assert theirs["verificationMaterial"].pop("timestampVerificationData") == {}
    assert shape(made) == shape(theirs)
    payload, other = (json.loads(b64decode(each["dsseEnvelope"]["payload"])) for each in (made, theirs))
    assert shape(payload) == shape(other)
    assert made["mediaType"] == theirs["mediaType"]


def test_ours_is_a_bundle_to_sigstores_own_reader_and_its_envelope_too(ours: bytes) -> None:
    message = SigstoreMessage.from_json(ours)
    assert message.verification_material.public_key is not None
    assert message.verification_material.public_key.hint == keys.fingerprint(PUBLIC)
    assert message.dsse_envelope is not None
    envelope = SigstoreEnvelope(message.dsse_envelope)
    assert envelope.pae() == pae(PAYLOAD_TYPE, parse(ours, "it").payload)
    assert keys.verify(PUBLIC, envelope.signature, envelope.pae())


def test_sigstores_python_verifies_no_bundle_by_a_key(ours: bytes) -> None:
    """Whatever it is signed with: so its rules are tested above, and not its verifier. Fails when it has learnt to."""
    for each in (ours, (DATA / "published" / "managed-key.sigstore.json").read_bytes()):
        with pytest.raises(InvalidBundle, match="expected certificate in bundle"):
            SigstoreBundle.from_json(each)


def test_the_reference_implementation_of_dsse_verifies_ours(ours: bytes) -> None:
    envelope = json.loads(ours)["dsseEnvelope"]
    key = SSlibKey.from_crypto(load_der_public_key(PUBLIC))
    envelope["signatures"][0]["keyid"] = key.keyid  # which it insists on, though DSSE does not
    reference = ReferenceEnvelope.from_dict(envelope)
    assert reference.verify([key], 1)
    reference.payload += b" "
    with pytest.raises(Exception, match="Accepted signatures do not match threshold"):
        reference.verify([key], 1)


def test_openssl_verifies_ours(ours: bytes, tmp_path: Path) -> None:
    """As `cosign verify-blob-attestation --key` does: an ECDSA signature with SHA-256 over DSSE's encoding."""
    require_command("openssl")
    made = parse(ours, "it")
    names = {
        "key": keys.pem(PUBLIC).encode(),
        "signature": made.signature,
        "data": pae(made.payload_type, made.payload),
    }
    for name, content in names.items():
        (tmp_path / name).write_bytes(content)
    command = ["openssl", "dgst", "-sha256", "-verify", "key", "-signature", "signature", "data"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).stdout == b"Verified OK\n"
    (tmp_path / "data").write_bytes(names["data"] + b" ")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode != 0


def test_ours_is_written_for_people_too(ours: bytes) -> None:
    assert ours == json.dumps(json.loads(ours), indent=2).encode() + b"\n"
    assert len(ours) < bundle.MOST_BYTES
