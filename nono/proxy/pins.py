"""Addresses: look a name up once, check every address, and hand out only what was checked.

The address dialled is the address checked: a name is resolved here, the connection is made to the literal address, and
nobody asks the resolver again. What may be dialled depends on who named the host:

    ROUTE     the operator, in a route: any address but loopback and those that are never dialled
    LOOPBACK  the operator, in a route to localhost or a loopback literal: loopback only
    NAMED     the operator, as exactly this host (--allow-domain HOST, --upstream-proxy): private and loopback too
    PUBLIC    the agent, with the leave of a suffix or a group: public addresses only (such a name that resolves to a
              private address is DNS rebinding, or at least not what was allowed)

Never dialled, whoever named them: link-local, "this network", multicast, broadcast, and where clouds keep their
metadata; nor what carries one of these inside it (IPv4-mapped, -compatible and -translated, NAT64, 6to4, Teredo).

A pin is a look-up's checked answer, and holds for PIN_S. That bounds two things: for how long a name that has moved is
still dialled where it was, and how often whoever answers for a name may change his answer. It is not what stops
rebinding: each answer is checked anew, so a name that was public and turns private is refused from then on, and
connections are made to checked addresses only, however often the answer changes.

getaddrinfo blocks, so it runs in daemon threads, at most THREADS at a time. Names that the agent chose never take all
of them, and wait behind the operator's. At most MAX_QUEUED names wait, and none that nobody wants any more. An address
literal and `localhost` need no thread. Addresses are handed out in the resolver's order, but with the families
interleaved, at most MAX_ADDRESSES.

Source: IANA's special-purpose address registries (RFC 6890); RFC 6761 section 6.3 (localhost); RFC 8305 section 4.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from nono.errors import NonoError, Refusal, UpstreamError
from nono.loop import Loop
from nono.policy.allowlist import host_and_port

ROUTE = "ROUTE"
LOOPBACK = "LOOPBACK"
NAMED = "NAMED"
PUBLIC = "PUBLIC"

THREADS = 8
# A look-up begins where fewer than this many are under way: slow names that the agent chose never hold up a route's.
# In this order.
_BEGINS_BELOW = {ROUTE: THREADS, LOOPBACK: THREADS, NAMED: THREADS - 1, PUBLIC: THREADS - 2}
MAX_QUEUED = 512  # names, of each scope
PIN_S = 30.0
MAX_ADDRESSES = 16  # of one name; each may cost a connection attempt
_MAX_PINS = 1024


def _networks(*texts: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


_NEVER = _networks(
    "0.0.0.0/8",  # this network; Linux takes 0.0.0.0 for loopback
    "169.254.0.0/16",  # link-local, and most clouds' metadata
    "224.0.0.0/4",  # multicast
    "255.255.255.255",  # broadcast
    "100.100.100.200",  # metadata: Alibaba
    "168.63.129.16",  # Azure
    "192.0.0.192",  # Oracle
    "::",
    "fe80::/10",
    "ff00::/8",
    "fd00:ec2::/32",  # metadata and credentials: AWS
    "fd00:42::42",  # Scaleway
    "fd20:ce::254",  # Google
)
# The tables of ipaddress differ between versions of Python.
_NOT_PUBLIC = _networks(
    "10.0.0.0/8",
    "100.64.0.0/10",  # carrier-grade NAT
    "172.16.0.0/12",
    "192.0.0.0/24",  # IETF protocol assignments
    "192.0.2.0/24",  # documentation
    "192.88.99.0/24",  # 6to4 relays
    "192.168.0.0/16",
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",  # reserved
    "2001::/23",  # IETF protocol assignments, Teredo among them
    "2001:db8::/32",
    "3fff::/20",  # documentation, RFC 9637
)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# IPv4 inside IPv6. ipaddress knows mapped (::ffff:a.b.c.d), 6to4 and Teredo addresses.
_TRANSLATED = ipaddress.IPv6Network("::ffff:0:0:0/96")  # RFC 2765 section 2.1
_LAST_32_BITS = (
    ipaddress.IPv6Network("::/96"),  # IPv4-compatible, RFC 4291 section 2.5.5.1
    ipaddress.IPv6Network("64:ff9b::/96"),  # NAT64, RFC 6052
    _TRANSLATED,
)
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215: of any of the prefix lengths below


class Address(NamedTuple):
    """One address to dial: an address family and what connect() takes."""

    family: int
    host: str
    port: int


Resolved = Callable[[list[Address] | NonoError], None]
_Key = tuple[str, int, str]  # host, port, scope
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
        address = address.ipv4_mapped or address  # which the kernel dials as IPv4
    if scope == LOOPBACK or address.is_loopback:
        return address.is_loopback and scope in (LOOPBACK, NAMED)
    if any(address in network for network in _NEVER):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded(address)
        if inner is not None:
            return permitted(str(inner), scope) and not (scope == PUBLIC and address in _TRANSLATED)
        if scope == PUBLIC and address not in _GLOBAL_UNICAST:
            return False
        if not all(permitted(str(reading), scope) for reading in _readings(address)):
            return False
    return scope != PUBLIC or not any(address in network for network in _NOT_PUBLIC)


def address_denied(
    host: str, port: int, scope: str, texts: Iterable[str], check: Callable[[str, str], bool] = permitted
) -> Refusal:
    """The refusal of a host none of whose addresses may be dialled; with the flag, where naming it would help.

    Nobody is advised to name a loopback host: it is what somebody else's name was made to lead to, not what was wanted.
    """
    if scope == PUBLIC and any(check(text, NAMED) and not check(text, LOOPBACK) for text in texts):
        wanted = host_and_port(host, 0 if port == 443 else port)
        message = f"{host} has private addresses only, for which it must be named itself, not by a suffix or a group."
        return Refusal(403, "address_denied", message, f"--allow-domain {wanted}")
    message = f"{host} has only addresses that this proxy never dials (private, link-local or metadata)."
    return Refusal(403, "address_denied", message)


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that this one stands for, where it has one form only."""
    inner = address.sixtofour
    if inner is None and any(address in network for network in _LAST_32_BITS):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inner


