"""Heads that were granted, remembered, so that an agent that repeats itself costs next to nothing.

Pure. A whole head that was granted, for a route or for a tunnel, is remembered (`_heads`): the same bytes get the same
verdict, and cost one dictionary look-up. Heads for a route that differ in a few values only are recognised by the bytes
between them (`pattern.py`). A head enters only after it was authenticated, never with a Cookie, and the memo is
bounded. What it keeps (Outgoing) holds no credential; that is read from its route at each sending, so a head that was
granted while a credential was missing stays refused.

A verdict depends on where the head was sent as well: each judge has a memo of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from nono.errors import Refusal
from nono.proxy.authenticate import Grant, Places, authenticate
from nono.proxy.head import MEMO_LINE_BYTES, HeadReader, RequestHead
from nono.proxy.inject import PERCENT, SLOT_BYTES, Injection, Outgoing, plan
from nono.proxy.pattern import MAX_PATTERN_LINES, Pattern
from nono.proxy.route import RouteMatch

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


class ConnectGrant(NamedTuple):
    """CONNECT that was granted: a tunnel, or (judge) a connection whose TLS ends here and whose requests it judges.

    scope: which addresses may be dialled for a tunnel (pins.py).
    """

    host: str
    port: int
    scope: str
    judge: MemoJudge | None


class MemoJudge:
    """Judges heads, and remembers those that were granted for a route.

    authority: the host that all of them are for, where there is one; the audit shows it.
    """

    authority = ""

    def __init__(self, token: bytes, rooms: Mapping[str, tuple[Places, Injection]], reader: HeadReader) -> None:
        """rooms: by the name of a route, where it takes the token and how it injects."""
        self._token = token
        self._rooms = rooms
        self.reader = reader
        self._heads: dict[bytes, Outgoing | ConnectGrant] = {}
        self._seen_once: set[int] = set()
        self._similar: dict[bytes, _RequestPattern] = {}
        self._misfits = 0

    def __call__(self, head: bytes) -> Outgoing | ConnectGrant:
        """Return what to send, or what CONNECT leads to. Raises Refusal."""
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
        """Forget."""
        self._heads.clear()
        self._similar.clear()

    def _judge(self, raw: bytes) -> Outgoing | ConnectGrant:
        """The whole way."""
        raise NotImplementedError

    def _to_route(self, raw: bytes, head: RequestHead, match: RouteMatch, *, needs_token: bool = True) -> Outgoing:
        """Return what to send to a route. needs_token: nothing else has authenticated this request."""
        bound = match.destination.bound
        where, how = self._rooms[bound.route.name]
        grant = authenticate(head, match, where, self._token, needs_token=needs_token)
        outgoing = plan(grant, how, self._token)
        if bound.credential is None:
            name = bound.route.credential_key
            message = f"nono holds no credential '{name}'. Store it with: nono credential set {bound.route.name}"
            raise Refusal(503, "credential_missing", message)
        self.reader.learn(head)
        keeps_secrets = has_cookie(head) or (
            not needs_token and any(self._token not in head.raw_lines[index] for index in grant.dropped)
        )
        if not keeps_secrets:
            self._remember(raw, outgoing)
        self._remember_pattern(head, grant, how, outgoing)
        return outgoing

    def _remember_pattern(self, head: RequestHead, grant: Grant, how: Injection, outgoing: Outgoing) -> None:
        """Let heads that differ little from this one take a shorter way."""
        self._misfits += 1
        if len(head.raw_lines) > MAX_PATTERN_LINES or len(head.start) > MEMO_LINE_BYTES:
            return
        raw_lines = [head.start, *head.raw_lines]
        known = self._similar.get(head.start)
        if known is not None:
            wider = known.pattern.widened(raw_lines)
            if wider is not None:
                self._similar[head.start] = known._replace(pattern=wider)
                return
            if self._misfits % 8:
                return
        elif not self._was_seen(head.start):
            return  # a path that may never come again
        if how.encoding == PERCENT or len(grant.dropped) != 1 or head.listed or head.upgrade:
            return  # not the token's line alone, or meaning in many places
        token_at = grant.dropped[0]
        if self._token not in head.raw_lines[token_at]:
            return
        others = (name for index, name, _ in head.fields if index != token_at and name != b"cookie")
        if any(map(self.reader.is_private, others)):
            return  # it may be a credential of the agent's own
        forwarded = [outgoing.before[: outgoing.before.find(b"\r\n")], *head.lines]
        pattern = self.reader.pattern(raw_lines, forwarded, head.fields, (token_at + 1, how.left, how.right))
        if pattern is None:
            return
        if len(self._similar) >= _PATTERNS:
            self._similar.clear()
        self._similar[head.start] = _RequestPattern(pattern, outgoing._replace(before=b"", after=b""), has_cookie(head))

    def _remember(self, raw: bytes, granted: Outgoing | ConnectGrant) -> None:
        if len(raw) > MEMO_HEAD_BYTES:
            return
        if not self._was_seen(raw):
            return
        if len(self._heads) >= MEMO_HEADS:
            self._heads.clear()
        self._heads[raw] = granted

    def _was_seen(self, text: bytes) -> bool:
        """Whether this is not the first sighting; of that one, nothing but a number is kept."""
        number = hash(text)
        if number in self._seen_once:
            return True
        if len(self._seen_once) >= _MEMO_HASHES:
            self._seen_once.clear()
        self._seen_once.add(number)
        return False


def has_cookie(head: RequestHead) -> bool:
    """Whether a Cookie is in it."""
    return any(name == b"cookie" for _, name, _ in head.fields)
