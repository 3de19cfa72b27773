"""The real managers of this machine, as far as it has them: the form of their answers, never the names in them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nono.policy.allowlist import parse_entry
from nono.policy.resolve import Place
from nono.registries import ask
from nono.registries.managers import MANAGERS, Manager, Reach, Tool, survey


def runs(tool: Tool) -> bool:
    """Whether this manager works for this user at all: rustup's cargo needs a toolchain below HOME."""
    version = "version" if tool.manager.name == "go" else "--version"
    return subprocess.run([tool.path, version], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("manager", MANAGERS, ids=lambda manager: manager.name)
def test_names_at_least_one_host(manager: Manager, tmp_path: Path) -> None:
    home = os.environ["HOME"]
    place = Place(home, str(tmp_path), "/tmp", f"{home}/.config", str(tmp_path / "state"), "/run/user/0")
    (tmp_path / "scratch").mkdir()
    tool = next((tool for tool in survey(os.environ, place, Reach(place)) if tool.manager == manager), None)
    if tool is None:
        pytest.skip(f"{manager.commands[0]} is not installed")
    if not runs(tool):
        pytest.skip(f"{manager.commands[0]} does not run for this user")
    assert tool.obstacle == ""
    answer = ask.ask(tool, str(tmp_path / "scratch"))
    assert answer.hosts
    for host in answer.hosts:
        assert "." in parse_entry(host.entry).name
        assert host.source


def test_none_of_them_obeys_the_working_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        ".npmrc": "registry=https://evil.example\n",
        "package.json": '{"name": "x", "version": "1.0.0"}',
        "pip.conf": "[global]\nindex-url = https://evil.example\n",
        ".python-version": "evil",
        ".cargo/config.toml": '[source.evil]\nregistry = "sparse+https://evil.example/"\n',
        "rust-toolchain.toml": '[toolchain]\nchannel = "evil"\n',
        "go.mod": "module evil.example\n",
        ".mvn/maven.config": "-s settings.xml",
        "settings.xml": "<settings><mirrors><mirror><mirrorOf>*</mirrorOf><url>https://evil.example</url></mirror>"
        "</mirrors></settings>",
        ".gemrc": ":sources:\n- https://evil.example/\n",
    }.items():
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path / "work")
    home = os.environ["HOME"]
    place = Place(home, str(tmp_path / "work"), "/tmp", f"{home}/.config", str(tmp_path / "state"), "/run/user/0")
    tools = [tool for tool in survey(os.environ, place, Reach(place)) if runs(tool)]
    if not tools:
        pytest.skip("no package manager is installed")
    for tool in tools:
        scratch = tmp_path / tool.manager.name
        scratch.mkdir()
        answer = ask.ask(tool, str(scratch))
        assert answer.hosts, tool.manager.name
        assert not any("evil" in host.entry for host in answer.hosts)
