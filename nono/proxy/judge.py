"""From the bytes of a head to what may be done with it: head, route, authenticate, inject in one call.

Pure. A whole head that was granted is remembered (`_heads`): the same bytes get the same verdict, so an agent that
repeats itself costs one dictionary look-up. A head enters only after its token was accepted, never with a Cookie, and
the memo is bounded. What it keeps (Outgoing) holds no credential; that is read from its route at each sending, so a
head that was granted while a credential was missing stays refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nono.errors import Refusal
from nono.proxy.authenticate import Places, authenticate, authenticate_proxy, places, presentation_names
from nono.proxy.head import HeadReader, RequestHead
from nono.proxy.inject import Injection, Outgoing, injection, plan, plan_plain
from nono.proxy.route import BoundRoute, ConnectTarget, HostTarget, Router

# Decides about a host that the agent names: None lets it pass, a Refusal is answered.
Allowlist = Callable[[str, int], Refusal | None]

MEMO_HEADS = 512
MEMO_HEAD_BYTES = 4096
_MEMO_HASHES = 16384


class Judge:
    """All that is decided about a request before a byte of it is forwarded."""

    def __init__(
        self, token: bytes, routes: Sequence[BoundRoute], port: int, allowlist: Allowlist | None, max_target_bytes: int
    ) -> None:
        self._token = token
        self._allowlist = allowlist
        self.router = Router(routes, port, max_target_bytes)
        self._rooms: dict[str, tuple[Places, Injection]] = {}
        names: set[bytes] = set()
        for destination in self.router.destinations:
            route = destination.bound.route
            self._rooms[route.name] = (places(route), injection(destination))
            names |= presentation_names(route)
        self.reader = HeadReader(frozenset(names))
        self._heads: dict[bytes, Outgoing] = {}
        self._seen_once: set[int] = set()

    def __call__(self, head: bytes) -> Outgoing | ConnectTarget:
        """Return what to send, or where to tunnel. Raises Refusal."""
        known = self._heads.get(head)
        return known if known is not None else self._judge(head)

    def _judge(self, raw: bytes) -> Outgoing | ConnectTarget:
        head = self.reader.request(raw)
        target = self.router.route(head)
        if isinstance(target, (ConnectTarget, HostTarget)):
            authenticate_proxy(head, self._token)
            self._allow(target.host, target.port)
            return target if isinstance(target, ConnectTarget) else plan_plain(head, target, self._token)
        bound = target.destination.bound
        where, how = self._rooms[bound.route.name]
        grant = authenticate(head, target, where, self._token)
        outgoing = plan(grant, how, self._token)
        if bound.credential is None:
            name = bound.route.credential_key
            message = f"nono holds no credential '{name}'. Store it with: nono credential set {bound.route.name}"
            raise Refusal(503, "credential_missing", message)
        self.reader.learn(head)
        if len(raw) <= MEMO_HEAD_BYTES:
            self._remember(raw, head, outgoing)
        return outgoing

    def _remember(self, raw: bytes, head: RequestHead, outgoing: Outgoing) -> None:
        # At the second sighting: heads that never come again leave nothing but a number.
        number = hash(raw)
        if number not in self._seen_once:
            if len(self._seen_once) >= _MEMO_HASHES:
                self._seen_once.clear()
            self._seen_once.add(number)
            return
        if any(name == b"cookie" for _, name, _ in head.fields):
            return
        if len(self._heads) >= MEMO_HEADS:
            self._heads.clear()
        self._heads[raw] = outgoing

    def _allow(self, host: str, port: int) -> None:
        if self._allowlist is not None:
            refusal = self._allowlist(host, port)
            if refusal is not None:
                raise refusal
            return
        for destination in self.router.destinations:
            if destination.origin.host == host:
                route = destination.bound.route
                where = route.base_url_vars[0] if route.base_url_vars else f"/{route.name}"
                message = f"{host} is reached through its route only, which holds the key: use the base URL in {where}."
                raise Refusal(403, "host_denied", message)
        message = f"Only the routes are reachable, not {host}. The operator can grant it with --allow-domain {host}"
        raise Refusal(403, "host_denied", message)
