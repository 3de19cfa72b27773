"""The user's own public keys: only he writes them, and each bears the name of its key."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from nono.errors import PolicyError, UsageError
from nono.trust import keys, own
from nono.trust.policy import Publisher
from tests.trust.places import Signer, own_key

ALICE, BOB = Signer("alice"), Signer("bob")
IN_A_FILE = "file:///home/a user/key.pem"


def test_keys_are_kept_and_read_back(tmp_path: Path) -> None:
    assert own.read(str(tmp_path)) == ()
    own_key(tmp_path, BOB)
    own_key(tmp_path, ALICE)
    path = own.add(str(tmp_path), IN_A_FILE, BOB.public)
    assert path == str(tmp_path / "trust" / f"{BOB.fingerprint}.pub")
    assert own.read(str(tmp_path)) == (
        ALICE.publisher, BOB.publisher, Publisher(IN_A_FILE, IN_A_FILE, BOB.public)
    )  # fmt: skip
    assert (tmp_path / "trust").stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in (tmp_path / "trust").iterdir()} == {0o644}
    assert len(list((tmp_path / "trust").iterdir())) == 3


def test_a_key_is_not_replaced_unasked(tmp_path: Path) -> None:
    own_key(tmp_path, ALICE)
    own_key(tmp_path, ALICE)
    with pytest.raises(UsageError, match="another key of this name"):
        own.add(str(tmp_path), "alice", BOB.public)
    assert own.read(str(tmp_path)) == (ALICE.publisher,)
    own.add(str(tmp_path), "alice", BOB.public, replace=True)
    assert own.read(str(tmp_path)) == (BOB.publisher._replace(name="alice", key_id="alice"),)
    assert os.listdir(tmp_path / "trust") == ["alice.pub"]


@pytest.mark.parametrize("key_id", ["", "a/b", "../x", "a.b", "é", "a\n", "x" * 129, "file:///a\n", "file://x", "."])
def test_refuses_a_name_that_is_no_name(tmp_path: Path, key_id: str) -> None:
    with pytest.raises(UsageError):
        own.add(str(tmp_path), key_id, ALICE.public)
    assert not (tmp_path / "trust").exists()


def test_refuses_what_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        own.add(str(tmp_path), "alice", ALICE.private)


def test_the_umask_changes_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        own_key(tmp_path, ALICE)
    finally:
        os.umask(before)
    assert own.read(str(tmp_path)) == (ALICE.publisher,)


def refusal(config: Path) -> str:
    with pytest.raises(PolicyError) as caught:
        own.read(str(config))
    return str(caught.value)


def test_refuses_what_others_can_write(tmp_path: Path) -> None:
    own_key(tmp_path, ALICE)
    path = tmp_path / "trust" / "alice.pub"
    for mode in (0o666, 0o664):
        path.chmod(mode)
        assert "can be written by others" in refusal(tmp_path)
    path.chmod(0o644)
    path.parent.chmod(0o770)
    assert "can be written by others" in refusal(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_refuses_what_belongs_to_another_user(tmp_path: Path) -> None:
    own_key(tmp_path, ALICE)
    os.chown(tmp_path / "trust" / "alice.pub", 12345, -1)
    assert "belongs to another user" in refusal(tmp_path)


def test_refuses_a_link_and_a_second_name(tmp_path: Path) -> None:
    own_key(tmp_path, ALICE)
    (tmp_path / "trust" / "bob.pub").symlink_to("alice.pub")
    assert "is a symlink" in refusal(tmp_path)
    (tmp_path / "trust" / "bob.pub").unlink()
    os.link(tmp_path / "trust" / "alice.pub", tmp_path / "elsewhere")
    assert "has 2 names" in refusal(tmp_path)


@pytest.mark.parametrize("text", [b"", b"junk", b"\xff", b"-----BEGIN PUBLIC KEY-----\nAAAA\n", b"x" * 20_000])
def test_refuses_junk_by_its_name(tmp_path: Path, text: bytes) -> None:
    own_key(tmp_path, ALICE)
    (tmp_path / "trust" / "bad.pub").write_bytes(text)
    assert "bad.pub" in refusal(tmp_path)


def test_refuses_a_key_under_anothers_name(tmp_path: Path) -> None:
    path = Path(own.add(str(tmp_path), IN_A_FILE, BOB.public))
    path.rename(path.with_name(f"{ALICE.fingerprint}.pub"))
    assert "does not bear the name" in refusal(tmp_path)
    path.with_name(f"{ALICE.fingerprint}.pub").rename(path)
    path.write_text(path.read_text().replace("file:///", "alice"))
    assert "does not bear the name" in refusal(tmp_path)


def test_a_missing_library_is_no_broken_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_key(tmp_path, ALICE)
    monkeypatch.setattr(keys, "_library", [])
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(UsageError, match="pip install"):
        own.read(str(tmp_path))


def test_other_files_there_are_nobodys_business(tmp_path: Path) -> None:
    own_key(tmp_path, ALICE)
    (tmp_path / "trust" / "trusted_root.json").write_text("{}")
    assert own.read(str(tmp_path)) == (ALICE.publisher,)
