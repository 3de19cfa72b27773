"""The ports that the user named for relays (relay.py): judged, and taken on the host, before anything starts."""

from __future__ import annotations

import _socket
from collections.abc import Iterable

from nono.errors import UsageError
from nono.kernel.network import check as check_network
from nono.policy.capabilities import NETWORK_OPEN

_FIRST_UNPRIVILEGED = 1024  # net.ipv4.ip_unprivileged_port_start of a new network namespace
_BACKLOG = 4096  # as the listeners inside


def check(network: str, open_ports: Iterable[int], listen_ports: Iterable[int], proxy_port: int | None) -> None:
    """Raise UsageError for ports that cannot work. The ports are from 1 to 65535.

    proxy_port: the one that the user chose; None for any.
    """
    opened, listened = set(open_ports), set(listen_ports)
    if (opened or listened) and network == NETWORK_OPEN:
        flag = "--open-port" if opened else "--listen-port"
        raise UsageError(
            f"{flag} is for a network of its own, but this agent is on the machine's, ports and all; leave it out, or "
            "add --block-net, --credential NAME, --network-profile NAME or --allow-domain HOST"
        )
    if proxy_port in opened | listened:
        flag = "--open-port" if proxy_port in opened else "--listen-port"
        raise UsageError(f"{flag} {proxy_port} is what --proxy-port takes; choose another --proxy-port")
    if both := opened & listened:
        raise UsageError(
            f"port {min(both)} is either this machine's (--open-port) or the agent's (--listen-port); leave one out"
        )
    if listened and min(listened) < _FIRST_UNPRIVILEGED:
        raise UsageError(
            f"--listen-port {min(listened)}: no server inside may listen below {_FIRST_UNPRIVILEGED}; "
            "let it use a higher port and name that"
        )


def listen_on_host(ports: Iterable[int]) -> dict[int, _socket.socket]:
    """Return listening sockets on 127.0.0.1 of this machine, by port.

    Raises UsageError, and then none is left; KernelError where no socket can be made inside.
    """
    listeners: dict[int, _socket.socket] = {}
    ports = tuple(ports)
    if ports:
        check_network()
    for port in ports:
        listener = listeners[port] = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)  # close-on-exec
        try:
            listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen(_BACKLOG)
        except OSError as error:
            for opened in listeners.values():
                opened.close()
            raise UsageError(
                f"--listen-port {port}: {error.strerror}; end what listens there, or let the agent's server use "
                "another port"
            ) from None
    return listeners
