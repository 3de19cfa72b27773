"""Bundles of a Sigstore of our own (sigstore_world.py): right ones say who signed, wrong ones say what is wrong."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from rfc3161_client import TimestampRequestBuilder

from nono.errors import PolicyError
from nono.trust import keyless, signing
from nono.trust.bundle import INSTRUCTION_FILE, Bundle
from nono.trust.errors import BAD_SIGNATURE, EXPIRED, MALFORMED, BundleError
from nono.trust.policy import Keyless
from nono.trust.trusted_root import TrustRoot
from tests.trust.sigstore_world import (
    EXTENSIONS_V1,
    FULCIO,
    ISSUER,
    REF,
    REPOSITORY,
    SIGNED_AT,
    SIGNER_URI,
    WORKFLOW,
    Authority,
    Certificate,
    World,
    github_extensions,
    new_key,
    read,
    sign,
    text,
    utf8_string,
)
from tests.trust.timestamping import Timestamping

PAYLOAD = signing.statement([("SKILL.md", "0" * 64)], INSTRUCTION_FILE, {"kind": "keyless"})
OTHER = signing.statement([("SKILL.md", "1" * 64)], INSTRUCTION_FILE, {"kind": "keyless"})
JOB = Keyless(ISSUER, REPOSITORY, WORKFLOW, REF, SIGNER_URI, SIGNER_URI)

HOUR = timedelta(hours=1)

Json = dict[str, Any]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def root(world: World) -> TrustRoot:
    return world.trust_root()


def unparsed(bundle: Json) -> Bundle:
    """The bundle as bundle.py would read it if it did not refuse it first."""
    envelope = bundle.get("dsseEnvelope", {})
    payload = b64decode(envelope.get("payload", ""))
    return read(World().bundle(PAYLOAD))._replace(payload=payload, raw=json.dumps(bundle).encode())


# ---- who it was


def test_a_job_is_known_by_its_certificate(world: World, root: TrustRoot) -> None:
    assert keyless.identity_of(read(world.bundle(PAYLOAD)), root) == JOB


def test_what_the_statement_says_of_the_signer_counts_for_nothing(world: World, root: TrustRoot) -> None:
    claims = {"kind": "keyless", "issuer": "https://evil.test", "repository": "evil/evil", "workflow_ref": "evil"}
    payload = signing.statement([("SKILL.md", "0" * 64)], INSTRUCTION_FILE, claims)
    assert keyless.identity_of(read(world.bundle(payload)), root) == JOB


def identity(world: World, root: TrustRoot, **wanted: Any) -> Keyless:
    return keyless.identity_of(read(world.bundle(PAYLOAD, wanted=Certificate(**wanted))), root)


def test_the_older_extensions_are_read_where_the_newer_are_missing(world: World, root: TrustRoot) -> None:
    older = {FULCIO + number: value.encode() for number, value in EXTENSIONS_V1.items()}
    assert identity(world, root, extensions=older) == Keyless(ISSUER, REPOSITORY, "", REF, "", SIGNER_URI)
    newer = {**older, FULCIO + "12": utf8_string("https://github.com/acme/newer/")}
    assert identity(world, root, extensions=newer).repository == "acme/newer"


def test_what_the_certificate_does_not_say_is_empty(world: World, root: TrustRoot) -> None:
    person = [x509.RFC822Name("ada@example.com")]
    assert identity(world, root, san=person, extensions={}) == Keyless("", "", "", "", "", "ada@example.com")
    name = [x509.OtherName(x509.ObjectIdentifier(FULCIO + "7"), utf8_string("ada"))]
    assert identity(world, root, san=name, extensions={}).san == "ada"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        (f"https://github.com/{REPOSITORY}/.github/workflows/a@b.yml@refs/heads/c@d", ".github/workflows/a@b.yml"),
        (f"https://github.com/{REPOSITORY}/.github/workflows/a.yml@0123abc", ".github/workflows/a.yml"),
        (f"https://github.com/{REPOSITORY}/{WORKFLOW}@refs/evil.yml@{REF}", f"{WORKFLOW}@refs/evil.yml"),
        (f"https://github.com/evil/evil/{WORKFLOW}@{REF}", f"https://github.com/evil/evil/{WORKFLOW}"),
        (f"https://github.com/{REPOSITORY}-evil/{WORKFLOW}@{REF}", f"https://github.com/{REPOSITORY}-evil/{WORKFLOW}"),
        ("https://gitlab.com/acme/skills//.gitlab-ci.yml@refs/heads/main", "https://gitlab.com/acme/skills//.gitlab-ci.yml"),
    ],
)  # fmt: skip
def test_a_workflow_is_its_path_only_in_the_repository_itself(
    world: World, root: TrustRoot, uri: str, path: str
) -> None:
    assert identity(world, root, extensions=github_extensions(_18=uri)).workflow == path


LONG = "x" * 5000


@pytest.mark.parametrize(
    "wanted",
    [
        {"extensions": github_extensions() | {FULCIO + "12": b"acme/skills"}},
        {"extensions": github_extensions() | {FULCIO + "12": utf8_string(REPOSITORY) + b"!"}},
        {"extensions": github_extensions() | {FULCIO + "12": b"\x0c\x81\x05acme/"}},
        {"extensions": github_extensions() | {FULCIO + "14": b"\x0c\x02\xff\xfe"}},
        {"extensions": github_extensions() | {FULCIO + "1": b"https://another.test"}},
        {"extensions": github_extensions(_9=LONG)},
        {"san": [x509.UniformResourceIdentifier(SIGNER_URI), x509.RFC822Name("ada@example.com")]},
        {"san": [x509.DNSName("github.com")]},
    ],
)
def test_an_identity_that_has_two_readings_is_none(world: World, root: TrustRoot, wanted: Json) -> None:
    with pytest.raises(BundleError) as raised:
        identity(world, root, **wanted)
    assert raised.value.outcome == MALFORMED
    assert str(raised.value) == "SKILL.md.bundle has a certificate whose identity cannot be read"


def test_bundles_of_the_older_versions_are_read(world: World, root: TrustRoot) -> None:
    for version in ("0.1", "0.2"):
        bundle = world.bundle(PAYLOAD)
        bundle["mediaType"] = f"application/vnd.dev.sigstore.bundle+json;version={version}"
        material = bundle["verificationMaterial"]
        material["x509CertificateChain"] = {"certificates": [material.pop("certificate")]}
        assert keyless.identity_of(unparsed(bundle), root) == JOB


# ---- what is wrong


def entry_of(bundle: Json) -> Json:
    (entry,) = bundle["verificationMaterial"]["tlogEntries"]
    return dict(entry)


def with_entry(bundle: Json, **changes: Any) -> Json:
    """The bundle with members of its entry in Rekor replaced; None takes one away."""
    entry = {name: value for name, value in (entry_of(bundle) | changes).items() if value is not None}
    return bundle | {"verificationMaterial": bundle["verificationMaterial"] | {"tlogEntries": [entry]}}


def with_proof(bundle: Json, **changes: Any) -> Json:
    return with_entry(bundle, inclusionProof=entry_of(bundle)["inclusionProof"] | changes)


def impostor(world: World) -> World:
    """An authority of one's own making; the logs, which log everything, are the real ones."""
    made = World()
    made.ct_key, made.rekor_key = world.ct_key, world.rekor_key
    return made


