"""The mediator against the real kernel: a forked child behind the real filter, and servers that must not be reached.

Each test pairs what is refused with something that is let through the same way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from nono.supervisor import mediator as module
from nono.supervisor.mediator import HOST_PORTS, Rules
from tests.supervisor.mediated import (
    LIBC,
    LOOPBACK,
    Server,
    answer_of,
    confined,
    connect,
    run,
    to_ports,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


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
