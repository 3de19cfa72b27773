"""trust-policy.json is read strictly; a project narrows, it never adds."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import PolicyError
from nono.trust import anchors, policy
from nono.trust.policy import Blocked, Keyed, Keyless, Policy, Publisher, matches, merge, wildcard
from tests.trust.places import POLICY, Signer, policy_text, rules_of

ALICE, BOB, MALLORY = Signer("alice"), Signer("bob"), Signer("mallory")
CI = {
    "name": "ci",
    "issuer": "https://token.actions.githubusercontent.com",
    "repository": "org/*",
    "workflow": ".github/workflows/*",
    "ref_pattern": "refs/tags/v*",
}
FROM_CI = Keyless(
    CI["issuer"], "org/repo", ".github/workflows/sign.yml", "refs/tags/v1", "https://github.com/org/shared/x.yml@main"
)
BUILT_IN = anchors.built_in()


def signed(by: Signer, claims: str = "") -> Keyed:
    return Keyed(claims or by.key_id, by.fingerprint, by.public)


def refusal(data: bytes) -> str:
    with pytest.raises(PolicyError) as caught:
        policy.parse(data, "trust-policy.json")
    assert str(caught.value).startswith("trust-policy.json")
    return str(caught.value)


def test_reads_every_field() -> None:
    blocklist = {
        "digests": [{"sha256": "AB" * 32, "description": "steals", "added": "2026-01-01"}],
        "publishers": [{"identity": "eve", "repository": "e/*", "reason": "evil", "added": "2026-01-01"}],
    }
    read = policy.parse(
        policy_text([ALICE.entry, CI], ["*.md"], "warn", files=["~/x", "/y"], blocklist=blocklist, version=1), "here"
    )
    assert read == Policy(
        source="here",
        includes=("*.md",),
        files=("~/x", "/y"),
        publishers=(ALICE.publisher, Publisher(**CI)),
        blocked_digests={"ab" * 32: "steals"},
        blocked_publishers=(Blocked("eve", "e/*", "evil"),),
        enforcement="warn",
    )


def test_predicate_or_version_is_enough() -> None:
    value = json.loads(policy_text())
    del value["predicate"]
    assert "predicate is missing" in refusal(json.dumps(value).encode())
    policy.parse(json.dumps({**value, "version": 1}).encode(), "p")
    policy.parse(json.dumps({**value, "predicate": POLICY}).encode(), "p")


def test_null_is_as_if_it_were_not_there() -> None:
    entry = {**ALICE.entry, "issuer": None, "repository": None, "workflow": None, "ref_pattern": None}
    assert policy.parse(policy_text([entry], version=None, files=None), "p").publishers == (ALICE.publisher,)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"predicate": "https://example.org/"}, "predicate"),
        ({"version": 2}, "version"),
        ({"version": True}, "version"),
        ({"publisher": []}, "did you mean publishers?"),
        ({"enforcement": "off"}, "enforcement"),
        ({"enforcement": None}, "enforcement"),
        ({"includes": "CLAUDE.md"}, "includes: found"),
        ({"includes": [7]}, "includes[0]"),
        ({"includes": [""]}, "includes[0]"),
        ({"includes": ["[a"]}, "a [ has no ]"),
        ({"includes": ["a", "./CLAUDE.md"]}, "includes: the pattern './CLAUDE.md' is wrong: paths are relative"),
        ({"includes": ["a"] * 101}, "more than 100"),
        ({"files": ["relative"]}, "not an absolute path"),
        ({"files": ["/x"] * 1001}, "more than 1000"),
        ({"publishers": {}}, "publishers"),
        ({"publishers": [ALICE.entry] * 1001}, "more than 1000"),
        ({"publishers": [{"key_id": "x"}]}, "name is missing"),
        ({"publishers": [{"name": "x\x1b[2J", "key_id": "x"}]}, "cannot be shown"),
        ({"publishers": [{"name": "x" * 5000, "key_id": "x"}]}, "longer than 4096"),
        ({"files": ["/a\n"]}, "cannot be shown"),
        ({"publishers": [{"name": "x"}]}, "neither key_id nor issuer"),
        ({"publishers": [{"name": "x", "key_id": ""}]}, "neither key_id nor issuer"),
        ({"publishers": [{**CI, "key_id": "x"}]}, "both key_id and issuer"),
        ({"publishers": [{**CI, "public_key": "AAAA"}]}, "public_key beside issuer"),
        ({"publishers": [{**ALICE.entry, "repository": "x"}]}, "publishers[0].repository belongs"),
        ({"publishers": [{**CI, "repository": ""}]}, "repository is missing"),
        ({"publishers": [{**CI, "ref_pattern": None}]}, "ref_pattern is missing"),
        ({"publishers": [{**CI, "workflow": ""}]}, "workflow is missing"),
        ({"publishers": [{**ALICE.entry, "public_key": "AAAA"}]}, "public_key: is no public key"),
        ({"publishers": [{**ALICE.entry, "public_key": ALICE.public_text + "!"}]}, "is no public key"),
        ({"publishers": [{**ALICE.entry, "publickey": ""}]}, "publishers[0].publickey is not a known key"),
        ({"blocklist": {"digests": [{"sha256": "abc"}]}}, "blocklist.digests[0].sha256"),
        ({"blocklist": {"digests": [{}]}}, "sha256 is missing"),
        ({"blocklist": {"digests": [{"sha256": "0" * 64}] * 10_001}}, "more than 10000"),
        ({"blocklist": {"publishers": [{"identity": ""}]}}, "identity"),
        ({"blocklist": {"digest": []}}, "did you mean digests?"),
        ({"blocklist": []}, "blocklist"),
    ],
)
def test_refuses_by_name(more: dict[str, Any], reason: str) -> None:
    assert reason in refusal(json.dumps({**json.loads(policy_text()), **more}).encode())


@pytest.mark.parametrize("key", ["includes", "publishers", "enforcement"])
def test_nothing_is_assumed(key: str) -> None:
    value = json.loads(policy_text())
    del value[key]
    assert f"{key} is missing" in refusal(json.dumps(value).encode())


@pytest.mark.parametrize(
    "data",
    [
        policy_text().replace(b'"enforcement"', b'"enforcement": "audit", "enforcement"'),
        b"{",
        b"[]",
        b"\xff",
        b"{" * 10_000,
        b'{"version": NaN}',
        policy_text(includes=["\ud800"]),
        policy_text(includes=["a\0"]),
        b" " * (policy.MOST_BYTES + 1),
    ],
)
def test_refuses_what_is_not_one_json_object(data: bytes) -> None:
    assert refusal(data)


def test_an_iam_policy_is_foreign_and_nothing_else_is() -> None:
    assert policy.is_foreign(b'{"Version": "2012-10-17", "Statement": [{"Effect": "Allow"}]}')
    assert policy.is_foreign(b"{}")
    assert policy.is_foreign(b"[]")
    assert not policy.is_foreign(policy_text())
    assert not policy.is_foreign(b'{"publishers": []}')  # somebody forgot the rest
    assert not policy.is_foreign(b'{"version": "2012-10-17"}')
    assert not policy.is_foreign(b"not json")
    assert not policy.is_foreign(b'{"a": 1, "a": 2}')


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner:
       st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
           ["predicate", "version", "includes", "publishers", "blocklist", "enforcement", "name", "key_id", "digests"]
       ), inner, max_size=6), max_leaves=20))  # fmt: skip
def test_any_json_is_a_policy_or_a_refusal(value: object) -> None:
    data = json.dumps(value).encode()
    policy.is_foreign(data)
    with suppress(PolicyError):
        policy.parse(data, "trust-policy.json")


class TestMerge:
    def user(self, *publishers: Publisher, **more: Any) -> Policy:
        return Policy("your trust policy", publishers=publishers, **more)

    def project(self, *publishers: Publisher, **more: Any) -> Policy:
        return Policy("the project's trust policy", publishers=publishers, **more)

    def test_a_project_narrows_and_never_adds(self) -> None:
        rules = merge(BUILT_IN, self.user(ALICE.publisher, BOB.publisher), self.project(
            BOB.publisher, MALLORY.publisher), ())  # fmt: skip
        assert rules.publisher_for(signed(BOB)) == BOB.publisher
        assert rules.publisher_for(signed(ALICE)) is None
        assert rules.lacking(signed(ALICE)) == "the project's trust policy"
        assert rules.publisher_for(signed(MALLORY)) is None
        assert rules.lacking(signed(MALLORY)) == "your trust policy"

    def test_a_project_without_publishers_leaves_the_users(self) -> None:
        rules = merge(BUILT_IN, self.user(ALICE.publisher), self.project(), ())
        assert rules.publisher_for(signed(ALICE))
        assert not rules.publisher_for(signed(BOB))

    def test_a_users_policy_without_publishers_trusts_nobody(self) -> None:
        rules = merge(BUILT_IN, self.user(), self.project(ALICE.publisher), (ALICE.publisher,))
        assert not rules.publisher_for(signed(ALICE))

    def test_without_a_users_policy_the_projects_publishers_count_and_own_keys_do_not(self) -> None:
        rules = merge(BUILT_IN, None, self.project(ALICE.publisher), (BOB.publisher,))
        assert rules.publisher_for(signed(ALICE))
        assert not rules.publisher_for(signed(BOB))
        rules = merge(BUILT_IN, None, self.project(), (BOB.publisher,))
        assert not rules.publisher_for(signed(BOB))

    def test_without_any_policy_own_keys_count(self) -> None:
        rules = merge(BUILT_IN, None, None, (BOB.publisher,))
        assert rules.publisher_for(signed(BOB))
        assert not rules.publisher_for(signed(ALICE))
        assert rules.lacking(signed(ALICE)) == policy.OWN_KEYS
        assert merge(BUILT_IN, None, None, ()).publisher_for(signed(ALICE)) is None

    def test_built_in_publishers_narrow_too(self) -> None:
        base = BUILT_IN._replace(publishers=(ALICE.publisher,))
        rules = merge(base, self.user(ALICE.publisher, BOB.publisher), None, ())
        assert rules.publisher_for(signed(ALICE))
        assert not rules.publisher_for(signed(BOB))

    @pytest.mark.parametrize(
        ("built_in", "user", "project", "all_three"),
        [
            ("audit", "warn", "deny", "deny"),
            ("audit", "deny", "audit", "deny"),
            ("audit", "warn", "audit", "warn"),
            ("deny", "audit", "audit", "deny"),
            ("audit", "audit", "audit", "audit"),
        ],
    )
    def test_the_strictest_enforcement_holds(self, built_in: str, user: str, project: str, all_three: str) -> None:
        base = BUILT_IN._replace(enforcement=built_in)
        rules = merge(base, self.user(enforcement=user), self.project(enforcement=project), ())
        assert rules.enforcement == all_three

    def test_lists_are_united_and_the_users_word_on_a_digest_is_told(self) -> None:
        user = self.user(includes=("a", "b"), files=("/f",), blocked_digests={"0": "user's"}, blocked_publishers=(
            Blocked("x"),))  # fmt: skip
        project = self.project(includes=("b", "c"), blocked_digests={"0": "", "1": "p"}, blocked_publishers=(
            Blocked("y"),))  # fmt: skip
        rules = merge(BUILT_IN, user, project, ())
        assert (rules.includes, rules.files) == (("a", "b", "c"), ("/f",))
        assert rules.blocked_digests == {"0": "user's", "1": "p"}
        assert [entry.identity for entry in rules.blocked_publishers] == ["x", "y"]
        assert (rules.user, rules.project, rules.built_in) == (user, project, BUILT_IN)

    def test_a_key_id_without_a_key_is_an_own_key_or_nobody(self) -> None:
        nameless = Publisher("me", key_id="alice")
        assert merge(BUILT_IN, self.user(nameless), None, (ALICE.publisher,)).publisher_for(signed(ALICE))
        assert not merge(BUILT_IN, self.user(nameless), None, ()).publisher_for(signed(ALICE))
        assert not merge(BUILT_IN, self.user(nameless), None, (BOB.publisher,)).publisher_for(signed(ALICE))
        lied = Publisher("me", key_id="alice", public_key=MALLORY.public)
        rules = merge(BUILT_IN, self.user(lied), None, (ALICE.publisher,))
        assert not rules.publisher_for(signed(ALICE))  # what the policy says of the key holds
        assert rules.publisher_for(signed(MALLORY))


def test_a_claimed_key_id_is_nothing_without_the_key() -> None:
    rules = rules_of(ALICE.publisher)
    assert rules.publisher_for(signed(MALLORY, "alice")) is None
    assert rules.publisher_for(Keyed("alice", ALICE.fingerprint, b"")) is None
    assert rules.publisher_for(signed(ALICE, "somebody else")) == ALICE.publisher


def test_candidates_are_by_hint_or_claim_each_key_once() -> None:
    twice = ALICE.publisher._replace(name="alice again")
    rules = rules_of(ALICE.publisher, twice, BOB.publisher, Publisher("ci", issuer="i"), own_keys=(MALLORY.publisher,))
    assert rules.candidates("alice", "") == (ALICE.publisher,)
    assert rules.candidates("", BOB.fingerprint) == (BOB.publisher,)
    assert rules.candidates("alice", BOB.fingerprint) == (BOB.publisher, ALICE.publisher)
    assert rules.candidates("mallory", "") == (MALLORY.publisher,)  # an own key: found out, though it may not be enough
    assert rules.candidates("", "") == ()


@pytest.mark.parametrize(
    ("publisher", "signer", "expected"),
    [
        ({}, {}, True),
        ({"issuer": "https://token.actions.githubusercontent.com/"}, {}, False),
        ({"issuer": "*"}, {}, False),
        ({"repository": "other/*"}, {}, False),
        ({"repository": "org/rep"}, {}, False),
        ({"workflow": "*"}, {"workflow": ""}, False),
        ({"repository": "*"}, {"repository": ""}, False),
        ({"ref_pattern": "*"}, {"ref": ""}, False),
        ({"ref_pattern": "refs/heads/*"}, {}, False),
        ({"build_signer_uri": "https://github.com/org/shared/*"}, {}, True),
        ({"build_signer_uri": "https://github.com/org/shared/*"}, {"build_signer_uri": ""}, False),
        ({"build_signer_uri": "https://github.com/evil/*"}, {}, False),
    ],
)
def test_keyless_publishers(publisher: dict[str, str], signer: dict[str, str], expected: bool) -> None:
    assert matches(Publisher(**{**CI, **publisher}), FROM_CI._replace(**signer)) is expected


def test_nothing_matches_across_kinds() -> None:
    assert not matches(Publisher(**CI), signed(ALICE))
    assert not matches(ALICE.publisher, FROM_CI)
    assert not matches(Publisher("x"), Keyless("", "", "", ""))
    assert not matches(Publisher("x"), Keyed("", "", b""))


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("*", "", True),
        ("", "", True),
        ("", "x", False),
        ("a", "a", True),
        ("a*", "a", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "abc", True),
        ("a*b*c", "acb", False),
        ("*b*", "abc", True),
        ("ab*bc", "abc", False),
        ("org/*", "org/a/b", True),
        ("*/x", "ax", False),
        ("a.c", "abc", False),
        ("A", "a", False),
    ],
)
def test_wildcards(pattern: str, value: str, expected: bool) -> None:
    assert wildcard(pattern, value) is expected


def test_a_wildcard_searches_each_part_once() -> None:
    searches = 0

    class Counted(str):
        __slots__ = ()

        def find(self, *at: Any) -> int:
            nonlocal searches
            searches += 1
            return super().find(*at)

    assert not wildcard("*a" * 1000 + "*b*", Counted("a" * 4000))
    assert searches <= 1001


@pytest.mark.parametrize(
    ("identity", "signer", "expected"),
    [
        ("alice", signed(ALICE), True),
        ("alice", signed(MALLORY, "alice"), True),
        ("alice", signed(ALICE, "bob"), True),  # he is alice, whatever he says
        (ALICE.fingerprint, signed(ALICE, "bob"), True),
        (ALICE.fingerprint.upper(), signed(ALICE, "bob"), True),
        ("bob", signed(ALICE), False),
        (CI["issuer"], FROM_CI, True),
        (CI["issuer"] + "/", FROM_CI, True),
        ("mailto", FROM_CI._replace(san="mailto"), True),
        ("ci", FROM_CI, True),
        ("alice", FROM_CI, False),
        ("org/repo", FROM_CI, False),
    ],
)
def test_blocked_by_any_name(identity: str, signer: policy.Signer, expected: bool) -> None:
    rules = rules_of(ALICE.publisher, Publisher(**CI), blocked_publishers=(Blocked(identity),))
    assert bool(rules.blocked(signer)) is expected


def test_an_issuer_is_blocked_for_some_repositories_only() -> None:
    rules = rules_of(blocked_publishers=(Blocked(CI["issuer"], "evil/*"),))
    assert not rules.blocked(FROM_CI)
    assert rules.blocked(FROM_CI._replace(repository="evil/x"))
    assert rules.blocked(FROM_CI._replace(repository="Evil/x"))
    rules = rules_of(blocked_publishers=(Blocked(CI["issuer"], "https://github.com/Evil/x/"),))
    assert rules.blocked(FROM_CI._replace(repository="evil/x"))
    assert not rules.blocked(FROM_CI)


def test_nobody_is_blocked_by_an_empty_name() -> None:
    rules = rules_of(Publisher(**CI), blocked_publishers=(Blocked(""),))
    assert not rules.blocked(FROM_CI)
    assert not rules.blocked(Keyed("", "", b""))


def test_the_built_in_policy_asks_for_nothing() -> None:
    assert Policy("the built-in trust policy") == BUILT_IN
    assert BUILT_IN.enforcement == "audit"
