"""P3: the only address that the child can reach, by any socket family or system call, is the proxy's.

Every attack of facts/sandbox-linux.md, by a program that first shows without the sandbox that it works.
"""

from __future__ import annotations

import array
import contextlib
import os
import random
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nono.policy.capabilities import NETWORK_BLOCKED, NETWORK_OPEN, NETWORK_PROXY, READ
from tests.confined import TESTED, WALLS, Outcome, Place, Wall, check, prove, run, write


class Services:
    """What is there to be reached on the host; each answers a request, so that a leak is a leak for certain."""

    def __init__(self, directory: Path) -> None:
        self.address = _own_address()
        self.tcp = socket.create_server(("", 0))  # answers MPTCP clients too: they fall back
        self.port = str(self.tcp.getsockname()[1])
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("", 0))
        self.udp_port = str(self.udp.getsockname()[1])
        self.stream_path = str(directory / "stream")
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.bind(self.stream_path)
        self.stream.listen()
        self.datagram_path = str(directory / "datagram")
        self.datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.datagram.bind(self.datagram_path)
        for path in (self.stream_path, self.datagram_path):
            os.chmod(path, 0o777)
        name = f"nono-test-{random.getrandbits(64):x}"
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0{name}")
        self.abstract.listen()
        self.abstract_name = name
        self.secret = write(directory / "secret", "secret", os.geteuid())
        services = {
            self.tcp: self._answer,
            self.stream: self._answer,
            self.abstract: self._hand_over,
            self.udp: self._echo,
            self.datagram: self._swallow,
        }
        for server, serve in services.items():
            threading.Thread(target=_quietly, args=(serve, server), daemon=True).start()

    @staticmethod
    def _answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(64)
            connection.send(b"answer")

    def _hand_over(self, server: socket.socket) -> None:
        """Answer with a descriptor of a file that the visitor may not open."""
        connection, _ = server.accept()
        with connection, open(self.secret) as file:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))]
            connection.sendmsg([b"a"], rights)
            connection.recv(64)  # the request, or the end

    @staticmethod
    def _echo(server: socket.socket) -> None:
        data, sender = server.recvfrom(64)
        server.sendto(data, sender)

    @staticmethod
    def _swallow(server: socket.socket) -> None:
        server.recv(64)


def _quietly(serve: Callable[[socket.socket], None], server: socket.socket) -> None:
    while server.fileno() >= 0:
        with contextlib.suppress(OSError):
            serve(server)


