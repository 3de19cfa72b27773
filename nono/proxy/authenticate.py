"""Check the phantom token of a request.

Pure: no sockets, no clock. Takes a RequestHead and where it goes, returns a Grant (the only way to get one), or raises
Refusal. A route accepts the token wherever an SDK of the day puts a key; CONNECT and absolute-form take it from
Proxy-Authorization.

**Which headers a route drops.** An agent may send several keys at once (Claude Code sends both Authorization and
x-api-key), of which only one is the token. The upstream must never see two credentials, and which of several it would
believe is its own affair. So once the token was found in one place, *every* credential place of the route is dropped,
whatever it holds: the usual headers, the route's own, and Proxy-Authorization. A query parameter is dropped where it
holds the token, or where it is the route's own (or `key` beside x-goog-api-key, which Google reads as the same thing);
another service's `key=` is no credential and stays.

A token in the path is cut out of it, or replaced where the route injects there. Either makes another path, so it is
judged again; endpoint rules see the path that will be forwarded.

Comparisons are `hmac.compare_digest` on bytes: their time says nothing about the token.
"""

from __future__ import annotations

import binascii
from hmac import compare_digest
from typing import NamedTuple

from nono.errors import Refusal
from nono.policy.routes import Presentation, Route
from nono.proxy.head import RequestHead
from nono.proxy.route import RouteMatch, check_endpoint, check_path

