"""What is left of a spawn that failed: nothing; and what the error says."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import socket
import string
from pathlib import Path

import pytest

from nono.errors import KernelError
from nono.kernel import process, seccomp
from nono.kernel.spawn import CLONE_NEWPID, CLONE_NEWUSER, MOUNT_BIND, Mount, prepare
from nono.kernel.spawn_errors import SENTENCES, STEPS, SpawnError
from tests.kernel import inside
from tests.kernel.inside import ALLOW_ALL, EVERYWHERE, ISOLATED, OWN_PROCESSES, failure, in_fork, run, start
from tests.users import become

libc = ctypes.CDLL(None, use_errno=True)
NOBODY_ELSE = 54321


@EVERYWHERE
def test_program_that_is_missing_not_executable_or_no_program(namespaces: int, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("just words")
    orphan = tmp_path / "orphan"
    orphan.write_text("#!/nonexistent/interpreter\n")
    orphan.chmod(0o755)
    ports = (0,) if namespaces else ()

    error = failure("/nonexistent", namespaces=namespaces, listen_ports=ports)
    assert (error.step, error.errno) == ("exec", errno.ENOENT)
    assert str(error).startswith("The command /nonexistent does not exist")
    assert failure(str(orphan), namespaces=namespaces).errno == errno.ENOENT

    error = failure(str(text), namespaces=namespaces, listen_ports=ports)
    assert (error.step, error.errno) == ("exec", errno.EACCES)
    assert "not executable" in str(error)

    text.chmod(0o755)
    error = failure(str(text), namespaces=namespaces)
    assert (error.step, error.errno) == ("exec", errno.ENOEXEC)
    assert "#!/bin/sh" in str(error)


def test_program_outside_of_the_grant(tmp_path: Path) -> None:
    with inside.ruleset(str(tmp_path)) as fd:
        error = failure("/bin/true", ruleset_fd=fd)
    assert (error.step, error.errno) == ("exec", errno.EACCES)
    assert "sandbox" in str(error)


def test_arguments_too_long() -> None:
    error = failure("/bin/true", "x" * 200_000)
    assert (error.step, error.errno) == ("exec", errno.E2BIG)


def test_working_directory_that_is_missing_a_file_or_closed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert failure("/bin/true", workdir=str(tmp_path / "none")).step == "workdir"
    error = failure("/bin/true", workdir=str(tmp_path / "file"))
    assert (error.step, error.errno) == ("workdir", errno.ENOTDIR)
    assert str(tmp_path / "file") in str(error)


@EVERYWHERE
def test_directory_is_entered_without_privilege(namespaces: int, tmp_path: Path) -> None:
    """Not even root, nor the root of a new user namespace, enters a directory that its mode closes."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    error = failure("/bin/true", workdir=str(closed), namespaces=namespaces)
    assert (error.step, error.errno) == ("workdir", errno.EACCES)


@EVERYWHERE
def test_no_wall_no_start(namespaces: int) -> None:
    error = failure("/bin/true", ruleset_fd=-1, namespaces=namespaces)
    assert (error.step, error.errno) == ("landlock", errno.EBADF)
    error = failure("/bin/true", seccomp_filter=b"", namespaces=namespaces)
    assert (error.step, error.errno) == ("seccomp", errno.EINVAL)
    error = failure("/bin/true", seccomp_filter=ALLOW_ALL * (65536 + 1), namespaces=namespaces)
    assert (error.step, error.errno) == ("seccomp", errno.EINVAL)


def kill(syscall: int) -> bytes:
    """A filter that ends whoever makes one system call (SECCOMP_RET_KILL_PROCESS)."""
    return (
        inside.instruction(inside.BPF_LD_W_ABS, 0)
        + inside.instruction(inside.BPF_JEQ_K, syscall, 0, 1)
        + inside.instruction(inside.BPF_RET_K, 0x80000000)
        + ALLOW_ALL
    )


