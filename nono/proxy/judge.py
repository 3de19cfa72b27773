"""From the bytes of a head to what may be done with it: head, route, authenticate, inject in one call.

Pure. Two judges with one memory (`memo.py`): Judge for what arrives at the proxy's own port, HostJudge for what is said
inside a connection whose TLS ends here because CONNECT named a host that has a route, or of which some paths are
granted only. The order in which a host that the agent names is judged: the token, before anything is said of the host;
whether it is a name at all; the proxy itself, which is never dialled; the routes' own hosts; the allowlist.

**Inside an intercepted connection** CONNECT has authenticated already. A request for a route's upstream, by the path of
its base URL, gets that route's credential, whatever credential it carries or none: the token, or a key that the agent
found somewhere, is dropped as on a route. Another path is forwarded as it is, to the extent that the allowlist grants
it. Nothing but the host that CONNECT named can be asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from typing import NoReturn, Protocol

from nono.errors import Refusal
from nono.policy.allowlist import Verdict, host_and_port, is_address, normalise
from nono.proxy.authenticate import Places, authenticate_proxy, places, presentation_names
from nono.proxy.head import HeadReader, RequestHead
from nono.proxy.inject import Injection, Outgoing, injection, plan_plain
from nono.proxy.memo import ConnectGrant, MemoJudge, has_cookie
from nono.proxy.pins import NAMED, PUBLIC
from nono.proxy.route import (
    BoundRoute,
    ConnectTarget,
    Destination,
    HostRouter,
    HostTarget,
    Origin,
    RouteMatch,
    Router,
    allow_domain,
    check_path,
    check_rules,
)

INSTALL = "pip install 'nono[intercept]'"


class Allowlist(Protocol):
    """Decides about a host that the agent names; raises Refusal (nono/policy/allowlist.py)."""

    def __call__(self, host: str, port: int, *, tunnel: bool) -> Verdict: ...


class Judge(MemoJudge):
    """All that is decided about a request before a byte of it is forwarded."""

    def __init__(
        self,
        token: bytes,
        routes: Sequence[BoundRoute],
        port: int,
        allowlist: Allowlist | None,
        max_target_bytes: int,
        *,
        intercepts: bool = False,
        lacks_library: bool = False,
    ) -> None:
        """intercepts: TLS can be ended here. lacks_library: it cannot, though the operator wants it."""
        self._allowlist = allowlist
        self._port = port
        self._max_target_bytes = max_target_bytes
        self._intercepts = intercepts
        self._lacks_library = lacks_library
        self.router = Router(routes, port, max_target_bytes)
        rooms: dict[str, tuple[Places, Injection]] = {}
        names: set[bytes] = set()
        self._at: dict[tuple[str, int], list[Destination]] = {}  # the routes whose upstream is at a host and port
        for destination in self.router.destinations:
            route, origin = destination.bound.route, destination.origin
            rooms[route.name] = (places(route), injection(destination))
            names |= presentation_names(route)
            self._at.setdefault((_compared(origin.host), origin.port), []).append(destination)
        super().__init__(token, rooms, HeadReader(frozenset(names)))
        self._hosts: dict[tuple[str, int], HostJudge] = {}

    def close(self) -> None:
        """Let go of the credentials' memory, and forget."""
        super().close()
        for judge in self._hosts.values():
            judge.close()
        for _, how in self._rooms.values():
            if how.secret is not None:
                how.secret.release()

    def _judge(self, raw: bytes) -> Outgoing | ConnectGrant:
        head = self.reader.request(raw)
        try:
            target = self.router.route(head)
        except Refusal:
            if head.method == b"CONNECT":
                authenticate_proxy(head, self._token)  # who has no token is told nothing else
            raise
        if isinstance(target, RouteMatch):
            return self._to_route(raw, head, target)
        authenticate_proxy(head, self._token)
        try:
            name = normalise(target.host)
        except ValueError as error:
            raise Refusal(400, "bad_host", f"This is no host name: {error}.") from None
        if target.port == self._port and _is_loopback(name):
            raise Refusal(403, "host_denied", "The proxy does not connect to itself; send the request to it directly.")
        routes = self._at.get((name, target.port))
        if isinstance(target, ConnectTarget):
            grant = self._connect(name, target, routes)
            if grant.judge is None and not has_cookie(head):
                self._remember(raw, grant)  # for good: an allowlist grows, it never shrinks
            return grant
        return self._plain(raw, head, target, routes)

    def _connect(self, name: str, target: ConnectTarget, routes: list[Destination] | None) -> ConnectGrant:
        host, port = target
        if routes:
            if not self._intercepts or not routes[0].origin.tls:
                self._refuse_routed(host, routes[0])
            judge = self._hosts.get((name, port))
            if judge is None:
                # As the operator wrote the host: one judge is for all spellings of it.
                own = routes[0].origin.host
                judge = self._host_judge(own, port, routes, lambda: self._granted_beside(own, port))
                self._hosts[name, port] = judge
            return ConnectGrant(host, port, "", judge)
        verdict = self._allowed(host, port, tunnel=True)
        if not verdict.rules:
            return ConnectGrant(host, port, _scope(verdict), None)
        if not self._intercepts:
            message = f"Only some paths of {host} are granted, and this proxy cannot see which one is asked for."
            raise Refusal(403, "host_denied", message + (f" It can with: {INSTALL}" if self._lacks_library else ""))
        return ConnectGrant(host, port, "", self._host_judge(host, port, [], lambda: verdict))

    def _plain(self, raw: bytes, head: RequestHead, target: HostTarget, routes: list[Destination] | None) -> Outgoing:
        host, port, path_and_query = target
        if routes:
            if routes[0].origin.tls:
                self._refuse_routed(host, routes[0])
            router = HostRouter(host, port, routes, self._max_target_bytes)
            match = router.match(path_and_query)
            if match is not None:
                return self._to_route(raw, head, match, needs_token=False)
        verdict = self._allowed(host, port, tunnel=False)
        origin = Origin(False, host, port)
        _check_rules(verdict, origin, head, path_and_query, self._token)
        return plan_plain(head, origin, path_and_query, _scope(verdict), self._token)

    def _host_judge(
        self, host: str, port: int, routes: Sequence[Destination], granted: Callable[[], Verdict | None]
    ) -> HostJudge:
        router = HostRouter(host, port, routes, self._max_target_bytes)
        return HostJudge(self._token, self._rooms, self.reader, router, granted)

    def _granted_beside(self, host: str, port: int) -> Verdict | None:
        """What the allowlist grants at a route's host, besides the route; None for nothing."""
        try:
            return None if self._allowlist is None else self._allowlist(host, port, tunnel=True)
        except Refusal:
            return None

    def _allowed(self, host: str, port: int, *, tunnel: bool) -> Verdict:
        if self._allowlist is not None:
            return self._allowlist(host, port, tunnel=tunnel)
        for destination in self.router.destinations:
            if destination.origin.host == host:
                self._refuse_routed(host, destination)
        wanted = host_and_port(host, 0 if port == 443 or (port == 80 and not tunnel) else port)
        message = f"Only the routes are reachable, not {wanted}."
        raise Refusal(403, "host_denied", message, f"--allow-domain {wanted}")

    def _refuse_routed(self, host: str, destination: Destination) -> NoReturn:
        route = destination.bound.route
        where = route.base_url_vars[0] if route.base_url_vars else f"/{route.name}"
        message = f"{host} is reached through its route only, which holds the key: use the base URL in {where}."
        if self._lacks_library:
            message += f" Programs that insist on https://{host} need: {INSTALL}"
        raise Refusal(403, "host_denied", message)


