"""A directory that is swapped while the probe asks: what is removed is what was made, and nothing else."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

from nono.kernel.probe import Create
from tests.kernel.inside import EVERYWHERE
from tests.kernel.test_probe import ask

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@EVERYWHERE
def test_removes_nothing_that_it_has_not_made(namespaces: int, tmp_path: Path) -> None:
    """By whoever may write in a directory above: an agent of another run, which would have ours remove for it."""
    (tmp_path / "asked").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("other")
    kept = tmp_path / "other" / "new"
    kept.write_text("kept")
    names = [os.fsencode(tmp_path / name) for name in ("asked", "link")]
    pid = os.fork()
    if pid == 0:
        renameat2 = ctypes.CDLL(None).renameat2
        while os.getppid() != 1:
            renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
        os._exit(0)
    try:
        for _ in range(10):
            replies = ask(*[Create(f"{tmp_path}/asked/new")] * 500, namespaces=namespaces)
            assert kept.exists()
            assert not any(reply.left_behind for reply in replies)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert kept.read_text() == "kept"
    assert [path.name for path in tmp_path.rglob("new")] == ["new"]