def _readings(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that this one may stand for: Teredo's client, or NAT64 with a prefix of any length.

    Those that begin with 0 are left out: it is what the unused octets of another reading look like.
    """
    if address.teredo:
        return [address.teredo[1]]
    if address not in _LOCAL_NAT64:
        return []
    octets = address.packed  # RFC 6052 section 2.2: octet 8 is never part of the IPv4 address
    texts = (octets[6:8] + octets[9:11], octets[7:8] + octets[9:12], octets[9:13], octets[12:16])
    return [ipaddress.IPv4Address(text) for text in texts if text[0]]


def interleaved(addresses: list[Address]) -> list[Address]:
    """The addresses with the families in turn, each in its order; the first stays the first."""
    one = [address for address in addresses if address.family == addresses[0].family]
    other = [address for address in addresses if address.family != addresses[0].family]
    return [address for address in chain.from_iterable(zip_longest(one, other)) if address is not None]


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
        self._pins: dict[_Key, tuple[float, list[Address]]] = {}
        self._waiting: dict[_Key, list[Resolved]] = {}  # for each look-up, queued or under way
        self._queues: dict[str, deque[_Key]] = {scope: deque() for scope in _BEGINS_BELOW}
        self._threads = 0

    def resolve(self, host: str, port: int, scope: str, callback: Resolved) -> None:
        """Call `callback` with the permitted addresses, or with a Refusal or UpstreamError. May call it at once."""
        key = (host, port, scope)
        pinned = self._pins.get(key)
        if pinned is not None and pinned[0] > self._loop.now:
            callback(pinned[1])
            return
        if host == "localhost":
            callback(self._checked(key, ["127.0.0.1", "::1"]))
            return
        try:
            ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            callback(self._checked(key, [host]))
            return
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(callback)
        elif len(self._queues[scope]) >= MAX_QUEUED:
            message = f"{MAX_QUEUED} other names wait to be looked up; try {host} again when these are answered."
            callback(UpstreamError(503, "dns", message))
        else:
            self._waiting[key] = [callback]
            self._queues[scope].append(key)
            self._start_threads()

    def withdraw(self, host: str, port: int, scope: str, callback: Resolved) -> None:
        """Do not call `callback`; a look-up that has not begun, and that nobody else waits for, never will."""
        key = (host, port, scope)
        waiting = self._waiting.get(key, [])
        if callback in waiting:
            waiting.remove(callback)
            if not waiting and key in self._queues[scope]:
                self._queues[scope].remove(key)
                del self._waiting[key]

    def forget(self, host: str, port: int, scope: str) -> None:
        """Look the name up again next time: none of its addresses answered."""
        self._pins.pop((host, port, scope), None)

    def _start_threads(self) -> None:
        for scope, queue in self._queues.items():
            while queue and self._threads < _BEGINS_BELOW[scope]:
                key = queue.popleft()
                self._threads += 1
                try:
                    threading.Thread(target=self._run, args=(key,), daemon=True, name="nono-dns").start()
                except RuntimeError:  # RLIMIT_NPROC, or no memory for a stack; the next request tries again
                    self._threads -= 1
                    message = "No thread can be started to look names up; too many processes run here."
                    for callback in self._waiting.pop(key):
                        callback(UpstreamError(502, "dns", message))

    def _run(self, key: _Key) -> None:
        # In a thread. getaddrinfo raises UnicodeError for labels that cannot be encoded; whatever it raises, somebody
        # waits for an answer.
        answer: list[str] | None
        try:
            answer = self._lookup(key[0], key[1])
        except (OSError, ValueError, TypeError, RuntimeError, MemoryError):
            answer = None
        self._loop.call_from_thread(lambda: self._answered(key, answer))

    def _answered(self, key: _Key, answer: list[str] | None) -> None:
        self._threads -= 1
        self._start_threads()
        outcome: list[Address] | NonoError
        if answer:
            outcome = self._checked(key, answer)
        else:
            message = f"The name {key[0]} does not resolve; check it, and the network of this machine."
            outcome = UpstreamError(502, "dns", message)
        for callback in self._waiting.pop(key):
            callback(outcome)

    def _checked(self, key: _Key, texts: list[str]) -> list[Address] | Refusal:
        """Return which of the addresses may be dialled, and pin them."""
        host, port, scope = key
        addresses = [
            Address(socket.AF_INET6 if ":" in text else socket.AF_INET, text, port)
            for text in texts
            if self._check(text, scope)
        ]
        if not addresses:
            return address_denied(host, port, scope, texts, self._check)
        addresses = interleaved(addresses)[:MAX_ADDRESSES]
        if len(self._pins) >= _MAX_PINS:
            self._pins.clear()
        self._pins[key] = (self._loop.now + PIN_S, addresses)
        return addresses


def sockaddr(address: Address) -> Any:
    """What socket.connect takes."""
    if address.family == socket.AF_INET6:
        host, _, zone = address.host.partition("%")
        return (host, address.port, 0, socket.if_nametoindex(zone) if zone else 0)
    return (address.host, address.port)
