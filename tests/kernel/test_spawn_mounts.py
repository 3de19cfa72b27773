"""The init's own view of the file system: each kind of step, and that nothing of it is seen from outside."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from nono.kernel import landlock
from nono.kernel.spawn import (
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MOUNT_BIND,
    MOUNT_BIND_READ_ONLY,
    MOUNT_BIND_WRITABLE,
    MOUNT_DIRECTORY,
    MOUNT_FILE,
    MOUNT_LINK,
    MOUNT_MOVE,
    MOUNT_NEW,
    MOUNT_READ_ONLY,
    MOUNT_WRITABLE,
    Mount,
)
from tests.kernel import inside
from tests.kernel.inside import OWN_PROC, OWN_PROCESSES, failure, shell

OWN_MOUNTS = CLONE_NEWUSER | CLONE_NEWNS


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory with two in it, a file in each; at the end no mount of ours is to be seen here."""
    before = Path("/proc/self/mountinfo").read_text()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    yield tmp_path
    assert Path("/proc/self/mountinfo").read_text() == before


def within(place: Path, script: str, *mounts: Mount, namespaces: int = OWN_MOUNTS) -> str:
    done = shell(script, namespaces=namespaces, mounts=mounts, workdir=str(place))
    assert done.exit_code == 0, done.output
    return done.output


def tmpfs(path: Path) -> Mount:
    return Mount(MOUNT_NEW, str(path), "tmpfs", 6, "mode=700,size=1m")  # MS_NOSUID | MS_NODEV


@pytest.mark.parametrize("namespaces", [OWN_MOUNTS, OWN_PROCESSES])
def test_new_file_system_with_its_flags_and_data(place: Path, namespaces: int) -> None:
    script = f"ls one; echo > one/new; ls one; stat -c %a one; grep {place}/one /proc/self/mountinfo"
    mounts = (OWN_PROC, tmpfs(place / "one")) if namespaces == OWN_PROCESSES else (tmpfs(place / "one"),)
    lines = within(place, script, *mounts, namespaces=namespaces).splitlines()
    assert lines[:2] == ["new", "700"]
    assert " rw,nosuid,nodev," in lines[2]
    assert lines[2].endswith("tmpfs rw,size=1024k,mode=700") or "size=1024k,mode=700" in lines[2]
    assert os.listdir(place / "one") == ["file"]


def test_bind_shows_what_is_mounted_below_as_well(place: Path) -> None:
    (place / "one" / "sub").mkdir()
    script = "cat two/file; echo changed > two/file; echo > two/sub/new; ls one/sub"
    mounts = (tmpfs(place / "one" / "sub"), Mount(MOUNT_BIND, str(place / "two"), str(place / "one")))
    assert within(place, script, *mounts) == "onenew\n"
    assert (place / "one" / "file").read_text() == "changed\n"
    assert (place / "two" / "file").read_text() == "two"
    assert os.listdir(place / "one" / "sub") == []


def test_move(place: Path) -> None:
    mounts = (
        tmpfs(place / "one"),
        Mount(MOUNT_FILE, str(place / "one" / "made"), flags=0o600),
        Mount(MOUNT_MOVE, str(place / "two"), str(place / "one")),
    )
    assert within(place, "ls one two", *mounts) == "one:\nfile\n\ntwo:\nmade\n"


def test_directory_file_and_link_with_their_modes(place: Path) -> None:
    """Also without a mount of its own below: then they are made on the disk."""
    before = os.umask(0)
    try:
        mounts = (
            Mount(MOUNT_DIRECTORY, str(place / "directory"), flags=0o751),
            Mount(MOUNT_FILE, str(place / "directory" / "file"), flags=0o640),
            Mount(MOUNT_LINK, str(place / "link"), "directory/file"),
        )
        assert within(place, "readlink link", *mounts) == "directory/file\n"
    finally:
        os.umask(before)
    assert stat.S_IMODE((place / "directory").stat().st_mode) == 0o751
    assert stat.S_IMODE((place / "directory" / "file").stat().st_mode) == 0o640
    assert (place / "link").is_symlink()


TRIED = ["one", "one/sub", "two"]
TRY = "for path in one one/sub two; do echo 2>/dev/null > $path/new && echo $path; done; :"


def test_read_only_is_with_all_below(place: Path) -> None:
    (place / "one" / "sub").mkdir()
    bind = [Mount(MOUNT_BIND, str(place / name), str(place / name)) for name in ("one", "two")]
    mounts = (*bind, tmpfs(place / "one" / "sub"))
    assert within(place, TRY, *mounts).split() == ["one", "one/sub", "two"]
    assert within(place, TRY, *mounts, Mount(MOUNT_READ_ONLY, str(place / "one"))).split() == ["two"]
    assert within(place, TRY, *mounts, Mount(MOUNT_READ_ONLY, "/")).split() == []


def test_read_only_reaches_what_landlock_does_not(place: Path) -> None:
    """Even the owner of a file, with every right of Landlock, changes neither its mode nor its times."""
    script = "chmod 777 one/file || echo mode; touch one/file || echo times; cat one/file"
    output = within(place, script, Mount(MOUNT_READ_ONLY, "/"))
    assert output.count("Read-only file system") == 2
    assert output.endswith("one")


def test_writable_is_alone(place: Path) -> None:
    (place / "one" / "sub").mkdir()
    mounts = (
        Mount(MOUNT_BIND, str(place / "one"), str(place / "one")),
        tmpfs(place / "one" / "sub"),
        Mount(MOUNT_READ_ONLY, "/"),
        Mount(MOUNT_WRITABLE, str(place / "one")),
    )
    assert within(place, TRY, *mounts).split() == ["one"]


