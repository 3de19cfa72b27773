from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nono.credentials import files
from nono.errors import CredentialError, StoreError

KEY = b"sk-Vw3kQ9zLx7RbTn5HcYp2MfJd8GsXe4"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(KEY)
    return path


def read(path: Path) -> bytes:
    buffer, length = files.read(str(path), "no such credential")
    with buffer:
        return bytes(buffer.view[:length])


def test_reads_a_private_file(key_file: Path) -> None:
    assert read(key_file) == KEY


def test_reads_an_empty_file(key_file: Path) -> None:
    key_file.write_bytes(b"")
    assert read(key_file) == b""


def test_says_what_it_is_told_when_there_is_none(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "no" / "directory"):
        with pytest.raises(CredentialError, match=r"^no such credential$"):
            read(path)


def symlink(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: path.chmod(0o640), "chmod 600"),
        (lambda path: path.chmod(0o604), "chmod 600"),
        (lambda path: path.chmod(0o620), "chmod 600"),
        (symlink, "symbolic link"),
        (fifo, "not a regular file"),
        (directory, "not a regular file"),
        (lambda path: os.link(path, path.with_name("other")), "hard link"),
        (lambda path: path.parent.chmod(0o770), "chmod go-w"),
        (lambda path: path.parent.chmod(0o702), "chmod go-w"),
        (lambda path: path.write_bytes(b"k" * 20000), "longer than"),
    ],
    ids=["group", "others", "writable", "symlink", "fifo", "directory", "link", "g+w parent", "o+w parent", "size"],
)
def test_refuses_what_others_may_have_touched(key_file: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    spoil(key_file)
    with pytest.raises(CredentialError, match=sentence) as error:
        read(key_file)
    assert str(key_file.parent) in str(error.value)


def test_accepts_a_sticky_directory(key_file: Path) -> None:
    key_file.parent.chmod(0o1777)  # as /tmp: nobody else can replace the file
    assert read(key_file) == KEY


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
@pytest.mark.parametrize("what", ["file", "directory"])
def test_refuses_another_users(key_file: Path, what: str) -> None:
    os.chown(key_file if what == "file" else key_file.parent, 12345, 12345)
    with pytest.raises(CredentialError, match="another user"):
        read(key_file)


def test_writes_a_private_file_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for umask in (0o000, 0o777):
        before = os.umask(umask)
        try:
            files.write(str(path), memoryview(KEY))
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o7777 == 0o600
        assert read(path) == KEY
    assert os.listdir(tmp_path) == ["key"]


def test_replaces_in_one_step(key_file: Path) -> None:
    with key_file.open("rb") as old:
        files.write(str(key_file), memoryview(b"new"))
        assert old.read() == KEY  # a reader has the old file or the new one, never a mixture
    assert read(key_file) == b"new"


def test_leaves_the_old_value_when_it_cannot_write(key_file: Path) -> None:
    key_file.with_name("taken").mkdir()
    with pytest.raises(StoreError, match="cannot be written"):
        files.write(str(key_file.with_name("taken")), memoryview(b"new"))
    assert sorted(os.listdir(key_file.parent)) == ["key", "taken"]


def test_makes_a_private_directory(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c"
    files.private_directory(str(path))
    files.private_directory(str(path))
    assert path.stat().st_mode & 0o7777 == 0o700
    path.chmod(0o750)
    with pytest.raises(StoreError, match="chmod 700"):
        files.private_directory(str(path))
    path.rmdir()
    path.symlink_to(tmp_path)
    with pytest.raises(StoreError, match="not a directory of this user"):
        files.private_directory(str(path))


def test_lists_what_is_stored(tmp_path: Path) -> None:
    for name in ("b", "a", ".index"):
        (tmp_path / name).touch()
    assert files.names(str(tmp_path)) == ["a", "b"]
    assert files.names(str(tmp_path / "none")) == []