def namesake(world: World) -> World:
    """The same, and it calls itself as the real one does."""
    made = impostor(world)
    made.intermediate = Authority(world.intermediate.name, issuer=made.root)
    return made


def swapped_entry(world: World) -> Json:
    """CVE-2022-36056: a true entry of Rekor's, about another signature."""
    return with_entry(world.bundle(PAYLOAD), **entry_of(world.bundle(OTHER)))


def another_signature(world: World) -> Json:
    bundle = world.bundle(PAYLOAD)
    bundle["dsseEnvelope"]["signatures"] = world.bundle(OTHER)["dsseEnvelope"]["signatures"]
    return bundle


def another_payload(world: World) -> Json:
    bundle = world.bundle(PAYLOAD)
    bundle["dsseEnvelope"]["payload"] = text(OTHER)
    return bundle


def another_certificate(world: World) -> Json:
    bundle = world.bundle(PAYLOAD)
    bundle["verificationMaterial"]["certificate"] = world.bundle(OTHER)["verificationMaterial"]["certificate"]
    return bundle


def unknown_sct(world: World) -> Json:
    real, world.ct_key = world.ct_key, new_key()
    try:
        return world.bundle(PAYLOAD)
    finally:
        world.ct_key = real


def false_promise(world: World) -> Json:
    promise = {"signedEntryTimestamp": text(sign(new_key(), b"a promise"))}
    return with_entry(world.bundle(PAYLOAD), inclusionPromise=promise)


