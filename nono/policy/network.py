"""The routes of one run: the built-in ones, and the custom credentials of a profile; and the groups of hosts.

Pure but for the built-in data. A custom credential has the same fields as a built-in route (DESIGN section 4) and,
when it has the name of one, replaces it while keeping the variable names that the SDKs of that provider read.
Everything that a route says is checked here, once, so that the proxy can take a Route as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nono.errors import PolicyError, UsageError
from nono.policy import data
from nono.policy.routes import Presentation, Route, endpoint_rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NETWORK_POLICY = data.read("network-policy.json")

WITHHELD_CREDENTIALS: tuple[str, ...] = tuple(_NETWORK_POLICY["withheld_variables"]["credentials"])
WITHHELD_SOCKETS: tuple[str, ...] = tuple(_NETWORK_POLICY["withheld_variables"]["sockets"])

# Computed from the package managers that the user has (nono/registries): this repository names the host of none.
REGISTRIES = "package_registries"

GROUPS: dict[str, tuple[str, ...]] = {name: tuple(hosts) for name, hosts in _NETWORK_POLICY["groups"].items()}
NETWORK_PROFILES: dict[str, tuple[str, ...]] = {
    name: tuple(groups) for name, groups in _NETWORK_POLICY["network_profiles"].items()
}

_INJECT_MODES = ("header", "url_path", "query_param", "basic_auth")
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")  # RFC 9110 5.6.2


def builtin_routes() -> dict[str, Route]:
    """Return the built-in routes by name."""
    return {name: make_route(name, fields, {}) for name, fields in _NETWORK_POLICY["routes"].items()}


def select_routes(names: Iterable[str], custom: Mapping[str, Mapping[str, Any]]) -> tuple[Route, ...]:
    """Return the routes called `names`, in order and once each; a name of `custom` goes before a built-in one.

    Raises UsageError for a name that is neither, PolicyError for a custom route that is not sound.
    """
    known = builtin_routes()
    for name, fields in custom.items():
        known[name] = make_route(name, fields, known)
    chosen = {}
    for name in names:
        if name not in known:
            raise UsageError(f"unknown credential '{name}'. Known ones: {', '.join(sorted(known))}")
        chosen[name] = known[name]
    return tuple(chosen.values())


def add_endpoints(routes: Iterable[Route], texts: Iterable[str]) -> tuple[Route, ...]:
    """Return the routes with the endpoint rules of --allow-endpoint, NAME:METHOD:/glob each. Raises UsageError."""
    by_name = {route.name: route for route in routes}
    for text in texts:
        name, colon, rest = text.partition(":")
        method, second_colon, path = rest.partition(":")
        if not (colon and second_colon):
            raise UsageError(f"--allow-endpoint {text}: write NAME:METHOD:/glob, e.g. github:GET:/repos/*/issues/**")
        if name not in by_name:
            selected = ", ".join(by_name) or "none"
            message = f"no credential '{name}' is used here (used: {selected}); add --credential {name}"
            raise UsageError(f"--allow-endpoint {text}: {message}")
        try:
            rule = endpoint_rule(method, path)
        except ValueError as error:
            raise UsageError(f"--allow-endpoint {text}: {error}") from None
        route = by_name[name]
        by_name[name] = route._replace(endpoint_rules=tuple(dict.fromkeys((*route.endpoint_rules, rule))))
    return tuple(by_name.values())


def profile_hosts(name: str) -> tuple[tuple[str, ...], bool]:
    """Return the hosts and suffixes of a network profile's groups, and whether package registries are among them.

    Raises UsageError for a name that there is not.
    """
    if name not in NETWORK_PROFILES:
        hint = f"Did you mean '{near}'? " if (near := nearest(name, NETWORK_PROFILES)) else ""
        raise UsageError(f"unknown network profile '{name}'. {hint}Known ones: {', '.join(NETWORK_PROFILES)}")
    groups = NETWORK_PROFILES[name]
    return tuple(dict.fromkeys(host for group in groups for host in GROUPS[group])), REGISTRIES in groups


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word that `word` may be a slip of; "" when none is near."""
    distances = {name: _distance(word[:64].lower(), name) for name in known}
    name = min(distances, key=distances.__getitem__, default="")
    near = max(2 if len(word) > 3 or name.startswith(word) else 1, len(name) // 3)  # of `cat`, two letters leave one
    return name if name and distances[name] <= near else ""


def _distance(left: str, right: str) -> int:
    """The letters to insert, drop, change or swap to make one of the other (optimal string alignment)."""
    above: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        row, above, before = [i], row, above
        for j, b in enumerate(right, 1):
            cost = min(above[j - 1] + (a != b), above[j] + 1, row[j - 1] + 1)
            if i > 1 and j > 1 and a == right[j - 2] and b == left[i - 2]:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
    return row[-1]


def make_route(name: str, fields: Mapping[str, Any], known: Mapping[str, Route]) -> Route:
    """Return the checked Route made of a profile's `fields`; PolicyError names the field that is wrong."""

    def fail(field: str, why: str) -> PolicyError:
        return PolicyError(f"credential '{name}': {field} {why}")

    if not name or name[0] in "-." or not _NAME.issuperset(name):
        raise PolicyError(f"credential name {name!r} must be made of a-z, 0-9, '-', '_' and '.'")
    if not fields.get("credential_key"):
        raise fail("credential_key", "is missing; name a key of the keystore, e.g. 'my_api_key'")
    check_upstream(fields.get("upstream", ""), lambda why: fail("upstream", why))
    upper = name.upper().replace("-", "_").replace(".", "_")
    builtin = known.get(name)
    default_keys = builtin.env_vars if builtin else (f"{upper}_API_KEY",)
    default_urls = builtin.base_url_vars if builtin else (f"{upper}_BASE_URL",)
    env_var = fields.get("env_var")
    keys = tuple(dict.fromkeys((env_var, *(builtin.env_vars if builtin else ())))) if env_var else default_keys
    rules = []
    for rule in fields.get("endpoint_rules", ()):
        try:
            rules.append(endpoint_rule(rule.get("method", ""), rule.get("path", "")))
        except ValueError as error:
            example = '[{"method": "POST", "path": "/v1/**"}]'
            raise fail("endpoint_rules", f"must be a list like {example}: {error}") from None
    if bool(fields.get("tls_client_cert")) != bool(fields.get("tls_client_key")):
        raise fail("tls_client_cert", "and tls_client_key go together; give both")
    return Route(
        name=name,
        upstream=fields["upstream"].rstrip("/"),
        credential_key=fields["credential_key"],
        inject=_presentation(fields, fail),
        proxy=_presentation(fields["proxy"], fail) if fields.get("proxy") else None,
        env_vars=_variables("env_var", fields.get("env_vars", keys), fail),
        base_url_vars=_variables("base_url_vars", fields.get("base_url_vars", default_urls), fail),
        endpoint_rules=tuple(rules),
        tls_ca=fields.get("tls_ca") or "",
        tls_client_cert=fields.get("tls_client_cert") or "",
        tls_client_key=fields.get("tls_client_key") or "",
        intercept=bool(fields.get("intercept")),
    )


def _presentation(fields: Mapping[str, Any], fail: Any) -> Presentation:
    mode = fields.get("inject_mode") or "header"
    if mode not in _INJECT_MODES:
        raise fail("inject_mode", f"{mode!r} is not one of {', '.join(_INJECT_MODES)}")
    header = fields.get("inject_header") or "Authorization"
    if not _TOKEN.issuperset(header):
        raise fail("inject_header", f"{header!r} is not a header name")
    if header.lower() in _HEADERS_OF_THE_PROXY:
        raise fail("inject_header", f"{header!r} belongs to HTTP itself and cannot carry a credential")
    template = fields.get("credential_format")
    template = "Bearer {}" if template is None else template
    if template.count("{}") != 1 or not template.isprintable() or not template.isascii():
        raise fail("credential_format", "must hold {} once, e.g. 'Bearer {}'")
    pattern, replacement = fields.get("path_pattern") or "", fields.get("path_replacement") or ""
    if mode == "url_path" and pattern.count("{}") != 1:
        raise fail("path_pattern", "must hold {} once, e.g. '/bot{}/', with inject_mode url_path")
    if replacement and replacement.count("{}") != 1:
        raise fail("path_replacement", "must hold {} once")
    if mode == "url_path":
        for field, text in (("path_pattern", pattern), ("path_replacement", replacement or pattern)):
            if not text.startswith("/") or text.partition("{}")[2][:1] not in ("", "/"):
                raise fail(field, "must begin with '/' and have '/' or nothing behind {}, e.g. '/bot{}/'")
            if not text.isascii() or not text.isprintable() or any(c in text for c in " %\\?#"):
                raise fail(field, "must be a plain ASCII path without escapes, query or spaces")
            if not {".", ".."}.isdisjoint(text.split("/")):
                raise fail(field, "must not have '.' or '..' in it")
    query = fields.get("query_param_name") or ""
    if mode == "query_param" and not _TOKEN.issuperset(query or " "):
        raise fail("query_param_name", "must name the parameter with inject_mode query_param")
    return Presentation(mode, header, template, pattern, replacement, query)


_HEADERS_OF_THE_PROXY = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect", "keep-alive")
)


