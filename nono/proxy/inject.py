"""Make the outgoing request head, and put the credential into it at the last moment.

Two steps. `plan` is pure: from a Grant it makes an Outgoing, the head's bytes before and after the credential, which
may be kept and reused because it holds no secret. `assemble` copies those pieces and the credential into a slot of
locked scratch memory by slice assignment; the connection writes from there, and the credential's bytes are wiped as
soon as they were sent. h11 never sees this head, and no `bytes` object ever holds the credential.

Inject modes, and how the credential's bytes are written:

    header        as they are, between the halves of credential_format
    query_param   percent-encoded, octet by octet
    url_path      percent-encoded, where the token stood, between the halves of path_replacement
    basic_auth    base64, computed in the slot itself

What is forwarded: the lines of the request in their order and case, without hop-by-hop and Proxy-* headers and without
every credential place; Host is replaced where it stands; the credential's header stands where the first credential
place stood, else at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from nono.errors import PolicyError, Refusal
from nono.policy.endpoints import is_ambiguous
from nono.policy.routes import Presentation
from nono.proxy.authenticate import Grant, authorization_holds, join_path, split_format
from nono.proxy.head import HOP_BY_HOP, MESSAGE_HEADERS, RequestHead
from nono.proxy.route import Destination, Origin

RAW = 0
PERCENT = 1
BASE64 = 2

SLOT_BYTES = 16384  # one TLS record
_SHOWN_PATH = 256  # a log that is kept must not fill up at the agent's line speed
_ZEROS = bytes(SLOT_BYTES)
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_HEX = b"0123456789ABCDEF"
# RFC 9110 section 5.6.2
_ALNUM = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TCHAR = frozenset("!#$%&'*+-.^_`|~" + _ALNUM)


class Shown(NamedTuple):
    """What the audit will say of a request: no query, no token, at most _SHOWN_PATH of the path."""

    route: str
    host: str
    method: str
    path: str


class Outgoing(NamedTuple):
    """A request as it will be sent, without its credential.

    secret: the credential where it lies in locked memory, never a copy; None for a plain request to an allowed host.
    encoding: RAW, PERCENT or BASE64, how the secret is written between `before` and `after`.
    fits: whether head and credential can stand in one slot. length: body bytes or CHUNKED, as in RequestHead.
    scope: which addresses the origin may have (pins.py); None for a route's own.
    """

    before: bytes
    after: bytes
    encoding: int
    fits: bool
    secret: memoryview | None
    origin: Origin
    method: bytes
    length: int
    close: bool
    expects_continue: bool
    upgrade: bytes
    shown: Shown
    scope: str | None = None


class Injection(NamedTuple):
    """How one route presents its credential, computed once.

    left, right: what stands around it: in a header line, in the path, or (left only) before a query parameter's value.
    secret: the credential where it lies in locked memory; None where the keystore had none.
    """

    mode: str
    encoding: int
    left: bytes
    right: bytes
    authority: bytes
    shown_host: str
    secret: memoryview | None


def injection(destination: Destination) -> Injection:
    """Return how this destination's route injects. Raises PolicyError where that cannot be carried out."""
    check_presentation(destination)
    how = destination.bound.route.inject
    authority = destination.origin.authority
    if how.inject_mode == "header":
        left, right = split_format(how.credential_format)
        left, encoding = how.inject_header.encode() + b": " + left, RAW
    elif how.inject_mode == "basic_auth":
        left, right, encoding = b"Authorization: Basic ", b"", BASE64
    elif how.inject_mode == "query_param":
        left, right, encoding = how.query_param_name.encode() + b"=", b"", PERCENT
    else:
        left, right = split_format(how.path_replacement or how.path_pattern)
        encoding = PERCENT
    credential = destination.bound.credential
    secret = credential.view[: credential.length] if credential is not None else None
    if secret is not None and _written_bytes(secret, encoding) > SLOT_BYTES:
        message = f"route '{destination.bound.route.name}': its credential is longer than {SLOT_BYTES} bytes"
        raise PolicyError(f"{message}, as {how.inject_mode} writes it; store the key itself, not a file of keys")
    return Injection(how.inject_mode, encoding, left, right, authority.encode(), authority, secret)


