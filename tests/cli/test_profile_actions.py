"""`nono profile list, show, init, diff, groups`: as a user types them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nono.cli.complete.words import builtin_profiles
from nono.cli.profiles import start
from nono.policy.groups import GROUPS as PATH_GROUPS
from nono.policy.network import GROUPS as HOST_GROUPS
from tests.runs import Site

PASTED_KEY = "sk-ant-api03-0123456789abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.fixture
def profiles(site: Site) -> Path:
    directory = site.home / ".config" / "nono" / "profiles"
    directory.mkdir(parents=True)
    return directory


def profile(site: Site, *words: str, status: int = 0) -> str:
    """Return what `nono profile WORDS` prints; its messages where it fails."""
    command = [sys.executable, "-m", "nono", "profile", *words]
    result = subprocess.run(
        command,
        cwd=site.work,
        env=site.environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == status, (result.returncode, result.stdout, result.stderr)
    if not {"--json", "--raw", "init"} & set(words):
        assert [
            line for line in result.stdout.splitlines() if len(line) > 80 and max(map(len, line.split())) < 40
        ] == []
    return result.stdout or result.stderr


def test_all_profiles_are_listed_a_broken_one_with_its_mistake(site: Site, profiles: Path) -> None:
    (profiles / "mine.jsonc").write_text('{"extends": "claude-code", /* . */ "meta": {"description": "of mine"}}')
    (profiles / "claude-code.json").write_text('{"extends": "claude-code"}')
    (profiles / "broken.json").write_text('{"filesystem": {"raed": []}}')
    (profiles / "lost.json").write_text('{"extends": "nowhere"}')
    (profiles / "bad.json").write_text("{")
    (profiles / "two.json").write_text("{}")
    (profiles / "two.jsonc").write_text("{}")
    (profiles / ".hidden.json").write_text("{")
    (profiles / "notes.txt").write_text("{")
    (profiles / "esc\x1b[31m.json").write_text("{}")
    os.mkfifo(profiles / "pipe.json")
    text = " ".join(profile(site, "list").split())
    for expected in (
        "yours (~/.config/nono/profiles)",
        "mine of mine extends claude-code",
        "broken cannot be used: filesystem.raed is not a known key; did you mean read?",
        "lost extends nowhere cannot be used: ",
        "bad cannot be used: line 1",
        "pipe cannot be used: is not a regular file",
        "(there are a .json and a .jsonc of this name; keep one of them)",
        "(yours takes its place)",
        "esc\\x1b[31m",
    ):
        assert expected in text
    assert "hidden" not in text
    assert "notes" not in text
    found = json.loads(profile(site, "list", "--json"))
    assert found["directory"] == str(profiles)
    by_source = {(each["name"], each["source"]): each for each in found["profiles"]}
    assert {name for name, source in by_source if source == "built-in"} == set(builtin_profiles())
    assert by_source["claude-code", "built-in"]["shadowed"]
    assert not by_source["codex", "built-in"]["shadowed"]
    assert by_source["mine", str(profiles / "mine.jsonc")]["extends"] == ["claude-code"]
    assert by_source["broken", str(profiles / "broken.json")]["error"]


def test_without_any_of_ones_own_the_way_to_one_is_said(site: Site) -> None:
    assert "none; write one with: nono profile init" in profile(site, "list")


def test_show_says_what_a_profile_comes_to_and_who_says_so(site: Site, profiles: Path) -> None:
    (profiles / "base.json").write_text(
        '{"filesystem": {"read": ["~/notes", "$WORKDIR/docs"]}, "groups": {"include": ["rust_runtime"]}}'
    )
    credential = {"upstream": "https://x.example", "credential_key": PASTED_KEY}
    (profiles / "mine.json").write_text(
        json.dumps(
            {
                "extends": "base",
                "meta": {"description": "of mine"},
                "filesystem": {"allow": ["~/src"], "read": ["~/notes"], "unix_socket": ["own"]},
                "groups": {"exclude": ["git_config"]},
                "network": {"credentials": ["own"], "custom_credentials": {"own": credential}},
                "environment": {"allow_vars": [], "set_vars": {"A": "1", "KEY": PASTED_KEY}},
            }
        )
    )
    text = profile(site, "show", "mine")
    lines = text.splitlines()
    assert lines[0] == "mine: of mine"
    flat = " ".join(text.split())
    for expected in (
        "base ~/.config/nono/profiles/base.json mine ~/.config/nono/profiles/mine.json",
        "+ rust_runtime [base]",
        "- git_config [mine]",
        "allow ~/src [mine]",
        "read ~/notes [base]",
        f"{site.work}/docs ($WORKDIR/docs) [base]".replace(str(site.home), "~"),
        "unix_socket own [mine]",
        "credentials own [mine]",
        "set_vars.A 1 [mine]",
        "allow_vars none",
    ):
        assert expected in flat
    assert PASTED_KEY not in text
    found = json.loads(profile(site, "show", "mine", "--json"))
    assert PASTED_KEY not in json.dumps(found)
    assert [level["name"] for level in found["lineage"]] == ["base", "mine"]
    assert {"field": "read", "written": "~/notes", "path": f"{site.home}/notes", "origin": "base"} in found["paths"]
    assert found["origins"]["filesystem.allow"] == {"~/src": "mine"}
    assert found["profile"]["filesystem"]["allow"] == ["~/src"]
    assert "rust_runtime" in found["groups"]
    assert "git_config" not in found["groups"]


def test_show_raw_is_the_file(site: Site, profiles: Path) -> None:
    text = '// mine\n{"meta": {},}\n'
    (profiles / "mine.jsonc").write_text(text)
    assert profile(site, "show", "mine", "--raw") == text
    assert json.loads(profile(site, "show", "mine", "--raw", "--json")) == {"text": text}
    assert "no profile 'mien'; did you mean mine?" in profile(site, "show", "mien", status=2)


@pytest.mark.parametrize("name", builtin_profiles())
def test_each_built_in_profile_is_shown_and_is_valid(site: Site, name: str) -> None:
    assert profile(site, "show", name).startswith(name)
    assert profile(site, "validate", name) == f"{name}: ok\n"


def test_a_new_profile_is_valid_private_and_never_overwrites(site: Site) -> None:
    path = Path(profile(site, "init", "mine", "--extends", "claude-code").strip())
    assert path == site.home / ".config/nono/profiles/mine.jsonc"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert ": ok" in profile(site, "validate", "mine")
    before = path.read_text()
    assert "is there already, and is left as it is" in profile(site, "init", "mine", status=2)
    assert path.read_text() == before
    path.rename(path.with_suffix(".json"))
    assert "is there already" in profile(site, "init", "mine", status=2)
    (path.parent / "link.jsonc").symlink_to(site.home / "elsewhere")
    assert "is there already" in profile(site, "init", "link", status=2)
    assert not (site.home / "elsewhere").exists()


def test_a_new_profile_for_a_command_builds_on_the_one_for_it(site: Site) -> None:
    path = Path(profile(site, "init", "--for", "/opt/bin/claude").strip())
    assert path.name == "claude.jsonc"
    assert '"extends": "claude-code"' in path.read_text()
    path = Path(profile(site, "init", "codex").strip())  # builds on the built-in one of its name
    assert '"extends": "codex"' in path.read_text()
    assert ": ok" in profile(site, "validate", "claude")
    assert ": ok" in profile(site, "validate", "codex")
    path = Path(profile(site, "init", "--for", "node 'a b.js'").strip())
    assert path.name == "node.jsonc"
    assert "nono run -p node -- node 'a b.js'\n" in path.read_text()
    (site.work / "base.json").write_text("{}")
    path = Path(profile(site, "init", "here", "--extends", "./base.json", "--extends", "go-dev").strip())
    assert f'"extends": ["{site.work}/base.json", "go-dev"]' in path.read_text()
    assert ": ok" in profile(site, "validate", "here")
    assert "there is no profile 'nothing'" in profile(site, "init", "there", "--extends", "nothing", status=2)
    path = Path(profile(site, "init", "--for", 'a"b\n} {').strip())
    assert path.name == "my-agent.jsonc"
    assert ": ok" in profile(site, "validate", "my-agent")


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "a.json", "", "a b", "a\x1b", "é"])
def test_what_is_no_name_is_refused(site: Site, name: str) -> None:
    assert "is no name for a profile" in profile(site, "init", name, status=2)
    assert not (site.home / ".config/nono/profiles").exists()


def test_each_line_of_a_new_profile_may_be_taken_out_of_its_comment(site: Site, profiles: Path) -> None:
    text = start.text("mine", "COMMAND", [])
    lines = [line.replace("// ", "", 1) if line.lstrip().startswith('// "') else line for line in text.splitlines()]
    block = [line for line in lines if '"block": true' not in line]  # which excludes the others
    others = ('"network_profile"', '"allow_domain"', '"credentials"')
    for each in (block, [line for line in lines if not any(key in line for key in others)]):
        (profiles / "mine.jsonc").write_text("\n".join(each))
        said = profile(site, "validate", "mine")
        assert said.startswith("~/.config/nono/profiles/mine.jsonc: ok"), said


def test_diff_says_what_is_different_as_diff_does(site: Site, profiles: Path) -> None:
    (profiles / "mine.json").write_text(
        json.dumps(
            {
                "extends": "claude-code",
                "filesystem": {"read": ["~/notes"]},
                "network": {"block": True, "network_profile": None},
                "environment": {"set_vars": {"IS_SANDBOX": "0"}},
            }
        )
    )
    assert profile(site, "diff", "claude-code", "claude-code") == ""
    text = profile(site, "diff", "claude-code", "mine", status=1)
    assert text.startswith("--- claude-code\n+++ mine\n")
    assert "filesystem.read\n  + ~/notes\n" in text
    assert "environment.set_vars.IS_SANDBOX\n  - 1\n  + 0\n" in text
    assert "network.block\n  + true\n" in text
    assert "network.network_profile\n  - claude-code\n" in text
    found = json.loads(profile(site, "diff", "mine", "claude-code", "--json", status=1))
    assert not found["same"]
    assert {"key": "filesystem.read", "removed": ["~/notes"], "added": []} in found["changes"]
    assert json.loads(profile(site, "diff", "mine", "mine", "--json")) == {"same": True, "changes": []}
    assert "there is no profile" in profile(site, "diff", "mine", "nothing-like-it", status=2)


def test_a_group_of_paths_is_shown_with_its_paths(site: Site) -> None:
    site.environment["PATH"] = "/nowhere"  # so that no package manager is asked
    text = profile(site, "groups", "deny_credentials")
    assert "every run has it; it cannot be left out" in text
    assert "  deny       ~/.ssh\n" in text
    found = json.loads(profile(site, "groups", "deny_credentials", "--json"))["deny_credentials"]
    assert found["required"]
    assert f"{site.home}/.ssh" in found["deny"]
    assert (
        json.loads(profile(site, "groups", "system_write_macos", "--json"))["system_write_macos"]["platform"] == "macos"
    )
    assert "did you mean deny_credentials?" in profile(site, "groups", "deny_credential", status=2)
    found = json.loads(profile(site, "groups", "--json"))
    assert set(found) == {*PATH_GROUPS, *HOST_GROUPS}
    assert found["github"]["hosts"] == list(HOST_GROUPS["github"])
    text = profile(site, "groups")
    assert all(name in text for name in found)


def test_no_group_of_paths_is_called_like_one_of_hosts() -> None:
    assert not set(PATH_GROUPS) & set(HOST_GROUPS)


def test_which_profiles_there_are_is_known_inside_no_sandbox(site: Site, profiles: Path) -> None:
    (profiles / "mine.json").write_text("{}")
    command = [sys.executable, "-c", "import os, sys; print(os.listdir(sys.argv[1]))", str(profiles)]
    result = site.run(["--allow", str(site.home)], command)
    assert "mine.json" not in result.stdout


def test_a_hostile_file_repaints_no_screen(site: Site) -> None:
    hostile = {
        "meta": {"name": "a\x1b[2J", "description": "b\x1b[31m"},
        "filesystem": {"read": ["/\x1b[1mx"]},
        "environment": {"set_vars": {"A": "\x1b]0;title\x07"}},
    }
    (site.work / "hostile.json").write_text(json.dumps(hostile))
    (site.work / "\x1b[5m.json").write_text('{"\\u001b[7m": 1}')
    for words in (["show", "./hostile.json"], ["validate", "./hostile.json"], ["show", "hostile.json", "--json"]):
        assert "\x1b" not in profile(site, *words)
    assert "\x1b" not in profile(site, "diff", "hostile.json", "default", status=1)
    assert "\x1b" not in profile(site, "validate", "\x1b[5m.json", status=1)
