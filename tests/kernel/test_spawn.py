"""The spawn, on the real kernel: what the program gets, what it does not get, and what its caller does not notice."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
from pathlib import Path

import pytest

from nono.kernel import landlock, process, seccomp
from nono.kernel.spawn import CLONE_NEWNET, CLONE_NEWUSER, EVENT_EXITED
from tests.kernel import inside
from tests.kernel.inside import EVERYWHERE, ISOLATED, OWN_PROCESSES, event, python, run, running, shell, start


def status_field(name: str, namespaces: int) -> str:
    return shell(f"grep ^{name}: /proc/self/status", namespaces=namespaces).output.split()[1]


# ---- what the program gets -------------------------------------------------------------


@EVERYWHERE
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


@EVERYWHERE
def test_environment_is_exactly_what_was_given(namespaces: int) -> None:
    assert run("/usr/bin/env", namespaces=namespaces, envp=[b"A=1", b"B="]).output == "A=1\nB=\n"


@EVERYWHERE
def test_keeps_the_user_and_the_umask(namespaces: int) -> None:
    before = os.umask(0o027)
    try:
        done = shell("id -u; id -g; umask", namespaces=namespaces)
    finally:
        os.umask(before)
    assert done.output == f"{os.geteuid()}\n{os.getegid()}\n0027\n"


@EVERYWHERE
def test_has_no_capability_and_no_new_privileges(namespaces: int) -> None:
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status_field(name, namespaces), 16) == 0
    if namespaces or os.geteuid() == 0:
        assert int(status_field("CapBnd", namespaces), 16) == 0
    assert status_field("NoNewPrivs", namespaces) == "1"
    assert status_field("Seccomp", namespaces) == "2"


@EVERYWHERE
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


def set_action(number: int, handler: int) -> None:
    """rt_sigaction(2) itself, for the signals that the C library keeps to itself."""
    call = {"x86_64": 13, "aarch64": 134}[os.uname().machine]
    action = struct.pack("@4Q", handler, 0, 0, 0)
    assert ctypes.CDLL(None).syscall(call, number, action, None, ctypes.c_size_t(8)) == 0


@EVERYWHERE
def test_signals_are_default_and_the_mask_is_the_callers(namespaces: int) -> None:
    """Whether they were ignored, as Python has it with SIGPIPE, or handled; 32 and 33 are the C library's own."""
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    changed = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
    actions = {number: signal.signal(number, signal.SIG_IGN) for number in changed}
    signal.signal(signal.SIGUSR1, lambda *_: None)
    for number in (32, 33):
        set_action(number, 1)  # SIG_IGN
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        done = run("/bin/grep", "^Sig[BI]", "/proc/self/status", namespaces=namespaces)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before | {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, action in actions.items():
            signal.signal(number, action)
        for number in (32, 33):
            set_action(number, 0)
    blocked, ignored_bits = (int(line.split()[1], 16) for line in done.output.splitlines())
    assert blocked == sum(1 << (number - 1) for number in before | {signal.SIGUSR2})
    assert ignored_bits == 0


@EVERYWHERE
def test_leads_a_process_group_in_a_session_without_a_terminal(namespaces: int) -> None:
    script = "import os; print(os.getpgrp() == os.getpid() != os.getsid(0), flush=True); open('/dev/tty')"
    done = python(script, namespaces=namespaces)
    assert done.output.startswith("True\n")
    assert f"[Errno {errno.ENXIO}]" in done.output


def test_is_process_two_of_its_own_processes() -> None:
    assert shell("echo $$ $PPID /proc/[0-9]*", namespaces=OWN_PROCESSES).output == "2 1 /proc/1 /proc/2\n"


@EVERYWHERE
def test_limits_are_set_before_its_first_instruction(namespaces: int) -> None:
    limits = [(resource.RLIMIT_NOFILE, 77, 99), (resource.RLIMIT_CORE, 0, 0)]
    done = shell("ulimit -Sn; ulimit -Hn; ulimit -c", namespaces=namespaces, rlimits=limits)
    assert done == (0, "77\n99\n0\n")
    assert resource.getrlimit(resource.RLIMIT_NOFILE) != (77, 99)


@EVERYWHERE
def test_is_written_into_its_control_groups(namespaces: int, tmp_path: Path) -> None:
    """A plain file stands in for cgroup.procs; "0" is whoever writes."""
    files = [tmp_path / "v2", tmp_path / "v1"]
    fds = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600) for path in files]
    try:
        assert run("/bin/true", namespaces=namespaces, procs_fds=fds).exit_code == 0
    finally:
        for fd in fds:
            os.close(fd)
    assert [path.read_text() for path in files] == ["0", "0"]


