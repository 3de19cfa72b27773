"""P-256 and nothing else; keys have one form; no error quotes one."""

from __future__ import annotations

import sys
from base64 import b64encode
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import UsageError
from nono.trust import keys
from tests.trust.places import Signer

ALICE = Signer("alice")
OTHERS = [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate(),
          rsa.generate_private_key(65537, 2048)]  # fmt: skip


def der(key: object) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined,no-any-return]


def test_a_new_key_signs_and_verifies() -> None:
    private = keys.generate()
    public = keys.public_of(private)
    signature = keys.sign(private, b"data")
    assert keys.verify(public, signature, b"data")
    assert not keys.verify(public, signature, b"date")
    assert not keys.verify(ALICE.public, signature, b"data")
    assert keys.fingerprint(public) == sha256(public).hexdigest()


def test_agrees_with_cryptography() -> None:
    assert keys.public_of(ALICE.private) == ALICE.public
    assert keys.is_public(ALICE.public)
    assert keys.verify(ALICE.public, ALICE.key.sign(b"x", ec.ECDSA(SHA256())), b"x")
    ALICE.key.public_key().verify(keys.sign(ALICE.private, b"x"), b"x", ec.ECDSA(SHA256()))


def test_private_keys_as_base64_and_pem() -> None:
    pem = ALICE.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for text in (b64encode(ALICE.private), b64encode(ALICE.private) + b"\n", pem, memoryview(pem)):
        assert keys.public_of(keys.load_private(text)) == ALICE.public


def test_public_keys_as_pem_and_base64() -> None:
    pem = ALICE.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for text in (pem, pem.decode(), ALICE.public_text, keys.pem(ALICE.public)):
        assert keys.load_public(text) == ALICE.public
    assert keys.pem(ALICE.public) == pem.decode()


def test_a_compressed_point_is_written_out() -> None:
    point = ALICE.key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    compressed = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    assert keys.load_public(b64encode(compressed)) == ALICE.public
    assert not keys.is_public(compressed)


@pytest.mark.parametrize("key", OTHERS)
def test_refuses_other_kinds_of_key(key: ec.EllipticCurvePrivateKey) -> None:
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(UsageError, match="P-256"):
        keys.load_private(b64encode(der(key)))
    with pytest.raises(UsageError, match="P-256"):
        keys.load_public(b64encode(public))
    with pytest.raises(UsageError, match="P-256"):
        keys.public_of(der(key))
    assert not keys.is_public(public)
    assert not keys.verify(public, b"x", b"x")


def test_refuses_a_point_that_is_not_on_the_curve() -> None:
    wrong = ALICE.public[:-1] + bytes([ALICE.public[-1] ^ 1])
    assert keys.is_public(wrong)
    assert not keys.verify(wrong, keys.sign(ALICE.private, b"x"), b"x")
    with pytest.raises(UsageError):
        keys.load_public(b64encode(wrong))


def test_refuses_an_encrypted_key() -> None:
    pem = ALICE.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    with pytest.raises(UsageError):
        keys.load_private(pem)


@given(st.binary(max_size=200))
def test_junk_is_refused_and_never_quoted(junk: bytes) -> None:
    for text in (junk, b64encode(junk), b"-----BEGIN PRIVATE KEY-----\n" + b64encode(junk)):
        for load in (keys.load_private, keys.load_public):
            with pytest.raises(UsageError) as caught:
                load(text)
            assert caught.value.__cause__ is None
            assert str(caught.value).startswith("this is not a ")
    assert not keys.verify(ALICE.public, junk, b"x")
    assert not keys.verify(junk, b"", b"x")


def test_huge_text_is_refused() -> None:
    with pytest.raises(UsageError):
        keys.load_private(b"A" * 1_000_000)
    with pytest.raises(UsageError):
        keys.load_public(b"A" * 1_000_000)


def test_names_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_library", [])
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(UsageError, match=r"pip install 'nono\[trust\]'"):
        keys.generate()
