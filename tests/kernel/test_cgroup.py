"""Control groups: where one is made and what is written, on a tree of plain files; and real ones, where they are had.

The tree of files behaves as cgroup v2 does in what matters here: a new group has the files of the controllers that are
switched on above it, and a group can be removed with its files in it. Errors are the kernel's, put in by path.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nono.kernel import cgroup

FILES = {
    "memory": {"memory.max": "max", "memory.swap.max": "max", "memory.oom.group": "0", "memory.events": "oom_kill 0\n"},
    "pids": {"pids.max": "max", "pids.events": "max 0\n"},
    "cpu": {"cpu.max": "max"},
}
BOTH = {
    "memory": {"memory.max": "1000", "memory.swap.max?": "0", "memory.oom.group": "1"},
    "pids": {"pids.max": "50"},
}
PID = os.getpid()


class Tree:
    """A cgroup file system of plain files: errors: (path's end, errno) of writes, of mkdir and of opening."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.proc = top / "proc"
        self.mount = top / "cgroup"
        self.errors: dict[str, int] = {}
        self.gone: set[str] = set()  # files that new groups do not have
        self.opened: list[str] = []
        (self.proc / "self").mkdir(parents=True)
        self.group("")
        self.describe("/user/app")

    def group(self, name: str, enabled: str = "") -> Path:
        path = self.mount / name
        path.mkdir(parents=True)
        (path / "cgroup.procs").touch()
        (path / "cgroup.subtree_control").write_text(enabled)
        return path

    def describe(self, own: str, root: str = "/", mount: str | None = None) -> None:
        """Say in which group this process is, and how the file system is mounted."""
        (self.proc / "self/cgroup").write_text(f"4:memory:/elsewhere\n0::{own}\n")
        point = mount or str(self.mount)
        (self.proc / "self/mountinfo").write_text(
            "25 1 0:23 / /proc rw,nosuid - proc proc rw\n"
            f"35 25 0:30 {root} {point} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
        )

    def make(self, controllers: dict[str, dict[str, str]] = BOTH) -> cgroup.Cgroup | None:
        return cgroup.make(controllers, str(self.proc))

    def groups(self) -> list[Path]:
        return list(self.mount.rglob("nono-*"))

    # What the module calls.

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fail(self, path: str) -> None:
        for end, number in self.errors.items():
            if path.endswith(end):
                raise OSError(number, os.strerror(number), path)

    def open(self, path: str, flags: int) -> int:
        self.fail(path)
        return os.open(path, flags)

    def mkdir(self, path: str, mode: int) -> None:
        self.fail(os.path.dirname(path) + "/mkdir")
        os.mkdir(path, mode)
        new = Path(path)
        enabled = (new.parent / "cgroup.subtree_control").read_text().split()
        for name, content in {"cgroup.procs": "", **{k: v for c in enabled for k, v in FILES[c].items()}}.items():
            if name not in self.gone:
                (new / name).write_text(content)

    def rmdir(self, path: str) -> None:
        self.fail(path)
        for file in Path(path).iterdir():
            file.unlink()
        os.rmdir(path)

    def write_file(self, path: str, text: str) -> None:
        self.fail(path)
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        if path.endswith("cgroup.subtree_control"):
            text = " ".join(name.lstrip("+") for name in (*Path(path).read_text().split(), *text.split()))
        Path(path).write_text(text)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    tree = Tree(tmp_path)
    monkeypatch.setattr(cgroup, "os", tree)
    monkeypatch.setattr(cgroup, "_write", tree.write_file)
    monkeypatch.setattr(cgroup, "_REMOVAL_S", 0.02)
    return tree


def test_makes_a_group_where_the_controllers_are_on(tree: Tree) -> None:
    tree.group("user", "memory pids")
    tree.group("user/app")
    tree.errors["/app/cgroup.subtree_control"] = errno.EBUSY  # it holds this process
    group = tree.make()
    assert group is not None
    path = Path(group.path)
    assert path.parent == tree.mount / "user"
    assert path.name.startswith(f"nono-{PID}-")
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max")
    written = {name: (path / name).read_text() for name in names}
    assert written == {"memory.max": "1000", "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "50"}
    assert os.fstat(group.procs_fd).st_ino == (path / "cgroup.procs").stat().st_ino
    assert not os.get_inheritable(group.procs_fd)
    group.close()
    assert tree.groups() == []


def test_switches_controllers_on_where_that_is_allowed(tree: Tree) -> None:
    user = tree.group("user", "cpu pids")
    tree.group("user/app")
    tree.errors["/app/cgroup.subtree_control"] = errno.EBUSY
    group = tree.make()
    assert group is not None
    assert Path(group.path).parent == user
    assert (user / "cgroup.subtree_control").read_text() == "cpu pids memory"
    group.close()


def test_only_the_controllers_that_are_needed_are_asked_for(tree: Tree) -> None:
    tree.group("user", "pids")
    tree.group("user/app")
    for name, number in (("app", errno.EBUSY), ("user", errno.ENOENT), ("cgroup", errno.EACCES)):
        tree.errors[f"/{name}/cgroup.subtree_control"] = number
    assert tree.make() is None
    group = tree.make({"pids": {"pids.max": "3"}})
    assert group is not None
    assert group.counts("pids.events") == {"max": 0}
    assert group.counts("memory.events") is None
    group.close()


def test_a_file_that_may_be_missing(tree: Tree) -> None:
    tree.group("user", "memory pids")
    tree.describe("/user")
    tree.gone.add("memory.swap.max")
    group = tree.make()
    assert group is not None
    assert not os.path.exists(f"{group.path}/memory.swap.max")
    group.close()
    tree.gone.add("memory.oom.group")
    assert tree.make() is None
    assert tree.groups() == []


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("user/mkdir", errno.EACCES),
        ("user/mkdir", errno.EROFS),
        ("user/mkdir", errno.EAGAIN),  # cgroup.max.descendants
        ("user/cgroup.subtree_control", errno.EACCES),
        ("/memory.max", errno.EINVAL),
        ("/pids.max", errno.EACCES),
        ("/memory.swap.max", errno.EACCES),
    ],
)
def test_what_fails_leaves_nothing_behind(tree: Tree, where: str, number: int) -> None:
    tree.group("user", "memory" if "subtree" in where else "memory pids")
    tree.describe("/user")
    tree.errors |= {where: number, "cgroup/cgroup.subtree_control": errno.EACCES}
    before = len(os.listdir("/proc/self/fd"))
    assert tree.make() is None
    assert tree.groups() == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_group_that_lets_nobody_in_is_not_taken(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.group("user", "memory pids")
    tree.group("user/app", "memory pids")
    answers = iter((False, True))
    monkeypatch.setattr(cgroup, "_lets_in", lambda _: next(answers))
    group = tree.make()
    assert group is not None
    assert Path(group.path).parent == tree.mount / "user"
    assert len(tree.groups()) == 1
    group.close()


def test_whether_a_process_gets_in_is_found_out_by_a_child(tmp_path: Path) -> None:
    file = tmp_path / "cgroup.procs"
    file.touch()
    with file.open("wb", buffering=0) as writable, file.open("rb") as readable:
        assert cgroup._lets_in(writable.fileno())
        assert not cgroup._lets_in(readable.fileno())
    assert file.read_bytes() == b"0"


@pytest.mark.parametrize(
    ("own", "root", "parent"),
    [
        ("/user", "/", "user"),
        ("/docker/1/user", "/docker/1", "user"),  # a part of the hierarchy is mounted
        ("/docker/1", "/docker/1", ""),
        ("/", "/", ""),
    ],
)
def test_finds_its_own_group(tree: Tree, own: str, root: str, parent: str) -> None:
    tree.group("user", "memory pids")
    (tree.mount / "cgroup.subtree_control").write_text("memory pids")
    tree.describe(own, root)
    group = tree.make()
    assert group is not None
    assert Path(group.path).parent == tree.mount / parent
    group.close()


@pytest.mark.parametrize(
    ("own", "root"),
    [
        ("/../other", "/"),  # outside of the cgroup namespace
        ("/docker/12", "/docker/1"),
        ("/elsewhere", "/docker/1"),
    ],
)
def test_a_group_that_is_not_mounted_here(tree: Tree, own: str, root: str) -> None:
    (tree.mount / "cgroup.subtree_control").write_text("memory pids")
    tree.describe(own, root)
    assert tree.make() is None


def test_a_mount_point_with_a_space(tree: Tree, tmp_path: Path) -> None:
    tree.group("user", "memory pids")
    (tmp_path / "c g").symlink_to(tree.mount)
    tree.describe("/user", mount=str(tmp_path / "c g").replace(" ", "\\040"))
    group = tree.make()
    assert group is not None
    assert cgroup.mount_points(str(tree.proc)) == (str(tmp_path / "c g"),)
    group.close()


def test_without_cgroup_v2(tree: Tree) -> None:
    (tree.proc / "self/mountinfo").write_text("31 23 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n")
    assert tree.make() is None
    assert cgroup.mount_points(str(tree.proc)) == ()
    (tree.proc / "self/cgroup").write_text("8:pids:/\n")
    assert tree.make() is None
    assert cgroup.make(BOTH, str(tree.proc / "not-mounted")) is None


def test_groups_of_killed_runs_are_removed_and_those_of_living_ones_stay(tree: Tree) -> None:
    user = tree.group("user", "memory pids")
    tree.describe("/user")
    (user / "nono-1-dead").mkdir()
    (user / "nono-2-alive").mkdir()
    (user / "nono-file").touch()
    (user / "other").mkdir()
    (user / "nono-3-populated").mkdir()
    tree.errors["nono-3-populated"] = errno.EBUSY
    alive = os.open(user / "nono-2-alive", os.O_RDONLY)
    fcntl.flock(alive, fcntl.LOCK_EX)
    group = tree.make()
    assert group is not None
    left = {path.name for path in user.iterdir() if not path.name.startswith("cgroup.")}
    assert left == {"nono-2-alive", "nono-3-populated", "nono-file", "other", Path(group.path).name}
    other = tree.make()  # of another run at the same time
    assert other is not None
    assert os.path.isdir(group.path)
    other.close()
    group.close()
    os.close(alive)


def test_a_new_group_that_another_run_swept_away_is_made_again(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.group("user", "memory pids")
    tree.describe("/user")
    made: list[str] = []

    def swept(path: str, mode: int, mkdir: Callable[[str, int], None] = tree.mkdir) -> None:
        mkdir(path, mode)
        made.append(path)
        if len(made) == 1:
            tree.rmdir(path)

    monkeypatch.setattr(tree, "mkdir", swept)
    group = tree.make()
    assert group is not None
    assert group.path == made[1]
    group.close()


def test_a_group_that_cannot_be_removed_does_not_hold_the_end_up(tree: Tree) -> None:
    tree.group("user", "memory pids")
    tree.describe("/user")
    group = tree.make()
    assert group is not None
    tree.errors[group.path] = errno.EBUSY
    start = time.monotonic()
    group.close()
    assert time.monotonic() - start < 1
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(group.procs_fd)


# On the real file system. No controller is needed to make a group and to kill who is in it.


@pytest.fixture
def group() -> Iterator[cgroup.Cgroup]:
    made = cgroup.make({})
    if made is None:
        pytest.skip("no cgroup v2 is delegated to this user")
    yield made
    if os.path.isdir(made.path):
        made.close()


def start_inside(group: cgroup.Cgroup, *argv: str) -> subprocess.Popen[str]:
    enter = f"import os, sys; os.write({group.procs_fd}, b'0'); os.execvp(sys.argv[1], sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", enter, *argv], pass_fds=[group.procs_fd], stdout=subprocess.PIPE, text=True
    )


