"""Killed as it enters any system call, of Python's, of the shim's or of a thread's: nothing is torn, nothing is lost.

A few calls, spread over all, are tried; NONO_TEST_EVERY_CALL=1 tries every one (some minutes).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nono.rollback import sessions, staging, undo
from nono.rollback.manifest import Manifest
from nono.rollback.objects import Store
from nono.rollback.snapshot import take
from nono.rollback.undo import Selection
from tests.rollback import tracing
from tests.rollback.killing import check_is_one, clear
from tests.rollback.killing import memory as memory
from tests.rollback.test_crash import check, make, settle
from tests.rollback.test_undo import Place
from tests.rollback.trees import picture


def edited(directory: Path) -> Place:
    """A tree after a session in which the user has worked since: his file must be saved before it gives way."""
    clear(directory)
    directory.mkdir(mode=0o700)
    place = Place(directory)
    (place.root / "edited").write_bytes(b"my own work")
    place.state = picture(place.root)
    return place


def test_a_restore_that_is_killed_anywhere_was_or_was_not(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_SYNCED_ONE_BY_ONE", 4)  # so that it syncs the file system, in C
    counted = edited(memory / "count")
    total = tracing.count(lambda: counted.restore(force=True))
    if total < 0:
        pytest.skip("no process can be traced here (ptrace)")
    assert total > 150
    ends = set()
    for at in tracing.points(total, 45):
        place = edited(memory / "place")
        assert tracing.killed_at(lambda place=place: place.restore(force=True), at)  # type: ignore[misc]
        ended = undo.finish(place.session)
        found = picture(place.root)
        ends.add(ended)
        check_is_one(ended, found, place.baseline, place.state, at)
        if found == place.baseline:  # what gave way was saved, and is
            undo.restore(place.session, place.store, Selection(), undo=True)
            assert (place.root / "edited").read_bytes() == b"my own work", at
        place.restore(force=True)
        assert picture(place.root) == place.baseline, at
        assert all(place.store.verify(digest) for digest in place.store.digests())
        assert not [name for name in os.listdir(place.session.directory) if name.endswith((".pending", ".new"))]
    assert {"restored", "reverted"} <= ends


def test_a_finishing_that_is_killed_anywhere_can_be_finished(memory: Path) -> None:
    """Forward and backward: a restore is killed in its midst, and so is what finishes it."""
    counted = edited(memory / "count")
    total = tracing.count(lambda: counted.restore(force=True))
    if total < 0:
        pytest.skip("no process can be traced here (ptrace)")
    for first in (total * 2 // 5, total * 3 // 4):
        place = edited(memory / "place")
        tracing.killed_at(lambda place=place: place.restore(force=True), first)  # type: ignore[misc]
        more = tracing.count(lambda place=place: undo.finish(place.session))  # type: ignore[misc]
        for at in tracing.points(more, 8):
            place = edited(memory / "place")
            tracing.killed_at(lambda place=place: place.restore(force=True), first)  # type: ignore[misc]
            tracing.killed_at(lambda place=place: undo.finish(place.session), at)  # type: ignore[misc]
            undo.finish(place.session)
            assert picture(place.root) in (place.state, place.baseline), (first, at)


def test_a_snapshot_that_is_killed_anywhere_leaves_nothing_torn(memory: Path) -> None:
    tree = memory / "tree"
    make(tree)

    def run(store_path: Path) -> None:
        store = Store(str(store_path))
        session = sessions.create(store.directory, "one", {})
        take([os.fsencode(tree)], store, session.baseline)

    total = tracing.count(lambda: run(memory / "count"))
    if total < 0:
        pytest.skip("no process can be traced here (ptrace)")
    assert total > 30
    with Manifest(str(memory / "count/sessions/one/baseline")) as manifest:
        manifest.verify()
    for at in tracing.points(total, 25):
        store_path = memory / f"store-{at}"
        with Store(str(store_path)).stage() as stage:
            kept = stage.put_bytes(b"from a session before").digest
            stage.commit()
        tracing.killed_at(lambda store_path=store_path: run(store_path), at)  # type: ignore[misc]
        check(store_path, kept, 5)
        settle(tree, store_path)
        shutil.rmtree(store_path)
