"""May the agent reach this host, or make this request, why, and what would change it.

Pure; nothing is looked up. The allowlist itself decides (allowlist.py), and the routes; what is done here is to find
the entry, route or group that did it, and the flag that would grant what is refused. What an address turns out to be
(private, link-local: proxy/pins.py) is known only where it is written as such; `nono why --probe` asks the proxy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from nono.errors import NonoError, Refusal
from nono.policy.allowlist import METADATA_HOSTS, Allowlist, Entry, host_and_port, is_address, normalise, parse_entry
from nono.policy.allowlist import Verdict as Granted
from nono.policy.capabilities import NETWORK_OPEN as OPEN
from nono.policy.capabilities import NETWORK_PROXY, CapabilitySet
from nono.policy.endpoints import allows, compiled, is_ambiguous
from nono.policy.network import GROUPS, NETWORK_PROFILES, REGISTRIES, nearest, split_authority, upstream_host
from nono.policy.routes import EndpointRule, Route
from nono.policy.verdict import BUILT_IN, Verdict, profile_line, shell_quoted, source

NETWORK_ALLOWED = "network_allowed"
NETWORK_OPEN = "network_open"
NETWORK_BLOCKED = "network_blocked"
HOST_DENIED, HOST_NOT_ALLOWED = "host_denied", "host_not_allowed"
PORT_NOT_ALLOWED = "port_not_allowed"
ENDPOINT_NOT_ALLOWED = "endpoint_not_allowed"
ROUTE = "route"  # the upstream of a credential
METADATA, LINK_LOCAL = "metadata", "link_local"
OWN_LOOPBACK, PORT_OPENED = "own_loopback", "port_opened"
BAD_HOST, BAD_URL = "bad_host", "bad_url"

# Who wrote an entry: (member of the profile, entry) -> the name of the profile (inherit.Inherited.origins).
Origins = Mapping[tuple[str, str], str]
NOBODY: Origins = {}
_PORTS = {"https": 443, "http": 80}
_MANY = 2000  # entries that are searched for a slip of the pen


def judge_host(
    capabilities: CapabilitySet,
    host: str,
    port: int,
    *,
    tunnel: bool | None = None,
    written_by: Origins = NOBODY,
    registries: Iterable[str] = (),
    intercepts: bool = True,
) -> Verdict:
    """Return whether the agent reaches `host`:`port`, and why.

    tunnel: over TLS, or by another protocol; False: by a plain HTTP request; None: as the port says. registries: the
    hosts of package registries that the allowlist holds. intercepts: TLS can be ended here, where it is wanted.
    """
    tunnel = port != 80 if tunnel is None else tunnel
    written = _Written(capabilities, written_by, tuple(registries))
    early = _before_the_proxy(capabilities, host, port, written)
    if early is not None:
        return early
    name = normalise(host)
    if route := _route_at(capabilities, name, port):
        return _through_route(capabilities, route, intercepts)
    granted = _granted(capabilities.allowlist, host, port, tunnel)
    if granted is None:
        return _refused(capabilities, host, name, port, tunnel, written)
    text, origin = written.entry(name, port, tunnel)
    detail = f"it is granted by {_by(origin)} {text}" if text else "the allowlist grants it"
    if granted.rules:
        detail += f", for {_listed(granted.rules)} only"
        if tunnel and not intercepts:
            return Verdict(False, ENDPOINT_NOT_ALLOWED, origin, _needs_library(f"{detail}, which"), text)
    return Verdict(True, NETWORK_ALLOWED, origin, f"{_upper(detail)}.", text)


def judge_url(
    capabilities: CapabilitySet,
    url: str,
    method: str = "GET",
    *,
    written_by: Origins = NOBODY,
    registries: Iterable[str] = (),
    intercepts: bool = True,
) -> Verdict:
    """Return whether the agent's request for `url` is forwarded, and why."""
    try:
        scheme, host, port, path = split_url(url)
    except ValueError as error:
        return Verdict(False, BAD_URL, "", f"This is no URL that can be judged: {error}.")
    tls = scheme == "https"
    verdict = judge_host(
        capabilities, host, port, tunnel=tls, written_by=written_by, registries=registries, intercepts=intercepts
    )
    if not verdict.allowed or verdict.reason in (NETWORK_OPEN, PORT_OPENED):
        return verdict
    if is_ambiguous(path.encode("utf-8", "surrogateescape")):
        return Verdict(False, BAD_URL, "", "The path has dot segments or a backslash; write it resolved.")
    name = normalise(host)
    if verdict.reason == ROUTE:
        return _at_route(capabilities, verdict, name, port, path, method, tls=tls)
    granted = _granted(capabilities.allowlist, host, port, tls)
    if granted is None or not granted.rules or _fits_any(granted.rules, method, path):
        return verdict
    entry = f"{scheme}://{host_and_port(name, 0 if port == _PORTS[scheme] else port)}{'' if path == '/' else path}"
    detail = f"Only {_listed(granted.rules)} of {name} is granted, not {path}."
    flag, line = _allow_domain(entry)
    return Verdict(False, ENDPOINT_NOT_ALLOWED, verdict.origin, detail, verdict.closest, flag, line)


