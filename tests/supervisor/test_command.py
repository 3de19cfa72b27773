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


def installation(prefix: Path, *names: str, mark: str = "lib") -> Path:
    """Make PREFIX/bin/NAME and what tells an installation from any other directory with a `bin`."""
    for name in names:
        program(prefix / "bin" / name)
    (prefix / mark).mkdir(parents=True)
    return prefix


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


@pytest.mark.parametrize("mark", ["lib", "lib64", "libexec", "pyvenv.cfg"])
def test_grants_the_installation_around_bin_and_behind_links(tmp_path: Path, mark: str) -> None:
    installation(tmp_path / "versions" / "3", "python3", mark=mark)
    venv = installation(tmp_path / "app" / ".venv", mark=mark) / "bin"
    venv.mkdir()
    (venv / "python").symlink_to(tmp_path / "versions" / "3" / "bin" / "python3")
    granted = paths("python", {"PATH": str(venv)})
    assert {f"{tmp_path}/app/.venv", f"{tmp_path}/versions/3"} <= granted
    assert f"{tmp_path}/app" not in granted


def test_a_directory_around_bin_without_libraries_is_no_installation(tmp_path: Path) -> None:
    tool = program(tmp_path / "project" / "bin" / "tool", "ELF")
    (tmp_path / "project" / "secret").touch()
    assert paths(str(tool), {}) == {str(tool)}


def test_follows_a_link_as_the_kernel_does(tmp_path: Path) -> None:
    """`..` behind a link to a directory is not beside the link."""
    real = installation(tmp_path / "store" / "app" / "1", "tool")
    (real / "bin" / "inside").mkdir()
    installation(tmp_path / "home", "tool")  # where the names alone lead
    entry = tmp_path / "home" / "entry"
    entry.symlink_to(real / "bin" / "inside")
    (tmp_path / "home" / "link").symlink_to("entry/../tool")
    granted = paths(str(tmp_path / "home" / "link"), {})
    assert {f"{real}/bin/tool", str(real)} <= granted
    assert not {f"{tmp_path}/home", f"{tmp_path}/home/tool"} & granted
    assert find(f"{entry}/../tool", {}, HOME).path == f"{real}/bin/tool"


def test_a_path_has_one_slash_in_front(tmp_path: Path) -> None:
    tool = program(tmp_path / "tool")
    assert find(f"/{tool}", {}, HOME).path == str(tool)


def test_grants_the_interpreter_of_a_script(tmp_path: Path) -> None:
    interpreter = installation(tmp_path / "venv", "python") / "bin" / "python"
    script = program(tmp_path / "tool", f"#!{interpreter} -I\n")
    assert {str(script), str(interpreter), f"{tmp_path}/venv"} <= paths(str(script), {})


@pytest.mark.parametrize("mode", [None, 0o644], ids=["absent", "not executable"])
def test_grants_no_interpreter_that_is_none(tmp_path: Path, mode: int | None) -> None:
    interpreter = installation(tmp_path / "venv") / "bin" / "python"
    if mode is not None:
        program(interpreter, mode=mode)
    script = program(tmp_path / "tool", f"#!{interpreter}\n")
    assert paths(str(script), {}) == {str(script)}


@pytest.mark.parametrize(
    "words",
    [
        "node",
        "-S node --flag",
        "-S -i LANG=C node other",
        "-S -u other node",
        "-S -uother node",
        "-iS -C other -u other node",
        "-Snode other",
        "--split-string=node other",
        "--split-string -i node other",
        "-S --unset other --chdir=other node",
        "-S --ignore-signal=INT -- node other",
    ],
)
def test_grants_what_env_will_look_up_and_no_argument(tmp_path: Path, words: str) -> None:
    for name in ("node", "other"):
        installation(tmp_path / name, name)
    script = program(tmp_path / "tool", f"#!/usr/bin/env {words}\n")
    granted = paths(str(script), {"PATH": f"{tmp_path}/other/bin:{tmp_path}/node/bin"})
    assert f"{tmp_path}/node" in granted
    assert f"{tmp_path}/other" not in granted


@pytest.mark.parametrize("line", ["#!/usr/bin/env -S -u node", "#!/usr/bin/env", "#!/usr/bin/env -S A=b"])
def test_env_without_a_program_is_granted_alone(tmp_path: Path, line: str) -> None:
    installation(tmp_path / "node", "node")
    script = program(tmp_path / "tool", line)
    assert f"{tmp_path}/node" not in paths(str(script), {"PATH": f"{tmp_path}/node/bin"})


@pytest.mark.parametrize("line", ["#!\0", "#!/bin/\0sh", "#!/usr/bin/env n\0de", "#!/usr/bin/env \0", "#! \n", "#!"])
def test_reads_any_first_line(tmp_path: Path, line: str) -> None:
    script = program(tmp_path / "tool", line)
    assert str(script) in paths(str(script), {"PATH": "/usr/bin:/bin"})


def test_a_nul_ends_the_first_line_as_it_does_for_the_kernel(tmp_path: Path) -> None:
    interpreter = installation(tmp_path / "venv", "python") / "bin" / "python"
    script = program(tmp_path / "tool", f"#!{interpreter}\0other")
    assert f"{tmp_path}/venv" in paths(str(script), {})


def test_a_name_with_a_nul_is_not_found() -> None:
    with pytest.raises(CommandNotFound, match=r"'to\\x00ol'"):
        find("to\0ol", {}, HOME)


@pytest.mark.parametrize("prefix", [".", "..", ".local"])
@pytest.mark.parametrize("by_link", [False, True], ids=["", "home is a link"])
def test_never_takes_home_or_what_is_above_for_an_installation(tmp_path: Path, prefix: str, by_link: bool) -> None:
    home = tmp_path / "users" / "me"
    home.mkdir(parents=True)
    tool = installation((home / prefix).resolve(), "tool") / "bin" / "tool"
    if by_link:
        (tmp_path / "link").symlink_to(home)
        home = tmp_path / "link"
    granted = paths(str(tool), {}, str(home))
    assert {path for path in granted if path.startswith(str(tmp_path))} == {str(tool)}
    assert "/" not in granted


def test_a_loop_of_links_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(CommandNotFound):
        find(str(tmp_path / "a"), {}, HOME)
