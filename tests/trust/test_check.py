"""One file and its bundle against the rules: a named refusal for each thing that can be wrong."""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from nono.errors import UsageError
from nono.trust import check, files, signing
from nono.trust.bundle import Bundle
from nono.trust.check import Checked, Multi, Verdict, check_file, check_path, denies, open_multi, with_named
from nono.trust.errors import (
    BAD_SIGNATURE,
    BLOCKED,
    CHANGED,
    EXPIRED,
    MALFORMED,
    OUTCOMES,
    UNSAFE_FILE,
    UNSIGNED,
    UNTRUSTED,
    VERIFIED,
    WRONG_FILE,
    BundleError,
)
from nono.trust.find import Found
from nono.trust.policy import AUDIT, DENY, WARN, Blocked, Keyless, Policy, Publisher, Rules, merge
from tests.trust.places import (
    FILE,
    POLICY,
    TREE,
    Signer,
    bundled,
    descriptors,
    digest,
    no_keyless,
    put,
    rules_of,
    signed_by,
    statement,
)
from tests.trust.test_policy import BUILT_IN, CI, FROM_CI

ALICE, BOB, MALLORY = Signer("alice"), Signer("bob"), Signer("mallory")
CONTENT = b"be kind\n"
RULES = rules_of(ALICE.publisher, BOB.publisher)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def judged(
    root: Path,
    name: str = "CLAUDE.md",
    rules: Rules = RULES,
    keyless: Callable[[Bundle], Keyless] = no_keyless,
) -> Verdict:
    """The verdict on a file, by its own bundle and the one of the tree; what is open is closed again."""
    before = descriptors()
    multi = open_multi(str(root), rules, keyless)
    checked = check_path(str(root), Found(name), rules, keyless, multi)
    for opened in held(checked, multi):
        files.close(opened)
    assert descriptors() == before
    verdict = checked.verdict
    assert verdict.outcome in OUTCOMES
    assert bool(verdict.reason) is bool(verdict.next_step) is (verdict.outcome != VERIFIED)
    return verdict


def held(checked: Checked, multi: Multi | None) -> Iterator[files.Opened]:
    yield from checked.bundles
    if checked.opened is not None:
        yield checked.opened
    if multi is not None and multi.opened is not None:
        yield multi.opened


def write_multi(root: Path, signer: Signer, *names: str, **more: str) -> None:
    subjects = [(name, digest((root / name).read_bytes())) for name in names]
    (root / ".nono-trust.bundle").write_bytes(bundled(signer, statement(subjects, TREE, signer.key_id), **more))


