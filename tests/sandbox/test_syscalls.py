"""The numbers are the kernel's: compared with the headers of the machine that the tests run on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from nono.sandbox.syscalls import NUMBERS

X86_64 = "#include <asm/unistd_64.h>"
GENERIC = "#include <asm-generic/unistd.h>"  # what aarch64 uses


def numbers_of_the_headers(include: str, *flags: str) -> dict[str, int]:
    """Let the compiler say which __NR_ macros there are and what they come to."""
    macros = subprocess.run(
        ["cc", *flags, "-E", "-dM", "-"], input=include, capture_output=True, text=True, check=False
    )
    if macros.returncode:
        pytest.skip("no kernel headers of this kind")
    names = re.findall(r"#define __NR_(\w+)", macros.stdout)
    source = include + "\n" + "".join(f"{name} = __NR_{name}\n" for name in names)
    out = subprocess.run(["cc", *flags, "-E", "-P", "-"], input=source, capture_output=True, text=True, check=True)
    return {name: int(value) for name, value in re.findall(r"^(\w+) = (\d+)$", out.stdout, re.MULTILINE)}


@pytest.mark.skipif(not Path("/usr/include/asm-generic/unistd.h").exists(), reason="no kernel headers")
@pytest.mark.parametrize(
    ("column", "include", "flags"),
    [(0, X86_64, []), (1, GENERIC, ["-D__BITS_PER_LONG=64", "-D__ARCH_WANT_SYS_CLONE3", "-D__ARCH_WANT_RENAMEAT"])],
    ids=["x86_64", "aarch64"],
)
def test_are_those_of_the_headers(column: int, include: str, flags: list[str]) -> None:
    known = numbers_of_the_headers(include, *flags)
    assert len(known) > 250
    for name, pair in NUMBERS.items():
        if name in known:
            assert pair[column] == known[name], name
        elif (listed := pair[column]) is not None:
            assert listed > max(known.values()), f"{name} is newer than these headers, or not a call"


def test_are_given_once() -> None:
    for column in (0, 1):
        listed = [pair[column] for pair in NUMBERS.values() if pair[column] is not None]
        assert len(listed) == len(set(listed))


def test_newer_calls_have_one_number_everywhere() -> None:
    for name, (x86_64, aarch64) in NUMBERS.items():
        if x86_64 >= 424:
            assert x86_64 == aarch64, name
