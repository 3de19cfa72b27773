"""objects.py: contents go in whole or not at all, once, and what nobody names goes."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import threading
from pathlib import Path

import pytest

from nono.errors import StoreError
from nono.rollback import objects
from nono.rollback.manifest import Writer
from nono.rollback.objects import Stage, Stopped, Store, copy, hash_of
from nono.rollback.tree import Entry


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def put(stage: Stage, path: Path) -> str:
    fd = os.open(path, os.O_RDONLY)
    try:
        return stage.put(fd, os.fstat(fd).st_size).digest
    finally:
        os.close(fd)


def contents(store: Store, digest: str) -> bytes:
    with open(store.open(digest), "rb") as file:
        return file.read()


@pytest.mark.parametrize("size", [0, 1, 4096, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 3_000_001])
def test_contents_go_in_and_come_out(tmp_path: Path, store: Store, size: int) -> None:
    data = (b"0123456789abcdef\0\xff" * (size // 18 + 1))[:size]
    (tmp_path / "file").write_bytes(data)
    with store.lock(), store.stage() as stage:
        digest = put(stage, tmp_path / "file")
        assert not store.has(digest)  # not before it is on the disk
        stage.commit()
    assert digest == hashlib.sha256(data).hexdigest()
    assert contents(store, digest) == data
    assert store.verify(digest)
    assert store.holds(digest, size)
    mode = os.stat(store.path(digest)).st_mode & 0o777
    assert mode == 0o400


def test_everything_is_the_users_alone(store: Store) -> None:
    with store.lock(), store.stage() as stage:
        stage.put_bytes(b"x")
        stage.commit()
    for top, directories, files in os.walk(store.directory):
        for name in (*directories, *files):
            assert not os.stat(os.path.join(top, name)).st_mode & 0o077


def test_a_store_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(StoreError, match="open to others"):
        Store(str(tmp_path / "open"))


def test_what_is_there_is_not_written_again(tmp_path: Path, store: Store) -> None:
    for name, size in (("small", 10), ("large", 1 << 20)):
        (tmp_path / name).write_bytes(os.urandom(size))
    for expected in (True, False):
        with store.lock(), store.stage() as stage:
            for name in ("small", "large"):
                fd = os.open(tmp_path / name, os.O_RDONLY)
                assert bool(stage.put(fd, os.fstat(fd).st_size).written) == expected
                os.close(fd)
            assert not stage.put_bytes((tmp_path / "small").read_bytes()).written
            stage.commit()
    assert len(list(store.digests())) == 2


def test_an_object_that_was_cut_is_put_anew(store: Store) -> None:
    for _ in range(2):
        with store.lock(), store.stage() as stage:
            digest = stage.put_bytes(b"whole").digest
            stage.commit()
        assert store.verify(digest)
        os.chmod(store.path(digest), 0o600)
        os.truncate(store.path(digest), 2)
        assert not store.verify(digest)


def test_what_was_not_committed_leaves_nothing(tmp_path: Path, store: Store) -> None:
    (tmp_path / "large").write_bytes(os.urandom(1 << 20))
    with store.lock(), store.stage() as stage:
        stage.put_bytes(b"x")
        put(stage, tmp_path / "large")
    assert list(store.digests()) == []
    assert os.listdir(tmp_path / "store" / "staging") == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_stays(store: Store) -> None:
    pid = os.fork()
    if not pid:
        store.stage().put_bytes(b"x")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    staging = os.path.join(store.directory, "staging")
    assert len(os.listdir(staging)) == 1
    with store.stage() as stage:
        stage.put_bytes(b"y")
        store.collect(list)
        assert [os.path.join(staging, name) for name in os.listdir(staging)] == [stage.directory]


def test_a_sparse_file_stays_sparse_and_is_hashed_at_once(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(100 << 30)
        file.seek(50 << 30)
        file.write(b"in the middle")
    with store.lock(), store.stage() as stage:
        digest = put(stage, path)
        stage.commit()
    found = os.stat(store.path(digest))
    assert found.st_size == 100 << 30
    assert found.st_blocks * 512 < 1 << 20
    fd = store.open(digest)
    assert os.pread(fd, 13, 50 << 30) == b"in the middle"
    assert store.verify(digest)
    os.close(fd)
    with open(path, "r+b") as file:  # the same bytes, of which fewer are holes
        file.seek(10 << 30)
        file.write(bytes(1 << 20))
    with store.lock(), store.stage() as stage:
        assert put(stage, path) == digest
    with open(path, "r+b") as file:
        file.seek(10 << 30)
        file.write(b"1")
    with store.lock(), store.stage() as stage:
        assert put(stage, path) != digest


def test_small_holes_are_kept_and_hashed_as_zeros(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.write(b"a")
        file.truncate(8 << 20)
    with store.lock(), store.stage() as stage:
        digest = put(stage, path)
        stage.commit()
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert os.stat(store.path(digest)).st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("has_call", [True, False])
def test_copies_with_and_without_the_kernels_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_call: bool
) -> None:
    if not has_call:
        monkeypatch.setattr(objects, "_COPY_FILE_RANGE", None)
    monkeypatch.setattr(objects, "clone", lambda source, target: False)
    with open(tmp_path / "from", "wb") as file:
        file.write(os.urandom(3 << 20))
        file.truncate(6 << 20)
        file.seek(5 << 20)
        file.write(b"end")
    source = os.open(tmp_path / "from", os.O_RDONLY)
    target = os.open(tmp_path / "to", os.O_RDWR | os.O_CREAT)
    assert copy(source, target) == 6 << 20
    assert (tmp_path / "to").read_bytes() == (tmp_path / "from").read_bytes()
    assert hash_of(source, 6 << 20) == hash_of(target, 6 << 20)
    os.close(source)
    os.close(target)


def test_where_files_can_be_cloned_nothing_is_copied(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file system here may be able to: the ioctl is played by one that writes."""
    (tmp_path / "file").write_bytes(os.urandom(1 << 20))

    def cloned(source: int, target: int) -> bool:
        return os.write(target, os.pread(source, 1 << 21, 0)) > 0

    monkeypatch.setattr(objects, "clone", cloned)
    monkeypatch.setattr(objects, "_copy_range", None)
    with store.lock(), store.stage() as stage:
        digest = put(stage, tmp_path / "file")
        stage.commit()
    assert contents(store, digest) == (tmp_path / "file").read_bytes()