@EVERYWHERE
def test_filter_that_kills_the_agent_is_no_success(namespaces: int) -> None:
    execve, close_range = {"x86_64": (59, 436), "aarch64": (221, 436)}[inside.MACHINE]
    error = failure("/bin/true", seccomp_filter=kill(close_range), namespaces=namespaces)
    assert (error.step, error.errno) == ("close_range", errno.EINTR)
    assert "killed while it was being started" in str(error)
    assert run("/bin/true", seccomp_filter=kill(execve), namespaces=namespaces) == (-signal.SIGSYS, "")


@EVERYWHERE
def test_limits_that_cannot_be_had(namespaces: int) -> None:
    with open("/dev/null") as not_writable:
        error = failure("/bin/true", procs_fds=[not_writable.fileno()], namespaces=namespaces)
    assert (error.step, error.errno) == ("limits", errno.EBADF)
    error = failure("/bin/true", rlimits=[(resource.RLIMIT_NOFILE, 2, 1)], namespaces=namespaces)
    assert (error.step, error.errno) == ("limits", errno.EINVAL)
    assert "step 'limits'" in str(error)


@EVERYWHERE
def test_agent_without_a_slot(namespaces: int) -> None:
    """A limit of processes that the init still fits into."""

    def work() -> None:
        become_ordinary()
        with inside.ruleset() as fd:
            mounts = (inside.OWN_PROC,) if namespaces & CLONE_NEWPID else ()
            with prepare(namespaces=namespaces, mounts=mounts) as prepared:
                resource.prlimit(prepared.pid, resource.RLIMIT_NPROC, (1, 1))
                with pytest.raises(SpawnError) as caught:
                    prepared.start(
                        path=b"/bin/true", argv=[b"true"], envp=[], workdir=b"/",
                        ruleset_fd=fd, seccomp_filter=ALLOW_ALL,
                    )  # fmt: skip
        assert (caught.value.step, caught.value.errno) == ("agent", errno.EAGAIN)
        assert "ulimit -u" in str(caught.value)

    assert in_fork(work) == 0


def test_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        error = failure("/bin/true", listen_ports=(0, taken.getsockname()[1]))
    assert (error.step, error.errno) == ("listen", errno.EADDRINUSE)
    assert "--proxy-port" in str(error)
    error = failure("/bin/true", listen_ports=(8099, 8099), namespaces=OWN_PROCESSES, keep_network=True)
    assert (error.step, error.errno) == ("listen", errno.EADDRINUSE)


