"""Flags + profile + built-in groups -> the CapabilitySet of one run.

Pure: no disk, no environment; what the user typed and where he stands come in as data (Request, Place), one
CapabilitySet goes out. Flags add to the profile, they never take from it; a restriction (`--block-net`) is never
undone by a grant.

The network: blocked if anyone says so; else restricted to the proxy if any credential, host or network profile is
named; else open, as users of the existing tool expect, and the summary says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nono.errors import PolicyError, UsageError
from nono.policy import groups
from nono.policy.allowlist import Allowlist, EveryPublicHost
from nono.policy.capabilities import (
    LANDLOCK_LEAKS,
    NETWORK_BLOCKED,
    NETWORK_OPEN,
    NETWORK_PROXY,
    NOTED,
    READ,
    SANDBOX_AUTO,
    SANDBOX_LANDLOCK,
    SANDBOXES,
    SKIPPED,
    WRITE,
    CapabilitySet,
    EnvironmentRules,
    Limits,
    PathDeny,
    PathGrant,
    UpstreamProxy,
    is_at_or_below,
)
from nono.policy.env_credentials import env_credentials
from nono.policy.environment import check_rules, expanded, own_variables
from nono.policy.network import add_endpoints, profile_hosts, select_routes, upstream_host
from nono.policy.paths import Place as Place
from nono.policy.paths import expand as expand
from nono.policy.paths import unescaped
from nono.policy.protection import PROFILES_DENY, USERS_DENY, bypass
from nono.policy.quantities import parse_count, parse_duration, parse_size
from nono.policy.upstream import upstream_proxy
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nono.policy.inherit import Inherited
    from nono.policy.profile import Network

# A field of Request and of the profile's `filesystem` -> what it grants. The flag is its name with dashes.
PATH_FIELDS: tuple[tuple[str, int, bool], ...] = (
    ("allow", READ | WRITE, False),
    ("read", READ, False),
    ("write", WRITE, False),
    ("allow_file", READ | WRITE, True),
    ("read_file", READ, True),
    ("write_file", WRITE, True),
)
OWN_SOCKETS = "own"  # --allow-unix-socket own
_AND = " + "  # between the network profiles of a profile and a flag
_NO_VARIABLES: Mapping[str, str] = {}
_WORKDIR_ACCESS = {"none": 0, "read": READ, "write": WRITE, "readwrite": READ | WRITE}


class Request(Record):
    """The policy flags of one command line, as typed; upstream_proxy_credential is a reference to USER:PASSWORD.

    extends: profiles below the one of -p. trust_override, skip_dir: see session/trust.py.
    """

    allow: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    allow_file: tuple[str, ...] = ()
    read_file: tuple[str, ...] = ()
    write_file: tuple[str, ...] = ()
    allow_cwd: bool = False
    block_net: bool = False
    credential: tuple[str, ...] = ()
    allow_domain: tuple[str, ...] = ()
    deny_domain: tuple[str, ...] = ()
    network_profile: str = ""
    allow_endpoint: tuple[str, ...] = ()
    upstream_proxy: str = ""
    upstream_proxy_credential: str = ""
    upstream_bypass: tuple[str, ...] = ()
    open_port: tuple[int, ...] = ()
    listen_port: tuple[int, ...] = ()
    sandbox: str = SANDBOX_AUTO
    accept_leaks: bool = False
    deny: tuple[str, ...] = ()
    bypass_protection: tuple[str, ...] = ()
    allow_unix_socket: tuple[str, ...] = ()
    memory: str | None = None
    max_processes: str | None = None
    timeout: str | None = None
    env_credential: tuple[str, ...] = ()
    env_credential_map: tuple[tuple[str, str], ...] = ()
    extends: tuple[str, ...] = ()
    trust_override: bool = False
    skip_dir: tuple[str, ...] = ()
    every_public_host: bool = False  # of nono learn


def resolve(
    request: Request,
    inherited: Inherited | None,
    place: Place,
    command_grants: tuple[PathGrant, ...] = (),
    environment: Mapping[str, str] = _NO_VARIABLES,
) -> CapabilitySet:
    """Return what the run may do.

    inherited: what its profiles say together; None without one. command_grants: read access that the command itself
    needs to start (its file and its installation), found by the caller. environment: the caller's, for the upstream
    proxy that it names.
    Raises UsageError for a flag, PolicyError for a profile, that cannot be honoured.
    """
    names = groups.DEFAULT
    grants = list(_flag_grants(request, place))
    sockets = [path if path == OWN_SOCKETS else expand(path, place) for path in request.allow_unix_socket]
    if inherited is not None:
        chosen = inherited.profile.groups
        names = groups.select(chosen.include, chosen.exclude)
        grants += _profile_grants(inherited, place, workdir_is_granted=request.allow_cwd)
        own = OWN_SOCKETS in inherited.profile.filesystem.unix_socket
        named = [path for _, path, _ in _profile_paths(inherited, "unix_socket", place)]
        sockets = ([OWN_SOCKETS] if own else []) + named + sockets
    denies, bypassed = _denies(request, inherited, place, names)
    capabilities = CapabilitySet(
        grants=(
            *grants,
            *command_grants,
            *groups.system_grants(place.home, place.config_home, platform=place.platform, names=names),
        ),
        denies=denies,
        network=NETWORK_OPEN,
        routes=(),
        workdir=place.workdir,
        sandbox=_sandbox(request),
        unix_sockets=tuple(dict.fromkeys(path for path in sockets if path != OWN_SOCKETS)),
        own_sockets=OWN_SOCKETS in sockets,
        limits=_limits(request),
        bypassed=bypassed,
    )
    capabilities = _with_network(capabilities, request, inherited, place, environment)
    return _with_environment(capabilities, request, inherited, place)


def _denies(
    request: Request, inherited: Inherited | None, place: Place, names: Iterable[str]
) -> tuple[tuple[PathDeny, ...], tuple[str, ...]]:
    """Return the denied paths, and those whose protection is lifted."""
    denies = sensitive_paths(place, names)
    bypassed: tuple[str, ...] = ()
    own = [(USERS_DENY, USERS_DENY, expand(text, place)) for text in request.deny]
    lifted = [("--bypass-protection", expand(text, place)) for text in request.bypass_protection]
    if inherited is not None:
        own += [(PROFILES_DENY, where, path) for where, path, _ in _profile_paths(inherited, "deny", place)]
        lifted += [(where, path) for where, path, _ in _profile_paths(inherited, "bypass_protection", place)]
    for where, path in lifted:
        if path not in bypassed:
            denies = bypass(denies, (path,), where)
            bypassed += (path,)
    for group, where, path in own:
        if path == "/":
            raise UsageError(f"{where} /: would deny everything; without a grant all is denied already")
        denies += (PathDeny(path, group),)
    return denies, bypassed


def sensitive_paths(place: Place, names: Iterable[str] = groups.DEFAULT) -> tuple[PathDeny, ...]:
    """Return what the groups `names` deny to a user who stands there; it holds under any broader grant."""
    return groups.sensitive_paths(
        place.home,
        place.config_home,
        place.state_home,
        place.runtime_dir,
        data_home=place.data_home,
        platform=place.platform,
        names=names,
    )


def _with_network(
    capabilities: CapabilitySet,
    request: Request,
    inherited: Inherited | None,
    place: Place,
    environment: Mapping[str, str],
) -> CapabilitySet:
    """Return `capabilities` with all that is about the network."""
    wanted, custom, tls_intercept = request, {}, None
    no_proxy: tuple[str, ...] = ()
    restricted = False
    if inherited is not None:
        said = inherited.profile.network
        wanted = _merged(request, said)
        tls_intercept, no_proxy, restricted = said.tls_intercept, said.no_proxy, said.restricted
        custom = _custom_routes(inherited, place)
    selected = [profile_hosts(name) for name in wanted.network_profile.split(_AND) if name]
    is_open = wanted.every_public_host and not wanted.block_net
    proxied = bool(wanted.credential or wanted.allow_domain or selected or is_open)
    if wanted.block_net and proxied:
        _check_unblocked(request, inherited)
        wanted = request._replace(block_net=True)  # what profiles name is blocked with the rest
        selected, proxied = [], False
    if wanted.deny_domain and not (wanted.allow_domain or selected or wanted.every_public_host):
        raise UsageError(
            "--deny-domain takes hosts out of what --allow-domain or --network-profile grants; alone it has no effect"
        )
    group_hosts = tuple(dict.fromkeys(host for hosts, _ in selected for host in hosts))
    make = EveryPublicHost if is_open else Allowlist
    allowlist = make(wanted.allow_domain, wanted.deny_domain, group_hosts)  # raises for an entry that is not sound
    if allowlist.has_paths and tls_intercept is False:
        raise PolicyError(
            "network.tls_intercept is false, but a URL with a path in allow_domain can be judged no other way"
        )
    routes = add_endpoints(select_routes(wanted.credential, custom), request.allow_endpoint)
    for route in routes:
        host, port = upstream_host(route)
        if wanted.deny_domain and allowlist.denies(host, port):
            raise UsageError(
                f"--deny-domain denies the upstream of the credential '{route.name}', {host}; leave one of them out"
            )
    intercept = tls_intercept is True or allowlist.has_paths or any(route.intercept for route in routes)
    network = NETWORK_PROXY if proxied else NETWORK_BLOCKED if wanted.block_net or restricted else NETWORK_OPEN
    ports = request if network == NETWORK_OPEN else wanted  # on the machine's own network, a profile's are open anyway
    return capabilities._replace(
        network=network,
        routes=routes,
        allowed_hosts=tuple(dict.fromkeys(wanted.allow_domain)),
        denied_hosts=tuple(dict.fromkeys(wanted.deny_domain)),
        group_hosts=group_hosts,
        allowlist=allowlist if wanted.allow_domain or selected or is_open else None,
        registries=any(registries for _, registries in selected),
        network_profile=wanted.network_profile,
        upstream_proxy=_upstream_proxy(request, wanted, proxied, environment),
        open_ports=tuple(dict.fromkeys(ports.open_port)),
        listen_ports=tuple(dict.fromkeys(ports.listen_port)),
        intercept=intercept and tls_intercept is not False and proxied,
        no_proxy=no_proxy,
    )


def _check_unblocked(request: Request, inherited: Inherited | None) -> None:
    """Refuse flags that need the network where it is blocked."""
    needs = "a credential" if request.credential else "--allow-domain" if request.allow_domain else "--network-profile"
    if not (request.credential or request.allow_domain or request.network_profile):
        return
    if request.block_net or inherited is None:
        raise UsageError(f"--block-net and {needs} exclude each other: one needs the network; give up one of them")
    where = inherited.place("network.block", True)
    raise UsageError(f"{where} is true, and {needs} needs the network; leave one of them out")


def _custom_routes(inherited: Inherited | None, place: Place) -> dict[str, dict[str, Any]]:
    """Return the fields of the profiles' custom credentials, paths expanded."""
    custom = {} if inherited is None else inherited.profile.custom_routes()
    for fields in custom.values():
        for field in ("tls_ca", "tls_client_cert", "tls_client_key"):
            if fields.get(field):
                fields[field] = expand(unescaped(fields[field]), place)
    return custom