class HostJudge(MemoJudge):
    """Judges what is said to one host inside a connection whose TLS ends here."""

    def __init__(
        self,
        token: bytes,
        rooms: Mapping[str, tuple[Places, Injection]],
        reader: HeadReader,
        router: HostRouter,
        granted: Callable[[], Verdict | None],
    ) -> None:
        """granted: what the allowlist grants besides the routes; None for nothing."""
        super().__init__(token, rooms, reader)
        self.router = router
        self._granted = granted
        self._origin = Origin(True, router.host, router.port)
        self.authority = self._origin.authority

    def _judge(self, raw: bytes) -> Outgoing:
        head = self.reader.request(raw)
        target = self.router.route(head)
        if isinstance(target, RouteMatch):
            return self._to_route(raw, head, target, needs_token=False)
        verdict = self._granted()
        if target.target == b"*" and (verdict is None or verdict.rules):
            raise Refusal(400, "bad_target", "OPTIONS * is for hosts of which all paths are granted; name a path.")
        if verdict is None:
            flag = allow_domain(self._origin, target.target.partition(b"?")[0], self._token)
            message = f"This path of {target.host} is not granted, only {self.router.granted}."
            raise Refusal(403, "endpoint_denied", message, flag)
        _check_rules(verdict, self._origin, head, target.target, self._token)
        return plan_plain(head, self._origin, target.target, _scope(verdict), self._token)


def _compared(host: str) -> str:
    try:
        return normalise(host)
    except ValueError:
        return host  # a route's own affair; the agent cannot name it


def _scope(verdict: Verdict) -> str:
    return NAMED if verdict.named else PUBLIC


def _check_rules(verdict: Verdict, origin: Origin, head: RequestHead, target: bytes, token: bytes) -> None:
    if verdict.rules:
        path = target.partition(b"?")[0]
        check_path(path)
        check_rules(verdict.rules, origin, head, path, token)


def _is_loopback(name: str) -> bool:
    """Whether a normalised name means this machine, however it is written; 0.0.0.0 does too (Linux)."""
    if not is_address(name):
        return name == "localhost" or name.endswith(".localhost")
    address = ip_address(name)
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return address.is_loopback or address.is_unspecified
