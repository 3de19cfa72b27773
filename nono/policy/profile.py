"""A profile file: its shape, and the checked profile that it makes.

SHAPE describes the format of nono's profiles, which users of the existing tool bring along, key by key: what it may be,
how it is merged with what it inherits, which other names it has. `parse` reads one file as it is written (Written);
inherit.py merges what files say and makes a Profile of it, which is what the rest of nono takes. A key that is known in
that format but not here is in data/profile-keys.json, with the reason why it is refused, or why it may be left out of
account; a refused key that asks for nothing ([], {}, false, null) is no mistake. All else is one: a misspelt
restriction must not be taken for none.

This room is entered only where a profile is named. It imports nothing that a run without one does not: a library that
decodes into types would take as long as Python itself to start (docs/decisions/0001).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nono.errors import PolicyError
from nono.policy import groups, jsonc, paths
from nono.policy.allowlist import Allowlist
from nono.policy.environment import is_variable
from nono.policy.network import NETWORK_PROFILES
from nono.policy.shape import (
    APPEND,
    CLEAR,
    EITHER,
    KEYS,
    REPLACE,
    Each,
    Either,
    Flag,
    Kind,
    Map,
    Maybe,
    Member,
    Mistake,
    Number,
    Shape,
    Text,
    UnknownKey,
)
from nono.policy.upstream import parse_bypass
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ACCESS = ("none", "read", "write", "readwrite")
SYSTEMS = ("linux", "macos", "windows")


class Meta(Record):
    """Who the profile is for; shown, never acted on."""

    name: str = ""
    description: str = ""
    version: str = ""
    author: str = ""


class Security(Record):
    """How far the agent is from other processes; every value that is accepted is what nono does anyway."""

    signal_mode: str = ""
    process_info_mode: str = ""
    ipc_mode: str = ""


class Groups(Record):
    """Built-in groups of paths, besides those that every run has, and those that this one shall not have."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class Filesystem(Record):
    """Paths to grant and to deny, as written: paths.py expands them. suppress_save_prompt: never to be suggested."""

    allow: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    allow_file: tuple[str, ...] = ()
    read_file: tuple[str, ...] = ()
    write_file: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    bypass_protection: tuple[str, ...] = ()
    unix_socket: tuple[str, ...] = ()
    unix_socket_bind: tuple[str, ...] = ()
    unix_socket_dir: tuple[str, ...] = ()
    unix_socket_dir_bind: tuple[str, ...] = ()
    unix_socket_subtree: tuple[str, ...] = ()
    unix_socket_subtree_bind: tuple[str, ...] = ()
    suppress_save_prompt: tuple[str, ...] = ()


class Network(Record):
    """What the child may reach; `credentials` names routes, built-in or of `custom_credentials`.

    restricted: some level restricted the network and a child took out all that it had named, without saying that the
    network shall be open (network_profile: null).
    """

    block: bool = False
    allow_domain: tuple[str, ...] = ()
    deny_domain: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    custom_credentials: Mapping[str, Mapping[str, Any]] = {}
    network_profile: str = ""
    upstream_proxy: str = ""
    upstream_proxy_credential: str = ""
    upstream_bypass: tuple[str, ...] = ()
    open_port: tuple[int, ...] = ()
    listen_port: tuple[int, ...] = ()
    no_proxy: tuple[str, ...] = ()
    tls_intercept: bool | None = None
    restricted: bool = False


class Environment(Record):
    """Which variables the child inherits, and what is set; allow_vars None: all but denied ones."""

    allow_vars: tuple[str, ...] | None = None
    deny_vars: tuple[str, ...] = ()
    set_vars: Mapping[str, str] = {}


class Workdir(Record):
    """Access to the working directory: one of ACCESS."""

    access: str = "none"


class Rollback(Record):
    """What is left out where changes can be undone."""

    exclude_patterns: tuple[str, ...] = ()
    exclude_globs: tuple[str, ...] = ()


class Linux(Record):
    """What is accepted is what nono does anyway."""

    af_unix_mediation: str = ""
    sandbox_policy: str = ""


class Profile(Record):
    """What the profiles of one run say together: inherited, conditions judged, each list once.

    env_credentials: reference -> variable, for real keys in the child's environment. skipdirs: names of directories in
    which no signed files are looked for.
    """

    meta: Meta = Meta()
    security: Security = Security()
    groups: Groups = Groups()
    filesystem: Filesystem = Filesystem()
    network: Network = Network()
    workdir: Workdir = Workdir()
    environment: Environment = Environment()
    env_credentials: Mapping[str, str] = {}
    rollback: Rollback = Rollback()
    linux: Linux = Linux()
    skipdirs: tuple[str, ...] = ()

    def custom_routes(self) -> dict[str, dict[str, Any]]:
        """Return the fields of each custom credential as make_route() takes them: a copy, which may be changed."""
        return {name: _route(fields) for name, fields in self.network.custom_credentials.items()}


