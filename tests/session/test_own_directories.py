"""The directory that a profile keeps for its agent: made at the first run, and nothing else is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nono.errors import StoreError
from nono.policy.capabilities import NOTED, READ, WRITE, PathGrant
from nono.policy.resolve import Place
from nono.session.own_directories import is_own, make
from tests.runs import Site

HOME = "/home/u"
PLACE = Place(HOME, "/work", "/tmp", f"{HOME}/.config", f"{HOME}/.local/state", "", data_home="/data")
OWN = f"{HOME}/.local/share/nono/agent"


def grant(path: object, access: int = READ | WRITE, *, is_file: bool = False) -> PathGrant:
    return PathGrant(str(path), access, is_file, "profile p", absent=NOTED)


@pytest.mark.parametrize("path", [OWN, f"{OWN}/below", "/data/nono/agent"])
def test_what_is_writable_below_nonos_data_is_the_agents_own(path: str) -> None:
    assert is_own(grant(path), PLACE)


@pytest.mark.parametrize(
    "other",
    [
        grant(OWN, READ),
        grant(OWN, is_file=True),
        grant(f"{HOME}/.local/share/nono"),
        grant(f"{HOME}/.local/share/nonotes/x"),
        grant(f"{HOME}/.config/nono/x"),
        grant(f"{HOME}/src"),
        grant("/data/other"),
        grant(OWN)._replace(absent="", origin="--allow"),
    ],
)
def test_nothing_else_is(other: PathGrant) -> None:
    assert not is_own(other, PLACE)


def test_is_made_for_the_user_alone_and_nothing_else_is(tmp_path: Path) -> None:
    place = PLACE._replace(data_home=str(tmp_path))
    own, other = tmp_path / "nono" / "a" / "b", tmp_path / "other"
    make([grant(own), grant(other)], place)
    assert own.stat().st_mode & 0o777 == 0o700
    assert not other.exists()
    (own / "kept").touch()
    make([grant(own)], place)
    assert (own / "kept").exists()


def test_what_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "nono").touch()
    with pytest.raises(StoreError, match=r"profile p .*/nono/agent: cannot be made: .*; make it yourself"):
        make([grant(tmp_path / "nono" / "agent")], PLACE._replace(data_home=str(tmp_path)))


@pytest.mark.parametrize(("link", "below"), [("agent", ""), ("agent", "/cache"), ("agent/cache", "/cache")])
def test_no_link_is_followed_to_it(site: Site, link: str, below: str) -> None:
    """An earlier run that could write around it (--allow ~) might have put one, and would open what it leads to."""
    notes, data = site.home / "notes", site.home / ".local" / "share" / "nono"
    (notes / "cache").mkdir(parents=True)
    (data / link).parent.mkdir(parents=True)
    (data / link).symlink_to(notes)
    profile = site.vault / "profile.json"
    profile.write_text(json.dumps({"filesystem": {"allow": [f"~/.local/share/nono/agent{below}"]}}))
    done = site.run(["-p", str(profile)], ["touch", str(notes / "written")])
    assert done.returncode == 1, done.stderr
    assert f"nono/{link} is a link, which an earlier run may have made" in done.stderr.replace("\n", " ")
    assert os.listdir(notes) == ["cache"]


def test_a_link_to_a_protected_place_is_refused_all_the_same(site: Site) -> None:
    (site.home / ".ssh").mkdir()
    own = site.home / ".local" / "share" / "nono" / "agent"
    own.parent.mkdir(parents=True)
    own.symlink_to(site.home / ".ssh")
    profile = site.vault / "profile.json"
    profile.write_text(json.dumps({"filesystem": {"allow": ["~/.local/share/nono/agent"]}}))
    done = site.run(["-p", str(profile)], ["touch", str(own / "config")])
    assert done.returncode == 1, done.stderr
    assert os.listdir(site.home / ".ssh") == []


def test_a_dry_run_makes_nothing(site: Site) -> None:
    profile = site.vault / "profile.json"
    profile.write_text(json.dumps({"filesystem": {"allow": ["~/.local/share/nono/agent"]}}))
    own = site.home / ".local" / "share"
    assert site.run(["-p", str(profile), "--dry-run"], ["true"]).returncode == 0
    assert not own.exists()
    done = site.run(["-p", str(profile)], ["touch", str(own / "nono" / "agent" / "made")])
    assert done.returncode == 0, done.stderr
    assert (own / "nono" / "agent" / "made").exists()
