"""From the bytes of a head to what may be done with it: head, route, authenticate, inject in one call.

Pure. A whole head that was granted is remembered (`_heads`): the same bytes get the same verdict, so an agent that
repeats itself costs one dictionary look-up. A head enters only after its token was accepted, never with a Cookie, and
the memo is bounded. What it keeps (Outgoing) holds no credential; that is read from its route at each sending, so a
head that was granted while a credential was missing stays refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from nono.errors import Refusal
from nono.policy.allowlist import Verdict
from nono.proxy.authenticate import Grant, Places, authenticate, authenticate_proxy, places, presentation_names
from nono.proxy.head import MEMO_LINE_BYTES, HeadReader, RequestHead
from nono.proxy.inject import PERCENT, SLOT_BYTES, Injection, Outgoing, injection, plan, plan_plain
from nono.proxy.pattern import MAX_PATTERN_BYTES, Pattern
from nono.proxy.route import BoundRoute, ConnectTarget, HostTarget, Router


class Allowlist(Protocol):
    """Decides about a host that the agent names; raises Refusal (nono/policy/allowlist.py)."""

    def __call__(self, host: str, port: int, *, tunnel: bool) -> Verdict: ...


MEMO_HEADS = 512
MEMO_HEAD_BYTES = 4096
_MEMO_HASHES = 16384
_PATTERNS = 256


class _RequestPattern(NamedTuple):
    """A kind of requests' heads that were granted. model: the first one, as it was forwarded."""

    pattern: Pattern
    model: Outgoing
    has_cookie: bool

    def read(self, head: bytes, token: bytes) -> Outgoing | None:
        """What to send for a head that fits; None when it does not."""
        pattern, model, _ = self
        values = pattern.values(head)
        if values is None or token in b"\n".join(values):
            return None
        length = pattern.length(values, model.length)
        if length is None:
            return None
        before, after = pattern.forwarded(values)
        after += b"\r\n"
        secret = model.secret
        assert secret is not None
        fits = len(before) + 3 * len(secret) + 4 + len(after) <= SLOT_BYTES
        return Outgoing(
            before, after, model.encoding, fits, secret, model.origin, model.method, length, model.close,
            model.expects_continue, model.upgrade, model.shown,
        )  # fmt: skip


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
        self._similar: dict[bytes, _RequestPattern] = {}
        self._misfits = 0

    def __call__(self, head: bytes) -> Outgoing | ConnectTarget:
        """Return what to send, or where to tunnel. Raises Refusal."""
        known = self._heads.get(head)
        if known is not None:
            return known
        similar = self._similar.get(head[: head.find(b"\r\n")])
        if similar is not None:
            outgoing = similar.read(head, self._token)
            if outgoing is not None:
                if not similar.has_cookie:
                    self._remember(head, outgoing)
                return outgoing
        return self._judge(head)

    def close(self) -> None:
        """Let go of the credentials' memory, and forget."""
        self._heads.clear()
        self._similar.clear()
        for _, how in self._rooms.values():
            if how.secret is not None:
                how.secret.release()

    def _judge(self, raw: bytes) -> Outgoing | ConnectTarget:
        """The whole way."""
        head = self.reader.request(raw)
        target = self.router.route(head)
        if isinstance(target, (ConnectTarget, HostTarget)):
            authenticate_proxy(head, self._token)
            self._allow(target)
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
        if not any(name == b"cookie" for _, name, _ in head.fields):
            self._remember(raw, outgoing)
        self._remember_pattern(head, grant, how, outgoing)
        return outgoing

    def _remember_pattern(self, head: RequestHead, grant: Grant, how: Injection, outgoing: Outgoing) -> None:
        """Let heads that differ little from this one take a shorter way."""
        self._misfits += 1
        raw_lines = [head.start, *head.raw_lines]
        known = self._similar.get(head.start)
        if known is not None:
            wider = known.pattern.widened(raw_lines)
            if wider is not None:
                self._similar[head.start] = known._replace(pattern=wider)
                return
            if self._misfits % 8:
                return
        if how.encoding == PERCENT or len(grant.dropped) != 1 or head.listed or head.upgrade:
            return  # not the token's line alone, or meaning in many places
        token_at = grant.dropped[0]
        if self._token not in head.raw_lines[token_at] or len(head.start) > MEMO_LINE_BYTES:
            return
        has_cookie = False
        length_place = None
        fixed = {0, token_at + 1}
        varying = {place for place, line in enumerate(raw_lines) if len(line) > MEMO_LINE_BYTES}
        for index, name, _ in head.fields:
            place = index + 1
            if name == b"content-length" and head.lines[index] == head.raw_lines[index]:
                length_place = place
            elif name == b"cookie":
                has_cookie = True
                varying.add(place)
            elif self.reader.is_special(name):
                fixed.add(place)
        varying -= fixed
        start = outgoing.before[: outgoing.before.find(b"\r\n")]
        pattern = Pattern(
            raw_lines, [start, *head.lines], set(range(len(raw_lines))) - fixed, varying, length_place,
            (token_at + 1, how.left, how.right),
        )  # fmt: skip
        if pattern.size > MAX_PATTERN_BYTES:
            return
        if len(self._similar) >= _PATTERNS:
            self._similar.clear()
        self._similar[head.start] = _RequestPattern(pattern, outgoing._replace(before=b"", after=b""), has_cookie)

    def _remember(self, raw: bytes, outgoing: Outgoing) -> None:
        # At the second sighting: heads that never come again leave nothing but a number.
        if len(raw) > MEMO_HEAD_BYTES:
            return
        number = hash(raw)
        if number not in self._seen_once:
            if len(self._seen_once) >= _MEMO_HASHES:
                self._seen_once.clear()
            self._seen_once.add(number)
            return
        if len(self._heads) >= MEMO_HEADS:
            self._heads.clear()
        self._heads[raw] = outgoing

    def _allow(self, target: ConnectTarget | HostTarget) -> None:
        host = target.host
        if self._allowlist is not None:
            verdict = self._allowlist(host, target.port, tunnel=isinstance(target, ConnectTarget))
            if verdict.rules:
                message = f"Only some paths of {host} are granted, and this proxy cannot see which one is asked for."
                raise Refusal(403, "host_denied", message)
            return
        for destination in self.router.destinations:
            if destination.origin.host == host:
                route = destination.bound.route
                where = route.base_url_vars[0] if route.base_url_vars else f"/{route.name}"
                message = f"{host} is reached through its route only, which holds the key: use the base URL in {where}."
                raise Refusal(403, "host_denied", message)
        message = f"Only the routes are reachable, not {host}. The operator can grant it with --allow-domain {host}"
        raise Refusal(403, "host_denied", message)