def test_all_that_is_in_a_real_group_is_killed_at_the_end(group: cgroup.Cgroup) -> None:
    shell = start_inside(group, "sh", "-c", "sleep 100 & echo $!; exec sleep 100")
    assert shell.stdout is not None
    orphan = int(shell.stdout.readline())
    listed = Path(group.path, "cgroup.procs").read_text().split()
    assert {str(shell.pid), str(orphan)} <= set(listed)
    group.close()
    assert shell.wait(10) == -signal.SIGKILL
    assert not os.path.exists(group.path)
    stat = Path(f"/proc/{orphan}/stat")
    assert not stat.exists() or b" Z " in stat.read_bytes()  # nobody may have waited for it
    shell.stdout.close()


def test_without_cgroup_kill_each_is_killed(group: cgroup.Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: str, text: str) -> None:
        raise FileNotFoundError(errno.ENOENT, "as on Linux 5.13", path)

    monkeypatch.setattr(cgroup, "_write", write)
    with start_inside(group, "sh", "-c", "sleep 100 & sleep 100 & echo; wait") as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        group.close()
        assert shell.wait(10) == -signal.SIGKILL
    assert not os.path.exists(group.path)


def test_a_real_group_of_a_killed_run_is_removed_by_the_next(group: cgroup.Cgroup) -> None:
    script = "from nono.kernel import cgroup; import os, signal; print(cgroup.make({}).path, flush=True); os.kill(0, 9)"
    killed = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False, start_new_session=True
    )
    left = killed.stdout.strip()
    assert killed.returncode == -signal.SIGKILL
    assert os.path.isdir(left)
    other = cgroup.make({})
    assert other is not None
    assert not os.path.exists(left)
    assert os.path.isdir(group.path)
    other.close()
