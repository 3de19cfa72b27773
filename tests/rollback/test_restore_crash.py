"""Restore: all of it, or nothing of it, whatever happens on the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nono.errors import StoreError
from nono.rollback import steps
from nono.rollback.journal import Journal
from nono.rollback.restore import recover
from tests.rollback.killing import (
    World,
    again,
    as_nobody,
    check_outcome,
    clear,
    in_child,
    in_memory,
    interrupt,
    killed_at_each,
)
from tests.rollback.trees import picture


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_ordinary_user_can_be_killed_too() -> None:
    def everything(home: Path) -> None:
        killed_at_each(World(home), step=4)

    as_nobody(everything)


@pytest.fixture(scope="module")
def template() -> Iterator[World]:
    """In memory: a thousand crashes sync often."""
    path = in_memory()
    try:
        yield World(path)
    finally:
        clear(path)


def test_killed_at_any_call_and_run_again_it_is_done_or_never_was(template: World) -> None:
    killed_at_each(template)


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
    return next(
        number
        for number, step in enumerate(renamed, 1)
        if step.path == path and step.operation in (steps.REPLACE, steps.PLACE)
    )


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


@pytest.mark.parametrize("rest", [bytes(4096), b'{"root":0,"step":["rem', b'{"root":7,"directory":[]}\n', b"\xff\n"])
def test_what_power_took_of_a_journal_that_was_not_synced_does_not_count(world: World, rest: bytes) -> None:
    def begin() -> None:
        Journal.go_on = lambda journal, state: os._exit(0)  # type: ignore[method-assign]
        world.restore()

    assert in_child(begin) == 0
    journal = Path(world.journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: len(lines) // 2]) + rest)
    assert recover(world.journal) == "reverted"
    assert picture(world.root) == world.state
    journal.write_bytes(b"".join([b"applying       \n", *lines[1:5], rest]))  # what was synced, and is not whole
    with pytest.raises(StoreError, match="is damaged"):
        recover(world.journal)
    journal.unlink()
    world.restore()
    assert picture(world.root) == world.baseline