def _own_address() -> str:
    """Return an address of this machine that is not loopback, or 127.0.0.1 when it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1: nothing is sent
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.fixture(scope="module")
def services(place: Place) -> Services:
    directory = place.directory(os.geteuid())
    directory.chmod(0o755)
    return Services(directory)


def arguments(template: str, services: Services) -> list[str]:
    known = {
        "EXT": services.address, "PORT": services.port, "UDP": services.udp_port, "STREAM": services.stream_path,
        "DATAGRAM": services.datagram_path, "ABSTRACT": services.abstract_name, "LO": "127.0.0.1",
    }  # fmt: skip
    return [known.get(word, word) for word in template.split()]


ISOLATED = {"ECONNREFUSED", "ENETUNREACH"}


@pytest.mark.parametrize("network", [NETWORK_PROXY, NETWORK_BLOCKED])
@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ("tcp LO PORT", {"ECONNREFUSED"}),
        ("tcp EXT PORT", ISOLATED),
        ("tcp_nonblocking EXT PORT", ISOLATED),
        ("tcp_mapped EXT PORT", ISOLATED),
        ("fastopen_connect EXT PORT", ISOLATED),
        ("mptcp EXT PORT", {"EPROTONOSUPPORT"}),
        ("fastopen_sendto EXT PORT", {"EOPNOTSUPP"}),
        ("fastopen_sendmsg EXT PORT", {"EOPNOTSUPP"}),
        ("fastopen_sendmmsg EXT PORT", {"EOPNOTSUPP"}),
        ("udp EXT UDP", {"EACCES"}),
        ("udp LO UDP", {"EACCES"}),
        ("udplite", {"EACCES"}),
        ("ping", {"EACCES"}),
        ("raw", {"EACCES"}),
        ("packet", {"EAFNOSUPPORT"}),
        ("vsock", {"EAFNOSUPPORT"}),
        ("xdp", {"EAFNOSUPPORT"}),
        ("netlink_diag", {"EPROTONOSUPPORT"}),
        ("uring_socket", {"ENOSYS"}),
        ("unix_stream STREAM", {"EAFNOSUPPORT"}),
        ("unix_dgram DATAGRAM", {"EPROTONOSUPPORT"}),
        ("unix_raw DATAGRAM", {"EPROTONOSUPPORT"}),
        ("pair_dgram DATAGRAM", {"EPROTONOSUPPORT"}),
        ("pair_raw DATAGRAM", {"EPROTONOSUPPORT"}),
        ("pair_connect DATAGRAM", {"EPROTONOSUPPORT"}),
        ("abstract ABSTRACT", {"EAFNOSUPPORT"}),
        ("abstract_fd ABSTRACT", {"EAFNOSUPPORT"}),
    ],
)
def test_reaches_nothing(
    place: Place, services: Services, user: int, network: str, attack: str, expected: set[str]
) -> None:
    check([place.attack, *arguments(attack, services)], Wall(network=network), expected, user=user)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="int $0x80 and x32 exist on x86-64 only")
def test_old_entries_into_the_kernel_are_closed(place: Place, user: int) -> None:
    assert prove([place.attack, "int80_socket"], user=user) == ""
    assert run([place.attack, "int80_socket"], Wall(), user=user).answer == "SIGSYS"
    assert run([place.attack, "x32_socket"], Wall(), user=user).answer == "ENOSYS"


def test_reaches_the_proxy_and_nothing_else_on_its_port(place: Place, services: Services, user: int) -> None:
    """The host listens on the very port number that the proxy has inside: it must not be reached at any address."""
    if services.address == "127.0.0.1":
        pytest.skip("this machine has no address but loopback")
    with socket.create_server((services.address, 0)) as server:  # there only: the proxy may have 127.0.0.1
        port = server.getsockname()[1]
        threading.Thread(target=_quietly, args=(services._answer, server), daemon=True).start()
        allowed = run([place.attack, "tcp", "127.0.0.1", str(port)], Wall(listen_port=port), user=user)
        assert allowed.answer == "LEAK"
        check([place.attack, "tcp", services.address, str(port)], Wall(listen_port=port), ISOLATED, user=user)


@pytest.mark.parametrize("attack", ["listen_any", "listen_unbound"])
def test_nobody_reaches_in(place: Place, services: Services, user: int, attack: str) -> None:
    def visited(wall: Wall | None) -> Outcome:
        waiting, visitor_is_done = os.pipe()

        def visit(line: str) -> None:
            if line.startswith("listening "):
                for address in ("127.0.0.1", services.address):
                    with contextlib.suppress(OSError):
                        socket.create_connection((address, int(line.split()[1])), timeout=1).close()
                os.write(visitor_is_done, b"x")

        try:
            return run([place.attack, attack], wall, user=user, stdin=waiting, on_line=visit)
        finally:
            os.close(waiting)
            os.close(visitor_is_done)

    assert visited(None).answer == "LEAK"
    assert visited(Wall()).answer == ("EACCES" if TESTED is WALLS["notify"] else "ETIMEDOUT")


@pytest.mark.parametrize("network", [NETWORK_PROXY, NETWORK_BLOCKED, NETWORK_OPEN])
@pytest.mark.parametrize("action", ["own_server", "pair_stream", "netlink_route", "own_child", "prlimit_self"])
def test_agents_keep_what_they_need(place: Place, user: int, network: str, action: str) -> None:
    alone = TESTED is not WALLS["notify"] or network == NETWORK_OPEN  # else a server would be the host's
    expected = "EACCES" if action == "own_server" and not alone else "LEAK"
    assert run([place.attack, action], Wall(network=network), user=user).answer == expected


@pytest.mark.parametrize("action", ["tcp EXT PORT", "udp EXT UDP", "mptcp EXT PORT", "tcp_mapped EXT PORT"])
def test_open_network_is_open(place: Place, services: Services, user: int, action: str) -> None:
    attack = [place.attack, *arguments(action, services)]
    unproven = prove(attack, user=user)
    if unproven:
        pytest.skip(unproven)
    assert run(attack, Wall(network=NETWORK_OPEN), user=user).answer == "LEAK"


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ("unix_stream STREAM", {"EAFNOSUPPORT"}),
        ("unix_dgram DATAGRAM", {"EPROTONOSUPPORT"}),
        ("pair_dgram DATAGRAM", {"EPROTONOSUPPORT"}),
        ("abstract ABSTRACT", {"EAFNOSUPPORT"}),
        ("vsock", {"EAFNOSUPPORT"}),
        ("raw", {"EACCES"}),
        ("udplite", {"EPROTONOSUPPORT"}),
        ("netlink_diag", {"EPROTONOSUPPORT"}),
        ("uring_socket", {"ENOSYS"}),
    ],
)
def test_open_network_reaches_no_local_daemon(
    place: Place, services: Services, user: int, attack: str, expected: set[str]
) -> None:
    check([place.attack, *arguments(attack, services)], Wall(network=NETWORK_OPEN), expected, user=user)


def test_a_connected_pair_cannot_be_turned_to_a_path(place: Place, services: Services, user: int) -> None:
    """The filter lets connected pairs be; this is the kernel's own behaviour, on which that relies."""
    for wall in (None, Wall()):
        expected = "EACCES" if wall and TESTED is WALLS["notify"] else "EISCONN"  # the mediator's, or the kernel's
        assert run([place.attack, "pair_turned", services.stream_path], wall, user=user).answer == expected


def test_the_wall_itself_is_what_is_tested(place: Place, user: int) -> None:
    """The pair to all of the above: the same grants let the program start and read what they grant."""
    wall = Wall().with_access(write(place.directory(user) / "granted", "content", user), READ, is_file=True)
    assert run([place.attack, "read", wall.grants[0].path], wall, user=user).answer == "LEAK"