def _with_environment(
    capabilities: CapabilitySet, request: Request, inherited: Inherited | None, place: Place
) -> CapabilitySet:
    """Return `capabilities`, whose network is known, with what the child's variables may be."""
    own = own_variables(capabilities.network, capabilities.routes, intercept=capabilities.intercept)
    rules, mapped = EnvironmentRules(), request.env_credential_map
    if inherited is not None:
        wanted = inherited.profile.environment
        places = {f"${name}": value for name, value in place.variables.items() if name[:4] == "XDG_" or name == "UID"}
        settings = tuple((name, expanded(value, places)) for name, value in wanted.set_vars.items())
        rules = EnvironmentRules(wanted.allow_vars, wanted.deny_vars, settings)
        check_rules(rules, own)
        mapped = (*inherited.profile.env_credentials.items(), *mapped)
    if not request.env_credential and not mapped:
        return capabilities._replace(environment=rules)
    custom = _custom_routes(inherited, place)
    pairs = env_credentials(request.env_credential, mapped, custom, capabilities.routes, own)
    for _, variable in pairs:
        if any(variable == name for name, _ in rules.set_vars):
            raise PolicyError(f"environment.set_vars: {variable} is to hold a key (env_credentials); leave one out")
    return capabilities._replace(environment=rules, env_credentials=pairs)


