"""Verified for one run: what counts as a policy, what refuses to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nono.policy.protection import SIGNED
from nono.session import trust
from nono.session.verification import Refused
from nono.supervisor.whereabouts import find_place
from nono.trust import signing
from nono.trust.bundle import INSTRUCTION_FILE
from nono.trust.errors import TrustError
from tests.session.signed_tree import INCLUDES, Log, Tree, left, refusal
from tests.session.signed_tree import tree as tree
from tests.signing import Signer, digest
from tests.trust import sigstore_world


def test_a_policy_is_in_sight_up_to_the_home_directory(tmp_path: Path) -> None:
    home, above = tmp_path / "u", tmp_path
    (home / "a/b").mkdir(parents=True)
    place = find_place(str(home / "a/b"), {"HOME": str(home)})
    (above / "trust-policy.json").touch()
    assert trust.in_sight(place) == ()
    for directory in (home, home / "a", home / "a/b", home / ".config/nono"):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "trust-policy.json").symlink_to("/nonexistent")
        assert trust.in_sight(place) == (str(directory / "trust-policy.json"),)
        (directory / "trust-policy.json").unlink()
    elsewhere = find_place(str(home / "a"), {"HOME": str(home / "a/b")})
    assert trust.in_sight(elsewhere) == (str(above / "trust-policy.json"),)


def test_without_a_policy_nothing_is_imported(tmp_path: Path) -> None:
    """With one, it is: so the test would see it."""
    heavy = ("nono.trust", "nono.session.verification", "cryptography", "sigstore")
    code = (
        "import os, sys; from nono.session import run; from nono.session.policy import Order; "
        "from nono.policy.resolve import Request; order = Order(('true',), Request(), dry_run=True); "
        "run.run(order, os.environ, lambda summary: None, print); "
        f"print(*[name for name in {heavy} if name in sys.modules])"
    )
    made = Tree(tmp_path)
    made.signer.sign(made.claude, made.skill)
    for expected in ("", "nono.trust nono.session.verification cryptography"):
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=made.root, capture_output=True, text=True, check=True,
            env={"HOME": str(made.home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert result.stdout.strip() == expected
        made.policy()


def test_what_is_signed_is_verified_and_read_only(tree: Tree) -> None:
    with tree.verify() as verified:
        assert dict(verified.rows) == {"trust": "2 files verified, signed by default  (~/project/trust-policy.json)"}
        assert {(deny.path, deny.group, deny.pinned) for deny in verified.denies} == {
            (str(tree.root / name), SIGNED, True)
            for signed in ("CLAUDE.md", "docs/SKILL.md", "trust-policy.json")
            for name in (signed, f"{signed}.bundle")
        }
        verified.recheck()
        log = Log()
        verified.record(log)  # type: ignore[arg-type]
    assert [record["what"] for record in log.records] == ["rules", "policy", "policy", "file", "file"]
    by_path = {record.get("path"): record for record in log.records}
    assert by_path["CLAUDE.md"]["sha256"] == digest(tree.claude)
    assert by_path["CLAUDE.md"]["outcome"] == "verified"
    assert by_path["CLAUDE.md"]["publisher"] == "default"
    assert by_path[str(tree.root / "trust-policy.json")]["sha256"] == digest(tree.root / "trust-policy.json")
    assert by_path[None]["enforcement"] == "deny"


def test_one_bundle_for_the_tree_does_as_well(tree: Tree) -> None:
    for path in (tree.claude, tree.skill):
        path.with_name(f"{path.name}.bundle").unlink()
    tree.signer.sign_tree(tree.root, ["CLAUDE.md", "docs/SKILL.md"])
    with tree.verify() as verified:
        assert {os.path.relpath(deny.path, tree.root) for deny in verified.denies} >= {
            "CLAUDE.md", "docs/SKILL.md", ".nono-trust.bundle"
        }  # fmt: skip


def test_with_deny_nothing_starts_and_each_file_is_named(tree: Tree) -> None:
    tree.write("CLAUDE.md", "do that")
    tree.write("more/SKILL.md")
    said = refusal(tree.verify).splitlines()
    assert said[0].startswith("2 files that would instruct the agent are not verified (~/project/trust-policy.json: d")
    assert said[0].endswith("; nothing was started")
    assert said[1].startswith("CLAUDE.md was changed after 'default' signed it; ")
    assert said[2] == "more/SKILL.md is not signed; read it, then sign it: nono trust sign more/SKILL.md"
    assert "--trust-override" in said[3]


def test_of_very_many_the_first_are_named(tree: Tree) -> None:
    for number in range(30):
        tree.write(f"{number:02}/SKILL.md")
    said = refusal(tree.verify).splitlines()
    assert said[0].startswith("30 files")
    assert len(said) == 1 + 12 + 1 + 1
    assert said[13] == "and 18 more: nono trust list"


@pytest.mark.parametrize("enforcement", ["warn", "audit"])
def test_what_only_warns_starts_and_says_so(tree: Tree, enforcement: str) -> None:
    tree.policy(enforcement=enforcement)
    tree.write("more/SKILL.md")
    with tree.verify() as verified:
        rows = list(verified.rows)
        assert str(tree.root / "more/SKILL.md") not in {deny.path for deny in verified.denies}
    assert rows[0][1].startswith("2 files verified, signed by default; 1 not")
    assert rows[1][0] == ("warning" if enforcement == "warn" else "")
    assert ("more/SKILL.md is not signed" in rows[1][1]) is (enforcement == "warn")


def test_an_override_makes_deny_warn_and_says_so_loudly(tree: Tree) -> None:
    tree.write("more/SKILL.md")
    with tree.verify(override=True) as verified:
        warnings = [text for label, text in verified.rows if label == "warning"]
    assert warnings[0] == "--trust-override: the agent gets 1 file that is not verified"
    assert warnings[1].startswith("more/SKILL.md is not signed")


@pytest.mark.parametrize("enforcement", ["deny", "warn", "audit"])
@pytest.mark.parametrize("override", [False, True])
def test_what_is_blocked_never_starts(tree: Tree, enforcement: str, override: bool) -> None:
    blocked = {"digests": [{"sha256": digest(tree.skill), "description": "it lies"}]}
    tree.policy(enforcement=enforcement, blocklist=blocked)
    said = refusal(lambda: tree.verify(override=override))
    assert said.splitlines()[0].startswith("1 file that would instruct the agent is on a blocklist")
    assert "docs/SKILL.md is on the blocklist: it lies" in said
    assert "--trust-override" not in said


@pytest.mark.parametrize("by", [None, "stranger"])
def test_a_policy_that_is_not_signed_by_the_user_stops_the_run(tree: Tree, by: str | None) -> None:
    if by is None:
        (tree.root / "trust-policy.json.bundle").unlink()
    else:
        Signer(by).policy(tree.root, tree.signer, includes=INCLUDES)
    assert "trust-policy.json" in refusal(tree.verify)
    with tree.verify(override=True) as verified:
        assert any("what the project's policy forbids is not asked" in text for _, text in verified.rows)
        assert not verified.denies


def test_the_users_own_policy_is_never_left_out(tree: Tree) -> None:
    tree.signer.policy(tree.config, tree.signer, includes=[])
    (tree.config / "trust-policy.json.bundle").unlink()
    for override in (False, True):
        assert "trust-policy.json" in refusal(lambda override=override: tree.verify(override=override))  # type: ignore[misc]


def test_a_project_policy_that_the_user_has_revoked_is_not_left_out(tree: Tree) -> None:
    digests = [{"sha256": digest(tree.root / "trust-policy.json")}]
    tree.signer.policy(tree.config, tree.signer, includes=[], blocklist={"digests": digests})
    for override in (False, True):
        assert "blocklist" in refusal(lambda override=override: tree.verify(override=override))  # type: ignore[misc]


def test_the_users_policy_alone_counts_below_the_working_directory(tree: Tree) -> None:
    for name in ("trust-policy.json", "trust-policy.json.bundle"):
        (tree.root / name).unlink()
    tree.signer.policy(tree.config, tree.signer, includes=INCLUDES)
    with tree.verify(tree.root / "docs") as verified:
        assert {os.path.basename(deny.path) for deny in verified.denies} == {"SKILL.md", "SKILL.md.bundle"}
        assert verified.rows[0][1].endswith("(~/.config/nono/trust-policy.json)")


def test_a_project_counts_as_a_whole_from_any_directory_in_it(tree: Tree) -> None:
    with tree.verify(tree.root / "docs") as verified:
        assert str(tree.claude) in {deny.path for deny in verified.denies}


def test_files_that_the_users_policy_names_are_verified_wherever_they_are(tree: Tree) -> None:
    own = tree.home / ".claude/CLAUDE.md"
    own.parent.mkdir()
    own.write_text("mine")
    tree.signer.policy(tree.config, tree.signer, includes=[], files=["~/.claude/CLAUDE.md"])
    assert "~/.claude/CLAUDE.md is not signed" in refusal(tree.verify)
    tree.signer.sign(own)
    with tree.verify() as verified:
        assert str(own) in {deny.path for deny in verified.denies}
        own.write_text("other")
        with pytest.raises(TrustError, match=r"~/\.claude/CLAUDE\.md was changed after it was verified"):
            verified.recheck()
        assert [record["path"] for record in left(verified).records] == ["~/.claude/CLAUDE.md"]
    own.unlink()
    assert "~/.claude/CLAUDE.md is not there" in refusal(tree.verify)


def test_so_are_the_links_that_lead_to_them(tree: Tree) -> None:
    """Whoever replaces one says what the path means, to whoever reads it there."""
    kept = tree.home / "dotfiles/claude"
    kept.mkdir(parents=True)
    (tree.home / ".claude").symlink_to("dotfiles/claude")
    (kept / "CLAUDE.md").write_text("mine")
    tree.signer.sign(kept / "CLAUDE.md")
    tree.signer.policy(tree.config, tree.signer, includes=[], files=["~/.claude/CLAUDE.md"])
    with tree.verify() as verified:
        assert [deny.path for deny in verified.denies if deny.is_link] == [f"{tree.home}/.claude"]
        assert str(kept / "CLAUDE.md") in {deny.path for deny in verified.denies if deny.pinned}


def test_an_include_of_the_project_without_wildcards_must_be_there(tree: Tree) -> None:
    tree.policy(includes=[*INCLUDES, "AGENTS.md", "*.mdc"])
    said = refusal(tree.verify)
    assert "AGENTS.md is not there, and is one of the includes of ~/project/trust-policy.json" in said
    assert "*.mdc" not in said
    tree.signer.sign(tree.write("AGENTS.md"))
    with tree.verify() as verified:
        assert ("note", "nothing matches *.mdc, one of the includes of ~/project/trust-policy.json") in verified.rows


def test_one_of_the_users_policy_need_not_because_it_is_for_all_projects(tree: Tree) -> None:
    tree.signer.policy(tree.config, tree.signer, includes=["AGENTS.md", "*.mdc"])
    with tree.verify() as verified:
        assert [label for label, _ in verified.rows] == ["trust"]


def test_directories_can_be_skipped_by_name(tree: Tree) -> None:
    tree.write("third-party/x/SKILL.md")
    tree.write("node_modules/x/SKILL.md")
    assert "third-party" in refusal(tree.verify)
    with tree.verify(skip=("third-party", "third-party")) as verified:
        assert verified.rows[1] == (
            "", "not looked for in directories called third-party  (--skip-dir, or a profile)"
        )  # fmt: skip
        log = Log()
        verified.record(log)  # type: ignore[arg-type]
        assert log.records[0]["skip"] == ["third-party"]
        tree.write("third-party/other/SKILL.md")
        assert left(verified).told == []


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def make_link(path: Path) -> None:
    path.symlink_to("/nonexistent")


@pytest.mark.parametrize("make", [make_fifo, make_huge, make_link, Path.mkdir])
@pytest.mark.parametrize("place", ["root", "config"])
def test_a_policy_that_is_no_file_of_sense_is_refused_at_once(
    tree: Tree, make: Callable[[Path], None], place: str
) -> None:
    path = getattr(tree, place) / "trust-policy.json"
    path.unlink(missing_ok=True)
    make(path)
    assert "trust-policy.json" in refusal(tree.verify)


@pytest.mark.parametrize("make", [make_fifo, make_huge, make_link])
def test_nor_does_a_file_that_is_none(tree: Tree, make: Callable[[Path], None]) -> None:
    tree.skill.unlink()
    make(tree.skill)
    assert "docs/SKILL.md " in refusal(tree.verify)


@pytest.mark.parametrize("make", [make_fifo, make_huge, make_link, Path.mkdir])
@pytest.mark.parametrize("name", ["docs/SKILL.md.bundle", ".nono-trust.bundle", "trust-policy.json.bundle"])
def test_nor_does_a_bundle_that_is_none(tree: Tree, make: Callable[[Path], None], name: str) -> None:
    (tree.root / name).unlink(missing_ok=True)
    make(tree.root / name)
    assert refusal(tree.verify)


def test_no_descriptor_is_left_open(tree: Tree) -> None:
    tree.write("more/SKILL.md")
    tree.signer.sign_tree(tree.root, ["CLAUDE.md"])
    before = sorted(os.listdir("/proc/self/fd"))
    for override in (False, True):
        try:
            verified = tree.verify(override=override)
        except Refused:
            continue
        assert len(os.listdir("/proc/self/fd")) > len(before)
        verified.release()
        left(verified)
        verified.release()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_more_files_than_descriptors_are_verified(tree: Tree) -> None:
    many = [tree.write(f"many/{number}/SKILL.md") for number in range(300)]
    tree.signer.sign_tree(tree.root, ["CLAUDE.md", "docs/SKILL.md", *(f"many/{n}/SKILL.md" for n in range(300))])
    with tree.verify() as verified:
        assert len(os.listdir("/proc/self/fd")) < 200
        verified.recheck()
        many[-1].write_text("other")
        with pytest.raises(TrustError):
            verified.recheck()


def test_what_a_policy_calls_json_is_not_trusted_to_be_short(tree: Tree) -> None:
    (tree.root / "trust-policy.json").write_text(json.dumps({"version": 1, "includes": ["a" * 5000]}))
    assert refusal(tree.verify)


def test_a_signature_without_a_key_is_verified_once_and_then_remembered(tree: Tree) -> None:
    """The package `sigstore` takes a third of a second to import."""
    world = sigstore_world.World()
    (tree.config / "trust/trusted_root.json").write_bytes(world.trusted_root())
    ci = {
        "name": "ci", "issuer": sigstore_world.ISSUER, "repository": sigstore_world.REPOSITORY,
        "workflow": sigstore_world.WORKFLOW, "ref_pattern": "refs/heads/*",
    }  # fmt: skip
    tree.policy(includes=["**/SKILL.md"], publishers=[ci])
    payload = signing.statement([("SKILL.md", digest(tree.skill))], INSTRUCTION_FILE, {"kind": "keyless"})
    tree.skill.with_name("SKILL.md.bundle").write_text(json.dumps(world.bundle(payload)))
    code = (
        "import sys; from nono.session import trust, verification; from nono.supervisor.whereabouts import find_place; "
        f"place = find_place({str(tree.root)!r}, {{'HOME': {str(tree.home)!r}}}); "
        "verified = verification.verify(place, trust.in_sight(place), skip=(), override=False); "
        "print(verified.rows[0][1].partition('  ')[0], 'sigstore' in sys.modules)"
    )
    for is_imported in (True, False):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.stderr) == (f"1 file verified, signed by ci {is_imported}\n", "")
    tree.skill.write_text("something else")
    assert "docs/SKILL.md was changed after 'ci' signed it" in refusal(tree.verify)


def test_what_names_nobody_with_a_certificate_needs_no_sigstore(tree: Tree) -> None:
    payload = signing.statement([("SKILL.md", digest(tree.skill))], INSTRUCTION_FILE, {"kind": "keyless"})
    tree.skill.with_name("SKILL.md.bundle").write_text(json.dumps(sigstore_world.World().bundle(payload)))
    assert "docs/SKILL.md is signed by somebody with a certificate" in refusal(tree.verify)
