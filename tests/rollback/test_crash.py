"""A snapshot that ends anywhere: killed at each call that changes something, or refused by the disk there.

Every call of `os` by which the store or the manifest is changed is a failpoint; each is tried in a process of its own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nono.errors import StoreError
from nono.rollback import objects, sessions
from nono.rollback.manifest import Manifest
from nono.rollback.objects import Store
from nono.rollback.snapshot import take
from nono.rollback.tree import UNREADABLE

CALLS = ("open", "write", "pwrite", "rename", "mkdir", "unlink", "rmdir", "fsync", "ftruncate", "copy_file_range")


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A directory whose file system has nothing to sync, where there is one."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def make(tree: Path) -> None:
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "small").write_bytes(b"small")
    (tree / "large").write_bytes(random.Random(1).randbytes(400_000))
    (tree / "link").symlink_to("large")


def run(tree: Path, store_path: Path, at: int, stop: Callable[[], None]) -> int:
    """Take a snapshot in a process of its own; stop is called at that call. How many there were, or -1."""
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        count = 0

        def failing(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal count
                if Path(str(arguments[0])).is_relative_to("/proc"):
                    return real(*arguments, **named)
                count += 1
                if count == at:
                    stop()
                return real(*arguments, **named)

            return call

        for name in CALLS:
            setattr(os, name, failing(getattr(os, name)))
        objects._COPY_FILE_RANGE = os.copy_file_range
        objects.sync_file_system = failing(objects.sync_file_system)
        try:
            store = Store(str(store_path))
            session = sessions.create(store.directory, "one", {})
            take([os.fsencode(tree)], store, session.baseline)
            os.fdopen(writes, "w").write(str(count))
        except StoreError:
            os._exit(7)
        except BaseException:  # noqa: BLE001 (a forked test must not go on)
            traceback.print_exc()
            os._exit(8)
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as file:
        told = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 7, 9), status
    return int(told or "-1")


def check(store_path: Path, kept: str, entries: int) -> bool:
    """What there is is whole: whether there is a baseline."""
    store = Store(str(store_path))
    assert all(store.verify(digest) for digest in store.digests())
    assert store.has(kept)
    whole = False
    for session in sessions.sessions(store.directory):
        whole = session.whole
        if whole:
            with Manifest(session.baseline) as manifest:
                manifest.verify()
                found = list(manifest.entries(0))
            assert len(found) == entries or any(
                entry.reason == UNREADABLE for entry in found
            )  # what failed was the tree
            assert all(store.verify(entry.digest) for entry in found if entry.digest)
    return whole


def settle(tree: Path, store_path: Path) -> None:
    """After whatever happened, a next session works, and nothing is left behind."""
    store = Store(str(store_path))
    session = sessions.create(store.directory, "two", {})
    take([os.fsencode(tree)], store, session.baseline)
    for other in list(sessions.sessions(store.directory)):
        if not other.whole:
            sessions.remove(other)
    store.collect(lambda: sessions.manifests(store.directory))
    assert os.listdir(store_path / "staging") == []
    assert len(list(store.digests())) == 2


@pytest.mark.parametrize("how", ["killed", errno.ENOSPC, errno.EROFS, errno.EIO])
def test_wherever_it_ends_what_is_there_is_whole(quick_path: Path, how: str | int) -> None:
    tree = quick_path / "tree"
    make(tree)

    def stop() -> None:
        if how == "killed":
            os._exit(9)
        raise OSError(how, os.strerror(int(how)))

    total = run(tree, quick_path / "count", -1, stop)
    assert total > 20
    ends = set()
    for at in range(1, total + 1):
        store_path = quick_path / f"store-{at}"
        with Store(str(store_path)).stage() as stage:
            kept = stage.put_bytes(b"from a session before").digest
            stage.commit()
        run(tree, store_path, at, stop)
        ends.add(check(store_path, kept, 5))
        settle(tree, store_path)
    assert False in ends


def _mount(target: Path, options: str, flags: int = 0) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.mount(b"tmpfs", os.fsencode(target), b"tmpfs", flags, options.encode()) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_disk_that_is_really_full_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if not _mount(disk, "size=1m,mode=700"):
        pytest.skip("CAP_SYS_ADMIN is missing")
    try:
        tree = tmp_path / "tree"
        tree.mkdir()
        (tree / "first").write_text("first")
        store = Store(str(disk / "store"))
        take([os.fsencode(tree)], store, str(disk / "one"))
        for number in range(20):
            (tree / str(number)).write_bytes(os.urandom(100_000))
        with pytest.raises(StoreError, match="No space left on device; free some"):
            take([os.fsencode(tree)], store, str(disk / "two"), previous=str(disk / "one"))
        assert sorted(os.listdir(disk)) == ["one", "store"]
        with Manifest(str(disk / "one")) as manifest:
            manifest.verify()
            assert all(store.verify(entry.digest) for entry in manifest.entries(0) if entry.digest)
        for number in range(20):
            (tree / str(number)).unlink()
        take([os.fsencode(tree)], store, str(disk / "two"), previous=str(disk / "one"))
        assert libc.mount(None, os.fsencode(disk), None, 32 | 1, None) == 0  # MS_REMOUNT, MS_RDONLY
        with pytest.raises(StoreError, match="Read-only file system"):
            take([os.fsencode(tree)], store, str(disk / "three"))
        assert sorted(os.listdir(disk)) == ["one", "store", "two"]
    finally:
        libc.umount2(os.fsencode(disk), 2)
