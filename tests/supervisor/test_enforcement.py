"""What each wall enforces, as a table that the documents repeat; and walls that are tried."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from nono.policy.capabilities import SANDBOX_AUTO, SANDBOX_LANDLOCK
from nono.sandbox.plan import Wall, walls_to_try
from nono.supervisor import enforcement
from nono.supervisor.enforcement import BY_CGROUP, BY_SCOPES, Row

DOCUMENT = Path(__file__).parent.parent.parent / "docs/setup.md"
WORDS = {BY_SCOPES: "full with Landlock 6, else none", BY_CGROUP: "full with a control group, else partial"}


@pytest.mark.parametrize("row", enforcement.TABLE, ids=lambda row: f"{row.wall.name}-{row.wall.mounts}")
def test_a_wall_says_something_of_every_aspect(row: Row) -> None:
    for scopes, cgroup in ((True, True), (False, False)):
        found = enforcement.enforced(row, scopes=scopes, cgroup=cgroup)
        assert list(found) == list(enforcement.ASPECTS)
        assert set(found.values()) <= {enforcement.FULL, enforcement.PARTIAL, enforcement.NONE}
    assert found["limits"] == enforcement.PARTIAL
    assert (found["signals"] == enforcement.NONE) == (not row.wall.mounts)
    for aspect, degree in found.items():
        assert degree == enforcement.FULL or enforcement.ASPECTS[aspect], f"{aspect} does not say what it means"


def test_only_the_wall_that_leaks_is_not_whole() -> None:
    for row in enforcement.TABLE:
        assert row.is_whole == (dict(row.cells)["network"] == enforcement.FULL)


def test_walls_stand_in_the_order_of_a_run() -> None:
    walls = [row.wall for row in enforcement.TABLE]
    assert tuple(walls[:3]) == walls_to_try(SANDBOX_AUTO)
    assert tuple(walls[3:]) == walls_to_try(SANDBOX_LANDLOCK)


def test_the_document_has_this_table() -> None:
    (start,) = (n for n, line in enumerate(DOCUMENT.read_text().splitlines()) if line.startswith("| enforced by"))
    rows = DOCUMENT.read_text().splitlines()[start + 2 : start + 2 + len(enforcement.ASPECTS)]
    for line, aspect in zip(rows, enforcement.ASPECTS, strict=True):
        cells = [WORDS.get(cell, cell) for row in enforcement.TABLE for name, cell in row.cells if name == aspect]
        assert line == f"| `{aspect}` | {' | '.join(cells)} |"


@pytest.mark.parametrize("row", enforcement.TABLE, ids=lambda row: f"{row.wall.name}-{row.wall.mounts}")
def test_an_attempt_leaves_nothing(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    enforcement.attempt(row.wall, "/nonexistent")  # whatever comes of it, and once to have all loaded
    fds, mounts = os.listdir("/proc/self/fd"), Path("/proc/self/mountinfo").read_text()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    enforcement.attempt(row.wall, "/nonexistent")
    assert os.listdir("/proc/self/fd") == fds
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert Path(f"/proc/self/task/{os.getpid()}/children").read_text() == children
    assert list(tmp_path.iterdir()) == []


def test_what_fails_is_told_in_the_words_of_the_spawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        reason = enforcement.attempt(Wall("namespace"), "/nonexistent")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "Too many open files" in reason


def test_a_place_that_is_missing_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    assert "Set TMPDIR" in enforcement.attempt(Wall("namespace"), "/nonexistent")