class TestOwnBundle:
    def test_a_bundle_as_the_rust_tool_makes_it_verifies(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT, ALICE)
        assert judged(root) == Verdict("CLAUDE.md", digest(CONTENT), VERIFIED, "alice")

    def test_a_bundle_made_here_verifies(self, root: Path) -> None:
        put(root / "a" / "SKILL.md", CONTENT)
        payload = signing.statement([("SKILL.md", digest(CONTENT))], FILE, signing.keyed("alice"))
        (root / "a" / "SKILL.md.bundle").write_bytes(signing.sign(payload, ALICE.private))
        assert judged(root, "a/SKILL.md").outcome == VERIFIED

    def test_a_file_and_its_bundle_are_held_open(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT, ALICE)
        checked = check_path(str(root), Found("CLAUDE.md"), RULES, no_keyless)
        (sidecar,) = checked.bundles
        assert checked.opened is not None
        assert (checked.opened.relative, sidecar.relative) == ("CLAUDE.md", "CLAUDE.md.bundle")
        for opened in (checked.opened, sidecar):
            files.recheck(opened)
            files.close(opened)

    def test_a_name_may_be_the_path_below_the_root(self, root: Path) -> None:
        put(root / "a" / "SKILL.md", CONTENT)
        (root / "a" / "SKILL.md.bundle").write_bytes(signed_by(ALICE, "a/SKILL.md", CONTENT))
        assert judged(root, "a/SKILL.md").outcome == VERIFIED

    @pytest.mark.parametrize("name", ["b/SKILL.md", "skill.md", "/a/SKILL.md", "./a/SKILL.md", "SKILL.md ", "a"])
    def test_a_bundle_for_another_file(self, root: Path, name: str) -> None:
        put(root / "a" / "SKILL.md", CONTENT)
        (root / "a" / "SKILL.md.bundle").write_bytes(signed_by(ALICE, name, CONTENT))
        assert judged(root, "a/SKILL.md").outcome in (WRONG_FILE, MALFORMED)

    def test_bundles_of_two_files_are_swapped(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT, ALICE)
        put(root / "AGENTS.md", b"other", ALICE)
        (root / "AGENTS.md.bundle").replace(root / "CLAUDE.md.bundle")
        verdict = judged(root)
        assert (verdict.outcome, verdict.reason) == (WRONG_FILE, "has a bundle that is for 'AGENTS.md'")
        assert verdict.next_step == "read it, then sign it: nono trust sign CLAUDE.md"

    def test_unsigned(self, root: Path) -> None:
        put(root / "it's.md", CONTENT)
        verdict = judged(root, "it's.md")
        assert (verdict.outcome, verdict.reason) == (UNSIGNED, "is not signed")
        assert verdict.next_step == r"read it, then sign it: nono trust sign 'it'\''s.md'"

    def test_changed_after_it_was_signed(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT, ALICE)
        put(root / "CLAUDE.md", b"be evil\n")
        verdict = judged(root)
        assert verdict == Verdict(
            "CLAUDE.md",
            digest(b"be evil\n"),
            CHANGED,
            "alice",
            "was changed after 'alice' signed it",
            "sign it again, if the change is yours: nono trust sign CLAUDE.md",
        )

    def test_signed_by_a_stranger(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT, MALLORY)
        verdict = judged(root)
        assert verdict.outcome == UNTRUSTED
        assert verdict.reason == (
            f"is signed by 'mallory' (key {MALLORY.fingerprint[:16]}…), who is no publisher of your trust policy"
        )

    @pytest.mark.parametrize("hint", [ALICE.fingerprint, "", MALLORY.fingerprint, "x" * 1000])
    @pytest.mark.parametrize("key_id", ["alice", "", "nobody"])
    def test_a_stranger_who_lies_about_his_name_and_key(self, root: Path, hint: str, key_id: str) -> None:
        put(root / "CLAUDE.md", CONTENT)
        said = statement([("CLAUDE.md", digest(CONTENT))], FILE, key_id)
        (root / "CLAUDE.md.bundle").write_bytes(bundled(MALLORY, said, hint))
        outcome = BAD_SIGNATURE if "alice" in key_id or hint == ALICE.fingerprint else UNTRUSTED
        assert judged(root).outcome == outcome

    def test_a_lying_hint_does_not_hide_who_signed(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT)
        (root / "CLAUDE.md.bundle").write_bytes(
            signed_by(ALICE, "CLAUDE.md", CONTENT, hint=BOB.fingerprint, key_id="alice")
        )
        assert judged(root).publisher == "alice"

    def test_a_signature_over_something_else(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT, ALICE)
        path = root / "CLAUDE.md.bundle"
        bundle, other = json.loads(path.read_bytes()), json.loads(signed_by(ALICE, "CLAUDE.md", b"other"))
        bundle["dsseEnvelope"]["signatures"] = other["dsseEnvelope"]["signatures"]
        path.write_text(json.dumps(bundle))
        verdict = judged(root)
        assert verdict.outcome == BAD_SIGNATURE
        assert verdict.reason == "has a bundle that is not signed with the key of 'alice', as it says"

    def test_a_signature_over_the_payload_alone_or_as_another_type_is_none(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT, ALICE)
        path = root / "CLAUDE.md.bundle"
        bundle = json.loads(path.read_bytes())
        payload = b64decode(bundle["dsseEnvelope"]["payload"])
        for signature in (ALICE.sign(payload, "text/plain"), ALICE.key.sign(payload, ec.ECDSA(SHA256()))):
            bundle["dsseEnvelope"]["signatures"] = [{"sig": b64encode(signature).decode()}]
            path.write_text(json.dumps(bundle))
            assert judged(root).outcome == BAD_SIGNATURE

    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            (POLICY, "has a bundle that is for a trust policy, not for a file"),
            (TREE, "has a bundle that is for a tree of files, not for a file"),
            ("https://slsa.dev/provenance/v1", "has a bundle that is a statement of another kind"),
        ],
    )
    def test_a_bundle_of_another_kind(self, root: Path, kind: str, reason: str) -> None:
        put(root / "CLAUDE.md", CONTENT, ALICE, kind)
        verdict = judged(root)
        assert verdict.outcome == WRONG_FILE
        assert verdict.reason.startswith(reason)

    def test_a_bundle_of_one_file_names_one(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT)
        said = statement([("CLAUDE.md", digest(CONTENT)), ("AGENTS.md", digest(b""))], FILE, "alice")
        (root / "CLAUDE.md.bundle").write_bytes(bundled(ALICE, said))
        assert judged(root).outcome == MALFORMED

    def test_a_keyed_bundle_that_says_keyless(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT)
        said = statement([("CLAUDE.md", digest(CONTENT))], FILE, signer={"kind": "keyless", "key_id": "alice"})
        (root / "CLAUDE.md.bundle").write_bytes(bundled(ALICE, said))
        assert judged(root).outcome == MALFORMED

    @pytest.mark.parametrize("data", [b"", b"{}", b"\0" * 100, b"{" * 1000, b" " * (1 << 20)])
    def test_a_bundle_that_is_none(self, root: Path, data: bytes) -> None:
        put(root / "CLAUDE.md", CONTENT)
        (root / "CLAUDE.md.bundle").write_bytes(data)
        verdict = judged(root)
        assert verdict.outcome == MALFORMED
        assert verdict.reason.startswith("has a bundle that ")
        assert verdict.next_step == "sign it again: nono trust sign CLAUDE.md"

    def test_a_bundle_that_cannot_be_read(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT)
        path = root / "CLAUDE.md.bundle"
        for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/nonexistent", path)):
            make(path)
            verdict = judged(root)
            assert verdict.outcome == UNSAFE_FILE
            assert verdict.reason.startswith("has a bundle that is ")
            os.rmdir(path) if path.is_dir() else os.unlink(path)
        path.write_bytes(b" " * ((1 << 20) + 1))
        assert judged(root).reason == "has a bundle that is larger than 1 MiB"

    def test_a_publisher_without_a_key_is_told(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT, ALICE)
        verdict = judged(root, rules=rules_of(Publisher("alice", key_id="alice")))
        assert verdict.outcome == UNTRUSTED
        assert "whose public_key the policy lacks" in verdict.reason

    def test_a_publisher_with_a_key_of_nonsense(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT, ALICE)
        off_the_curve = ALICE.public[:-1] + bytes([ALICE.public[-1] ^ 1])
        rules = rules_of(ALICE.publisher._replace(public_key=off_the_curve))
        assert judged(root, rules=rules).outcome == BAD_SIGNATURE

    def test_a_project_narrows(self, root: Path) -> None:
        project = Policy("the project's trust policy", publishers=(BOB.publisher, MALLORY.publisher))
        user = Policy("your trust policy", publishers=(ALICE.publisher, BOB.publisher))
        rules = merge(BUILT_IN, user, project, ())
        put(root / "CLAUDE.md", CONTENT, ALICE)
        assert "no publisher of the project's trust policy" in judged(root, rules=rules).reason
        put(root / "CLAUDE.md", CONTENT, BOB)
        assert judged(root, rules=rules).publisher == "bob"
        put(root / "CLAUDE.md", CONTENT, MALLORY)
        assert "no publisher of your trust policy" in judged(root, rules=rules).reason

    def test_own_keys_count_where_there_is_no_policy(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT, ALICE)
        assert judged(root, rules=merge(BUILT_IN, None, None, (ALICE.publisher,))).outcome == VERIFIED
        verdict = judged(root, rules=merge(BUILT_IN, None, None, (BOB.publisher,)))
        assert verdict.reason.endswith("and not with one of your own keys")


