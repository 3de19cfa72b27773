"""The built-in groups: what they hold, and what they must never hold."""

from __future__ import annotations

import pytest

from nono.policy.capabilities import READ, WRITE
from nono.policy.groups import sensitive_paths, system_grants

HOME = "/home/u"
LINUX = system_grants(HOME, f"{HOME}/.config")
DENIED = sensitive_paths(HOME, f"{HOME}/.config", f"{HOME}/.local/state", "/run/user/1000")


def denied_below(path: str) -> bool:
    return any(path == deny.path or path.startswith(f"{deny.path}/") for deny in DENIED)


@pytest.mark.parametrize(
    "path",
    [
        "/usr",
        "/lib64",
        "/etc/ld.so.cache",
        "/etc/passwd",
        "/etc/ssl",
        "/etc/gitconfig",
        "/proc",
        "/dev/null",
        "/dev/urandom",
        "/dev/tty",
        "/sys/devices/system/cpu",
        f"{HOME}/.pyenv",
        f"{HOME}/.gitconfig",
    ],
)
def test_holds_what_agents_need(path: str) -> None:
    assert path in {grant.path for grant in LINUX}


@pytest.mark.parametrize(
    "path",
    [
        ".ssh/id",
        ".aws/credentials",
        ".netrc",
        ".npmrc",
        ".bashrc",
        ".zsh_history",
        ".config/gh/hosts.yml",
        ".gnupg/x",
        ".config/nono/profiles/x.json",
        ".local/state/nono/audit",
        ".config/python_keyring/keyringrc.cfg",
        ".mozilla/firefox",
        ".config/google-chrome/Default",
        ".kube/config",
        ".docker/config.json",
        ".local/share/keyrings/login.keyring",
        ".password-store/x.gpg",
        ".git-credentials",
        ".config/op/config",
    ],
)
def test_denies_what_is_sensitive(path: str) -> None:
    assert denied_below(f"{HOME}/{path}")


def test_denies_sockets_of_the_desktop() -> None:
    assert denied_below("/run/user/1000/bus")


def test_grants_are_optional_and_read_only_but_for_devices_that_keep_nothing() -> None:
    assert all(grant.optional for grant in LINUX)
    writable = {grant.path for grant in LINUX if grant.access & WRITE}
    assert writable == {"/dev/null", "/dev/zero", "/dev/full", "/dev/tty"}


@pytest.mark.parametrize("path", ["/", "/etc", "/dev", "/dev/pts", "/dev/shm", "/tmp", "/var", "/run", "/home", HOME])
def test_grants_nothing_as_wide_as(path: str) -> None:
    assert path not in {grant.path for grant in LINUX}


def test_no_grant_is_denied() -> None:
    assert [grant.path for grant in LINUX if denied_below(grant.path)] == []


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_paths_are_absolute_normal_and_listed_once(platform: str) -> None:
    grants = system_grants(HOME, f"{HOME}/.config", platform=platform)
    denies = sensitive_paths(HOME, f"{HOME}/.config", f"{HOME}/.local/state", "", platform=platform)
    for paths in ([grant.path for grant in grants], [deny.path for deny in denies]):
        assert all(path.startswith("/") and not path.endswith("/") and "//" not in path for path in paths)
        assert not [path for path in paths if "$" in path or "~" in path]
        assert len(paths) == len(set(paths))
    assert all(deny.group.startswith("deny_") for deny in denies)
    assert all(grant.access in (READ, READ | WRITE) for grant in grants)


def test_a_moved_config_home_is_denied_in_both_places() -> None:
    paths = {deny.path for deny in sensitive_paths(HOME, "/data/cfg", "/data/state", "")}
    assert {"/data/cfg/nono", f"{HOME}/.config/nono", "/data/state/nono", f"{HOME}/.local/state/nono"} <= paths


def test_each_system_has_its_own() -> None:
    mac = {deny.path for deny in sensitive_paths(HOME, f"{HOME}/.config", "", "", platform="darwin")}
    assert f"{HOME}/Library/Keychains" in mac
    assert f"{HOME}/.local/share/keyrings" not in mac
    assert f"{HOME}/.ssh" in mac
