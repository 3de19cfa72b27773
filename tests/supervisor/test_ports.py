"""The relays' ports: what cannot work is refused in a sentence, and the host's are taken before anything starts."""

from __future__ import annotations

import os
import socket

import pytest

from nono.errors import UsageError
from nono.policy.capabilities import NETWORK_BLOCKED, NETWORK_OPEN, NETWORK_PROXY
from nono.supervisor import ports


@pytest.mark.parametrize("network", [NETWORK_PROXY, NETWORK_BLOCKED])
def test_takes_ports_of_both_kinds(network: str) -> None:
    ports.check(network, (80, 5432), (1024, 65535), 61000)


@pytest.mark.parametrize(
    ("network", "opened", "listened", "proxy_port", "words"),
    [
        (NETWORK_OPEN, (5432,), (), None, "--open-port .* --block-net"),
        (NETWORK_OPEN, (), (3000,), None, "--listen-port .* --block-net"),
        (NETWORK_PROXY, (5432,), (), 5432, "--open-port 5432 .* another --proxy-port"),
        (NETWORK_PROXY, (), (3000,), 3000, "--listen-port 3000 .* another --proxy-port"),
        (NETWORK_BLOCKED, (1, 3000), (4000, 3000), None, "port 3000 is either"),
        (NETWORK_BLOCKED, (), (4000, 80), None, "--listen-port 80: .* below 1024"),
    ],
)
def test_refuses_what_cannot_work(
    network: str, opened: tuple[int, ...], listened: tuple[int, ...], proxy_port: int | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        ports.check(network, opened, listened, proxy_port)


def test_a_run_without_relays_is_never_refused() -> None:
    ports.check(NETWORK_OPEN, (), (), None)


def test_listens_on_the_hosts_loopback_and_only_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    listeners = ports.listen_on_host((free,))
    assert list(listeners) == [free]
    assert listeners[free].getsockname() == ("127.0.0.1", free)
    assert not os.get_inheritable(listeners[free].fileno())
    socket.create_connection(("127.0.0.1", free), 5).close()
    listeners[free].close()


def test_a_port_that_is_taken_is_refused_and_no_other_is_kept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as probe:
        port, free = taken.getsockname()[1], probe.getsockname()[1]
        probe.close()
        with pytest.raises(UsageError, match=f"--listen-port {port}: Address already in use; "):
            ports.listen_on_host((free, port))
    with socket.create_server(("127.0.0.1", free)):
        pass


def test_a_port_of_a_server_that_ended_just_now_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port), 5)
        server.accept()[0].close()  # closes first: this end stays in TIME_WAIT
        client.close()
    ports.listen_on_host((port,))[port].close()
