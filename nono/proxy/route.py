"""Choose the destination of a request.

Pure: no sockets, no clock. Reads a RequestHead, returns a RouteMatch, a ConnectTarget or a HostTarget, or raises
Refusal. The host is decided here once; later rooms never re-read it.

Four forms of target (RFC 9112 section 3.2):

    /NAME/rest?query       origin-form: the route NAME; `rest` is judged exactly as it will be forwarded
    http://HOST/path       absolute-form: this proxy itself (then as above), or a host for the allowlist
    HOST:PORT              authority-form, with CONNECT only: a host for the allowlist
    /rest?query            origin-form inside an intercepted connection: the route whose base path `rest` begins with

Paths are never normalised: what has two readings (dot segments in any encoding, `\\`, NUL) is refused. Endpoint rules
are matched against the path as it is forwarded, without the query, byte for byte; `*` matches one segment, or part of
one, with any escapes in it but a slash's. They are judged once the token was accepted (`authenticate`), which may cut
the token out of the path.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from nono.errors import PolicyError, Refusal
from nono.policy.allowlist import host_and_port, normalise
from nono.policy.endpoints import Glob, allows, compiled, is_ambiguous
from nono.policy.routes import EndpointRule, Route
from nono.proxy.head import RequestHead


class Secret(Protocol):
    """Locked memory that holds a credential (nono.kernel.secretmem, nono.credentials)."""

    @property
    def view(self) -> memoryview: ...

    @property
    def length(self) -> int: ...


class BoundRoute(NamedTuple):
    """A route and its credential; None where the keystore had none."""

    route: Route
    credential: Secret | None


class Origin(NamedTuple):
    """One upstream as connections are pooled: where it is and how it is verified."""

    tls: bool
    host: str
    port: int
    tls_ca: str = ""
    tls_client_cert: str = ""
    tls_client_key: str = ""

    @property
    def authority(self) -> str:
        """The value of Host: without the default port."""
        return host_and_port(self.host, 0 if self.port == (443 if self.tls else 80) else self.port)


class Destination(NamedTuple):
    """A bound route, with what is computed once: its origin, base path and compiled endpoint rules."""

    bound: BoundRoute
    origin: Origin
    base: bytes
    rules: tuple[tuple[bytes, Glob], ...]


class RouteMatch(NamedTuple):
    """A request for a route. `path` begins with / or is empty; `query` is None when there is no `?`."""

    destination: Destination
    path: bytes
    query: bytes | None


class ConnectTarget(NamedTuple):
    """A tunnel to a host; not yet allowed."""

    host: str
    port: int


class HostTarget(NamedTuple):
    """A plain-HTTP request for a host; not yet allowed. `target` is the origin-form."""

    host: str
    port: int
    target: bytes


_SCHEME = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^/\[\]:@?#]+)(?::([0-9]{1,5}))?(/[^?#]*)?", re.ASCII).fullmatch
_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#\\]+):([0-9]{1,5})").fullmatch
_IPV6_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?").fullmatch
_ABSOLUTE = re.compile(rb"http://(\[[0-9A-Fa-f:.]+\]|[^/\[\]:@?#\\]+)(?::([0-9]{1,5}))?([/?][^#]*)?", re.I).fullmatch
_KEPT_TARGETS = 512
_KEPT_TARGET_BYTES = 512
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
# Would let the upstream see another method or path than the one judged here.
_OVERRIDES = frozenset(
    (b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url")
)
_ECHOING = frozenset((b"TRACE", b"TRACK"))  # some servers answer them in any case of letters
_FLAG_PATH_BYTES = 256
_FLAG_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/"


class Router:
    """Knows the routes of one run."""

    def __init__(self, routes: Sequence[BoundRoute], port: int, max_target_bytes: int) -> None:
        self._by_name = {bound.route.name.encode(): destination(bound) for bound in routes}
        self._own = (b"127.0.0.1:%d" % port, b"localhost:%d" % port)
        self._max_target_bytes = max_target_bytes
        # The verdict on a path depends on the path alone (but for endpoint rules), and agents repeat themselves.
        self._matches: dict[bytes, RouteMatch] = {}

    @property
    def destinations(self) -> list[Destination]:
        return list(self._by_name.values())

    def route(self, head: RequestHead) -> RouteMatch | ConnectTarget | HostTarget:
        """Raises Refusal: 400, 404, 405, 414."""
        method, target = head.method, head.target
        match = self._matches.get(target)
        if match is not None and method != b"CONNECT" and method.upper() not in _ECHOING:
            return match
        _check_start(head, self._max_target_bytes)
        if method == b"CONNECT":
            return _connect_target(head)
        if target[:1] != b"/":
            whole = _ABSOLUTE(target)
            if whole is None:
                raise Refusal(400, "bad_target", "The request target must be a path, an http:// URL, or HOST:PORT.")
            host, port_digits, rest = whole[1].lower(), whole[2], whole[3] or b"/"
            authority = host + b":" + port_digits if port_digits else host
            if head.host.lower() not in (authority, host if port_digits in (None, b"80") else authority):
                raise Refusal(400, "bad_host", "Host disagrees with the host of the request target.")
            if rest[:1] != b"/":
                rest = b"/" + rest
            if authority not in self._own:
                port = _port(port_digits or b"80")
                return HostTarget(_host_text(host), port, rest)
            target = rest
        return self._route(head, target)

    def _route(self, head: RequestHead, target: bytes) -> RouteMatch:
        if b"#" in target:
            raise Refusal(400, "bad_target", "A request target has no fragment (#).")
        whole, mark, query = target.partition(b"?")
        name, slash, rest = whole[1:].partition(b"/")
        found = self._by_name.get(name)
        if found is None:
            known = ", ".join("/" + name.decode() for name in self._by_name) or "none"
            raise Refusal(404, "unknown_route", f"No route of that name. Routes of this proxy: {known}.")
        path = slash + rest
        check_path(path)
        match = RouteMatch(found, path, query if mark else None)
        if target is head.target and len(target) <= _KEPT_TARGET_BYTES:
            if len(self._matches) >= _KEPT_TARGETS:
                self._matches.clear()
            self._matches[target] = match
        return match


class HostRouter:
    """Knows the routes whose upstream is at one host and port; for what is said to that host itself."""

    def __init__(self, host: str, port: int, routes: Sequence[Destination], max_target_bytes: int) -> None:
        self.host = host
        self.port = port
        self._name = normalise(host)
        # The longest base path first; of routes that share one, the first that has a credential.
        self._routes = sorted(routes, key=lambda found: (-len(found.base), found.bound.credential is None))
        name = host_and_port(host, 0)
        self._names = {text.encode() for text in (name, name + ".", f"{name}:{port}", f"{name}.:{port}")}
        self._max_target_bytes = max_target_bytes

    @property
    def granted(self) -> str:
        """The routes, for people."""
        return ", ".join(f"{found.base.decode()}/ (route '{found.bound.route.name}')" for found in self._routes)

    def route(self, head: RequestHead) -> RouteMatch | HostTarget:
        """Return the route that a request's path belongs to, or the host. Raises Refusal: 400, 405, 414."""
        target = head.target
        _check_start(head, self._max_target_bytes)
        to_server = target == b"*" and head.method == b"OPTIONS"
        if (target[:1] != b"/" and not to_server) or b"#" in target or head.method == b"CONNECT":
            raise Refusal(400, "bad_target", "Inside a connection to a host the request target must be a path.")
        if head.host.lower() not in self._names and not self._is_meant(head.host):
            raise Refusal(400, "bad_host", f"Host disagrees with {self.host}, to which this connection was made.")
        return self.match(target) or HostTarget(self.host, self.port, target)

    def _is_meant(self, text: bytes) -> bool:
        """Whether this is another spelling of the host's IPv6 address."""
        found = _IPV6_HOST(text)
        try:
            return (
                found is not None
                and normalise(found[1].decode("ascii")) == self._name
                and int(found[2] or self.port) == self.port
            )
        except ValueError:
            return False

    def match(self, target: bytes) -> RouteMatch | None:
        """Return the route below whose base path `target` is; None for no route's. Raises Refusal 400."""
        whole, mark, query = target.partition(b"?")
        check_path(whole)
        for found in self._routes:
            if whole == found.base or whole.startswith(found.base + b"/"):
                return RouteMatch(found, whole[len(found.base) :], query if mark else None)
        return None


