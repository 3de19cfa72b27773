"""What is opened is what the path names: no link on the way, whether openat2 is to be had or not."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nono.kernel import paths


class Without:
    """A shim whose openat2 answers like a filter around us."""

    def __init__(self, answer: int) -> None:
        self.answer = answer

    def nono_openat2(self, *_: object) -> int:
        return self.answer


@pytest.fixture(params=[0, errno.ENOSYS, errno.EPERM], ids=["openat2", "no openat2", "openat2 forbidden"])
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], int]:
    if request.param:
        monkeypatch.setattr(paths, "lib", Without(-request.param))
    return lambda path: paths.open_real(str(path))


def test_opens_what_is_there(tmp_path: Path, opened: Callable[[Path], int]) -> None:
    (tmp_path / "file é").touch()
    for path in (tmp_path, tmp_path / "file é", Path("/")):
        fd = opened(path)
        assert os.path.samestat(os.fstat(fd), os.stat(path))
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_follows_no_link(tmp_path: Path, opened: Callable[[Path], int]) -> None:
    (tmp_path / "there" / "file").parent.mkdir()
    (tmp_path / "there" / "file").touch()
    (tmp_path / "link").symlink_to("there")
    before = os.listdir("/proc/self/fd")
    for path, expected in (
        (tmp_path / "link", errno.ELOOP),
        (tmp_path / "link" / "file", errno.ELOOP),
        (tmp_path / "missing", errno.ENOENT),
        (tmp_path / "there" / "file" / "below", errno.ENOTDIR),
    ):
        with pytest.raises(OSError) as caught:
            opened(path)
        assert caught.value.errno == expected
    assert os.listdir("/proc/self/fd") == before
