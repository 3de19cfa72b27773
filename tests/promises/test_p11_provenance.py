"""P11: what is signed is verified before the agent starts, and is what it reads for as long as it runs.

First: what nobody signed whom the user trusts reaches no agent. Then: an agent that may write in a directory
cannot change, remove, or replace the signed files in it, nor lead their paths elsewhere; there each attack first shows
without the sandbox that it works, on a fresh copy of the same tree.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nono.kernel import landlock
from nono.policy.capabilities import READ, WRITE, PathDeny
from nono.policy.protection import SIGNED
from nono.trust.bundle import MULTI_FILE, TRUST_POLICY
from tests.confined import REFUSED_BY_THE_KERNEL, TESTED, Place, Wall, run, write
from tests.runs import Site, require_command
from tests.signing import Signer, digest

NAMES = ("CLAUDE.md", ".claude/skills/a/SKILL.md")
CONTENT = "as it was signed"


def edited(site: Site, signer: Signer, path: Path) -> None:
    path.write_text("something else")


def unsigned(site: Site, signer: Signer, path: Path) -> None:
    _bundle(path).unlink()


def signed_by_a_stranger(site: Site, signer: Signer, path: Path) -> None:
    """Who calls himself as the user does."""
    Signer(signer.key_id).sign(path)


def signed_as_a_policy(site: Site, signer: Signer, path: Path) -> None:
    signer.sign(path, predicate=TRUST_POLICY)


def signed_as_a_tree(site: Site, signer: Signer, path: Path) -> None:
    signer.sign(path, predicate=MULTI_FILE)


def with_the_bundle_of_another(site: Site, signer: Signer, path: Path) -> None:
    _bundle(path).write_bytes(_bundle(site.work / NAMES[1]).read_bytes())


def with_half_a_bundle(site: Site, signer: Signer, path: Path) -> None:
    _bundle(path).write_bytes(_bundle(path).read_bytes()[:-100])


def revoked(site: Site, signer: Signer, path: Path) -> None:
    signer.policy(site.home / ".config/nono", signer, includes=[], blocklist={"digests": [{"sha256": digest(path)}]})


def moved_behind_a_link(site: Site, signer: Signer, path: Path) -> None:
    path.rename(site.vault / "CLAUDE.md")
    path.symlink_to(site.vault / "CLAUDE.md")


def given_another_name(site: Site, signer: Signer, path: Path) -> None:
    (site.vault / "CLAUDE.md").hardlink_to(path)


def with_a_policy_that_was_relaxed(site: Site, signer: Signer, path: Path) -> None:
    policy = site.work / "trust-policy.json"
    policy.write_text(policy.read_text().replace("deny", "audit"))


def with_a_policy_of_a_strangers(site: Site, signer: Signer, path: Path) -> None:
    stranger = Signer(signer.key_id)
    stranger.policy(site.work, stranger, includes=["CLAUDE.md"])
    stranger.sign(path)


def with_a_policy_that_lets_a_stranger_in(site: Site, signer: Signer, path: Path) -> None:
    """Signed by the user; but his own policy, which a project only narrows, does not know the stranger."""
    stranger = Signer("stranger")
    signer.policy(site.home / ".config/nono", signer, includes=[])
    signer.policy(site.work, signer, stranger, includes=["CLAUDE.md"])
    stranger.sign(path)


def _bundle(path: Path) -> Path:
    return path.with_name(f"{path.name}.bundle")


@pytest.fixture
def signer(site: Site) -> Signer:
    """The user of the site, whose working directory is a project with files that he has signed."""
    made = Signer().trusted_by(site.home)
    for name in NAMES:
        (site.work / name).parent.mkdir(parents=True, exist_ok=True)
        (site.work / name).write_text(f"{name}: {CONTENT}")
        made.sign(site.work / name)
    made.policy(site.work, made, includes=["CLAUDE.md", "**/SKILL.md"])
    return made


@pytest.mark.parametrize(
    "spoil",
    [
        edited, unsigned, signed_by_a_stranger, signed_as_a_policy, signed_as_a_tree, with_the_bundle_of_another,
        with_half_a_bundle, revoked, moved_behind_a_link, given_another_name, with_a_policy_that_was_relaxed,
        with_a_policy_of_a_strangers, with_a_policy_that_lets_a_stranger_in,
    ],
)  # fmt: skip
def test_what_nobody_signed_whom_the_user_trusts_reaches_no_agent(
    site: Site, signer: Signer, spoil: Callable[[Site, Signer, Path], None]
) -> None:
    command = ["sh", "-c", "cat CLAUDE.md; echo started > started"]
    assert site.run(["--allow-cwd", "--block-net"], ["cat", "CLAUDE.md"]).stdout == f"CLAUDE.md: {CONTENT}"
    spoil(site, signer, site.work / "CLAUDE.md")
    done = site.run(["--allow-cwd", "--block-net"], command)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert (
        "trust-policy.json " if "_policy_" in spoil.__name__ and "lets" not in spoil.__name__ else "CLAUDE.md "
    ) in (done.stderr)
    assert not (site.work / "started").exists()


def test_it_is_verified_with_the_network_unplugged(site: Site, signer: Signer) -> None:
    unplugged = (require_command("unshare"), "--user", "--map-root-user", "--net")
    assert site.run(["--allow-cwd"], ["true"], wrap=unplugged).returncode == 0
    (site.work / "CLAUDE.md").write_text("something else")
    assert site.run(["--allow-cwd"], ["true"], wrap=unplugged).returncode == 1


def test_a_file_elsewhere_stays_where_a_link_leads_to_it(site: Site, signer: Signer) -> None:
    """The agent may write the directory that the link is in."""
    kept, link = site.vault / "kept", site.home / "shared/docs"
    kept.mkdir()
    link.parent.mkdir()
    link.symlink_to(kept)
    (kept / "AGENTS.md").write_text(CONTENT)
    signer.sign(kept / "AGENTS.md")
    signer.policy(site.home / ".config/nono", signer, includes=[], files=["~/shared/docs/AGENTS.md"])
    flags = ["--allow", str(link.parent), "--read", str(kept), "--allow-cwd", "--block-net"]
    replace = ["sh", "-c", 'mv "$1" "$1.old"; mkdir "$1"; echo evil > "$1/AGENTS.md"; cat "$1/AGENTS.md"', "sh"]
    done = site.run(flags, [*replace, str(link)])
    assert done.stdout == CONTENT, done.stderr
    assert os.listdir(link.parent) == ["docs"]


class Project:
    """A project of `owner` with signed files, and others beside them."""

    def __init__(self, place: Place, owner: int) -> None:
        self.root = place.directory(owner) / "project"
        for name in (*NAMES, "other", "docs/page", ".claude/settings"):
            write(self.root / name, CONTENT, owner)

    def wall(self, *, around: bool = False) -> Wall:
        denies = tuple(PathDeny(str(self.root / name), SIGNED, WRITE, pinned=True) for name in NAMES)
        granted = self.root.parent if around else self.root
        return Wall(denies=denies).with_access(granted, READ | WRITE)

    def fill(self, template: str) -> list[str]:
        words = {
            "SIGNED": "CLAUDE.md", "SKILL": NAMES[1], "ROOT": "", "NEW": "new", "OTHER": "other", "DOCS": "docs",
            "CLAUDE": ".claude", "SKILLS": ".claude/skills", "A": ".claude/skills/a", "SETTINGS": ".claude/settings",
            "BESIDE": ".claude/skills/a/new",
        }  # fmt: skip
        return [str(self.root / words[word]) if word in words else word for word in template.split()]

    def is_whole(self) -> bool:
        return all((self.root / name).read_text() == CONTENT for name in NAMES)


@pytest.fixture
def projects(place: Place, user: int) -> tuple[Project, Project]:
    """Two equal projects: the first is attacked without the sandbox, the second behind the wall."""
    return Project(place, user), Project(place, user)


ATTACKS = [
    "append SIGNED", "append SKILL", "truncate SIGNED", "truncate_open SIGNED", "remove SIGNED", "remove SKILL",
    "move SIGNED NEW", "move OTHER SIGNED", "move SETTINGS SKILL", "exchange OTHER SIGNED", "exchange SKILL OTHER",
    "append_proc_root SIGNED", "append_in_directory ROOT CLAUDE.md", "append_opath SIGNED", "append_reopened SKILL",
    "append_linked SIGNED NEW", "append_linked_descriptor SKILL BESIDE", "append_by_handle SIGNED",
    "write_mapped SKILL", "unmount SIGNED", "unmount_in_namespace SIGNED", "remount SIGNED",
    "replace_directory A NEW SKILL.md", "replace_directory SKILLS NEW x", "replace_directory CLAUDE NEW x",
    "exchange DOCS A", "exchange CLAUDE DOCS",
]  # fmt: skip
METADATA = ["change_mode SIGNED", "change_mode_open SKILL", "change_owner SIGNED", "change_times SIGNED"]
WORK = [
    "create NEW", "create BESIDE", "mkdir NEW", "emerge A BESIDE", "append SETTINGS", "move OTHER NEW", "move DOCS NEW",
    "remove OTHER", "read SIGNED", "read SKILL", "list A",
]  # fmt: skip


@pytest.mark.parametrize("around", [False, True], ids=["root granted", "granted around it"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_signed_file_stays_as_it_is_and_where_it_is(
    place: Place, projects: tuple[Project, Project], user: int, attack: str, around: bool
) -> None:
    free = run([place.attack, *projects[0].fill(attack)], None, user=user)
    assert free.answer == "LEAK" or free.answer in REFUSED_BY_THE_KERNEL, f"the attack itself is broken: {free}"
    confined = run([place.attack, *projects[1].fill(attack)], projects[1].wall(around=around), user=user)
    answers = {"EROFS", "EBUSY", "EXDEV", "EPERM"} if TESTED.mounts else {"EACCES", "EPERM"}
    if attack.startswith("truncate") and landlock.abi() < 3:
        answers.add("EACCES")  # without LANDLOCK_ACCESS_FS_TRUNCATE the filter stops it everywhere
    assert confined.answer in answers, confined
    assert projects[1].is_whole()


@pytest.mark.skipif(not TESTED.mounts, reason="without mounts /tmp is the machine's, and the agent has its grant of it")
def test_nor_does_what_leads_to_it_in_the_agents_own_tmp(place: Place, user: int) -> None:
    answers = []
    for is_confined in (False, True):
        with TemporaryDirectory(prefix="nono-test-", dir="/tmp") as directory:
            os.chown(directory, user, user)
            root = Path(directory, "my/project")
            signed = write(root / NAMES[0], CONTENT, user)
            wall = Wall(denies=(PathDeny(str(signed), SIGNED, WRITE, pinned=True),)).with_access(root, READ | WRITE)
            attack = [place.attack, "replace_directory", f"{directory}/my", f"{directory}/old", "project"]
            answers.append(run(attack, wall if is_confined else None, user=user).answer)
    assert answers == ["LEAK", "EBUSY"]


@pytest.mark.parametrize("attack", METADATA)
def test_nor_does_its_mode_or_time_change(
    place: Place, projects: tuple[Project, Project], user: int, attack: str
) -> None:
    """Without mounts a limit, as of every path: Landlock does not judge chmod, chown and utime."""
    assert run([place.attack, *projects[0].fill(attack)], None, user=user).answer == "LEAK"
    confined = run([place.attack, *projects[1].fill(attack)], projects[1].wall(), user=user)
    assert confined.answer == ("EROFS" if TESTED.mounts else "LEAK")


@pytest.mark.parametrize("action", WORK)
def test_beside_signed_files_the_agent_works(
    place: Place, projects: tuple[Project, Project], user: int, action: str
) -> None:
    """With mounts all of it; without, nothing new can be made in a directory that holds a signed file."""
    confined = run([place.attack, *projects[1].fill(action)], projects[1].wall(), user=user)
    reads_or_appends = action.split()[0] in ("read", "list", "append")
    assert confined.answer == ("LEAK" if TESTED.mounts or reads_or_appends else "EACCES")


@pytest.mark.skipif(not TESTED.mounts, reason="without mounts nothing can be moved there at all")
def test_moving_across_a_directory_with_a_signed_file_is_a_copy(place: Place, user: int) -> None:
    """A limit: such a directory is a mount point, so rename(2) out of it and into it is EXDEV. mv(1) copies then."""
    project = Project(place, user)
    assert run([place.attack, *project.fill("move OTHER BESIDE")], project.wall(), user=user).answer == "EXDEV"
    moved = run(["/usr/bin/mv", *project.fill("OTHER BESIDE")], project.wall(), user=user)
    assert (moved.status, (project.root / ".claude/skills/a/new").read_text()) == (0, CONTENT)
    assert not Path(project.root, "other").exists()