def _check_start(head: RequestHead, max_target_bytes: int) -> None:
    """Raise Refusal 414 or 405 for a request line that is refused wherever it was sent."""
    if len(head.target) > max_target_bytes:
        raise Refusal(414, "uri_too_long", f"The request target is longer than {max_target_bytes} bytes.")
    if head.method.upper() in _ECHOING:
        raise Refusal(405, "method_not_allowed", "TRACE would echo the credential and is not allowed.")


def check_path(path: bytes) -> None:
    """Raise Refusal 400 for a path that has two readings."""
    if is_ambiguous(path):
        raise Refusal(400, "ambiguous_path", "The path has dot segments, a backslash or NUL; send it resolved.")


def check_endpoint(found: Destination, head: RequestHead, path: bytes, token: bytes) -> None:
    """Raise Refusal 403 unless an endpoint rule grants `path`, as it will be forwarded; no rules grant everything."""
    if found.rules and not _endpoint_allowed(found.rules, head, path):
        name, rules = found.bound.route.name, found.bound.route.endpoint_rules
        method = head.method.decode() if head.method.isalpha() else "METHOD"
        flag = f"--allow-endpoint {name}:{method}:{_path_in_flag(path or b'/', token)}"
        raise _not_granted(f"endpoint of '{name}'", rules, head, flag)


