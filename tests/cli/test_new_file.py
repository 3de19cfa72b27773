from __future__ import annotations

import os
from pathlib import Path

import pytest

from nono.cli.new_file import NewFile
from nono.errors import StoreError, UsageError


def test_nothing_is_there_until_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonc"
    with NewFile(str(path), over=False) as file:
        assert not list(tmp_path.iterdir())
        assert file.write("text ü") == str(path)
    assert path.read_text() == "text ü"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_its_directory_is_made_where_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "x" / "y" / "a"
    with pytest.raises(UsageError):
        NewFile(str(path), over=False)
    with NewFile(str(path), over=False, make_directory=True) as file:
        file.write("text")
    assert path.read_text() == "text"


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "directory"])
def test_what_is_there_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "a", tmp_path / "other"
    other.write_text("kept")
    if kind == "file":
        path.write_text("kept")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(other if kind == "link" else "nowhere")
    with pytest.raises(UsageError):
        NewFile(str(path), over=False)
    assert other.read_text() == "kept"


def test_what_came_meanwhile_is_not_replaced_either(tmp_path: Path) -> None:
    path, victim = tmp_path / "a.json", tmp_path / "victim"
    victim.write_text("kept")
    with NewFile(str(path), over=False) as file:
        path.symlink_to(victim)
        (tmp_path / "a-2.json").write_text("taken")
        assert file.write("text") == str(tmp_path / "a-3.json")
    assert victim.read_text() == "kept"
    assert (tmp_path / "a-3.json").read_text() == "text"


def test_what_is_replaced_is_the_name_not_what_it_leads_to(tmp_path: Path) -> None:
    path, victim = tmp_path / "a", tmp_path / "victim"
    victim.write_text("kept")
    path.symlink_to(victim)
    with NewFile(str(path), over=True) as file:
        file.write("text")
    assert victim.read_text() == "kept"
    assert not path.is_symlink()
    assert path.read_text() == "text"


def test_a_directory_that_was_moved_away_takes_the_file_along(tmp_path: Path) -> None:
    """And nothing is written to what stands in its place."""
    directory = tmp_path / "d"
    directory.mkdir()
    with NewFile(str(directory / "a"), over=True) as file:
        directory.rename(tmp_path / "moved")
        directory.symlink_to("/")
        file.write("text")
    assert (tmp_path / "moved" / "a").read_text() == "text"


def test_where_nothing_can_be_made_is_told_before(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="/proc"):
        NewFile("/proc/a", over=False)
    with pytest.raises(UsageError):
        NewFile(str(tmp_path), over=True)


def test_a_directory_that_is_gone_is_an_error_of_the_store(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    with NewFile(str(directory / "a"), over=False) as file:
        os.rmdir(directory)
        with pytest.raises(StoreError):
            file.write("text")