def split_url(url: str) -> tuple[str, str, int, str]:
    """Return scheme, host, port and path of an http:// or https:// URL. Raises ValueError with a reason."""
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _PORTS:
        raise ValueError("it must begin with http:// or https://")
    rest = rest.partition("#")[0].partition("?")[0]
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise ValueError("leave the user name out")
    host, digits = split_authority(authority)
    if not host or (digits and not (digits.isascii() and digits.isdigit() and 0 < int(digits) < 65536)):
        raise ValueError("it has no sound host and port")
    return scheme, host, int(digits) if digits else _PORTS[scheme], slash + path if slash else "/"


class _Written:
    """Who wrote what the allowlist holds."""

    def __init__(self, has: CapabilitySet, origins: Origins, registries: tuple[str, ...]) -> None:
        self._has, self._origins, self._registries = has, origins, registries

    def blocked(self) -> str:
        for (member, _), profile in self._origins.items():
            if member == "network.block":
                return f"profile {profile}"
        return "--block-net"

    def entries(self) -> Iterator[tuple[str, str]]:
        """Yield each entry that allows, and its origin; the operator's own first."""
        for text in self._has.allowed_hosts:
            yield text, self._of("allow_domain", text, "--allow-domain")
        for profile in self._has.network_profile.split(" + ") if self._has.network_profile else ():
            for group in NETWORK_PROFILES.get(profile, ()):
                for text in self._registries if group == REGISTRIES else GROUPS[group]:
                    yield text, group

    def entry(self, name: str, port: int, tunnel: bool) -> tuple[str, str]:
        """Return the entry that grants this, and who wrote it; ("", "") where it is not to be found."""
        for text, origin in self.entries():
            entry = _parsed(text)
            if entry is not None and _is_for(entry, name) and _is_at(entry, port, tunnel):
                return text, origin
        return "", ""

    def ports(self, name: str) -> tuple[str, str]:
        """Return an entry for this host, at whatever port."""
        for text, origin in self.entries():
            entry = _parsed(text)
            if entry is not None and _is_for(entry, name):
                return text, origin
        return "", ""

    def denial(self, name: str) -> tuple[str, str]:
        for text in self._has.denied_hosts:
            entry = _parsed(text)
            if entry is not None and _is_for(entry, name):
                return text, self._of("deny_domain", text, "--deny-domain")
        return "", "--deny-domain"

    def near(self, name: str) -> str:
        """Return the entry that is nearest to a name: of the same domain, or a slip of the pen away."""
        texts: dict[str, str] = {}
        domain = ".".join(name.split(".")[-2:])
        for text, origin in self.entries():
            entry = _parsed(text)
            if entry is None:
                continue
            if not is_address(name) and "." in name and (entry.name == domain or entry.name.endswith("." + domain)):
                return f"{text} ({origin})"
            if len(texts) < _MANY:
                texts.setdefault(entry.name, f"{text} ({origin})")
        return texts.get(nearest(name, texts), "")

    def _of(self, member: str, text: str, flag: str) -> str:
        profile = self._origins.get((f"network.{member}", text))
        return f"profile {profile}" if profile else flag


