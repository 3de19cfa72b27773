"""No agent writes what says whom the user trusts, or reads what signs as he does, wherever it lies."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nono.trust import keys, own
from tests.runs import Site

WRITE = ["sh", "-c", 'echo x > "$1/evil.pub"; mv "$1" "$1.old"; mkdir "$1"; cat "$1"/*.pub', "sh"]


@pytest.fixture
def config(site: Site) -> Path:
    directory = site.home / ".config/nono"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def run(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    return site.run(["--silent", "--block-net", *words[: words.index("--")]], list(words[words.index("--") + 1 :]))


def test_own_keys_that_a_link_leads_to_are_closed(site: Site, config: Path) -> None:
    kept = site.home / "dotfiles/trust"
    kept.mkdir(parents=True)
    (config / "trust").symlink_to(kept)
    own.add(str(config), "default", keys.public_of(keys.generate()))
    done = run(site, "--allow", str(kept.parent), "--", *WRITE, str(kept))
    assert "BEGIN PUBLIC KEY" not in done.stdout
    assert os.listdir(kept) == ["default.pub"]
    assert os.listdir(kept.parent) == ["trust"]


def test_so_is_where_a_link_leads_when_nothing_is_there_yet(site: Site, config: Path) -> None:
    kept = site.home / "dotfiles/trust"
    kept.parent.mkdir()
    (config / "trust").symlink_to(kept)
    run(site, "--allow", str(kept.parent), "--", "sh", "-c", 'mkdir "$1"; echo x > "$1/evil.pub"', "sh", str(kept))
    assert os.listdir(kept.parent) == []


@pytest.mark.parametrize("name", ["trust-policy.json", "trust-policy.json.bundle"])
def test_a_policy_that_a_link_leads_to_is_closed(site: Site, config: Path, name: str) -> None:
    kept = site.home / "dotfiles/kept.json"
    kept.parent.mkdir()
    kept.write_text('{"Version": "1"}')
    (config / name).symlink_to(kept)
    run(site, "--allow", str(kept.parent), "--", "sh", "-c", 'echo x > "$1"; mv "$1" "$1.old"', "sh", str(kept))
    assert kept.read_text() == '{"Version": "1"}'


def test_a_key_in_a_file_is_closed_to_every_agent(site: Site, config: Path) -> None:
    """Here it has left the public half only: nothing else says where the key is."""
    key = site.work / "key"
    key.write_text("the private half")
    own.add(str(config), f"file://{key}", keys.public_of(keys.generate()))
    done = run(site, "--allow", str(site.work), "--", "cat", str(key))
    assert done.returncode == 1
    assert "the private half" not in done.stdout
    done = run(site, "--read-file", str(key), "--", "cat", str(key))
    assert done.returncode == 2
    assert "stays denied" in done.stderr


def test_what_cannot_be_known_is_refused(site: Site, config: Path) -> None:
    (config / "trust").mkdir()
    (config / "trust/odd.pub").mkdir()
    done = run(site, "--allow", str(site.work), "--", "touch", "started")
    assert done.returncode == 2
    assert "odd.pub cannot be read (Is a directory)" in done.stderr
    assert not (site.work / "started").exists()
