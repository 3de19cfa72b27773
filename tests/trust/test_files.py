"""What is hashed is what the descriptor holds; a file that is none is refused by what it is."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from nono.trust import files
from nono.trust.errors import CHANGED, UNSAFE_FILE, UnsafeFile
from nono.trust.files import Opened


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "SKILL.md").write_bytes(b"be kind\n")
    return tmp_path


def refusal(tree: Path, relative: str, outcome: str = UNSAFE_FILE, **how: int) -> str:
    with pytest.raises(UnsafeFile) as caught:
        files.open_file(str(tree), relative, **how)  # type: ignore[arg-type]
    assert caught.value.outcome == outcome
    assert caught.value.source == relative
    return caught.value.reason


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()


def test_reads_and_hashes(tree: Path) -> None:
    opened = files.open_file(str(tree), "a/SKILL.md", keep=True)
    try:
        assert opened.sha256 == sha256(b"be kind\n").hexdigest()
        assert opened.data == b"be kind\n"
        assert opened.path == str(tree / "a" / "SKILL.md")
        assert not os.get_inheritable(opened.fd)
        files.recheck(opened)
    finally:
        files.close(opened)
    assert Opened(0, "/", "x", "", opened.identity).path == "/x"


def test_the_contents_are_kept_where_they_are_asked_for_only(tree: Path) -> None:
    opened = files.open_file(str(tree), "a/SKILL.md")
    files.close(opened)
    assert opened.data == b""


def test_reads_a_file_of_many_pieces_and_an_empty_one(tree: Path) -> None:
    content = os.urandom(3_000_001)
    for data in (content, b""):
        (tree / "big").write_bytes(data)
        opened = files.open_file(str(tree), "big")
        files.close(opened)
        assert opened.sha256 == sha256(data).hexdigest()


def test_a_file_that_is_not_there(tree: Path) -> None:
    for relative in ("none", "none/SKILL.md"):
        with pytest.raises(FileNotFoundError):
            files.open_file(str(tree), relative)


@pytest.mark.parametrize("relative", ["", "/etc/passwd", "../x", "a/../a/SKILL.md", "./a", "a//SKILL.md", "a/", "a\0b"])
def test_a_path_that_could_lead_out_is_refused(tree: Path, relative: str) -> None:
    assert "not a path below" in refusal(tree, relative)


def make_symlink(path: Path) -> None:
    path.symlink_to("SKILL.md")


def make_dangling(path: Path) -> None:
    path.symlink_to("/nonexistent")


def make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_symlink, "is a symlink"),
        (make_dangling, "is a symlink"),
        (os.mkfifo, "is not a regular file"),
        (Path.mkdir, "is not a regular file"),
        (make_socket, "is not a regular file"),
    ],
)
def test_what_is_no_file_is_refused_and_never_waited_for(tree: Path, make: Callable[[Path], None], reason: str) -> None:
    make(tree / "a" / "CLAUDE.md")
    before = descriptors()
    assert reason in refusal(tree, "a/CLAUDE.md")
    assert descriptors() == before


def test_a_symlinked_directory_is_refused(tree: Path) -> None:
    (tree / "b").symlink_to("a")
    (tree / "a" / "c").symlink_to(".")
    assert refusal(tree, "b/SKILL.md") == "is reached through a symlink"
    assert refusal(tree, "a/c/SKILL.md") == "is reached through a symlink"


def test_a_file_with_another_name_is_refused(tree: Path) -> None:
    os.link(tree / "a" / "SKILL.md", tree / "elsewhere")
    assert "has 2 names" in refusal(tree, "a/SKILL.md")


def test_the_digest_of_what_is_not_vouched_for(tree: Path) -> None:
    (tree / "link").symlink_to("a/SKILL.md")
    os.mkfifo(tree / "fifo")
    with open(tree / "huge", "wb") as file:
        file.truncate(files.MOST_BYTES + 1)
    assert files.digest(f"{tree}/link") == sha256((tree / "a" / "SKILL.md").read_bytes()).hexdigest()
    for name in ("fifo", "huge", "a", "none", "a\0b"):
        assert files.digest(f"{tree}/{name}") == ""


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tree: Path) -> None:
    with open(tree / "huge", "wb") as file:
        file.truncate(files.MOST_BYTES + 1)
    assert refusal(tree, "huge") == "is larger than 16 MiB"
    assert "larger than" in refusal(tree, "a/SKILL.md", most=7)
    files.close(files.open_file(str(tree), "a/SKILL.md", most=8))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_refused(tree: Path) -> None:
    (tree / "a" / "SKILL.md").chmod(0)
    assert "cannot be read" in refusal(tree, "a/SKILL.md")


def test_a_name_that_is_not_utf_8_can_be_opened_and_half_a_surrogate_pair_cannot(tree: Path) -> None:
    (tree / os.fsdecode(b"\xff")).write_bytes(b"x")
    files.close(files.open_file(str(tree), "\udcff"))
    assert "not UTF-8" in refusal(tree, "\ud800")
    assert "not UTF-8" in refusal(tree, "\ud800/x")


def test_a_file_that_is_written_while_it_is_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tree / "a" / "SKILL.md"
    read = os.read

    def growing(fd: int, count: int) -> bytes:
        with open(path, "ab") as file:
            file.write(b"!")
        return read(fd, count)

    monkeypatch.setattr(os, "read", growing)
    before = descriptors()
    assert "while it was read" in refusal(tree, "a/SKILL.md", CHANGED)
    assert descriptors() == before


def same_size(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"BE")


def same_size_and_times(path: Path) -> None:
    before = path.stat()
    same_size(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    os.replace(new, path)


def swapped_for_a_link(path: Path) -> None:
    moved = path.with_name("moved")
    path.rename(moved)
    path.symlink_to("moved")


def directory_swapped_for_a_link(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to("moved")


@pytest.mark.parametrize(
    "change",
    [
        same_size,
        same_size_and_times,
        replaced,
        swapped_for_a_link,
        directory_swapped_for_a_link,
        Path.unlink,
        lambda path: os.link(path, path.with_name("again")),
        lambda path: path.chmod(0o600),
    ],
)
def test_whatever_happens_to_it_before_the_start_is_seen(tree: Path, change: Callable[[Path], None]) -> None:
    path = tree / "a" / "SKILL.md"
    opened = files.open_file(str(tree), "a/SKILL.md")
    try:
        files.recheck(opened)
        change(path)
        with pytest.raises(UnsafeFile, match=r"a/SKILL\.md was changed after it was verified") as caught:
            files.recheck(opened)
        assert caught.value.outcome == CHANGED
    finally:
        files.close(opened)


def test_a_link_that_is_replaced_while_it_is_looked_at(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "b").symlink_to("a")

    def gone(*_: object, **__: object) -> str:
        raise OSError(errno.EINVAL, "")

    monkeypatch.setattr(os, "readlink", gone)
    with pytest.raises(UnsafeFile, match="cannot be read"):
        files.open_path(f"{tree}/b/SKILL.md")


def test_a_file_of_the_users_own_may_be_in_a_linked_directory(tree: Path) -> None:
    (tree / "b").symlink_to("a")
    opened = files.open_path(str(tree / "b" / "SKILL.md"))
    files.recheck(opened)
    files.close(opened)
    assert opened.path == os.path.realpath(tree / "a" / "SKILL.md")
    (tree / "a" / "link").symlink_to("SKILL.md")
    with pytest.raises(UnsafeFile, match="symlink"):
        files.open_path(str(tree / "b" / "link"))