# ---- the walls: one thing allowed, one denied ------------------------------------------

PROGRAMS = ("/usr", "/bin", "/lib", "/lib64", "/etc")


@EVERYWHERE
def test_landlock_is_in_force(namespaces: int, tmp_path: Path) -> None:
    granted, other = tmp_path / "granted", tmp_path / "other"
    granted.write_text("yes")
    other.write_text("no")
    with inside.ruleset(*(path for path in PROGRAMS if os.path.exists(path)), str(granted)) as fd:
        assert shell(f"cat {granted}", ruleset_fd=fd, namespaces=namespaces) == (0, "yes")
        denied = shell(f"cat {other}", ruleset_fd=fd, namespaces=namespaces)
    assert denied.exit_code == 1
    assert "Permission denied" in denied.output


@EVERYWHERE
def test_seccomp_is_in_force(namespaces: int) -> None:
    script = "import os; print(os.getpid() > 0)\ntry: os.uname()\nexcept OSError as e: print(e.errno)"
    done = python(script, seccomp_filter=inside.refuse(inside.UNAME, errno.ENOTTY), namespaces=namespaces)
    assert done.output == f"True\n{errno.ENOTTY}\n"


@EVERYWHERE
def test_late_rules_are_part_of_the_wall(namespaces: int, tmp_path: Path) -> None:
    """What is not there is left out; the ruleset is the caller's, and has them then."""
    late, never = tmp_path / "late", tmp_path / "never"
    late.write_text("yes")
    rules = [(str(late), landlock.FS_READ_FILE), (str(never), landlock.FS_READ_FILE)]
    with inside.ruleset(*(path for path in PROGRAMS if os.path.exists(path))) as fd:
        script = f"cat {late}; echo more >> {late}; exit 0"
        before = shell(script, ruleset_fd=fd, namespaces=namespaces)
        after = shell(script, ruleset_fd=fd, namespaces=namespaces, late_rules=rules)
    assert before.output.count("ermission denied") == 2
    assert after.output.startswith("yes")
    assert after.output.count("ermission denied") == 1


NOTIFY_UNAME = (
    inside.instruction(inside.BPF_LD_W_ABS, 0)
    + inside.instruction(inside.BPF_JEQ_K, inside.UNAME, 0, 1)
    + inside.instruction(inside.BPF_RET_K, 0x7FC00000)  # SECCOMP_RET_USER_NOTIF
    + inside.ALLOW_ALL
)


@EVERYWHERE
def test_a_filter_with_a_notifier_waits_for_the_supervisor(namespaces: int) -> None:
    script = "import os, sys\ntry: os.uname()\nexcept OSError as e: sys.exit(e.errno)"
    with running(
        sys.executable, "-I", "-S", "-c", script,
        namespaces=namespaces, seccomp_filter=NOTIFY_UNAME, filter_flags=seccomp.NEW_LISTENER,
    ) as child:  # fmt: skip
        assert not os.get_inheritable(child.notify_fd)
        while select.select([child.notify_fd], [], [], 20)[0] and not select.select([child.control_fd], [], [], 0)[0]:
            notification = bytearray(80)  # struct seccomp_notif: id, pid, flags, data
            try:
                fcntl.ioctl(child.notify_fd, 0xC0502100, notification)  # SECCOMP_IOCTL_NOTIF_RECV
            except FileNotFoundError:
                break
            answer = notification[:8] + struct.pack("=qiI", 0, -errno.ENOTTY, 0)
            fcntl.ioctl(child.notify_fd, 0xC0182101, answer)  # SECCOMP_IOCTL_NOTIF_SEND
        kind, status = event(child)
        assert (kind, os.waitstatus_to_exitcode(status)) == (EVENT_EXITED, errno.ENOTTY)


def test_without_a_notifier_there_is_no_fd_for_it() -> None:
    with running("/bin/true") as child:
        assert (child.notify_fd, child.terminal_fd, child.network_fd, child.listener_fds) == (-1, -1, -1, ())


