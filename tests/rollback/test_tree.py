"""tree.py on real file systems: what is met in which order, and what is planted to lead it astray."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.rollback import tree
from nono.rollback.tree import Entry, Ladder, Walk, open_root


def walked(path: Path, walk: Walk | None = None) -> list[Entry]:
    root = open_root(os.fsencode(path))
    assert root
    return list((walk or Walk()).entries(root))


def paths(entries: list[Entry]) -> list[bytes]:
    return [entry.path for entry in entries]


def test_yields_what_is_there_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_text("12")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "a").symlink_to("/etc")
    found = walked(tmp_path)
    assert paths(found) == [b"", b"a", b"b", b"b/x", b"b.txt"]
    assert [entry.kind for entry in found] == ["dir", "link", "dir", "file", "file"]
    assert found[3].size == 2
    assert paths(found) == sorted(paths(found), key=tree.sort_key)


@given(st.lists(st.lists(st.binary(min_size=1, max_size=3).filter(lambda name: not {0, 47} & {*name}), min_size=1)))
def test_the_sort_key_is_the_order_of_components(names: list[list[bytes]]) -> None:
    assert sorted((b"/".join(name) for name in names), key=tree.sort_key) == [b"/".join(name) for name in sorted(names)]


def test_names_of_any_bytes_are_taken(tmp_path: Path) -> None:
    names = sorted([b"\xff\xfe", b"a\nb", b"a\tb", b"back\\slash", b" ", "ü".encode()])
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text("x")
    assert paths(walked(tmp_path)) == [b"", *names]


def test_many_names_in_one_directory_are_in_order(tmp_path: Path) -> None:
    names = [f"{number * 7919 % 10007:05}" for number in range(10007)]
    for name in names:
        (tmp_path / name).touch()
    assert paths(walked(tmp_path))[1:] == [name.encode() for name in sorted(names)]


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "loop").symlink_to(".")
    assert paths(walked(inside)) == [b"", b"link", b"loop"]


def test_a_root_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(OSError):
        open_root(os.fsencode(tmp_path / "link"))


def test_a_root_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real" / "root").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    assert walked(tmp_path / "real" / "root")
    for path in ("link/root", "link/root/", "link/"):
        with pytest.raises(OSError):
            open_root(os.fsencode(tmp_path) + b"/" + path.encode())


def test_a_root_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert open_root(os.fsencode(tmp_path / "nothing")) is None
    assert open_root(os.fsencode(tmp_path / "nothing" / "below")) is None


def test_a_root_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("abc")
    (entry,) = walked(tmp_path / "file")
    assert (entry.path, entry.kind, entry.size) == (b"", "file", 3)


def test_fifos_and_sockets_are_named_and_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        found = walked(tmp_path)
    assert [(entry.path, entry.kind, entry.reason) for entry in found[1:]] == [
        (b"fifo", "special", "special"),
        (b"socket", "special", "special"),
    ]


def _descend(top: Path, depth: int) -> None:
    """Make directories deeper than a path may be long, which only openat can."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_depth_costs_neither_stack_nor_descriptors(tmp_path: Path) -> None:
    _descend(tmp_path, 5000)
    before = len(os.listdir("/proc/self/fd"))
    most = 0
    last = b""
    root = open_root(os.fsencode(tmp_path))
    assert root
    count = 0
    for entry in Walk().entries(root):
        count += 1
        if not count % 500:
            most = max(most, len(os.listdir("/proc/self/fd")))
        last = entry.path
    assert count == 5002
    assert last.endswith(b"/d/file")
    assert most - before < 80
    assert len(os.listdir("/proc/self/fd")) == before
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # pytest's own way to clean up recurses


def test_paths_beyond_all_measure_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_PATH_BYTES", 20)
    _descend(tmp_path, 50)
    found = walked(tmp_path)
    assert found[-1].reason == tree.TOO_DEEP
    assert len(found) == 12


def test_what_the_walk_is_told_never_to_take_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "x").write_text("")
    found = walked(tmp_path, Walk(never=[os.fsencode(tmp_path / "state")]))
    assert [(entry.path, entry.reason) for entry in found] == [(b"", ""), (b"state", "excluded")]


