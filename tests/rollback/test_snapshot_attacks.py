"""snapshot.py on real trees: what is too much, what is done to a tree meanwhile, and what ends it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nono.errors import StoreError, UsageError
from nono.rollback import reading, snapshot
from nono.rollback.ignore import Rules
from nono.rollback.manifest import Manifest
from nono.rollback.objects import Stage, Store, Stored
from nono.rollback.snapshot import merge_roots, take
from tests.rollback.places import Place as Place
from tests.rollback.places import place as place


def test_what_is_too_large_is_refused_before_anything_is_stored(place: Place) -> None:
    for number in range(20):
        (place.tree / str(number)).write_bytes(os.urandom(1000))
    with pytest.raises(UsageError, match="--rollback-max-size"):
        place.take(max_bytes=19_000)
    assert list(place.store.digests()) == []
    assert sorted(os.listdir(place.path)) == ["store", "tree"]
    assert place.take(max_bytes=20_000).files == 20


def test_a_hole_of_100_gb_is_neither_too_large_nor_slow(place: Place) -> None:
    with open(place.tree / "sparse", "wb") as file:
        file.truncate(100 << 30)
    began = time.monotonic()
    taken = place.take(max_bytes=1 << 20)
    assert time.monotonic() - began < 5
    assert taken.total_bytes == 100 << 30
    assert os.stat(place.store.path(place.entries()[b"sparse"].digest)).st_blocks < 100


def test_a_file_that_grows_after_it_was_counted_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.tree / "file").write_bytes(b"x")
    real = snapshot._Taking._fill

    def grown(self: snapshot._Taking, *arguments: object) -> None:
        (place.tree / "file").write_bytes(bytes(range(256)) * 8000)
        real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshot._Taking, "_fill", grown)
    with pytest.raises(UsageError, match="grow"):
        place.take(max_bytes=1 << 20)
    assert list(place.store.digests()) == []
    assert sorted(os.listdir(place.path)) == ["store", "tree"]


def test_a_file_that_changes_while_it_is_read_is_read_again_then_noted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.tree / "busy").write_text("0")
    (place.tree / "calm").write_text("0")
    calm = (place.tree / "calm").stat().st_ino
    real = Stage.put
    times = {"busy": 0, "calm": 0}

    def put(self: Stage, fd: int, size: int) -> Stored:
        stored = real(self, fd, size)
        name = "calm" if os.fstat(fd).st_ino == calm else "busy"
        times[name] += 1
        if name == "busy" or times[name] == 1:
            (place.tree / name).write_text("x" * (times[name] + 1))
        return stored

    monkeypatch.setattr(Stage, "put", put)
    taken = place.take()
    assert times == {"busy": 3, "calm": 2}
    assert [(noted.path, noted.note) for noted in taken.notes] == [(os.fsencode(place.tree / "busy"), reading.CHANGED)]
    found = place.entries()
    assert place.contents(found[b"calm"]) == b"xx"
    assert found[b"busy"].note == reading.CHANGED
    assert found[b"busy"].size == len(place.contents(found[b"busy"]))
    monkeypatch.undo()
    place.wait()
    assert not place.take("two", "m").notes  # it is looked at again, though nothing says that it changed


def test_what_is_put_in_the_place_of_a_file_is_not_opened(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the walk and the reading, files become what must be neither followed nor opened."""
    tree = place.tree
    (place.path / "secret").write_text("secret")
    for name in ("link", "fifo", "directory", "gone", "d/x", "e/x", "kept"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("mine")
    (tree / "e" / "unread").symlink_to("x")
    real = snapshot._Taking._fill

    def swap(self: snapshot._Taking, *arguments: object) -> None:
        for name in ("link", "fifo", "directory", "gone", "d/x"):
            (tree / name).unlink()
        (tree / "link").symlink_to(place.path / "secret")
        os.mkfifo(tree / "fifo")
        (tree / "directory").mkdir()
        (tree / "d").rmdir()
        (tree / "d").symlink_to(place.path)
        (tree / "e").rename(place.path / "e")
        (tree / "e").symlink_to(place.path)
        real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshot._Taking, "_fill", swap)
    place.take()
    found = place.entries()
    assert {path: (entry.kind, entry.reason) for path, entry in found.items()} == {
        b"": ("dir", ""),
        b"d": ("link", ""),
        b"directory": ("dir", ""),
        b"e": ("link", ""),
        b"fifo": ("special", "special"),
        b"kept": ("file", ""),
        b"link": ("link", ""),
    }
    assert [place.store.verify(digest) for digest in place.store.digests()] == [True]