@pytest.mark.parametrize(("kind", "expected"), [(MOUNT_BIND_READ_ONLY, ["two"]), (MOUNT_BIND_WRITABLE, TRIED)])
def test_a_bind_is_changed_with_all_below(place: Path, kind: int, expected: list[str]) -> None:
    (place / "one" / "sub").mkdir()
    two = Mount(MOUNT_BIND_WRITABLE, str(place / "two"), str(place / "two"))
    made = Mount(kind, str(place / "one"), str(place / "one"))
    before = () if kind == MOUNT_BIND_READ_ONLY else (Mount(MOUNT_READ_ONLY, "/"),)
    assert within(place, TRY, tmpfs(place / "one" / "sub"), *before, two, made).split() == expected


def test_a_hole_in_what_is_writable_is_read_only(place: Path) -> None:
    (place / "one" / "sub").mkdir()
    mounts = (
        Mount(MOUNT_READ_ONLY, "/"),
        Mount(MOUNT_BIND_WRITABLE, str(place / "one"), str(place / "one")),
        Mount(MOUNT_BIND_READ_ONLY, str(place / "one" / "sub"), str(place / "one" / "sub")),
    )
    assert within(place, TRY, *mounts).split() == ["one"]


@pytest.mark.parametrize("read_only", ["one", "one/sub"])
def test_what_was_read_only_before_stays_so(place: Path, read_only: str) -> None:
    """Locked: the kernel lets nobody undo it in a user namespace below. It is not the end of the wall."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    (place / "one" / "sub").mkdir()

    def work() -> None:
        libc = ctypes.CDLL(None)
        assert libc.unshare(CLONE_NEWNS) == 0
        target = os.fsencode(place / read_only)
        assert libc.mount(None, b"/", None, 1 << 18 | 1 << 14, None) == 0  # MS_PRIVATE | MS_REC
        assert libc.mount(target, target, None, 1 << 12, None) == 0  # MS_BIND
        assert libc.mount(None, target, None, 1 << 12 | 1 << 5 | 1, None) == 0  # MS_BIND | MS_REMOUNT | MS_RDONLY
        one = str(place / "one")
        mounts = (Mount(MOUNT_READ_ONLY, "/"), Mount(MOUNT_BIND_WRITABLE, one, one))
        expected = [path for path in ("one", "one/sub") if not path.startswith(read_only)]
        assert within(place, TRY, *mounts).split() == expected

    assert inside.in_fork(work) == 0


def test_optional_steps_go_on_where_something_is_missing_or_there(place: Path) -> None:
    missing = str(place / "missing")
    mounts = (
        Mount(MOUNT_BIND, missing, str(place / "one"), optional=True),
        Mount(MOUNT_BIND, str(place / "one"), missing, optional=True),
        Mount(MOUNT_DIRECTORY, str(place / "one"), flags=0o700, optional=True),
        Mount(MOUNT_FILE, str(place / "one" / "file"), flags=0o700, optional=True),
        Mount(MOUNT_LINK, str(place / "one" / "file"), "nowhere", optional=True),
        Mount(MOUNT_READ_ONLY, missing, optional=True),
        Mount(MOUNT_WRITABLE, missing, optional=True),
        Mount(MOUNT_BIND_WRITABLE, missing, missing, optional=True),
        Mount(MOUNT_BIND_READ_ONLY, missing, missing, optional=True),
        tmpfs(place / "two"),
    )
    assert within(place, "cat one/file; ls two", *mounts) == "one"


def test_a_step_that_fails_is_named_with_its_path(place: Path) -> None:
    missing = str(place / "missing")
    cases = [
        (Mount(MOUNT_BIND, missing, str(place / "one")), errno.ENOENT),
        (Mount(MOUNT_BIND, str(place / "one"), missing), errno.ENOENT),
        (Mount(MOUNT_NEW, str(place / "one"), "no-such-type"), errno.ENODEV),
        (Mount(MOUNT_DIRECTORY, str(place / "one"), flags=0o700), errno.EEXIST),
        (Mount(99, str(place / "one")), errno.EINVAL),
        (Mount(MOUNT_NEW, str(place / "one" / "file"), "tmpfs"), errno.ENOTDIR),
        (Mount(MOUNT_READ_ONLY, str(place / "one")), errno.ENOENT),  # no mount
        (Mount(MOUNT_NEW, str(place / "one"), "no-such-type", optional=True), errno.ENODEV),
    ]
    for mount, answer in cases:
        error = failure("/bin/true", namespaces=OWN_MOUNTS, mounts=(tmpfs(place / "two"), mount))
        assert (error.step, error.errno) == ("mount", answer), mount
        assert mount.target in str(error)


def test_late_rules_open_what_the_mounts_made(place: Path) -> None:
    """Before them there was nothing at the path that a rule could be for."""
    mounts = (tmpfs(place / "one"), Mount(MOUNT_FILE, str(place / "one" / "made"), flags=0o600))
    script = f"cat {place}/one/made && echo read; echo > {place}/one/made && echo written; :"
    rules = [(str(place / "one" / "made"), landlock.FS_READ_FILE)]
    programs = (path for path in ("/usr", "/bin", "/lib", "/lib64", "/etc") if os.path.exists(path))
    with inside.ruleset(*programs) as fd:
        done = shell(script, namespaces=OWN_MOUNTS, mounts=mounts, ruleset_fd=fd, late_rules=rules)
    assert "read\n" in done.output
    assert "written" not in done.output
