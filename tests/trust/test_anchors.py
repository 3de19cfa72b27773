"""Which policies count: each must be signed by whom the user trusts, and none is passed over for lack of that."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nono.errors import PolicyError
from nono.trust import anchors, files
from nono.trust.anchors import Loaded, find_root, load_policies
from nono.trust.errors import (
    BAD_SIGNATURE,
    BLOCKED,
    CHANGED,
    MALFORMED,
    UNSAFE_FILE,
    UNSIGNED,
    UNTRUSTED,
    WRONG_FILE,
    TrustError,
)
from nono.trust.policy import Keyed, Keyless
from tests.trust.places import (
    FILE,
    POLICY,
    TREE,
    Signer,
    bundled,
    descriptors,
    digest,
    no_keyless,
    own_key,
    policy_text,
    put,
)
from tests.trust.places import statement as stating
from tests.trust.test_policy import CI, FROM_CI

ME, ALICE, MALLORY = Signer("default"), Signer("alice"), Signer("mallory")
IAM = b'{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole"}]}'


class World:
    """A home with a configuration, and a project in it."""

    def __init__(self, path: Path) -> None:
        self.home = path / "home"
        self.config = self.home / ".config" / "nono"
        self.project = self.home / "src" / "project"
        self.project.mkdir(parents=True)
        own_key(self.config, ME)

    def user(self, *publishers: dict[str, Any], signer: Signer | None = ME, **more: Any) -> None:
        put(self.config / "trust-policy.json", policy_text(publishers, **{"includes": [], **more}), signer, POLICY)

    def projects(
        self, *publishers: dict[str, Any], signer: Signer | None = ME, kind: str = POLICY, **more: Any
    ) -> None:
        put(self.project / "trust-policy.json", policy_text(publishers, **more), signer, kind)

    @contextmanager
    def loaded(self, keyless: Any = no_keyless) -> Iterator[Loaded]:
        root = find_root(str(self.project), str(self.home)).path
        loaded = load_policies(root, str(self.config), keyless)
        try:
            yield loaded
        finally:
            for opened in loaded.opened:
                files.recheck(opened)
                files.close(opened)

    def refusal(self, keyless: Any = no_keyless) -> TrustError:
        before = descriptors()
        with pytest.raises(TrustError) as caught, self.loaded(keyless):
            pass
        assert descriptors() == before
        assert caught.value.source.endswith("/trust-policy.json")
        assert caught.value.next_step
        return caught.value


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path.resolve())


def trusts(loaded: Loaded, signer: Signer) -> bool:
    return loaded.rules.publisher_for(Keyed("", signer.fingerprint, signer.public)) is not None


def test_without_a_policy_own_keys_count_and_nothing_is_asked(world: World) -> None:
    with world.loaded() as loaded:
        assert trusts(loaded, ME)
        assert not trusts(loaded, ALICE)
        assert (loaded.rules.includes, loaded.rules.enforcement, loaded.opened) == ((), "audit", ())


def test_a_users_policy_signed_by_himself_counts(world: World) -> None:
    world.user(ALICE.entry, enforcement="warn")
    with world.loaded() as loaded:
        assert trusts(loaded, ALICE)
        assert not trusts(loaded, ME)  # he does not name himself
        assert [opened.relative for opened in loaded.opened] == ["trust-policy.json", "trust-policy.json.bundle"]


def test_a_projects_policy_signed_by_the_user_counts(world: World) -> None:
    world.projects(ALICE.entry)
    with world.loaded() as loaded:
        assert trusts(loaded, ALICE)
        assert (loaded.rules.includes, loaded.rules.enforcement) == (("CLAUDE.md",), "deny")


@pytest.mark.parametrize("signer", [ME, ALICE])
def test_a_projects_policy_signed_by_a_publisher_of_the_users_counts(world: World, signer: Signer) -> None:
    world.user(ALICE.entry, enforcement="audit")
    world.projects(MALLORY.entry, ALICE.entry, signer=signer)
    with world.loaded() as loaded:
        assert trusts(loaded, ALICE)
        assert not trusts(loaded, MALLORY)
        assert loaded.rules.enforcement == "deny"
        assert len(loaded.opened) == 4


def test_a_projects_policy_signed_by_a_stranger_stops_everything(world: World) -> None:
    world.projects(MALLORY.entry, signer=MALLORY)
    error = world.refusal()
    assert error.outcome == UNTRUSTED
    assert "not with one of your own keys" in error.reason
    assert error.next_step.startswith("if you have read it and want it, sign it yourself: nono trust sign-policy /")
    world.user(ALICE.entry)
    error = world.refusal()
    assert "no publisher of your trust policy, and not with one of your own keys" in error.reason


def test_a_publisher_of_the_project_does_not_vouch_for_its_policy(world: World) -> None:
    world.user(ME.entry)
    world.projects(ALICE.entry, signer=ALICE)
    assert world.refusal().outcome == UNTRUSTED


def test_a_users_policy_signed_by_a_publisher_of_his_does_not_count(world: World) -> None:
    world.user(ALICE.entry, signer=ALICE)
    assert world.refusal().outcome == UNTRUSTED


def test_unsigned_policies_are_refused_with_the_command(world: World) -> None:
    world.projects(signer=None)
    error = world.refusal()
    path = world.project / "trust-policy.json"
    assert (error.outcome, error.next_step) == (UNSIGNED, f"read it, then sign it: nono trust sign-policy {path}")
    assert str(error) == f"{path} is not signed; read it, then sign it: nono trust sign-policy {path}"
    world.user(signer=None)
    error = world.refusal()
    assert (error.outcome, error.next_step) == (UNSIGNED, "read it, then sign it: nono trust sign-policy --user")


def test_a_user_without_a_key_is_told_how_to_get_one(tmp_path: Path) -> None:
    world = World(tmp_path.resolve())
    (world.config / "trust" / "default.pub").unlink()
    world.projects(ALICE.entry, signer=ALICE)
    assert world.refusal().next_step.endswith("(you have no key yet: nono trust keygen)")


def test_a_policy_that_was_changed(world: World) -> None:
    world.projects(ALICE.entry)
    put(world.project / "trust-policy.json", policy_text([ALICE.entry, MALLORY.entry]))
    error = world.refusal()
    assert (error.outcome, error.reason) == (CHANGED, "was changed after 'default' signed it")


@pytest.mark.parametrize("kind", [FILE, TREE])
def test_a_bundle_for_a_file_is_none_for_a_policy(world: World, kind: str) -> None:
    world.projects(kind=kind)
    assert world.refusal().outcome == WRONG_FILE


def test_a_signature_of_a_stranger_under_the_users_name(world: World) -> None:
    said = stating([("trust-policy.json", digest(policy_text()))], POLICY, "default")
    put(world.project / "trust-policy.json", policy_text())
    (world.project / "trust-policy.json.bundle").write_bytes(bundled(MALLORY, said, ME.fingerprint))
    assert world.refusal().outcome == BAD_SIGNATURE
    (world.project / "trust-policy.json.bundle").write_bytes(b"{}")
    assert world.refusal().outcome == MALFORMED


def test_an_old_policy_is_revoked_by_its_digest(world: World) -> None:
    world.projects(ALICE.entry)
    old = digest((world.project / "trust-policy.json").read_bytes())
    world.user(ALICE.entry, blocklist={"digests": [{"sha256": old.upper(), "description": "replaced"}]})
    error = world.refusal()
    assert (error.outcome, error.reason) == (BLOCKED, "is on the blocklist: replaced")


def test_a_blocked_publisher_signs_no_policy(world: World) -> None:
    world.user(ALICE.entry, blocklist={"publishers": [{"identity": "alice", "reason": "left"}]})
    world.projects(signer=ALICE)
    assert world.refusal().outcome == BLOCKED


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/nonexistent", path)])
def test_a_policy_that_is_no_file_is_refused(world: World, make: Any) -> None:
    make(world.project / "trust-policy.json")
    assert world.refusal().outcome == UNSAFE_FILE


def test_a_signed_policy_that_is_wrong_is_refused_with_the_place(world: World) -> None:
    world.projects(enforcement="off")
    with pytest.raises(PolicyError, match=r"the project's trust policy: enforcement: found \"off\""), world.loaded():
        pass


def test_a_keyless_signature_on_a_policy(world: World) -> None:
    world.user(CI)
    put(world.project / "trust-policy.json", policy_text())
    said = stating([("trust-policy.json", digest(policy_text()))], POLICY, signer={"kind": "keyless"})
    text = bundled(MALLORY, said).replace(b'"publicKey"', b'"certificate"')
    (world.project / "trust-policy.json.bundle").write_bytes(text)
    with world.loaded(lambda _: FROM_CI) as loaded:
        assert loaded.rules.project is not None
    assert world.refusal(lambda _: FROM_CI._replace(repository="evil/x")).outcome == UNTRUSTED
    assert world.refusal(lambda _: Keyless("", "", "", "")).outcome == UNTRUSTED


class TestRoot:
    def root(self, world: World, workdir: Path | None = None) -> Path | None:
        found = find_root(str(workdir or world.project), str(world.home))
        return Path(found.path) if found.path else None

    def test_the_nearest_above_the_working_directory(self, world: World) -> None:
        assert self.root(world) is None
        world.projects()
        below = world.project / "a" / "b"
        below.mkdir(parents=True)
        assert self.root(world, below) == self.root(world) == world.project
        put(below / "trust-policy.json", policy_text())
        assert self.root(world, below) == below

    def test_that_one_above_it_is_not_asked_is_noted(self, world: World) -> None:
        world.projects()
        below = world.project / "a" / "b"
        put(below / "trust-policy.json", policy_text())
        put(below.parent / "trust-policy.json", IAM)
        put(world.home.parent / "trust-policy.json", policy_text())
        note = f"{world.project}/trust-policy.json is not asked, because {below}/trust-policy.json is nearer"
        assert find_root(str(below), str(world.home)) == (str(below), (note,))

    def test_the_home_directory_is_the_last_that_is_looked_at(self, world: World) -> None:
        put(world.home.parent / "trust-policy.json", policy_text())
        assert self.root(world) is None
        put(world.home / "trust-policy.json", policy_text())
        assert self.root(world) == world.home

    def test_outside_of_home_up_to_the_root(self, world: World) -> None:
        elsewhere = world.home.parent / "srv" / "x"
        elsewhere.mkdir(parents=True)
        put(world.home.parent / "trust-policy.json", policy_text())
        assert self.root(world, elsewhere) == world.home.parent

    def test_anything_of_that_name_is_in_sight(self, world: World) -> None:
        (world.project / "trust-policy.json").symlink_to("/nonexistent")
        assert self.root(world) == world.project

    def test_an_iam_policy_is_passed_over_and_noted(self, world: World) -> None:
        below = world.project / "infra"
        put(below / "trust-policy.json", IAM)
        assert self.root(world, below) is None
        found = find_root(str(below), str(world.home))
        assert found.notes == (f"{below}/trust-policy.json is not a trust policy of nono's and is passed over",)
        world.projects()
        assert self.root(world, below) == world.project

    def test_one_with_a_bundle_is_not(self, world: World) -> None:
        put(world.project / "trust-policy.json", IAM, ME, POLICY)
        assert self.root(world) == world.project
        with pytest.raises(PolicyError), world.loaded():
            pass
        (world.project / "trust-policy.json.bundle").write_bytes(b"")
        assert world.refusal().outcome == MALFORMED

    def test_neither_is_the_users_own_nor_one_that_is_not_json(self, world: World) -> None:
        put(world.config / "trust-policy.json", IAM)
        assert world.refusal().outcome == UNSIGNED
        put(world.config / "trust-policy.json", IAM, ME, POLICY)
        with pytest.raises(PolicyError), world.loaded():
            pass
        put(world.project / "trust-policy.json", b'{"Version"')
        assert self.root(world) == world.project

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_a_strangers_policy_above_is_passed_over_and_noted(self, world: World) -> None:
        below = world.project / "a"
        below.mkdir()
        world.projects()
        os.chown(world.project / "trust-policy.json", 12345, -1)
        found = find_root(str(below), str(world.home))
        assert (found.path, len(found.notes)) == ("", 1)
        assert "belongs to somebody else" in found.notes[0]
        os.chown(world.project / "trust-policy.json", 0, -1)
        os.chown(world.project, 12345, -1)
        assert not find_root(str(below), str(world.home)).path
        os.chown(below, 12345, -1)  # a project of another user, in a container: all of it is his
        assert find_root(str(below), str(world.home)).path

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_in_the_working_directory_itself_whoever_owns_it(self, world: World) -> None:
        world.projects()
        os.chown(world.project / "trust-policy.json", 12345, -1)
        assert find_root(str(world.project), str(world.home)).path


def test_the_built_in_policy_is_sound() -> None:
    assert json.loads(Path(anchors._BUILT_IN).read_bytes())["predicate"] == POLICY
    assert anchors.built_in().source == "the built-in trust policy"
