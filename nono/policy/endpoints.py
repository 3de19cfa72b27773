"""The path of a request, judged: whether it can be read in two ways, and whether an endpoint rule grants it.

Pure. One judgement for the proxy, which enforces it, and for `nono why`, which explains it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nono.policy.routes import EndpointRule
from nono.record import Record

_MAX_PEELS = 4


class Glob(Record):
    """The path of an endpoint rule. `**` is None; any other segment is what stands around each `*` of it."""

    segments: tuple[tuple[bytes, ...] | None, ...]
    may_end_with_slash: bool


def is_ambiguous(path: bytes) -> bool:
    """Whether upstreams may read this path in two ways. `path` is without the query.

    Layers of percent-encoding are peeled, because some servers decode twice; so is a path parameter (`..;x`),
    which Java servers drop, and the overlong UTF-8 forms of `.`, `/` and `\\`. A path with more layers than
    _MAX_PEELS is ambiguous whatever is under them: peeling all that an agent sends would hold up other requests.
    """
    if b"\\" in path or b"\0" in path:
        return True
    if b"." not in path and b"%" not in path:
        return False
    for _ in range(1 + _MAX_PEELS):
        if b"\\" in path or b"\0" in path:
            return True
        for segment in path.split(b"/"):
            if segment.partition(b";")[0] in (b".", b".."):
                return True
        peeled = _ESCAPE.sub(_unescape, path)
        if peeled == path:
            return False
        path = peeled
    return True


# Only the octets that matter are peeled; the others cannot make a dot segment.
_ESCAPE = re.compile(rb"%(?:(25|2e|2f|5c|00|3b)|c0%ae|e0%80%ae|c0%af|e0%80%af|c1%9c)", re.I)
_OVERLONG = {b"%c0%ae": b".", b"%e0%80%ae": b".", b"%c0%af": b"/", b"%e0%80%af": b"/", b"%c1%9c": b"\\"}


def _unescape(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    return bytes((int(digits, 16),)) if digits else _OVERLONG[match[0].lower()]


def compiled(rules: Iterable[EndpointRule]) -> tuple[tuple[bytes, Glob], ...]:
    """Return each rule as its method and the glob of its path."""
    return tuple((rule.method.encode(), glob_of(rule)) for rule in rules)


def glob_of(rule: EndpointRule) -> Glob:
    """`*` is one segment or part of one, `**` any number of segments, also none."""
    texts = rule.path.strip("/").split("/")
    segments = tuple(None if text == "**" else tuple(text.encode().split(b"*")) for text in texts)
    return Glob(segments, rule.path.endswith("/"))


def allows(rules: Iterable[tuple[bytes, Glob]], method: bytes, path: bytes) -> bool:
    """Whether one of the compiled rules grants a request. path: without the query; "" is "/"."""
    segments = (path or b"/")[1:].split(b"/")
    return any(wanted in (b"*", method) and glob_fits(glob, segments) for wanted, glob in rules)


def glob_fits(glob: Glob, segments: list[bytes]) -> bool:
    """Whether the path with these segments is one of the glob's."""
    if _segments_fit(glob.segments, segments):
        return True
    ends_with_slash = len(segments) > 1 and not segments[-1]
    return glob.may_end_with_slash and ends_with_slash and _segments_fit(glob.segments, segments[:-1])


def _segments_fit(pattern: tuple[tuple[bytes, ...] | None, ...], segments: list[bytes]) -> bool:
    """Match with two indices. Only the last `**` is ever taken back: what an earlier one could give, it can take."""
    at = place = 0
    last, resume = -1, 0  # the last `**`, and the segment to go on with when it takes one more
    while at < len(segments):
        part = pattern[place] if place < len(pattern) else ()
        if part is None:
            last, resume = place, at
            place += 1
        elif part and _segment_fits(part, segments[at]):
            at += 1
            place += 1
        elif last >= 0:
            resume += 1
            at, place = resume, last + 1
        else:
            return False
    return all(part is None for part in pattern[place:])


def _segment_fits(literals: tuple[bytes, ...], segment: bytes) -> bool:
    """Whether the literals stand in the segment in this order, from its beginning to its end."""
    first, last = literals[0], literals[-1]
    if len(literals) == 1:
        return segment == first
    if not (segment.startswith(first) and segment.endswith(last) and len(first) + len(last) <= len(segment)):
        return False
    at, end = len(first), len(segment) - len(last)
    for literal in literals[1:-1]:
        at = segment.find(literal, at, end)
        if at < 0:
            return False
        at += len(literal)
    # An escaped slash makes two segments for some servers: `*` takes it only where the rule speaks of it.
    return b"%" not in segment or not _hides_slash(segment) or any(b"%2f" in part.lower() for part in literals)


def _hides_slash(segment: bytes) -> bool:
    for _ in range(_MAX_PEELS):
        segment = _ESCAPE.sub(_unescape, segment)
        if b"/" in segment:
            return True
    return False
