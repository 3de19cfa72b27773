"""`when`: predicates are read strictly, and judged against what a machine says of itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import PolicyError
from nono.policy.conditions import Facts, holds, parse, system_of

FEDORA = Facts("linux", "fedora", ("rhel", "centos"), "43", "workstation")
UBUNTU = Facts("linux", "ubuntu", ("debian",), "24.04")
ARCH = Facts("linux", "arch")
MAC = Facts("macos", version="15.6.1")


@pytest.mark.parametrize(
    ("text", "true_of"),
    [
        ("linux", [FEDORA, UBUNTU, ARCH]),
        ("macos", [MAC]),
        ("windows", []),
        ("freebsd", []),
        ("!linux", [MAC]),
        ("linux:fedora", [FEDORA]),
        ("!linux:fedora", [UBUNTU, ARCH, MAC]),
        ("linux:debian", []),
        ("linux:debian-like", [UBUNTU]),
        ("linux:fedora-like", [FEDORA]),
        ("linux:rhel-like", [FEDORA]),
        ("linux:fedora-like:>=43", [FEDORA]),
        ("linux:fedora:>43", []),
        ("linux:fedora:43", [FEDORA]),
        ("linux:fedora:==43:workstation", [FEDORA]),
        ("linux:fedora:43:server", []),
        ("linux:ubuntu:>=24", [UBUNTU]),
        ("linux:ubuntu:>24.4", []),
        ("linux:ubuntu:24.4", [UBUNTU]),  # numbers, not letters
        ("linux:ubuntu:<24.10", [UBUNTU]),
        ("linux:arch:>=1", []),  # says no version
        ("macos:>=15", [MAC]),
        ("macos:>=15.6", [MAC]),
        ("macos:<15", []),
        (" linux ", [FEDORA, UBUNTU, ARCH]),
    ],
)
def test_predicates(text: str, true_of: list[Facts]) -> None:
    assert [facts for facts in (FEDORA, UBUNTU, ARCH, MAC) if holds([text], facts)] == true_of


def test_any_of_several_is_enough() -> None:
    assert holds(["macos", "linux:fedora:>=43"], FEDORA)
    assert not holds(["macos", "linux:fedora:>=43"], UBUNTU)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it must begin with"),
        ("!", "it must begin with"),
        ("!!linux", "did you mean linux?"),
        ("lniux", "did you mean linux?"),
        ("darwin", "did you mean macos?"),
        ("solaris", "it must begin with linux, macos, windows"),
        ("linux:", "names and versions"),
        ("linux:fedora:", "names and versions"),
        ("linux:fedora:>=", "names and versions"),
        ("linux:fedora:~=43", "names and versions"),
        ("linux:>=43", "the distribution comes before"),
        ("linux:fedora:43:>1", "a variant"),
        ("linux:a:1:b:c", "too many parts"),
        ("macos:15:1", "too many parts"),
        ("linux:fe dora", "names and versions"),
    ],
)
def test_what_cannot_be_read_is_an_error(text: str, sentence: str) -> None:
    with pytest.raises(PolicyError, match="no condition") as error:
        parse(text)
    assert sentence in str(error.value)


@given(st.text(alphabet="linuxmacos:!<>=0123456789.-_~ fedora\0é", max_size=20))
def test_anything_is_either_read_or_refused(text: str) -> None:
    try:
        predicate = parse(text)
    except PolicyError:
        return
    assert holds([text], FEDORA) is not holds([f"!{text.strip()}"], FEDORA) or predicate.negated


def test_the_names_of_systems() -> None:
    assert [system_of(name) for name in ("linux", "darwin", "win32", "freebsd14")] == [
        "linux", "macos", "windows", "freebsd",
    ]  # fmt: skip
