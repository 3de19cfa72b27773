"""The mediator against the real kernel: a forked child behind the real filter, and servers that must not be reached.

Each test pairs what is refused with something that is let through the same way.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nono.kernel import notify, process, seccomp
from nono.sandbox import bpf
from nono.supervisor import mediator as module
from nono.supervisor.mediator import HOST_PORTS, OPEN_NETWORK, OWN_NETWORK, Rules
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
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    LIBC,
    MS_BIND,
    answer_of,
    confined,
    mount,
    run,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")

LOOPBACK = "127.0.0.1"
RACES = 20_000
OWN = CLONE_NEWUSER | CLONE_NEWNET


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.remove()


class Server:
    """A listener that accepts and closes, and counts who came."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._accepted = self._own = 0
        sock.listen(4096)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.sock.accept()
                self._accepted += 1
                connection.close()

    def visitors(self) -> int:
        """Come by, too; who was here before has been accepted by then."""
        with socket.socket(self.sock.family) as sock:
            sock.connect(self.sock.getsockname())
            sock.recv(1)
        self._own += 1
        return self._accepted - self._own

    @property
    def port(self) -> int:
        return int(self.sock.getsockname()[1])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # wakes the accept
        self.sock.close()
        self._thread.join(5)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(address: Any = (LOOPBACK, 0), family: int = socket.AF_INET) -> Server:
        sock = socket.socket(family)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        servers.append(Server(sock))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def connect(address: Any, family: int = socket.AF_INET) -> int:
    with socket.socket(family) as sock:
        return answer_of(lambda: sock.connect(address))


def to_ports(*ports: int, **rules: Any) -> Rules:
    return Rules(HOST_PORTS, {port: port for port in ports}, **rules)


# The host's network: ports of a table.


def test_a_granted_port_is_reached_and_nothing_else(serve: Callable[..., Server]) -> None:
    granted, other = serve(), serve()
    elsewhere = serve(("127.0.0.2", granted.port))
    sixth = serve(("::1", granted.port), socket.AF_INET6)

    def work() -> list[int]:
        return [
            connect((LOOPBACK, granted.port)),
            connect((LOOPBACK, other.port)),
            connect(("127.0.0.2", granted.port)),
            connect(("192.0.2.1", granted.port)),
            connect(("0.0.0.0", granted.port)),
            connect(("::1", granted.port), socket.AF_INET6),
            connect(("::", granted.port), socket.AF_INET6),
            connect((f"::ffff:{LOOPBACK}", granted.port), socket.AF_INET6),
            connect(("::ffff:127.0.0.2", granted.port), socket.AF_INET6),
            connect(("2001:db8::1", granted.port), socket.AF_INET6),
        ]

    no = errno.ECONNREFUSED
    with confined(work, to_ports(granted.port)) as child:
        assert child.result() == [0, no, no, no, no, no, no, 0, no, no]
        assert [text for text in child.refused if "192.0.2.1" in text]
    assert granted.visitors() == 2
    assert other.visitors() == elsewhere.visitors() == sixth.visitors() == 0


def test_a_port_leads_where_the_table_says(serve: Callable[..., Server]) -> None:
    real = serve()
    assert run(lambda: connect((LOOPBACK, 9)), Rules(HOST_PORTS, {9: real.port})) == 0
    assert real.visitors() == 1


def test_no_table_no_connection(serve: Callable[..., Server]) -> None:
    server = serve()
    assert run(lambda: connect((LOOPBACK, server.port)), Rules(HOST_PORTS)) == errno.ECONNREFUSED


def test_a_nonblocking_connect_is_in_progress_and_epoll_sees_its_end(serve: Callable[..., Server]) -> None:
    server = serve()

    def work() -> list[int]:
        sock = socket.socket()
        sock.setblocking(False)
        epoll = select.epoll()
        epoll.register(sock, select.EPOLLOUT | select.EPOLLHUP)  # before the connect
        epoll.poll(0)
        begun = sock.connect_ex((LOOPBACK, server.port))
        while not epoll.poll(5)[0][1] & select.EPOLLOUT:
            pass
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return [begun, error, sock.connect_ex((LOOPBACK, server.port)), sock.getpeername()[1], int(sock.getblocking())]

    assert run(work, to_ports(server.port)) == work() == [errno.EINPROGRESS, 0, 0, server.port, 0]