def _written_bytes(secret: memoryview, encoding: int) -> int:
    if encoding == RAW:
        return len(secret)
    if encoding == BASE64:
        return (len(secret) + 2) // 3 * 4
    return sum(1 if octet in _UNRESERVED else 3 for octet in secret)


def plan(grant: Grant, how: Injection, token: bytes) -> Outgoing:
    """Return the head to forward for a granted request. Raises Refusal 400 when the token stands elsewhere in it."""
    head, destination, path = grant.head, grant.match.destination, grant.path
    bound, dropped = destination.bound, grant.dropped
    after_token = grant.path_after_token
    lines = forwarded_lines(head, dropped, how.authority)
    if how.encoding != PERCENT:  # in a header line
        start = b"%b %b HTTP/1.1" % (head.method, _target(destination.base + path, grant.query))
        before, after = around(start, lines, dropped[0] if dropped else len(lines), how)
    else:
        after = b"\r\n".join([b" HTTP/1.1", *filter(None, lines), b"\r\n"])
        if how.mode == "query_param":
            target = _target(destination.base + path, grant.query)
            before = b"%b %b%b%b" % (head.method, target, b"&" if grant.query else b"?", how.left)
        elif after_token is None:
            raise Refusal(401, "token_missing", "This route takes its token in the path, where the API key belongs.")
        else:
            before = b"%b %b%b" % (head.method, destination.base + path, how.left)
            rest = join_path(how.right, after_token)
            path = b"%b%b***%b" % (path, how.left, rest)  # as the audit shows it
            after = (rest if grant.query is None else b"%b?%b" % (rest, grant.query)) + after
    if token in before or token in after:
        raise Refusal(400, "token_misplaced", "The session token stands in the request outside a credential's place.")
    secret = how.secret
    fits = secret is not None and len(before) + 3 * len(secret) + 4 + len(after) <= SLOT_BYTES
    shown = Shown(bound.route.name, how.shown_host, head.method.decode(), _shown(path) or "/")
    return Outgoing(
        before, after, how.encoding, fits, secret, destination.origin, head.method, head.length, head.close,
        head.expects_continue, head.upgrade, shown,
    )  # fmt: skip


def plan_plain(head: RequestHead, origin: Origin, target: bytes, scope: str, token: bytes) -> Outgoing:
    """Return the head to forward to an allowed host, to which no credential belongs. target: in origin-form."""
    authority = origin.authority
    lines = forwarded_lines(head, [], authority.encode())
    start = b"%b %b HTTP/1.1" % (head.method, target)
    before = b"\r\n".join([start, *filter(None, lines), b"\r\n"])
    encoded = any(name == b"authorization" and authorization_holds(value, token) for _, name, value in head.fields)
    if encoded or token in before:
        raise Refusal(400, "token_misplaced", "The session token stands in the request outside a credential's place.")
    path = _shown(target.partition(b"?")[0])
    return Outgoing(
        before, b"", RAW, False, None, origin, head.method, head.length, head.close, head.expects_continue,
        head.upgrade, Shown("", authority, head.method.decode(), path), scope,
    )  # fmt: skip


def _shown(path: bytes) -> str:
    return path.decode() if len(path) <= _SHOWN_PATH else path[:_SHOWN_PATH].decode("ascii", "replace") + "…"


def _target(path: bytes, query: bytes | None) -> bytes:
    path = path or b"/"
    return path if query is None else b"%b?%b" % (path, query)


def around(start: bytes, lines: list[bytes], cut: int, how: Injection) -> tuple[bytes, bytes]:
    """The head before and after a credential that stands in a header line, at `cut`."""
    before = b"\r\n".join([start, *filter(None, lines[:cut]), how.left])
    return before, b"\r\n".join([how.right, *filter(None, lines[cut:]), b"\r\n"])


