"""The run's temporary directory leaves nothing behind and never reaches out of itself."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nono.errors import StoreError
from nono.supervisor import scratch as supervisor_scratch
from nono.supervisor.scratch import ScratchDirectory, sweep

ORDINARY_USER = 12345


@pytest.fixture
def parent() -> Iterator[Path]:
    """A directory that an ordinary user can reach and write."""
    directory = Path(tempfile.mkdtemp(prefix="scratch-")).resolve()
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def as_ordinary_user(act: Callable[[], None]) -> None:
    """Run `act` in a forked process, not as root, for whom no directory is closed."""
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setresuid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER)
            act()
            os._exit(0)
        except BaseException:  # noqa: BLE001  (the process ends here)
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def nest(directory: str, names: list[str], mode: int = 0o700) -> None:
    """Make directories inside each other, deeper than a path can name, with a file in each; the cwd is changed."""
    os.chdir(directory)
    for name in names:
        os.close(os.open("file", os.O_CREAT))
        os.mkdir(name, 0o700)
        above = os.open(".", os.O_RDONLY)
        os.chdir(name)
        os.chmod(name, mode, dir_fd=above)
        os.close(above)


def test_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    with ScratchDirectory(str(tmp_path), create=True) as scratch:
        assert os.stat(scratch.path).st_mode & 0o777 == 0o700
        Path(scratch.path, "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("closed", [0, 0o100, 0o300, 0o500])
def test_removes_directories_that_were_closed_to_their_owner(parent: Path, closed: int) -> None:
    def run() -> None:
        with ScratchDirectory(str(parent), create=True) as scratch:
            inner = Path(scratch.path, "a", "b", "c", "d")
            inner.mkdir(parents=True)
            for directory in (inner, *list(inner.parents)[:4]):
                directory.joinpath("file").write_text("x")
                directory.joinpath("empty").mkdir(mode=closed)
                directory.chmod(closed)
        assert list(parent.iterdir()) == []

    as_ordinary_user(run)


@pytest.mark.parametrize(
    "names", [["d"] * 2000, [f"{number:0>250}" for number in range(30)]], ids=["2000 levels", "long names"]
)
def test_removes_what_no_path_can_name(parent: Path, names: list[str]) -> None:
    def run() -> None:
        with ScratchDirectory(str(parent), create=True) as scratch:
            nest(scratch.path, names)
            os.chdir("/")
        assert list(parent.iterdir()) == []

    as_ordinary_user(run)


def test_removes_a_wide_and_deep_tree(parent: Path) -> None:
    def run() -> None:
        with ScratchDirectory(str(parent), create=True) as scratch:
            for number in range(100):
                Path(scratch.path, *str(number * 37), "x").mkdir(parents=True, exist_ok=True)
                Path(scratch.path, *str(number * 37), "y").touch()
            os.mkfifo(f"{scratch.path}/fifo")
        assert list(parent.iterdir()) == []

    as_ordinary_user(run)


def test_does_not_follow_a_planted_link(parent: Path) -> None:
    def run() -> None:
        outside = parent / "outside"
        outside.mkdir(mode=0o500)
        closed_outside = parent / "closed"
        closed_outside.mkdir(mode=0)
        with ScratchDirectory(str(parent), create=True) as scratch:
            inner = Path(scratch.path, "a", "b")
            inner.mkdir(parents=True)
            for directory in (Path(scratch.path), *inner.parents[:1], inner):
                directory.joinpath("link").symlink_to(outside)
                directory.joinpath("other").symlink_to(closed_outside)
            inner.chmod(0)
        assert sorted(path.name for path in parent.iterdir()) == ["closed", "outside"]
        assert outside.stat().st_mode & 0o777 == 0o500
        assert closed_outside.stat().st_mode & 0o777 == 0
        closed_outside.chmod(0o700)  # for whoever cleans up

    as_ordinary_user(run)


@pytest.mark.parametrize("put", ["a link", "a directory", "a closed directory", "nothing", "a file"])
def test_leaves_alone_what_is_not_the_directory_it_made(parent: Path, put: str) -> None:
    """The agent can write the directory around it, and put something of the user's in its place."""

    def run() -> None:
        precious = parent / "precious"
        precious.mkdir()
        (precious / "file").touch()
        with ScratchDirectory(str(parent), create=True) as scratch:
            os.rename(scratch.path, parent / "moved")
            if put == "a link":
                os.symlink(precious, scratch.path)
            elif put == "a file":
                os.rename(precious / "file", scratch.path)
            elif put != "nothing":
                os.rename(precious, scratch.path)
                precious = Path(scratch.path)
            if put == "a closed directory":
                precious.chmod(0)
        if put == "a closed directory":
            assert precious.stat().st_mode & 0o777 == 0
            precious.chmod(0o700)
        assert (Path(scratch.path) if put == "a file" else precious / "file").exists()
        assert (parent / "moved").is_dir()

    as_ordinary_user(run)


