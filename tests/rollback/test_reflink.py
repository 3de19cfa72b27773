"""On file systems that share contents between files, in an image of their own: what is stored takes no room."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nono.rollback import objects, sessions, snapshot, undo
from nono.rollback.objects import Store
from nono.rollback.undo import Selection
from tests.rollback.killing import in_child
from tests.rollback.trees import picture

MAKE = {"btrfs": ["mkfs.btrfs", "-q"], "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"]}
IMAGE_BYTES = 320 << 20  # XFS makes none below 300 MiB
LARGE = 24 << 20
_NEWNS, _PRIVATE = 0x20000, 0x4_4000  # MS_REC | MS_PRIVATE


def on_image(kind: str, directory: Path, run: Callable[[Path], None]) -> None:
    """Run it where such a file system is mounted, which nobody else sees; skip where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount an image")
    program = shutil.which(MAKE[kind][0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        pytest.skip(f"{MAKE[kind][0]} is not installed")
    image, target = directory / "image", directory / "mounted"
    target.mkdir()
    with open(image, "wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run([program, *MAKE[kind][1:], image], check=True, stdout=subprocess.DEVNULL)
    reads, writes = os.pipe()

    def inside() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEWNS) or libc.mount(None, b"/", None, _PRIVATE, None):
            os.write(writes, b"no mount namespace can be made")
            return
        mounted = subprocess.run(["mount", "-t", kind, "-o", "loop", image, target], capture_output=True, text=True)
        if mounted.returncode:
            os.write(writes, f"{kind} cannot be mounted: {mounted.stderr.strip()}".encode())
            return
        try:
            run(target)
        finally:
            subprocess.run(["umount", target], check=True)

    status = in_child(inside)
    os.close(writes)
    with os.fdopen(reads) as told:
        reason = told.read()
    if reason:
        pytest.skip(reason)
    assert status == 0


def taken(path: Path) -> int:
    """The bytes that are in use on its file system, when all has been written."""
    fd = os.open(path, os.O_RDONLY)
    try:
        ctypes.CDLL(None).syncfs(fd)
        found = os.fstatvfs(fd)
    finally:
        os.close(fd)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.mark.parametrize("kind", sorted(MAKE))
def test_a_large_file_is_shared_when_it_is_stored_and_when_it_comes_back(tmp_path: Path, kind: str) -> None:
    def everything(disk: Path) -> None:
        root = disk / "root"
        root.mkdir()
        (root / "large").write_bytes(os.urandom(LARGE))
        (root / "small").write_bytes(b"small")
        sparse = os.open(root / "sparse", os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(sparse, b"end", 80 << 20)
        os.close(sparse)
        before, baseline = taken(disk), picture(root)
        store = Store(str(disk / "store"))
        session = sessions.create(store.directory, "20260101T000000Z-1", {})
        first = snapshot.take([os.fsencode(root)], store, session.baseline)
        assert undo._can_share(store.objects)
        assert taken(disk) - before < LARGE // 4, "it was copied"
        (root / "large").unlink()
        (root / "small").write_bytes(b"other")
        snapshot.take([os.fsencode(root)], store, session.final, previous=session.baseline, gitignore=first.gitignore)
        between = taken(disk)
        undo.restore(session, store, Selection())
        assert picture(root) == baseline
        assert taken(disk) - between < LARGE // 4, "it was copied back"
        with open(root / "large", "r+b") as file:  # and what is written then is the file's alone
            file.write(b"changed")
        assert all(store.verify(digest) for digest in store.digests())
        one, other = os.open(root / "large", os.O_RDONLY), os.open(disk / "clone", os.O_RDWR | os.O_CREAT)
        assert objects.clone(one, other)
        for fd in (one, other):
            os.close(fd)

    on_image(kind, tmp_path, everything)
