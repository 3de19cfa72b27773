"""P6: files: only what was granted; sensitive paths stay denied under a broader grant.

Each attack first shows without the sandbox that it works, on a fresh copy of the same tree.
"""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from nono.kernel import landlock
from nono.policy.capabilities import READ, WRITE, PathDeny
from nono.policy.groups import sensitive_paths
from tests.confined import TESTED, Place, Wall, run, stopped, write

ABIS = [None, 2]  # this kernel's, and one whose Landlock leaves truncation to the filter


class Tree:
    """A home with a project to work in, things that were not granted, and secrets."""

    def __init__(self, home: Path, owner: int) -> None:
        self.home = home
        self.project = home / "project"
        self.file = write(self.project / "file", "granted", owner)
        self.other = write(home / "other/file", "Secret", owner)
        self.ssh_key = write(home / ".ssh/id", "Secret", owner)
        self.netrc = write(home / ".netrc", "Secret", owner)
        self.gh = write(home / ".config/gh/hosts.yml", "Secret", owner)
        self.settings = write(home / ".config/app/settings", "harmless", owner)
        write(home / "project/data/file", "granted", owner)

    def denies(self) -> tuple[PathDeny, ...]:
        return sensitive_paths(str(self.home), f"{self.home}/.config", f"{self.home}/.local/state", "/run/user/1")


@pytest.fixture
def trees(place: Place, user: int) -> tuple[Tree, Tree]:
    """Two equal trees: the first is attacked without the sandbox, the second behind the wall."""
    return Tree(place.directory(user), user), Tree(place.directory(user), user)


def fill(template: str, tree: Tree) -> list[str]:
    """OTHER: not granted. PROJECT, NEW: granted, NEW does not exist. KEY, NETRC, GH: sensitive."""
    words = {
        "OTHER": tree.other, "OTHERS": tree.other.parent, "PROJECT": tree.project, "DATA": tree.project / "data",
        "FILE": tree.file, "NEW": tree.project / "new", "KEY": tree.ssh_key, "SSH": tree.ssh_key.parent,
        "NETRC": tree.netrc, "GH": tree.gh, "ABSENT": tree.home / ".zshrc", "NONO": tree.home / ".config/nono",
        "CREATED": tree.home / "other/new", "AWS": tree.home / ".aws", "HOME": tree.home, "HOMEFILE": tree.home / "new",
        "CONFIG": tree.home / ".config", "ELSEWHERE": tree.home / ".config/other",
    }  # fmt: skip
    return [str(words.get(word, word)) for word in template.split()]


def compare(place: Place, trees: tuple[Tree, Tree], user: int, attack: str, wall: Wall, expected: set[str]) -> None:
    free = run([place.attack, *fill(attack, trees[0])], None, user=user)
    assert free.answer == "LEAK", f"the attack itself is broken: {free}"
    confined = run([place.attack, *fill(attack, trees[1])], wall, user=user)
    assert confined.answer in stopped(expected), confined


def project_only(tree: Tree, abi: int | None = None) -> Wall:
    return Wall(home=str(tree.home), abi=abi, denies=tree.denies()).with_access(tree.project, READ | WRITE)


def whole_home(tree: Tree, abi: int | None = None) -> Wall:
    return Wall(home=str(tree.home), abi=abi, denies=tree.denies()).with_access(tree.home, READ | WRITE)


DENIED = stopped({"EACCES"})