def test_a_connection_to_nobody_is_refused_as_ever() -> None:
    with socket.socket() as closed:
        closed.bind((LOOPBACK, 0))
        port = closed.getsockname()[1]
        assert run(lambda: connect((LOOPBACK, port)), to_ports(port)) == errno.ECONNREFUSED


def test_many_threads_and_processes(serve: Callable[..., Server]) -> None:
    server = serve()

    def burst() -> list[int]:
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.extend(connect((LOOPBACK, server.port)) for _ in range(50)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def work() -> list[int]:
        children = [os.fork() for _ in range(1)]
        answers = burst()
        if 0 in children:
            os._exit(sum(answers) != 0 or len(answers) != 400)
        return answers + [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]

    with confined(work, to_ports(server.port)) as child:
        assert child.result() == [0] * 401
        assert child.mediator.threads <= module.MAX_THREADS
    assert server.visitors() == 800


def test_a_connected_socket_is_turned_elsewhere_only_by_the_table(serve: Callable[..., Server]) -> None:
    granted, other = serve(), serve()

    def work() -> list[int]:
        sock = socket.socket()
        sock.connect((LOOPBACK, granted.port))
        nowhere = (ctypes.c_char * 16)()  # AF_UNSPEC
        gone = LIBC.connect(sock.fileno(), nowhere, 16)
        return [
            gone,
            sock.connect_ex((LOOPBACK, other.port)),
            sock.connect_ex((LOOPBACK, granted.port)),
        ]

    assert run(work, to_ports(granted.port)) == [0, errno.ECONNREFUSED, 0]
    assert other.visitors() == 0


@pytest.mark.parametrize(
    ("descriptor", "address", "size", "expected"),
    [
        ("tcp", "good", -1, errno.EINVAL),
        ("tcp", "good", 129, errno.EINVAL),
        ("tcp", "good", 1 << 31, errno.EINVAL),
        ("tcp", "good", 0, errno.EINVAL),
        ("tcp", "good", 15, errno.EINVAL),
        ("tcp", "null", 16, errno.EFAULT),
        ("tcp", "good", 16 | 1 << 32, 0),  # the kernel looks at 32 bits
        ("none", "good", 16, errno.EBADF),
        ("pipe", "good", 16, errno.ENOTSOCK),
        ("sixth", "good", 28, errno.EAFNOSUPPORT),
        ("pair", "good", 16, errno.EINVAL),
        ("path", "good", 16, errno.EBADF),
    ],
)
def test_malformed_calls_get_the_kernels_own_answers(
    serve: Callable[..., Server], descriptor: str, address: str, size: int, expected: int
) -> None:
    server = serve()

    def work() -> int:
        sockets = {"tcp": socket.socket(), "sixth": socket.socket(socket.AF_INET6), "pair": socket.socketpair()[0]}
        fd = {"none": 999, "pipe": os.pipe()[0], "path": os.open("/", os.O_PATH)}.get(descriptor, -1)
        fd = sockets[descriptor].fileno() if descriptor in sockets else fd
        text = module._loopback(socket.AF_INET, server.port).ljust(128, b"\0")
        pointer = ctypes.c_char_p(text if address == "good" else None)
        number = {"x86_64": 42, "aarch64": 203}[os.uname().machine]
        result = LIBC.syscall(ctypes.c_long(number), ctypes.c_long(fd), pointer, ctypes.c_long(size))
        return 0 if result == 0 else ctypes.get_errno()

    assert run(work, to_ports(server.port)) == expected


def test_listening_is_for_listen_ports(serve: Callable[..., Server]) -> None:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]

    def listen_on(address: Any, family: int = socket.AF_INET) -> list[Any]:
        with socket.socket(family) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound = answer_of(lambda: sock.bind(address))
            return [bound, answer_of(sock.listen), sock.getsockname()[0]]

    def work() -> list[Any]:
        return [
            listen_on((LOOPBACK, port)),
            listen_on(("0.0.0.0", port)),
            listen_on(("::", port), socket.AF_INET6)[:2],
            listen_on((LOOPBACK, port + 1))[:2],
            listen_on(("0.0.0.0", 0))[:2],
            listen_on((LOOPBACK, 0))[:2],
            listen_on(("127.0.0.2", port))[:2],
            listen_on(("::1", port), socket.AF_INET6)[:2],
            [answer_of(socket.socket().listen)],
        ]

    no = [errno.EACCES, errno.EACCES]
    good = [0, 0, LOOPBACK]
    assert run(work, Rules(HOST_PORTS, listen_ports=(port,))) == [good, good, [0, 0], no, no, no, no, no, no[:1]]


