"""sessions.py: what is on the disk of a session, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nono.errors import StoreError, UsageError
from nono.rollback import sessions
from nono.rollback.objects import Store
from nono.rollback.sessions import create, find, hold, is_held, manifests, previous, remove, write_meta
from nono.rollback.snapshot import take


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "rollback")


def test_a_session_is_made_and_found(directory: str) -> None:
    assert list(sessions.sessions(directory)) == []
    one = create(directory, "20260101T000000Z-1-fix", {"command": ["x"]})
    create(directory, "20260102T000000Z-2", {})
    found = list(sessions.sessions(directory))
    assert [session.id for session in found] == ["20260101T000000Z-1-fix", "20260102T000000Z-2"]
    assert found[0] == one
    assert not found[0].whole
    assert os.stat(one.directory).st_mode & 0o777 == 0o700
    assert find(directory, "20260101").id == one.id
    assert find(directory, "fix").id == one.id
    with pytest.raises(UsageError, match="more than one"):
        find(directory, "2026")
    with pytest.raises(UsageError, match="no session"):
        find(directory, "../sessions")


def test_an_id_is_used_once(directory: str) -> None:
    create(directory, "a", {})
    with pytest.raises(StoreError):
        create(directory, "a", {})


def test_meta_is_replaced_whole(directory: str) -> None:
    session = write_meta(create(directory, "a", {"n": 1}), {"n": 2})
    assert session.meta == {"n": 2}
    assert next(sessions.sessions(directory)) == session
    assert os.listdir(session.directory) == ["meta.json"]
    Path(session.directory, "meta.json").write_text("[")
    assert next(sessions.sessions(directory)).meta == {}


def test_a_session_is_held_by_one(directory: str) -> None:
    session = create(directory, "a", {})
    assert not is_held(session)
    fd = hold(session)
    assert is_held(session)
    with pytest.raises(StoreError, match="running or being restored"):
        hold(session)
    os.close(fd)
    assert not is_held(session)


def test_the_best_manifest_from_before_is_found_and_garbage_goes_with_sessions(tmp_path: Path, directory: str) -> None:
    trees = [tmp_path / "one", tmp_path / "two"]
    for tree in trees:
        tree.mkdir()
        (tree / "file").write_text(tree.name)
    roots = [os.fsencode(tree) for tree in trees]
    store = Store(directory)
    assert previous(directory, roots) == ""
    both, last = create(directory, "1", {}), create(directory, "2", {})
    take(roots, store, both.baseline)
    assert previous(directory, roots) == both.baseline
    take(roots[:1], store, last.baseline)
    take(roots[:1], store, last.final)
    create(directory, "3", {})
    assert previous(directory, roots) == both.baseline
    assert previous(directory, roots[:1]) == last.final
    assert previous(directory, [b"/elsewhere"]) == ""
    Path(last.directory, "final.draft").write_text("being written")
    assert manifests(directory) == [both.baseline, last.baseline, last.final]
    assert store.collect(lambda: manifests(directory))[0] == 0
    remove(both)
    assert store.collect(lambda: manifests(directory))[0] == 1
    remove(last)
    assert not Path(last.directory).exists()
    assert store.collect(lambda: manifests(directory))[0] == 1
