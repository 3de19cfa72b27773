"""`nono trust` as a user types it: real processes and files, the keys in files."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from nono.trust import keys
from tests.cli.signer import Signer


@pytest.fixture
def user(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


def test_from_the_key_to_a_verified_file(user: Signer) -> None:
    user.write("SKILL.md")
    user.write("docs/SKILL.md")
    assert "nono trust init --include" in user.done("keygen", "--keyref", user.keyref).said
    said = user.done("init", "--include", "**/SKILL.md").said
    assert "matches 2 files" in said
    assert "next nono trust sign-policy nono trust sign --all" in said
    assert user.trust("list").status == 1
    assert "next nono trust sign --all" in user.done("sign-policy").said
    assert user.statuses() == {"SKILL.md": "unsigned", "docs/SKILL.md": "unsigned"}
    assert user.trust("verify", "--all").status == 1
    said = user.done("sign", "--all").said
    assert "signed SKILL.md (SKILL.md.bundle)" in said
    assert "all that the policies name (2 files)" in said
    assert user.statuses() == {"SKILL.md": "verified", "docs/SKILL.md": "verified"}
    assert "2 files: 2 verified, 0 not" in user.done("verify", "--all").said
    assert user.done("verify", "docs/SKILL.md", within=user.project).status == 0


def test_a_change_is_told_and_signed_again(user: Signer) -> None:
    path = user.write("SKILL.md")
    user.with_policy("SKILL.md")
    user.done("sign", "--all")
    path.write_text("Be evil.\n")
    done = user.trust("verify", "SKILL.md")
    assert done.status == 1
    assert "was changed after 'key.pem' signed it" in done.said
    assert "nono trust sign SKILL.md" in done.said
    assert user.statuses() == {"SKILL.md": "changed"}
    assert "changed since its last signature" in user.done("sign", "--all").said
    user.done("sign", "SKILL.md")
    assert user.done("verify", "SKILL.md").status == 0


def test_what_verifies_keeps_its_signature(user: Signer) -> None:
    user.write("A.md")
    user.with_policy("*.md")
    user.done("sign", "--all")
    before = (user.project / "A.md.bundle").read_bytes()
    user.write("B.md")
    said = user.done("sign", "--all").said
    assert "kept A.md (signed by key.pem)" in said
    assert "signed B.md" in said
    assert (user.project / "A.md.bundle").read_bytes() == before
    user.done("sign", "A.md")  # by its name it is signed anew
    assert (user.project / "A.md.bundle").read_bytes() != before


def test_one_bundle_for_all(user: Signer) -> None:
    user.write("A.md")
    path = user.write("docs/B.md")
    user.with_policy("*.md")
    user.done("sign", "--multi-subject", "--all")
    assert (user.project / ".nono-trust.bundle").exists()
    assert not list(user.project.rglob("*.md.bundle"))
    assert user.done("verify", ".nono-trust.bundle").said.count("verified") == 3
    path.write_text("changed")
    assert user.statuses() == {"A.md": "verified", "docs/B.md": "changed"}
    assert "--multi-subject --all" in user.trust("verify", "--all").said
    path.unlink()
    done = user.trust("verify", "--all")
    assert done.status == 1
    assert "docs/B.md: is not there" in done.said


def test_what_one_bundle_is_not_for_any_more_is_told(user: Signer) -> None:
    user.write("A.md")
    user.write("extra.txt")
    user.with_policy("*.md")
    user.done("sign", "--multi-subject", "A.md", "extra.txt")
    assert user.statuses() == {"A.md": "verified", "extra.txt": "verified"}
    said = user.done("sign", "--multi-subject", "--all").said
    assert "left out extra.txt (.nono-trust.bundle was for it, too)" in said
    assert user.statuses() == {"A.md": "verified"}


def test_settings_elsewhere(user: Signer) -> None:
    user.environment["XDG_CONFIG_HOME"] = str(user.home / "settings")
    key = f"file://{user.home}/settings/nono/trust/key.pem"
    user.done("keygen", "--keyref", key)
    user.done("init", "--user")
    user.done("sign-policy", "--user")
    assert (user.home / "settings" / "nono" / "trust-policy.json.bundle").exists()
    assert not user.config.exists()


def test_the_policy_that_init_makes(user: Signer) -> None:
    user.keygen()
    user.done("init", "--include", "b*.md", "--include", "a.md", "--include", "b*.md")
    made = json.loads((user.project / "trust-policy.json").read_text())
    public = base64.b64encode(user.public()).decode()
    assert made == {
        "predicate": "https://nono.sh/attestation/trust-policy/v1",
        "version": 1,
        "includes": ["b*.md", "a.md"],
        "publishers": [{"name": "key.pem", "key_id": user.keyref, "public_key": public}],
        "blocklist": {"digests": [], "publishers": []},
        "enforcement": "deny",
    }
    before = (user.project / "trust-policy.json").stat().st_ino
    done = user.trust("init", "--include", "c.md")
    assert done.status == 2
    assert "--force replaces it" in done.err
    assert (user.project / "trust-policy.json").stat().st_ino == before
    user.done("init", "--include", "c.md", "--force")
    assert json.loads((user.project / "trust-policy.json").read_text())["includes"] == ["c.md"]


def test_a_policy_is_never_half(user: Signer) -> None:
    done = user.trust("init", "--include", "*.md")
    assert done.status == 2
    assert "It is made by: nono trust keygen" in done.wrong
    user.keygen()
    user.write("AGENTS.md")
    done = user.trust("init")
    assert done.status == 2
    assert "nono trust init --include AGENTS.md --include '**/SKILL.md'" in done.wrong
    assert not (user.project / "trust-policy.json").exists()


@pytest.mark.parametrize(
    ("pattern", "answer"),
    [
        ("/etc/*.md", "relative to the directory"),
        ("~/x.md", "relative to the directory"),
        ("./CLAUDE.md", "write CLAUDE.md"),
        ("../CLAUDE.md", "no . and .."),
        (".claude/", "what is below it is '.claude/**'"),
        ("*.bundle", "is not signed itself"),
        ("", "not empty"),
        ("a[", "a["),
        ("{a", "{a"),
        ("a\nb", "cannot be shown"),
        ("a" * 5000, "pattern"),
    ],
)
def test_patterns_that_protect_nothing(user: Signer, pattern: str, answer: str) -> None:
    user.keygen()
    done = user.trust("init", "--include", pattern)
    assert done.status == 2
    assert answer in done.wrong
    assert not (user.project / "trust-policy.json").exists()


def test_an_unquoted_pattern(user: Signer) -> None:
    user.keygen()
    done = user.trust("init", "--include", "A.md", "B.md", "C.md")
    assert done.status == 2
    assert "in quotes" in done.wrong
    assert "'**/*.md'" in done.wrong


def test_the_users_own_policy(user: Signer) -> None:
    user.keygen()
    assert "nono trust init --user" in user.trust("sign-policy", "--user").wrong
    assert "nono trust sign-policy --user" in user.done("init", "--user").said
    path = user.config / "trust-policy.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert user.trust("list").status == 1
    user.done("sign-policy", "--user")
    user.write("SKILL.md")
    user.done("init", "--include", "SKILL.md")
    user.done("sign-policy")
    user.done("sign", "--all")
    said = user.done("verify", "--all").said
    assert "~/project/trust-policy.json ~/.config/nono/trust-policy.json" in said


def test_what_is_signed_is_shown(user: Signer) -> None:
    user.with_policy("*.md")
    path = user.project / "trust-policy.json"
    made = json.loads(path.read_text())
    issuer = "https://token.actions.githubusercontent.com"
    ci = {"name": "their CI", "issuer": issuer, "repository": "them/*", "workflow": "*", "ref_pattern": "refs/heads/*"}
    made["publishers"].append(ci)
    made["blocklist"]["digests"].append({"sha256": "0" * 64, "description": "bad", "added": "2026-11-22"})
    made["includes"] += [f"{number}.md" for number in range(20)]
    path.write_text(json.dumps(made))
    said = user.done("sign-policy").said
    assert f"their CI ({issuer}, them/*, *, refs/heads/*)" in said
    assert "13 more" in said
    assert "1 entry" in said
    assert "enforcement deny" in said


def test_from_a_directory_below(user: Signer) -> None:
    user.write("SKILL.md")
    user.with_policy("**/SKILL.md")
    below = user.project / "src" / "deep"
    below.mkdir(parents=True)
    user.done("sign", "--all", within=below)
    assert user.done("verify", "--all", within=below).status == 0
    assert user.done("verify", "../../SKILL.md", within=below).status == 0
    done = user.trust("sign-policy", within=below)
    assert done.status == 2
    assert "nono trust sign-policy ../../trust-policy.json" in done.wrong
    user.done("sign-policy", "../../trust-policy.json", within=below)


def test_a_policy_by_its_name(user: Signer) -> None:
    user.write("SKILL.md")
    user.with_policy("SKILL.md")
    user.done("sign", "--all")
    other = user.write("strict.json", (user.project / "trust-policy.json").read_text().replace("SKILL", "OTHER"))
    user.write("OTHER.md")
    assert user.statuses("--policy", str(other)) == {"OTHER.md": "unsigned"}
    user.done("sign", "--all", "--policy", "strict.json")
    assert user.done("verify", "--all", "--policy", "strict.json").status == 0
    assert "did you mean strict.json" in user.trust("list", "--policy", "stict.json").wrong


def test_without_any_policy_ones_own_keys_count(user: Signer) -> None:
    user.keygen()
    user.write("SKILL.md")
    assert "nono trust init --include PATTERN" in user.done("sign", "SKILL.md").said
    said = user.done("verify", "SKILL.md").said
    assert "no policy is in sight" in said
    assert "verified SKILL.md" in said
    assert user.trust("verify", "--all").status == 2
    done = user.done("list")
    assert done.out == ""
    assert "nono trust init" in done.wrong


def test_a_file_elsewhere_that_ones_own_policy_names(user: Signer) -> None:
    user.keygen()
    user.done("init", "--user")
    path = user.config / "trust-policy.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": ["~/.claude/CLAUDE.md"]}))
    assert "files ~/.claude/CLAUDE.md" in user.done("sign-policy", "--user").said
    file = user.home / ".claude" / "CLAUDE.md"
    file.parent.mkdir()
    file.write_text("Be nice.\n")
    assert user.statuses() == {str(file): "unsigned"}
    user.done("sign", str(file))
    assert user.statuses() == {str(file): "verified"}


# Bundles.


def test_a_bundle_has_the_form_of_the_existing_tool(user: Signer) -> None:
    path = user.write("SKILL.md")
    user.keygen()
    user.done("sign", "SKILL.md")
    bundle = json.loads((user.project / "SKILL.md.bundle").read_text())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle["verificationMaterial"]["publicKey"]["hint"] == keys.fingerprint(user.public())
    envelope = bundle["dsseEnvelope"]
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    statement = json.loads(base64.b64decode(envelope["payload"]))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert statement["subject"] == [{"name": "SKILL.md", "digest": {"sha256": digest}}]
    assert statement["predicate"]["signer"] == {"kind": "keyed", "key_id": user.keyref}
    mode = (user.project / "SKILL.md.bundle").stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    assert mode == 0o666 & ~umask
    assert not list(user.project.glob(".nono-*"))


def test_openssl_verifies_what_was_signed(user: Signer, tmp_path: Path) -> None:
    user.write("SKILL.md")
    user.keygen()
    user.done("sign", "SKILL.md")
    envelope = json.loads((user.project / "SKILL.md.bundle").read_text())["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    (tmp_path / "signed").write_bytes(b"DSSEv1 %d %s %d " % (len(kind), kind.encode(), len(payload)) + payload)
    (tmp_path / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    (tmp_path / "key.pub").write_text(user.done("export-key", "--pem").out)
    command = ["openssl", "dgst", "-sha256", "-verify", "key.pub", "-signature", "signature", "signed"]
    assert b"Verified OK" in subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout


# Slips.


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["sing", "x"], "did you mean sign?"),
        (["verfy", "x"], "did you mean verify?"),
        (["exportkey"], "did you mean export-key?"),
        (["sign", "--al"], "did you mean --all?"),
        (["sign", "--multisubject", "x"], "did you mean --multi-subject?"),
        (["keygen", "--keyreff", "x"], "did you mean --keyref?"),
        (["sign"], "nono trust sign FILE"),
        (["verify"], "nono trust verify FILE"),
        (["sign", "x", "--all"], "not both"),
        (["verify", "x", "--all"], "not both"),
        (["sign", "x", "--keyless", "--key", "a"], "--keyless signs without a key"),
        (["sign", "x", "--policy", "p"], "--policy says which files --all means"),
        (["sign", "x", "--key", "a", "--keyref", "keystore://a"], "give one of them"),
        (["sign-policy", "x", "--user"], "leave FILE out"),
        (["keygen", "--id", "a b"], "letters, digits, _ and -"),
        (["keygen", "--id", "../x"], "letters, digits, _ and -"),
        (["keygen", "--id", "file:///x"], "--keyref file:///x"),
        (["keygen", "--keyref", "default"], "--id default"),
        (["keygen", "--keyref", "/root/x.pem"], "--keyref file:///root/x.pem"),
        (["keygen", "--keyref", "file://x.pem"], "absolute path"),
        (["keygen", "--keyref", "file://~/x.pem"], "$HOME"),
        (["keygen", "--keyref", "file:///a/../x.pem"], "without . and .."),
        (["keygen", "--keyref", "file:///a\nb"], "no text"),
        (["keygen", "--keyref", "keyring://a"], "keystore://"),
        (["keygen", "--keyref", "keystor://a"], "did you mean keystore://?"),
        (["keygen", "--keyref", ""], "keystore://ID"),
        (["keygen", "--adopt", "--force"], "say one of them"),
        (["export-key", "--id", "nobody"], "nono trust keygen --id nobody"),
        (["export-key", "--json", "--pem"], "leave one"),
    ],
)
def test_a_slip_is_answered(user: Signer, arguments: list[str], answer: str) -> None:
    done = user.trust(*arguments)
    assert done.status == 2
    assert answer in done.wrong
    assert done.out == ""
    assert list(user.project.iterdir()) == []


def test_a_key_typed_in_the_place_of_its_name_is_not_shown(user: Signer) -> None:
    pasted = base64.b64encode(keys.generate()).decode()
    for arguments in (["keygen", "--keyref", pasted], ["keygen", "--id", pasted], ["sign", "x", "--key", pasted]):
        done = user.trust(*arguments)
        assert done.status == 2
        assert pasted[:40] not in done.out + done.err


def test_flags_stand_where_they_like(user: Signer) -> None:
    user.keygen()
    user.write("A.md")
    user.write("B.md")
    said = user.done("sign", "A.md", "--keyref", user.keyref, "B.md").said
    assert "signed A.md" in said
    assert "signed B.md" in said


def test_a_misspelt_file(user: Signer) -> None:
    user.keygen()
    user.write("SKILL.md")
    done = user.trust("sign", "SKIL.md", "SKILL.md")
    assert done.status == 1
    assert "refused SKIL.md: is not there; did you mean SKILL.md?" in done.said
    assert "signed SKILL.md" in done.said
    assert "did you mean SKILL.md?" in user.trust("verify", "SKIL.md").said


@pytest.mark.parametrize("flag", ["--json"])
def test_json(user: Signer, flag: str) -> None:
    made = user.done("keygen", "--keyref", user.keyref, flag).json
    assert made["fingerprint"] == keys.fingerprint(user.public())
    assert user.done("export-key", flag).json["public_key"] == made["public_key"]
    user.write("A.md")
    assert user.done("init", "--include", "*.md", flag).json["includes"] == ["*.md"]
    assert user.done("sign-policy", flag).json["key_id"] == user.keyref
    (signed,) = user.done("sign", "--all", flag).json["files"]
    assert signed["status"] == "signed"
    assert signed["path"] == str(user.project / "A.md")
    (verified,) = user.done("verify", "--all", flag).json["files"]
    assert verified["signer"] == "key.pem"
    user.write("A.md", "changed")
    done = user.trust("verify", "--all", flag)
    assert done.status == 1
    assert done.json["files"][0]["reason"]