def test_a_server_on_a_listen_port_is_reached_from_the_host() -> None:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    read_fd, write_fd = os.pipe()

    def work() -> int:
        server = socket.create_server(("", port))
        os.write(write_fd, b"x")
        return len(server.accept()[0].recv(5))

    with confined(work, Rules(HOST_PORTS, listen_ports=(port,))) as child:
        child.begin()
        os.read(read_fd, 1)
        with socket.create_connection((LOOPBACK, port), 5) as sock:
            sock.send(b"hello")
            assert child.result() == 5
    os.close(read_fd)
    os.close(write_fd)


def test_interfaces_can_be_listed() -> None:
    def work() -> list[Any]:
        route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
        return [
            answer_of(lambda: route.bind((0, 0))),
            route.getsockname()[0] != 0,
            answer_of(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).bind((0, 1))),
            answer_of(lambda: route.connect((1, 0))),
            answer_of(lambda: route.connect((0, 0))),
        ]

    assert run(work, Rules(HOST_PORTS)) == [0, True, errno.EPERM, errno.EPERM, 0]


# The proxy knows who came by way of the mediator.


def test_only_connects_that_were_made_here_are_admitted(serve: Callable[..., Server]) -> None:
    proxy, open_port = serve(), serve()

    def work() -> list[int]:
        ports = []
        for server in (proxy, proxy, open_port):
            with socket.create_connection((LOOPBACK, server.port)) as sock:
                ports.append(sock.getsockname()[1])
        with socket.socket(socket.AF_INET6) as sock:
            sock.connect((f"::ffff:{LOOPBACK}", proxy.port))
            return [*ports, sock.getsockname()[1]]

    with confined(work, to_ports(proxy.port, open_port.port, proxy_port=proxy.port)) as child:
        first, second, third, mapped = child.result()
        with socket.create_connection((LOOPBACK, proxy.port)) as stranger:
            assert not child.mediator.admits(stranger.getsockname()[1])
        assert child.mediator.admits(first)
        assert not child.mediator.admits(first)  # once
        assert child.mediator.admits(second)
        assert child.mediator.admits(mapped)
        assert not child.mediator.admits(third)  # not a connect to the proxy


def test_a_connect_that_fails_admits_nobody() -> None:
    with socket.socket() as closed:
        closed.bind((LOOPBACK, 0))
        port = closed.getsockname()[1]

        def work() -> int:
            sock = socket.socket()
            assert sock.connect_ex((LOOPBACK, port)) == errno.ECONNREFUSED
            return int(sock.getsockname()[1])

        with confined(work, to_ports(port, proxy_port=port)) as child:
            assert not child.mediator.admits(child.result())


def test_a_connect_by_a_listening_socket_admits_nobody(serve: Callable[..., Server]) -> None:
    server = serve()
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]

    def work() -> int:
        sock = socket.create_server((LOOPBACK, port))
        return sock.connect_ex((LOOPBACK, server.port))

    with confined(work, to_ports(server.port, proxy_port=server.port, listen_ports=(port,))) as child:
        assert child.result() == errno.EISCONN
        assert not child.mediator.admits(port)


