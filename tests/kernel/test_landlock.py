"""Landlock, enforced on a forked process."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nono.errors import KernelError
from nono.kernel import landlock, process
from tests.kernel.inside import in_fork, ruleset

ABI = landlock.abi()


def test_masks_grow_with_the_abi() -> None:
    assert [landlock.fs_mask(abi) for abi in range(9)] == [
        0,
        0x1FFF,
        0x3FFF,
        0x7FFF,
        0x7FFF,
        0xFFFF,
        0xFFFF,
        0xFFFF,
        0xFFFF,
    ]
    assert landlock.fs_mask(ABI) & landlock.FILE_RIGHTS


def test_kernel_knows_exactly_the_mask() -> None:
    os.close(landlock.create_ruleset(landlock.fs_mask(ABI)))
    with pytest.raises(KernelError) as caught:
        landlock.create_ruleset(1 << 40)
    assert (caught.value.errno, caught.value.call) == (errno.EINVAL, "landlock_create_ruleset")


def test_ruleset_fd_is_not_inherited() -> None:
    with ruleset() as fd:
        assert not os.get_inheritable(fd)


def test_granted_and_denied(tmp_path: Path) -> None:
    granted, other = tmp_path / "granted", tmp_path / "other"
    for directory in (granted, other):
        directory.mkdir()
        (directory / "file").write_text("text")

    def work() -> None:
        read_only = landlock.FS_READ_FILE | landlock.FS_READ_DIR
        with ruleset(str(granted), access=read_only) as fd:
            process.set_no_new_privs()
            landlock.restrict_self(fd)
        assert (granted / "file").read_text() == "text"
        assert os.listdir(granted) == ["file"]
        for denied in (
            lambda: (other / "file").read_text(),
            lambda: os.listdir(other),
            lambda: (granted / "file").write_text("x"),
            lambda: os.truncate(granted / "file", 0),
            lambda: os.unlink(granted / "file"),
            lambda: os.mkdir(granted / "new"),
            lambda: os.rename(granted / "file", granted / "file2"),
        ):
            with pytest.raises(PermissionError):
                denied()

    assert in_fork(work) == 0


@pytest.mark.skipif(ABI < 6, reason="signals are scoped from Landlock ABI 6 on")
def test_signals_stay_in_their_scope() -> None:
    parent = os.getpid()

    def work() -> None:
        os.kill(parent, 0)
        fd = landlock.create_ruleset(0, 0, landlock.SCOPE_SIGNAL | landlock.SCOPE_ABSTRACT_UNIX_SOCKET)
        process.set_no_new_privs()
        landlock.restrict_self(fd)
        os.kill(os.getpid(), 0)
        with pytest.raises(PermissionError):
            os.kill(parent, 0)

    assert in_fork(work) == 0


def test_rule_that_only_a_directory_can_have(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path_fd = os.open(tmp_path / "file", os.O_PATH | os.O_CLOEXEC)
    with ruleset() as fd:
        with pytest.raises(KernelError) as caught:
            landlock.add_path(fd, path_fd, landlock.FS_READ_DIR)
        assert caught.value.errno == errno.EINVAL
        landlock.add_path(fd, path_fd, landlock.fs_mask(ABI) & landlock.FILE_RIGHTS)
    os.close(path_fd)


def test_rule_on_what_is_no_path() -> None:
    ends = os.pipe()
    with ruleset() as fd:
        for bad, answer in ((ends[0], errno.EBADFD), (-1, errno.EBADF)):
            with pytest.raises(KernelError) as caught:
                landlock.add_path(fd, bad, landlock.FS_READ_FILE)
            assert caught.value.errno == answer
    for end in ends:
        os.close(end)


def test_needs_no_new_privileges() -> None:
    if os.geteuid() == 0:
        pytest.skip("CAP_SYS_ADMIN may do without")

    def work() -> None:
        with ruleset() as fd, pytest.raises(KernelError) as caught:
            landlock.restrict_self(fd)
        assert caught.value.errno == errno.EPERM

    assert in_fork(work) == 0


@pytest.mark.parametrize(("answer", "words"), [(errno.ENOSYS, "Linux 5.13"), (errno.EOPNOTSUPP, "lsm=")])
def test_kernel_without_landlock(answer: int, words: str) -> None:
    from nono.kernel import seccomp
    from tests.kernel.inside import refuse

    def work() -> None:
        process.set_no_new_privs()
        seccomp.set_filter(refuse(444, answer))
        assert landlock.abi() == 0
        with pytest.raises(KernelError, match=words) as caught:
            landlock.create_ruleset(1)
        assert caught.value.errno == answer

    assert in_fork(work) == 0
