"""Restore: all of it, or nothing of it, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nono.errors import StoreError
from nono.rollback import planning, steps
from nono.rollback.journal import Journal
from nono.rollback.planning import plan
from nono.rollback.restore import Restore, recover
from nono.rollback.steps import Kept, Plan
from tests.rollback.trees import Contents, grow, picture, ravage

CALLS = (
    "open", "rename", "link", "unlink", "mkdir", "rmdir", "symlink", "chmod", "fchmod", "utime", "setxattr",
    "removexattr", "getxattr", "listxattr", "write", "pwrite", "fsync", "stat", "fstat", "listdir", "close", "chown",
    "fchown", "statvfs", "dup",
)  # fmt: skip


class World:
    """A tree before a session, after it, and where the journal is."""

    def __init__(self, directory: Path, ruin: Callable[[Path], None] = ravage) -> None:
        self.root = directory / "root"
        self.journal = str(directory / "journal")
        grow(self.root)
        self.contents = Contents()
        self.before = self.contents.listing(self.root)
        self.baseline = picture(self.root)
        ruin(self.root)
        self.after = self.contents.listing(self.root)
        self.state = picture(self.root)

    def plan(self, **options: Any) -> Plan:
        now = self.contents.listing(self.root, options.pop("exclude", frozenset()))
        return plan(lambda: self.before, lambda: self.after, lambda: now, **options)

    def restore(self, **options: Any) -> Plan:
        with Restore(self.journal, [(os.fsencode(self.root), False)]) as restore:
            made = self.plan(**options)
            restore.carry_out([made], self.contents.copy_to)
        return made


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


def as_nobody(run: Callable[[Path], None]) -> None:
    """Run it as an ordinary user, in a directory of his, where that can be; as ourselves, where we are one."""
    home = Path(tempfile.mkdtemp(prefix="nono-test-"))  # pytest's own directories are closed to others, now and then
    if os.geteuid() == 0:
        os.chown(home, 65534, 65534)

    def everything() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        run(home)

    try:
        assert in_child(everything) == 0
    finally:
        shutil.rmtree(home, ignore_errors=True)


def test_an_ordinary_user_can_do_it_too() -> None:
    def everything(home: Path) -> None:
        world = World(home)
        world.restore()
        assert picture(world.root) == world.baseline

    as_nobody(everything)


def test_an_ordinary_user_can_be_killed_too() -> None:
    def everything(home: Path) -> None:
        killed_at_each(World(home), step=4)

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


# ── crashes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def in_child(run: Callable[[], None]) -> int:
    """Run it in a process of its own; return its exit status: 1 for an exception."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run()
            status = 0
        except BaseException:  # noqa: BLE001  (pytest's own outcomes, too)
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def interrupt(at: int, act: Callable[[str, tuple[Any, ...]], None]) -> None:
    """Let `act` be called instead of before the call with the number `at`, of those that reach the kernel."""
    count = 0

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                act(name, args)
            return call(*args, **named)

        return counting

    for name in CALLS:
        setattr(os, name, wrapped(name, getattr(os, name)))