def _merged(request: Request, network: Network) -> Request:
    """Return what flags and profile ask of the network together; the upstream proxy is the flag's or the profile's."""
    names = dict.fromkeys(name for name in (network.network_profile, request.network_profile) if name)
    merged = request._replace(
        block_net=request.block_net or network.block,
        credential=(*network.credentials, *request.credential),
        allow_domain=(*network.allow_domain, *request.allow_domain),
        deny_domain=(*network.deny_domain, *request.deny_domain),
        network_profile=_AND.join(names),
        upstream_bypass=(*network.upstream_bypass, *request.upstream_bypass),
        open_port=(*network.open_port, *request.open_port),
        listen_port=(*network.listen_port, *request.listen_port),
    )
    if request.upstream_proxy:
        return merged
    return merged._replace(
        upstream_proxy=network.upstream_proxy,
        upstream_proxy_credential=request.upstream_proxy_credential or network.upstream_proxy_credential,
    )


def _upstream_proxy(
    request: Request, wanted: Request, proxied: bool, environment: Mapping[str, str]
) -> UpstreamProxy | None:
    """Return the proxy that nono's own goes through. request: the flags alone, which must not be without effect."""
    if not proxied:
        if request.upstream_proxy or request.upstream_proxy_credential or request.upstream_bypass:
            raise UsageError(
                "--upstream-proxy is where nono's own proxy connects through, which this run has none of; "
                "add --credential NAME, --network-profile NAME or --allow-domain HOST"
            )
        return None
    through = upstream_proxy(
        wanted.upstream_proxy, wanted.upstream_proxy_credential, wanted.upstream_bypass, environment
    )
    if through is None:
        if request.upstream_proxy_credential:
            raise UsageError(
                "--upstream-proxy-credential: there is no proxy to use it with; name one with --upstream-proxy"
            )
        return None
    return through._replace(origin="profile") if wanted.upstream_proxy and not request.upstream_proxy else through


