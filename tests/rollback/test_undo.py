"""Undo: from a session's manifests and the tree as it is now; and back again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nono.errors import StoreError, UsageError
from nono.rollback import sessions, snapshot, undo
from nono.rollback.objects import Store
from nono.rollback.reach import Reach
from nono.rollback.sessions import Session
from nono.rollback.tree import Entry
from nono.rollback.undo import Selection
from tests.rollback.killing import as_nobody, in_child, interrupt
from tests.rollback.trees import grow, picture, ravage


class Place:
    """A tree, before and after a session."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        grow(self.root)
        self.baseline = picture(self.root)
        self.store = Store(str(directory / "store"))
        self.session: Session = sessions.create(self.store.directory, "20260101T000000Z-1", {})
        roots = [os.fsencode(self.root)]
        taken = snapshot.take(roots, self.store, self.session.baseline)
        ravage(self.root)
        snapshot.take(roots, self.store, self.session.final, previous=self.session.baseline, gitignore=taken.gitignore)
        self.state = picture(self.root)

    def restore(self, *paths: str, force: bool = False, back: bool = False) -> undo.Undone:
        selection = Selection(tuple(os.fsencode(self.root / path) for path in paths))
        return undo.restore(self.session, self.store, selection, force=force, undo=back)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_there_and_back_again(place: Place) -> None:
    assert not place.restore().is_nothing
    assert picture(place.root) == place.baseline
    assert place.restore().is_nothing
    place.restore(back=True)
    found = picture(place.root)
    assert found == {path: entry for path, entry in place.state.items() if path != b"/fifo"}  # of which nothing is kept
    place.restore()
    assert picture(place.root) == place.baseline


def test_a_preview_changes_and_stores_nothing(place: Place) -> None:
    (place.root / "edited").write_bytes(b"mine")
    state, objects = picture(place.root), sorted(place.store.digests())
    undone = undo.preview(place.session, place.store, Selection(), force=True)
    assert b"edited" in {step.path for _, plan in undone.plans for step in plan.steps}
    assert picture(place.root) == state
    assert sorted(place.store.digests()) == objects
    assert sorted(os.listdir(place.session.directory)) == ["baseline", "final", "meta.json"]


def test_what_gives_way_is_saved_first_and_survives_a_cleanup(place: Place) -> None:
    (place.root / "edited").write_bytes(b"my own work")
    place.restore("edited", force=True)
    assert (place.root / "edited").read_bytes() == b"one\ntwo\n"
    place.store.collect(lambda: sessions.manifests(place.store.directory))
    place.restore(back=True)
    assert (place.root / "edited").read_bytes() == b"my own work"


def test_modes_and_attributes_that_were_set_since_stay(place: Place) -> None:
    """A time does not say that they were; and around what is put back they are as much the user's as elsewhere."""
    (place.root / "deep").chmod(0o700)
    for name in ("becomes-directory", "empty", "kept", "private", "deep"):
        if (place.root / name).exists():
            os.setxattr(place.root / name, "user.mine", b"since")
    undone = place.restore()
    assert {kept.path for _, plan in undone.plans for kept in plan.kept} == {
        b"becomes-directory", b"deep", b"kept", b"private",
    }  # fmt: skip
    for name in ("becomes-directory", "kept", "private", "deep"):
        assert os.getxattr(place.root / name, "user.mine") == b"since"
    assert (place.root / "deep").stat().st_mode & 0o777 == 0o700
    assert (place.root / "deep/er/est/file").read_bytes() == b"below\n"
    place.restore(force=True)
    assert picture(place.root) == place.baseline