def test_an_old_admission_is_void(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()

    def work() -> int:
        with socket.create_connection((LOOPBACK, server.port)) as sock:
            return int(sock.getsockname()[1])

    with confined(work, to_ports(server.port, proxy_port=server.port)) as child:
        port = child.result()
        later = time.monotonic() + 151
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert not child.mediator.admits(port)


# Attacks.


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
    assert attempt() == "LEAK"
    assert run(attempt, Rules(HOST_PORTS, listen_ports=(port,))) == "EACCES"


def test_the_socket_is_swapped_during_a_bind_that_goes_on(place: Place) -> None:
    """It may bind something else so; nobody can connect to that."""
    tree = place.directory(os.geteuid())
    attempt = attack(place, "race_bind", tree / "own", RACES)
    assert attempt() == "LEAK"
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


# AF_UNIX.


class Tree:
    """Sockets of the host, and a directory of the child's own."""

    def __init__(self, directory: Path, serve: Callable[..., Server]) -> None:
        self.own = directory / "own"
        self.own.mkdir()
        self.granted = directory / "granted"
        self.secret = directory / "secret"
        self.granted_server = serve(str(self.granted), socket.AF_UNIX)
        self.secret_server = serve(str(self.secret), socket.AF_UNIX)

    def rules(self, network: str, own: bool = True) -> Rules:
        return Rules(network, unix_sockets=(str(self.granted),), own_trees=(str(self.own),) if own else ())


@pytest.fixture
def tree(place: Place, serve: Callable[..., Server]) -> Tree:
    return Tree(place.directory(os.geteuid()), serve)


def unix(path: Any, kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_UNIX, kind) as sock:
        return answer_of(lambda: sock.connect(str(path)))


NETWORKS = pytest.mark.parametrize(
    ("network", "namespaces"),
    [(HOST_PORTS, 0), (OPEN_NETWORK, 0), (OWN_NETWORK, OWN), (OWN_NETWORK, OWN | CLONE_NEWNS)],
)


@NETWORKS
def test_a_granted_socket_is_reached_by_any_of_its_names(tree: Tree, network: str, namespaces: int) -> None:
    (tree.own / "link").symlink_to(tree.granted)
    (tree.own / "loop").symlink_to(tree.own / "loop")

    def work() -> list[int]:
        os.chdir(tree.own)
        answers = [unix(tree.granted), unix("../granted"), unix("link"), unix(tree.own / "link"), unix("../own/./link")]
        os.chdir(tree.own.parent)
        return [*answers, unix("granted"), unix("missing"), unix("own"), unix("own/loop"), unix("own/link/x")]

    bad = [errno.ENOENT, errno.ECONNREFUSED, errno.ELOOP, errno.ENOTDIR]
    assert run(work, tree.rules(network), namespaces=namespaces) == [0] * 6 + bad
    assert tree.granted_server.visitors() == 6


@NETWORKS
def test_no_name_leads_to_a_socket_that_was_not_granted(tree: Tree, network: str, namespaces: int) -> None:
    (tree.own / "link").symlink_to(tree.secret)
    (tree.own / "up").symlink_to(tree.own.parent)
    (tree.own / "granted").symlink_to(tree.secret)

    def work() -> list[int]:
        os.chdir(tree.own)
        fd = os.open(tree.own.parent, os.O_PATH)
        return [
            unix(tree.secret),
            unix("../secret"),
            unix("link"),
            unix("up/secret"),
            unix("granted"),
            unix(f"/proc/self/fd/{fd}/secret"),  # as ours, it would be: magic links are not followed
            unix("/proc/self/cwd/../secret"),
            unix(f"/proc/{os.getpid()}/root{tree.secret}"),
            unix(tree.granted),
        ]

    with confined(work, tree.rules(network), namespaces=namespaces) as child:
        answers = child.result()
        assert answers[:5] == [errno.EACCES] * 5
        assert set(answers[5:8]) <= {errno.ELOOP, errno.ENOENT}
        assert answers[8] == 0
        assert any("secret" in text for text in child.refused)
    assert tree.secret_server.visitors() == 0


def test_sockets_of_its_own_are_made_and_connected_to(tree: Tree) -> None:
    outside = tree.own.parent / "outside"
    outside.mkdir()

    def work() -> list[int]:
        os.chdir(tree.own)
        server = socket.socket(socket.AF_UNIX)
        answers = [answer_of(lambda: server.bind("server")), answer_of(lambda: server.listen(5))]
        answers += [unix("server"), unix(tree.own / "server")]
        packets = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        packets.bind(str(tree.own / "packets"))
        packets.listen()
        answers += [unix("packets", socket.SOCK_SEQPACKET)]
        foreign = socket.socket(socket.AF_UNIX)
        answers += [answer_of(lambda: foreign.bind(str(outside / "x"))), answer_of(foreign.listen)]
        return answers

    for network, namespaces in ((HOST_PORTS, 0), (OWN_NETWORK, OWN)):
        result = run(work, tree.rules(network), namespaces=namespaces, writable=str(tree.own))
        assert result[:5] == [0] * 5, network
        assert result[5] == errno.EACCES
        assert result[6] != 0
        for name in ("server", "packets"):
            (tree.own / name).unlink()


def test_sockets_of_its_own_only_where_they_were_granted(tree: Tree) -> None:
    def work() -> list[int]:
        server = socket.socket(socket.AF_UNIX)
        return [answer_of(lambda: server.bind(str(tree.own / "server"))), answer_of(server.listen), unix(tree.granted)]

    refusal = [errno.EACCES, errno.EPERM, 0]
    assert run(work, tree.rules(HOST_PORTS, own=False), writable=str(tree.own)) == refusal
    isolated = run(work, tree.rules(OWN_NETWORK, own=False), writable=str(tree.own), namespaces=OWN)
    assert (isolated[0], isolated[2]) == (errno.EACCES, 0)  # by Landlock


def test_a_socket_cannot_be_brought_into_its_own_tree(tree: Tree) -> None:
    """By what Landlock says; the mediator alone would take the socket for the child's own."""

    def work() -> list[int]:
        return [
            answer_of(lambda: os.link(tree.secret, tree.own / "hard")),
            answer_of(lambda: os.rename(tree.secret, tree.own / "moved")),
            unix(tree.own / "hard"),
        ]

    answers = run(work, tree.rules(HOST_PORTS), writable=str(tree.own))
    assert answers[0] in (errno.EXDEV, errno.EACCES)
    assert answers[1] in (errno.EXDEV, errno.EACCES)
    assert answers[2] == errno.ENOENT


def test_a_granted_name_that_was_turned_elsewhere_grants_nothing(tree: Tree) -> None:
    """The granted socket stands where the child may write: it puts a link there, or in the place of a directory."""
    inner = tree.own / "run"
    inner.mkdir()
    name = inner / "secret"

    def work() -> list[int]:
        name.symlink_to(tree.secret)
        answers = [unix(name), unix(tree.secret)]
        os.rename(inner, tree.own / "gone")
        inner.symlink_to(tree.own.parent)  # run/secret is now the secret
        return [*answers, unix(name), unix(tree.secret)]

    assert run(work, Rules(HOST_PORTS, unix_sockets=(str(name),))) == [errno.EACCES] * 4
    assert tree.secret_server.visitors() == 0


def test_links_that_change_during_the_connect(tree: Tree) -> None:
    """A name that leads to its own socket and to the secret by turns: what is judged is what is connected to."""
    name, own = tree.own / "name", tree.own / "server"

    def work() -> list[int]:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(own))
        server.listen(4096)
        flipper = os.fork()
        if flipper == 0:
            for target in itertools.cycle((tree.secret, own)):
                (tree.own / "next").symlink_to(target)
                os.rename(tree.own / "next", name)
        while not name.is_symlink():
            pass
        answers = set()
        for _ in range(4000):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.setblocking(False)
                answers.add(sock.connect_ex(str(name)))
        os.kill(flipper, signal.SIGKILL)
        os.waitpid(flipper, 0)
        return sorted(answers - {errno.EAGAIN})  # its own queue is full

    assert run(work, tree.rules(HOST_PORTS), writable=str(tree.own)) == [0, errno.EACCES]
    assert tree.secret_server.visitors() == 0


