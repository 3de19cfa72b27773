"""Sockets in a child's network: made there and nowhere else, for whoever spawned it, with nothing left behind."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nono.errors import KernelError
from nono.kernel import network, process, seccomp
from nono.kernel.spawn import CLONE_NEWNET, CLONE_NEWUSER, EVENT_EXITED, Child
from nono.kernel.spawn_errors import SpawnError
from tests.kernel import inside
from tests.kernel.inside import ISOLATED, in_fork, start
from tests.users import become

FAMILIES = pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"]
)
SERVE = """
import socket, sys
family, host = (socket.AF_INET6, "::1") if sys.argv[1] == "6" else (socket.AF_INET, "127.0.0.1")
server = socket.create_server((host, 8099), family=family)
print(flush=True)
while True: server.accept()[0].sendall(b"from inside")
"""


@contextmanager
def running(*argv: str, **options: object) -> Iterator[Child]:
    with inside.running(*argv, namespaces=ISOLATED, keep_network=True, **options) as child:
        yield child


@contextmanager
def serving(version: str) -> Iterator[Child]:
    """A child, after its exec, that listens on port 8099 of its own loopback."""
    read_fd, write_fd = os.pipe()
    saved = os.dup(1)
    os.dup2(write_fd, 1)
    try:
        context = running(sys.executable, "-I", "-S", "-c", SERVE, version)
        with context as child:
            os.dup2(saved, 1)
            assert os.read(read_fd, 1) == b"\n"
            yield child
    finally:
        os.dup2(saved, 1)
        for fd in (saved, read_fd, write_fd):
            os.close(fd)


def socket_in(child: Child, family: int = socket.AF_INET) -> socket.socket:
    return socket.socket(fileno=network.socket_in(child.network_fd, family))


@FAMILIES
def test_reaches_the_childs_server_and_not_the_hosts(family: socket.AddressFamily, host: str) -> None:
    with serving("6" if family == socket.AF_INET6 else "4") as child:
        with socket_in(child, family) as sock:
            assert not os.get_blocking(sock.fileno())
            assert not sock.get_inheritable()
            sock.settimeout(10)
            sock.connect((host, 8099))
            assert sock.recv(64) == b"from inside"
        with socket.create_server((host, 0), family=family) as of_the_host, socket_in(child, family) as sock:
            sock.settimeout(10)
            with pytest.raises(ConnectionRefusedError):
                sock.connect((host, of_the_host.getsockname()[1]))
        with socket_in(child) as sock:
            sock.settimeout(10)
            with pytest.raises(OSError, match="unreachable"):
                sock.connect(("192.0.2.1", 80))


def test_works_for_an_ordinary_user() -> None:
    def work() -> None:
        become(inside.ORDINARY_UID)
        with running("/bin/sleep", "60", listen_ports=(80,)) as child, socket_in(child) as sock:
            sock.settimeout(10)
            sock.connect(("127.0.0.1", 80))

    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    assert in_fork(work) == 0


def test_leaves_nothing_behind_and_the_supervisor_undumpable() -> None:
    woken: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda number, frame: woken.append(number))
    try:
        with running("/bin/sleep", "60") as child:
            network_before, fds = os.readlink("/proc/self/ns/net"), os.listdir("/proc/self/fd")
            user_before = os.readlink("/proc/self/ns/user")
            for _ in range(50):
                socket_in(child).close()
            assert os.listdir("/proc/self/fd") == fds
            assert (os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/user")) == (
                network_before,
                user_before,
            )
            assert not process.is_dumpable()
            assert not woken
            children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
            assert str(child.pid) in children
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG | -0x80000000)  # __WCLONE: who ends without SIGCHLD
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_works_while_other_threads_and_signals_are_about() -> None:
    alarms: list[int] = []
    failures: list[BaseException] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: alarms.append(number))
    with running("/bin/sleep", "60", listen_ports=(8099,)) as child:

        def connect() -> None:
            try:
                for _ in range(100):
                    with socket_in(child) as sock:
                        sock.settimeout(10)
                        sock.connect(("127.0.0.1", 8099))
            except BaseException as error:  # noqa: BLE001  to be raised in the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=connect) for _ in range(4)]
        signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert alarms
    assert not failures


def test_works_after_the_child_ended() -> None:
    """Its namespaces are held by the network's fd alone, once the init has ended, too."""
    child = start("/bin/true", namespaces=ISOLATED, keep_network=True)
    kept = os.dup(child.network_fd)
    assert inside.event(child) == (EVENT_EXITED, 0)
    socket_in(child).close()
    assert inside.end(child) == 0
    socket.socket(fileno=network.socket_in(kept, socket.AF_INET)).close()
    os.close(kept)


def test_says_what_failed() -> None:
    process.set_dumpable(False)  # as a spawn does
    with open("/dev/null") as null, pytest.raises(KernelError) as caught:
        network.socket_in(null.fileno(), socket.AF_INET)
    assert caught.value.errno == errno.ENOTTY
    with running("/bin/sleep", "60") as child:
        fds = os.listdir("/proc/self/fd")
        with pytest.raises(KernelError) as caught:
            network.socket_in(child.network_fd, 99)
        assert (caught.value.call, caught.value.errno) == ("socket", errno.EAFNOSUPPORT)
        assert os.listdir("/proc/self/fd") == fds


def test_forbidden_by_a_container() -> None:
    def work() -> None:
        process.set_no_new_privs()
        setns = {"x86_64": 308, "aarch64": 268}[inside.MACHINE]
        seccomp.set_filter(inside.refuse(setns, errno.EPERM))
        with running("/bin/sleep", "60") as child, pytest.raises(KernelError, match="--listen-port"):
            network.socket_in(child.network_fd, socket.AF_INET)

    assert in_fork(work) == 0


# ---- what the spawn hands over ----------------------------------------------------------


def test_spawn_makes_a_listener_for_each_port_also_below_1024() -> None:
    with running("/bin/sleep", "60", listen_ports=(8099, 0, 80)) as child:
        ports = []
        for fd in child.listener_fds:
            assert not os.get_inheritable(fd)
            with socket.socket(fileno=os.dup(fd)) as listener:
                ports.append(listener.getsockname()[1])
        assert (ports[0], ports[2]) == (8099, 80)
        assert len(set(ports)) == 3


def test_network_is_kept_only_when_asked_for() -> None:
    child = start("/bin/true", namespaces=ISOLATED)
    assert child.network_fd == -1
    assert child.listener_fds == ()
    assert inside.wait(child) == 0
    for namespaces in (0, CLONE_NEWUSER, CLONE_NEWNET):
        with pytest.raises(ValueError, match="network namespace"):
            start("/bin/true", namespaces=namespaces, keep_network=True)


def test_failed_spawn_leaves_neither_listener_nor_network() -> None:
    fds = os.listdir("/proc/self/fd")
    for argv, ports in ((("/nonexistent",), (0, 0)), (("/bin/true",), (8099, 8099))):
        with pytest.raises(SpawnError) as caught:
            start(*argv, namespaces=ISOLATED, listen_ports=ports, keep_network=True)
        assert caught.value.step in ("exec", "listen")
        process.set_dumpable(True)
        assert os.listdir("/proc/self/fd") == fds