def _before_the_proxy(has: CapabilitySet, host: str, port: int, written: _Written) -> Verdict | None:
    """Judge what the proxy is not asked about, or refuses whatever is allowed; None for all else."""
    try:
        name = normalise(host)
    except ValueError as error:
        return Verdict(False, BAD_HOST, "", f"This is no host name: {error}.")
    if has.network == OPEN:
        return Verdict(True, NETWORK_OPEN, "", "The network is open: the agent reaches whatever this machine reaches.")
    local = _is_loopback(name)
    if local and port in has.open_ports:
        return Verdict(True, PORT_OPENED, "--open-port", f"Port {port} of this machine is opened.", f"{port}")
    if has.network != NETWORK_PROXY:
        if local:
            return _own_loopback(port)
        origin = written.blocked()
        return Verdict(
            False, NETWORK_BLOCKED, origin, f"There is no network at all ({origin}); only leaving that out gives one."
        )
    if name in METADATA_HOSTS:
        return Verdict(False, METADATA, BUILT_IN, f"{name} is a cloud's metadata service, which is never reachable.")
    if is_address(name) and _is_link_local(name):
        return Verdict(False, LINK_LOCAL, BUILT_IN, f"{name} is a link-local address, which is never dialled.")
    if local and not any(_granted(has.allowlist, host, port, tunnel) for tunnel in (True, False)):
        return None if _route_at(has, name, port) else _own_loopback(port)
    return None


def _own_loopback(port: int) -> Verdict:
    detail = f"The agent has a loopback of its own; port {port} of this machine is not there."
    line = f'"network": {{"open_port": [{port}]}}'
    return Verdict(False, OWN_LOOPBACK, BUILT_IN, detail, "", f"--open-port {port}", line)


def _refused(has: CapabilitySet, host: str, name: str, port: int, tunnel: bool, written: _Written) -> Verdict:
    """Say why the allowlist does not grant a host, and which flag would."""
    allowlist = has.allowlist
    if allowlist is not None and allowlist.denies(name, port):
        text, origin = written.denial(name)
        detail = f"it is denied by {_by(origin)} {text}".rstrip() + ", which goes before whatever is allowed"
        return Verdict(False, HOST_DENIED, origin, f"{_upper(detail)}.", text)
    is_default = port == 443 or (port == 80 and not tunnel)
    flag, line = _allow_domain(host_and_port(host.strip("[]") if ":" in name else name, 0 if is_default else port))
    text, origin = written.ports(name)
    if text:
        how = "" if tunnel else ", nor without TLS" if _parsed(text).tls else ""  # type: ignore[union-attr]
        detail = f"{_by(origin)} {text} does not grant port {port}{how}"
        return Verdict(False, PORT_NOT_ALLOWED, origin, f"{_upper(detail)}.", text, flag, line)
    if allowlist is None:
        only = ", ".join(route.name for route in has.routes)
        detail = f"Only the routes of credentials are reachable ({only})." if only else "No host is allowed."
        return Verdict(False, HOST_NOT_ALLOWED, "", detail, "", flag, line)
    detail = f"{name} is not in the allowlist."
    return Verdict(False, HOST_NOT_ALLOWED, "", detail, written.near(name), flag, line)


def _through_route(has: CapabilitySet, route: Route, intercepts: bool) -> Verdict:
    origin = "--credential"
    where = (
        f"the base URL in {route.base_url_vars[0]}" if route.base_url_vars else f"the path /{route.name} of the proxy"
    )
    if has.intercept and intercepts and route.upstream.startswith("https:"):
        detail = f"It is the upstream of the credential '{route.name}', at {where} and by its own name"
    else:
        detail = f"It is the upstream of the credential '{route.name}', at {where} only, not by its own name"
    return Verdict(True, ROUTE, origin, f"{detail}.", route.name)


