"""P1: nothing of the supervisor or of the user's other processes is in reach: no memory, no descriptor, no terminal.

Every attack of facts/sandbox-linux.md on another process and on the kernel's shared places, by a program that first
shows without the sandbox that it works.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import pty
import random
import signal
from collections.abc import Callable, Iterator

import pytest

from nono.kernel import landlock
from tests.confined import SUPERVISOR, TESTED, WALLS, Place, Wall, check, run, write
from tests.users import become

PROC = {"EACCES"}
UNSEEN = {"ENOENT", "ESRCH", "EPERM"}  # in another PID namespace; EPERM where the filter does not even look
INIT = "1"  # of the agent's PID namespace: it runs on the supervisor's memory
SIGNALS = {"kill", "tgkill", "sigqueue", "pidfd_send_signal"}


@pytest.mark.parametrize("victim", ["supervisor", "bystander", "init"])
@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ("environ", PROC),
        ("maps", PROC),
        ("auxv", PROC),
        ("io", PROC),
        ("root", PROC),
        ("mem VICTIM ADDRESS", PROC),
        ("cwd", PROC),
        ("fd", PROC),
        ("namespace", PROC),
        ("oom_score", PROC),
        ("ptrace", {"EPERM"}),
        ("process_vm_readv VICTIM ADDRESS", {"EPERM"}),
        ("pidfd_getfd", {"EPERM"}),
        ("kcmp", {"EPERM"}),
        ("kill", {"EPERM"}),
        ("tgkill", {"EPERM"}),
        ("sigqueue", {"EPERM"}),
        ("pidfd_send_signal", {"EPERM"}),
        ("prlimit", {"EPERM"}),
    ],
)
def test_other_processes_of_the_user_are_out_of_reach(
    place: Place, user: int, attack: str, expected: set[str], victim: str, bystander: Callable[[int], int]
) -> None:
    if victim == "init" and not TESTED.mounts:
        pytest.skip("this wall has no PID namespace, and so no process 1 of its own")
    pid = {"supervisor": SUPERVISOR, "init": INIT}.get(victim) or str(bystander(user))
    name, *rest = attack.split()
    if name in SIGNALS and landlock.abi() < 6 and (victim == "init" or not TESTED.mounts):
        pytest.skip(f"Landlock {landlock.abi()} does not confine signals, and no PID namespace is between them")
    words = [pid if word == "VICTIM" else f"{ctypes.addressof(_READABLE):x}" for word in rest] or [pid]
    if victim == "init":  # without the sandbox that pid is the machine's own, which proves nothing
        closed = {"ENOENT", "EROFS"}  # it has no such descriptor, and this /proc is read-only
        assert run([place.attack, name, *words], Wall(), user=user).answer in expected | closed
    else:
        check([place.attack, name, *words], Wall(), UNSEEN if TESTED.mounts else expected, user=user)


@pytest.mark.skipif(not TESTED.mounts, reason="this wall has no PID namespace, and so no process 1 of its own")
def test_the_init_outlives_signals_of_its_agent(place: Place, user: int) -> None:
    """Landlock stops them from Linux 6.12 on; before, the kernel drops what the init of a namespace has no handler for.

    An init that was killed or stopped would not tell of the agent's end.
    """
    script = "for each in KILL STOP TERM HUP SEGV CHLD; do kill -s $each 1 2>/dev/null; done; echo alive"
    assert run(["/bin/sh", "-c", script], Wall(), user=user) == (0, "alive")


_READABLE = ctypes.create_string_buffer(b"readable in every fork of this process")


@pytest.fixture
def bystander() -> Iterator[Callable[[int], int]]:
    """Start an ordinary, dumpable process of the user that nono has nothing to do with."""
    pids: list[int] = []
    ready, started = os.pipe()

    def start(user: int) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                become(user)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.write(started, b"x")
                while True:
                    signal.pause()
            finally:
                os._exit(0)
        pids.append(pid)
        os.read(ready, 1)
        return pid

    yield start
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os.close(ready)
    os.close(started)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ("keyctl", {"EPERM"}),
        ("add_key", {"EPERM"}),
        ("request_key", {"EPERM"}),
        ("bpf", {"EPERM"}),
        ("userfaultfd", {"EPERM"}),
        ("perf_event_open", {"EPERM"}),
        ("unshare_user", {"EPERM"}),
        ("unshare_time", {"EPERM"}),
        ("clone_user", {"EPERM"}),
        ("clone3_user", {"ENOSYS"}),
        ("mount", {"EPERM"}),
        ("fsopen", {"EPERM"}),
        ("chroot", {"EPERM"}),
        ("open_by_handle_at", {"EPERM"}),
        ("setns", {"EPERM"}),
        ("read_implies_exec", {"EPERM"}),
    ],
)
def test_kernel_surface_is_closed(place: Place, user: int, attack: str, expected: set[str]) -> None:
    check([place.attack, attack], Wall(), expected, user=user)


def test_personality_can_be_asked(place: Place, user: int) -> None:
    assert run([place.attack, "personality_query"], Wall(), user=user).answer == "LEAK"


def test_shared_memory_of_the_host_is_not_there(place: Place, user: int) -> None:
    """System V segments have no path: the IPC namespace hides them."""
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    key = random.getrandbits(31) | 1
    segment = libc.shmget(key, 4096, 0o1666)  # IPC_CREAT
    assert segment >= 0, os.strerror(ctypes.get_errno())
    try:
        address = libc.shmat(segment, None, 0)
        ctypes.memmove(address, b"S", 1)
        assert run([place.attack, "shared_memory", str(key)], None, user=user).answer == "LEAK"
        hidden = "EPERM" if TESTED is WALLS["notify"] else "ENOENT"  # without an IPC namespace the filter stops it
        assert run([place.attack, "shared_memory", str(key)], Wall(), user=user).answer == hidden
        libc.shmdt(ctypes.c_void_p(address))
    finally:
        libc.shmctl(segment, 0, None)  # IPC_RMID


@pytest.mark.parametrize("attack", ["tiocsti", "tiocsti_high_bits", "tioclinux", "tiocsetd"])
def test_cannot_type_for_the_users_shell(place: Place, user: int, attack: str) -> None:
    main, terminal = pty.openpty()
    try:
        os.chown(os.ttyname(terminal), user, -1)
        check([place.attack, attack], Wall(), {"EPERM"}, user=user, terminal=terminal)
    finally:
        os.close(main)
        os.close(terminal)


def test_terminal_settings_still_work(place: Place, user: int) -> None:
    main, terminal = pty.openpty()
    try:
        os.chown(os.ttyname(terminal), user, -1)
        assert run([place.attack, "terminal_settings"], Wall(), user=user, terminal=terminal).answer == "LEAK"
    finally:
        os.close(main)
        os.close(terminal)


def test_inherited_descriptors_are_closed(place: Place, user: int) -> None:
    secret = write(place.directory(user) / "secret", "secret", user)
    fd = os.open(secret, os.O_RDONLY)
    try:
        attack = [place.attack, "read_descriptor", str(fd)]
        assert run(attack, None, user=user, inherit=[fd]).answer == "LEAK"
        os.lseek(fd, 0, os.SEEK_SET)
        assert run(attack, Wall(), user=user, inherit=[fd]).answer == "EBADF"
    finally:
        os.close(fd)
