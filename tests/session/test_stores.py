"""Which stores are remembered, by runs that begin at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nono.errors import StoreError
from nono.policy.paths import Place
from nono.session.rollback import remember
from nono.session.stores import ELSEWHERE, destinations

RUNS, EACH = 6, 8


def place_in(home: Path) -> Place:
    return Place(str(home), str(home / "work"), "/tmp", str(home / "config"), str(home / "state"), "")


def test_runs_that_begin_at_once_forget_none(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    reads, writes = os.pipe()  # all of them wait for its end
    children = []
    for run in range(RUNS):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(writes)
                os.read(reads, 1)
                for number in range(EACH):
                    remember(f"/stores/{run}-{number}", place)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    os.close(reads)
    os.close(writes)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * RUNS
    found = destinations(place)
    assert found[0] == os.path.realpath(os.path.join(place.state, "rollback"))
    assert sorted(found[1:]) == sorted(f"/stores/{run}-{number}" for run in range(RUNS) for number in range(EACH))
    kept = os.listdir(os.path.join(place.state, "rollback"))
    assert sorted(kept) == [ELSEWHERE, f"{ELSEWHERE}.lock"]


def test_one_that_is_known_is_not_written_again(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    remember("/stores/one", place)
    path = Path(place.state, "rollback", ELSEWHERE)
    before = path.stat().st_ino
    remember("/stores/one", place)
    assert path.stat().st_ino == before


def test_a_list_that_cannot_be_read_is_no_empty_list(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    assert len(destinations(place)) == 1
    Path(place.state, "rollback", ELSEWHERE).mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be read"):
        destinations(place)
    with pytest.raises(StoreError, match="cannot be read"):
        remember("/stores/one", place)
