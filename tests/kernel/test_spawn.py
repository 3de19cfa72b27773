"""The spawn, on the real kernel: what the program gets, what it does not get, and what is left when it fails."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import string
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from nono.errors import KernelError
from nono.kernel import process
from nono.kernel.spawn import (
    CLONE_NEWNET,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    SENTENCES,
    STEPS,
    Child,
    SpawnError,
    spawn,
)
from tests.kernel import inside
from tests.kernel.inside import ALLOW_ALL, ISOLATED, in_fork, python, run, shell, start

BOTH = pytest.mark.parametrize("namespaces", [0, ISOLATED], ids=["host network", "isolated"])


def status_field(name: str, namespaces: int) -> str:
    return shell(f"grep ^{name}: /proc/self/status", namespaces=namespaces).output.split()[1]


# ---- what the program gets -------------------------------------------------------------


@BOTH
def test_runs_with_its_arguments_environment_and_directory(namespaces: int, tmp_path: Path) -> None:
    done = run(
        "/bin/sh",
        "-c",
        'echo "$0|$1|$NAME|$(/bin/pwd)|$#"',
        "zero",
        "one two",
        namespaces=namespaces,
        envp=[b"NAME=v\xc3\xa4lue"],
        workdir=str(tmp_path),
    )
    assert done == (0, f"zero|one two|välue|{tmp_path}|1\n")


@BOTH
def test_environment_is_exactly_what_was_given(namespaces: int) -> None:
    assert run("/usr/bin/env", namespaces=namespaces, envp=[b"A=1", b"B="]).output == "A=1\nB=\n"


@BOTH
def test_keeps_the_user_and_the_umask(namespaces: int) -> None:
    before = os.umask(0o027)
    try:
        done = shell("id -u; id -g; umask", namespaces=namespaces)
    finally:
        os.umask(before)
    assert done.output == f"{os.geteuid()}\n{os.getegid()}\n0027\n"


@BOTH
def test_has_no_capability_and_no_new_privileges(namespaces: int) -> None:
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status_field(name, namespaces), 16) == 0
    if namespaces or os.geteuid() == 0:
        assert int(status_field("CapBnd", namespaces), 16) == 0
    assert status_field("NoNewPrivs", namespaces) == "1"
    assert status_field("Seccomp", namespaces) == "2"


@BOTH
def test_inherits_no_file_but_the_standard_ones(namespaces: int, tmp_path: Path) -> None:
    leaks = [os.open(tmp_path, os.O_RDONLY), os.open("/dev/null", os.O_WRONLY)]
    high = fcntl.fcntl(leaks[0], fcntl.F_DUPFD, 400)
    for fd in (*leaks, high):
        os.set_inheritable(fd, True)
    try:
        # the listing itself is fd 3
        done = shell("ls /proc/self/fd", namespaces=namespaces, listen_ports=(0,) if namespaces else ())
    finally:
        for fd in (*leaks, high):
            assert os.get_inheritable(fd)  # untouched in the parent
            os.close(fd)
    assert done.output.split() == ["0", "1", "2", "3"]


@BOTH
def test_signals_are_default_and_the_mask_is_the_callers(namespaces: int) -> None:
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN  # Python's own doing
    ignored = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        done = run("/bin/grep", "^Sig[BI]", "/proc/self/status", namespaces=namespaces)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before | {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGUSR1, ignored)
    blocked, ignored_bits = (int(line.split()[1], 16) for line in done.output.splitlines())
    assert blocked == sum(1 << (number - 1) for number in before | {signal.SIGUSR2})
    assert ignored_bits == 0


def test_pidfd_is_of_the_child_and_closed_on_exec() -> None:
    child = start("/bin/sleep", "60")
    try:
        assert not os.get_inheritable(child.pidfd)
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        assert select.select([child.pidfd], [], [], 10)[0]
    finally:
        assert os.waitpid(child.pid, 0)[1] == signal.SIGKILL
        inside.close(child)


# ---- the walls: one thing allowed, one denied ------------------------------------------


@BOTH
def test_landlock_is_in_force(namespaces: int, tmp_path: Path) -> None:
    granted, other = tmp_path / "granted", tmp_path / "other"
    granted.write_text("yes")
    other.write_text("no")
    with inside.ruleset("/usr", "/bin", "/lib", "/lib64", "/etc", str(granted)) as fd:
        assert shell(f"cat {granted}", ruleset_fd=fd, namespaces=namespaces) == (0, "yes")
        denied = shell(f"cat {other}", ruleset_fd=fd, namespaces=namespaces)
    assert denied.exit_code == 1
    assert "Permission denied" in denied.output


@BOTH
def test_seccomp_is_in_force(namespaces: int) -> None:
    script = "import os; print(os.getpid() > 0)\ntry: os.uname()\nexcept OSError as e: print(e.errno)"
    done = python(script, seccomp_filter=inside.refuse(inside.UNAME, errno.ENOTTY), namespaces=namespaces)
    assert done.output == f"True\n{errno.ENOTTY}\n"


def test_network_is_one_listener_that_only_the_parent_serves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as host:
        host_port = host.getsockname()[1]
        script = (
            "import socket, sys\n"
            "print(socket.create_connection(('127.0.0.1', 8099), 5).recv(9).decode())\n"
            f"for address in (('127.0.0.1', {host_port}), ('192.0.2.1', 80)):\n"
            "    try: socket.create_connection(address, 5)\n"
            "    except OSError as e: print(e.errno)\n"
        )
        read_fd, write_fd = os.pipe()
        saved = os.dup(1)
        os.dup2(write_fd, 1)
        try:
            child = start(sys.executable, "-I", "-S", "-c", script, namespaces=ISOLATED, listen_ports=(8099,))
        finally:
            os.dup2(saved, 1)
            os.close(saved)
            os.close(write_fd)
        with socket.socket(fileno=os.dup(child.listener_fds[0])) as listener, open(read_fd) as output:
            assert listener.getsockname() == ("127.0.0.1", 8099)
            assert not os.get_blocking(child.listener_fds[0])
            assert not os.get_inheritable(child.listener_fds[0])
            with pytest.raises(ConnectionRefusedError):  # the host's 8099 is another one
                socket.create_connection(("127.0.0.1", 8099), 5)
            assert select.select([listener], [], [], 10)[0]
            connection = listener.accept()[0]
            connection.sendall(b"from host")
            assert output.read() == f"from host\n{errno.ECONNREFUSED}\n{errno.ENETUNREACH}\n"
            connection.close()
        inside.close(child)
        assert os.waitpid(child.pid, 0)[1] == 0
        host.setblocking(False)
        with pytest.raises(BlockingIOError):
            host.accept()


def test_open_network_is_the_hosts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as host:
        script = f"import socket; socket.create_connection(('127.0.0.1', {host.getsockname()[1]}), 5)"
        assert python(script).exit_code == 0
        host.setblocking(False)
        host.accept()[0].close()


def test_listener_port_zero_is_any_port() -> None:
    child = start("/bin/true", namespaces=ISOLATED, listen_ports=(0,))
    with socket.socket(fileno=child.listener_fds[0]) as listener:
        assert listener.getsockname()[1] > 0
    os.close(child.pidfd)
    assert os.waitpid(child.pid, 0)[1] == 0


def test_can_become_nobody_else_inside() -> None:
    script = "import os\nos.setuid(os.getuid())\ntry: os.setuid(1)\nexcept OSError as e: print(e.errno)"
    assert python(script, namespaces=ISOLATED).output in (f"{errno.EPERM}\n", f"{errno.EINVAL}\n")


def test_cannot_take_a_setuid_programs_rights(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make a set-user-ID file")
    copy = tmp_path / "id"
    copy.write_bytes(Path("/usr/bin/id").read_bytes())
    os.chown(copy, 1, 1)
    copy.chmod(0o6755)
    assert run(str(copy), "-u").output == "0\n"


# ---- the supervisor ---------------------------------------------------------------------


@BOTH
def test_supervisor_is_undumpable_before_the_program_runs(namespaces: int) -> None:
    parent = os.getpid()
    script = f"cat /proc/self/environ; echo; cat /proc/{parent}/environ >/dev/null && echo read"
    process.set_dumpable(True)
    done = shell(script, namespaces=namespaces)
    assert not process.is_dumpable()
    assert "PATH=" in done.output  # its own it can read
    assert "read" not in done.output.splitlines()


def test_spawns_again_after_that() -> None:
    for _ in range(3):
        assert run("/bin/true", namespaces=ISOLATED).exit_code == 0
        assert not process.is_dumpable()


def test_killed_supervisor_takes_the_program_along() -> None:
    read_fd, write_fd = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        child = start("/bin/sleep", "60", namespaces=ISOLATED, listen_ports=(8099,))
        os.write(write_fd, b"%d" % child.pid)
        time.sleep(60)
        os._exit(1)
    os.close(write_fd)
    pidfd = os.pidfd_open(int(os.read(read_fd, 20)))
    os.close(read_fd)
    assert not select.select([pidfd], [], [], 0)[0]
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)


def test_parent_is_undisturbed_by_signals_and_threads_meanwhile() -> None:
    alarms: list[int] = []
    stop = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda number, frame: alarms.append(number))

    def busy() -> None:
        while not stop.is_set():
            [str(number) * 50 for number in range(1000)]

    thread = threading.Thread(target=busy)
    thread.start()
    signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
    try:
        for _ in range(60):
            assert run("/bin/true", namespaces=ISOLATED, listen_ports=(0,)).exit_code == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        stop.set()
        thread.join()
    assert alarms


# ---- process group and terminal ---------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
def test_process_group(own: bool) -> None:
    child = start("/bin/sleep", "60", new_process_group=own)
    try:
        assert os.getpgid(child.pid) == (child.pid if own else os.getpgrp())
    finally:
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        inside.close(child)


def with_terminal(work) -> int:  # type: ignore[no-untyped-def]
    """Do `work(tty_fd)` in a forked session leader that has a terminal of its own."""

    def session() -> None:
        os.setsid()
        _, tty = os.openpty()
        fcntl.ioctl(tty, termios.TIOCSCTTY, 0)
        assert os.tcgetpgrp(tty) == os.getpgrp()
        work(tty)

    return in_fork(session)


def test_program_gets_the_terminals_foreground() -> None:
    def work(tty: int) -> None:
        child = start("/bin/sleep", "60", new_process_group=True, foreground_tty_fd=tty, namespaces=ISOLATED)
        assert os.tcgetpgrp(tty) == child.pid
        # A second time from the background: SIGTTOU would stop us, were it not blocked.
        other = start("/bin/sleep", "60", new_process_group=True, foreground_tty_fd=tty)
        assert os.tcgetpgrp(tty) == other.pid

    assert with_terminal(work) == 0


def test_failed_spawn_gives_the_terminal_back() -> None:
    def work(tty: int) -> None:
        with pytest.raises(SpawnError):
            start("/nonexistent", new_process_group=True, foreground_tty_fd=tty)
        assert os.tcgetpgrp(tty) == os.getpgrp()

    assert with_terminal(work) == 0


# ---- failures ---------------------------------------------------------------------------


def children() -> str:
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()


def failure(*argv: str, **options: object) -> SpawnError:
    """Return the error, after checking that no child and no fd is left of the attempt."""
    process.set_dumpable(True)
    fds, before = os.listdir("/proc/self/fd"), children()
    with pytest.raises(SpawnError) as caught:
        start(*argv, **options)  # type: ignore[arg-type]
    process.set_dumpable(True)
    assert os.listdir("/proc/self/fd") == fds
    assert children() == before  # not even a zombie
    return caught.value


@BOTH
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


@BOTH
def test_directory_is_entered_without_privilege(namespaces: int, tmp_path: Path) -> None:
    """Not even root, nor the root of a new user namespace, enters a directory that its mode closes."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    error = failure("/bin/true", workdir=str(closed), namespaces=namespaces)
    assert (error.step, error.errno) == ("workdir", errno.EACCES)


