"""Whatever is in a bundle, a policy, a pattern or a name: a refusal by name, never a crash, and never `verified`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import PolicyError
from nono.trust import anchors, bundle, check, files, globs, strict
from nono.trust.bundle import Bundle
from nono.trust.check import Verdict
from nono.trust.errors import CHANGED, MALFORMED, VERIFIED, BundleError, TrustError
from nono.trust.find import Found
from nono.trust.policy import Keyless, Publisher
from tests.trust.places import POLICY, TREE, Signer, bundled, digest, own_key, policy_text, put, rules_of, signed_by
from tests.trust.places import statement as stating
from tests.trust.test_policy import CI

ALICE, MALLORY = Signer("alice"), Signer("mallory")
RULES = rules_of(ALICE.publisher, Publisher(**CI))
CONTENT = b"be kind\n"
SIGNED = signed_by(ALICE, "CLAUDE.md", CONTENT)
SAID = stating([("CLAUDE.md", digest(CONTENT))], key_id="alice")

WORDS = st.sampled_from([
    *json.loads(SIGNED), *json.loads(SIGNED)["dsseEnvelope"], *SAID, *SAID["subject"][0], "sha256", "hint", "publicKey",
    "certificate", "x509CertificateChain", "sig", "keyid", "signer", "kind", "keyed", "key_id", "alice", "CLAUDE.md",
    bundle.MEDIA_TYPE, bundle.PAYLOAD_TYPE, bundle.STATEMENT_TYPE, bundle.INSTRUCTION_FILE, digest(CONTENT),
    ALICE.fingerprint, "AAAA", "", "\ud800", "\0",
])  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=12,
)


def never(claimed: Bundle) -> Keyless:
    """In place of keyless.identity_of: says no to everything, as that says no to what is not signed."""
    raise BundleError(MALFORMED, claimed.source, "is signed by no certificate")


@contextmanager
def place(data: bytes, content: bytes = CONTENT) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        put(root / "CLAUDE.md", content)
        (root / "CLAUDE.md.bundle").write_bytes(data)
        yield root


def judged(root: Path, name: str = "CLAUDE.md") -> Verdict:
    multi = check.open_multi(str(root), RULES, never)
    checked = check.check_path(str(root), Found(name), RULES, never, multi)
    for opened in (checked.opened, *checked.bundles, None if multi is None else multi.opened):
        if opened is not None:
            files.close(opened)
    return checked.verdict


def verdict_on(data: bytes) -> str:
    """The outcome with these bytes beside the file, and as the bundle of the tree."""
    with place(data) as root:
        outcome = judged(root).outcome
        (root / "CLAUDE.md.bundle").rename(root / ".nono-trust.bundle")
        assert judged(root).outcome != VERIFIED  # it is no bundle of a tree, whatever else it is
    return outcome


def still_says_the_same(data: bytes) -> bool:
    """Whether a changed bundle holds the signed statement still: only its wrapping was changed."""
    return bundle.parse(data, "b").payload == bundle.parse(SIGNED, "b").payload


@given(st.binary(max_size=300))
def test_bytes(data: bytes) -> None:
    assert verdict_on(data) != VERIFIED


@given(VALUES)
def test_any_json(value: object) -> None:
    assert verdict_on(json.dumps(value).encode()) != VERIFIED


@given(st.integers(0, len(SIGNED) - 1), st.integers(0, 255), st.integers(0, 3))
def test_one_byte_is_another(at: int, byte: int, removed: int) -> None:
    data = SIGNED[:at] + bytes([byte]) + SIGNED[at + removed :]
    if verdict_on(data) == VERIFIED:
        assert still_says_the_same(data)


@given(st.integers(0, len(SIGNED)), st.integers(0, len(SIGNED)))
def test_a_piece_is_missing_or_stands_twice(start: int, stop: int) -> None:
    for data in (SIGNED[:start] + SIGNED[stop:], SIGNED[:start] + SIGNED[stop:] + SIGNED[start:stop]):
        if verdict_on(data) == VERIFIED:
            assert still_says_the_same(data)


def places_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places_in(value[key], (*path, key))


def replaced(value: Any, path: tuple[Any, ...], by: object) -> Any:
    if not path:
        return by
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], by)
    return copy


@given(st.sampled_from(list(places_in(json.loads(SIGNED)))), VALUES)
def test_one_value_is_another(path: tuple[Any, ...], by: object) -> None:
    data = json.dumps(replaced(json.loads(SIGNED), path, by)).encode()
    if verdict_on(data) == VERIFIED:
        assert still_says_the_same(data)


@given(st.sampled_from(list(places_in(SAID))), VALUES, st.booleans())
def test_a_stranger_signs_any_statement_under_anothers_name(path: tuple[Any, ...], by: object, hint: bool) -> None:
    said = replaced(SAID, path, by)
    assert verdict_on(bundled(MALLORY, said, ALICE.fingerprint if hint else "")) != VERIFIED


@given(st.sampled_from([path for path in places_in(SAID) if path[:1] in [(), ("_type",), ("subject",),
       ("predicateType",)]]), VALUES)  # fmt: skip
def test_a_publisher_signs_a_statement_about_something_else(path: tuple[Any, ...], by: object) -> None:
    said = replaced(SAID, path, by)
    if verdict_on(bundled(ALICE, said)) == VERIFIED:
        read = strict.loads(json.dumps(said).encode())
        assert (read["_type"], read["predicateType"]) == (SAID["_type"], SAID["predicateType"])
        (subject,) = read["subject"]
        assert (subject["name"], subject["digest"]["sha256"]) == ("CLAUDE.md", digest(CONTENT))


@given(st.binary(max_size=40).filter(lambda content: content != CONTENT))
def test_another_content_is_a_change(content: bytes) -> None:
    with place(SIGNED, content) as root:
        assert judged(root).outcome == CHANGED


@given(st.lists(st.tuples(st.text(max_size=12), st.sampled_from([digest(CONTENT), "0" * 64])), max_size=4))
def test_the_bundle_of_a_tree_vouches_for_what_it_names_only(subjects: list[tuple[str, str]]) -> None:
    with place(b"") as root:
        (root / "CLAUDE.md.bundle").unlink()
        (root / ".nono-trust.bundle").write_bytes(bundled(ALICE, stating(subjects, TREE, "alice")))
        assert (judged(root).outcome == VERIFIED) <= (("CLAUDE.md", digest(CONTENT)) in subjects)
        for name, _ in subjects:
            assert (judged(root, name).outcome == VERIFIED) <= (name == "CLAUDE.md")


@given(st.text(max_size=30) | st.just("CLAUDE.md") | st.just("CLAUDE.md.bundle"))
def test_any_name_is_judged(name: str) -> None:
    with place(SIGNED) as root:
        assert (judged(root, name).outcome == VERIFIED) is (name == "CLAUDE.md")


POLICY_TEXT = policy_text([ALICE.entry])


@given(st.integers(0, len(POLICY_TEXT) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_a_signed_policy_that_is_touched_does_not_count(at: int, by: bytes, removed: int) -> None:
    data = POLICY_TEXT[:at] + by + POLICY_TEXT[at + removed :]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        own_key(root / "config", ALICE)
        put(root / "trust-policy.json", POLICY_TEXT, ALICE, POLICY)
        (root / "trust-policy.json").write_bytes(data)
        if data == POLICY_TEXT:
            return
        with pytest.raises((TrustError, PolicyError)):
            anchors.load_policies(str(root), str(root / "config"), never)


@given(st.lists(st.text("ab/*?[]{},!-^\\", max_size=30), max_size=3), st.text(max_size=20))
def test_any_pattern_compiles_or_is_refused(patterns: list[str], path: str) -> None:
    try:
        matcher = globs.compile(patterns)
    except PolicyError:
        return
    matched = [pattern for pattern in patterns if globs.compile([pattern]).match(path)]
    assert matcher.match(path) is bool(matched)
    assert set(matcher.unmatched([path])) == set(patterns) - set(matched)
    matcher.may_match_below(path)
    assert all(isinstance(globs.is_literal(pattern), bool) for pattern in patterns)


@given(st.text('{}[]"\\,:1a ', max_size=60))
def test_strict_json_is_json(text: str) -> None:
    try:
        value = strict.loads(text.encode())
    except strict.NotStrict:
        return
    assert value == json.loads(text)
