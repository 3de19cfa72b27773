"""Paths as users write them: one place has one name."""

from __future__ import annotations

import pytest

from nono.policy.paths import Place, expand

PLACE = Place("/home/u", "/home/u/app", "/tmp", "/home/u/.config", "/home/u/.local/state", "/run/user/1")


@pytest.mark.parametrize("slashes", ["/", "//", "///", "//./"])
def test_slashes_in_front_make_no_second_name(slashes: str) -> None:
    """POSIX lets normpath() keep two: a grant of //home/u/.ssh was not met by the deny of /home/u/.ssh."""
    assert expand(f"{slashes}home/u/.ssh", PLACE) == "/home/u/.ssh"
    assert expand(slashes, PLACE) == "/"


def test_a_home_with_two_slashes_is_the_same_home() -> None:
    place = PLACE._replace(home="//home/u", workdir="//home/u/app")
    assert expand("~/.ssh", place) == expand("$HOME/.ssh", place) == expand("../.ssh", place) == "/home/u/.ssh"
