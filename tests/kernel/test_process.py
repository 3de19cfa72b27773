"""Attributes of a process, on forked ones."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from nono.kernel import process
from tests.kernel.inside import in_fork


def test_undumpable_process_is_closed_to_its_user() -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every process")
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        process.set_dumpable(False)
        os.write(ready[1], b".")
        os.read(go[0], 1)
        process.set_dumpable(True)
        os.write(ready[1], b".")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    with pytest.raises(PermissionError):
        Path(f"/proc/{pid}/environ").read_bytes()
    os.write(go[1], b".")
    os.read(ready[0], 1)
    Path(f"/proc/{pid}/environ").read_bytes()
    os.write(go[1], b".")
    os.waitpid(pid, 0)
    for fd in (*ready, *go):
        os.close(fd)


def test_dumpable_is_what_was_set() -> None:
    def work() -> None:
        for dumpable in (False, True, False):
            process.set_dumpable(dumpable)
            assert process.is_dumpable() is dumpable

    assert in_fork(work) == 0


def test_subreaper_inherits_orphans() -> None:
    def work() -> None:
        process.set_child_subreaper()
        read_fd, write_fd = os.pipe()
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                os.write(write_fd, b"%d" % os.getpid())
                os._exit(7)
            os._exit(0)
        os.waitpid(middle, 0)
        orphan = int(os.read(read_fd, 20))
        assert os.waitstatus_to_exitcode(os.waitpid(orphan, 0)[1]) == 7

    assert in_fork(work) == 0


def test_open_files_limit() -> None:
    def work() -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        process.raise_open_files_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)

    assert in_fork(work) == 0


def test_no_new_privileges() -> None:
    def work() -> None:
        assert "NoNewPrivs:\t0" in Path("/proc/self/status").read_text()
        process.set_no_new_privs()
        assert "NoNewPrivs:\t1" in Path("/proc/self/status").read_text()

    assert in_fork(work) == 0