@pytest.mark.parametrize("abi", ABIS)
@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ("read OTHER", DENIED),
        ("read_openat2 OTHER", {"ENOSYS"}),
        ("read_opath OTHER", DENIED),
        ("read_proc_root OTHER", DENIED),
        ("read_after_chdir OTHERS file", DENIED),
        ("read_symlink OTHER NEW", DENIED),
        ("read_hardlink OTHER NEW", {"EXDEV", "EACCES", "EPERM"}),
        ("read_renamed OTHER NEW", {"EXDEV", "EACCES"}),
        ("read_exchanged OTHERS DATA file", {"EXDEV", "EACCES"}),
        ("list OTHERS", DENIED),
        ("append OTHER", DENIED),
        ("create CREATED", DENIED),
        ("mkdir CREATED", DENIED),
        ("emerge OTHERS CREATED", DENIED),
        ("truncate OTHER", DENIED),
        ("truncate_open OTHER", DENIED),
        ("truncate_open_3 OTHER", DENIED),
        ("remove OTHER", DENIED),
        ("move OTHER CREATED", DENIED),
        ("move FILE CREATED", {"EXDEV", "EACCES"}),
    ],
)
def test_touches_nothing_that_was_not_granted(
    place: Place, trees: tuple[Tree, Tree], user: int, abi: int | None, attack: str, expected: set[str]
) -> None:
    compare(place, trees, user, attack, project_only(trees[1], abi), expected)
    assert trees[1].other.read_text() == "Secret"


@pytest.mark.parametrize("abi", ABIS)
@pytest.mark.parametrize(
    "action",
    [
        "read FILE", "append FILE", "create NEW", "mkdir NEW", "truncate FILE", "remove FILE", "move FILE NEW",
        "read_after_chdir PROJECT file", "read_symlink FILE NEW", "read_hardlink FILE NEW", "emerge PROJECT NEW",
        "list PROJECT", "execute /bin/true", "read /etc/passwd", "read /dev/urandom", "append /dev/null",
    ],
)  # fmt: skip
def test_works_in_what_was_granted(
    place: Place, trees: tuple[Tree, Tree], user: int, abi: int | None, action: str
) -> None:
    if action == "truncate FILE" and (abi or landlock.abi()) < 3:
        pytest.skip("without LANDLOCK_ACCESS_FS_TRUNCATE the filter stops truncate(2) everywhere; ftruncate(2) works")
    assert run([place.attack, *fill(action, trees[1])], project_only(trees[1], abi), user=user).answer == "LEAK"


@pytest.mark.parametrize("attack", ["append FILE", "create NEW", "truncate FILE", "truncate_open FILE", "remove FILE"])
@pytest.mark.parametrize("abi", ABIS)
def test_read_access_does_not_write(
    place: Place, trees: tuple[Tree, Tree], user: int, abi: int | None, attack: str
) -> None:
    wall = Wall(abi=abi).with_access(trees[1].project, READ)
    compare(place, trees, user, attack, wall, DENIED)
    assert trees[1].file.read_text() == "granted"


@pytest.mark.parametrize("attack", ["read FILE", "list PROJECT"])
def test_write_access_does_not_read(place: Place, trees: tuple[Tree, Tree], user: int, attack: str) -> None:
    compare(place, trees, user, attack, Wall().with_access(trees[1].project, WRITE), DENIED)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ("read KEY", DENIED),
        ("read NETRC", DENIED),
        ("read GH", DENIED),
        ("read_opath KEY", DENIED),
        ("read_openat2 KEY", {"ENOSYS"}),
        ("read_proc_root KEY", DENIED),
        ("read_after_chdir SSH id", DENIED),
        ("read_symlink KEY NEW", DENIED),
        ("read_hardlink KEY NEW", {"EXDEV", "EACCES", "EPERM"}),
        ("read_renamed KEY NEW", {"EXDEV", "EACCES"}),
        ("read_exchanged SSH PROJECT id", {"EXDEV", "EACCES"}),
        ("append KEY", DENIED),
        ("truncate NETRC", DENIED),
        ("truncate_open NETRC", DENIED),
        ("remove NETRC", DENIED),
        ("remove KEY", DENIED),
        ("move SSH ELSEWHERE", {"EXDEV", "EACCES"}),
        ("move CONFIG HOMEFILE", {"EXDEV", "EACCES"}),
        ("create ABSENT", DENIED),
        ("plant AWS credentials", DENIED),
        ("plant NONO profiles.json", DENIED),
    ],
)
@pytest.mark.parametrize("abi", ABIS)
def test_sensitive_paths_stay_denied_under_a_broader_grant(
    place: Place, trees: tuple[Tree, Tree], user: int, abi: int | None, attack: str, expected: set[str]
) -> None:
    compare(place, trees, user, attack, whole_home(trees[1], abi), expected)
    assert trees[1].ssh_key.read_text() == trees[1].netrc.read_text() == "Secret"
    assert not (trees[1].home / ".config/nono").exists()