def test_bad_calls_are_refused_before_anything_starts() -> None:
    for options in (
        {"listen_ports": (65536,), "namespaces": ISOLATED},
        {"listen_ports": (-1,), "namespaces": ISOLATED},
        {"keep_network": True, "namespaces": CLONE_NEWUSER},
        {"mounts": (Mount(MOUNT_BIND, "/", "/"),), "namespaces": ISOLATED},
        {"namespaces": 0x100},  # CLONE_VM has no business here, nor has any other bit
    ):
        with pytest.raises(ValueError):
            prepare(**options)  # type: ignore[arg-type]
    fds, before = os.listdir("/proc/self/fd"), inside.children()
    for options in (
        {"seccomp_filter": ALLOW_ALL[:7]},
        {"envp": [b"A=1\0B=2"]},
        {"workdir": "/\0tmp"},
        {"workdir": "tmp"},
    ):
        with pytest.raises(ValueError):
            start("/bin/true", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        start("/bin/true", "a\0b")
    with pytest.raises(ValueError):
        start("true")
    process.set_dumpable(True)
    assert (os.listdir("/proc/self/fd"), inside.children()) == (fds, before)


@EVERYWHERE
def test_failures_leave_no_memory_behind(namespaces: int) -> None:
    """An init's stack is kept as long as the supervisor lives, unless its agent never started."""
    for count, may_grow in ((10, 100), (50, 12)):
        before = mappings()
        for index in range(count):
            failure(*(("/nonexistent",) if index % 2 else ("/bin/true", "x" * 200_000)), namespaces=namespaces)
        assert mappings() - before < may_grow


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("\n")


def become_ordinary() -> None:
    """Without privilege, as somebody who runs nothing else; or as who we are."""
    become(NOBODY_ELSE if os.geteuid() == 0 else os.geteuid())


# ---- kernels that do not offer what is needed --------------------------------------------


def enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


@pytest.mark.parametrize("limit", ["max_user_namespaces", "max_net_namespaces"])
def test_namespaces_switched_off(limit: str) -> None:
    def work() -> None:
        process.set_dumpable(True)
        enter_user_namespace()
        Path(f"/proc/sys/user/{limit}").write_text("0")
        error = failure("/bin/true", namespaces=ISOLATED, listen_ports=(0,))
        assert (error.step, error.errno) == ("clone", errno.ENOSPC)
        assert "user.max_user_namespaces" in str(error)
        assert run("/bin/true").exit_code == 0  # the open network needs none

    assert in_fork(work) == 0


def test_namespaces_forbidden(tmp_path: Path) -> None:
    def work() -> None:
        process.set_dumpable(True)
        enter_user_namespace()
        os.chroot(tmp_path)  # the kernel gives no user namespace in a chroot
        with pytest.raises(SpawnError) as caught:
            prepare(namespaces=ISOLATED)
        assert (caught.value.step, caught.value.errno) == ("clone", errno.EPERM)
        assert "container" in str(caught.value)

    assert in_fork(work) == 0


def forbid(syscall: dict[str, int], answer: int) -> None:
    """What a container's seccomp profile does to one system call, for this process and all below it."""
    process.set_no_new_privs()
    seccomp.set_filter(inside.refuse(syscall[inside.MACHINE], answer))


@pytest.mark.parametrize(
    ("syscall", "answer", "step", "words"),
    [
        ({"x86_64": 436, "aarch64": 436}, errno.ENOSYS, "close_range", "Linux 5.11"),
        ({"x86_64": 436, "aarch64": 436}, errno.EPERM, "close_range", "seccomp profile"),
        ({"x86_64": 446, "aarch64": 446}, errno.ENOSYS, "landlock", "Linux 5.13"),
        ({"x86_64": 446, "aarch64": 446}, errno.EOPNOTSUPP, "landlock", "lsm="),
        ({"x86_64": 446, "aarch64": 446}, errno.EPERM, "landlock", "seccomp profile"),
        ({"x86_64": 16, "aarch64": 29}, errno.EPERM, "loopback", "apparmor_restrict_unprivileged_userns"),
        ({"x86_64": 126, "aarch64": 91}, errno.EPERM, "capabilities", "capabilities"),
        ({"x86_64": 56, "aarch64": 220}, errno.EPERM, "clone", "container"),
        ({"x86_64": 50, "aarch64": 201}, errno.EIO, "listen", "listen"),
    ],
)
def test_each_step_that_fails_is_named(syscall: dict[str, int], answer: int, step: str, words: str) -> None:
    def work() -> None:
        forbid(syscall, answer)
        error = failure("/bin/true", namespaces=ISOLATED, listen_ports=(0,))
        assert (error.step, error.errno) == (step, answer)
        assert words in str(error)
        assert isinstance(error, KernelError)

    assert in_fork(work) == 0


def test_uid_map_refused_as_under_apparmor() -> None:
    """An undumpable process does not own its /proc/self: the same answer (EACCES) by other means."""
    if os.geteuid() == 0:
        pytest.skip("root owns every /proc/PID/uid_map")

    def work() -> None:
        process.set_dumpable(False)
        original = process.is_dumpable
        process.is_dumpable = lambda: True  # type: ignore[assignment]
        try:
            with pytest.raises(SpawnError) as caught:
                start("/bin/true", namespaces=ISOLATED)
        finally:
            process.is_dumpable = original
        assert caught.value.step == "setgroups"
        assert "apparmor_restrict_unprivileged_userns" in str(caught.value)

    assert in_fork(work) == 0


def test_every_sentence_is_for_a_step_that_exists_and_ends_as_one() -> None:
    for (step, code), sentence in SENTENCES.items():
        assert step in STEPS.values()
        assert code in errno.errorcode
        assert sentence.endswith((".", "`."))
        assert {field for _, field, _, _ in string.Formatter().parse(sentence) if field} <= {"path", "workdir"}
