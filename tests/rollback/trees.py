"""Trees with everything in them that can go wrong, what a user sees of them, and a listing as a walk makes it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from nono.rollback.reach import is_kept
from nono.rollback.tree import FILE, LINK, Entry, Walk, open_root

Picture = dict[bytes, tuple[object, ...]]
OLD = 1_500_000_000_123_456_789


def picture(root: Path) -> Picture:
    """What a user can see of a tree: all but inode numbers, access times and times of change."""
    seen: Picture = {}
    names: dict[tuple[int, int], bytes] = {}
    top = os.fsencode(root)
    for path in sorted(_below(top)):
        found = os.lstat(path)
        kind = stat.S_IFMT(found.st_mode)
        content: object = b""
        if stat.S_ISREG(found.st_mode):
            content = Path(os.fsdecode(path)).read_bytes()
        elif stat.S_ISLNK(found.st_mode):
            content = os.readlink(path)
        first = names.setdefault((found.st_dev, found.st_ino), path) if not stat.S_ISDIR(found.st_mode) else path
        xattrs = () if stat.S_ISLNK(found.st_mode) else _xattrs(path)
        relative = path[len(top) :]
        shared = first[len(top) :]
        seen[relative] = (kind, stat.S_IMODE(found.st_mode), found.st_mtime_ns, content, xattrs, shared)
    return seen


def _below(top: bytes) -> Iterator[bytes]:
    yield top
    if not stat.S_ISDIR(os.lstat(top).st_mode):
        return
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            yield os.path.join(directory, name)


def _xattrs(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    names = sorted(os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False))
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names if is_kept(name))


class Contents:
    """What was in the files of a listing, by digest."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def listing(self, root: Path, exclude: frozenset[bytes] = frozenset()) -> list[Entry]:
        """Walk the tree."""
        opened = open_root(os.fsencode(root))
        assert opened is not None
        walk = Walk(rule_for=lambda path, _: "excluded here" if path in exclude else "")
        return [self._filled(root, entry) for entry in walk.entries(opened)]

    def _filled(self, root: Path, entry: Entry) -> Entry:
        path = os.path.join(os.fsencode(root), entry.path) if entry.path else os.fsencode(root)
        if entry.reason:
            return entry
        if entry.kind == LINK:
            return entry._replace(target=os.readlink(path))
        entry = entry._replace(xattrs=_xattrs(path))
        if entry.kind != FILE:
            return entry
        data = Path(os.fsdecode(path)).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        self.kept[digest] = data
        return entry._replace(digest=digest)

    def copy_to(self, digest: str, fd: int) -> None:
        """Write the contents with this digest into an open file."""
        data = self.kept[digest]
        while data:
            data = data[os.write(fd, data) :]


def grow(root: Path) -> None:
    """Make a tree as it was before a session."""
    root.mkdir(mode=0o755)
    (root / "kept").write_bytes(b"as it was\n")
    (root / "edited").write_bytes(b"one\ntwo\n")
    (root / "removed").write_bytes(b"gone\n")
    (root / "private").write_bytes(b"mine\n")
    (root / "private").chmod(0o600)
    (root / "empty").mkdir()
    (root / "deep/er/est").mkdir(parents=True)
    (root / "deep/er/est/file").write_bytes(b"below\n")
    (root / "becomes-directory").write_bytes(b"a file\n")
    (root / "becomes-file").mkdir()
    (root / "becomes-file/inner").write_bytes(b"inner\n")
    (root / "link").symlink_to("kept")
    (root / "dangling").symlink_to("/nowhere")
    (root / "becomes-link").write_bytes(b"was a file\n")
    (root / "one").write_bytes(b"two names\n")
    os.link(root / "one", root / "two")
    (root / "sealed").mkdir()
    (root / "sealed/in").write_bytes(b"sealed\n")
    (root / os.fsdecode(b"not-utf8-\xff\xfe")).write_bytes(b"odd name\n")
    os.setxattr(root / "kept", "user.colour", b"blue")
    (root / "sealed").chmod(0o555)
    for directory, directories, files in os.walk(root, topdown=False):
        for name in (*files, *directories):
            path = os.path.join(directory, name)
            os.utime(path, ns=(OLD, OLD + len(name)), follow_symlinks=False)
    os.utime(root, ns=(OLD, OLD))


def ravage(root: Path) -> None:
    """Do to the tree what an agent can."""
    (root / "edited").write_bytes(b"one\nTWO\nthree\n")
    (root / "removed").unlink()
    (root / "private").chmod(0o644)
    (root / "empty").rmdir()
    (root / "deep/er/est/file").unlink()
    (root / "deep/er/est").rmdir()
    (root / "deep/er").rmdir()
    (root / "becomes-directory").unlink()
    (root / "becomes-directory").mkdir()
    (root / "becomes-directory/planted").write_bytes(b"x")
    (root / "becomes-file/inner").unlink()
    (root / "becomes-file").rmdir()
    (root / "becomes-file").write_bytes(b"now a file")
    (root / "link").unlink()
    (root / "link").symlink_to("/nonexistent/passwd")
    (root / "becomes-link").unlink()
    (root / "becomes-link").symlink_to("/nonexistent/passwd")
    (root / "two").unlink()
    (root / "two").write_bytes(b"a copy")
    (root / "sealed").chmod(0o755)
    (root / "sealed/in").write_bytes(b"broken")
    (root / "sealed").chmod(0o500)
    (root / os.fsdecode(b"not-utf8-\xff\xfe")).unlink()
    (root / os.fsdecode(b"new-\xff")).write_bytes(b"new")
    (root / "new/in/depth").mkdir(parents=True)
    (root / "new/in/depth/file").write_bytes(b"new")
    (root / "new/in").chmod(0o555)
    os.mkfifo(root / "fifo")
    os.removexattr(root / "kept", "user.colour")
    os.setxattr(root / "kept", "user.shape", b"round")