STANDARD_HEADERS = frozenset((b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"))


class Grant(NamedTuple):
    """A request for a route whose token was accepted.

    dropped: indices into head.lines of every credential place.
    path, query: without the token. path_after_token: with inject mode url_path, what stood behind the token's segment
    (empty, or beginning with /), and `path` is what stood before it; else None.
    """

    head: RequestHead
    match: RouteMatch
    dropped: list[int]
    path: bytes
    path_after_token: bytes | None
    query: bytes | None


class Places(NamedTuple):
    """Where one route looks for the token, computed once from its presentations."""

    headers: frozenset[bytes]
    formats: tuple[tuple[bytes, bytes, bytes], ...]  # header name, what stands before the token, what after
    queries: frozenset[bytes]
    dropped_queries: frozenset[bytes]
    paths: tuple[tuple[bytes, bytes], ...]  # what stands before and after the token in the path
    path_around: tuple[bytes, bytes] | None  # the same for the credential, where the route injects it in the path


def places(route: Route) -> Places:
    """Where `route` takes the token: the standard places, its own, and those of its `proxy` overrides."""
    headers = set(STANDARD_HEADERS)
    formats: list[tuple[bytes, bytes, bytes]] = []
    queries = {b"key"}
    dropped_queries = set()
    paths: list[tuple[bytes, bytes]] = []
    for presentation in (route.inject, route.proxy):
        if presentation is None:
            continue
        if presentation.inject_mode == "header":
            name = presentation.inject_header.lower().encode()
            before, after = split_format(presentation.credential_format)
            headers.add(name)
            formats.append((name, before, after))
            if name == b"x-goog-api-key":
                dropped_queries.add(b"key")
        elif presentation.inject_mode == "query_param":
            queries.add(presentation.query_param_name.encode())
            dropped_queries.add(presentation.query_param_name.encode())
        elif presentation.inject_mode == "url_path":
            paths.append(split_format(presentation.path_pattern))
    around = None
    if route.inject.inject_mode == "url_path":
        around = split_format(route.inject.path_replacement or route.inject.path_pattern)
    return Places(
        frozenset(headers), tuple(formats), frozenset(queries), frozenset(dropped_queries), tuple(paths), around
    )


def split_format(text: str) -> tuple[bytes, bytes]:
    """What stands before and after the credential in a format such as `Bearer {}`."""
    before, _, after = text.partition("{}")
    return before.encode(), after.encode()


def authenticate(
    head: RequestHead, match: RouteMatch, where: Places, token: bytes, *, needs_token: bool = True
) -> Grant:
    """Return the Grant for a route's request. Raises Refusal 401, or 400 and 403 for what is left of its path.

    needs_token: false where CONNECT or Proxy-Authorization has authenticated the request; then any credential goes.
    """
    found = present = False
    dropped: list[int] = []
    for index, name, value in head.fields:
        if name in where.headers:
            dropped.append(index)
            present = True
            if not found:
                found = _header_holds(name, value, where.formats, token)
    path, after, query = match.path, None, match.query
    if query:
        kept = []
        for parameter in query.split(b"&"):
            name, _, value = parameter.partition(b"=")
            if name in where.queries and compare_digest(value, token):
                found = True
            elif name not in where.dropped_queries:
                kept.append(parameter)
        query = b"&".join(kept) if kept else None
    for before_token, after_token in where.paths:
        start = path.find(before_token)
        end = start + len(before_token) + len(token)
        # Whole segments only: the token's segment ends where the pattern does, or before a slash that stays.
        rest_at = end + len(after_token.rstrip(b"/"))
        if start >= 0 and path[end : end + len(after_token)] == after_token and path[rest_at : rest_at + 1] in _ENDS:
            present = True
            if compare_digest(path[start + len(before_token) : end], token):
                found = True
                path, after = path[:start], path[rest_at:]
                break
    if needs_token and not found:
        name_text = match.destination.bound.route.name
        if present:
            message = f"The key sent to '{name_text}' is not this session's token; use the one in the environment."
        else:
            message = f"No token was sent to '{name_text}'; send $NONO_PROXY_TOKEN where the API key belongs."
        raise Refusal(401, "token_wrong" if present else "token_missing", message)
    judged = path
    if after is not None:
        if where.path_around is None:
            path, after = path.rstrip(b"/") + b"/" + after.lstrip(b"/"), None
            judged = path
        else:  # the token stands in for the credential
            left, right = where.path_around
            judged = path + left + token + join_path(right, after)
        check_path(judged)
    check_endpoint(match.destination, head, judged, token)
    return Grant(head, match, dropped, path, after, query)


_ENDS = (b"", b"/")


def join_path(left: bytes, right: bytes) -> bytes:
    """`left`, and what follows it (empty, or beginning with /), with one slash between them."""
    return left.rstrip(b"/") + right if right else left


def authenticate_proxy(head: RequestHead, token: bytes) -> None:
    """Check Proxy-Authorization of CONNECT or absolute-form. Raises Refusal 407."""
    values = [value for _, name, value in head.fields if name == b"proxy-authorization"]
    if not any(authorization_holds(value, token) for value in values):
        code = "token_wrong" if values else "token_missing"
        raise Refusal(407, code, "The proxy needs this session's token: use the HTTPS_PROXY of the environment.")


def _header_holds(name: bytes, value: bytes, formats: tuple[tuple[bytes, bytes, bytes], ...], token: bytes) -> bool:
    if compare_digest(value, token):
        return name != b"authorization" or (b"authorization", b"", b"") in formats
    if name == b"authorization" and authorization_holds(value, token):
        return True
    for own_name, before, after in formats:
        fits = name == own_name and value[: len(before)].lower() == before.lower() and value.endswith(after)
        if fits and compare_digest(value[len(before) : len(value) - len(after)].strip(b" "), token):
            return True
    return False


def authorization_holds(value: bytes, token: bytes) -> bool:
    """Whether the value of an Authorization header presents the token, as Bearer or in Basic."""
    scheme, _, rest = value.partition(b" ")
    rest = rest.strip(b" ")
    scheme = scheme.lower()
    if scheme in (b"bearer", b"token"):  # GitHub's clients say `token`
        return compare_digest(rest, token)
    if scheme != b"basic":
        return False
    try:
        user, _, password = binascii.a2b_base64(rest, strict_mode=True).partition(b":")
    except binascii.Error:
        return False
    # Bitwise, not short-circuit: git puts a token into either half.
    return compare_digest(password, token) | compare_digest(user, token)


def presentation_names(route: Route) -> set[bytes]:
    """Header names (lower case) in which this route expects or injects a credential."""
    names: set[bytes] = set()
    for presentation in (route.inject, route.proxy):
        if isinstance(presentation, Presentation) and presentation.inject_mode in ("header", "basic_auth"):
            names.add(presentation.inject_header.lower().encode())
    return names