class TestFile:
    def test_a_file_that_is_not_there_and_problems_of_the_walk(self, root: Path) -> None:
        assert judged(root).outcome == UNSAFE_FILE
        checked = check_path(str(root), Found("x", "is a symlink", "put a copy there"), RULES, no_keyless)
        assert checked == Checked(Verdict("x", "", UNSAFE_FILE, "", "is a symlink", "put a copy there"))

    @pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "\ud800", "a\0b"])
    def test_a_name_that_leads_out(self, root: Path, name: str) -> None:
        assert check_path(str(root), Found(name), RULES, no_keyless).verdict.outcome == UNSAFE_FILE

    def test_links_are_refused_though_they_are_signed(self, root: Path) -> None:
        put(root / "real.md", CONTENT, ALICE)
        (root / "CLAUDE.md").symlink_to("real.md")
        (root / "CLAUDE.md.bundle").write_bytes(signed_by(ALICE, "CLAUDE.md", CONTENT))
        assert judged(root).reason == "is a symlink"
        (root / "CLAUDE.md").unlink()
        os.link(root / "real.md", root / "CLAUDE.md")
        assert "has 2 names" in judged(root).reason

    def test_a_file_outside_of_the_tree(self, root: Path) -> None:
        put(root / "skills" / "SKILL.md", CONTENT, ALICE)
        (root / "linked").symlink_to("skills")
        for directory in ("skills", "linked"):
            path = str(root / directory / "SKILL.md")
            checked = check_file(path, RULES, no_keyless)
            assert checked.verdict == Verdict(path, digest(CONTENT), VERIFIED, "alice")
            for opened in held(checked, None):
                files.close(opened)
        put(root / "none.md", CONTENT)
        checked = check_file(str(root / "none.md"), RULES, no_keyless)
        assert checked.verdict.next_step == f"read it, then sign it: nono trust sign {root}/none.md"
        assert checked.opened is not None
        files.close(checked.opened)
        assert check_file(str(root / "nothing"), RULES, no_keyless).verdict.reason == "is not there"
        assert check_file(str(root / "linked"), RULES, no_keyless).verdict.reason == "is a symlink"