@pytest.mark.parametrize(
    "action", ["read OTHER", "append OTHER", "create CREATED", "read FILE", "create NEW", "list HOME", "list OTHERS"]
)
def test_the_rest_of_the_broader_grant_works(place: Place, trees: tuple[Tree, Tree], user: int, action: str) -> None:
    assert run([place.attack, *fill(action, trees[1])], whole_home(trees[1]), user=user).answer == "LEAK"
    assert run([place.attack, "read", str(trees[1].settings)], whole_home(trees[1]), user=user).answer == "LEAK"


def test_a_link_that_changes_its_target_is_never_followed_to_a_secret(
    place: Place, trees: tuple[Tree, Tree], user: int
) -> None:
    compare(place, trees, user, "read_swapped KEY FILE NEW", whole_home(trees[1]), DENIED)


def test_a_denied_path_that_is_a_link_denies_its_target(place: Place, user: int) -> None:
    home = place.directory(user)
    write(home / "dotfiles/ssh/id", "Secret", user)
    write(home / "dotfiles/harmless", "harmless", user)
    (home / ".ssh").symlink_to("dotfiles/ssh")
    wall = _home_wall(home)
    for path in (".ssh/id", "dotfiles/ssh/id"):
        assert run([place.attack, "read", str(home / path)], None, user=user).answer == "LEAK"
        assert run([place.attack, "read", str(home / path)], wall, user=user).answer in DENIED
    assert run([place.attack, "read", str(home / "dotfiles/harmless")], wall, user=user).answer == "LEAK"


def test_a_link_in_a_denied_directory_denies_the_file_it_leads_to(place: Place, user: int) -> None:
    home = place.directory(user)
    secret = write(home / "dotfiles/credentials", "Secret", user)
    write(home / "dotfiles/harmless", "harmless", user)
    write(home / ".aws/config", "Secret", user)
    (home / ".aws/credentials").symlink_to(secret)
    assert run([place.attack, "read", str(secret)], None, user=user).answer == "LEAK"
    assert run([place.attack, "read", str(secret)], _home_wall(home), user=user).answer in DENIED
    assert run([place.attack, "read", str(home / "dotfiles/harmless")], _home_wall(home), user=user).answer == "LEAK"


def _home_wall(home: Path) -> Wall:
    denies = sensitive_paths(str(home), f"{home}/.config", f"{home}/.local/state", "/run/user/1")
    return Wall(home=str(home), denies=denies).with_access(home, READ | WRITE)


def test_names_in_a_denied_directory_can_be_listed_but_not_read(
    place: Place, trees: tuple[Tree, Tree], user: int
) -> None:
    """A limit without mounts, written down in SECURITY.md: READ_DIR on an expanded directory is inherited."""
    wall = whole_home(trees[1])
    listed = run([place.attack, *fill("list SSH", trees[1])], wall, user=user).answer
    assert listed == ("EACCES" if TESTED.mounts else "LEAK")
    assert run([place.attack, *fill("read KEY", trees[1])], wall, user=user).answer in DENIED


def test_modes_of_denied_files_can_be_changed(place: Place, trees: tuple[Tree, Tree], user: int) -> None:
    """A limit without mounts, written down in SECURITY.md: Landlock does not judge chmod, chown, utime and setxattr."""
    for name, wall in (("KEY", whole_home(trees[1])), ("OTHER", project_only(trees[1]))):
        changed = run([place.attack, *fill(f"change_mode {name}", trees[1])], wall, user=user).answer
        assert changed in ({"EACCES", "EROFS", "ENOENT"} if TESTED.mounts else {"LEAK"})


