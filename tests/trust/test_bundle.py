"""What a bundle claims; what has two readings is refused."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import pytest

from nono.trust import bundle
from nono.trust.errors import MALFORMED, BundleError
from tests.trust.places import FILE, PAYLOAD_TYPE, TREE, Signer, bundled, digest, enveloped, signed_by, statement

ALICE = Signer("alice")
CONTENT = b"be kind\n"
DIGEST = digest(CONTENT)


def refusal(data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        bundle.parse(data, "CLAUDE.md.bundle")
    assert caught.value.outcome == MALFORMED
    assert str(caught.value).startswith("CLAUDE.md.bundle ")
    return caught.value.reason


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(signed_by(ALICE, "CLAUDE.md", CONTENT))
    change(value)
    return json.dumps(value).encode()


def stating(change: Callable[[dict[str, Any]], object]) -> bytes:
    said = statement([("CLAUDE.md", DIGEST)])
    change(said)
    return bundled(ALICE, said)


def test_reads_what_the_rust_tool_writes() -> None:
    read = bundle.parse(signed_by(ALICE, "CLAUDE.md", CONTENT), "CLAUDE.md.bundle")
    assert read.statement.subjects == (("CLAUDE.md", DIGEST),)
    assert read.statement.predicate_type == bundle.INSTRUCTION_FILE == FILE
    assert (read.statement.key_id, read.statement.kind) == ("alice", "keyed")
    assert read.hint == ALICE.fingerprint
    assert not read.is_keyless
    assert bundle.pae(read.payload_type, read.payload).startswith(b"DSSEv1 28 application/vnd.in-toto+json ")


def test_pae_counts_bytes() -> None:
    assert bundle.pae("é", b"\xff\0") == b"DSSEv1 2 \xc3\xa9 2 \xff\0"


def test_takes_an_empty_keyid_and_no_timestamps_as_other_versions_write_them() -> None:
    def older(value: dict[str, Any]) -> None:
        value["dsseEnvelope"]["signatures"][0]["keyid"] = ""
        value["verificationMaterial"]["timestampVerificationData"] = {}
        del value["verificationMaterial"]["tlogEntries"]

    assert bundle.parse(edited(older), "b").statement.subjects == (("CLAUDE.md", DIGEST),)


@pytest.mark.parametrize("written", [urlsafe_b64encode, lambda raw: b64encode(raw).rstrip(b"=")])
def test_takes_either_alphabet_of_base64_padded_or_not(written: Callable[[bytes], bytes]) -> None:
    payload = json.dumps(statement([("ÿ>?~", DIGEST)]), ensure_ascii=False).encode()
    value = enveloped(payload, ALICE.sign(payload), ALICE.fingerprint)
    value["dsseEnvelope"]["payload"] = written(payload).decode()
    value["dsseEnvelope"]["signatures"][0]["sig"] = written(b"\xff\xfe\xfb").decode()
    read = bundle.parse(json.dumps(value).encode(), "b")
    assert (read.payload, read.signature) == (payload, b"\xff\xfe\xfb")


@pytest.mark.parametrize("text", ["AAA A", "AAAA\n", "AAAA!", "A", "AAAA=AAA", "AA==AA", "====", "", "ÄAAA", "A\0AA"])
def test_refuses_base64_with_anything_else(text: str) -> None:
    for where in ("payload", "sig"):

        def change(value: dict[str, Any], where: str = where) -> None:
            envelope = value["dsseEnvelope"]
            (envelope if where == "payload" else envelope["signatures"][0])[where] = text

        assert refusal(edited(change))


def test_refuses_a_key_that_stands_twice_anywhere() -> None:
    text = signed_by(ALICE, "CLAUDE.md", CONTENT).decode()
    assert "twice" in refusal(text.replace('"payloadType"', '"payload": "AAAA", "payload"', 1).encode())
    payload = json.dumps(statement([("a", DIGEST)])).replace('"_type"', '"subject": [], "_type"').encode()
    value = enveloped(payload, ALICE.sign(payload), ALICE.fingerprint)
    assert "'subject' twice" in refusal(json.dumps(value).encode())


@pytest.mark.parametrize("count", [0, 2])
def test_wants_exactly_one_signature(count: int) -> None:
    def change(value: dict[str, Any]) -> None:
        value["dsseEnvelope"]["signatures"] *= count

    assert f"has {count or 'no'} signatures" in refusal(edited(change))


def test_refuses_a_certificate_beside_a_public_key_and_neither() -> None:
    assert "cannot be said" in refusal(edited(lambda v: v["verificationMaterial"].update(certificate={"rawBytes": ""})))
    assert "neither" in refusal(edited(lambda v: v["verificationMaterial"].pop("publicKey")))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v.update(mediaType="application/json"), "version that nono knows"),
        (lambda v: v.update(mediaType=3), "mediaType is not a string"),
        (lambda v: v.update(more=1), "has more, which no bundle has"),
        (lambda v: v.update(messageSignature={}), "signs the bytes of a file"),
        (lambda v: v.pop("dsseEnvelope"), "lacks dsseEnvelope"),
        (lambda v: v.pop("verificationMaterial"), "lacks verificationMaterial"),
        (lambda v: v["verificationMaterial"].update(publicKey=[]), "publicKey is not an object"),
        (lambda v: v["verificationMaterial"]["publicKey"].update(hint=None), "hint is not a string"),
        (lambda v: v["verificationMaterial"]["publicKey"].update(rawBytes="AA=="), "publicKey.rawBytes"),
        (lambda v: v["verificationMaterial"].update(tlogEntries={}), "tlogEntries is not a list"),
        (lambda v: v["dsseEnvelope"].update(payloadType="application/json"), "does not sign a statement"),
        (lambda v: v["dsseEnvelope"].update(payload=7), "payload is not a string"),
        (lambda v: v["dsseEnvelope"].update(signatures=["x"]), "the signature is no JSON object"),
        (lambda v: v["dsseEnvelope"]["signatures"][0].update(cert="x"), "the signature's cert"),
    ],
)
def test_refuses_what_is_no_bundle(change: Callable[[dict[str, Any]], object], reason: str) -> None:
    assert reason in refusal(edited(change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "not an in-toto statement"),
        (lambda s: s.pop("_type"), "lacks _type"),
        (lambda s: s.update(subject=[]), "names 0 files"),
        (lambda s: s.update(subject=s["subject"] * 2), "names 'CLAUDE.md' twice"),
        (lambda s: s.update(subject=[{"name": str(n), "digest": {"sha256": DIGEST}} for n in range(1001)]), "1001"),
        (lambda s: s["subject"][0].update(name=""), "no file's name"),
        (lambda s: s["subject"][0].update(name="a\0b"), "no file's name"),
        (lambda s: s["subject"][0].update(name="\ud800"), "no file's name"),
        (lambda s: s["subject"][0].update(name="a" * 5000), "no file's name"),
        (lambda s: s["subject"][0].update(name=["CLAUDE.md"]), "name is not a string"),
        (lambda s: s["subject"][0].update(digest={"sha256": DIGEST.upper()}), "lower-case"),
        (lambda s: s["subject"][0].update(digest={"sha256": DIGEST[:-1]}), "64"),
        (lambda s: s["subject"][0].update(digest={"sha256": DIGEST + "\n"}), "64"),
        (lambda s: s["subject"][0].update(digest={"sha512": DIGEST * 2}), "lacks sha256"),
        (lambda s: s["subject"][0].update(digest=DIGEST), "digest is not an object"),
        (lambda s: s.update(predicateType=None), "predicateType is not a string"),
        (lambda s: s.update(predicate=[]), "predicate is no JSON object"),
    ],
)
def test_refuses_what_is_no_statement(change: Callable[[dict[str, Any]], object], reason: str) -> None:
    assert reason in refusal(stating(change))


def test_a_statement_may_say_more() -> None:
    def change(said: dict[str, Any]) -> None:
        said["more"] = 1
        said["subject"][0]["digest"]["sha1"] = "0" * 40
        said["subject"][0]["uri"] = "https://example.org/"

    assert bundle.parse(stating(change), "b").statement.subjects == (("CLAUDE.md", DIGEST),)


@pytest.mark.parametrize("signer", [None, 7, {}, {"key_id": ["x"]}, {"kind": 3}])
def test_a_claim_of_another_type_is_no_claim(signer: object) -> None:
    said = bundle.parse(stating(lambda s: s["predicate"].update(signer=signer)), "b").statement
    assert (said.key_id, said.kind) == ("", "")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff{}", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"[]", "no JSON object"),
        (b"null", "no JSON object"),
        (b"NaN", "no number called NaN"),
        (b'{"a": -Infinity}', "no number called -Infinity"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested more than 64"),
        (b"9" * 10_000, "too long"),
        (b" " * ((1 << 20) + 1), "larger than 1 MiB"),
        (b'{"a": 1, "\\u0061": 2}', "has the key 'a' twice"),
        (b'{"mediaType": "', "not JSON"),
    ],
)
def test_refuses_bad_json_by_what_is_wrong(data: bytes, reason: str) -> None:
    assert reason in refusal(data)


def test_brackets_in_strings_are_no_depth() -> None:
    text = json.dumps(statement([("[" * 100 + '\\"{' * 100, DIGEST)]))
    assert len(bundle.parse_statement(text.encode()).subjects) == 1


@pytest.mark.parametrize("length", range(0, 600, 7))
def test_a_truncated_bundle_is_refused(length: int) -> None:
    assert refusal(signed_by(ALICE, "CLAUDE.md", CONTENT)[:length])


def test_encode_has_the_form_of_the_rust_tool() -> None:
    payload = json.dumps(statement([("a", DIGEST), ("b/c", DIGEST)], TREE)).encode()
    written = bundle.encode(payload, b"signature", "hint")
    assert json.loads(written) == enveloped(payload, b"signature", "hint")
    assert list(json.loads(written)) == ["mediaType", "verificationMaterial", "dsseEnvelope"]
    assert written.startswith(b'{\n  "mediaType"')
    read = bundle.parse(written, "b")
    assert (read.payload, read.signature, read.hint) == (payload, b"signature", "hint")
    assert read.payload_type == PAYLOAD_TYPE
    assert b64decode(json.loads(written)["dsseEnvelope"]["payload"]) == payload
