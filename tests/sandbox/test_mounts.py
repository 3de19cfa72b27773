"""The child's own view: what may be shown in a directory of its own, and what that directory would give away."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nono.policy.capabilities import NETWORK_BLOCKED, READ, WRITE, PathGrant
from nono.sandbox.expansion import DIRECTORY, EXPANDED, FILE, Expansion, Piece
from nono.sandbox.mounts import private_view
from tests.runs import Site

SCRATCH = "/tmp/nono-1"
OWN = Piece(SCRATCH, DIRECTORY, READ | WRITE)


def owned(*pieces: Piece, workdir: str = "/home/u", read_only: tuple[str, ...] = ()) -> set[str]:
    """Which directories are the child's own."""
    expansion = Expansion((OWN, *pieces), (), (), NETWORK_BLOCKED, read_only=read_only, has_tmp=True)
    view = private_view(expansion, SCRATCH, workdir)
    return {path for path in ("/tmp", "/dev") if path in {mount.target for mount in view.mounts}}


def test_what_is_granted_in_full_is_shown_in_the_childs_own_directory() -> None:
    assert owned() == {"/tmp", "/dev"}
    assert owned(Piece("/tmp/a", DIRECTORY, READ | WRITE), Piece("/tmp/f", FILE, READ | WRITE)) == {"/tmp", "/dev"}
    assert owned(Piece("/tmp/a", DIRECTORY, READ | WRITE), workdir="/tmp/a/b") == {"/tmp", "/dev"}
    assert owned(Piece("/home/u", EXPANDED, READ), Piece("/home/u/a", DIRECTORY, READ)) == {"/tmp", "/dev"}


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
def test_what_is_granted_in_part_keeps_the_machines_directory(place: str) -> None:
    """The right on the child's own directory would hold for all that is mounted in it."""
    theirs = {"/tmp": {"/dev"}, "/dev/shm": {"/tmp"}}[place]
    assert owned(Piece(f"{place}/a", DIRECTORY, READ)) == theirs
    assert owned(Piece(f"{place}/a", FILE, WRITE)) == theirs
    assert owned(Piece(f"{place}/a", EXPANDED, READ), Piece(f"{place}/a/b", DIRECTORY, READ | WRITE)) == theirs
    assert owned(workdir=f"{place}/a") == theirs
    assert owned(Piece(f"{place}/a", DIRECTORY, READ | WRITE), read_only=(f"{place}/a/profile",)) == theirs


def test_a_grant_that_was_named_by_a_link_in_tmp_keeps_the_link() -> None:
    piece, scratch = Piece("/srv/data", DIRECTORY, READ), PathGrant(SCRATCH, READ | WRITE, False, "temporary directory")
    for name, has_own in (("/srv/data", True), ("/tmp/link", False)):
        grants = (scratch, PathGrant(name, READ, False, "--read"))
        expansion = Expansion((OWN, piece), grants, (), NETWORK_BLOCKED, has_tmp=True)
        targets = {mount.target for mount in private_view(expansion, SCRATCH, "/home/u").mounts}
        assert ("/tmp" in targets) is has_own


def test_a_directory_of_the_machine_that_is_granted_itself_is_shown_with_that_right_only() -> None:
    assert owned(Piece("/dev/shm", DIRECTORY, READ | WRITE)) == {"/tmp", "/dev"}
    assert owned(Piece("/dev/shm", DIRECTORY, READ)) == {"/tmp"}
    assert owned(Piece("/dev/shm", EXPANDED, READ), Piece("/dev/shm/a", FILE, READ | WRITE)) == {"/tmp"}
    assert owned(Piece("/dev/pts", DIRECTORY, READ)) == {"/tmp"}
    assert owned(Piece("/dev/pts", DIRECTORY, READ | WRITE)) == {"/tmp"}


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory of the machine's /dev/shm with a file in it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        Path(directory, "file").write_text("content")
        yield Path(directory)


@pytest.mark.parametrize(
    ("flags", "read", "written"),
    [
        ([], False, False),
        (["--read", "/dev/shm"], True, False),
        (["--allow", "/dev/shm", "--deny", "{shared}/new"], True, False),
        (["--allow", "/dev/shm"], True, True),
        (["--allow", "{shared}"], True, True),
    ],
)
def test_the_machines_shared_memory_is_as_closed_as_any(
    site: Site, shared: Path, flags: list[str], read: bool, written: bool
) -> None:
    flags = [flag.format(shared=shared) for flag in flags]
    done = site.run(flags, ["sh", "-c", f"cat {shared}/file; echo > {shared}/new; exit 0"])
    assert done.returncode == 0, done.stderr
    assert (done.stdout == "content", (shared / "new").exists()) == (read, written), done.stderr