def later(world: World) -> Json:
    bundle = world.bundle(PAYLOAD)
    return with_entry(bundle, integratedTime=str(int(entry_of(bundle)["integratedTime"]) + 60))


def checkpoint_of_another(world: World) -> Json:
    bundle = world.bundle(PAYLOAD)
    root_hash = b64decode(entry_of(bundle)["inclusionProof"]["rootHash"])
    return with_proof(bundle, checkpoint={"envelope": world.checkpoint(root_hash, new_key())})


def checkpoint_forged(world: World) -> Json:
    bundle = world.bundle(PAYLOAD)
    envelope = entry_of(bundle)["inclusionProof"]["checkpoint"]["envelope"]
    return with_proof(bundle, checkpoint={"envelope": envelope.replace("rekor.test - 1", "rekor.test - 2")})


def older_checkpoint(world: World) -> Json:
    return with_proof(world.bundle(PAYLOAD), checkpoint=entry_of(world.bundle(OTHER))["inclusionProof"]["checkpoint"])


def wrong_node(world: World) -> Json:
    bundle = world.bundle(PAYLOAD)
    nodes = entry_of(bundle)["inclusionProof"]["hashes"]
    return with_proof(bundle, hashes=[text(bytes(32)), *nodes[1:]])


def fewer_nodes(world: World) -> Json:
    bundle = world.bundle(PAYLOAD)
    return with_proof(bundle, hashes=entry_of(bundle)["inclusionProof"]["hashes"][1:])


def other_leaf(world: World) -> Json:
    bundle = world.bundle(PAYLOAD)
    index = int(entry_of(bundle)["inclusionProof"]["logIndex"])
    return with_proof(bundle, logIndex=str(index ^ 1))


def kind(name: str, version: str) -> Callable[[World], Json]:
    return lambda world: with_entry(world.bundle(PAYLOAD), kindVersion={"kind": name, "version": version})


def signs_bytes(world: World) -> Json:
    bundle = world.bundle(PAYLOAD)
    signature = bundle.pop("dsseEnvelope")["signatures"][0]["sig"]
    digest = {"algorithm": "SHA2_256", "digest": text(bytes(32))}
    return bundle | {"messageSignature": {"messageDigest": digest, "signature": signature}}


def without(name: str) -> Callable[[World], Json]:
    def make(world: World) -> Json:
        bundle = world.bundle(PAYLOAD)
        del bundle["verificationMaterial"][name]
        return bundle

    return make


def media_type(name: str) -> Callable[[World], Json]:
    return lambda world: world.bundle(PAYLOAD) | {"mediaType": name}


