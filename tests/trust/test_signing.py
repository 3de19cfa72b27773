"""What is signed here verifies by `cryptography` alone, and has the form that the Rust tool's has."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from nono.errors import UsageError
from nono.trust import bundle, signing
from tests.trust.places import FILE, TREE, Signer, enveloped, signed_by, statement

ALICE = Signer("alice")
DIGEST = "0" * 64


def test_a_statement_is_the_rust_tools_byte_for_byte() -> None:
    payload = signing.statement([("CLAUDE.md", DIGEST)], bundle.INSTRUCTION_FILE, signing.keyed("alice"))
    assert payload == json.dumps(statement([("CLAUDE.md", DIGEST)], FILE, "alice"), separators=(",", ":")).encode()


def test_a_bundle_verifies_independently_and_has_the_same_shape() -> None:
    payload = signing.statement([("a", DIGEST), ("b/c", DIGEST)], bundle.MULTI_FILE, signing.keyed("alice"))
    written = json.loads(signing.sign(payload, ALICE.private))
    envelope = written["dsseEnvelope"]
    signature = b64decode(envelope["signatures"][0]["sig"], validate=True)
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
    ALICE.key.public_key().verify(signature, signed, ec.ECDSA(SHA256()))
    assert b64decode(envelope["payload"], validate=True) == payload
    assert json.loads(payload)["predicateType"] == TREE
    assert written == enveloped(payload, signature, ALICE.fingerprint)


def test_ours_and_the_rust_tools_differ_in_the_signature_only() -> None:
    payload = signing.statement([("CLAUDE.md", signing_digest())], bundle.INSTRUCTION_FILE, signing.keyed("alice"))
    ours = json.loads(signing.sign(payload, ALICE.private))
    theirs = json.loads(signed_by(ALICE, "CLAUDE.md", b""))
    for one in (ours, theirs):
        one["dsseEnvelope"]["signatures"][0]["sig"] = ""
    assert ours == theirs


def signing_digest() -> str:
    return "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of nothing: sha256sum /dev/null


@pytest.mark.parametrize(
    "subjects",
    [
        [],
        [("a", DIGEST), ("a", DIGEST)],
        [(str(n), DIGEST) for n in range(1001)],
        [("", DIGEST)],
        [("a", "0")],
        [("\udcff", DIGEST)],
    ],
)
def test_signs_nothing_that_could_not_be_verified(subjects: list[tuple[str, str]]) -> None:
    with pytest.raises(UsageError, match="cannot be signed together"):
        signing.statement(subjects, bundle.MULTI_FILE, signing.keyed("alice"))
