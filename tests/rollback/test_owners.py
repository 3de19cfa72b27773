"""Whose a file is when it comes back; and that no program becomes another user's that it was not."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest

from nono.rollback import sessions, snapshot, undo
from nono.rollback.manifest import Manifest, Writer
from nono.rollback.objects import Store
from nono.rollback.planning import WITHOUT_BITS, plan
from nono.rollback.reach import Meta, set_meta
from nono.rollback.tree import DIRECTORY, FILE, Entry
from nono.rollback.undo import Selection
from tests.rollback.killing import as_nobody

IS_ROOT = os.geteuid() == 0
OTHER, NOBODY = 4321, 65534
only_root = pytest.mark.skipif(not IS_ROOT, reason="only root can give files away")


class Session:
    """A tree with three programs, before and after a session."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self.root.mkdir()
        for name in ("replaced", "removed", "quieted", "given"):
            (self.root / name).write_bytes(name.encode())
        self.store = Store(str(directory / "store"))
        self.session = sessions.create(self.store.directory, "20260101T000000Z-1", {})

    def begin(self) -> None:
        self.taken = snapshot.take([os.fsencode(self.root)], self.store, self.session.baseline)

    def end(self) -> None:
        snapshot.take(
            [os.fsencode(self.root)],
            self.store,
            self.session.final,
            previous=self.session.baseline,
            gitignore=self.taken.gitignore,
        )

    def restore(self) -> list[tuple[bytes, str]]:
        undone = undo.restore(self.session, self.store, Selection())
        return sorted((kept.path, kept.reason) for _, made in undone.plans for kept in made.kept)

    def of(self, name: str) -> tuple[int, int, int]:
        found = os.lstat(self.root / name)
        return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


@only_root
def test_root_gives_back_owner_and_bits(tmp_path: Path) -> None:
    """What was replaced as root is root's by then, and what is made anew, too."""
    place = Session(tmp_path)
    for name in ("replaced", "removed", "quieted"):
        os.chown(place.root / name, OTHER, OTHER)
        os.chmod(place.root / name, 0o6755)
    place.begin()
    for name in ("replaced", "removed"):
        (place.root / name).unlink()
    (place.root / "replaced").write_bytes(b"by root")
    os.chmod(place.root / "quieted", 0o755)
    os.chown(place.root / "given", OTHER, OTHER)
    place.end()
    assert place.restore() == []
    for name in ("replaced", "removed", "quieted"):
        assert place.of(name) == (0o6755, OTHER, OTHER), name
    assert place.of("given")[1:] == (0, 0)
    undone = undo.restore(place.session, place.store, Selection())
    assert undone.is_nothing


@only_root
def test_who_is_not_root_does_not_get_the_bits_and_is_told() -> None:
    """He may replace a file of root's in his directory; what comes back is his, and no program of root's."""

    def everything(home: Path) -> None:
        place = Session(home)
        place.begin()
        with Manifest(place.session.baseline) as manifest:  # as root's files would have been listed
            entries = [each._replace(mode=0o6755, uid=0, gid=0) if each.kind == FILE else each
                       for each in manifest.entries(0)]  # fmt: skip
        for name in ("replaced", "removed"):
            (place.root / name).unlink()
        (place.root / "replaced").write_bytes(b"his own")
        _write(place.session.baseline, os.fsencode(place.root), entries)
        place.end()
        told = place.restore()
        assert (b"replaced", WITHOUT_BITS) in told
        assert (b"removed", WITHOUT_BITS) in told
        assert place.of("replaced") == (0o755, NOBODY, NOBODY)
        assert place.of("removed") == (0o755, NOBODY, NOBODY)
        assert (place.root / "replaced").read_bytes() == b"replaced"

    as_nobody(everything)


def _write(path: str, root: bytes, entries: list[Entry]) -> None:
    with open(path, "wb") as file:
        writer = Writer(file)
        writer.begin_root(root)
        for entry in entries:
            writer.add(entry)
        writer.finish(1)


def test_bits_are_set_only_where_the_owner_is_the_one_they_belong_to(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"")
    me, group = os.geteuid(), (tmp_path / "program").stat().st_gid
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        for uid, expected in ((-1, 0o755), (me, 0o4755)):
            set_meta(fd, b"program", Meta(0o4755, 1, None, uid, group if uid >= 0 else -1))
            assert stat.S_IMODE((tmp_path / "program").stat().st_mode) == expected
    finally:
        os.close(fd)


def test_a_listing_without_owners_brings_no_bits_back() -> None:
    """As the first manifests were."""
    root = Entry(b"", DIRECTORY, 0o755, 1)
    before = [root, Entry(b"program", FILE, 0o4755, 1, 1, 1, 1, 1, digest="aa")]
    made = plan(lambda: before, lambda: [root], lambda: [root])
    assert [(step.path, step.becomes.mode) for step in made.steps if step.becomes] == [(b"program", 0o755)]
    assert [kept.reason for kept in made.kept] == [WITHOUT_BITS]


@only_root
def test_a_file_that_changed_hands_since_is_not_taken_away(tmp_path: Path) -> None:
    place = Session(tmp_path)
    place.begin()
    (place.root / "given").write_bytes(b"by the agent")
    place.end()
    os.chown(place.root / "given", OTHER, OTHER)
    assert place.restore() == [(b"given", "changed since the session")]
    assert place.of("given")[1:] == (OTHER, OTHER)


def test_owners_are_in_the_manifest_and_old_ones_can_be_read(tmp_path: Path) -> None:
    place = Session(tmp_path)
    place.begin()
    with Manifest(place.session.baseline) as manifest:
        manifest.verify()
        entries = list(manifest.entries(0))
    assert {(each.uid, each.gid) for each in entries} == {place.of("given")[1:]}
    _write(place.session.baseline, os.fsencode(place.root), [each._replace(uid=-1, gid=-1) for each in entries])
    with Manifest(place.session.baseline) as manifest:
        manifest.verify()
        assert {each.uid for each in manifest.entries(0)} == {-1}


@only_root
def test_a_program_with_capabilities_comes_back_without_them_and_that_is_said(tmp_path: Path) -> None:
    place = Session(tmp_path)
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # effective; CAP_NET_BIND_SERVICE
    try:
        os.setxattr(place.root / "replaced", "security.capability", capability)
    except OSError as error:
        pytest.skip(f"no file can have capabilities here: {error.strerror}")
    place.begin()
    assert [(each.path, "security.capability" in each.note) for each in place.taken.notes] == [
        (os.fsencode(place.root / "replaced"), True)
    ]
    (place.root / "replaced").write_bytes(b"by the agent")
    place.end()
    place.restore()
    assert (place.root / "replaced").read_bytes() == b"replaced"
    assert os.listxattr(place.root / "replaced") == []
