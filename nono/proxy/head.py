"""Read the head of a request or of an answer.

Pure: bytes in, RequestHead or ResponseHead out; no socket, no clock. h11 is the judge: every header line goes through
h11's event constructors, which hold its grammar. This room adds what those constructors do not see (the start line's
own shape, the framing of lines) and refuses what h11 lets pass:

    Content-Length together with Transfer-Encoding        request smuggling (RFC 9112 section 6.1)
    more than one Content-Length, also `5, 5`             the same
    obs-fold, bare CR or LF                               peers disagree on where a line ends
    HTTP/1.0 requests, but CONNECT                        no Host, no framing to rely on; answers may be 1.0
    `Connection: content-length`                          would strip the framing from the forwarded message

CONNECT needs neither Host nor framing, and Python's http.client before 3.12 (pip, requests) sends it as HTTP/1.0
without a Host: its target stands in for it.

**Memo.** h11's constructors cost more than a microsecond a line, and an agent sends the same lines all day. A line that
h11 has accepted is accepted again when it comes again byte for byte; the memo replays h11's own verdict and nothing
else. What a line means beside others (framing, Host, Connection) is worked out every time. Lines that carry credentials
or cookies are judged every time and never kept. A line enters when it is seen for the second time, so that request ids
and dates leave no trace but a number; request lines only after their head's token was accepted (`learn`). Everything is
bounded: a generation that is full becomes the old one, and lines still in use move over.

Equivalence with `h11.Connection` is proven by tests/proxy/test_head_fuzz.py: nothing is accepted here that it refuses,
and the header lists agree.

Source: RFC 9112; RFC 9110 section 7.6.1.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import h11

from nono.errors import Refusal, UpstreamError
from nono.proxy.pattern import MAX_PATTERN_BYTES, MAX_PATTERN_LINES, Pattern

CHUNKED = -1
UNTIL_CLOSE = -2

MEMO_LINES = 1024  # in each of two generations
MEMO_LINE_BYTES = 512
_MEMO_HASHES = 16384
_MEMO_CONNECTION_BYTES = 128
_STATUS_LINES = 64  # for which there are patterns
_ANSWER_PATTERNS = 4  # for each of them

# name in lower case, value without surrounding white space, and where the line stands in `lines`
Field = tuple[int, bytes, bytes]

# Never forwarded: RFC 9110 section 7.6.1. Proxy-* is handled by prefix. Trailer stays: trailers are forwarded.
HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"te", b"upgrade", b"proxy-connection"))
_CONTEXTUAL = HOP_BY_HOP | {b"host", b"content-length", b"transfer-encoding", b"expect"}
# What a message means or where it goes: no credential can stand there.
MESSAGE_HEADERS = _CONTEXTUAL | {b"trailer"}
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
        # not credentials, but endpoint rules look at them, also where they are written with `_`
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
    )
)
# What `Connection` must not list: these are end-to-end and something depends on each of them.
_NOT_LISTABLE = frozenset((b"host", b"content-length", b"transfer-encoding", b"trailer", b"expect", b"authorization"))

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: (?:[ \t]|[^\x00\s])*)?").fullmatch
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]").fullmatch


class RequestHead(NamedTuple):
    """A request head that h11 accepts and this room does not refuse.

    raw_lines: the header lines as they came, in order, without CRLF. lines: the same, with Content-Length and
    Transfer-Encoding normalised; a list of its own, for the next room to change.
    fields: those of them that later rooms must look at (everything that the memo did not answer for); unseen: those of
    these that h11 judged for the first time.
    length: body bytes, or CHUNKED. listed: header names that Connection names as hop-by-hop.
    upgrade: the Upgrade value in lower case where Connection asks for it, else empty.
    """

    start: bytes
    method: bytes
    target: bytes
    lines: list[bytes]
    raw_lines: list[bytes]
    fields: list[Field]
    unseen: list[Field]
    host: bytes
    length: int
    close: bool
    expects_continue: bool
    upgrade: bytes
    listed: frozenset[bytes]


class ResponseHead(NamedTuple):
    """An answer's head, ready to forward.

    head: status line and the header lines to forward, in order, each with its CRLF; not the blank line. Of an answer
    that has no body by definition (1xx, 204) it does not speak of one.
    length: body bytes as the head says (HEAD and 304 have none whatever it says), CHUNKED, or UNTIL_CLOSE.
    close: the upstream's connection ends with this answer.
    """

    status: int
    head: bytes
    length: int
    close: bool
    upgrade: bytes


class _Bad(Exception):
    """A head that is not HTTP; its argument is a fixed text, never the peer's bytes."""


