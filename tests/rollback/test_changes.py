"""changes.py: what differs between two listings, and how it is shown."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nono.rollback import changes
from nono.rollback.changes import Change, between, compare, merge, unified_diff
from nono.rollback.objects import Store
from nono.rollback.tree import Entry, sort_key

FILE = Entry(b"f", "file", 0o644, 1, 2, 3, 4, 5, 1, "ab" * 32)
PATHS = st.sets(st.sampled_from([b"", b"a", b"a/b", b"a.b", b"a/b/c", b"b", b"a\x01", b"a0", b"\xff"]))


def listing(paths: set[bytes], size: int = 0) -> list[Entry]:
    return [Entry(path, "file", size=size) for path in sorted(paths, key=sort_key)]


@given(PATHS, PATHS)
def test_merging_pairs_each_path_once_and_in_order(ours: set[bytes], theirs: set[bytes]) -> None:
    pairs = list(merge(listing(ours, 1), listing(theirs, 2)))
    found = [(left or right) for left, right in pairs]
    assert [entry.path for entry in found if entry] == sorted(ours | theirs, key=sort_key)
    assert {left.path for left, _ in pairs if left} == ours
    assert {right.path for _, right in pairs if right} == theirs
    assert all(left.path == right.path for left, right in pairs if left and right)


@given(PATHS, PATHS)
def test_changes_applied_to_what_was_make_what_is(ours: set[bytes], theirs: set[bytes]) -> None:
    before, after = listing(ours, 1), listing(theirs, 2)
    state = {entry.path: entry for entry in before}
    for change in between(before, after):
        assert state.get(change.path) == change.before
        if change.after:
            state[change.path] = change.after
        else:
            del state[change.path]
    assert state == {entry.path: entry for entry in after}
    assert list(between(before, before)) == []


@pytest.mark.parametrize(
    ("after", "kind"),
    [
        (FILE, ""),
        (FILE._replace(ctime_ns=9, device=9, inode=9, links=2, note="x"), ""),
        (FILE._replace(digest="cd" * 32), "modified"),
        (FILE._replace(digest="cd" * 32, mode=0), "modified"),
        (FILE._replace(mode=0o755), "mode"),
        (FILE._replace(xattrs=((b"user.a", b"b"),)), "mode"),
        (FILE._replace(mtime_ns=9), "time"),
        (FILE._replace(kind="link", target=b"x", size=0), "type"),
        (FILE._replace(reason="excluded"), "modified"),
        (None, "removed"),
    ],
)
def test_what_counts_is_what_can_be_put_back(after: Entry | None, kind: str) -> None:
    assert compare(FILE, after) == kind
    assert bool(compare(after, FILE)) == bool(kind)


def test_a_directorys_time_and_a_links_mode_do_not_count() -> None:
    directory, link = Entry(b"d", "dir", 0o755, 1), Entry(b"l", "link", 0o777, 1, target=b"x")
    assert compare(directory, directory._replace(mtime_ns=2)) == ""
    assert compare(directory, directory._replace(mode=0o700)) == "mode"
    assert compare(link, link._replace(mode=0o700, mtime_ns=2)) == ""
    assert compare(link, link._replace(target=b"y")) == "modified"
    excluded = Entry(b"e", "dir", reason="excluded")
    assert compare(excluded, excluded._replace(mtime_ns=7)) == ""
    assert compare(None, excluded) == "added"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def change(store: Store, before: bytes | None, after: bytes | None) -> Change:
    sides = []
    for data in (before, after):
        if data is None:
            sides.append(None)
            continue
        with store.lock(), store.stage() as stage:
            stored = stage.put_bytes(data)
            stage.commit()
        sides.append(Entry(b"f", "file", size=len(data), digest=stored.digest))
    return Change("modified", 0, b"f", *sides)


TEXTS = st.text("ab\n", max_size=60).map(str.encode)


@pytest.mark.skipif(not shutil.which("patch"), reason="patch is not installed")
@settings(deadline=None)  # it starts a process
@given(TEXTS, TEXTS)
def test_a_difference_can_be_applied(tmp_path_factory: pytest.TempPathFactory, before: bytes, after: bytes) -> None:
    place = tmp_path_factory.mktemp("diff")
    lines = unified_diff(Store(str(place / "store")), change(Store(str(place / "store")), before, after), "f")
    if before == after:
        assert lines == []
        return
    (place / "f").write_bytes(before)
    (place / "p").write_text("\n".join(lines) + "\n")
    subprocess.run(["patch", "-s", "f", "p"], cwd=place, check=True, stdout=-3)
    assert ((place / "f").read_bytes() if (place / "f").exists() else b"") == after


def test_lines_are_numbered_though_only_what_is_near_is_compared(store: Store) -> None:
    before = [f"line {number}" for number in range(1000)]
    after = [*before[:500], "new", *before[501:]]
    found = unified_diff(
        store, change(store, "\n".join(before).encode() + b"\n", "\n".join(after).encode() + b"\n"), "f"
    )
    assert found == list(difflib.unified_diff(before, after, "a/f", "b/f", lineterm=""))


def test_made_and_removed_files_are_compared_with_nothing(store: Store) -> None:
    assert unified_diff(store, change(store, None, b"x\n"), "f") == ["--- /dev/null", "+++ b/f", "@@ -0,0 +1 @@", "+x"]
    assert unified_diff(store, change(store, b"x", None), "f")[-1] == "\\ No newline at end of file"


def test_what_is_binary_too_large_or_unknown_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unified_diff(store, change(store, b"\0a", b"b"), "f") == ["Binary file f differs"]
    left_out = change(store, b"a", b"b")
    assert left_out.after
    assert unified_diff(store, left_out._replace(after=left_out.after._replace(reason="excluded")), "f") == []
    monkeypatch.setattr(changes, "MAX_DIFF_BYTES", 3)
    assert unified_diff(store, change(store, b"aaaa", b"b"), "f") == ["f: too large to show what differs"]


def test_texts_made_to_be_slow_are_compared_in_seconds(store: Store) -> None:
    before = b"".join(b"%d\n" % (number % 90) for number in range(60_000))
    after = b"".join(b"%d\n" % (number * 7 % 90) for number in range(60_000))
    began = time.monotonic()
    found = unified_diff(store, change(store, before, after), "f")
    assert time.monotonic() - began < 5
    assert len(found) > 100_000


def test_bytes_that_are_no_text_come_through(store: Store) -> None:
    found = unified_diff(store, change(store, b"a\xff\r\n", b"a\x85\n"), "f")
    assert [os.fsencode(line) for line in found[-2:]] == [b"-a\xff\r", b"+a\x85"]
