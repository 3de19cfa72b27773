"""Where the user stands, by whatever name he came there."""

from __future__ import annotations

from pathlib import Path

import pytest

from nono.errors import UsageError
from nono.policy.inherit import of_text
from nono.policy.resolve import Request, resolve
from nono.supervisor.whereabouts import find_place

OPENS_THE_WORKDIR = '{"workdir": {"access": "readwrite"}}'


@pytest.mark.parametrize(
    ("home", "workdir", "is_broad"),
    [
        ("real", "real", True),
        ("link", "real", True),  # cd ~ where home is a link: getcwd(2) tells the other name
        ("real", "link", True),
        ("real", ".", True),
        ("link", "real/app", False),
        ("real", "link/app", False),
    ],
)
def test_no_name_of_the_home_is_opened_as_the_working_directory(
    tmp_path: Path, home: str, workdir: str, is_broad: bool
) -> None:
    (tmp_path / "real" / "app").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    place = find_place(str(tmp_path / workdir), {"HOME": str(tmp_path / home)})
    assert place.in_the_open == is_broad
    inherited = of_text(OPENS_THE_WORKDIR)
    if is_broad:
        with pytest.raises(UsageError, match="is your home directory or above it"):
            resolve(Request(), inherited, place)
    else:
        resolve(Request(), inherited, place)
    resolve(Request(allow_cwd=True), inherited, place)


def test_two_slashes_in_front_make_no_second_name(tmp_path: Path) -> None:
    environment = {"HOME": f"/{tmp_path}", "XDG_CONFIG_HOME": f"/{tmp_path}/c"}
    place = find_place(f"/{tmp_path}", environment)
    assert (place.home, place.workdir, place.config_home) == (str(tmp_path), str(tmp_path), f"{tmp_path}/c")
