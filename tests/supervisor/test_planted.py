"""What one run leaves where it may write does not open more to the next one."""

from __future__ import annotations

import json
import os

import pytest

from tests.runs import Site


@pytest.fixture
def notes(site: Site) -> str:
    """A file of the user's that no run is granted."""
    path = site.home / "notes" / "n"
    path.parent.mkdir()
    path.write_text("private")
    return str(path)


@pytest.mark.parametrize("flags", [["--read", "data"], ["--allow", "data"], ["--read-file", "data/n"]])
def test_a_link_that_the_agent_may_replace_opens_nothing(site: Site, notes: str, flags: list[str]) -> None:
    (site.work / "data").mkdir()
    (site.work / "data" / "n").touch()
    flags = ["--allow-cwd", *flags, "--block-net"]
    done = site.run(flags, ["sh", "-c", f"mv data d && ln -s {os.path.dirname(notes)} data"])
    if done.returncode:  # the grant itself kept it
        (site.work / "data").rename(site.work / "d")
        (site.work / "data").symlink_to(os.path.dirname(notes))
    done = site.run(flags, ["cat", notes])
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"name what it leads to: {os.path.dirname(notes)}" in " ".join(done.stderr.split())


def test_nor_does_one_of_a_profile(site: Site, notes: str) -> None:
    profile = site.vault / "p.json"
    profile.write_text(json.dumps({"workdir": {"access": "readwrite"}, "filesystem": {"read": ["$WORKDIR/data"]}}))
    (site.work / "data").symlink_to(os.path.dirname(notes))
    done = site.run(["-p", str(profile), "--block-net"], ["cat", notes])
    assert (done.returncode, done.stdout) == (2, "")


def test_a_link_that_the_agent_may_not_replace_is_the_users(site: Site, notes: str) -> None:
    (site.work / "data").symlink_to(os.path.dirname(notes))
    (site.home / "linked").symlink_to("notes")
    for flags in (["--read", "."], ["--allow", str(site.work / "data")], ["--write", str(site.tmp)], ["--allow", "~"]):
        for grant in ("data", str(site.home / "linked")):
            done = site.run([*flags, "--read", grant, "--block-net"], ["cat", notes])
            assert done.stdout == "private", done.stderr


def test_a_link_to_what_the_agent_has_anyway_is_no_matter(site: Site) -> None:
    (site.work / "real").mkdir()
    (site.work / "data").symlink_to("real")
    assert site.run(["--allow-cwd", "--read", "data", "--block-net"], ["true"]).returncode == 0


@pytest.mark.parametrize("target", ["notes", ""])
def test_what_every_run_reads_is_not_led_elsewhere(site: Site, notes: str, target: str) -> None:
    """~/go/bin is a built-in grant: who had ~/go for once opened the home to all later runs."""
    (site.home / "go" / "bin").mkdir(parents=True)
    attack = ["sh", "-c", f"cd {site.home}/go && mv bin b && ln -s {site.home}/{target} bin"]
    assert site.run(["--allow", str(site.home / "go"), "--block-net"], attack).returncode == 0
    done = site.run(["--block-net"], ["cat", notes])
    assert (done.returncode, done.stdout) == (1, "")


def test_a_tool_that_the_user_has_linked_is_read(site: Site, notes: str) -> None:
    (site.home / ".nvm").symlink_to("notes")
    assert site.run(["--block-net"], ["cat", notes]).stdout == "private"