def test_a_file_of_shared_memory_that_is_standard_input_is_for_reading_only(site: Site, shared: Path) -> None:
    with open(shared / "file") as stdin:
        process = site.start([], ["sh", "-c", f"cat; echo > {shared}/file; exit 0"], stdin=stdin)
        assert process.communicate(timeout=60)[0] == b"content"
    assert (shared / "file").read_text() == "content"


def test_a_temporary_directory_in_shared_memory_can_be_written(site: Site, shared: Path) -> None:
    done = site.run([], ["sh", "-c", 'echo > "$TMPDIR/new"'], environment={"TMPDIR": str(shared)})
    assert done.returncode == 0, done.stderr


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the machine's /tmp with a file in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory, "file").write_text("content")
        Path(directory, "sub").mkdir()
        yield Path(directory)


@pytest.mark.parametrize(
    ("flags", "read", "written"),
    [
        ([], False, False),
        (["--read", "."], True, False),
        (["--read-file", "file"], True, False),
        (["--write", "."], False, True),
        (["--write", "sub"], False, False),
        (["--allow", ".", "--deny", "file"], False, False),
        (["--allow", "."], True, True),
    ],
)
def test_a_working_directory_in_tmp_is_as_closed_as_any(
    site: Site, place: Path, flags: list[str], read: bool, written: bool
) -> None:
    wrap = ["sh", "-c", f'cd {place} && exec "$@"', "sh"]  # where a flag's relative path is taken from
    done = site.run(flags, ["sh", "-c", "cat file; echo > new; exit 0"], wrap=wrap)
    assert done.returncode == 0, done.stderr
    assert (done.stdout == "content", (place / "new").exists()) == (read, written), done.stderr
    assert sorted(os.listdir(place)) == sorted(["file", "sub", *(["new"] if written else [])])


def test_what_covers_a_denied_path_cannot_be_changed(site: Site) -> None:
    """It belongs to the agent's user, and stands in a writable grant."""
    (site.work / "denied").mkdir()
    flags = ["--sandbox", "namespace", "--allow", ".", "--deny", "denied"]
    done = site.run(flags, ["sh", "-c", "chmod 777 denied /dev/.covered-directory; ls denied"])
    assert done.returncode != 0
    assert done.stderr.count("Read-only file system") == 2, done.stderr
    assert "Permission denied" in done.stderr


def test_where_nothing_covers_a_denied_file_its_mode_stays(site: Site) -> None:
    """It belongs to the agent's user, stands in a writable grant, and would be open to every user of the machine."""
    secret = site.work / "secret"
    secret.touch(0o600)
    flags = ["--sandbox", "namespace", "--allow", ".", "--deny", "secret", "--read", "/dev"]
    done = site.run(flags, ["sh", "-c", "chmod 777 secret; touch -d @0 secret; exit 0"])
    assert done.stderr.count("Read-only file system") == 2, done.stderr
    assert secret.stat().st_mode & 0o777 == 0o600


def test_where_a_bypass_opens_something_the_mode_of_the_rest_stays(site: Site) -> None:
    for name in (".aws", ".aws/sso"):
        (site.home / name).mkdir()
    for name in (".aws/credentials", ".aws/config", ".aws/sso/token"):
        (site.home / name).touch(0o600)
    flags = ["--sandbox", "namespace", "--allow", "~"]
    for hole in ("config", "sso"):
        flags += ["--bypass-protection", f"~/.aws/{hole}"]
    script = (
        "cd ~/.aws; chmod 777 credentials .; chmod 640 config && echo x > config && chmod 640 sso/token && echo > sso/y"
    )
    done = site.run(flags, ["sh", "-c", script])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Read-only file system") == 2, done.stderr
    modes = {path.name: path.stat().st_mode & 0o777 for path in (site.home / ".aws").rglob("*")}
    assert modes["credentials"] == 0o600
    assert modes["config"] == modes["token"] == 0o640
    assert "y" in modes