WRONG: dict[str, tuple[Callable[[World], Json], str, str]] = {
    "signed too late": (
        lambda world: world.bundle(PAYLOAD, when=SIGNED_AT + HOUR), EXPIRED,
        "was signed on 2026-03-04 06:06 UTC, when its certificate was not valid (2026-03-04 05:06 to 05:16)"),
    "signed too early": (
        lambda world: world.bundle(PAYLOAD, when=SIGNED_AT - HOUR), EXPIRED,
        "was signed on 2026-03-04 04:06 UTC, when its certificate was not valid"),
    "self-made chain": (
        lambda world: impostor(world).bundle(PAYLOAD), BAD_SIGNATURE, "has a certificate of no authority"),
    "self-made chain with the names of the real one": (
        lambda world: namesake(world).bundle(PAYLOAD), BAD_SIGNATURE, "has a certificate of no authority"),
    "certificate that no log has seen": (
        lambda world: world.bundle(PAYLOAD, wanted=Certificate(sct=False)), BAD_SIGNATURE, "no certificate log"),
    "certificate that another log has seen": (unknown_sct, BAD_SIGNATURE, "no certificate log"),
    "certificate of a server": (
        lambda world: world.bundle(PAYLOAD, wanted=Certificate(code_signing=False)), BAD_SIGNATURE, "not for signing"),
    "no entry in Rekor": (
        lambda world: world.bundle(PAYLOAD) | {
            "verificationMaterial": world.bundle(PAYLOAD)["verificationMaterial"] | {"tlogEntries": []}},
        MALFORMED, "has no entry in Rekor"),
    "no entries at all": (without("tlogEntries"), MALFORMED, "has no entry in Rekor"),
    "no certificate": (without("certificate"), MALFORMED, "has no certificate"),
    "no proof": (
        lambda world: with_entry(world.bundle(PAYLOAD), inclusionProof=None), MALFORMED, "without an inclusion proof"),
    "no checkpoint": (
        lambda world: with_proof(world.bundle(PAYLOAD), checkpoint=None), MALFORMED, "without a checkpoint"),
    "no time": (
        lambda world: with_entry(world.bundle(PAYLOAD), inclusionPromise=None), MALFORMED, "carries no signed time"),
    "a promise without a time": (
        lambda world: with_entry(world.bundle(PAYLOAD), integratedTime="0"), BAD_SIGNATURE, "carries no time"),
    "wrong node in the proof": (wrong_node, BAD_SIGNATURE, "wrong inclusion proof"),
    "too few nodes": (fewer_nodes, BAD_SIGNATURE, "wrong inclusion proof"),
    "proof of another leaf": (other_leaf, BAD_SIGNATURE, "wrong inclusion proof"),
    "checkpoint by another log": (checkpoint_of_another, BAD_SIGNATURE, "checkpoint"),
    "checkpoint that was changed": (checkpoint_forged, BAD_SIGNATURE, "checkpoint"),
    "checkpoint that is none": (
        lambda world: with_proof(world.bundle(PAYLOAD), checkpoint={"envelope": "x"}), BAD_SIGNATURE, "that is none"),
    "checkpoint of another tree": (older_checkpoint, BAD_SIGNATURE, "checkpoint"),
    "false promise": (false_promise, BAD_SIGNATURE, "whose promise was not signed by that log"),
    "promise for another time": (later, BAD_SIGNATURE, "whose promise was not signed by that log"),
    "Rekor that the root does not name": (
        lambda world: world.bundle(PAYLOAD, rekor_key=new_key()), BAD_SIGNATURE, "that the root does not name"),
    "entry about another signature": (swapped_entry, BAD_SIGNATURE, "about another signature"),
    "entry about another statement": (
        lambda world: world.bundle(PAYLOAD, logged=OTHER), BAD_SIGNATURE, "about another signature"),
    "signature over another statement": (
        lambda world: world.bundle(PAYLOAD, signed=OTHER), BAD_SIGNATURE, "is not over this statement"),
    "signature of another": (another_signature, BAD_SIGNATURE, "is not over this statement"),
    "another statement": (another_payload, BAD_SIGNATURE, "is not over this statement"),
    "certificate of another": (another_certificate, BAD_SIGNATURE, "is not over this statement"),
    "signs bytes": (signs_bytes, MALFORMED, "signs the bytes of a file, not a statement about it"),
    "kind of entry that is not read": (kind("intoto", "0.0.2"), BAD_SIGNATURE, "of a kind that is not read"),
    "newer entry": (kind("dsse", "0.0.9"), MALFORMED, "of a version that is not read"),
    "newer bundle": (
        media_type("application/vnd.dev.sigstore.bundle.v0.4+json"), MALFORMED, "of a version that is not read"),
    "something else": (media_type("text/plain"), MALFORMED, "of a version that is not read"),
    "unknown member": (lambda world: world.bundle(PAYLOAD) | {"new": 1}, MALFORMED, "is not a Sigstore bundle"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_says_what_is_wrong(world: World, root: TrustRoot, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, outcome, words = WRONG[name]
    with pytest.raises(BundleError) as raised:
        keyless.identity_of(unparsed(make(world)), root)
    assert (raised.value.outcome, words in str(raised.value)) == (outcome, True), raised.value
    assert str(raised.value).startswith("SKILL.md.bundle ")
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is None, "what the package says stays in there"
    assert capfd.readouterr() == ("", "")


def test_a_chain_that_had_run_out_is_no_chain() -> None:
    made = World()
    made.intermediate = Authority("sigstore-intermediate.test", issuer=made.root, end=SIGNED_AT - HOUR)
    with pytest.raises(BundleError, match="when the certificate of its authority was not valid") as raised:
        keyless.identity_of(read(made.bundle(PAYLOAD)), made.trust_root())
    assert raised.value.outcome == EXPIRED


def test_every_time_has_to_be_in_the_certificates(world: World, tmp_path: Path) -> None:
    """Rekor's is; a timestamp authority has seen the signature only now."""
    stamps = Timestamping(tmp_path / "timestamps")
    bundle = world.bundle(PAYLOAD)
    signature = b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"])
    stamp = stamps.reply(TimestampRequestBuilder().data(signature).build().as_bytes())
    stamped = {"timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": text(stamp)}]}}
    bundle["verificationMaterial"] |= stamped
    root = world.trust_root(timestampAuthorities=[stamps.entry({"start": "2026-01-01T00:00:00Z"})])
    with pytest.raises(BundleError, match="when its certificate was not valid") as raised:
        keyless.identity_of(read(bundle), root)
    assert raised.value.outcome == EXPIRED