class TestBlocklist:
    @pytest.mark.parametrize("enforcement", [AUDIT, WARN, DENY])
    def test_a_digest_is_blocked_whoever_signed_it(self, root: Path, enforcement: str) -> None:
        put(root / "CLAUDE.md", CONTENT, ALICE)
        rules = rules_of(ALICE.publisher, blocked_digests={digest(CONTENT): "steals keys"}, enforcement=enforcement)
        verdict = judged(root, rules=rules)
        assert (verdict.outcome, verdict.reason) == (BLOCKED, "is on the blocklist: steals keys")
        assert denies(verdict, rules.enforcement)
        (root / "CLAUDE.md.bundle").unlink()
        assert judged(root, rules=rules).outcome == BLOCKED

    @pytest.mark.parametrize("identity", ["alice", ALICE.fingerprint, "Alice of ours"])
    def test_a_publisher_is_blocked_by_any_of_his_names(self, root: Path, identity: str) -> None:
        put(root / "CLAUDE.md", CONTENT, ALICE)
        publisher = ALICE.publisher._replace(name="Alice of ours")
        rules = rules_of(publisher, blocked_publishers=(Blocked(identity, "", "left"),))
        verdict = judged(root, rules=rules)
        assert verdict.outcome == BLOCKED
        assert verdict.reason == f"is signed by {identity!r}, who is on the blocklist: left" or len(identity) > 40

    def test_one_who_claims_the_name_of_a_blocked_one_is_blocked(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT)
        (root / "CLAUDE.md.bundle").write_bytes(signed_by(MALLORY, "CLAUDE.md", CONTENT, key_id="eve"))
        assert judged(root, rules=rules_of(blocked_publishers=(Blocked("eve"),))).outcome == BLOCKED

    @pytest.mark.parametrize("make", [os.symlink, os.link])
    def test_a_blocked_file_is_blocked_behind_a_link(self, root: Path, make: Callable[[Path, Path], None]) -> None:
        rules = rules_of(blocked_digests={digest(CONTENT): "steals"}, enforcement=WARN)
        put(root / "x.txt", CONTENT)
        make(root / "x.txt", root / "CLAUDE.md")
        verdict = judged(root, rules=rules)
        assert (verdict.outcome, verdict.reason) == (BLOCKED, "is on the blocklist: steals")
        assert denies(verdict, AUDIT)
        walked = check_path(str(root), Found("CLAUDE.md", "is a symlink", "put a copy"), rules, no_keyless)
        assert walked.verdict.outcome == BLOCKED
        assert check_file(f"{root}/CLAUDE.md", rules, no_keyless).verdict.outcome == BLOCKED
        (root / "x.txt").write_bytes(b"other")
        assert judged(root, rules=rules).outcome == UNSAFE_FILE

    def test_denies(self) -> None:
        for outcome in OUTCOMES:
            verdict = Verdict("x", "", outcome)
            assert denies(verdict, DENY) is (outcome != VERIFIED)
            assert denies(verdict, WARN) is denies(verdict, AUDIT) is (outcome == BLOCKED)


