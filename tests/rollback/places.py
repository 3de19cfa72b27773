"""A tree, a store, and snapshots of the one in the other."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nono.rollback import snapshot
from nono.rollback.manifest import Manifest
from nono.rollback.objects import Store
from nono.rollback.snapshot import Snapshot, take
from nono.rollback.tree import Entry


class Place:
    """A tree, a store, and snapshots of the one in the other."""

    def __init__(self, path: Path) -> None:
        self.tree = path / "tree"
        self.tree.mkdir()
        self.store = Store(str(path / "store"))
        self.path = path

    def take(self, name: str = "m", previous: str = "", **options: object) -> Snapshot:
        before = str(self.path / previous) if previous else ""
        return take(
            [os.fsencode(self.tree)],
            self.store,
            str(self.path / name),
            previous=before,
            **options,  # type: ignore[arg-type]
        )

    def entries(self, name: str = "m") -> dict[bytes, Entry]:
        with Manifest(str(self.path / name)) as manifest:
            manifest.verify()
            return {entry.path: entry for entry in manifest.entries(0)}

    def contents(self, entry: Entry) -> bytes:
        with open(self.store.open(entry.digest), "rb") as file:
            return file.read()

    def wait(self) -> None:
        """Until nothing in the tree may have been written in the tick of the clock that comes now."""
        time.sleep((snapshot._TICK_NS + 20_000_000) / 1e9)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)