def _in_own_mounts(work: Callable[[], bool]) -> bool:
    """Do something in a mount namespace of its own."""
    pid = os.fork()
    if not pid:
        status = 3
        try:
            os.unshare(os.CLONE_NEWNS) if hasattr(os, "unshare") else _unshare()
            status = 0 if work() else 1
        except PermissionError:
            status = 2
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 2:
        pytest.skip("CAP_SYS_ADMIN is missing")
    return status == 0


def _unshare() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000) or libc.mount(b"none", b"/", None, (1 << 18) | (1 << 14), None):
        raise OSError(ctypes.get_errno(), "unshare")


def _bind(source: Path, target: Path) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(target), None, 4096 | 16384, None):
        raise OSError(ctypes.get_errno(), "mount")


def test_a_mount_is_entered_only_if_it_is_granted_and_a_loop_never(tmp_path: Path) -> None:
    for name in ("tree/loop", "tree/other", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "elsewhere" / "file").write_text("")

    def work() -> bool:
        _bind(tmp_path / "elsewhere", tmp_path / "tree" / "other")
        _bind(tmp_path / "tree", tmp_path / "tree" / "loop")
        found = {entry.path: entry.reason for entry in walked(tmp_path / "tree")}
        granted = [os.fsencode(tmp_path / "tree" / name) for name in ("other", "loop")]
        across = {entry.path: entry.reason for entry in walked(tmp_path / "tree", Walk(across=granted))}
        return found == {b"": "", b"loop": "mount", b"other": "mount"} and across == {
            b"": "",
            b"loop": "mount",
            b"other": "",
            b"other/file": "",
        }

    assert _in_own_mounts(work)


def test_directories_swapped_for_links_while_it_walks_lead_nowhere(tmp_path: Path) -> None:
    """An agent's process that outlived it, or a neighbour, swaps a directory for a link to somewhere else."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    inside = tmp_path / "inside"
    (inside / "a").mkdir(parents=True)
    (inside / "a" / "mine").write_text("")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (inside / "a").rename(inside / "was")
            (inside / "a").symlink_to(outside)
            (inside / "a").unlink()
            (inside / "was").rename(inside / "a")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            found = paths(walked(inside))
            assert not [path for path in found if b"secret" in path]
    finally:
        stop.set()
        thread.join()


def test_what_vanishes_while_it_walks_was_not_there(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    root = open_root(os.fsencode(tmp_path))
    assert root
    found = []
    for entry in Walk().entries(root):
        found.append(entry.path)
        if entry.path == b"a":
            shutil.rmtree(tmp_path / "b")
    assert found == [b"", b"a", b"c"]


@pytest.mark.parametrize("mode", [0, 0o400, 0o600, 0o100])
def test_what_may_not_be_read_is_named(tmp_path: Path, mode: int) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "x").write_text("")
    (tmp_path / "closed").chmod(mode)
    os.chown(tmp_path / "closed", 65534, 65534) if os.geteuid() == 0 else None
    tmp_path.chmod(0o755)
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        root = open_root(os.fsencode(tmp_path))
        os.setresuid(65534, 65534, 65534) if os.geteuid() == 0 else None
        found = [(entry.path, entry.reason, entry.note) for entry in Walk().entries(root)] if root else []
        os.write(writes, repr(found[1:]).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reads, 1000).decode() == repr([(b"closed", "unreadable", "Permission denied")])
    os.close(reads)
    os.close(writes)


def test_the_ladder_goes_anywhere_and_keeps_few_descriptors(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 200)
    (tmp_path / deep / "e").mkdir(parents=True)
    (tmp_path / "x" / "y").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    with Ladder(os.open(tmp_path, os.O_RDONLY)) as ladder:
        for path in (f"{deep}/e", "x/y", deep, "", "d/d", f"{deep}/e", "d", "x"):
            found = os.fstat(ladder.directory(path.encode()))
            assert found.st_ino == (tmp_path / path).stat().st_ino
            assert len(os.listdir("/proc/self/fd")) - before < 80
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                ladder.directory(b"x/none/deeper")
        assert os.fstat(ladder.directory(b"x")).st_ino == (tmp_path / "x").stat().st_ino
    assert len(os.listdir("/proc/self/fd")) == before


def test_holes_take_nothing() -> None:
    assert tree.count_bytes(100 << 30, 0) == 0
    assert tree.count_bytes(100, 0) == 100
    assert tree.count_bytes(1 << 20, 1 << 12) == 1 << 20