def test_swaps_without_end_leak_nothing(place: Place) -> None:
    """A neighbour swaps a file for a link and a directory for a link while snapshots are taken."""
    secret = "the secret that is elsewhere"
    (place.path / "secret").write_text(secret)
    (place.path / "away").mkdir()
    (place.path / "away" / "x").write_text(secret)
    (place.tree / "d").mkdir()
    (place.tree / "d" / "x").write_text("mine")
    stop = threading.Event()

    def swap() -> None:
        tree = place.tree
        while not stop.is_set():
            (tree / "f").symlink_to(place.path / "secret")
            (tree / "f").unlink()
            os.mkfifo(tree / "f")
            (tree / "f").unlink()
            (tree / "f").write_text("mine")
            (tree / "d").rename(tree / "was")
            (tree / "d").symlink_to(place.path / "away")
            (tree / "d").unlink()
            (tree / "was").rename(tree / "d")
            (tree / "f").unlink()

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        end = time.monotonic() + 1
        number = 0
        while time.monotonic() < end:
            number += 1
            place.take(f"m{number}")
            place.entries(f"m{number}")
    finally:
        stop.set()
        thread.join()
    for digest in place.store.digests():
        with open(place.store.open(digest), "rb") as file:
            assert secret.encode() not in file.read()


def test_a_fifo_neither_blocks_nor_wakes_its_writer(place: Place) -> None:
    os.mkfifo(place.tree / "fifo")
    writer = subprocess.Popen([sys.executable, "-c", f"open({str(place.tree / 'fifo')!r}, 'w')"])
    try:
        time.sleep(0.1)
        assert place.take().left_out[0].reason == "special"
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()


def test_final_snapshots_keep_the_rules_of_the_baseline(place: Place) -> None:
    pytest.importorskip("pathspec")
    (place.tree / ".gitignore").write_text("*.log\n")
    (place.tree / "a.log").write_text("")
    (place.tree / "code").write_text("")
    first = place.take("one")
    assert [(noted.path, noted.note) for noted in first.left_out] == [
        (os.fsencode(place.tree / "a.log"), "by .gitignore")
    ]
    (place.tree / ".gitignore").write_text("*\n")
    (place.tree / "code").write_text("planted")
    second = place.take("two", "one", gitignore=first.gitignore)
    assert second.left_out == first.left_out
    assert place.contents(place.entries("two")[b"code"]) == b"planted"


def test_exclusions_are_listed_by_name(place: Place) -> None:
    for name in ("node_modules", "private"):
        (place.tree / name).mkdir()
        (place.tree / name / "x").write_text("")
    taken = place.take(rules=Rules(exclude=("private",)), never=[os.fsencode(place.path / "store")])
    assert [(os.path.basename(noted.path), noted.note) for noted in taken.left_out] == [
        (b"node_modules", "by default: node_modules"),
        (b"private", "by the rule private"),
    ]
    assert taken.left_out_count == 2
    assert taken.files == 0


def test_the_store_in_the_tree_does_not_store_itself(place: Place) -> None:
    inner = Store(str(place.tree / "state"))
    (place.tree / "file").write_text("x")
    taken = take([os.fsencode(place.tree)], inner, str(place.path / "m"), never=[os.fsencode(inner.directory)])
    assert taken.files == 1


