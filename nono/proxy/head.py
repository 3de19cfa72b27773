"""Read the head of a request or of an answer.

Pure: bytes in, RequestHead or ResponseHead out; no socket, no clock. h11 is the judge: every header line goes through
h11's event constructors, which hold its grammar. This room adds what those constructors do not see (the start line's
own shape, the framing of lines) and refuses what h11 lets pass:

    Content-Length together with Transfer-Encoding        request smuggling (RFC 9112 section 6.1)
    more than one Content-Length, also `5, 5`             the same
    obs-fold, bare CR or LF                               peers disagree on where a line ends
    HTTP/1.0 requests                                     no Host, no framing to rely on; answers may be 1.0
    `Connection: content-length`                          would strip the framing from the forwarded message

**Memo.** h11's constructors cost 1.2 µs a line, and an agent sends the same lines all day. A line that h11 has accepted
is accepted again when it comes again byte for byte; the memo replays h11's own verdict and nothing else. Lines whose
meaning depends on others (framing, Host, Connection) or that carry credentials (`never_memoised`) are judged every
time. Request lines enter the memo only after their head's token was accepted (`learn`). Both generations together hold
at most 2 × MEMO_LINES lines of at most MEMO_LINE_BYTES; a generation that is full becomes the old one, and lines still
in use move over.

Equivalence with `h11.Connection` is proven by tests/proxy/test_head_fuzz.py: nothing is accepted here that it refuses,
and the header lists agree.

Source: RFC 9112; RFC 9110 section 7.6.1.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import h11

from nono.errors import Refusal, UpstreamError

CHUNKED = -1
UNTIL_CLOSE = -2

MEMO_LINES = 2048
MEMO_LINE_BYTES = 512

# name in lower case, value without surrounding white space, and where the line stands in `lines`
Field = tuple[int, bytes, bytes]

# Never forwarded: RFC 9110 section 7.6.1. Proxy-* is handled by prefix. Trailer stays: trailers are forwarded.
HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"te", b"upgrade", b"proxy-connection"))
_CONTEXTUAL = HOP_BY_HOP | {b"host", b"content-length", b"transfer-encoding", b"expect", b"trailer"}
_CREDENTIALS = frozenset(
    (
        b"authorization",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"cookie",
        b"set-cookie",
        b"x-api-key",
        b"x-goog-api-key",
        b"api-key",
        # not credentials, but endpoint rules look at them
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
    )
)
# What `Connection` must not list: these are end-to-end and something depends on each of them.
_NOT_LISTABLE = frozenset((b"host", b"content-length", b"transfer-encoding", b"trailer", b"expect", b"authorization"))

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: (?:[ \t]|[^\x00\s])*)?").fullmatch
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]").fullmatch


class RequestHead(NamedTuple):
    """A request head that h11 accepts and this room does not refuse.

    lines: the header lines as they came, in order, without CRLF; Content-Length and Transfer-Encoding normalised.
    fields: those of them that later rooms must look at (everything that the memo did not answer for).
    length: body bytes, or CHUNKED. listed: header names that Connection names as hop-by-hop.
    upgrade: the Upgrade value in lower case where Connection asks for it, else empty.
    """

    method: bytes
    target: bytes
    lines: list[bytes]
    fields: list[Field]
    host: bytes
    length: int
    close: bool
    expects_continue: bool
    upgrade: bytes
    listed: frozenset[bytes]


class ResponseHead(NamedTuple):
    """An answer's head, ready to forward.

    lines: status line and the header lines to forward, in order, without CRLF.
    length: body bytes as the head says (HEAD and 304 have none whatever it says), CHUNKED, or UNTIL_CLOSE.
    close: the upstream's connection ends with this answer.
    """

    status: int
    lines: list[bytes]
    length: int
    close: bool
    upgrade: bytes


class _Bad(Exception):
    """A head that is not HTTP; its argument is a fixed text, never the peer's bytes."""