class _Lines:
    """Header lines that h11 has accepted: those that stay as they are, and those whose context must be looked at."""

    def __init__(self) -> None:
        self.plain: set[bytes] = set()
        self.contextual: dict[bytes, tuple[bytes, bytes]] = {}
        self._old_plain: set[bytes] = set()
        self._seen_once: set[int] = set()

    def recall(self, line: bytes) -> bool:
        """Whether the old generation knew this line as plain; if so, it moves over."""
        if line in self._old_plain:
            self.plain.add(line)
            return True
        return False

    def add(self, line: bytes, name: bytes, value: bytes) -> None:
        """Remember a line that h11 has just accepted, if it was seen before."""
        number = hash(line)
        if number not in self._seen_once:
            if len(self._seen_once) >= _MEMO_HASHES:
                self._seen_once.clear()
            self._seen_once.add(number)
        elif len(line) > MEMO_LINE_BYTES:
            pass
        elif name in _CONTEXTUAL:
            if len(self.contextual) >= MEMO_LINES:
                self.contextual.clear()
            self.contextual[line] = (name, value)
        else:
            self.plain.add(line)
            if len(self.plain) > MEMO_LINES:
                self._old_plain, self.plain = self.plain, set()


class _AnswerPattern(NamedTuple):
    """A kind of answers' heads that were accepted, and what is known of all of them."""

    pattern: Pattern
    status: int
    length: int
    close: bool

    def read(self, head: bytes) -> ResponseHead | None:
        pattern, status, length, close = self
        values = pattern.values(head)
        if values is None:
            return None
        read = pattern.length(values, length)
        return None if read is None else ResponseHead(status, pattern.forwarded(values)[0], read, close, b"")


_NO_PATTERNS: list[_AnswerPattern] = []