def forwarded_lines(head: RequestHead, dropped: list[int], authority: bytes) -> list[bytes]:
    """The header lines to forward, empty where one is dropped, so that indices stay what they were."""
    lines = head.lines
    for index, name, _ in head.fields:
        if name == b"host":
            lines[index] = b"%b: %b" % (lines[index][:4], authority)
        elif name in HOP_BY_HOP or name[:6] == b"proxy-":
            lines[index] = b""
    for index in dropped:
        lines[index] = b""
    if head.listed:  # rare: lines that the memo answered for may be named too
        lines = [line if line.partition(b":")[0].lower() not in head.listed else b"" for line in lines]
    if head.upgrade == b"websocket":
        lines.append(b"Connection: Upgrade")
        lines.append(b"Upgrade: websocket")
    return lines


def check_presentation(destination: Destination) -> None:
    """Raise PolicyError where a route's way of presenting its credential cannot be carried out."""
    route = destination.bound.route
    for how in (route.inject, route.proxy):
        if how is not None:
            _check_one(route.name, how)


def _check_one(name: str, how: Presentation) -> None:
    if how.inject_mode not in ("header", "url_path", "query_param", "basic_auth"):
        raise PolicyError(f"route '{name}': unknown inject_mode '{how.inject_mode}'")
    if how.inject_mode == "header":
        if how.credential_format.count("{}") != 1:
            raise PolicyError(f"route '{name}': credential_format must contain {{}} once")
        if not how.inject_header or not _TCHAR.issuperset(how.inject_header):
            raise PolicyError(f"route '{name}': inject_header is no header name")
        if not how.credential_format.isprintable() or not how.credential_format.isascii():
            raise PolicyError(f"route '{name}': credential_format must be printable ASCII")
        if how.inject_header.lower().encode() in MESSAGE_HEADERS or how.inject_header.lower().startswith("proxy-"):
            raise PolicyError(f"route '{name}': inject_header must not be {how.inject_header}")
    if how.inject_mode == "query_param" and not set("-_.").union(_ALNUM).issuperset(how.query_param_name or "?"):
        raise PolicyError(f"route '{name}': inject_mode query_param needs query_param_name")
    if how.inject_mode == "url_path":
        for pattern in (how.path_pattern, how.path_replacement or how.path_pattern):
            if pattern.count("{}") != 1 or not pattern.isascii() or any(c in " ?#\r\n" for c in pattern):
                raise PolicyError(f"route '{name}': inject_mode url_path needs path_pattern with {{}} once")
            if pattern[0] != "/" or pattern.partition("{}")[2][:1] not in ("", "/"):
                raise PolicyError(f"route '{name}': path_pattern must begin with / and have / or nothing behind {{}}")
            if is_ambiguous(pattern.encode()):
                raise PolicyError(f"route '{name}': path_pattern must not have dot segments")


class LockedBuffer(Protocol):
    """What nono.kernel.secretmem.SecretBuffer offers."""

    @property
    def view(self) -> memoryview: ...

    def close(self) -> None: ...