class HeadReader:
    """Reads heads and remembers the lines that h11 has accepted."""

    def __init__(self, credential_names: frozenset[bytes] = frozenset()) -> None:
        """credential_names: header names (lower case) in which some route expects or injects a credential."""
        self._never = _CONTEXTUAL | _CREDENTIALS | credential_names
        self._request_lines: set[bytes] = set()
        self._old_request_lines: set[bytes] = set()
        self._response_lines: set[bytes] = set()
        self._old_response_lines: set[bytes] = set()

    def request(self, head: bytes) -> RequestHead:
        """Return the head whose bytes end with the first CRLF CRLF. Raises Refusal (400, 505)."""
        try:
            return self._request(head)
        except _Bad as bad:
            raise Refusal(400, "bad_request", f"The request is not valid HTTP/1.1: {bad}.") from None
        except h11.ProtocolError:
            # h11's message may quote the head, and with it the agent's bytes; the fixed text does not.
            raise Refusal(400, "bad_request", "The request is not valid HTTP/1.1: a malformed header.") from None

    def learn(self, head: RequestHead) -> None:
        """Remember the lines of a head whose token was accepted."""
        never = self._never
        for index, name, _ in head.fields:
            line = head.lines[index]
            if name not in never and len(line) <= MEMO_LINE_BYTES and not name.startswith(b"proxy-"):
                self._request_lines.add(line)
        if len(self._request_lines) > MEMO_LINES:
            self._old_request_lines, self._request_lines = self._request_lines, set()

    def response(self, head: bytes) -> ResponseHead:
        """Return the answer's head whose bytes end with the first CRLF CRLF. Raises UpstreamError (502)."""
        try:
            return self._response(head)
        except (_Bad, h11.ProtocolError):
            message = "The upstream's answer is not valid HTTP/1.1; nothing of it was forwarded."
            raise UpstreamError(502, "upstream_protocol", message) from None

    def _request(self, head: bytes) -> RequestHead:
        lines = head[:-4].split(b"\r\n")
        start = lines.pop(0).split(b" ")
        if len(start) != 3:
            raise _Bad("a malformed request line")
        method, target, version = start
        if version != b"HTTP/1.1":
            if _VERSION(version):
                raise Refusal(505, "http_version", "This proxy speaks HTTP/1.1 only; configure the client for it.")
            raise _Bad("a malformed request line")

        memo, old = self._request_lines, self._old_request_lines
        fields: list[Field] = []
        unseen: list[tuple[bytes, bytes]] = []
        for index, line in enumerate(lines):
            if line in memo:
                continue
            if line in old:
                memo.add(line)
                continue
            name, colon, value = line.partition(b":")
            if not colon:
                raise _Bad("a header line without a colon")
            value = value.strip(b" \t")
            unseen.append((name, value))
            fields.append((index, name.lower(), value))
        h11.Request(method=method, target=target, headers=unseen)  # exactly one Host, or it raises

        length = 0
        has_length = chunked = close = expects_continue = wants_upgrade = False
        host = upgrade = b""
        listed: frozenset[bytes] = frozenset()
        for index, name, value in fields:
            if name not in _CONTEXTUAL:
                continue
            if name == b"content-length":
                length = _content_length(value, has_length)
                has_length = True
                lines[index] = b"%b: %d" % (unseen_name(lines[index]), length)
            elif name == b"transfer-encoding":
                chunked = True
                lines[index] = b"%b: chunked" % unseen_name(lines[index])
            elif name == b"host":
                host = value
            elif name == b"connection":
                tokens = _tokens(value)
                close = close or b"close" in tokens
                wants_upgrade = wants_upgrade or b"upgrade" in tokens
                listed |= tokens
            elif name == b"expect":
                expects_continue = value.lower() == b"100-continue"
            elif name == b"upgrade":
                upgrade = value.lower()
        if chunked:
            if has_length:
                raise _Bad("both Content-Length and Transfer-Encoding")
            length = CHUNKED
        if not host:
            raise _Bad("an empty Host")
        if listed:
            listed = _listed_names(listed)
        if not wants_upgrade:
            upgrade = b""
        return RequestHead(method, target, lines, fields, host, length, close, expects_continue, upgrade, listed)

    def _response(self, head: bytes) -> ResponseHead:
        lines = head[:-4].split(b"\r\n")
        start = _STATUS_LINE(lines[0])
        if start is None:
            raise _Bad("a malformed status line")
        status = int(start[2])
        is_1_0 = start[1] == b"0"
        if is_1_0:
            lines[0] = b"HTTP/1.1" + lines[0][8:]

        memo, old = self._response_lines, self._old_response_lines
        unseen: list[tuple[bytes, bytes]] = []
        kept = [lines[0]]
        new: list[tuple[bytes, bytes, bytes]] = []
        for line in lines[1:]:
            if line in memo:
                kept.append(line)
                continue
            if line in old:
                memo.add(line)
                kept.append(line)
                continue
            name, colon, value = line.partition(b":")
            if not colon:
                raise _Bad("a header line without a colon")
            value = value.strip(b" \t")
            unseen.append((name, value))
            new.append((name.lower(), value, line))
            kept.append(line)
        if unseen:
            if status >= 200:
                h11.Response(status_code=status, headers=unseen)
            else:
                h11.InformationalResponse(status_code=status, headers=unseen)

        length = UNTIL_CLOSE
        has_length = chunked = wants_upgrade = False
        close = is_1_0
        upgrade = b""
        listed: frozenset[bytes] = frozenset()
        never = self._never
        for name, value, line in new:
            if name not in never:
                if name.startswith(b"proxy-"):
                    kept.remove(line)
                elif len(line) <= MEMO_LINE_BYTES:
                    memo.add(line)
            elif name == b"content-length":
                length = _content_length(value, has_length)
                has_length = True
                kept[kept.index(line)] = b"%b: %d" % (unseen_name(line), length)
            elif name == b"transfer-encoding":
                chunked = True
                kept[kept.index(line)] = b"%b: chunked" % unseen_name(line)
            elif name == b"connection":
                tokens = _tokens(value)
                close = close or b"close" in tokens
                wants_upgrade = wants_upgrade or b"upgrade" in tokens
                listed |= tokens
                kept.remove(line)
            elif name in HOP_BY_HOP or name.startswith(b"proxy-"):
                if name == b"upgrade":
                    upgrade = value.lower()
                kept.remove(line)
        if len(memo) > MEMO_LINES:
            self._old_response_lines, self._response_lines = memo, set()
        if chunked:
            if has_length or is_1_0:
                raise _Bad("Transfer-Encoding where it cannot be relied on")
            length = CHUNKED
        if listed:
            names = _listed_names(listed)
            if names:
                kept[1:] = [line for line in kept[1:] if line.partition(b":")[0].lower() not in names]
        return ResponseHead(status, kept, length, close, upgrade if wants_upgrade else b"")


def unseen_name(line: bytes) -> bytes:
    """The header's name in the case it came in."""
    return line[: line.index(b":")]


def is_hop_by_hop(name: bytes, listed: frozenset[bytes]) -> bool:
    """Whether a header (name in lower case) ends at this proxy."""
    return name in HOP_BY_HOP or name in listed or name.startswith(b"proxy-")


def _content_length(value: bytes, seen: bool) -> int:
    # h11 has checked digits and size, but merges repeated values; here there is one value in one line, or none.
    if seen or not value.isdigit():
        raise _Bad("more than one Content-Length")
    return int(value)


def _tokens(value: bytes) -> frozenset[bytes]:
    return frozenset(token.strip(b" \t").lower() for token in value.split(b","))


def _listed_names(tokens: frozenset[bytes]) -> frozenset[bytes]:
    names = tokens - {b"close", b"keep-alive", b"upgrade", b""}
    if names & _NOT_LISTABLE:
        raise _Bad("Connection lists a header that the message depends on")
    return names
