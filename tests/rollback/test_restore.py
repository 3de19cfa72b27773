"""Restore: what comes back, what is left alone, and what leads nowhere."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from nono.errors import StoreError
from nono.rollback import planning, steps
from nono.rollback.planning import plan
from nono.rollback.restore import Restore
from nono.rollback.steps import Kept
from tests.rollback.killing import World, as_nobody
from tests.rollback.trees import Contents, grow, picture


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_everything_comes_back(world: World) -> None:
    made = world.restore()
    assert picture(world.root) == world.baseline
    assert not made.kept
    assert not os.path.exists(world.journal)


def test_a_second_time_nothing_is_to_be_done(world: World) -> None:
    world.restore()
    made = world.plan()
    assert made.is_nothing


def test_an_ordinary_user_can_do_it_too() -> None:
    def everything(home: Path) -> None:
        world = World(home)
        world.restore()
        assert picture(world.root) == world.baseline

    as_nobody(everything)


def test_nothing_but_what_was_chosen_comes_back(world: World) -> None:
    world.restore(chosen=lambda path: path == b"deep/er/est/file")
    after = picture(world.root)
    assert after[b"/deep/er/est/file"] == world.baseline[b"/deep/er/est/file"]
    changed = {path for path in after if after[path] != world.state.get(path)}
    assert changed == {b"/deep/er", b"/deep/er/est", b"/deep/er/est/file"}


def test_what_was_put_in_the_place_of_its_directory_makes_way_for_a_single_path(world: World) -> None:
    world.restore(chosen=lambda path: path == b"becomes-file/inner")
    assert picture(world.root)[b"/becomes-file/inner"] == world.baseline[b"/becomes-file/inner"]


def test_what_was_changed_since_stays(world: World) -> None:
    (world.root / "edited").write_bytes(b"my own work\n")
    (world.root / "notes").write_bytes(b"my own file\n")
    (world.root / "deep/er").write_bytes(b"in the way\n")
    (world.root / "becomes-directory/mine").write_bytes(b"mine")
    made = world.restore()
    assert set(made.kept) == {
        Kept(b"edited", planning.CHANGED_SINCE),
        Kept(b"deep/er", planning.CHANGED_SINCE),
        Kept(b"deep/er/est", planning.IN_THE_WAY),
        Kept(b"deep/er/est/file", planning.IN_THE_WAY),
        Kept(b"becomes-directory", planning.HOLDS_OTHER),
    }
    assert (world.root / "edited").read_bytes() == b"my own work\n"
    assert (world.root / "notes").read_bytes() == b"my own file\n"
    assert (world.root / "becomes-directory/mine").read_bytes() == b"mine"
    assert (world.root / "removed").read_bytes() == b"gone\n"


def test_force_takes_what_was_changed_since_but_never_what_came_since(world: World) -> None:
    (world.root / "edited").write_bytes(b"my own work\n")
    (world.root / "notes").write_bytes(b"my own file\n")
    made = world.restore(force=True)
    assert not made.kept
    assert (world.root / "edited").read_bytes() == b"one\ntwo\n"
    assert (world.root / "notes").read_bytes() == b"my own file\n"
    (world.root / "notes").unlink()


def test_without_a_final_state_nothing_is_taken_for_the_sessions(world: World) -> None:
    now = world.contents.listing(world.root)
    made = plan(lambda: world.before, None, lambda: now)
    assert [step for step in made.steps if step.operation == steps.REMOVE] == []
    assert {each.reason for each in made.kept} == {planning.CHANGED_SINCE}
    forced = plan(lambda: world.before, None, lambda: now, force=True)
    assert not forced.kept


def test_what_is_excluded_stays_where_it_is(world: World) -> None:
    made = world.restore(exclude=frozenset({b"new/in/depth"}))
    assert {each.path for each in made.kept} == {b"new/in", b"new"}
    assert (world.root / "new/in/depth/file").read_bytes() == b"new"


def test_a_planted_link_leads_nowhere(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"theirs")
    (world.root / "deep").rmdir()
    (world.root / "deep").symlink_to(outside)
    world.after = world.contents.listing(world.root)
    world.restore()
    assert picture(world.root) == world.baseline
    assert picture(outside).keys() == {b"", b"/file"}


def test_a_link_planted_while_it_works_leads_nowhere(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    made = world.plan()
    (world.root / "deep").rmdir()
    (world.root / "deep").symlink_to(outside)
    state = picture(world.root)
    with Restore(world.journal, [(os.fsencode(world.root), False)]) as restore:
        with pytest.raises(StoreError, match="nothing was changed"):
            restore.carry_out([made], world.contents.copy_to)
    found = picture(world.root)
    assert {path: found[path] for path in found if path} == {path: state[path] for path in state if path}
    assert list(outside.iterdir()) == []


def test_what_changes_while_it_works_undoes_all(world: World) -> None:
    made = world.plan()
    (world.root / "edited").write_bytes(b"a racing editor")
    state = picture(world.root)
    with Restore(world.journal, [(os.fsencode(world.root), False)]) as restore:
        with pytest.raises(StoreError, match="edited was changed while it was being restored"):
            restore.carry_out([made], world.contents.copy_to)
    assert picture(world.root) == state
    assert not os.path.exists(world.journal)


def test_a_root_that_is_a_link_now_is_refused(world: World, tmp_path: Path) -> None:
    world.root.rename(tmp_path / "elsewhere")
    world.root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="cannot be opened"):
        world.restore()


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "beside").write_bytes(b"not tracked")
    file = tmp_path / "file"
    file.write_bytes(b"before\n")
    contents = Contents()
    before = contents.listing(file)
    baseline = picture(file)
    file.write_bytes(b"after\n")
    after = contents.listing(file)
    os.utime(tmp_path, ns=(1, 1))
    with Restore(str(tmp_path.parent / f"{tmp_path.name}.journal"), [(os.fsencode(file), True)]) as restore:
        restore.carry_out([plan(lambda: before, lambda: after, lambda: after)], contents.copy_to)
    assert picture(file) == baseline
    assert (tmp_path / "beside").read_bytes() == b"not tracked"
    assert tmp_path.stat().st_mtime_ns == 1
    assert {path.name for path in tmp_path.iterdir()} == {"file", "beside"}


def test_who_holds_a_file_open_keeps_its_contents(world: World) -> None:
    with open(world.root / "edited", "rb") as held:
        world.restore()
        assert held.read() == b"one\nTWO\nthree\n"


def test_contents_that_cannot_be_had_change_nothing(world: World) -> None:
    def fail(digest: str, fd: int) -> None:
        if world.contents.kept[digest] == b"gone\n":
            raise StoreError("object is damaged")
        world.contents.copy_to(digest, fd)

    with Restore(world.journal, [(os.fsencode(world.root), False)]) as restore:
        with pytest.raises(StoreError, match="damaged"):
            restore.carry_out([world.plan()], fail)
    assert picture(world.root) == world.state
    assert not os.path.exists(world.journal)


def test_very_many_files_come_back(tmp_path: Path) -> None:
    """More than are synced one by one."""
    root = tmp_path / "root"
    (root / "many").mkdir(parents=True)
    for number in range(300):
        (root / f"many/{number}").write_bytes(b"%d" % number)
    contents = Contents()
    before, baseline = contents.listing(root), picture(root)
    shutil.rmtree(root / "many")
    (root / "many").write_bytes(b"one")
    after = contents.listing(root)
    with Restore(str(tmp_path / "journal"), [(os.fsencode(root), False)]) as restore:
        restore.carry_out([plan(lambda: before, lambda: after, lambda: after)], contents.copy_to)
    assert picture(root) == baseline


def test_what_does_not_let_itself_be_changed_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def rename(source: bytes, *args: Any, **named: Any) -> None:
        if args[0] == b"edited":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), source)  # as chattr +i has it
        real(source, *args, **named)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(StoreError, match=f"^nothing was changed: {world.root}/edited: Operation not permitted"):
        world.restore()
    assert picture(world.root) == world.state


def test_the_picture_sees_what_it_is_to_see(tmp_path: Path) -> None:
    """The tests above are worth what it is worth."""
    grow(tmp_path / "one")
    seen = picture(tmp_path / "one")
    assert seen[b"/sealed"][1] == 0o555
    assert seen[b"/one"][-1] == seen[b"/two"][-1]
    assert stat.S_ISLNK(int(str(seen[b"/link"][0])))
    os.chmod(tmp_path / "one/kept", 0o600)
    assert picture(tmp_path / "one") != seen
