"""A restore of very much: what it takes does not grow with the files, nor with the square of the depth."""

from __future__ import annotations

import os
import subprocess
import time
import tracemalloc
from pathlib import Path

from nono.cli.rollbacks import changed
from nono.rollback import sessions, snapshot, undo
from nono.rollback.objects import Store
from nono.rollback.undo import Selection
from tests.rollback.killing import in_child
from tests.rollback.killing import memory as memory
from tests.rollback.test_undo import Place


def restored(directory: Path, files: int) -> int:
    """The peak of memory, in bytes, of a restore of so many files that were all changed."""
    root, store = directory / "root", Store(str(directory / "store"))
    root.mkdir()
    session = sessions.create(store.directory, "20260101T000000Z-1", {})
    for text in (b"before", b"after"):
        for number in range(files):
            (root / f"{number % 97}-{number}").write_bytes(text)
        snapshot.take([os.fsencode(root)], store, session.baseline if text == b"before" else session.final)
    reads, writes = os.pipe()

    def measured() -> None:
        tracemalloc.start()
        undone = undo.restore(session, store, Selection())
        assert sum(1 for _ in changed.of_undone(undone)) == files
        os.write(writes, b"%d" % tracemalloc.get_traced_memory()[1])

    assert in_child(measured) == 0
    os.close(writes)
    with os.fdopen(reads) as file:
        return int(file.read())


def test_memory_does_not_grow_with_the_files(memory: Path) -> None:
    for name in ("few", "many"):
        (memory / name).mkdir()
    few, many = restored(memory / "few", 200), restored(memory / "many", 1700)
    assert many - few < 1500 * 250  # a step alone is 1,500 bytes


def test_a_deep_tree_costs_what_a_flat_one_does(memory: Path) -> None:
    """A path of 2,000 names; each directory is opened from the one above it, not from the root."""
    place = Place(_made(memory / "place"))
    fd = os.open(place.root, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    session = sessions.create(place.store.directory, "20260102T000000Z-1", {})
    roots = [os.fsencode(place.root)]
    taken = snapshot.take(roots, place.store, session.baseline)
    subprocess.run(["rm", "-r", place.root / "d"], check=True)
    snapshot.take(roots, place.store, session.final, previous=session.baseline, gitignore=taken.gitignore)
    for back in (False, True):
        began = time.process_time()
        undone = undo.restore(session, place.store, Selection(), undo=back)
        assert time.process_time() - began < 15  # 1.5 on a quiet machine; it was 40
        assert sum(plan.step_count for _, plan in undone.plans) == 3999


def _made(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path