@BOTH
def test_no_wall_no_start(namespaces: int) -> None:
    error = failure("/bin/true", ruleset_fd=-1, namespaces=namespaces)
    assert (error.step, error.errno) == ("landlock", errno.EBADF)
    error = failure("/bin/true", seccomp_filter=b"", namespaces=namespaces)
    assert (error.step, error.errno) == ("seccomp", errno.EINVAL)
    error = failure("/bin/true", seccomp_filter=ALLOW_ALL * (65536 + 1), namespaces=namespaces)
    assert (error.step, error.errno) == ("seccomp", errno.EINVAL)


def test_filter_that_kills_the_exec_is_no_success() -> None:
    kill = inside.instruction(inside.BPF_RET_K, 0x80000000)  # SECCOMP_RET_KILL_PROCESS
    assert run("/bin/true", seccomp_filter=kill).exit_code == -signal.SIGSYS


def test_bad_calls_are_refused_before_anything_starts() -> None:
    for options in (
        {"listen_ports": (80,)},
        {"listen_ports": (65536,), "namespaces": ISOLATED},
        {"listen_ports": (-1,), "namespaces": ISOLATED},
        {"namespaces": CLONE_NEWPID | CLONE_NEWUSER},
        {"namespaces": 0x100},  # CLONE_VM has no business here, nor has any other bit
        {"seccomp_filter": ALLOW_ALL[:7]},
        {"envp": [b"A=1\0B=2"]},
        {"workdir": "/\0tmp"},
        {"workdir": "tmp"},
        {"foreground_tty_fd": 0},
    ):
        with pytest.raises(ValueError):
            start("/bin/true", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        start("/bin/true", "a\0b")
    with pytest.raises(ValueError):
        start("true")


# ---- kernels that do not offer what is needed --------------------------------------------

libc = ctypes.CDLL(None, use_errno=True)


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
        with inside.ruleset() as fd:
            os.chroot(tmp_path)  # the kernel gives no user namespace in a chroot
            with pytest.raises(SpawnError) as caught:
                start("/bin/true", namespaces=ISOLATED, ruleset_fd=fd)
        assert (caught.value.step, caught.value.errno) == ("clone", errno.EPERM)
        assert "container" in str(caught.value)

    def start(*argv: str, namespaces: int, ruleset_fd: int) -> Child:
        return spawn(
            path=argv[0].encode(),
            argv=[argument.encode() for argument in argv],
            envp=[],
            workdir=b"/",
            namespaces=namespaces,
            ruleset_fd=ruleset_fd,
            seccomp_filter=ALLOW_ALL,
            new_process_group=False,
        )

    assert in_fork(work) == 0


def forbid(syscall: dict[str, int], answer: int) -> None:
    """What a container's seccomp profile does to one system call, for this process and all below it."""
    from nono.kernel import seccomp

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


def test_only_the_network_namespace_needs_no_listener() -> None:
    script = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname(), 5)"
    assert python(script, namespaces=CLONE_NEWUSER | CLONE_NEWNET).exit_code == 0