def test_another_reading_of_the_same_bytes_is_refused(world: World, root: TrustRoot) -> None:
    with pytest.raises(BundleError, match="reads differently to another reader"):
        keyless.identity_of(read(world.bundle(PAYLOAD))._replace(payload=OTHER), root)


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"null", b"\xff", b"1" * 5000, b'{"mediaType": 1}', b"[" * 5000])
def test_garbage_is_no_bundle(root: TrustRoot, world: World, garbage: bytes) -> None:
    with pytest.raises(BundleError) as raised:
        keyless.identity_of(read(world.bundle(PAYLOAD))._replace(raw=garbage), root)
    assert raised.value.outcome == MALFORMED


# ---- whom to believe, and when


def validity(end: datetime) -> Json:
    return {"start": "2026-01-01T00:00:00Z", "end": end.strftime("%Y-%m-%dT%H:%M:%SZ")}


BEFORE, AFTER = SIGNED_AT - HOUR, SIGNED_AT + HOUR


def test_the_time_of_a_log_or_an_authority_ends(world: World) -> None:
    def roots(end: datetime) -> list[Json]:
        return [
            {"tlogs": [world.log(world.rekor_key, validity(end))]},
            {"certificateAuthorities": [world.authority(validity(end))]},
            {"ctlogs": [world.log(world.ct_key, validity(end))]},
        ]

    bundle = read(world.bundle(PAYLOAD))
    for changes in roots(AFTER):
        assert keyless.identity_of(bundle, world.trust_root(**changes)) == JOB
    said = ("is in a log that was not to be believed any more", "when no authority", "no certificate log")
    for changes, words in zip(roots(BEFORE), said, strict=True):
        with pytest.raises(BundleError, match=words):
            keyless.identity_of(bundle, world.trust_root(**changes))


def test_a_retired_key_does_not_pass_under_the_name_of_the_one_that_followed(world: World) -> None:
    """The package tries all keys for a log id that is no key's digest, as those of newer logs are not."""
    retired = new_key()
    newer = world.log(world.rekor_key, {"start": "2026-01-01T00:00:00Z"})
    newer["logId"] = {"keyId": text(b"newer" + bytes(27))}
    root = world.trust_root(tlogs=[newer, world.log(retired, validity(BEFORE))])
    bundle = world.bundle(PAYLOAD, rekor_key=retired)
    (entry,) = bundle["verificationMaterial"]["tlogEntries"]
    entry["logId"] = newer["logId"]
    envelope = entry["inclusionProof"]["checkpoint"]["envelope"]
    note, _, signature = envelope.rpartition(" ")
    entry["inclusionProof"]["checkpoint"]["envelope"] = f"{note} {text(b'newe' + b64decode(signature)[4:])}\n"
    with pytest.raises(BundleError) as raised:
        keyless.identity_of(read(bundle), root)
    assert raised.value.outcome == BAD_SIGNATURE


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}', b"\xff"]
)
def test_what_is_no_trusted_root_is_the_users_mistake(world: World, data: bytes) -> None:
    with pytest.raises(PolicyError, match=r"trusted_root\.json"):
        keyless.identity_of(read(world.bundle(PAYLOAD)), TrustRoot("trusted_root.json", data, ""))


def test_a_log_without_a_beginning_is_not_believed(world: World) -> None:
    with pytest.raises((BundleError, PolicyError)):
        keyless.identity_of(read(world.bundle(PAYLOAD)), world.trust_root(tlogs=[world.log(world.rekor_key, {})]))


def test_the_time_is_that_of_the_signature_not_of_now(world: World, root: TrustRoot) -> None:
    assert datetime.now(UTC) > SIGNED_AT + timedelta(days=1)
    assert keyless.identity_of(read(world.bundle(PAYLOAD)), root) == JOB