class Slot:
    """One piece of locked scratch, in use by one connection until the head in it was sent."""

    __slots__ = ("_pool", "_secret_end", "_secret_start", "view")

    def __init__(self, pool: ScratchPool, view: memoryview) -> None:
        self._pool = pool
        self.view = view
        self._secret_start = 0
        self._secret_end = 0

    def __repr__(self) -> str:
        return "<Slot>"

    def assemble(self, outgoing: Outgoing, body: bytes) -> tuple[int, int]:
        """Write head and body into the slot: as many of the body's bytes as fit.

        Returns the bytes written and how many of them are body. The head must fit (Outgoing.fits).
        """
        try:
            return self._assemble(outgoing, body)
        except BaseException:
            self.release()
            raise

    def _assemble(self, outgoing: Outgoing, body: bytes) -> tuple[int, int]:
        view, before, after, secret = self.view, outgoing.before, outgoing.after, outgoing.secret
        assert secret is not None
        start = len(before)
        view[:start] = before
        self._secret_start = start
        if outgoing.encoding == RAW:
            self._secret_end = end = start + len(secret)
            view[start:end] = secret
        else:
            self._secret_end = start + 3 * len(secret) + 4  # also if the encoding fails half-way
            write = _write_percent if outgoing.encoding == PERCENT else _write_base64
            end = write(view, start, secret)
        tail = end + len(after)
        view[end:tail] = after
        size = len(body)
        if size:
            if size > SLOT_BYTES - tail:
                size = SLOT_BYTES - tail
                body = body[:size]
            view[tail : tail + size] = body
        return tail + size, size

    def release(self) -> None:
        """Wipe the credential and give the slot back."""
        start, end = self._secret_start, min(self._secret_end, SLOT_BYTES)
        self.view[start:end] = _ZEROS[: end - start]
        self._secret_start = self._secret_end = 0
        self._pool._give_back(self)


class ScratchPool:
    """A bounded number of slots: locked memory is scarce (RLIMIT_MEMLOCK), so who finds none waits for one.

    The first slot is made at once, so that a limit that is too low is found before anything depends on it.
    """

    def __init__(self, make: Callable[[int], LockedBuffer], slots: int) -> None:
        self._make = make
        self._buffers = [make(SLOT_BYTES)]
        self._free = [Slot(self, self._buffers[0].view)]
        self._slots = slots
        self._waiting: deque[Callable[[], None]] = deque()
        self._waking = False

    def take(self) -> Slot | None:
        """Return a free slot, or None: then `wait`."""
        if self._free:
            return self._free.pop()
        if len(self._buffers) < self._slots:
            try:
                buffer = self._make(SLOT_BYTES)
            except OSError:
                self._slots = len(self._buffers)  # RLIMIT_MEMLOCK: make do with what there is
                return None
            self._buffers.append(buffer)
            return Slot(self, buffer.view)
        return None

    def wait(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when a slot may be free; who finds it taken again waits again."""
        self._waiting.append(callback)

    def close(self) -> None:
        """Wipe and unlock everything."""
        self._free.clear()
        for buffer in self._buffers:
            buffer.close()

    def _give_back(self, slot: Slot) -> None:
        self._free.append(slot)
        if self._waiting and not self._waking:
            # Who was woken may have gone, or give the slot back at once: a loop, not a recursion.
            self._waking = True
            try:
                while self._waiting and self._free:
                    self._waiting.popleft()()
            finally:
                self._waking = False


def _write_percent(view: memoryview, at: int, source: memoryview) -> int:
    # Octet by octet: small integers are shared objects of the interpreter, so no copy of the credential arises.
    for index in range(len(source)):
        octet = source[index]
        if octet in _UNRESERVED:
            view[at] = octet
            at += 1
        else:
            view[at] = 0x25
            view[at + 1] = _HEX[octet >> 4]
            view[at + 2] = _HEX[octet & 15]
            at += 3
    return at


def _write_base64(view: memoryview, at: int, source: memoryview) -> int:
    length = len(source)
    for index in range(0, length, 3):
        left = min(3, length - index)
        # Two neighbouring octets make a number beyond the shared integers, so each sextet is cut from single octets.
        view[at] = _BASE64[source[index] >> 2]
        second = source[index + 1] if left > 1 else 0
        view[at + 1] = _BASE64[(source[index] & 3) << 4 | second >> 4]
        third = source[index + 2] if left > 2 else 0
        view[at + 2] = _BASE64[(second & 15) << 2 | third >> 6] if left > 1 else 0x3D
        view[at + 3] = _BASE64[third & 63] if left > 2 else 0x3D
        at += 4
    return at