def check_rules(rules: Sequence[EndpointRule], origin: Origin, head: RequestHead, path: bytes, token: bytes) -> None:
    """Raise Refusal 403 unless one of a host's rules grants `path`, as it will be forwarded."""
    if not _endpoint_allowed(compiled(rules), head, path):
        raise _not_granted(f"path of {origin.host}", rules, head, allow_domain(origin, path, token))


def allow_domain(origin: Origin, path: bytes, token: bytes) -> str:
    """The flag that grants a path of a host."""
    # There is no entry for `/` alone: without a path all of them are granted, and the flag should look like it.
    shown = "" if path == b"/" else _path_in_flag(path, token)
    return f"--allow-domain {'https' if origin.tls else 'http'}://{origin.authority}{shown}"


def destination(bound: BoundRoute) -> Destination:
    """Compute what a route means for the proxy. Raises PolicyError when its upstream is no usable URL."""
    route = bound.route
    url = _SCHEME(route.upstream)
    if url is None:
        raise PolicyError(f"route '{route.name}': upstream must be https://HOST[:PORT][/PATH]")
    tls = url[1] == "https"
    host = url[2].strip("[]").lower().rstrip(".")
    if not tls and host not in _LOOPBACK:
        raise PolicyError(f"route '{route.name}': plain http:// is for loopback only; use https://")
    try:
        host.encode("ascii")
    except UnicodeEncodeError:
        host = host.encode("idna").decode("ascii")
    port = int(url[3]) if url[3] else (443 if tls else 80)
    if not 0 < port < 65536:
        raise PolicyError(f"route '{route.name}': port {port} is out of range")
    base = (url[4] or "").rstrip("/").encode()
    if is_ambiguous(base):
        raise PolicyError(f"route '{route.name}': the upstream's path must not have dot segments")
    origin = Origin(tls, host, port, route.tls_ca, route.tls_client_cert, route.tls_client_key)
    return Destination(bound, origin, base, compiled(route.endpoint_rules))


def _not_granted(what: str, rules: Sequence[EndpointRule], head: RequestHead, flag: str) -> Refusal:
    if _is_overridden(head):
        message = f"This {what} is not granted: a header of the request may make it another one; leave it out."
        return Refusal(403, "endpoint_denied", message)
    granted = ", ".join(f"{rule.method} {rule.path}".removeprefix("* ") for rule in rules)
    return Refusal(403, "endpoint_denied", f"This {what} is not granted. Granted: {granted}.", flag)


def _path_in_flag(path: bytes, token: bytes) -> str:
    """A path that the operator may paste into his shell, whatever the agent has asked for; `*` is where a token was."""
    if len(path) <= _FLAG_PATH_BYTES and path[:1] == b"/" and not path.translate(None, _FLAG_BYTES):
        return path.replace(token, b"*").decode("ascii")
    return "/PATH"


def _endpoint_allowed(rules: tuple[tuple[bytes, Glob], ...], head: RequestHead, path: bytes) -> bool:
    if _is_overridden(head):
        return False
    return allows(rules, head.method, path)


def _is_overridden(head: RequestHead) -> bool:
    # Many servers read `_` in a header's name as `-`.
    return any(name.replace(b"_", b"-") in _OVERRIDES for _, name, _ in head.fields)


def _connect_target(head: RequestHead) -> ConnectTarget:
    whole = _AUTHORITY(head.target)
    if whole is None:
        raise Refusal(400, "bad_target", "CONNECT needs HOST:PORT.")
    host = whole[1].lower()
    if head.host.lower() not in (head.target.lower(), host):
        raise Refusal(400, "bad_host", "Host disagrees with the host of the request target.")
    return ConnectTarget(_host_text(host), _port(whole[2]))


def _port(digits: bytes) -> int:
    port = int(digits)
    if not 0 < port < 65536:
        raise Refusal(400, "bad_target", "The port is out of range.")
    return port


def _host_text(host: bytes) -> str:
    # h11 has limited the target to visible ASCII. The allowlist sees the name as it came, but for case and brackets.
    # One trailing dot is the root's, as the allowlist reads it; with two it is no name, and refused as it came.
    text = host.decode("ascii").strip("[]")
    return text if text.endswith("..") else text.removesuffix(".")
