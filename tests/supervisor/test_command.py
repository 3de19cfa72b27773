"""The command is found as a shell finds it, and gets what it needs to start."""

from __future__ import annotations

from pathlib import Path

import pytest

from nono.errors import CommandNotExecutable, CommandNotFound
from nono.supervisor.command import find

HOME = "/home/nobody-here"


def program(path: Path, text: str = "#!/bin/sh\n", mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def paths(name: str, environment: dict[str, str], home: str = HOME) -> set[str]:
    return {grant.path for grant in find(name, environment, home).grants}


def test_looks_through_path_in_order(tmp_path: Path) -> None:
    program(tmp_path / "b" / "tool")
    program(tmp_path / "c" / "tool")
    assert find("tool", {"PATH": f"{tmp_path}/a:{tmp_path}/b:{tmp_path}/c"}, HOME).path == f"{tmp_path}/b/tool"


def test_a_name_with_a_slash_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "tool")
    monkeypatch.chdir(tmp_path)
    assert find("./tool", {}, HOME).path == f"{tmp_path}/tool"


@pytest.mark.parametrize("name", ["", "no-such-command", "./no-such-file", "/no/such/file"])
def test_not_found_is_127(name: str) -> None:
    with pytest.raises(CommandNotFound) as error:
        find(name, {"PATH": "/nonexistent"}, HOME)
    assert error.value.exit_status == 127


def test_not_executable_is_126_and_says_how_to_make_it_so(tmp_path: Path) -> None:
    tool = program(tmp_path / "tool", mode=0o644)
    with pytest.raises(CommandNotExecutable, match="chmod") as error:
        find(str(tool), {}, HOME)
    assert error.value.exit_status == 126


def test_a_directory_is_126(tmp_path: Path) -> None:
    with pytest.raises(CommandNotExecutable, match="is a directory"):
        find(str(tmp_path), {}, HOME)


def test_goes_on_in_path_behind_a_file_that_is_not_executable(tmp_path: Path) -> None:
    program(tmp_path / "a" / "tool", mode=0o644)
    program(tmp_path / "b" / "tool")
    assert find("tool", {"PATH": f"{tmp_path}/a:{tmp_path}/b"}, HOME).path == f"{tmp_path}/b/tool"
    with pytest.raises(CommandNotExecutable):
        find("tool", {"PATH": f"{tmp_path}/a"}, HOME)


def test_grants_the_installation_around_bin_and_behind_links(tmp_path: Path) -> None:
    program(tmp_path / "versions" / "3" / "bin" / "python3")
    venv = tmp_path / "app" / ".venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").symlink_to(tmp_path / "versions" / "3" / "bin" / "python3")
    granted = paths("python", {"PATH": str(venv)})
    assert {f"{tmp_path}/app/.venv", f"{tmp_path}/versions/3"} <= granted
    assert f"{tmp_path}/app" not in granted


def test_grants_the_interpreter_of_a_script(tmp_path: Path) -> None:
    interpreter = program(tmp_path / "venv" / "bin" / "python")
    script = program(tmp_path / "tool", f"#!{interpreter} -I\n")
    assert {str(script), str(interpreter), f"{tmp_path}/venv"} <= paths(str(script), {})


def test_grants_what_env_will_look_up(tmp_path: Path) -> None:
    program(tmp_path / "node" / "bin" / "node")
    script = program(tmp_path / "tool", "#!/usr/bin/env -S node --flag\n")
    assert f"{tmp_path}/node" in paths(str(script), {"PATH": f"{tmp_path}/node/bin"})


def test_never_takes_home_or_what_is_above_for_an_installation(tmp_path: Path) -> None:
    home = tmp_path / "home"
    tool = program(home / "bin" / "tool")
    granted = paths(str(tool), {}, str(home))
    assert {path for path in granted if path.startswith(str(tmp_path))} == {str(tool)}
    assert not {str(home), "/"} & granted


def test_a_loop_of_links_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(CommandNotFound):
        find(str(tmp_path / "a"), {}, HOME)