@pytest.mark.parametrize("namespaces", [ISOLATED, OWN_PROCESSES])
def test_network_is_one_listener_that_only_the_parent_serves(namespaces: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as host:
        host_port = host.getsockname()[1]
        script = (
            "import socket, sys\n"
            "print(socket.create_connection(('127.0.0.1', 8099), 5).recv(9).decode())\n"
            f"for address in (('127.0.0.1', {host_port}), ('192.0.2.1', 80)):\n"
            "    try: socket.create_connection(address, 5)\n"
            "    except OSError as e: print(e.errno)\n"
        )
        with inside.standard_output() as output:
            child = start(sys.executable, "-I", "-S", "-c", script, namespaces=namespaces, listen_ports=(8099,))
        with socket.socket(fileno=os.dup(child.listener_fds[0])) as listener:
            assert listener.getsockname() == ("127.0.0.1", 8099)
            assert not os.get_blocking(child.listener_fds[0])
            assert not os.get_inheritable(child.listener_fds[0])
            with pytest.raises(ConnectionRefusedError):  # the host's 8099 is another one
                socket.create_connection(("127.0.0.1", 8099), 5)
            assert select.select([listener], [], [], 10)[0]
            connection = listener.accept()[0]
            connection.sendall(b"from host")
            assert inside.read_all(output) == f"from host\n{errno.ECONNREFUSED}\n{errno.ENETUNREACH}\n"
            connection.close()
        assert inside.wait(child) == 0
        host.setblocking(False)
        with pytest.raises(BlockingIOError):
            host.accept()


def test_open_network_is_the_hosts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as host:
        script = f"import socket; socket.create_connection(('127.0.0.1', {host.getsockname()[1]}), 5)"
        assert python(script).exit_code == 0
        host.setblocking(False)
        host.accept()[0].close()


@pytest.mark.parametrize("namespaces", [0, ISOLATED])
def test_listener_port_zero_is_any_port(namespaces: int) -> None:
    with running("/bin/true", namespaces=namespaces, listen_ports=(0,)) as child:
        with socket.socket(fileno=os.dup(child.listener_fds[0])) as listener:
            host, port = listener.getsockname()
            assert host == "127.0.0.1"
            assert port > 0


def test_only_the_network_namespace_needs_no_listener() -> None:
    script = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname(), 5)"
    assert python(script, namespaces=CLONE_NEWUSER | CLONE_NEWNET).exit_code == 0


@pytest.mark.parametrize("namespaces", [ISOLATED, OWN_PROCESSES])
def test_can_become_nobody_else_inside(namespaces: int) -> None:
    script = "import os\nos.setuid(os.getuid())\ntry: os.setuid(1)\nexcept OSError as e: print(e.errno)"
    assert python(script, namespaces=namespaces).output in (f"{errno.EPERM}\n", f"{errno.EINVAL}\n")


def test_cannot_take_a_setuid_programs_rights(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make a set-user-ID file")
    copy = tmp_path / "id"
    copy.write_bytes(Path("/usr/bin/id").read_bytes())
    os.chown(copy, 1, 1)
    copy.chmod(0o6755)
    assert run(str(copy), "-u").output == "0\n"


# ---- the supervisor ---------------------------------------------------------------------


@EVERYWHERE
def test_supervisor_is_undumpable_before_the_program_runs(namespaces: int) -> None:
    """Where the program has processes of its own, it does not even see it."""
    script = f"cat /proc/self/environ; echo; cat /proc/{os.getpid()}/environ >/dev/null && echo read"
    process.set_dumpable(True)
    done = shell(script, namespaces=namespaces)
    assert not process.is_dumpable()
    assert "PATH=" in done.output  # its own it can read
    assert "read" not in done.output.splitlines()


@EVERYWHERE
def test_spawns_again_after_that(namespaces: int) -> None:
    for _ in range(3):
        assert run("/bin/true", namespaces=namespaces).exit_code == 0
        assert not process.is_dumpable()


@EVERYWHERE
def test_parent_is_undisturbed_by_signals_and_threads_meanwhile(namespaces: int) -> None:
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
        for _ in range(40):
            assert run("/bin/true", namespaces=namespaces, listen_ports=(0,)).exit_code == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        stop.set()
        thread.join()
    assert alarms
