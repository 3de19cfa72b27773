"""Which managers are asked: only those of which the agent can change nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nono.policy.capabilities import READ, WRITE, PathDeny, PathGrant
from tests.registries.conftest import Machine


def writable(path: Path) -> PathGrant:
    return PathGrant(str(path), READ | WRITE, False, "--allow")


def test_finds_what_is_on_the_path_and_no_more(machine: Machine) -> None:
    machine.program("pip3", "")
    machine.program("go", "")
    (machine.bin / "npm").write_text("not executable")
    assert machine.names() == ["pip", "go"]
    assert machine.tool("pip").path == str(machine.bin / "pip3")
    assert [tool.obstacle for tool in machine.tools()] == ["", ""]


def test_prefers_pip_to_pip3_in_a_later_directory(machine: Machine) -> None:
    later = machine.home / "later"
    machine.environment["PATH"] += f":{later}"
    machine.program("pip3", "")
    machine.program("pip", "", later)
    assert machine.tool("pip").path == str(later / "pip")


def test_passes_over_a_program_in_the_working_tree(machine: Machine) -> None:
    machine.program("pip", "", machine.work / "bin")
    assert "the agent may write" in machine.tool("pip").obstacle
    trusted = machine.program("pip", "")
    assert machine.tool("pip").path == str(trusted)
    assert machine.tool("pip").obstacle == ""
    assert machine.tool("pip").environment["PATH"] == str(machine.bin)


def test_passes_over_a_relative_directory_of_the_path(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(machine.work)
    machine.program("pip", "", machine.work / "bin")
    machine.environment["PATH"] = "bin::."
    assert machine.tools() == []


def test_the_home_directory_is_no_working_tree(machine: Machine) -> None:
    machine.workdir = machine.home
    machine.file(".npmrc", "")
    machine.program("npm", "")
    assert machine.tool("npm").obstacle == ""
    assert machine.tool("npm").settings[0] == str(machine.home / ".npmrc")


@pytest.mark.parametrize(
    ("manager", "command", "granted"),
    [
        ("pip", "pip", ".config"),
        ("pip", "pip", ".config/pip/pip.conf"),
        ("pip", "pip", ".local/lib/python3.11"),
        ("npm", "npm", ".npmrc"),
        ("cargo", "cargo", ".cargo"),
        ("cargo", "cargo", ".rustup/toolchains"),
        ("go", "go", ".config/go"),
        ("maven", "mvn", ".m2/settings.xml"),
        ("gem", "gem", ".gem/ruby"),
        ("gem", "gem", "."),
        ("gem", "gem", "../bin"),
        ("gem", "gem", "../bin/gem"),
    ],
)
def test_leaves_out_a_manager_that_the_agent_could_steer(
    machine: Machine, manager: str, command: str, granted: str
) -> None:
    machine.program(command, "")
    assert machine.tool(manager).obstacle == ""
    machine.grants = [writable(Path(os.path.normpath(machine.home / granted)))]
    assert machine.tool(manager).obstacle
    machine.grants = [machine.grants[0]._replace(access=READ)]
    assert machine.tool(manager).obstacle == ""


def test_a_cache_that_the_agent_may_write_is_no_obstacle(machine: Machine) -> None:
    for command in ("cargo", "mvn", "npm"):
        machine.program(command, "")
    machine.grants = [writable(machine.home / name) for name in (".cargo/registry", ".m2/repository", ".npm")]
    assert [tool.obstacle for tool in machine.tools()] == ["", "", ""]


def test_a_denied_file_is_believed_under_a_broader_grant(machine: Machine) -> None:
    machine.program("npm", "")
    config = machine.home / "settings"
    machine.environment["NPM_CONFIG_USERCONFIG"] = str(config / "npmrc")
    machine.grants = [writable(config)]
    assert machine.tool("npm").obstacle == f"the agent may write {config / 'npmrc'}"
    machine.denies = [PathDeny(str(config / "npmrc"), "deny_credentials")]
    assert machine.tool("npm").obstacle == ""


def test_a_link_that_the_agent_can_turn_is_not_hidden_by_a_protected_target(machine: Machine) -> None:
    machine.program("npm", "")
    target = machine.file("secrets/npmrc", "")
    (machine.home / "granted").mkdir()
    (machine.home / "granted/link").symlink_to(target)
    (machine.home / ".npmrc").symlink_to(machine.home / "granted/link")
    machine.grants = [writable(machine.home / "granted")]
    machine.denies = [PathDeny(str(machine.home / "secrets"), "deny_credentials")]
    assert machine.tool("npm").obstacle


@pytest.mark.parametrize("where", ["file", "directory", "chain"])
def test_follows_links_to_where_the_agent_may_write(machine: Machine, where: str) -> None:
    machine.program("pip", "")
    (machine.work / "pip").mkdir()
    (machine.work / "pip/pip.conf").write_text("")
    (machine.home / ".config").mkdir()
    if where == "directory":
        (machine.home / ".config/pip").symlink_to(machine.work / "pip")
    else:
        (machine.home / ".config/pip").mkdir()
        safe = machine.file("safe.conf", "")
        target = machine.work / "pip/pip.conf"
        if where == "chain":  # out of the tree again, but by a link that the agent can turn
            target = machine.work / "link"
            target.symlink_to(safe)
        (machine.home / ".config/pip/pip.conf").symlink_to(target)
    assert machine.tool("pip").obstacle


def test_a_program_that_is_a_link_into_the_working_tree_is_left_out(machine: Machine) -> None:
    real = machine.program("go", "", machine.work / "sdk/bin")
    (machine.bin / "go").symlink_to(real)
    assert machine.tool("go").obstacle


def test_a_script_whose_interpreter_the_agent_may_write_is_left_out(machine: Machine) -> None:
    interpreter = machine.work / "venv/bin/python"
    interpreter.parent.mkdir(parents=True)
    interpreter.symlink_to("/bin/sh")
    script = machine.program("pip", "")
    script.write_text(f"#!{interpreter}\n")
    assert machine.tool("pip").obstacle


def test_a_program_whose_interpreter_on_the_path_leads_into_the_working_tree_is_left_out(machine: Machine) -> None:
    machine.program("npm", "")
    node = machine.program("node", "", machine.work / "node/bin")
    (machine.bin / "node").symlink_to(node)
    assert machine.tool("npm").obstacle


def test_links_that_lead_in_a_circle_are_nothing(machine: Machine) -> None:
    machine.program("npm", "")
    (machine.home / ".npmrc").symlink_to(machine.home / ".npmrc")
    assert str(machine.home / ".npmrc") not in machine.tool("npm").settings


def test_hands_over_its_own_variables_and_nothing_that_loads_code(machine: Machine) -> None:
    machine.program("pip", "")
    machine.program("go", "")
    names = ("PIP_INDEX_URL", "GOPROXY", "HTTPS_PROXY", "LANG", "PYTHONPATH", "LD_PRELOAD", "OPENAI_API_KEY")
    machine.environment |= dict.fromkeys(names, "x")
    machine.environment["GOOGLE_APPLICATION_CREDENTIALS"] = "/key.json"
    shared = {"HOME", "PATH", "HTTPS_PROXY", "LANG"}
    assert machine.tool("pip").environment.keys() == shared | {"PIP_INDEX_URL"}
    assert machine.tool("go").environment.keys() == shared | {"GOPROXY"}


@pytest.mark.parametrize(
    ("command", "name"),
    [("pip", name) for name in ("PIP_PYTHON", "PIP_REQUIREMENT", "PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "PIP_LOG",
                                "PIP_FIND_LINKS", "PIP_CACHE_DIR", "PYENV_DIR", "PYTHONHOME")]
    + [("npm", name) for name in ("NPM_CONFIG_PREFIX", "npm_config_prefix", "npm_config_script_shell", "NODE_OPTIONS")]
    + [("cargo", name) for name in ("RUSTUP_TOOLCHAIN", "CARGO_REGISTRY_CREDENTIAL_PROVIDER", "RUSTC_WRAPPER")]
    + [("go", "GOROOT"), ("go", "GOFLAGS"), ("mvn", "MAVEN_OPTS"), ("mvn", "MAVEN_HOME"), ("gem", "RUBYOPT")]
    + [("mvn", "JAVA_TOOL_OPTIONS")],
)  # fmt: skip
def test_hands_over_no_variable_that_names_code(machine: Machine, command: str, name: str) -> None:
    machine.program(command, "")
    machine.environment[name] = "x"
    (tool,) = machine.tools()
    assert name not in tool.environment


def test_a_toolchain_of_the_agents_is_left_out(machine: Machine) -> None:
    machine.program("cargo", "")
    machine.environment["RUSTUP_HOME"] = str(machine.work / ".rustup")
    assert machine.tool("cargo").obstacle


def test_variables_that_npm_made_from_a_project_are_not_the_users(machine: Machine) -> None:
    machine.program("npm", "")
    machine.environment |= {"npm_config_registry": "https://evil.example", "npm_lifecycle_event": "start"}
    assert "npm_config_registry" not in machine.tool("npm").environment
    del machine.environment["npm_lifecycle_event"]
    assert "npm_config_registry" in machine.tool("npm").environment


def test_no_settings_at_all_can_be_chosen(machine: Machine) -> None:
    machine.program("pip", "")
    machine.environment["PIP_CONFIG_FILE"] = os.devnull
    machine.grants = [writable(Path(os.devnull))]
    assert machine.tool("pip").obstacle == ""


def test_the_key_follows_what_the_manager_obeys(machine: Machine) -> None:
    program = machine.program("pip", "")
    keys = [machine.tool("pip").key]
    machine.file(".config/pip/pip.conf", "[global]")
    keys.append(machine.tool("pip").key)
    settings = machine.home / ".config/pip/pip.conf"
    times = (settings.stat().st_atime_ns, settings.stat().st_mtime_ns)
    settings.write_text("[GLOBAL]")
    os.utime(settings, ns=times)  # which the agent can do
    keys.append(machine.tool("pip").key)
    machine.environment["PIP_INDEX_URL"] = "https://user:password@mirror.example"
    keys.append(machine.tool("pip").key)
    program.write_text(program.read_text() + "#")
    keys.append(machine.tool("pip").key)
    assert len(set(keys)) == len(keys)
    machine.environment |= {"LANG": "C", "GOPROXY": "off", "PATH": f"/nonexistent:{machine.bin}"}
    machine.workdir = machine.home
    assert machine.tool("pip").key == keys[-1]
    assert "password" not in keys[-1]