class Written(Record):
    """One profile as it is written. source: its file, or "built-in". members: checked against SHAPE."""

    source: str
    members: dict[str, Any]

    @property
    def extends(self) -> tuple[str, ...]:
        """The profiles that it builds on, in order."""
        named = self.members.get("extends") or ()
        return (named,) if isinstance(named, str) else named

    @property
    def name(self) -> str:
        """What it calls itself; "" for nothing."""
        name: str = self.members.get("meta", {}).get("name") or ""
        return name


class _Hosts(Each):
    """allow_domain: hosts and URLs, or {"domain": …, "endpoints": […]} for paths of one host."""

    def __init__(self) -> None:
        super().__init__(Text("a host (string)", rule=_check_host, empty=False))
        self.expected = "a list of hosts"
        self._object = Shape(
            {"domain": Member(Text(empty=False), needed=True), "endpoints": Member(Each(ENDPOINT), needed=True)},
            "network.allow_domain.*",
        )

    def check(self, value: object, at: str) -> Any:
        if type(value) is not list:
            raise self.wrong(value, at)
        hosts: list[str] = []
        for index, entry in enumerate(value):
            place = f"{at}[{index}]"
            if not isinstance(entry, dict):
                hosts.append(self.kind.check(entry, place))
                continue
            fields = self._object.check(entry, place)
            hosts += [_url(fields["domain"], rule, place) for rule in fields["endpoints"]] or [fields["domain"]]
        return tuple(hosts)

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"anyOf": [self.kind.schema(), self._object.schema()]}}


def _url(domain: str, rule: Mapping[str, str], at: str) -> str:
    if rule["method"] != "*":
        raise Mistake(
            f"{at}.endpoints",
            f"nono judges methods for credentials only (endpoint_rules), not for a host; found {rule['method']}, "
            'expected "*"',
        )
    if not rule["path"].startswith("/") or "/" in domain:
        raise Mistake(at, 'expected {"domain": HOST, "endpoints": [{"method": "*", "path": "/…"}]}')
    return f"https://{domain}{rule['path']}"


