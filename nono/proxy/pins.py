"""Addresses: look a name up once, check every address, and hand out only what was checked.

The address dialled is the address checked: a name is resolved here, the connection is made to the literal address, and
nobody asks the resolver again. What may be dialled depends on who named the host:

    ROUTE     the operator, in a route: any address but link-local, metadata, multicast and loopback
    LOOPBACK  the operator, in a route to localhost or a loopback literal: loopback only
    PUBLIC    the agent, with the allowlist's leave: public addresses only (a name of the allowlist that
              resolves to a private address is DNS rebinding, or at least not what was allowed)

getaddrinfo blocks, so it runs in daemon threads, at most THREADS at a time; answers are kept for PIN_S. An address
literal and `localhost` need no thread.

Source: RFC 6890 (special-purpose addresses); RFC 6761 section 6.3 (localhost).
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from nono.errors import NonoError, Refusal, UpstreamError
from nono.loop import Loop

ROUTE = "ROUTE"
LOOPBACK = "LOOPBACK"
PUBLIC = "PUBLIC"

THREADS = 8
PIN_S = 30.0
_MAX_PINS = 1024

# Not link-local, but where clouds keep their metadata: Alibaba, AWS over IPv6, Oracle.
_METADATA = frozenset(ipaddress.ip_address(text) for text in ("100.100.100.200", "fd00:ec2::254", "192.0.0.192"))
# IPv4 inside IPv6: mapped and compatible by ipaddress itself, NAT64 and 6to4 here.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Address(NamedTuple):
    """One address to dial: an address family and what connect() takes."""

    family: int
    host: str
    port: int


Resolved = Callable[[list[Address] | NonoError], None]
Lookup = Callable[[str, int], list[str]]


def scope_of_route(host: str) -> str:
    """Which addresses a route's upstream may have."""
    if host == "localhost":
        return LOOPBACK
    try:
        return LOOPBACK if ipaddress.ip_address(host).is_loopback else ROUTE
    except ValueError:
        return ROUTE


def permitted(text: str, scope: str) -> bool:
    """Whether an address may be dialled in this scope. Pure."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return permitted(str(inner), scope)
    if scope == LOOPBACK:
        return address.is_loopback
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        return False
    if address in _METADATA:
        return False
    return scope == ROUTE or address.is_global


def system_lookup(host: str, port: int) -> list[str]:
    """getaddrinfo, in its order of preference. Runs in a thread; raises OSError."""
    # Bytes: text would go through the IDNA codec once more (names are encoded already), and import it.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Pins:
    """Resolves and checks for one loop."""

    def __init__(
        self, loop: Loop, lookup: Lookup = system_lookup, check: Callable[[str, str], bool] = permitted
    ) -> None:
        """lookup and check: replaced by tests, whose upstreams are all on loopback."""
        self._loop = loop
        self._lookup = lookup
        self._check = check
        self._pins: dict[tuple[str, int, str], tuple[float, list[Address]]] = {}
        self._waiting: dict[tuple[str, int, str], list[Resolved]] = {}
        self._jobs: deque[tuple[str, int, str]] = deque()
        self._threads = 0

    def resolve(self, host: str, port: int, scope: str, callback: Resolved) -> None:
        """Call `callback` with the permitted addresses, or with a Refusal or UpstreamError. May call it at once."""
        key = (host, port, scope)
        pinned = self._pins.get(key)
        if pinned is not None and pinned[0] > self._loop.now:
            callback(pinned[1])
            return
        if host == "localhost":
            self._finish(key, ["127.0.0.1", "::1"], callback)
            return
        try:
            ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            self._finish(key, [host], callback)
            return
        waiting = self._waiting.setdefault(key, [])
        waiting.append(callback)
        if len(waiting) == 1:
            self._jobs.append(key)
            self._start_threads()

    def forget(self, host: str, port: int, scope: str) -> None:
        """Look the name up again next time: none of its addresses answered."""
        self._pins.pop((host, port, scope), None)

    def _start_threads(self) -> None:
        while self._jobs and self._threads < THREADS:
            key = self._jobs.popleft()
            self._threads += 1
            threading.Thread(target=self._run, args=(key,), daemon=True, name="nono-dns").start()

    def _run(self, key: tuple[str, int, str]) -> None:
        # In a thread. getaddrinfo raises UnicodeError for labels that cannot be encoded.
        answer: list[str] | None
        try:
            answer = self._lookup(key[0], key[1])
        except (OSError, UnicodeError):
            answer = None
        self._loop.call_from_thread(lambda: self._answered(key, answer))

    def _answered(self, key: tuple[str, int, str], answer: list[str] | None) -> None:
        self._threads -= 1
        self._start_threads()
        for callback in self._waiting.pop(key, []):
            if answer:
                self._finish(key, answer, callback)
            else:
                message = f"The name {key[0]} does not resolve; check it, and the network of this machine."
                callback(UpstreamError(502, "dns", message))

    def _finish(self, key: tuple[str, int, str], texts: list[str], callback: Resolved) -> None:
        host, port, scope = key
        addresses = [
            Address(socket.AF_INET6 if ":" in text else socket.AF_INET, text, port)
            for text in texts
            if self._check(text, scope)
        ]
        if not addresses:
            message = f"{host} has only addresses that this proxy never dials (private, link-local or metadata)."
            callback(Refusal(403, "address_denied", message))
            return
        if len(self._pins) >= _MAX_PINS:
            self._pins.clear()
        self._pins[key] = (self._loop.now + PIN_S, addresses)
        callback(addresses)


def sockaddr(address: Address) -> Any:
    """What socket.connect takes."""
    if address.family == socket.AF_INET6:
        host, _, zone = address.host.partition("%")
        return (host, address.port, 0, socket.if_nametoindex(zone) if zone else 0)
    return (address.host, address.port)