def test_another_mount_of_its_own_tree_is_not_its_own(tree: Tree) -> None:
    """A mask covers part of the own tree; the same directory, bound elsewhere, shows what it covers."""
    masked = tree.own / "masked"
    masked.mkdir()
    bound = tree.own.parent / "bound"
    bound.mkdir()
    with socket.socket(socket.AF_UNIX) as hidden, socket.socket(socket.AF_UNIX) as plain:
        hidden.bind(str(masked / "hidden"))
        hidden.listen()
        plain.bind(str(tree.own / "plain"))
        plain.listen()

        def prepare() -> None:
            mount(str(tree.own), str(bound), MS_BIND)
            mount("none", str(masked), 0, "tmpfs")

        def work() -> list[int]:
            return [
                unix(tree.own / "plain"),
                unix(masked / "hidden"),
                unix(bound / "masked" / "hidden"),
                unix(bound / "plain"),
            ]

        expected = [0, errno.ENOENT, errno.EACCES, errno.EACCES]
        rules = Rules(OWN_NETWORK, own_trees=(str(tree.own),))
        assert run(work, rules, namespaces=OWN | CLONE_NEWNS, prepare=prepare) == expected


def test_a_granted_socket_is_reached_through_a_bind_mount(tree: Tree) -> None:
    bound = tree.own / "bound"
    bound.mkdir()

    def work() -> list[int]:
        return [unix(bound / "granted"), unix(bound / "secret")]

    answers = run(
        work,
        Rules(OWN_NETWORK, unix_sockets=(str(tree.granted),)),
        namespaces=OWN | CLONE_NEWNS,
        prepare=lambda: mount(str(tree.own.parent), str(bound), MS_BIND),
    )
    assert answers == [0, errno.EACCES]