def test_a_device_that_cannot_clone_is_asked_once(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(objects, "clone", lambda source, target: bool(asked.append(source)))
    with store.lock(), store.stage() as stage:
        for number in range(3):
            (tmp_path / "file").write_bytes(bytes([number]) * (1 << 20))
            put(stage, tmp_path / "file")
    assert len(asked) == 1


def test_copying_and_hashing_end_when_they_are_no_longer_wanted(tmp_path: Path, store: Store) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    with store.lock(), store.stage() as stage:
        stage.stop.asked = True
        with pytest.raises(Stopped):
            put(stage, tmp_path / "file")
        assert os.listdir(stage.directory) == []


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_full_disk_is_said_and_loses_nothing(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    with store.lock(), store.stage() as stage:
        kept = stage.put_bytes(b"kept").digest
        stage.commit()
    (tmp_path / "file").write_bytes(os.urandom(size))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(objects, "_COPY_FILE_RANGE", full)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="--rollback-dest"):
        with store.lock(), store.stage() as stage:
            put(stage, tmp_path / "file")
    assert list(store.digests()) == [kept]
    assert os.listdir(tmp_path / "store" / "staging") == []


def _manifest(path: Path, *digests: str) -> str:
    with open(path, "wb") as file:
        writer = Writer(file)
        writer.begin_root(b"/r")
        writer.add(Entry(b"", "dir"))
        for number, digest in enumerate(digests):
            writer.add(Entry(b"%03d" % number, "file", digest=digest))
        writer.finish(0)
    return str(path)


@pytest.mark.parametrize("at_a_time", [1, 3, 200_000])
def test_garbage_is_what_no_manifest_names(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    monkeypatch.setattr(objects, "_AT_A_TIME", at_a_time)
    with store.lock(), store.stage() as stage:
        digests = sorted(stage.put_bytes(b"%d" % number).digest for number in range(20))
        stage.commit()
    names = [_manifest(tmp_path / "a", *digests[:5]), _manifest(tmp_path / "b", *digests[3:9])]
    removed, freed = store.collect(lambda: names)
    assert removed == 11
    assert freed > 0
    assert sorted(store.digests()) == digests[:9]


def test_nothing_is_removed_while_a_manifest_cannot_be_read(tmp_path: Path, store: Store) -> None:
    with store.lock(), store.stage() as stage:
        stage.put_bytes(b"x")
        stage.commit()
    (tmp_path / "torn").write_bytes(b"nono snapshot 1\n")
    with pytest.raises(StoreError):
        store.collect(lambda: [str(tmp_path / "torn")])
    assert len(list(store.digests())) == 1


def test_garbage_is_not_looked_for_while_somebody_stores(store: Store) -> None:
    with store.lock(), store.lock():
        with pytest.raises(StoreError, match="another nono"):
            store.lock(alone=True, wait=False)
    with store.lock(alone=True), pytest.raises(StoreError, match="another nono"):
        store.lock(wait=False)


def test_threads_may_put_the_same_at_once(tmp_path: Path, store: Store) -> None:
    paths = []
    for number in range(6):
        path = tmp_path / str(number)
        path.write_bytes(bytes([number % 2]) * (1 << 20 if number < 4 else 50))
        paths.append(path)
    with store.lock(), store.stage() as stage:
        threads = [threading.Thread(target=lambda: [put(stage, path) for path in paths]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stage.commit()
    assert len(list(store.digests())) == 4
    assert all(store.verify(digest) for digest in store.digests())
