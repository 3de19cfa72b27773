"""The environment of the child: what it inherits, what is withheld, what nono adds.

Pure. Four rules, in this order:
1. withheld: what makes programs run other code and what opens a whole store of secrets (variables.py), and addresses of
   sockets that would hand over secrets (D-Bus, ssh-agent, docker); and, unless the network is open, where the agent
   needs the keys that the user set and nono guards nothing of them, every variable that is known to carry a real
   credential, is called like one of a route's provider, or has the value of one;
2. the profile: its deny_vars are withheld, too, and with allow_vars all but those and a base that every program needs.
   The exact name of a variable in allow_vars lets it through rule 1;
3. added: for each route its key variables with the phantom token and its base URL, the proxy variables, those that
   name a bundle of certificates where TLS is intercepted; before these, which it must not replace, the profile's
   set_vars;
4. everything else passes as it is: the agent should find the machine that it knows.

Some programs end, or complain, when they cannot write their cache, and the user's own is not granted for it: what the
agent leaves there would be executed outside. Such caches are moved to the run's temporary directory.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from nono.errors import PolicyError
from nono.policy.capabilities import NETWORK_OPEN, NETWORK_PROXY, WRITE, EnvironmentRules, PathGrant
from nono.policy.network import WITHHELD_CREDENTIALS, WITHHELD_SOCKETS, builtin_routes
from nono.policy.routes import Route
from nono.policy.variables import BASE, SESSIONS, Names, is_hook, is_named_like_key, looks_like_key, stem
from nono.record import Record

_PROXY_VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
)
# Where packages are installed from; people put passwords into these.
_INDEXES = (
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL",
    "GOPROXY", "npm_config_registry", "NPM_CONFIG_REGISTRY",
)  # fmt: skip
_TEMPORARY = ("TMPDIR", "TMP", "TEMP")
_NOTHING: Mapping[str, str] = {}
_NO_RULES = EnvironmentRules()
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Each names a file of certificates to trust, instead of the system's or (Node, Deno) beside it.
CA_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
    "npm_config_cafile",  # a `cafile` of npm's settings would count in the place of NODE_EXTRA_CA_CERTS
)
# A cache below the home directory: the variable that moves it, and those by which the user has chosen a place himself.
_CACHES = (
    (".npm", "npm_config_cache", ("npm_config_cache", "NPM_CONFIG_CACHE")),  # npm: EACCES
    (".cache", "XDG_CACHE_HOME", ("XDG_CACHE_HOME",)),  # go build: needs one; pip: a warning
    ("go/pkg/mod", "GOMODCACHE", ("GOMODCACHE", "GOPATH")),  # go: needs one
)


class ChildEnvironment(Record):
    """`variables` for execve(2); `withheld` names what the user had set and the child does not get, sorted.

    exposed: what would have been withheld as a secret, had the profile not named it; sorted.
    """

    variables: dict[str, str]
    withheld: tuple[str, ...]
    exposed: tuple[str, ...] = ()


def child_environment(
    inherited: Mapping[str, str],
    *,
    network: str,
    routes: Iterable[Route] = (),
    proxy_port: int = 0,
    token: str = "",
    temporary_directory: str = "",
    secret_variables: Iterable[str] = (),
    ca_bundle: str = "",
    no_proxy: Iterable[str] = (),
    home: str = "",
    grants: Iterable[PathGrant] = (),
    settings: Mapping[str, str] = _NOTHING,
    rules: EnvironmentRules = _NO_RULES,
    env_credentials: Iterable[tuple[str, str]] = (),
    unix_sockets: Iterable[str] = (),
    workdir: str = "",
) -> ChildEnvironment:
    """Return the child's environment.

    inherited: the user's own. token: the phantom token, 64 hex characters. secret_variables: names that the caller
    found to hold a real credential (an env:// source, or a value that contains a loaded key), withheld in every
    network mode. ca_bundle: a file of the certificates to trust, where TLS is intercepted. no_proxy: hosts besides
    loopback that programs shall not ask the proxy for. home, grants: the user's home directory, and what is granted;
    with a home, caches are moved to the temporary directory. settings: nono's own for package managers, which replace
    inherited ones. rules: the profile's. env_credentials: (reference, variable) whose values the caller puts in.
    unix_sockets: what may be connected to; variables that name one of them pass. workdir: for set_vars.
    """
    routes = tuple(routes)
    secrets = _Secrets(network, routes, unix_sockets)
    never = {*secret_variables, *(_PROXY_VARIABLES if network != NETWORK_OPEN else ())}
    replaced = {variable for _, variable in env_credentials}
    allowed = None if rules.allow_vars is None else Names(rules.allow_vars)
    denied = Names(rules.deny_vars)
    variables: dict[str, str] = {}
    exposed = []
    for name, value in inherited.items():
        if name in never or name in denied or name in replaced:
            continue
        if allowed is not None and name not in allowed and name not in BASE:
            continue
        is_secret = secrets.has(name, value)
        if is_secret or is_hook(name, value):
            if allowed is None or name not in allowed.exact:
                continue
            if is_secret:
                exposed.append(name)
        variables[name] = value
    added: dict[str, str] = {}
    if network != NETWORK_OPEN:
        for name in _INDEXES:
            if "@" in variables.get(name, ""):
                variables[name] = _without_users(variables[name])
    variables.update(settings)
    places = {"$HOME": home, "$WORKDIR": workdir, "$TMPDIR": temporary_directory}
    variables.update((name, expanded(value, places)) for name, value in rules.set_vars)
    if network == NETWORK_PROXY:
        proxy = f"http://nono:{token}@127.0.0.1:{proxy_port}"
        for name in _PROXY_VARIABLES[:4]:
            added[name] = proxy
        direct = ",".join(dict.fromkeys((*_LOOPBACK, *no_proxy)))
        added.update(NO_PROXY=direct, no_proxy=direct, NODE_USE_ENV_PROXY="1", NONO_PROXY_TOKEN=token)
        for route in routes:
            for name in route.env_vars:
                added[name] = token
            for name in route.base_url_vars:
                added[name] = f"http://127.0.0.1:{proxy_port}/{route.name}"
        if ca_bundle:
            added.update(dict.fromkeys(CA_VARIABLES, ca_bundle))
    if temporary_directory:
        added.update(dict.fromkeys(_TEMPORARY, temporary_directory))
        grants = tuple(grants)
        for cache, variable, chosen in _CACHES if home else ():
            if not any(name in variables for name in chosen) and not _is_granted(f"{home}/{cache}", grants):
                added[variable] = f"{temporary_directory}/{cache.lstrip('.')}"
    variables.update(added)
    for name in replaced:
        variables.pop(name, None)
    gone = (name for name in inherited if name not in variables and name not in replaced)
    return ChildEnvironment(variables, tuple(sorted(gone)), tuple(sorted(exposed)))


def own_variables(network: str, routes: Iterable[Route], *, intercept: bool) -> frozenset[str]:
    """Return the variables that nono itself sets in such a run, and that neither a profile nor a credential may set."""
    if network != NETWORK_PROXY:
        return frozenset(_TEMPORARY)
    names = {*_TEMPORARY, *_PROXY_VARIABLES, "NODE_USE_ENV_PROXY", "NONO_PROXY_TOKEN"}
    for route in routes:
        names.update(route.env_vars, route.base_url_vars)
    return frozenset(names | set(CA_VARIABLES) if intercept else names)


def check_rules(rules: EnvironmentRules, own: Container[str]) -> None:
    """Raise PolicyError for rules that cannot be honoured; own: what nono sets itself."""
    for field, names in (("allow_vars", rules.allow_vars or ()), ("deny_vars", rules.deny_vars)):
        for name in names:
            if not is_variable(name.replace("*", "X")):
                raise PolicyError(f"environment.{field}: {name!r} is not NAME, or NAME_* for all that begin with NAME_")
    for name, value in rules.set_vars:
        if not is_variable(name):
            raise PolicyError(f"environment.set_vars: {name!r} is not the name of an environment variable")
        if "\0" in value:
            raise PolicyError(f"environment.set_vars: the value of {name} has a NUL byte in it; leave it out")
        if name in own:
            raise PolicyError(f"environment.set_vars: {name} is set by nono itself in this run; leave it out")


def is_variable(name: str) -> bool:
    """Whether a variable of the environment can be called so."""
    return name.isprintable() and name != "" and not any(letter in name for letter in "=* ")


class _Secrets:
    """Which variables carry secrets, or lead to them, in one run."""

    def __init__(self, network: str, routes: Iterable[Route], unix_sockets: Iterable[str]) -> None:
        self._guarded = network != NETWORK_OPEN
        self._sockets = frozenset(unix_sockets)
        self._known: set[str] = set()
        self._stems: set[str] = set()
        if self._guarded:
            self._known.update(WITHHELD_CREDENTIALS)
            for route in builtin_routes().values():
                self._known.update(route.env_vars)
            for route in routes:
                self._known.update(route.env_vars)
                self._stems.update(filter(None, map(stem, route.env_vars)))

    def has(self, name: str, value: str) -> bool:
        """Whether the variable is one of them."""
        if name in WITHHELD_SOCKETS:
            return value.removeprefix("unix:path=").removeprefix("unix://").partition(",")[0] not in self._sockets
        if name in SESSIONS:
            return True
        return self._guarded and (
            name in self._known
            or is_named_like_key(name, self._stems)
            or _is_token_of_a_registry(name)
            or looks_like_key(value)
        )


def expanded(value: str, places: Mapping[str, str]) -> str:
    """Return `value` with each place's name replaced where it stands as a whole word."""
    for name, place in places.items():
        first, *rest = value.split(name)
        value = first
        for part in rest:
            value += (name if part[:1] == "_" or part[:1].isalnum() else place) + part
    return value


def _is_token_of_a_registry(name: str) -> bool:
    """Whether a package manager reads a password or token from this variable."""
    upper = name.upper()
    return (
        (upper.startswith(("CARGO_REGISTRIES_", "UV_INDEX_")) and upper.endswith(("_TOKEN", "_PASSWORD")))
        or upper.startswith(("POETRY_PYPI_TOKEN_", "POETRY_HTTP_BASIC_"))
        or (upper.startswith("NPM_CONFIG_") and ("_AUTH" in upper or "_PASSWORD" in upper or "//" in upper))
    )


def _without_users(urls: str) -> str:
    """The URLs of a list without user names and passwords."""
    first, *rest = urls.split("://")
    for part in rest:
        end = min((at for at in map(part.find, "/ ,|") if at >= 0), default=len(part))
        first += "://" + part[:end].rpartition("@")[2] + part[end:]
    return first


def _is_granted(directory: str, grants: Iterable[PathGrant]) -> bool:
    """Whether the agent may write `directory`, or the user has thought of something in it."""
    return any(
        f"{grant.path}/".startswith(f"{directory}/")
        or (grant.access & WRITE and f"{directory}/".startswith(f"{grant.path.rstrip('/')}/"))
        for grant in grants
    )