def test_what_is_denied_inside_an_own_tree_is_not_its_own(tree: Tree) -> None:
    """Made by somebody else after the start, so that no mask lies over it."""
    agent = tree.own / ".ssh"
    agent.mkdir()
    paths = [agent / "agent", tree.own / "denied", tree.own / "denied-not"]
    rules = Rules(HOST_PORTS, own_trees=(str(tree.own),), denied=(str(agent), str(tree.own / "denied")))
    with contextlib.ExitStack() as servers:
        for path in paths:
            server = servers.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(path))
            server.listen()
        assert run(lambda: [unix(path) for path in paths], rules) == [errno.EACCES, errno.EACCES, 0]


def test_names_that_begin_like_an_own_tree_are_not_in_it(tree: Tree) -> None:
    neighbour = Path(f"{tree.own}-2")
    neighbour.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(neighbour / "socket"))
        server.listen()
        assert run(lambda: unix(neighbour / "socket"), tree.rules(HOST_PORTS)) == errno.EACCES


def test_abstract_names_are_the_own_networks_or_nobodys(tree: Tree) -> None:
    name = f"\0nono-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as hosts:
        hosts.bind(name)
        hosts.listen()

        def work() -> list[int]:
            before = unix_abstract(name)
            server = socket.socket(socket.AF_UNIX)
            return [
                before,
                answer_of(lambda: server.bind(f"{name}-own")),
                answer_of(server.listen),
                unix_abstract(f"{name}-own"),
            ]

        def unix_abstract(to: str) -> int:
            with socket.socket(socket.AF_UNIX) as sock:
                return answer_of(lambda: sock.connect(to))

        assert run(work, tree.rules(OWN_NETWORK), namespaces=OWN) == [errno.ECONNREFUSED, 0, 0, 0]
        assert run(work, tree.rules(OPEN_NETWORK)) == [errno.EPERM, 0, errno.EPERM, errno.EPERM]
        assert run(work, tree.rules(HOST_PORTS)) == [errno.EPERM, errno.EACCES, errno.EPERM, errno.EPERM]