def test_several_roots_are_merged_and_each_is_there(place: Place) -> None:
    assert merge_roots([b"/b/c", b"/b", b"/b-c", b"/a", b"/b"]) == (b"/a", b"/b", b"/b-c")
    assert merge_roots([b"/x", b"/"]) == (b"/",)
    (place.tree / "d").mkdir()
    (place.tree / "d" / "f").write_text("1")
    (place.path / "single").write_text("22")
    roots = [os.fsencode(path) for path in (place.tree / "d", place.tree, place.path / "single", place.path / "absent")]
    taken = take(roots, place.store, str(place.path / "m"))
    assert [root.path for root in taken.roots] == sorted([roots[1], roots[2], roots[3]])
    assert [(root.files, bool(root.digest)) for root in taken.roots] == [(0, False), (1, True), (1, True)]
    with Manifest(taken.path) as manifest:
        single = next(manifest.entries(1))
    assert (single.path, place.contents(single)) == (b"", b"22")


def test_progress_is_told(place: Place) -> None:
    for number in range(1500):
        (place.tree / str(number)).write_text("ab")
    told: list[tuple[int, int]] = []
    place.take(progress=lambda done, total: told.append((done, total)))
    assert told[0] == (1024, 0)
    assert told[-1] == (3000, 3000)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_the_user_may_not_read_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            place = Place(tmp_path)
            (place.tree / "mine").write_text("x")
            (place.tree / "closed").write_text("x")
            (place.tree / "closed").chmod(0)
            taken = place.take()
            found = place.entries()
            noted = taken.left_out[0]
            assert (os.path.basename(noted.path), noted.reason) == (b"closed", "unreadable")
            assert found[b"closed"].digest == ""
            assert found[b"mine"].digest
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_root_that_cannot_be_read_stops_it(place: Place) -> None:
    (place.path / "link").symlink_to(place.tree)
    with pytest.raises(StoreError, match="cannot be read"):
        take([os.fsencode(place.path / "link")], place.store, str(place.path / "m"))


def test_depth_and_odd_names_come_through(place: Place) -> None:
    fd = os.open(place.tree, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    file = os.open(b"a\nb\t\\\xff", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.write(file, b"deep")
    os.close(file)
    os.close(fd)
    try:
        place.take()
        entry = place.entries()[b"/".join([b"d"] * 2500) + b"/a\nb\t\\\xff"]
        assert place.contents(entry) == b"deep"
        assert place.take("two", "m").files == 1
    finally:
        subprocess.run(["rm", "-rf", place.tree / "d"], check=True)


def test_killed_anywhere_it_leaves_no_manifest_and_no_torn_object(place: Place) -> None:
    for number in range(300):
        (place.tree / str(number)).write_bytes(b"%d" % number * 100)
    whole = 0
    for attempt in range(25):
        pid = os.fork()
        if not pid:
            signal.setitimer(signal.ITIMER_REAL, 0.002 * (attempt + 1))  # SIGALRM ends it, as SIGKILL would
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            place.take(f"m{attempt}")
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert all(place.store.verify(digest) for digest in place.store.digests())
        if (place.path / f"m{attempt}").exists():
            whole += 1
            assert len(place.entries(f"m{attempt}")) == 301
            assert all(place.store.has(entry.digest) for entry in place.entries(f"m{attempt}").values() if entry.digest)
        else:
            assert not ended
    assert whole < 25
    place.take("last")
    removed, _ = place.store.collect(lambda: [str(place.path / "last")])
    assert removed == 0
    assert os.listdir(place.path / "store" / "staging") == []


def test_sessions_at_once_share_a_store(place: Place) -> None:
    for number in range(200):
        (place.tree / str(number)).write_bytes(b"%d" % number * 100)
    pids = []
    for process in range(4):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                place.take(f"m{process}")
                place.store.collect(lambda: [str(path) for path in place.path.glob("m?")])
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 4
    for process in range(4):
        assert all(place.store.verify(entry.digest) for entry in place.entries(f"m{process}").values() if entry.digest)


def test_memory_does_not_grow_with_the_tree(place: Place) -> None:
    """40,000 names in one directory: the bench has the million."""
    for number in range(40_000):
        os.close(os.open(place.tree / f"a-name-of-some-length-{number}", os.O_CREAT | os.O_WRONLY))
    pid = os.fork()
    if not pid:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        place.take()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os._exit(min(grown >> 10, 250))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) < 12  # MiB
