"""snapshot.py on real trees: what is taken, and what is taken from before."""

from __future__ import annotations

import os
import random
import shutil
import threading
from pathlib import Path

import pytest

from nono.rollback import reading, snapshot
from nono.rollback.tree import Entry
from tests.rollback.places import Place as Place
from tests.rollback.places import place as place


def watched_reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list to which each path is added when it is read."""
    read: list[bytes] = []
    real = reading.Reader.read

    def spy(self: reading.Reader, path: bytes) -> Entry | None:
        read.append(path)
        return real(self, path)

    monkeypatch.setattr(reading.Reader, "read", spy)
    return read


def test_everything_that_can_be_restored_is_in_it(place: Place) -> None:
    tree = place.tree
    (tree / "file").write_bytes(b"contents")
    (tree / "file").chmod(0o4751)
    os.utime(tree / "file", ns=(1, 1_234_567_890_123_456_789))
    (tree / "link").symlink_to(b"to\xff\nnowhere")
    (tree / "empty").mkdir(0o700)
    (tree / ".git").mkdir()
    (tree / ".git" / "HEAD").write_text("ref")
    os.link(tree / "file", tree / "hard")
    os.setxattr(tree / "file", "user.note", b"\0\xff")
    os.setxattr(tree / "empty", "user.of", b"a directory")
    taken = place.take()
    found = place.entries()
    file = found[b"file"]
    assert (file.kind, file.mode, file.mtime_ns, file.size) == ("file", 0o4751, 1_234_567_890_123_456_789, 8)
    assert file.xattrs == ((b"user.note", b"\0\xff"),)
    assert place.contents(file) == b"contents"
    assert found[b"link"].target == b"to\xff\nnowhere"
    assert (found[b"empty"].kind, found[b"empty"].mode) == ("dir", 0o700)
    assert found[b"empty"].xattrs == ((b"user.of", b"a directory"),)
    assert found[b".git/HEAD"].digest
    hard = found[b"hard"]
    assert (hard.device, hard.inode, hard.links) == (file.device, file.inode, 2)
    assert (taken.files, taken.total_bytes, taken.written) == (3, 19, 11)
    assert not taken.left_out
    assert not taken.notes


def test_without_o_path_it_is_the_same(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, as far as it can be played here."""
    (place.tree / "d").mkdir()
    (place.tree / "d" / "file").write_text("x")
    (place.tree / "link").symlink_to("file")
    first = place.take("one")
    monkeypatch.setattr(reading, "O_PATH", os.O_RDONLY)
    second = place.take("two")
    assert place.entries("two") == place.entries("one")
    assert second.root == first.root


def test_attributes_that_cannot_be_kept_are_noted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MAX_XATTR_BYTES", 10)
    (place.tree / "file").write_text("x")
    os.setxattr(place.tree / "file", "user.a", b"12345")
    os.setxattr(place.tree / "file", "user.b", b"123456")
    taken = place.take()
    assert place.entries()[b"file"].xattrs == ((b"user.a", b"12345"),)
    assert "too large" in taken.notes[0].note


def test_what_is_unchanged_is_not_read_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "d/c", "d/e/f"):
        (place.tree / name).parent.mkdir(parents=True, exist_ok=True)
        (place.tree / name).write_text(name)
    (place.tree / "l").symlink_to("a")
    place.wait()
    first = place.take("one")
    read = watched_reads(monkeypatch)
    again = place.take("two", "one")
    assert read == []
    assert (again.root, again.files, again.written) == (first.root, first.files, 0)
    assert (place.path / "one").read_bytes().split(b'{"roots"')[0] == (place.path / "two").read_bytes().split(
        b'{"roots"'
    )[0]
    (place.tree / "d" / "c").write_text("!")
    (place.tree / "d" / "e" / "g").write_text("new")
    (place.tree / "b").unlink()
    third = place.take("three", "two")
    assert sorted(read) == [b"", b"d/c", b"d/e", b"d/e/g"]
    assert third.root != first.root
    found = place.entries("three")
    assert set(found) == {b"", b"a", b"d", b"d/c", b"d/e", b"d/e/f", b"d/e/g", b"l"}
    assert place.contents(found[b"d/c"]) == b"!"
    assert found[b"a"] == place.entries("one")[b"a"]