def test_a_socket_of_the_hosts_network_that_got_inside_reaches_no_abstract_name(tree: Tree) -> None:
    """An accomplice handed it over; its network is the host's for ever."""
    name = f"\0nono-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as hosts, socket.socket(socket.AF_UNIX) as smuggled:
        hosts.bind(name)
        hosts.listen()
        smuggle = lambda: answer_of(lambda: smuggled.connect(name))  # noqa: E731
        assert run(smuggle, tree.rules(OWN_NETWORK), namespaces=OWN) == errno.EPERM


def test_what_is_no_address_of_a_socket(tree: Tree) -> None:
    def work() -> list[int]:
        sock = socket.socket(socket.AF_UNIX)
        inet = module._loopback(socket.AF_INET, 80)
        answers = []
        for address in (b"\1\0", b"\1\0" + b"x" * 109, b"\0\0/x\0", inet, b"\1"):
            result = LIBC.connect(sock.fileno(), address, len(address))
            answers.append(ctypes.get_errno() if result else 0)
        return answers

    assert run(work, tree.rules(HOST_PORTS)) == [errno.EINVAL] * 5


def test_an_own_network_is_connected_in_as_ever(tree: Tree, serve: Callable[..., Server]) -> None:
    hosts = serve()

    def work() -> list[int]:
        server = socket.create_server((LOOPBACK, 0))
        sixth = socket.create_server(("::1", 0), family=socket.AF_INET6)
        return [
            connect(server.getsockname()),
            connect(sixth.getsockname()[:2], socket.AF_INET6),
            connect(("127.0.0.2", server.getsockname()[1])),
            connect((LOOPBACK, hosts.port)),
            connect(("192.0.2.1", 80)),
        ]

    no = errno.ECONNREFUSED
    assert run(work, tree.rules(OWN_NETWORK), namespaces=OWN) == [0, 0, no, no, errno.ENETUNREACH]
    assert hosts.visitors() == 0


def test_a_stuck_server_delays_nobody_else(tree: Tree) -> None:
    stuck = tree.own.parent / "stuck"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stuck))
        listener.listen(0)
        first = socket.socket(socket.AF_UNIX)
        first.connect(str(stuck))
        rules = Rules(HOST_PORTS, unix_sockets=(str(stuck), str(tree.granted)))

        def work() -> list[int]:
            for _ in range(5):
                threading.Thread(target=unix, args=(stuck,), daemon=True).start()
            return [unix(tree.granted) for _ in range(20)]

        began = time.monotonic()
        with confined(work, rules) as child:
            assert child.result() == [0] * 20
        assert time.monotonic() - began < 5
        first.close()


def test_names_are_printed_harmlessly(tree: Tree) -> None:
    with confined(lambda: unix(tree.own / "\x1b]0;x\x07"), tree.rules(HOST_PORTS)) as child:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(tree.own / "\x1b]0;x\x07"))
        child.result()
        assert not child.refused  # its own tree
    server.close()
    with confined(lambda: unix("\0\x1b[2J"), tree.rules(HOST_PORTS)) as child:
        assert child.result() == errno.EPERM
        assert child.refused == ["a connection to the abstract socket \\x1b[2J"]


# Speed.


def test_a_mediated_connect_costs_at_most_twenty_bare_ones(serve: Callable[..., Server]) -> None:
    server = serve()

    def best() -> float:
        least = 1.0
        for _ in range(5):
            total = 0.0
            for _ in range(300):
                with socket.socket() as sock:
                    began = time.perf_counter()
                    sock.connect((LOOPBACK, server.port))
                    total += time.perf_counter() - began
            least = min(least, total / 300)
        return least

    assert run(best, to_ports(server.port)) <= 20 * best()