def _at_route(
    has: CapabilitySet, verdict: Verdict, name: str, port: int, path: str, method: str, *, tls: bool
) -> Verdict:
    """Judge a request for a route's upstream, as the interception or the route itself does."""
    routes = [route for route in has.routes if _is_upstream(route, name, port)]
    found = [
        (base, route) for route in routes for base in (_base(route),) if path == base or path.startswith(base + "/")
    ]
    if not found:
        granted = _granted(has.allowlist, name, port, tls)
        if granted is not None and (not granted.rules or _fits_any(granted.rules, method, path)):
            return verdict._replace(detail=f"The allowlist grants it, beside the credential '{verdict.closest}'.")
        bases = ", ".join(f"{_base(route)}/" for route in routes)
        flag, line = _allow_domain(f"{'https' if tls else 'http'}://{name}{'' if path == '/' else path}")
        return Verdict(
            False,
            ENDPOINT_NOT_ALLOWED,
            verdict.origin,
            f"Of {name} only {bases} is granted.",
            verdict.closest,
            flag,
            line,
        )
    base, route = max(found, key=lambda each: len(each[0]))
    path = path[len(base) :] or "/"
    if not route.endpoint_rules or _fits_any(route.endpoint_rules, method, path):
        return verdict
    flag = f"--allow-endpoint {shell_quoted(f'{route.name}:{method}:{path}')}"
    detail = f"The credential '{route.name}' is for {_listed(route.endpoint_rules)} only, not for {method} {path}."
    return Verdict(False, ENDPOINT_NOT_ALLOWED, verdict.origin, detail, route.name, flag)


def _route_at(has: CapabilitySet, name: str, port: int) -> Route | None:
    return next((route for route in has.routes if _is_upstream(route, name, port)), None)


def _is_upstream(route: Route, name: str, port: int) -> bool:
    host, its_port = upstream_host(route)
    try:
        return normalise(host) == name and its_port == port
    except ValueError:
        return False


def _base(route: Route) -> str:
    _, slash, path = route.upstream.partition("://")[2].partition("/")
    return (slash + path).rstrip("/")


def _granted(allowlist: Allowlist | None, host: str, port: int, tunnel: bool) -> Granted | None:
    try:
        return allowlist(host, port, tunnel=tunnel) if allowlist is not None else None
    except Refusal:
        return None


def _parsed(text: str) -> Entry | None:
    try:
        return parse_entry(text)
    except NonoError:
        return None


def _is_for(entry: Entry, name: str) -> bool:
    return name.endswith("." + entry.name) if entry.is_suffix else name == entry.name


def _is_at(entry: Entry, port: int, tunnel: bool) -> bool:
    is_default = port == 443 or (port == 80 and not tunnel)
    return (entry.port == port or (entry.port == 0 and is_default)) and (tunnel or not entry.tls)


def _is_loopback(name: str) -> bool:
    if not is_address(name):
        return name == "localhost" or name.endswith(".localhost")
    return name.startswith("127.") or name in ("0.0.0.0", "0:0:0:0:0:0:0:1", "0:0:0:0:0:0:0:0")


def _is_link_local(name: str) -> bool:
    if ":" not in name:
        return name.startswith("169.254.")
    return len(first := name.partition(":")[0]) == 4 and "fe80" <= first <= "febf"


def naming(host: str, port: int) -> tuple[str, str]:
    """Return the flag that allows this host by its own name, and its line in a profile."""
    return _allow_domain(host_and_port(normalise(host), 0 if port in _PORTS.values() else port))


def _allow_domain(entry: str) -> tuple[str, str]:
    return f"--allow-domain {shell_quoted(entry)}", profile_line("network", [("allow_domain", entry)])


def _needs_library(detail: str) -> str:
    return f"{_upper(detail)} can be judged only with: pip install 'nono[intercept]'."


def _listed(rules: Iterable[EndpointRule]) -> str:
    return ", ".join(f"{rule.method} {rule.path}".removeprefix("* ") for rule in rules)


def _by(origin: str) -> str:
    return f"the group {origin}:" if source(origin)[0] == "group" else origin


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _fits_any(rules: Iterable[EndpointRule], method: str, path: str) -> bool:
    return allows(compiled(rules), method.encode(), path.encode("utf-8", "surrogateescape"))
