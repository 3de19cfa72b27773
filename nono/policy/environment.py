"""The environment of the child: what it inherits, what is withheld, what nono adds.

Pure. Three rules, in this order: 1. withheld: addresses of sockets that would hand over secrets (D-Bus, ssh-agent,
docker), and every variable that is known to carry a
   real credential, unless the network is open, where the agent needs the ones that the user set and nono guards
   nothing of them;
2. added: for each route its key variables with the phantom token and its base URL, the proxy variables, and those that
   name a bundle of certificates where TLS is intercepted;
3. everything else passes as it is: the agent should find the machine that it knows.

Some programs end, or complain, when they cannot write their cache, and the user's own is not granted for it: what the
agent leaves there would be executed outside. Such caches are moved to the run's temporary directory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nono.policy.capabilities import NETWORK_OPEN, NETWORK_PROXY, WRITE, PathGrant
from nono.policy.network import WITHHELD_CREDENTIALS, WITHHELD_SOCKETS, builtin_routes
from nono.policy.routes import Route
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
    """`variables` for execve(2); `withheld` names what the user had set and the child does not get, sorted."""

    variables: dict[str, str]
    withheld: tuple[str, ...]


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
) -> ChildEnvironment:
    """Return the child's environment.

    inherited: the user's own. token: the phantom token, 64 hex characters. secret_variables: names that the caller
    found to hold a real credential (an env:// source, or a value that contains a loaded key), withheld in every
    network mode. ca_bundle: a file of the certificates to trust, where TLS is intercepted. no_proxy: hosts besides
    loopback that programs shall not ask the proxy for. home, grants: the user's home directory, and what is granted;
    with a home, caches are moved to the temporary directory.
    """
    variables = dict(inherited)
    withheld = {*WITHHELD_SOCKETS, *secret_variables}
    if network != NETWORK_OPEN:
        withheld.update(_PROXY_VARIABLES)
        withheld.update(WITHHELD_CREDENTIALS)
        for route in builtin_routes().values():
            withheld.update(route.env_vars)
        withheld.update(name for name in inherited if _is_token_of_a_registry(name))
    for name in withheld:
        variables.pop(name, None)
    added: dict[str, str] = {}
    if network != NETWORK_OPEN:
        for name in _INDEXES:
            if "@" in variables.get(name, ""):
                added[name] = _without_users(variables[name])
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
        added.update(TMPDIR=temporary_directory, TMP=temporary_directory, TEMP=temporary_directory)
        grants = tuple(grants)
        for cache, variable, chosen in _CACHES if home else ():
            if not any(name in inherited for name in chosen) and not _is_granted(f"{home}/{cache}", grants):
                added[variable] = f"{temporary_directory}/{cache.lstrip('.')}"
    variables.update(added)
    gone = (name for name in withheld if name in inherited and name not in added)
    return ChildEnvironment(variables, tuple(sorted(gone)))


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