class HeadReader:
    """Reads heads and remembers the lines that h11 has accepted."""

    def __init__(self, credential_names: frozenset[bytes] = frozenset()) -> None:
        """credential_names: header names (lower case) in which some route expects or injects a credential."""
        # With `-` as well, because `is_private` compares so.
        self._never = _CREDENTIALS | credential_names | {name.replace(b"_", b"-") for name in credential_names}
        self._request_lines = _Lines()
        self._response_lines = _Lines()
        self._starts: dict[bytes, tuple[bytes, bytes]] = {}
        self._connections: dict[bytes, tuple[bool, bool, frozenset[bytes]]] = {}
        self._answers: dict[bytes, list[_AnswerPattern]] = {}
        self._misfits = 0
        self._statuses: dict[bytes, tuple[int, bool]] = {}

    def request(self, head: bytes) -> RequestHead:
        """Return the head whose bytes end with the first CRLF CRLF. Raises Refusal (400, 505)."""
        try:
            return self._request(head)
        except _Bad as bad:
            raise Refusal(400, "bad_request", f"The request is not valid HTTP/1.1: {bad}.") from None
        except h11.ProtocolError:
            # h11's message may quote the head, and with it the agent's bytes; the fixed text does not.
            raise Refusal(400, "bad_request", "The request is not valid HTTP/1.1: a malformed header.") from None

    def is_special(self, name: bytes) -> bool:
        """Whether a header (name in lower case) means something to this proxy, beyond being forwarded."""
        return name in _CONTEXTUAL or name in self._never or name[:6] == b"proxy-"

    def is_private(self, name: bytes) -> bool:
        """Whether a header's value (name in lower case, in any spelling) is not to be remembered."""
        return name.replace(b"_", b"-") in self._never or name[:6] == b"proxy-"

    def learn(self, head: RequestHead) -> None:
        """Remember the lines of a head whose token was accepted. To be called before its lines are changed."""
        self._learn(self._request_lines, head.raw_lines, head.unseen)
        if head.start not in self._starts and len(head.start) <= MEMO_LINE_BYTES:
            if len(self._starts) >= MEMO_LINES:
                self._starts.clear()
            self._starts[head.start] = (head.method, head.target)

    def pattern(
        self,
        lines: list[bytes],
        forwarded: list[bytes],
        fields: list[Field],
        credential: tuple[int, bytes, bytes] | None = None,
    ) -> Pattern | None:
        """Return the pattern of a head that was accepted; None for one that is not worth being kept.

        lines, forwarded: with the start line. fields: of the head; the lines that are not among them are plain.
        credential: as Pattern has it; its line stays, whatever its name.
        """
        length_place = None
        fixed = {0} if credential is None else {0, credential[0]}
        varying = {place for place, line in enumerate(lines) if len(line) > MEMO_LINE_BYTES}
        for index, name, _ in fields:
            place = index + 1
            if name == b"content-length" and forwarded[place] == lines[place]:
                length_place = place
            elif name in _CONTEXTUAL or name[:6] == b"proxy-":
                fixed.add(place)
            elif self.is_private(name):
                varying.add(place)
        varying -= fixed
        pattern = Pattern(lines, forwarded, set(range(len(lines))) - fixed, varying, length_place, credential)
        return pattern if pattern.size <= MAX_PATTERN_BYTES else None

    def response(self, head: bytes) -> ResponseHead:
        """Return the answer's head whose bytes end with the first CRLF CRLF. Raises UpstreamError (502)."""
        try:
            return self._response(head)
        except (_Bad, h11.ProtocolError):
            message = "The upstream's answer is not valid HTTP/1.1; nothing of it was forwarded."
            raise UpstreamError(502, "upstream_protocol", message) from None

    def _request(self, head: bytes) -> RequestHead:
        raw_lines = head[:-4].split(b"\r\n")
        start = raw_lines.pop(0)
        method_target = self._starts.get(start)
        method, target = method_target if method_target is not None else _read_start(start)
        fields, unseen = _read_lines(raw_lines, self._request_lines)

        lines = raw_lines.copy()
        length = 0
        has_length = chunked = close = expects_continue = wants_upgrade = False
        host: bytes | None = None
        upgrade = b""
        listed: frozenset[bytes] = frozenset()
        for index, name, value in fields:
            if name not in _CONTEXTUAL:
                continue
            if name == b"host":
                if host is not None:
                    raise _Bad("more than one Host")
                host = value
            elif name == b"content-length":
                length = _content_length(value, has_length)
                has_length = True
                if value[0] == 48:  # leading zeros: not every upstream reads them as decimal
                    lines[index] = b"%b: %d" % (lines[index][:14], length)
            elif name == b"connection":
                says_close, says_upgrade, names = self._connection(value)
                close |= says_close
                wants_upgrade |= says_upgrade
                listed |= names
            elif name == b"transfer-encoding":
                if chunked:
                    raise _Bad("more than one Transfer-Encoding")
                chunked = True
                if value != b"chunked":
                    lines[index] = b"%b: chunked" % lines[index][:17]
            elif name == b"expect":
                expects_continue = value.lower() == b"100-continue"
            elif name == b"upgrade":
                upgrade = value.lower()
        if chunked:
            if has_length:
                raise _Bad("both Content-Length and Transfer-Encoding")
            length = CHUNKED
        if not host:
            if host is not None or not start.endswith(b" HTTP/1.0"):
                raise _Bad("no Host")
            host = target
        if not wants_upgrade:
            upgrade = b""
        return RequestHead(
            start, method, target, lines, raw_lines, fields, unseen, host, length, close, expects_continue, upgrade,
            listed,
        )  # fmt: skip

    def _response(self, head: bytes) -> ResponseHead:
        start = head[: head.find(b"\r\n")]
        patterns = self._answers.get(start, _NO_PATTERNS)
        for known in patterns:
            same = known.read(head)
            if same is not None:
                if known is not patterns[0]:  # the one that served last goes first, and stays longest
                    self._answers[start] = [known, *(other for other in patterns if other is not known)]
                return same
        raw_lines = head[:-4].split(b"\r\n")
        lines = raw_lines[1:]
        status, is_1_0 = self._statuses.get(start) or self._read_status(start)
        memo = self._response_lines
        fields, unseen = _read_lines(lines, memo)
        if unseen:
            self._learn(memo, lines, unseen)

        length = UNTIL_CLOSE
        has_length = chunked = wants_upgrade = False
        close = is_1_0
        bodiless = status < 200 or status == 204
        upgrade = b""
        listed: frozenset[bytes] = frozenset()
        dropped: list[int] = []
        for index, name, value in fields:
            if name not in _CONTEXTUAL:
                if name[:6] == b"proxy-":
                    dropped.append(index)
                continue
            if name == b"content-length":
                length = _content_length(value, has_length)
                has_length = True
                if bodiless:
                    dropped.append(index)
                elif value[0] == 48:  # leading zeros: not every upstream reads them as decimal
                    lines[index] = b"%b: %d" % (lines[index][:14], length)
            elif name == b"connection":
                says_close, says_upgrade, names = self._connection(value)
                close |= says_close
                wants_upgrade |= says_upgrade
                listed |= names
                dropped.append(index)
            elif name == b"transfer-encoding":
                if chunked:
                    raise _Bad("more than one Transfer-Encoding")
                chunked = True
                if bodiless:
                    dropped.append(index)
                elif value != b"chunked":
                    lines[index] = b"%b: chunked" % lines[index][:17]
            elif name in HOP_BY_HOP:
                if name == b"upgrade":
                    upgrade = value.lower()
                dropped.append(index)
        if chunked:
            if has_length or is_1_0:
                raise _Bad("Transfer-Encoding where it cannot be relied on")
            length = CHUNKED
        for index in dropped:
            lines[index] = b""
        lines.insert(0, b"HTTP/1.1" + start[8:])
        if wants_upgrade:
            pass
        elif listed:
            lines[1:] = [line for line in lines[1:] if line.partition(b":")[0].lower() not in listed]
        else:
            self._remember(raw_lines, lines, fields, status, length, close)
        forwarded = b"\r\n".join([*filter(None, lines), b""])
        return ResponseHead(status, forwarded, length, close, upgrade if wants_upgrade else b"")

    def _remember(
        self, raw_lines: list[bytes], lines: list[bytes], fields: list[Field], status: int, length: int, close: bool
    ) -> None:
        """Let heads that differ little from this one take a shorter way."""
        if status < 200 or len(lines) > MAX_PATTERN_LINES or len(raw_lines[0]) > MEMO_LINE_BYTES:
            return
        patterns = self._answers.get(raw_lines[0])
        if patterns is None:
            if len(self._answers) >= _STATUS_LINES:
                self._answers.clear()
            patterns = self._answers[raw_lines[0]] = []
        for index, known in enumerate(patterns):
            wider = known.pattern.widened(raw_lines)
            if wider is not None:
                patterns[index] = known._replace(pattern=wider)
                return
        self._misfits += 1
        if patterns and self._misfits % 8:
            return  # upstreams that answer in many shapes do not fit any
        pattern = self.pattern(raw_lines, lines, fields)
        if pattern is not None:
            patterns[_ANSWER_PATTERNS - 1 :] = []  # the oldest goes
            patterns.insert(0, _AnswerPattern(pattern, status, length, close))

    def _learn(self, memo: _Lines, lines: list[bytes], unseen: list[Field]) -> None:
        for index, name, value in unseen:
            if not self.is_private(name):
                memo.add(lines[index], name, value)

    def _connection(self, value: bytes) -> tuple[bool, bool, frozenset[bytes]]:
        """What Connection asks for: close, upgrade, and headers that end here."""
        read = self._connections.get(value)
        if read is None:
            tokens = frozenset(token.strip(b" \t").lower() for token in value.split(b","))
            read = (b"close" in tokens, b"upgrade" in tokens, _listed_names(tokens))
            if len(value) <= _MEMO_CONNECTION_BYTES:
                if len(self._connections) >= 64:
                    self._connections.clear()
                self._connections[value] = read
        return read

    def _read_status(self, line: bytes) -> tuple[int, bool]:
        match = _STATUS_LINE(line)
        if match is None:
            raise _Bad("a malformed status line")
        read = (int(match[2]), match[1] == b"0")
        if len(line) <= MEMO_LINE_BYTES:
            if len(self._statuses) >= 64:
                self._statuses.clear()
            self._statuses[line] = read
        return read