class TestBundleOfATree:
    def test_it_vouches_for_the_paths_that_it_names(self, root: Path) -> None:
        put(root / "a" / "SKILL.md", CONTENT)
        put(root / "a" / "run.py", b"print()")
        write_multi(root, ALICE, "a/SKILL.md", "a/run.py")
        assert judged(root, "a/SKILL.md").outcome == VERIFIED
        put(root / "SKILL.md", CONTENT)
        assert judged(root, "SKILL.md").outcome == UNSIGNED
        put(root / "a" / "run.py", b"evil()")
        verdict = judged(root, "a/run.py")
        assert verdict.outcome == CHANGED
        assert verdict.next_step.endswith("nono trust sign --multi-subject --all")

    def test_what_it_names_is_verified_though_no_pattern_matches_it(self, root: Path) -> None:
        put(root / "SKILL.md", CONTENT)
        put(root / "run.py", b"print()")
        write_multi(root, ALICE, "SKILL.md", "run.py")
        multi = open_multi(str(root), RULES, no_keyless)
        assert with_named([Found("SKILL.md", "is a symlink", "x")], multi) == [
            Found("SKILL.md", "is a symlink", "x"), Found("run.py")
        ]  # fmt: skip
        assert with_named([Found("x")], None) == [Found("x")]
        assert multi is not None
        assert multi.opened is not None
        files.close(multi.opened)
        (root / "run.py").unlink()
        assert judged(root, "run.py").outcome == UNSAFE_FILE

    def test_one_that_is_none_is_itself_refused(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT)
        (root / ".nono-trust.bundle").write_bytes(b"{}")
        multi = open_multi(str(root), RULES, no_keyless)
        assert multi is not None
        assert multi.names == (".nono-trust.bundle",)
        verdict = judged(root, ".nono-trust.bundle")
        assert (verdict.outcome, verdict.reason) == (MALFORMED, "is not a bundle: it lacks mediaType")
        assert judged(root).outcome == MALFORMED
        put(root / "CLAUDE.md", CONTENT, ALICE)
        assert judged(root).outcome == VERIFIED  # its own bundle is enough
        assert multi.opened is not None
        files.close(multi.opened)

    def test_one_that_is_a_link_is_itself_refused(self, root: Path) -> None:
        (root / ".nono-trust.bundle").symlink_to("/nonexistent")
        assert judged(root, ".nono-trust.bundle").outcome == UNSAFE_FILE

    @pytest.mark.parametrize("kind", [FILE, POLICY])
    def test_one_of_another_kind(self, root: Path, kind: str) -> None:
        put(root / "CLAUDE.md", CONTENT)
        (root / ".nono-trust.bundle").write_bytes(signed_by(ALICE, "CLAUDE.md", CONTENT, kind))
        assert judged(root).outcome == WRONG_FILE

    @pytest.mark.parametrize("name", ["../CLAUDE.md", "/CLAUDE.md", "./CLAUDE.md", "a//b", "a/", "."])
    def test_one_that_names_what_is_outside(self, root: Path, name: str) -> None:
        put(root / "CLAUDE.md", CONTENT)
        said = statement([(name, digest(CONTENT)), ("CLAUDE.md", digest(CONTENT))], TREE, "alice")
        (root / ".nono-trust.bundle").write_bytes(bundled(ALICE, said))
        assert judged(root).outcome == MALFORMED

    def test_either_bundle_is_enough_unless_one_is_blocked(self, root: Path) -> None:
        put(root / "CLAUDE.md", CONTENT)
        write_multi(root, ALICE, "CLAUDE.md")
        (root / "CLAUDE.md.bundle").write_bytes(signed_by(BOB, "CLAUDE.md", b"older"))
        assert judged(root).publisher == "alice"
        put(root / "CLAUDE.md", CONTENT, BOB)
        write_multi(root, MALLORY, "CLAUDE.md")
        assert judged(root).publisher == "bob"
        rules = rules_of(ALICE.publisher, BOB.publisher, blocked_publishers=(Blocked("mallory"),))
        assert judged(root, rules=rules).outcome == BLOCKED
        (root / "CLAUDE.md").write_bytes(b"new")
        assert judged(root).outcome == CHANGED  # of its own bundle, which is the nearer one

    def test_its_signature_is_verified_once(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        names = [f"{n}.md" for n in range(20)]
        for name in names:
            put(root / name, name.encode())
        write_multi(root, ALICE, *names)
        verified = []
        verify = check.keys.verify

        def counting(*given: Any) -> bool:
            verified.append(given)
            return verify(*given)

        monkeypatch.setattr(check.keys, "verify", counting)
        multi = open_multi(str(root), RULES, no_keyless)
        for name in names:
            checked = check_path(str(root), Found(name), RULES, no_keyless, multi)
            assert checked.verdict.outcome == VERIFIED
            assert checked.opened is not None
            files.close(checked.opened)
        assert len(verified) == 1
        assert multi is not None
        assert multi.opened is not None
        files.close(multi.opened)


class TestKeyless:
    """The verification itself is keyless.py's; here it is given."""

    def put(self, root: Path, kind: str = "keyless") -> None:
        put(root / "CLAUDE.md", CONTENT)
        said = statement([("CLAUDE.md", digest(CONTENT))], FILE, signer={"kind": kind})
        text = bundled(MALLORY, said).replace(b'"publicKey"', b'"certificate"')
        (root / "CLAUDE.md.bundle").write_bytes(text)

    def test_an_identity_that_a_publisher_has(self, root: Path) -> None:
        self.put(root)
        verdict = judged(root, rules=rules_of(Publisher(**CI)), keyless=lambda _: FROM_CI)
        assert (verdict.outcome, verdict.publisher) == (VERIFIED, "ci")
        (root / "CLAUDE.md").write_bytes(b"x")
        verdict = judged(root, rules=rules_of(Publisher(**CI)), keyless=lambda _: FROM_CI)
        assert verdict.reason == "was changed after 'ci' signed it"

    def test_an_identity_that_nobody_has(self, root: Path) -> None:
        self.put(root)
        for identity in (FROM_CI._replace(repository="evil/x"), Keyless("", "", "", ""), FROM_CI._replace(ref="")):
            verdict = judged(root, rules=rules_of(Publisher(**CI)), keyless=lambda _, one=identity: one)  # type: ignore[misc]
            assert verdict.outcome == UNTRUSTED

    def test_what_a_certificate_says_does_not_repaint_the_screen(self, root: Path) -> None:
        self.put(root)
        stranger = FROM_CI._replace(repository="evil/x", san="\x1b[2J")
        verdict = judged(root, rules=rules_of(Publisher(**CI)), keyless=lambda _: stranger)
        assert verdict.reason.startswith("is signed by somebody with a certificate, who is no publisher")

    def test_blocked_by_its_issuer(self, root: Path) -> None:
        self.put(root)
        rules = rules_of(Publisher(**CI), blocked_publishers=(Blocked(CI["issuer"], "org/*"),))
        assert judged(root, rules=rules, keyless=lambda _: FROM_CI).outcome == BLOCKED

    def test_what_its_verification_says_is_the_verdict(self, root: Path) -> None:
        def expired(bundle: Bundle) -> Keyless:
            raise BundleError(EXPIRED, bundle.source, "was signed after its certificate expired")

        def missing(bundle: Bundle) -> Keyless:
            raise UsageError("install it with: pip install 'nono[trust]'")

        self.put(root)
        verdict = judged(root, rules=rules_of(Publisher(**CI)), keyless=expired)
        assert (verdict.outcome, verdict.reason) == (
            EXPIRED, "has a bundle that was signed after its certificate expired"
        )  # fmt: skip
        verdict = judged(root, rules=rules_of(Publisher(**CI)), keyless=missing)
        assert verdict.outcome == UNTRUSTED
        assert "nono[trust]" in verdict.reason

    def test_nothing_is_loaded_where_no_publisher_has_a_certificate(self, root: Path) -> None:
        self.put(root)
        assert judged(root, rules=rules_of(ALICE.publisher)).outcome == UNTRUSTED  # no_keyless was not called

    def test_one_that_says_keyed(self, root: Path) -> None:
        self.put(root, "keyed")
        assert judged(root, rules=rules_of(Publisher(**CI))).outcome == MALFORMED