def _some_change(source: random.Random, tree: Path) -> None:
    """One thing that a user, or an agent, might do."""
    found = [Path(top) / name for top, directories, files in os.walk(tree) for name in (*directories, *files)]
    directories = [tree, *(path for path in found if path.is_dir() and not path.is_symlink())]
    path = source.choice(directories) / source.choice(["a", "a.b", "a-", "b", "c", "a\n", "\udcff"])
    match source.choice(["write", "write", "mkdir", "mkdir", "link", "remove", "rename", "chmod", "hard"]):
        case "write" if not path.is_dir():
            path.unlink(missing_ok=True)
            path.write_bytes(source.randbytes(source.randint(0, 3)))
        case "mkdir" if not path.exists() and not path.is_symlink():
            path.mkdir()
        case "link" if not path.exists() and not path.is_symlink():
            path.symlink_to(source.choice(["a", "/nowhere", ".."]))
        case "remove" if found:
            gone = source.choice(found)
            shutil.rmtree(gone) if gone.is_dir() and not gone.is_symlink() else gone.unlink()
        case "rename" if found:
            moved = source.choice(found)
            if not path.exists() and not path.is_symlink() and moved not in path.parents:
                moved.rename(path)
        case "chmod" if found and not source.choice(found).is_symlink():
            source.choice([each for each in found if not each.is_symlink()]).chmod(source.choice([0o700, 0o755]))
        case "hard" if not path.exists() and not path.is_symlink():
            files = [each for each in found if each.is_file() and not each.is_symlink()]
            if files:
                os.link(source.choice(files), path)


@pytest.mark.parametrize("seed", range(12))
def test_with_and_without_the_one_before_it_is_the_same_snapshot(place: Place, seed: int) -> None:
    source = random.Random(seed)
    names = ["m0"]
    place.take("m0")
    for number in range(1, 12):
        for _ in range(source.randint(0, 8)):
            _some_change(source, place.tree)
        if source.random() < 0.3:
            place.wait()
        one = place.take(f"m{number}", source.choice(names))
        other = place.take("other")
        assert place.entries(f"m{number}") == place.entries("other")
        assert one.root == other.root
        assert (one.files, one.total_bytes) == (other.files, other.total_bytes)
        names.append(f"m{number}")


def test_an_interrupt_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2000):
        (place.tree / str(number)).write_text(str(number))

    def interrupted(batch: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(snapshot, "_wait", interrupted)
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        place.take()
    assert threading.active_count() == threads
    assert sorted(os.listdir(place.path)) == ["store", "tree"]
    assert list(place.store.digests()) == []
    assert os.listdir(place.path / "store" / "staging") == []


def test_a_change_that_hides_its_time_and_size_is_seen(place: Place) -> None:
    path = place.tree / "file"
    path.write_text("aaaa")
    os.utime(path, ns=(5, 5))
    place.wait()
    first = place.take("one")
    path.write_text("bbbb")
    os.utime(path, ns=(5, 5))
    assert place.take("two", "one").root != first.root
    assert place.contents(place.entries("two")[b"file"]) == b"bbbb"


def test_a_file_written_in_the_tick_in_which_it_was_read_is_read_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written right after it was read, in one tick and of one size, looks as it did (not on a kernel that gives
    each change that was looked at a time of its own, as Linux 6.13 does)."""
    (place.tree / "file").write_text("aaaa")
    place.take("one")
    read = watched_reads(monkeypatch)
    place.wait()
    place.take("two", "one")
    assert read == [b"", b"file"]
    place.take("three", "two")
    assert read == [b"", b"file"]
    os.utime(place.tree / "file")
    monkeypatch.setattr(
        snapshot.time, "time_ns", lambda: 5
    )  # a clock that was set back: no time of change is before it
    place.take("four", "three")
    place.take("five", "four")
    assert read == [b"", b"file", b"file", b"", b"file"]


def test_an_object_that_went_is_stored_again(place: Place) -> None:
    (place.tree / "file").write_text("x")
    place.wait()
    place.take("one")
    digest = place.entries("one")[b"file"].digest
    os.unlink(place.store.path(digest))
    place.take("two", "one")
    assert place.store.verify(digest)


def test_a_damaged_manifest_from_before_costs_time_and_nothing_else(place: Place) -> None:
    (place.tree / "file").write_text("x")
    (place.path / "one").write_bytes(b"nonsense")
    assert place.take("two", "one").files == 1