def test_nothing_can_be_created_directly_in_an_expanded_directory(
    place: Place, trees: tuple[Tree, Tree], user: int
) -> None:
    """A limit, and what keeps a denied path that does not exist yet from being made."""
    assert run([place.attack, *fill("create HOMEFILE", trees[1])], whole_home(trees[1]), user=user).answer in DENIED


def test_a_hook_of_the_project_can_be_written(place: Place, trees: tuple[Tree, Tree], user: int) -> None:
    """A limit, written down in SECURITY.md: what is in a writable project is the agent's, .git/hooks too."""
    hook = write(trees[1].project / ".git/hooks/pre-commit.sample", "#", user).with_name("pre-commit")
    assert run([place.attack, "create", str(hook)], project_only(trees[1]), user=user).answer == "LEAK"


def test_the_directory_that_the_agent_changes_to_is_not_granted(
    place: Place, trees: tuple[Tree, Tree], user: int
) -> None:
    tree = trees[1]
    wall = project_only(tree)
    inside = run([place.attack, "create", "here"], wall, user=user, workdir=str(tree.project))
    outside = run([place.attack, "create", "here"], wall, user=user, workdir=str(tree.other.parent))
    assert inside.answer == "LEAK"
    assert outside.answer in DENIED


@pytest.mark.parametrize("attack", ["set_user_id_chmod NEW", "set_user_id_fchmod NEW", "set_user_id_open NEW"])
def test_makes_no_program_that_runs_as_this_user_for_others(
    place: Place, trees: tuple[Tree, Tree], user: int, attack: str
) -> None:
    compare(place, trees, user, attack, project_only(trees[1]), {"EPERM"})


def test_set_user_id_by_openat2(place: Place, trees: tuple[Tree, Tree], user: int) -> None:
    compare(place, trees, user, "set_user_id_openat2 NEW", project_only(trees[1]), {"ENOSYS"})


@pytest.mark.skipif(os.geteuid() != 0, reason="mknod needs root")
def test_makes_no_device(place: Place, trees: tuple[Tree, Tree]) -> None:
    free = run([place.attack, *fill("make_device NEW", trees[0])], None, user=0)
    if free.answer != "LEAK":
        pytest.skip(f"this root may not make devices: {free.answer}")
    denied = run([place.attack, *fill("make_device NEW", trees[1])], project_only(trees[1]), user=0)
    assert denied.answer in {"EACCES", "EPERM"}


def test_other_terminals_of_the_user_cannot_be_opened(place: Place, user: int) -> None:
    main, terminal = pty.openpty()
    try:
        os.set_blocking(main, False)
        os.write(main, b"typed\n")
        name = os.ttyname(terminal)
        os.chown(name, user, -1)
        assert run([place.attack, "append", name], None, user=user).answer == "LEAK"
        everything = Wall().with_access("/", READ | WRITE)
        hidden = {*DENIED, "ENOENT"}  # where the agent has its own /dev/pts
        assert run([place.attack, "append", name], Wall(), user=user).answer in hidden
        assert run([place.attack, "append", name], everything, user=user).answer in hidden
    finally:
        os.close(main)
        os.close(terminal)


@pytest.mark.parametrize("path", ["/etc/shadow", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"])
@pytest.mark.skipif(os.geteuid() != 0, reason="these are root's")
def test_root_of_the_disk_is_not_the_machine(place: Place, path: str) -> None:
    """A grant of / to root does not reach the password hashes, the kernel's settings or the disks."""
    denies = sensitive_paths("/root", "/root/.config", "/root/.local/state", "/run/user/0")
    wall = Wall(denies=denies).with_access("/", READ | WRITE)
    if os.path.exists(path):
        assert run([place.attack, "append", path], wall, user=0).answer in DENIED
