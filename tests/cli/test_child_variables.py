"""What really stands in the agent's environment: `env` in real runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.runs import KEYS, NOTHING, Site


def run(
    site: Site, environment: Mapping[str, str], *flags: str, profile: Mapping[str, Any] = NOTHING
) -> tuple[dict[str, str], list[str]]:
    """Return the variables of an agent that is started with these, and the lines of the summary."""
    if profile:
        path = site.vault / "variables.json"
        path.write_text(json.dumps(profile))
        flags = ("--profile", str(path), *flags)
    done = site.run([*flags, "--verbose"], ["env", "-0"], environment=environment)
    assert done.returncode == 0, done.stderr
    child = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)
    return child, [line[6:].strip() for line in done.stderr.splitlines()]


def test_hooks_do_not_reach_the_agent_unless_they_are_named(site: Site) -> None:
    hooks = {"NODE_OPTIONS": "--max-old-space-size=64", "LD_LIBRARY_PATH": "/x", "BASH_ENV": "/x", "OP_SESSION_a": "s"}
    child, told = run(site, {"MINE": "1", **hooks})
    assert not hooks.keys() & child.keys()
    assert child["MINE"] == "1"
    assert "withheld    BASH_ENV, LD_LIBRARY_PATH, NODE_OPTIONS, OP_SESSION_a" in told
    rules = {"allow_vars": ["*", "NODE_OPTIONS"]}
    child, _ = run(site, {"MINE": "1", **hooks}, profile={"environment": rules})
    assert hooks.items() & child.items() == {("NODE_OPTIONS", "--max-old-space-size=64")}
    assert child["MINE"] == "1"


def test_a_profile_allows_denies_and_sets(site: Site) -> None:
    rules = {"allow_vars": ["A_*"], "deny_vars": ["A_2"], "set_vars": {"B": "$HOME:$WORKDIR:$TMPDIR"}}
    child, _ = run(site, {"A_1": "1", "A_2": "2", "C": "3"}, profile={"environment": rules})
    assert child["A_1"] == "1"
    assert not {"A_2", "C"} & child.keys()
    home, workdir, temporary_directory = child["B"].split(":")
    assert (home, workdir, temporary_directory) == (str(site.home), str(site.work), child["TMPDIR"])


def test_what_looks_like_a_key_is_kept_from_an_agent_that_has_a_token(site: Site) -> None:
    profile = json.loads(site.profile(site.store_in_files()).read_text())
    looks = {"MY_OWN_NAME": "ghp_" + "a1" * 18, "OPENAI_ADMIN_KEY": "short"}
    child, _ = run(site, {**looks, "OPENAI_ORG_ID": "org-1"}, profile=profile)
    assert not looks.keys() & child.keys()
    assert child["OPENAI_ORG_ID"] == "org-1"
    assert len(child["OPENAI_API_KEY"]) == 64


def test_a_real_key_is_handed_over_with_a_warning(site: Site) -> None:
    references = site.store_in_files()
    flags = ["--env-credential-map", references["openai"], "REAL_KEY", "--block-net"]
    child, told = run(site, {"REAL_KEY": "old"}, *flags)
    assert child["REAL_KEY"] == KEYS["openai"]
    assert "warning     the agent holds the real key of REAL_KEY" in told
    assert KEYS["openai"] not in "".join(told)
    profile = json.loads(site.profile(references).read_text())
    child, _ = run(site, {}, profile={**profile, "env_credentials": {references["gemini"]: "OTHER"}})
    assert child["OTHER"] == KEYS["gemini"]
    assert KEYS["openai"] not in child.values()
    assert len(child["OPENAI_API_KEY"]) == 64


def test_a_file_of_a_key_that_is_handed_over_stays_closed(site: Site) -> None:
    reference = site.store_in_files()["openai"]
    path = reference.removeprefix("file://")
    flags = ["--env-credential-map", reference, "REAL_KEY", "--read", str(site.vault)]
    done = site.run(flags, ["cat", path])
    assert (done.returncode, done.stdout) == (1, "")