def _route(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a custom credential with what its omissions mean: a header of its own holds the bare key, and `proxy`
    says only what differs."""
    route = {name: value for name, value in fields.items() if value is not None}
    if route.get("inject_header", "Authorization").lower() != "authorization":
        route.setdefault("credential_format", "{}")
    if differs := route.get("proxy"):
        same = {name: route[name] for name in _PRESENTATION if name in route}
        differs = {name: value for name, value in differs.items() if value is not None}
        if differs.get("inject_header", same.get("inject_header")) != same.get("inject_header"):
            same.pop("credential_format", None)
            differs.setdefault("credential_format", "Bearer {}" if differs["inject_header"].lower() == "authorization"
                               else "{}")  # fmt: skip
        route["proxy"] = {**same, **differs}
    return route


def _check_group(field: str) -> Callable[[str], object]:
    def check(name: str) -> None:
        try:
            groups.select(**{field: (name,)})
        except PolicyError as error:
            raise PolicyError(str(error).removeprefix(f"groups.{field}: ")) from None

    return check


def _check_host(entry: str) -> None:
    Allowlist((entry,))


def _check_direct_host(name: str) -> None:
    if not name or not name.isascii() or not name.isprintable() or "," in name or " " in name:
        raise PolicyError(f"{name!r} is not one host; write a list of them")


def _check_directory_name(name: str) -> None:
    if not paths.is_directory_name(name):
        raise PolicyError("expected the name of a directory, without a path and without *")


def _check_variable(name: str) -> None:
    if not is_variable(name.replace("*", "X")):
        raise PolicyError("expected the name of a variable; * stands for any letters (AWS_*, *_TOKEN)")


_STRINGS = Each(Text())
_VARIABLES = Each(Text("the name of a variable (string)", rule=_check_variable, empty=False))
_MAYBE = Maybe(Text())
_PORT = Number(1, 65535, "a port (1 to 65535)")
_PATH = Text("a path (string)", empty=False, rule=paths.check)
_PATHS = Each(_PATH, named="path")
ENDPOINT = Shape({"method": Member(Text(), needed=True), "path": Member(Text(), needed=True)}, "endpoint")
_PRESENTATION = (
    "inject_mode", "inject_header", "credential_format", "path_pattern", "path_replacement", "query_param_name",
)  # fmt: skip
_PRESENTED = {name: Member(_MAYBE) for name in _PRESENTATION}
_CREDENTIAL = Shape(
    {
        "upstream": Member(Text(), needed=True),
        "credential_key": Member(_MAYBE, needed=True),
        "env_var": Member(_MAYBE),
        **_PRESENTED,
        "proxy": Member(Maybe(Shape(_PRESENTED, "network.custom_credentials.*.proxy"))),
        "endpoint_rules": Member(Each(ENDPOINT)),
        "tls_ca": Member(Maybe(_PATH)),
        "tls_client_cert": Member(Maybe(_PATH)),
        "tls_client_key": Member(Maybe(_PATH)),
        "intercept": Member(Flag()),
    },
    "network.custom_credentials.*",
)


def _group_names(field: str) -> Kind:
    return Each(Text("the name of a group (string)", rule=_check_group(field), empty=False), named="name")


def _choice(*names: str) -> Kind:
    return Maybe(Text(choices=lambda: names))


_TLS_INTERCEPT = Shape({"ca_lifecycle": Member(_choice("session"))}, "network.tls_intercept")


_SECTIONS: dict[str, Member] = {
    "$schema": Member(Text(), meaning="For editors."),
    "meta": Member(
        Shape({name: Member(_MAYBE) for name in Meta._fields}, "meta"), KEYS, "Who the profile is for; shown."
    ),
    "security": Member(
        Shape(
            {
                "signal_mode": Member(_choice("isolated", "allow_same_sandbox")),
                "process_info_mode": Member(_choice("isolated", "allow_same_sandbox")),
                "ipc_mode": Member(_choice("shared_memory_only", "full")),
            },
            "security",
        ),
        KEYS,
        "What nono does anyway.",
    ),
    "groups": Member(
        Shape(
            {
                "include": Member(_group_names("include"), APPEND, "Groups of paths besides those that every run has."),
                "exclude": Member(
                    _group_names("exclude"), APPEND, "Groups that this run shall not have; wins over include."
                ),
            },
            "groups",
        ),
        KEYS,
    ),
    "filesystem": Member(
        Shape(
            {
                "allow": Member(_PATHS, APPEND, "Read and write."),
                "read": Member(_PATHS, APPEND, "Read."),
                "write": Member(_PATHS, APPEND, "Write."),
                "allow_file": Member(_PATHS, APPEND, "Read and write this file."),
                "read_file": Member(_PATHS, APPEND, "Read this file."),
                "write_file": Member(_PATHS, APPEND, "Write this file."),
                "deny": Member(_PATHS, APPEND, "Closed, whatever is granted around it."),
                "bypass_protection": Member(
                    _PATHS, APPEND, "Lift the built-in protection; grants nothing.", ("override_deny",)
                ),
                "unix_socket": Member(_PATHS, APPEND, "Connect to this socket; own: to those that it makes."),
                **{name: Member(_PATHS, APPEND) for name in Filesystem._fields if name.startswith("unix_socket_")},
                "suppress_save_prompt": Member(_PATHS, APPEND, "Never suggest these.", ("ignore",)),
            },
            "filesystem",
        ),
        KEYS,
    ),
    "network": Member(
        Shape(
            {
                "block": Member(Flag(), EITHER, "No network."),
                "network_profile": Member(Maybe(Text(choices=lambda: NETWORK_PROFILES)), REPLACE, "Groups of hosts."),
                "allow_domain": Member(_Hosts(), APPEND, "Hosts to reach.", ("proxy_allow", "allow_proxy")),
                "deny_domain": Member(
                    Each(Text("a host (string)", rule=_check_host)), APPEND, "Hosts not to reach, whatever allows them."
                ),
                "credentials": Member(_STRINGS, CLEAR, "Routes with a key; [] for none.", ("proxy_credentials",)),
                "custom_credentials": Member(Map(_CREDENTIAL), KEYS, "Routes of your own."),
                "open_port": Member(
                    Each(_PORT), APPEND, "Ports of this machine's loopback.", ("port_allow", "allow_port")
                ),
                "listen_port": Member(Each(_PORT), APPEND, "Ports of the agent's own servers."),
                "upstream_proxy": Member(_MAYBE, REPLACE, "HOST:PORT of your network's proxy.", ("external_proxy",)),
                "upstream_proxy_credential": Member(_MAYBE, REPLACE, "The stored USER:PASSWORD for it."),
                "upstream_bypass": Member(
                    Each(Text("a host (string)", rule=parse_bypass)),
                    APPEND,
                    "Hosts without it.",
                    ("external_proxy_bypass",),
                ),
                "no_proxy": Member(
                    Each(Text("a host (string)", rule=_check_direct_host)),
                    APPEND,
                    "More hosts for the child's NO_PROXY.",
                ),
                "tls_intercept": Member(
                    Maybe(Either(Flag(), dict, _TLS_INTERCEPT)), REPLACE, "Whether TLS is intercepted."
                ),
            },
            "network",
        ),
        KEYS,
    ),
    "env_credentials": Member(
        Map(Text("the name of a variable (string)"), named="env_var"), KEYS, "Real keys for the agent.", ("secrets",)
    ),
    "environment": Member(
        Maybe(
            Shape(
                {
                    "allow_vars": Member(_VARIABLES, APPEND, "Only these are inherited."),
                    "deny_vars": Member(_VARIABLES, APPEND, "These are not."),
                    "set_vars": Member(Map(Text()), KEYS, "These are set."),
                },
                "environment",
            )
        ),
        KEYS,
    ),
    "workdir": Member(
        Shape({"access": Member(Text(choices=lambda: ACCESS), REPLACE, "To the working directory.")}, "workdir"), KEYS
    ),
    "rollback": Member(
        Shape({name: Member(_STRINGS, APPEND) for name in Rollback._fields}, "rollback"),
        KEYS,
        "What nono run --rollback leaves out.",
        ("undo",),
    ),
    "linux": Member(
        Shape(
            {
                "af_unix_mediation": Member(_choice("pathname")),
                "sandbox_policy": Member(_choice("auto", "landlock")),
            },
            "linux",
        ),
        KEYS,
        "What nono does anyway.",
    ),
    "skipdirs": Member(
        Each(Text("the name of a directory (string)", rule=_check_directory_name)),
        APPEND,
        "Where no signed files are looked for.",
    ),
}
PATCH = Shape(_SECTIONS, "")
_PROFILE_NAME = Text("the name of a profile, or its file", empty=False)
SHAPE = Shape(
    {
        "extends": Member(
            Maybe(Either(_PROFILE_NAME, list, Each(_PROFILE_NAME, least=1))), REPLACE, "The profiles that it builds on."
        ),
        **_SECTIONS,
        "platform_overrides": Member(
            Maybe(Shape({system: Member(Maybe(PATCH)) for system in SYSTEMS}, "platform_overrides")),
            REPLACE,
            "More of the same, on one system only.",
        ),
    },
    "",
)


def parse(text: str, source: str) -> Written:
    """Return the profile in `text`, as written; PolicyError names `source` and the place of the first mistake."""
    value = jsonc.loads(text, source)
    try:
        return Written(source, SHAPE.check(value, ""))
    except Mistake as mistake:
        raise PolicyError(f"profile {source}: {told(mistake)}") from None


def make(tree: Mapping[str, Any], *, restricted: bool = False) -> Profile:
    """Return the Profile of a merged tree: no conditions, aliases or null left."""

    def part(cls: Any, name: str) -> Any:
        return cls(**{key: value for key, value in (tree.get(name) or {}).items() if value is not None})

    network = part(Network, "network")
    if not isinstance(network.tls_intercept, bool):
        network = network._replace(tls_intercept=None)
    return Profile(
        meta=part(Meta, "meta"),
        security=part(Security, "security"),
        groups=part(Groups, "groups"),
        filesystem=part(Filesystem, "filesystem"),
        network=network._replace(restricted=restricted),
        workdir=part(Workdir, "workdir"),
        environment=part(Environment, "environment"),
        env_credentials=tree.get("env_credentials", {}),
        rollback=part(Rollback, "rollback"),
        linux=part(Linux, "linux"),
        skipdirs=tree.get("skipdirs", ()),
    )


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a profile file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nono profile",
        "description": "What a kind of run may do: docs/profiles.md.",
        **SHAPE.schema(),
    }


def told(mistake: Mistake) -> str:
    """Return the text of a mistake; of a key that stands in the wrong object, also where it belongs."""
    where = _belongs(mistake.key) if isinstance(mistake, UnknownKey) and not mistake.near else ""
    return f"{mistake}; did you mean {where}?" if where else str(mistake)


def _belongs(key: str) -> str:
    """Return where a key that stands in the wrong object belongs; "" for nowhere."""
    for section, member in _SECTIONS.items():
        shape = member.kind.kind if isinstance(member.kind, Maybe) else member.kind
        if key == section or (isinstance(shape, Shape) and key in shape.names):
            return section if key == section else f"{section}.{key}"
    return ""
