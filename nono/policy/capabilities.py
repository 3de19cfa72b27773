"""The capability set: what one run may do, as plain data.

It is made once, by `resolve.py`, from flags, profile and built-in groups; the sandbox, the proxy and the summary read
it and nothing else. Paths are absolute and normalised but need not exist: what is on the disk is the sandbox's concern.
"""

from __future__ import annotations

from nono.policy.allowlist import Allowlist
from nono.policy.routes import Route
from nono.record import Record

READ = 1  # read files, list directories, execute
WRITE = 2  # write, create, remove, rename, truncate

TEMPORARY_DIRECTORY = "temporary directory"  # the origin of the grant of the run's own

NETWORK_OPEN = "open"  # the host's network, as without nono
NETWORK_PROXY = "proxy"  # one loopback port: the proxy
NETWORK_BLOCKED = "blocked"  # nothing but the child's own loopback

SANDBOX_AUTO = "auto"  # the strongest wall that this machine has, but never SANDBOX_LANDLOCK
SANDBOX_NAMESPACE = "namespace"  # a network namespace
SANDBOX_NOTIFY = "notify"  # seccomp user notification
SANDBOX_LANDLOCK = "landlock"  # Landlock's port rule: leaks, see LANDLOCK_LEAKS
SANDBOXES = (SANDBOX_AUTO, SANDBOX_NAMESPACE, SANDBOX_NOTIFY, SANDBOX_LANDLOCK)
# DESIGN, facts/sandbox-linux.md: what Landlock with the static filter does not stop.
LANDLOCK_LEAKS = ("any address on the proxy's port", "listen() without bind")


def is_at_or_below(path: str, directory: str) -> bool:
    """Whether what holds for `directory` and all below it holds for `path`. Both absolute and normalised."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


NOTED, SKIPPED = "noted", "skipped"  # PathGrant.absent


class PathGrant(Record):
    """Access to `path` and, for a directory, to all below it.

    access: READ | WRITE bits. is_file: granted as a file (a directory there is an error).
    origin: what granted it, in the user's words: a flag ("--allow"), a profile or a group.
    optional: skipped without a word when absent (groups).
    absent: of one that is not optional, what it means that nothing is there: "" a mistake (a flag), NOTED, SKIPPED.
    With the latter two, which are profiles', a file may stand where a directory was granted.
    """

    path: str
    access: int
    is_file: bool
    origin: str
    optional: bool = False
    absent: str = ""


class PathDeny(Record):
    """A sensitive path that stays denied under any broader grant; `group` names the reason.

    access: what is denied, READ | WRITE bits. With WRITE alone a grant around it still lets it be read.
    holes: paths below it that this deny does not cover (--bypass-protection); they still need a grant.
    is_link: it is a symbolic link in a real directory, which must not be replaced; of its target nothing is said.
    pinned: with WRITE alone, of a file: other files may be made beside it, where the wall has mounts to see to that.
    """

    path: str
    group: str
    access: int = READ | WRITE
    holes: tuple[str, ...] = ()
    is_link: bool = False
    pinned: bool = False


class Limits(Record):
    """What the agent and all that it starts may use together; 0 for no limit."""

    memory_bytes: int = 0
    max_processes: int = 0
    timeout_s: float = 0


class EnvironmentRules(Record):
    """What a profile says about the child's variables: names, or NAME_* for all that begin with NAME_.

    allow_vars: only these are inherited, besides a base that every program needs; None: no such restriction. An exact
    name also lets a variable through that is withheld otherwise. deny_vars: never inherited. set_vars: literal.
    """

    allow_vars: tuple[str, ...] | None = None
    deny_vars: tuple[str, ...] = ()
    set_vars: tuple[tuple[str, str], ...] = ()


class UpstreamProxy(Record):
    """The proxy of the operator's network, through which nono's own proxy connects. It speaks plain HTTP.

    credential: a reference to USER:PASSWORD, sent as Basic; "" for none. bypass: hosts that are reached without it, as
    NO_PROXY has them: HOST (also what is below it), .SUFFIX, *.SUFFIX, ADDRESS, a network, each but that with :PORT.
    origin: what named it, in the user's words.
    """

    host: str
    port: int
    credential: str = ""
    bypass: tuple[str, ...] = ()
    origin: str = ""


class CapabilitySet(Record):
    """What the child may do. `network` is one of NETWORK_*; without NETWORK_PROXY, all that the proxy serves is empty.

    allowed_hosts, denied_hosts: entries of allowlist.py that the operator wrote; group_hosts: those of his network
    profile; allowlist: made of these three, once; None where only the routes are reachable.
    registries: the network profile holds package_registries, which nono/registries computes. network_profile: its name
    or names, to be shown.
    open_ports: services on the host's loopback that the child reaches; listen_ports: services of the child that the
    host's loopback reaches.
    intercept: TLS of routes' hosts, and of hosts of which some paths only are granted, is intercepted.
    no_proxy: names that the child's programs do not ask the proxy for.
    sandbox: one of SANDBOXES. unix_sockets: absolute paths that may be connected to; own_sockets: so may sockets inside
    writable grants, which may also be made. bypassed: protected paths that were opened, to be shown.
    env_credentials: (reference, variable): real secrets that the child gets in its environment.
    """

    grants: tuple[PathGrant, ...]
    denies: tuple[PathDeny, ...]
    network: str
    routes: tuple[Route, ...]
    workdir: str
    allowed_hosts: tuple[str, ...] = ()
    denied_hosts: tuple[str, ...] = ()
    group_hosts: tuple[str, ...] = ()
    allowlist: Allowlist | None = None
    registries: bool = False
    network_profile: str = ""
    upstream_proxy: UpstreamProxy | None = None
    open_ports: tuple[int, ...] = ()
    listen_ports: tuple[int, ...] = ()
    intercept: bool = False
    no_proxy: tuple[str, ...] = ()
    sandbox: str = SANDBOX_AUTO
    unix_sockets: tuple[str, ...] = ()
    own_sockets: bool = False
    limits: Limits = Limits()
    bypassed: tuple[str, ...] = ()
    environment: EnvironmentRules = EnvironmentRules()
    env_credentials: tuple[tuple[str, str], ...] = ()
