"""The real managers of this machine, as far as it has them: the form of their answers, never the names in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nono.policy.allowlist import parse_entry
from nono.policy.resolve import Place
from nono.registries import ask
from nono.registries.managers import MANAGERS, Manager, Reach, survey


@pytest.mark.parametrize("manager", MANAGERS, ids=lambda manager: manager.name)
def test_names_at_least_one_host(manager: Manager, tmp_path: Path) -> None:
    home = os.environ["HOME"]
    place = Place(home, str(tmp_path), "/tmp", f"{home}/.config", str(tmp_path / "state"), "/run/user/0")
    (tmp_path / "scratch").mkdir()
    tool = next((tool for tool in survey(os.environ, place, Reach(place)) if tool.manager == manager), None)
    if tool is None:
        pytest.skip(f"{manager.commands[0]} is not installed")
    assert tool.obstacle == ""
    answer = ask.ask(tool, str(tmp_path / "scratch"))
    assert answer.hosts
    for host in answer.hosts:
        assert "." in parse_entry(host.entry).name
        assert host.source