def _variables(field: str, names: Iterable[str], fail: Any) -> tuple[str, ...]:
    names = tuple(names)
    for name in names:
        if not name.isascii() or not name.isidentifier():
            raise fail(field, f"{name!r} is not the name of an environment variable")
    return names


def check_upstream(upstream: str, fail: Any) -> None:
    """Raise fail(why) unless `upstream` is https://HOST[:PORT][/BASE], or http:// on loopback."""
    scheme, separator, rest = upstream.partition("://")
    authority, _, base = rest.partition("/")
    if not separator or scheme not in ("https", "http") or not authority:
        raise fail(f"{upstream!r} is not a URL like https://api.example.com/v1")
    if not upstream.isascii() or not upstream.isprintable() or any(c in upstream for c in " \\@?#%\"'<>"):
        raise fail(f"{upstream!r} must be a plain ASCII URL without user, query or escapes")
    if any(segment in (".", "..") for segment in base.split("/")):
        raise fail(f"{upstream!r} must not have '.' or '..' in its path")
    host, port = split_authority(authority)
    if not host or (port and not (port.isdigit() and 0 < int(port) < 65536)):
        raise fail(f"{upstream!r} has no sound host and port")
    if scheme == "http" and not is_loopback_name(host):
        raise fail(f"{upstream!r} would send the credential in clear text; use https:// (http:// is for loopback only)")


def upstream_host(route: Route) -> tuple[str, int]:
    """Return the host of a route's upstream, as the allowlist compares it, and its port."""
    scheme, _, rest = route.upstream.partition("://")
    host, port = split_authority(rest.partition("/")[0])
    return host.lower().removesuffix("."), int(port) if port else 443 if scheme == "https" else 80


def split_authority(authority: str) -> tuple[str, str]:
    """Return (host without brackets, port or '') of HOST[:PORT] or [IPv6][:PORT]; ('', '') when malformed."""
    if authority.startswith("["):
        host, bracket, tail = authority[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            return "", ""
        return host, tail[1:]
    host, _, port = authority.partition(":")
    return ("", "") if ":" in port else (host, port)


def is_loopback_name(host: str) -> bool:
    """Whether `host` is a loopback literal or `localhost`."""
    parts = host.split(".")
    dotted = len(parts) == 4 and all(p.isdigit() and int(p) < 256 for p in parts)
    return (dotted and parts[0] == "127") or host in ("::1", "localhost")
