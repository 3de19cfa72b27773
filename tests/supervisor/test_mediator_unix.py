"""AF_UNIX by the mediator: which sockets a child reaches by path, by which of their names, and which it may make.

Each test pairs what is refused with something that is let through the same way.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nono.supervisor import mediator as module
from nono.supervisor.mediator import HOST_PORTS, OPEN_NETWORK, OWN_NETWORK, Rules
from tests.confined import Place
from tests.supervisor.mediated import (
    CLONE_NEWNS,
    LIBC,
    LOOPBACK,
    MS_BIND,
    OWN,
    Server,
    answer_of,
    confined,
    connect,
    mount,
    run,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


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


def test_a_stuck_server_is_forgotten_with_its_clients(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_UNIX_CONNECTS", 3)
    stuck = tree.own.parent / "stuck"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stuck))
        listener.listen(0)
        first = socket.socket(socket.AF_UNIX)
        first.connect(str(stuck))
        rules = Rules(HOST_PORTS, unix_sockets=(str(stuck), str(tree.granted)))

        def work() -> list[int]:
            clients = []
            for _ in range(3):
                clients.append(os.fork())
                if clients[-1] == 0:
                    unix(stuck)
                    os._exit(0)
            time.sleep(0.2)
            answers = [unix(tree.granted)]
            for pid in clients:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            return [*answers, *(unix(tree.granted) for _ in range(5))]

        assert run(work, rules) == [errno.EAGAIN] + [0] * 5
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