def test_leaves_a_directory_that_it_may_not_remove(parent: Path) -> None:
    def run() -> None:
        around = parent / "around"
        around.mkdir()
        with ScratchDirectory(str(around), create=True) as scratch:
            Path(scratch.path, "file").touch()
            around.chmod(0o500)
        assert [path.name for path in Path(scratch.path).iterdir()] == []
        around.chmod(0o700)

    as_ordinary_user(run)


def test_a_dry_run_makes_nothing(tmp_path: Path) -> None:
    with ScratchDirectory(str(tmp_path), create=False):
        assert list(tmp_path.iterdir()) == []


def test_says_what_to_do_when_it_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Set TMPDIR"), ScratchDirectory(str(tmp_path / "absent"), create=True):
        pass


def test_what_ran_out_of_memory_is_removed_when_there_is_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    never_ended = ScratchDirectory(str(tmp_path), create=True).__enter__()
    Path(never_ended.path, "file").touch()
    with monkeypatch.context() as patched:
        patched.setattr(supervisor_scratch, "_remove", no_memory)
        with pytest.raises(MemoryError), ScratchDirectory(str(tmp_path), create=True):
            pass
    assert len(list(tmp_path.iterdir())) == 2
    supervisor_scratch.remove_left()
    assert list(tmp_path.iterdir()) == []
    supervisor_scratch.remove_left()


def test_is_removed_by_who_has_run_out_of_descriptors(tmp_path: Path) -> None:
    taken = []
    with ScratchDirectory(str(tmp_path), create=True) as scratch:
        for name in ("a", "a/b", "a/b/c"):
            Path(scratch.path, name).mkdir()
        Path(scratch.path, "a/b/c/file").write_text("x")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
        with suppress(OSError):  # EMFILE
            while True:
                taken.append(os.open("/", os.O_PATH))
    for fd in taken:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_too_few_descriptors_for_a_removal_are_too_few_to_begin(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_fds = set(map(int, os.listdir("/proc/self/fd")))
    before = len(os.listdir("/proc/self/fd"))
    least = next(number for number in range(3, 4096) if number not in open_fds)
    resource.setrlimit(resource.RLIMIT_NOFILE, (least + 2, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            ScratchDirectory(str(tmp_path), create=True).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_sweeps_what_processes_left_that_are_gone_and_nothing_else(tmp_path: Path) -> None:
    """Whoever may write here names what he likes, other digits than 0 to 9 too."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    kept = [f"own-{os.getpid()}-a", "own-\u00b2-a", "own--a", "own-x-a", f"own-{pid}x-a", "other-1-a"]
    for name in (*kept, f"own-{pid}-a", f"own-{'9' * 30}-a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / f"own-{pid}-link").symlink_to(kept[0])
    sweep(str(tmp_path), "own-")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, f"own-{pid}-link"])
    assert all((tmp_path / name / "file").exists() for name in kept)


def test_a_link_in_the_place_of_a_directory_is_not_followed(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody whom `nono wrap` left behind puts it there after we have looked, and before we open it up."""
    secret = parent / "secret"
    secret.touch(0o644)
    mode = secret.stat().st_mode
    unlink_files = supervisor_scratch._unlink_files

    def look(directory: int) -> list[str]:
        names = unlink_files(directory)
        if "inner" in names:
            os.rename("inner", parent / "moved", src_dir_fd=directory)
            os.symlink(secret, "inner", dir_fd=directory)
        return names

    monkeypatch.setattr(supervisor_scratch, "_unlink_files", look)
    with ScratchDirectory(str(parent), create=True) as scratch:
        os.makedirs(f"{scratch.path}/directory/inner")
    assert (parent / "moved").exists()
    assert secret.stat().st_mode == mode
