"""The real disk: what paths are, mounts, terminals, and the ruleset."""

from __future__ import annotations

import os
import pty
import socket
from pathlib import Path

import pytest

from nono.errors import PolicyError
from nono.kernel import landlock
from nono.policy.capabilities import NETWORK_PROXY, READ, WRITE, CapabilitySet, PathDeny, PathGrant
from nono.sandbox.expansion import ABSENT, DEVICE, DIRECTORY, FILE, LINK, Entry
from nono.sandbox.filesystem import Disk, expand, open_ruleset, standard_stream_grants
from nono.sandbox.plan import Plan, Rule, make_plan


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def plan_of(*rules: Rule) -> Plan:
    empty = expand(CapabilitySet((), (), NETWORK_PROXY, (), "/"))
    return make_plan(empty, landlock.abi(), os.uname().machine)._replace(rules=rules)


def test_looks_through_links(home: Path) -> None:
    (home / "real/deep").mkdir(parents=True)
    (home / "real/deep/file").write_text("x")
    (home / "link").symlink_to("real")
    (home / "far").symlink_to(home / "link/deep/file")
    disk = Disk()
    assert disk.look(f"{home}/link/deep/file") == Entry(f"{home}/real/deep/file", FILE)
    assert disk.look(f"{home}/far") == Entry(f"{home}/real/deep/file", FILE)
    assert disk.look(f"{home}/link/deep") == Entry(f"{home}/real/deep", DIRECTORY)
    assert disk.look(f"{home}/link/deep/new/one") == Entry(f"{home}/real/deep/new/one", ABSENT)
    assert disk.look(f"{home}/far/below") == Entry(f"{home}/real/deep/file/below", ABSENT)
    assert disk.look("/") == Entry("/", DIRECTORY)


def test_survives_links_that_lead_nowhere(home: Path) -> None:
    (home / "loop").symlink_to("loop")
    (home / "dangling").symlink_to("gone")
    assert Disk().look(f"{home}/loop").kind == ABSENT
    assert Disk().look(f"{home}/dangling").kind == ABSENT
    assert Disk().look(f"{home}/{'x' * 5000}").kind == ABSENT


def test_tells_kinds_apart(home: Path) -> None:
    (home / "directory").mkdir()
    (home / "file").write_text("x")
    (home / "link").symlink_to("file")
    os.mkfifo(home / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(home)
        server.bind("socket")
        assert Disk().children(str(home)) == [
            ("directory", DIRECTORY), ("fifo", FILE), ("file", FILE), ("link", LINK), ("socket", FILE),
        ]  # fmt: skip
    assert Disk().look("/dev/null") == Entry("/dev/null", DEVICE)
    assert Disk().children(f"{home}/gone") == []


MOUNTINFO = rb"""20 1 8:1 / / rw - ext4 /dev/sda1 rw
21 20 8:2 / /home rw - ext4 /dev/sda2 rw
22 20 8:2 /u/work /srv/work rw - ext4 /dev/sda2 rw
23 20 8:2 / /mnt/two\040words rw shared:1 - ext4 /dev/sda2 rw
24 20 0:5 / /proc rw - proc proc rw
"""


def test_finds_the_other_mounts_of_a_path(home: Path) -> None:
    (home / "mountinfo").write_bytes(MOUNTINFO)
    disk = Disk(str(home / "mountinfo"))
    assert disk.aliases("/home/u/.ssh") == ["/mnt/two words/u/.ssh"]
    assert disk.aliases("/home/u/work/x") == ["/srv/work/x", "/mnt/two words/u/work/x"]
    assert disk.aliases("/home/u") == ["/srv/work", "/mnt/two words/u"]
    assert disk.aliases("/srv/work/y") == ["/home/u/work/y", "/mnt/two words/u/work/y"]
    assert disk.aliases("/etc/shadow") == []
    assert disk.aliases("/proc/1") == []


def test_reads_this_machines_mounts() -> None:
    assert isinstance(Disk().aliases("/etc/shadow"), list)


def test_grants_terminals_and_files_that_are_inherited_and_nothing_around_them(home: Path) -> None:
    main, terminal = pty.openpty()
    log = os.open(home / "log", os.O_WRONLY | os.O_CREAT)
    source = os.open(home / "log", os.O_RDONLY)
    gone = os.open(home / "gone", os.O_WRONLY | os.O_CREAT)
    (home / "gone").unlink()
    pipe = os.pipe()
    directory = os.open(home, os.O_RDONLY)
    try:
        assert standard_stream_grants((terminal, terminal, log, source, gone, *pipe, directory, 9999)) == (
            PathGrant(os.ttyname(terminal), READ | WRITE, True, "terminal", optional=True),
            PathGrant(f"{home}/log", WRITE, True, "standard stream", optional=True),
            PathGrant(f"{home}/log", READ, True, "standard stream", optional=True),
        )
    finally:
        for fd in (main, terminal, log, source, gone, *pipe, directory):
            os.close(fd)


def test_opens_a_ruleset_without_leaking_descriptors(home: Path) -> None:
    (home / "file").write_text("x")
    before = set(os.listdir("/proc/self/fd"))
    ruleset = open_ruleset(plan_of(Rule(str(home), landlock.FS_READ_DIR), Rule(f"{home}/file", landlock.FS_READ_FILE)))
    assert not os.get_inheritable(ruleset)
    os.close(ruleset)
    assert set(os.listdir("/proc/self/fd")) == before


def test_leaves_out_what_has_vanished_since_the_plan(home: Path) -> None:
    os.close(open_ruleset(plan_of(Rule(f"{home}/gone", landlock.FS_READ_FILE))))


@pytest.mark.parametrize("swapped", ["directory", "directory/inner"])
def test_refuses_a_path_that_became_a_link_since_the_plan(home: Path, swapped: str) -> None:
    (home / "directory/inner").mkdir(parents=True)
    (home / "secret/inner").mkdir(parents=True)
    plan = plan_of(Rule(f"{home}/directory/inner", landlock.FS_READ_DIR))
    (home / swapped).rename(home / "moved")
    (home / swapped).symlink_to(home / "secret/inner" if swapped.endswith("inner") else home / "secret")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(PolicyError, match="was replaced while the sandbox was being built"):
        open_ruleset(plan)
    assert set(os.listdir("/proc/self/fd")) == before


def test_two_slashes_in_front_make_no_second_name(home: Path) -> None:
    """However it came here: what is denied by the one name is denied by the other."""
    (home / ".ssh").mkdir()
    assert Disk().look(f"/{home}/.ssh") == Entry(f"{home}/.ssh", DIRECTORY)
    named, other = f"{home}/.ssh", f"/{home}/.ssh"
    for granted, denied in ((named, other), (other, named)):
        grants = (PathGrant(granted, READ, False, "--read"),)
        with pytest.raises(PolicyError, match="protected"):
            expand(CapabilitySet(grants, (PathDeny(denied, "deny_credentials"),), NETWORK_PROXY, (), "/"))