def has_xattrs(directory: Path) -> bool:
    try:
        os.setxattr(directory, "user.test", b"")
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """In memory, where that has all that a tree needs: a thousand crashes sync often."""
    memory = Path(tempfile.mkdtemp(prefix="nono-test-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    try:
        yield World(memory if has_xattrs(memory) else tmp_path_factory.mktemp("template"))
    finally:
        shutil.rmtree(memory, ignore_errors=True)


def again(template: World) -> None:
    """Put the template's tree back to what it was after the session, whatever is there."""
    for directory, _, _ in os.walk(template.root):
        os.chmod(directory, 0o755)
    if template.root.exists():
        shutil.rmtree(template.root)
    if os.path.exists(template.journal):
        os.unlink(template.journal)
    grow(template.root)
    ravage(template.root)
    template.after = template.contents.listing(template.root)
    template.state = picture(template.root)


def test_killed_at_any_call_and_run_again_it_is_done_or_never_was(template: World) -> None:
    killed_at_each(template)


def killed_at_each(template: World, step: int = 1) -> None:
    for at in range(1, 5000, step):
        again(template)

        def killed(at: int = at) -> None:
            interrupt(at, lambda *_: os._exit(42))
            template.restore()

        status = in_child(killed)
        assert status in (0, 42)
        if status == 0:
            assert at > 300
            return
        check_outcome(template, at)
    pytest.fail("it never came to its end")


def check_outcome(template: World, at: int) -> None:
    ended = recover(template.journal)
    found = picture(template.root)
    if ended == "restored":
        assert found == template.baseline, at
    elif ended == "reverted":
        assert found == template.state, at
    else:  # before the journal was there, or after it had gone
        assert found in (template.state, template.baseline), at
    assert recover(template.journal) == ""
    if found != template.baseline:
        template.after = template.contents.listing(template.root)
        template.restore()
        assert picture(template.root) == template.baseline, at


@pytest.mark.parametrize("first", [120, 200, 280, 330])
def test_killed_while_it_goes_on(template: World, first: int) -> None:
    for at in range(1, 5000, 9):
        again(template)
        if in_child(lambda: (interrupt(first, lambda *_: os._exit(42)), template.restore())[0]) == 0:
            return
        status = in_child(lambda at=at: (interrupt(at, lambda *_: os._exit(42)), recover(template.journal))[0])
        assert status in (0, 42)
        check_outcome(template, at)
        if status == 0:
            return


CHANGING = {"open", "rename", "link", "mkdir", "symlink", "chmod", "utime", "setxattr", "write", "pwrite", "fsync"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("lasts", [False, True])
def test_whatever_call_fails_nothing_is_lost(template: World, code: int, lasts: bool) -> None:
    """lasts: every call from there on that needs room or writes fails."""
    step = 13 if lasts else 7
    for at in range(1, 5000, step):
        again(template)

        def failing(at: int = at) -> None:
            count = 0

            def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
                def counting(*args: Any, **named: Any) -> Any:
                    nonlocal count
                    count += 1
                    if (count >= at if lasts else count == at) and not (name == "open" and not args[1] & os.O_CREAT):
                        raise OSError(code, os.strerror(code))
                    return call(*args, **named)

                return counting

            for name in CHANGING:
                setattr(os, name, wrapped(name, getattr(os, name)))
            try:
                template.restore()
            except (StoreError, OSError):
                os._exit(42)
            if count < at:
                os._exit(43)

        status = in_child(failing)
        assert status in (0, 42, 43)
        check_outcome(template, at)
        if status == 43:
            return
    pytest.fail("it never came to its end")


def test_the_picture_sees_what_it_is_to_see(tmp_path: Path) -> None:
    """The tests above are worth what it is worth."""
    grow(tmp_path / "one")
    seen = picture(tmp_path / "one")
    assert seen[b"/sealed"][1] == 0o555
    assert seen[b"/one"][-1] == seen[b"/two"][-1]
    assert stat.S_ISLNK(int(str(seen[b"/link"][0])))
    os.chmod(tmp_path / "one/kept", 0o600)
    assert picture(tmp_path / "one") != seen


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


def killed_in_the_middle(world: World, call: str, count: int) -> None:
    """Begin a restore and die right after the `count`th `call` of its second half, in which names change."""

    def begin() -> None:
        real, go_on, left = getattr(os, call), Journal.go_on, [-1]

        def counted(*args: Any, **named: Any) -> None:
            real(*args, **named)
            left[0] -= 1
            if left[0] == 0:
                os._exit(0)

        def applying(journal: Journal, state: str) -> None:
            go_on(journal, state)
            left[0] = count

        setattr(os, call, counted)
        Journal.go_on = applying  # type: ignore[method-assign]
        world.restore()
        os._exit(1)

    assert in_child(begin) == 0
    assert os.path.exists(world.journal)


def rename_count(world: World, path: bytes) -> int:
    """How many names have changed when that path has its old contents."""
    renamed = [step for step in world.plan().steps if step.operation != steps.META]
    return next(number for number, step in enumerate(renamed, 1) if step.path == path and steps.is_new(step))


def test_what_was_written_after_it_was_killed_survives_when_it_is_undone(world: World) -> None:
    """What is already back, and is changed by its owner then, is neither overwritten nor removed."""
    killed_in_the_middle(world, "rename", rename_count(world, b"removed"))
    (world.root / "edited").write_bytes(b"my edit")
    (world.root / "removed").write_bytes(b"mine, too")
    (world.root / "deep/er/est/mine").write_bytes(b"new in what came back")
    (world.root / "new").mkdir()  # had been removed
    (world.root / "new/mine").write_bytes(b"mine again")
    (world.root / "sealed").chmod(0o700)
    (world.root / "sealed/in").write_bytes(b"written since, so all is undone")
    with pytest.raises(StoreError, match="What was written there meanwhile is now"):
        recover(world.journal)
    found = {entry[3] for entry in picture(world.root).values()}
    assert {b"my edit", b"mine, too", b"new in what came back", b"mine again", b"one\nTWO\nthree\n"} <= found
    assert not os.path.exists(world.journal)
    assert not list(world.root.glob(".nono-restore-*"))


def test_what_was_edited_between_its_second_name_and_its_end_stays(world: World) -> None:
    replaced = [step.path for step in world.plan().steps if step.operation == steps.REPLACE]
    killed_in_the_middle(world, "link", replaced.index(b"edited") + 1)
    path = world.root / "edited"
    with open(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW), "wb") as file:
        file.write(b"my edit, in place")
    with pytest.raises(StoreError, match="was changed while it was being restored"):
        recover(world.journal)
    assert path.read_bytes() == b"my edit, in place"


def test_what_came_into_a_directory_as_it_went_stays(world: World) -> None:
    count, step = next(
        (count, step) for count, step in enumerate(world.plan().steps, 1) if step.path == b"new/in/depth"
    )
    killed_in_the_middle(world, "rename", count)
    (staging,) = world.root.glob(".nono-restore-*")
    (staging / f"old-{step.number}" / "mine").write_bytes(b"mine")  # by whoever works in it
    with pytest.raises(StoreError, match="was changed while it was being restored"):
        recover(world.journal)
    assert (world.root / "new/in/depth/mine").read_bytes() == b"mine"


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