def _sandbox(request: Request) -> str:
    """Return which wall is wanted."""
    if request.sandbox not in SANDBOXES:
        raise UsageError(f"--sandbox {request.sandbox!r} is not one of {', '.join(SANDBOXES)}")
    if request.sandbox == SANDBOX_LANDLOCK and not request.accept_leaks:
        raise UsageError(
            f"--sandbox landlock leaks ({', and '.join(LANDLOCK_LEAKS)}); say --accept-leaks to run like that"
        )
    if request.accept_leaks and request.sandbox != SANDBOX_LANDLOCK:
        raise UsageError("--accept-leaks is for --sandbox landlock alone: no other wall leaks; leave it out")
    return request.sandbox


def _limits(request: Request) -> Limits:
    return Limits(
        memory_bytes=parse_size(request.memory, "--memory") if request.memory is not None else 0,
        max_processes=parse_count(request.max_processes, "--max-processes") if request.max_processes is not None else 0,
        timeout_s=parse_duration(request.timeout, "--timeout") if request.timeout is not None else 0,
    )


def _flag_grants(request: Request, place: Place) -> list[PathGrant]:
    grants: list[PathGrant] = []
    for field, access, is_file in PATH_FIELDS:
        flag = "--" + field.replace("_", "-")
        grants += [PathGrant(expand(path, place), access, is_file, flag) for path in getattr(request, field)]
    if request.allow_cwd:
        grants.append(PathGrant(place.workdir, READ | WRITE, False, "--allow-cwd"))
    return grants


def _profile_grants(inherited: Inherited, place: Place, *, workdir_is_granted: bool) -> list[PathGrant]:
    """Return what the profile grants. Raises UsageError where its working directory would be all that the user has."""
    grants: list[PathGrant] = []
    built_in = inherited.built_in_origins
    for field, access, is_file in PATH_FIELDS:
        grants += [
            PathGrant(path, access, is_file, origin, absent=SKIPPED if origin in built_in else NOTED)
            for _, path, origin in _profile_paths(inherited, field, place)
        ]
    wanted = inherited.profile.workdir.access
    if access := _WORKDIR_ACCESS[wanted]:
        origin = inherited.origin("workdir.access", wanted)
        is_broad = place.in_the_open or is_at_or_below(place.home, place.workdir)
        if is_broad and not workdir_is_granted:
            raise UsageError(
                f"{origin} opens the working directory, and {place.workdir} is your home directory or above it: go to "
                "a project's directory first, or say --allow-cwd to open all of this one"
            )
        grants.append(PathGrant(place.workdir, access, False, origin))
    return grants


def _profile_paths(inherited: Inherited, field: str, place: Place) -> list[tuple[str, str, str]]:
    """Return (where it is written, absolute path, "profile NAME") of each path of a field of `filesystem`."""
    key = f"filesystem.{field}"
    return [
        (inherited.place(key, text), expand(unescaped(text), place), inherited.origin(key, text))
        for text in getattr(inherited.profile.filesystem, field)
        if text != OWN_SOCKETS or field != "unix_socket"
    ]
