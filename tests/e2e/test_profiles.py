"""Profiles in real runs: what a run was told by stays as it was; what users of the existing tool bring along loads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.runs import Site

# In our own words, but with every key that such profiles commonly have.
BROUGHT_ALONG = """{
  "$schema": "./nono-profile.schema.json",
  "extends": ["python-dev", "default"],
  "meta": {"name": "brought", "version": "1.0.0", "description": "as people have them", "author": null},
  "security": {"signal_mode": "isolated", "process_info_mode": "allow_same_sandbox", "ipc_mode": "full",
               "capability_elevation": false, "wsl2_proxy_policy": "error"},
  "groups": {"include": ["node_runtime", "git_config", {"name": "user_caches_macos", "when": "macos"},
             "unlink_protection"],
             "exclude": ["dangerous_commands", "dangerous_commands_linux"]},
  "commands": {"allow": ["rm"], "deny": ["sudo"]},
  "workdir": {"access": "readwrite"},
  "filesystem": {
    "allow": [], "read": ["/usr/share", {"path": "/opt/homebrew", "when": "macos"}], "write": [],
    "allow_file": [], "read_file": ["/etc/hostname"], "write_file": [],
    "unix_socket": [], "unix_socket_bind": [], "unix_socket_dir": [{"path": "/tmp", "when": "!linux"}],
    "unix_socket_dir_bind": [], "unix_socket_subtree": [], "unix_socket_subtree_bind": [],
    "deny": ["$WORKDIR/private"], "bypass_protection": [], "suppress_save_prompt": ["$HOME/.copilot/settings.json"],
  },
  "network": {
    "block": false, "network_profile": null, "proxy_allow": ["docs.example.com", "*.example.org"],
    "credentials": [], "open_port": [3000], "listen_port": [8080], "no_proxy": ["redis"],
    "upstream_proxy": null, "upstream_bypass": [], "allow_http2": false,
    "custom_credentials": {"unused": {"upstream": "https://api.example.com", "credential_key": "unused_key",
                                      "inject_mode": "header", "inject_header": "x-api-key", "credential_format": null,
                                      "endpoint_rules": [{"method": "GET", "path": "/v1/**"}]}}
  },
  "env_credentials": {},
  "environment": {"deny_vars": ["*_SECRET", "GITHUB_*"], "set_vars": {"GREETING": "hello from $HOME"}},
  "hooks": {}, "interactive": true, "allow_gpu": false,
  "undo": {"exclude_patterns": ["node_modules"], "exclude_globs": ["*.tmp"]},
  "linux": {"af_unix_mediation": "pathname"},
  "platform_overrides": {"linux": {"environment": {"set_vars": {"SYSTEM": "linux"}}},
                         "macos": {"filesystem": {"read": ["/x"]}}},
}"""


def test_a_profile_of_the_existing_tool_runs_unchanged(site: Site) -> None:
    path = site.vault / "brought.jsonc"
    path.write_text(BROUGHT_ALONG)
    (site.work / "private").mkdir()
    (site.work / "src").mkdir()
    script = 'echo "$GREETING|$SYSTEM|$MY_SECRET|$GITHUB_ACTOR"; echo x > src/made; ls private || echo closed'
    site.environment.update(MY_SECRET="x", GITHUB_ACTOR="y")
    done = site.run(["-p", str(path)], ["sh", "-c", script])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"hello from {site.home}|linux||", "closed"]
    assert (site.work / "src" / "made").exists()
    assert "docs.example.com" in done.stderr


def write(path: Path, **profile: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(profile))
    return str(path)


@pytest.mark.parametrize("wall", ["auto", "notify"])
def test_nothing_that_a_run_was_told_by_can_be_changed_for_the_next(site: Site, wall: str) -> None:
    write(site.work / "sub" / "base.json", filesystem={"read": ["/usr/share"]})
    write(site.work / "sub" / "agent.json", extends="./base.json", workdir={"access": "readwrite"})
    write(site.vault / "real.json", extends=str(site.work / "link" / "agent.json"))
    os.symlink(site.vault / "real.json", site.work / "named.json")
    os.symlink("sub", site.work / "link")
    script = """
        echo x > sub/base.json; echo x > sub/agent.json; rm -f sub/base.json sub/agent.json named.json link
        mv sub sub2; mv named.json n; ln -sf /dev/null named.json; ln -sfn /tmp link; echo x > sub/new
        chmod 777 sub/base.json; true
    """
    before = {path: path.lstat()[:2] for path in sorted(site.work.rglob("*"))}
    texts = {path: path.read_bytes() for path in before if path.is_file()}
    done = site.run(["--sandbox", wall, "-p", "./named.json"], ["sh", "-c", script])
    assert done.returncode == 0, done.stderr
    assert {path: path.lstat().st_ino for path in before} == {path: found[1] for path, found in before.items()}
    assert {path: path.read_bytes() for path in texts} == texts
    assert sorted(site.work.rglob("*")) == sorted(before)


def test_what_a_profile_grants_need_not_be_on_this_machine(site: Site) -> None:
    (site.work / "note.txt").write_text("read\n")
    paths = {"read": ["$WORKDIR/note.txt", "~/nowhere"], "allow_file": ["~/none.json"]}
    profile = write(site.vault / "p.json", meta={"name": "mine"}, filesystem=paths)
    done = site.run(["-p", profile], ["cat", "note.txt"])
    assert done.stdout == "read\n", done.stderr
    said = " ".join(done.stderr.split())
    assert f"profile mine: {site.home}/nowhere, {site.home}/none.json are not there (or not yours to see)" in said
    (site.home / "none.json").mkdir()
    refused = site.run(["-p", profile], ["true"])
    assert refused.returncode == 2
    assert "none.json: is a directory; write it where directories stand" in " ".join(refused.stderr.split())


def test_extends_of_the_command_line_comes_below_the_profile(site: Site) -> None:
    below = write(site.vault / "below.json", environment={"set_vars": {"A": "below", "B": "below"}})
    own = write(site.vault / "own.json", environment={"set_vars": {"B": "own"}})
    command = ["sh", "-c", "echo $A $B"]
    assert site.run(["-p", own, "--extends", below], command).stdout == "below own\n"
    assert site.run(["--extends", own, "--extends", below], command).stdout == "below below\n"
    assert site.run(["--extends", below], command).stdout == "below below\n"


def test_the_users_own_profile_may_extend_the_built_in_one_of_its_name(site: Site) -> None:
    write(site.home / ".config/nono/profiles/go-dev.json", extends="go-dev", environment={"set_vars": {"MINE": "1"}})
    done = site.run(["-p", "go-dev", "--block-net"], ["sh", "-c", "echo $MINE; echo x > made"])
    assert done.stdout == "1\n", done.stderr
    assert (site.work / "made").exists()
