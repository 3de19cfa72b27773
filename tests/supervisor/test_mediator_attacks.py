"""The mediator under attack, under load, and where it is not what it was: calls that lie, crowds, an end of it.

Each test pairs what is refused with something that is let through the same way.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nono.kernel import notify, process, seccomp
from nono.sandbox import bpf
from nono.supervisor import mediator as module
from nono.supervisor.mediator import HOST_PORTS, Rules
from tests.confined import Place
from tests.kernel.inside import (
    ALLOW_ALL,
    BPF_JEQ_K,
    BPF_LD_W_ABS,
    BPF_RET_K,
    ORDINARY_UID,
    RET_ERRNO,
    in_fork,
    instruction,
)
from tests.supervisor.mediated import (
    LOOPBACK,
    Server,
    answer_of,
    confined,
    connect,
    run,
    to_ports,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")

RACES = 20_000


def attack(place: Place, *words: Any) -> Callable[[], str]:
    def work() -> str:
        done = subprocess.run([place.attack, *map(str, words)], capture_output=True, text=True, check=True)
        return done.stdout.strip().rpartition("\n")[2]

    return work


def test_the_address_is_rewritten_during_the_connect(place: Place, serve: Callable[..., Server]) -> None:
    granted, other = serve(), serve()
    attempt = attack(place, "race_address", granted.port, other.port, RACES)
    assert attempt() == "LEAK"
    leaked = other.visitors()
    assert run(attempt, to_ports(granted.port)) == "ECONNREFUSED"
    assert other.visitors() == leaked


def test_the_socket_is_swapped_during_the_connect(place: Place, serve: Callable[..., Server]) -> None:
    granted = serve()
    directory = place.directory(os.geteuid())
    forbidden = serve(str(directory / "forbidden"), socket.AF_UNIX)
    attempt = attack(place, "race_socket", granted.port, directory / "forbidden", RACES)
    assert attempt() == "LEAK"
    leaked = forbidden.visitors()
    rules = to_ports(granted.port, unix_sockets=(str(directory / "other"),))
    assert run(attempt, rules) == "EACCES"
    assert forbidden.visitors() == leaked


def test_the_socket_is_swapped_during_the_listen(place: Place) -> None:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    attempt = attack(place, "race_listen", port, RACES)
    assert any(attempt() == "LEAK" for _ in range(10))  # a race that can be won, if not by everybody
    assert run(attempt, Rules(HOST_PORTS, listen_ports=(port,))) == "EACCES"


def test_the_socket_is_swapped_during_a_bind_that_goes_on(place: Place) -> None:
    """It may bind something else so; nobody can connect to that."""
    tree = place.directory(os.geteuid())
    attempt = attack(place, "race_bind", tree / "own", RACES)
    assert any(attempt() == "LEAK" for _ in range(10))
    assert run(attempt, Rules(HOST_PORTS, own_trees=(str(tree),)), writable=str(tree)) == "EACCES"


@pytest.mark.parametrize("name", ["bind_to_device", "source_route"])
def test_no_option_leads_a_socket_elsewhere(place: Place, name: str) -> None:
    unconfined = attack(place, name)()
    assert run(attack(place, name), Rules(HOST_PORTS)) == "EPERM"
    if unconfined == "EPERM":
        pytest.skip(f"this kernel keeps {name} from an ordinary user by itself")
    assert unconfined == "LEAK"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tcp {address} {port}", {"ECONNREFUSED"}),
        ("tcp_nonblocking {address} {port}", {"ECONNREFUSED"}),
        ("tcp_mapped {address} {port}", {"ECONNREFUSED"}),
        ("fastopen_connect {address} {port}", {"EOPNOTSUPP", "ECONNREFUSED"}),
        ("mptcp {address} {port}", {"EPROTONOSUPPORT"}),
        ("fastopen_sendto {address} {port}", {"EOPNOTSUPP"}),
        ("fastopen_sendmsg {address} {port}", {"EOPNOTSUPP"}),
        ("fastopen_sendmmsg {address} {port}", {"EOPNOTSUPP"}),
        ("udp {address} {port}", {"EACCES"}),
        ("udplite", {"EACCES"}),
        ("ping", {"EACCES"}),
        ("raw", {"EACCES"}),
        ("packet", {"EAFNOSUPPORT"}),
        ("vsock", {"EAFNOSUPPORT"}),
        ("netlink_diag", {"EPROTONOSUPPORT"}),
        ("listen_any", {"EACCES"}),
        ("listen_unbound", {"EACCES"}),
        ("own_server", {"EACCES"}),
        ("unix_stream {path}", {"EAFNOSUPPORT"}),
        ("unix_dgram {path}", {"EPROTONOSUPPORT"}),
        ("pair_dgram {path}", {"EPROTONOSUPPORT"}),
        ("pair_raw {path}", {"EPROTONOSUPPORT"}),
        ("pair_connect {path}", {"EPROTONOSUPPORT"}),
        ("abstract name", {"EAFNOSUPPORT"}),
        ("uring_socket", {"ENOSYS"}),
    ],
)
def test_attacks_of_the_table(
    place: Place, serve: Callable[..., Server], tmp_path: Path, words: str, expected: set[str]
) -> None:
    """Here the servers do not answer, so what counts is the errno; test_p3_network.py has those that do."""
    other = serve(("127.0.0.2", 0))
    path = serve(str(tmp_path / "socket"), socket.AF_UNIX)
    text = words.format(address="127.0.0.2", port=other.port, path=tmp_path / "socket")
    assert run(attack(place, *text.split()), to_ports(other.port)) in expected
    assert other.visitors() == path.visitors() == 0


def test_signals_disturb_no_connect(serve: Callable[..., Server]) -> None:
    """Linux 5.19: without WAIT_KILLABLE_RECV some of these would be EISCONN."""
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (5, 19):
        pytest.skip("no SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")
    server = serve()

    def work() -> list[int]:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        answers = {connect((LOOPBACK, server.port)) for _ in range(1000)}
        signal.setitimer(signal.ITIMER_REAL, 0)
        return sorted(answers)

    assert run(work, to_ports(server.port)) == [0]


def full_backlog() -> tuple[socket.socket, list[socket.socket]]:
    """A listener that nobody serves, and what fills its queue: the next connect blocks."""
    listener = socket.socket()
    listener.bind((LOOPBACK, 0))
    listener.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for sock in waiting:
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
    return listener, waiting


def test_a_full_backlog_delays_nobody_else(serve: Callable[..., Server]) -> None:
    server = serve()
    listener, waiting = full_backlog()
    port = listener.getsockname()[1]

    def work() -> list[int]:
        for _ in range(5):
            threading.Thread(target=connect, args=((LOOPBACK, port),), daemon=True).start()
        return [connect((LOOPBACK, server.port)) for _ in range(100)]

    began = time.monotonic()
    with confined(work, to_ports(server.port, port)) as child:
        assert child.result() == [0] * 100
        assert 5 < child.mediator.threads <= module.MAX_THREADS
    assert time.monotonic() - began < 5  # the close too, with five connects under way
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mediator")]
    for sock in (listener, *waiting):
        sock.close()


def test_threads_are_bounded_and_come_back_when_their_callers_are_killed(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_THREADS", 6)
    monkeypatch.setattr(module, "_SWEEP_S", 0.05)
    server = serve()
    listener, waiting = full_backlog()
    port = listener.getsockname()[1]

    def work() -> list[int]:
        stuck = []
        for _ in range(12):
            pid = os.fork()
            if pid == 0:
                connect((LOOPBACK, port))
                os._exit(0)
            stuck.append(pid)
        time.sleep(0.3)  # all threads are taken
        for pid in stuck:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return [connect((LOOPBACK, server.port)) for _ in range(20)]

    with confined(work, to_ports(server.port, port)) as child:
        assert child.result() == [0] * 20
        assert child.mediator.threads == 6
    for sock in (listener, *waiting):
        sock.close()


def test_a_flood_of_refusals_reports_a_few(serve: Callable[..., Server]) -> None:
    def work() -> int:
        for port in range(1, 20_001):
            with socket.socket() as sock:
                assert sock.connect_ex((LOOPBACK, port)) == errno.ECONNREFUSED
        return 0

    with confined(work, Rules(HOST_PORTS)) as child:
        assert child.result() == 0
        assert len(child.refused) == module.MAX_REPORTS


def test_calls_fail_when_the_supervisor_is_gone(serve: Callable[..., Server]) -> None:
    server = serve()
    read_fd, write_fd = os.pipe()
    begun_fd, done_fd = os.pipe()

    def work() -> list[int]:
        before = connect((LOOPBACK, server.port))
        os.write(done_fd, b"x")
        os.read(read_fd, 1)
        late = [connect((LOOPBACK, server.port)), answer_of(socket.socket().listen)]
        # The kernel would take a listener of the child's own now, who could tell its own connect to go on.
        return [before, *late, answer_of(lambda: notify.set_filter(instruction(BPF_RET_K, bpf.USER_NOTIF)))]

    with confined(work, to_ports(server.port)) as child:
        child.begin()
        os.read(begun_fd, 1)
        child.mediator.close()
        child.mediator.close()  # again: nothing
        os.write(write_fd, b"x")
        assert child.result() == [0, errno.ENOSYS, errno.ENOSYS, errno.EBUSY]
    for fd in (read_fd, write_fd, begun_fd, done_fd):
        os.close(fd)


def test_a_program_that_cannot_be_looked_into_connects_nowhere(serve: Callable[..., Server]) -> None:
    server = serve()

    def supervisor() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
            os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)

        def work() -> list[int]:
            before = connect((LOOPBACK, server.port))
            process.set_dumpable(False)
            return [before, *(connect((LOOPBACK, server.port)) for _ in range(3))]

        with confined(work, to_ports(server.port), prepare=lambda: process.set_dumpable(True)) as child:
            assert child.result() == [0] + [errno.EACCES] * 3
            (text,) = child.refused
            assert "undumpable" in text

    assert in_fork(supervisor) == 0


def test_threads_on_a_kernel_that_has_no_descriptors_for_them(serve: Callable[..., Server]) -> None:
    """Before Linux 6.9 pidfd_open knows processes only; a filter on the supervisor plays such a kernel."""
    server = serve()

    def supervisor() -> None:
        process.set_no_new_privs()
        seccomp.set_filter(
            instruction(BPF_LD_W_ABS, 0)
            + instruction(BPF_JEQ_K, 434, 0, 3)  # pidfd_open
            + instruction(BPF_LD_W_ABS, 16 + 8)  # its flags
            + instruction(BPF_JEQ_K, 0, 1, 0)
            + instruction(BPF_RET_K, RET_ERRNO | errno.EINVAL)
            + ALLOW_ALL
        )

        def work() -> list[int]:
            answers: list[int] = []
            for _ in range(5):
                thread = threading.Thread(target=lambda: answers.append(connect((LOOPBACK, server.port))))
                thread.start()
                thread.join()
            return answers

        assert run(work, to_ports(server.port)) == [0] * 5

    assert in_fork(supervisor) == 0
