"""The built-in groups: what they hold, what they must never hold, and which of them a run has."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from nono.errors import PolicyError
from nono.policy import data
from nono.policy.capabilities import READ, WRITE, is_at_or_below
from nono.policy.groups import ALIASES, DEFAULT, GROUPS, select, sensitive_paths, system_grants
from nono.policy.protection import NONO

HOME = "/home/u"
LINUX = system_grants(HOME, f"{HOME}/.config")
DENIED = sensitive_paths(HOME, f"{HOME}/.config", f"{HOME}/.local/state", "/run/user/1000")
EVERYTHING = tuple(GROUPS)
# Names that profiles of the existing tool use: its policy.json, and the lists of its documentation.
KNOWN_THERE = [
    "claude_cache_linux",
    "claude_code_linux",
    "claude_code_macos",
    "codex_macos",
    "dangerous_commands",
    "dangerous_commands_linux",
    "dangerous_commands_macos",
    "deny_browser_data_linux",
    "deny_browser_data_macos",
    "deny_credentials",
    "deny_keychains_linux",
    "deny_keychains_macos",
    "deny_macos_private",
    "deny_shell_configs",
    "deny_shell_history",
    "git_config",
    "go_runtime",
    "homebrew",
    "homebrew_linux",
    "homebrew_macos",
    "java_runtime",
    "linux_runtime_state",
    "linux_sysfs_read",
    "linux_temp_read",
    "nix_runtime",
    "node_runtime",
    "opencode_linux",
    "python_runtime",
    "rust_runtime",
    "system_read_linux",
    "system_read_linux_core",
    "system_read_macos",
    "system_write_linux",
    "system_write_macos",
    "unlink_protection",
    "user_caches_linux",
    "user_caches_macos",
    "user_tools",
    "vscode_linux",
    "vscode_macos",
]
# What its required groups deny.
DENIED_THERE = {
    "linux": [
        "~/.ssh",
        "~/.gnupg",
        "~/.aws",
        "~/.azure",
        "~/.config/gcloud",
        "~/.gcloud",
        "~/.kube",
        "~/.docker",
        "~/.git-credentials",
        "~/.netrc",
        "~/.npmrc",
        "~/.vault-token",
        "~/.credentials",
        "~/.secrets",
        "~/.keys",
        "~/.pki",
        "~/.terraform.d",
        "~/.config/op",
        "~/.password-store",
        "~/.1password",
        "~/.op",
        "~/.local/share/keyrings",
        "~/.config/google-chrome",
        "~/.config/chromium",
        "~/.mozilla/firefox",
        "~/.config/microsoft-edge",
        "~/.config/BraveSoftware",
        "~/.bash_history",
        "~/.zsh_history",
        "~/.history",
        "~/.python_history",
        "~/.zshrc",
        "~/.zprofile",
        "~/.zshenv",
        "~/.zlogin",
        "~/.zlogout",
        "~/.bashrc",
        "~/.bash_profile",
        "~/.bash_login",
        "~/.bash_logout",
        "~/.profile",
        "~/.config/fish",
        "~/.env",
        "~/.envrc",
    ],
    "darwin": [
        "~/Library/Keychains",
        "/Library/Keychains",
        "~/.password-store",
        "~/.1password",
        "~/Library/Group Containers/2BUA8C4S2C.com.1password",
        "~/Library/Application Support/1Password",
        "~/Library/Containers/com.1password.1password",
        "~/Library/Application Support/Google/Chrome",
        "~/Library/Application Support/Firefox",
        "~/Library/Application Support/Microsoft Edge",
        "~/Library/Application Support/Arc",
        "~/Library/Application Support/Brave Browser",
        "~/Library/Safari",
        "~/Library/Messages",
        "~/Library/Mail",
        "~/Library/Cookies",
        "~/Library/Containers/com.apple.Safari",
        "~/Library/Application Support/MobileSync",
    ],
}


def denied_below(path: str) -> bool:
    return any(is_at_or_below(path, deny.path) for deny in DENIED)


def grants_of(*names: str, platform: str = "linux") -> dict[str, int]:
    return {
        grant.path: grant.access for grant in system_grants(HOME, f"{HOME}/.config", platform=platform, names=names)
    }


# The data.


@pytest.mark.parametrize("name", GROUPS)
def test_group_is_described_and_sound(name: str) -> None:
    group = GROUPS[name]
    assert group.name == name
    assert group.description
    assert group.platform in ("", "linux", "macos")
    for suffix in ("linux", "macos"):
        assert name.endswith(f"_{suffix}") <= (group.platform == suffix)
    granted = (*group.read, *group.write, *group.readwrite)
    assert granted or group.deny or group.note, "an empty group says why it is"
    assert group.required == name.startswith("deny_") == bool(group.deny), "what denies is required, and only that"
    assert not (granted and group.deny)
    for path in (*granted, *group.deny):
        head, slash, rest = path.partition("/")
        assert head in ("", "~", "$CONFIG", *(("$STATE", "$DATA", "$RUNTIME") if group.deny else ())), path
        assert (slash and rest) or path == "$RUNTIME", f"{path} is everything"
        assert not rest.endswith("/")
        assert not set("*?$~") & set(rest), path
        assert not {"", ".", ".."} & set(rest.split("/")) or path == "$RUNTIME"


def test_nothing_in_the_data_is_left_unread() -> None:
    known = {"description", "required", "platform", "read", "write", "readwrite", "deny", "note"}
    content = data.read("groups.json")
    assert set(content) == {"default", "aliases", "groups"}
    assert all(set(fields) <= known for fields in content["groups"].values())


def test_no_name_stands_twice_in_the_data() -> None:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    text = Path(data.__file__).with_name("groups.json").read_text()
    json.loads(text, object_pairs_hook=unique)


@pytest.mark.parametrize("name", KNOWN_THERE)
def test_names_of_the_existing_tool_load(name: str) -> None:
    assert set(select([name])) >= {*DEFAULT, ALIASES.get(name, name)}


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_denies_what_the_existing_tool_denies(platform: str) -> None:
    denied = sensitive_paths(HOME, f"{HOME}/.config", f"{HOME}/.local/state", "", platform=platform)
    for path in DENIED_THERE[platform]:
        assert any(is_at_or_below(path.replace("~", HOME), deny.path) for deny in denied), path


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
        ".terraform.d/credentials.tfrc.json",
        ".local/share/keyrings/login.keyring",
        ".password-store/x.gpg",
        ".git-credentials",
        ".config/op/config",
        ".local/share/uv/credentials/credentials.toml",
        ".rye/credentials",
        ".dotnet/corefx/cryptography/x509stores/my/key.pfx",
    ],
)
def test_denies_what_is_sensitive(path: str) -> None:
    assert denied_below(f"{HOME}/{path}")


def test_denies_sockets_of_the_desktop() -> None:
    assert denied_below("/run/user/1000/bus")


# What every run has.


def test_grants_are_optional_and_read_only_but_for_devices_that_keep_nothing() -> None:
    assert all(grant.optional for grant in LINUX)
    writable = {grant.path for grant in LINUX if grant.access & WRITE}
    assert writable == {"/dev/null", "/dev/zero", "/dev/full", "/dev/tty"}


@pytest.mark.parametrize("path", ["/", "/etc", "/dev", "/dev/pts", "/dev/shm", "/tmp", "/var", "/run", "/home", HOME])
def test_grants_nothing_as_wide_as(path: str) -> None:
    assert path not in {grant.path for grant in LINUX}


@pytest.mark.parametrize(("platform", "expected"), [("linux", "262cf5094c915654"), ("darwin", "d7e824ed5cc17a63")])
def test_what_every_run_may_read_does_not_change_unnoticed(platform: str, expected: str) -> None:
    """Wider or narrower for everybody: whoever changes this writes a line in CHANGELOG.md."""
    grants = system_grants(HOME, f"{HOME}/.config", platform=platform)
    text = "\n".join(sorted(f"{grant.path} {grant.access}" for grant in grants))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == expected, text


def test_all_that_denies_is_in_every_run() -> None:
    assert {name for name, group in GROUPS.items() if group.required} <= set(DEFAULT)
    assert NONO in DEFAULT


def test_origin_is_the_groups_name() -> None:
    origins = {grant.path: grant.origin for grant in LINUX}
    assert origins["/usr"] == "system_read_linux_core"
    assert origins[f"{HOME}/.gitconfig"] == "git_config"
    assert {deny.path: deny.group for deny in DENIED}[f"{HOME}/.ssh"] == "deny_credentials"


# All groups.


def test_no_grant_is_denied() -> None:
    grants = system_grants(HOME, f"{HOME}/.config", names=EVERYTHING)
    assert [grant.path for grant in grants if denied_below(grant.path)] == []


@pytest.mark.parametrize("names", [DEFAULT, EVERYTHING])
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_paths_are_absolute_normal_and_listed_once(platform: str, names: tuple[str, ...]) -> None:
    grants = system_grants(HOME, f"{HOME}/.config", platform=platform, names=names)
    denies = sensitive_paths(HOME, f"{HOME}/.config", f"{HOME}/.local/state", "", platform=platform, names=names)
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
    assert not grants_of("homebrew_macos")
    assert not grants_of("homebrew_linux", platform="darwin")


@pytest.mark.parametrize("name", [name for name in GROUPS if name.startswith(("dangerous_commands", "unlink"))])
def test_what_is_no_boundary_is_an_empty_group_that_says_so(name: str) -> None:
    assert not grants_of(name)
    assert GROUPS[name].note


# Choosing.


def test_every_run_has_the_default_groups() -> None:
    assert select() == DEFAULT


def test_included_groups_come_on_top_once() -> None:
    chosen = select(["rust_runtime", "user_tools", "rust_runtime"])
    assert chosen == (*DEFAULT, "rust_runtime")
    paths = {grant.path for grant in system_grants(HOME, f"{HOME}/.config", names=chosen)}
    assert paths - {grant.path for grant in LINUX} == {f"{HOME}/.cargo"}


def test_exclude_wins_over_include() -> None:
    chosen = select(["git_config", "rust_runtime"], ["rust_runtime", "git_config", "vscode_linux"])
    assert chosen == tuple(name for name in DEFAULT if name != "git_config")


def test_an_alias_is_what_it_stands_for() -> None:
    assert "homebrew_macos" not in select([], ["homebrew"])
    assert "system_read_linux_core" not in select(["system_read_linux_core"], ["system_read_linux"])


@pytest.mark.parametrize("name", [name for name in GROUPS if name.startswith("deny_")])
def test_a_required_group_is_never_left_out(name: str) -> None:
    with pytest.raises(PolicyError, match=rf"groups\.exclude: {name} .* is never left out; .*bypass_protection"):
        select([name], [name])


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [
        (["node_runtme"], [], "groups.include: there is no group 'node_runtme'; did you mean node_runtime?"),
        (
            [],
            ["deny_credential"],
            "groups.exclude: there is no group 'deny_credential'; did you mean deny_credentials?",
        ),
        (["the rest"], [], "groups.include: there is no group 'the rest'; `nono profile groups` lists them"),
        ([""], [], "groups.include: there is no group ''; `nono profile groups` lists them"),
        (["\x1b[2J"], [], "groups.include: there is no group '\\x1b[2J'; `nono profile groups` lists them"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(include: list[str], exclude: list[str], message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        select(include, exclude)
    assert str(caught.value) == message
