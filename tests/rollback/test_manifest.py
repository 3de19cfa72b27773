"""manifest.py: what is written is read, what is damaged is found, and the root is of what can be restored."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nono.errors import StoreError
from nono.rollback import manifest
from nono.rollback.manifest import Manifest, Writer
from nono.rollback.tree import Entry, sort_key

NAMES = st.binary(min_size=1, max_size=6).filter(lambda name: not {0, 47} & {*name})
NUMBERS = st.integers(-(2**62), 2**62)
TREES = st.recursive(st.none(), lambda below: st.dictionaries(NAMES, below, max_size=4), max_leaves=12)


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    """A tree in the order of the walk."""
    found: list[Entry] = []
    todo: list[tuple[bytes, dict[bytes, object] | None]] = [(b"", draw(st.dictionaries(NAMES, TREES, max_size=4)))]
    while todo:
        path, below = todo.pop()
        kind = "dir" if below is not None else draw(st.sampled_from(["file", "link", "special"]))
        found.append(
            Entry(
                path,
                kind,
                draw(st.integers(0, 0o7777)),
                draw(NUMBERS),
                draw(NUMBERS),
                draw(st.integers(0, 2**60)),
                draw(st.integers(0, 2**60)),
                draw(st.integers(0, 2**60)),
                draw(st.integers(1, 9)),
                draw(st.sampled_from(["", "ab" * 32])),
                draw(st.binary(max_size=5)),
                tuple(draw(st.lists(st.tuples(st.binary(min_size=1, max_size=4), st.binary(max_size=4)), max_size=2))),
                draw(st.sampled_from(["", "excluded"])),
                draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=6)),
            )
        )
        for name, deeper in (below or {}).items():
            todo.append((path + b"/" + name if path else name, deeper))  # type: ignore[arg-type]
    return sorted(found, key=lambda entry: sort_key(entry.path))


def written(path: Path, *trees: list[Entry]) -> str:
    with open(path, "wb") as file:
        writer = Writer(file)
        for number, tree in enumerate(trees):
            writer.begin_root(b"/root/%d" % number)
            for entry in tree:
                writer.add(entry)
        return writer.finish(7)[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(entries(), entries())
def test_what_is_written_is_read(tmp_path: Path, one: list[Entry], two: list[Entry]) -> None:
    root = written(tmp_path / "m", one, two)
    with Manifest(str(tmp_path / "m")) as read:
        assert list(read.entries(0)) == one
        assert list(read.entries(1)) == two
        assert read.root == root
        assert read.started_ns == 7
        assert [summary.path for summary in read.roots] == [b"/root/0", b"/root/1"]
        assert read.roots[0].entries == len(one)
        covered = [entry for entry in one if entry.kind == "file" and not entry.reason]
        assert (read.roots[0].files, read.roots[0].total_bytes) == (len(covered), sum(entry.size for entry in covered))
        assert read.roots[0].left_out == sum(bool(entry.reason) for entry in one)
        read.verify()
        assert read.find(0, one[-1].path) == one[-1]
        assert read.find(0, b"never/there") is None


@given(st.binary())
def test_escaped_bytes_have_neither_tab_nor_line_end_and_come_back(name: bytes) -> None:
    text = manifest.escape(name)
    assert b"\t" not in text
    assert b"\n" not in text
    assert manifest.unescape(text) == name


def test_a_number_written_otherwise_is_found(tmp_path: Path) -> None:
    """Python's int() takes 0_1, and blanks."""
    written(tmp_path / "m", [Entry(b"", "dir")])
    good = (tmp_path / "m").read_bytes()
    (tmp_path / "m").write_bytes(good[:-84] + b"_" + good[-83:])
    with pytest.raises(StoreError):
        Manifest(str(tmp_path / "m"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_byte_that_differs_is_found(tmp_path: Path, data: st.DataObject) -> None:
    tree = [
        Entry(b"", "dir"),
        Entry(b"a", "file", 0o644, 1, 2, 3, digest="ab" * 32),
        Entry(b"d", "dir"),
        Entry(b"d/e", "link", target=b"x"),
    ]
    written(tmp_path / "m", tree)
    good = (tmp_path / "m").read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    (tmp_path / "bad").write_bytes(bad)
    with pytest.raises(StoreError):
        with Manifest(str(tmp_path / "bad")) as read:
            read.verify()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 10_000))
def test_one_that_was_cut_is_none(tmp_path: Path, length: int) -> None:
    written(tmp_path / "m", [Entry(b"", "dir"), Entry(b"a", "file", digest="ab" * 32)])
    good = (tmp_path / "m").read_bytes()
    (tmp_path / "cut").write_bytes(good[: min(length, len(good) - 1)])
    with pytest.raises(StoreError):
        Manifest(str(tmp_path / "cut"))


@given(st.binary())
def test_lines_that_are_none_are_an_error_of_ours(line: bytes) -> None:
    try:
        list(manifest.entries_of([line], "m"))
    except StoreError:
        pass


def test_the_root_is_of_what_can_be_restored(tmp_path: Path) -> None:
    tree = [Entry(b"", "dir"), Entry(b"d", "dir"), Entry(b"d/f", "file", 0o644, 5, 6, 7, 8, 9, 1, "ab" * 32)]
    root = written(tmp_path / "m", tree)
    again = [entry._replace(ctime_ns=99, device=98, inode=97, links=2, note="x") for entry in tree]
    assert written(tmp_path / "again", again) == root
    for field, value in {
        "mode": 0o600,
        "mtime_ns": 1,
        "digest": "cd" * 32,
        "path": b"d/g",
        "xattrs": ((b"a", b"b"),),
    }.items():
        assert written(tmp_path / "other", [*tree[:2], tree[2]._replace(**{field: value})]) != root
    assert written(tmp_path / "other", [tree[0], tree[1], tree[2]._replace(path=b"f")]) != root


def test_an_entry_below_what_is_no_directory_is_an_error(tmp_path: Path) -> None:
    for kind in ("link", "file", "special"):
        written(tmp_path / "m", [Entry(b"", "dir"), Entry(b"a", "dir"), Entry(b"b", kind), Entry(b"b/c", "file")])
        with Manifest(str(tmp_path / "m")) as read, pytest.raises(StoreError):
            list(read.entries(0))


def test_a_root_that_is_a_file_or_missing_has_its_place(tmp_path: Path) -> None:
    written(tmp_path / "m", [Entry(b"", "file", size=3, digest="ab" * 32)], [])
    with Manifest(str(tmp_path / "m")) as read:
        read.verify()
        assert [entry.path for entry in read.entries(0)] == [b""]
        assert list(read.entries(1)) == []
        assert read.roots[0].digest
        assert read.roots[1].digest == ""
        assert read.root_of(b"/root/0/x") == 0
        assert read.root_of(b"/root/10") == -1


def test_numbers_in_the_trailer_lead_nowhere(tmp_path: Path) -> None:
    for text in (b"", b"x" * 21, b"%020d\n" % 10**19, b"-%019d\n" % 5, b"nono snapshot 1\n{}\n" + b"%020d\n" % 16):
        (tmp_path / "m").write_bytes(text)
        with pytest.raises(StoreError):
            Manifest(os.fspath(tmp_path / "m"))
