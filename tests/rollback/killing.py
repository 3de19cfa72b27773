"""A tree with a restore to do, in a process of its own that is killed on the way."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nono.rollback.planning import plan
from nono.rollback.restore import Restore, recover
from nono.rollback.steps import Plan
from tests.rollback.trees import Contents, Picture, grow, picture, ravage

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


def as_nobody(run: Callable[[Path], None]) -> None:
    """Run it as an ordinary user, in a directory of his, where that can be; as ourselves, where we are one."""
    home = in_memory()  # pytest's own directories are closed to others, now and then
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


def in_memory() -> Path:
    """A new directory where nothing waits for a disk, if that has all that a tree needs."""
    path = Path(tempfile.mkdtemp(prefix="nono-test-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    if not has_xattrs(path):
        path.rmdir()
        path = Path(tempfile.mkdtemp(prefix="nono-test-"))
    return path


def has_xattrs(directory: Path) -> bool:
    try:
        os.setxattr(directory, "user.test", b"")
    except OSError:
        return False
    return True


@pytest.fixture
def memory() -> Iterator[Path]:
    """`in_memory`, for a test."""
    path = in_memory()
    try:
        yield path
    finally:
        clear(path)


def clear(path: Path) -> None:
    """Remove a tree, also one with directories that are closed."""
    for directory, _, _ in os.walk(path):
        os.chmod(directory, 0o755)
    if path.exists():
        shutil.rmtree(path)


def again(template: World) -> None:
    """Put the template's tree back to what it was after the session, whatever is there."""
    clear(template.root)
    if os.path.exists(template.journal):
        os.unlink(template.journal)
    grow(template.root)
    ravage(template.root)
    template.after = template.contents.listing(template.root)
    template.state = picture(template.root)


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


def check_is_one(ended: str, found: Picture, baseline: Picture, state: Picture, at: int) -> None:
    """What is there is one of the two, and the one that was said."""
    if ended == "restored":
        assert found == baseline, at
    elif ended == "reverted":
        assert found == state, at
    else:  # before the journal was there, or after it had gone
        assert found in (state, baseline), at


def check_outcome(template: World, at: int) -> None:
    ended = recover(template.journal)
    found = picture(template.root)
    check_is_one(ended, found, template.baseline, template.state, at)
    assert recover(template.journal) == ""
    if found != template.baseline:
        template.after = template.contents.listing(template.root)
        template.restore()
        assert picture(template.root) == template.baseline, at
