"""What a NAME or FILE means: the user's own, then the built-in ones; relative to the file that names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nono.errors import PolicyError
from nono.policy.conditions import Facts, holds
from nono.policy.inherit import BUILT_IN, Inherited, inherit
from nono.policy.paths import Place
from nono.session.parts import profile_of
from nono.supervisor import guard
from nono.supervisor.profiles import Profiles, find_facts
from nono.supervisor.whereabouts import find_place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = find_place(str(tmp_path), {"HOME": str(tmp_path)})
    os.makedirs(found.profiles)
    return found


def write(path: str, text: str = "{}") -> str:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def read(place: Place, *names: str) -> Inherited:
    return inherit(names, Profiles(place).read, lambda: Facts("linux"))


def test_every_built_in_profile_is_sound(place: Place) -> None:
    names = Profiles(place).names()
    assert {"default", "claude-code", "codex", "opencode", "gemini-cli", "python-dev"} <= set(names)
    for name in names:
        assert read(place, name).lineage[-1] == (name, BUILT_IN)


def test_the_users_own_comes_first_and_may_extend_the_built_in_one(place: Place) -> None:
    path = write(f"{place.profiles}/codex.json", '{"extends": "codex", "filesystem": {"read": ["/a"]}}')
    found = read(place, "codex")
    assert found.lineage == (("codex (built-in)", BUILT_IN), ("codex", path))
    assert found.profile.workdir.access == "readwrite"
    assert Profiles(place).names()["codex"] == path


def test_what_a_built_in_profile_extends_is_built_in(place: Place) -> None:
    write(f"{place.profiles}/default.json", '{"workdir": {"access": "readwrite"}}')
    assert Profiles(place).read("default", f"{BUILT_IN}:codex").path == BUILT_IN


def test_files_are_taken_from_the_directory_of_the_file_that_names_them(place: Place, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    base = write(str(tmp_path / "base.jsonc"), '{"filesystem": {"read": ["/a"]}} // !')
    home = write(str(tmp_path / "home.json"))
    child = write(
        str(tmp_path / "sub" / "child.json"), '{"extends": ["../base.jsonc", "~/home.json"], "meta": {"name": "c"}}'
    )
    found = read(place, child)
    assert found.lineage == (("base", base), ("home", home), ("c", child))
    assert found.files == (base, home, child)


def test_every_file_of_the_lineage_is_protected(place: Place, tmp_path: Path) -> None:
    base = write(str(tmp_path / "base.json"))
    child = write(str(tmp_path / "child.json"), '{"extends": "./base.json"}')
    denied = {deny.path for deny in guard.protected_paths((), (), read(place, child).files, {})}
    assert {base, child} <= denied


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("claud-code", "there is no profile 'claud-code'; did you mean claude-code? There are claude-code, codex"),
        ("nolabs-ai/claude", "does not exist, and nono has no packs; did you mean claude-code?"),
        ("./nope.json", "/nope.json: does not exist"),
        ("..", "there is no profile '..'"),
        ("__init__", "there is no profile '__init__'"),
        ("", "there is no profile ''"),
    ],
)
def test_what_there_is_not(place: Place, name: str, sentence: str) -> None:
    with pytest.raises(PolicyError) as error:
        read(place, name)
    assert sentence in str(error.value)


def test_what_cannot_be_read(place: Place, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "dir.json").mkdir()
    (tmp_path / "raw.json").write_bytes(b'{"meta": {"name": "\xff"}}')
    (tmp_path / "long.json").write_bytes(b" " * (10 << 20))
    write(f"{place.profiles}/two.json")
    write(f"{place.profiles}/two.jsonc")
    for name, sentence in (
        ("pipe", "is not a regular file"), ("dir", "Is a directory"), ("raw", "not valid UTF-8"),
        ("long", "is longer than"),
    ):  # fmt: skip
        with pytest.raises(PolicyError, match=sentence):
            read(place, str(tmp_path / f"{name}.json"))
    with pytest.raises(PolicyError, match=r"two.json and .*two.jsonc; keep one"):
        read(place, "two")


def test_an_unknown_base_is_named_with_the_file_that_extends_it(place: Place, tmp_path: Path) -> None:
    child = write(str(tmp_path / "child.json"), '{"extends": "claude"}')
    with pytest.raises(PolicyError, match=rf"profile {child}: extends: there is no profile 'claude'"):
        read(place, child)


def test_without_a_name_there_is_nothing(place: Place) -> None:
    assert profile_of(None, (), place) is None
    found = profile_of("codex", ("go-dev",), place)
    assert found is not None
    assert [name for name, _ in found.lineage] == ["go-dev", "codex"]


def test_this_machine_says_what_it_is() -> None:
    facts = find_facts("linux")
    assert facts.system == "linux"
    if os.path.exists("/etc/os-release"):
        assert facts.distribution
        assert holds([f"linux:{facts.distribution}"], facts)
    assert find_facts("freebsd14") == Facts("freebsd")
