"""The run's temporary directory leaves nothing behind and never reaches out of itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nono.errors import StoreError
from nono.supervisor.scratch import ScratchDirectory


def test_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    with ScratchDirectory(str(tmp_path), create=True) as scratch:
        assert os.stat(scratch.path).st_mode & 0o777 == 0o700
        Path(scratch.path, "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_removes_directories_that_were_closed_to_their_owner(tmp_path: Path) -> None:
    with ScratchDirectory(str(tmp_path), create=True) as scratch:
        inner = Path(scratch.path, "a", "b")
        inner.mkdir(parents=True)
        inner.joinpath("file").write_text("x")
        inner.chmod(0)
        inner.parent.chmod(0)
    assert list(tmp_path.iterdir()) == []


def test_does_not_follow_a_planted_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    with ScratchDirectory(str(tmp_path), create=True) as scratch:
        os.symlink(outside, os.path.join(scratch.path, "link"))
        closed = Path(scratch.path, "closed")
        closed.mkdir()
        closed.chmod(0)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert outside.stat().st_mode & 0o777 == 0o500


def test_a_dry_run_makes_nothing(tmp_path: Path) -> None:
    with ScratchDirectory(str(tmp_path), create=False):
        assert list(tmp_path.iterdir()) == []


def test_says_what_to_do_when_it_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Set TMPDIR"), ScratchDirectory(str(tmp_path / "absent"), create=True):
        pass