def _read_start(line: bytes) -> tuple[bytes, bytes]:
    """Method and target of a request line, judged by h11."""
    parts = line.split(b" ")
    if len(parts) != 3:
        raise _Bad("a malformed request line")
    method, target, version = parts
    if version != b"HTTP/1.1" and (method != b"CONNECT" or version != b"HTTP/1.0"):
        if _VERSION(version):
            raise Refusal(505, "http_version", "This proxy speaks HTTP/1.1 only; configure the client for it.")
        raise _Bad("a malformed request line")
    h11.Request(method=method, target=target, headers=_ANY_HOST)
    return method, target


_ANY_HOST = [(b"Host", b"a")]


def _read_lines(lines: list[bytes], memo: _Lines) -> tuple[list[Field], list[Field]]:
    """What is to be looked at of these lines: all but those that the memo knows to stay as they are.

    Returns those fields, and which of them h11 had not judged before.
    """
    plain, contextual = memo.plain, memo.contextual
    fields: list[Field] = []
    unseen: list[Field] = []
    judged: list[tuple[bytes, bytes]] = []
    for index, line in [entry for entry in enumerate(lines) if entry[1] not in plain]:
        known = contextual.get(line)
        if known is not None:
            fields.append((index, *known))
        elif not memo.recall(line):
            name, colon, value = line.partition(b":")
            if not colon:
                raise _Bad("a header line without a colon")
            value = value.strip(b" \t")
            judged.append((name, value))
            field = (index, name.lower(), value)
            unseen.append(field)
            fields.append(field)
    if judged:
        # The event that is nothing but headers: the same judgement as in Request and Response, without their cost.
        h11.EndOfMessage(headers=judged)
    return fields, unseen


def _content_length(value: bytes, seen: bool) -> int:
    # h11 has checked digits and size, but merges repeated values; here there is one value in one line, or none.
    if seen or not value.isdigit():
        raise _Bad("more than one Content-Length")
    return int(value)


def _listed_names(tokens: frozenset[bytes]) -> frozenset[bytes]:
    names = tokens - {b"close", b"keep-alive", b"upgrade", b""}
    if names & _NOT_LISTABLE:
        raise _Bad("Connection lists a header that the message depends on")
    return names