def test_what_was_listed_is_on_the_disk_before_anything_gives_way(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no contents are new to the store, which would have all of it synced."""
    synced = set()
    real, fsync = os.rename, os.fsync

    def rename(source: str, target: str, **named: int) -> None:
        if str(target).endswith(".pending"):
            assert os.stat(source).st_ino in synced
        real(source, target, **named)

    monkeypatch.setattr(os, "fsync", lambda fd: (synced.add(os.fstat(fd).st_ino), fsync(fd))[1])
    monkeypatch.setattr(os, "rename", rename)
    before = os.umask(0)
    try:
        place.restore()
    finally:
        os.umask(before)
    assert os.stat(os.path.join(place.session.directory, "saved-1")).st_mode & 0o777 == 0o600


def test_undoing_leaves_alone_what_came_since(place: Place) -> None:
    place.restore()
    (place.root / "notes").write_bytes(b"mine")
    (place.root / "removed").write_bytes(b"mine, too")
    undone = place.restore(back=True)
    assert [kept.path for _, plan in undone.plans for kept in plan.kept] == [b"removed"]
    assert (place.root / "notes").read_bytes() == b"mine"
    assert (place.root / "removed").read_bytes() == b"mine, too"


def test_without_a_restore_nothing_can_be_taken_back(place: Place) -> None:
    with pytest.raises(UsageError, match="nothing to undo"):
        place.restore(back=True)


def test_a_restore_that_did_not_happen_leaves_nothing_to_take_back(place: Place) -> None:
    for path in Path(place.store.objects).rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(b"damaged")
    for _ in range(2):
        with pytest.raises(StoreError, match="damaged"):
            place.restore()
        assert picture(place.root) == place.state
        assert undo.saved_states(place.session) == []


def test_one_that_was_killed_is_taken_back_like_any_other(tmp_path: Path) -> None:
    for at in range(40, 2000, 40):
        directory = tmp_path / str(at)
        directory.mkdir(mode=0o700)
        place = Place(directory)
        status = in_child(lambda at=at, place=place: (interrupt(at, lambda *_: os._exit(42)), place.restore())[0])  # type: ignore[misc]
        if status == 0:
            break
        ended = undo.finish(place.session)
        assert picture(place.root) == (place.baseline if ended == "restored" else place.state) or not ended
        assert len(undo.saved_states(place.session)) == (ended == "restored") or not ended
        place.restore()
        assert picture(place.root) == place.baseline
        assert not [name for name in os.listdir(place.session.directory) if "pending" in name]
    assert at > 400


@pytest.mark.parametrize("mode", [0, 0o100, 0o400, 0o600], ids=oct)
def test_what_the_agent_closed_is_opened(mode: int) -> None:
    """Its files and directories without any right, or without one of them, as an ordinary user finds them."""

    def everything(home: Path) -> None:
        place = Place(home)
        os.chmod(place.root / "kept", 0)
        for name in ("new", "sealed", "deep"):
            os.chmod(place.root / name, mode)
        place.restore(force=True)
        assert picture(place.root) == place.baseline

    as_nobody(everything)


def test_a_root_that_the_agent_closed_is_the_users_to_open() -> None:
    def everything(home: Path) -> None:
        place = Place(home)
        for mode in (0, 0o600):
            place.root.chmod(mode)
            with pytest.raises(StoreError, match=r"chmod u\+rwx"):
                place.restore()
        place.root.chmod(0o700)
        place.restore(force=True)
        assert picture(place.root) == place.baseline

    as_nobody(everything)


def test_two_at_once_do_not_mix(place: Place) -> None:
    fd = sessions.hold(place.session)
    with pytest.raises(StoreError, match="running or being restored"):
        place.restore()
    os.close(fd)
    place.restore()


def test_a_root_that_went_is_said(place: Place, tmp_path: Path) -> None:
    place.root.rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="root"):
        place.restore()


def test_a_directory_that_goes_while_it_is_looked_at_is_no_damage(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = undo._filled

    def filled(reach: Reach, left: Entry | None, entry: Entry, known_ns: int) -> Entry | None:
        if entry.path == b"new":
            (place.root / "new").rename(tmp_path / "moved")
        if entry.path == b"new/in":
            (tmp_path / "moved").rename(place.root / "new")
        return real(reach, left, entry, known_ns)

    with monkeypatch.context() as patch:
        patch.setattr(undo, "_filled", filled)
        place.restore()
    place.restore()
    assert picture(place.root) == place.baseline


def test_what_was_saved_goes_with_its_session(place: Place) -> None:
    for number in range(3):
        (place.root / "edited").write_bytes(b"my work %d" % number)
        place.restore("edited", force=True)
    assert undo.saved_states(place.session) == ["saved-1", "saved-2", "saved-3"]
    assert place.store.collect(lambda: sessions.manifests(place.store.directory))[0] == 0
    sessions.remove(place.session)
    place.store.collect(lambda: sessions.manifests(place.store.directory))
    assert list(place.store.digests()) == []
    assert not os.path.exists(place.session.directory)


def test_what_a_killed_one_had_listed_goes_with_the_next(place: Place) -> None:
    abandoned = Path(place.session.directory, "now-99999999")
    abandoned.write_bytes(b"half a listing")
    held = Path(place.session.directory, f"now-{os.getppid()}")
    held.write_bytes(b"of a process that lives")
    place.restore()
    assert not abandoned.exists()
    assert held.exists()
