"""Read a profile file: JSON with comments (JSONC) in, a checked Profile out.

The only place that knows the file's shape, and the only one that imports msgspec (30 ms; so it is imported only where
a profile is named). An unknown field is an error: a misspelt restriction must not be taken for none. Values are
checked where they are used (network.py, resolve.py); this room says where in the file a value has the wrong type.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from nono.errors import PolicyError

_STRING_OR_COMMENT = re.compile(r'("(?:[^"\\\n]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TRAILING_COMMA = re.compile(r'("(?:[^"\\\n]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)


Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Meta(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Who the profile is for; shown, never acted on."""

    name: str = ""
    description: str = ""
    version: str = ""
    author: str = ""


class Filesystem(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Paths to grant and to deny; `~`, `$HOME`, `$WORKDIR` and `$TMPDIR` are expanded by resolve.py."""

    allow: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    allow_file: tuple[str, ...] = ()
    read_file: tuple[str, ...] = ()
    write_file: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    bypass_protection: tuple[str, ...] = ()
    unix_socket: tuple[str, ...] = ()


class EndpointRuleFields(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One allowed request of a route."""

    method: str
    path: str


class PresentationFields(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """Where a credential stands in a request."""

    inject_mode: str | None = None
    inject_header: str | None = None
    credential_format: str | None = None
    path_pattern: str | None = None
    path_replacement: str | None = None
    query_param_name: str | None = None


class RouteFields(PresentationFields, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """A custom credential: the fields of DESIGN section 4."""

    upstream: str
    credential_key: str
    env_var: str | None = None
    proxy: PresentationFields | None = None
    endpoint_rules: tuple[EndpointRuleFields, ...] = ()
    tls_ca: str | None = None
    tls_client_cert: str | None = None
    tls_client_key: str | None = None
    intercept: bool = False


class Network(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What the child may reach; `credentials` names routes, built-in or of `custom_credentials`."""

    block: bool = False
    allow_domain: tuple[str, ...] = ()
    deny_domain: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    custom_credentials: dict[str, RouteFields] = {}
    network_profile: str = ""
    upstream_proxy: str = ""
    upstream_proxy_credential: str = ""
    upstream_bypass: tuple[str, ...] = ()
    open_port: tuple[Port, ...] = ()
    listen_port: tuple[Port, ...] = ()
    no_proxy: tuple[str, ...] = ()
    tls_intercept: bool | None = None


class Environment(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which variables the child inherits, NAME or NAME_*, and what is set; without allow_vars, all but denied ones."""

    allow_vars: tuple[str, ...] | None = None
    deny_vars: tuple[str, ...] = ()
    set_vars: dict[str, str] = {}


class Workdir(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Access to the working directory: none, read, write or readwrite."""

    access: str = "none"


class Profile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One profile file, as written. Sources of its fields: docs/profiles.md.

    env_credentials: reference -> variable, for real keys in the child's environment.
    """

    meta: Meta = Meta()
    filesystem: Filesystem = Filesystem()
    network: Network = Network()
    workdir: Workdir = Workdir()
    environment: Environment = Environment()
    env_credentials: dict[str, str] = {}

    def custom_routes(self) -> dict[str, dict[str, Any]]:
        """Return the fields of each custom credential as make_route() takes them."""
        fields: dict[str, dict[str, Any]] = msgspec.to_builtins(self.network.custom_credentials)
        return fields


def parse(text: str, source: str) -> Profile:
    """Return the profile in `text`; PolicyError names `source` and the place of the first mistake."""
    try:
        return msgspec.json.decode(_without_comments(text).encode(), type=Profile)
    except msgspec.DecodeError as error:
        raise PolicyError(f"profile {source}: {_plainer(str(error))}") from None
    except UnicodeEncodeError:
        raise PolicyError(f"profile {source}: it is not valid UTF-8") from None


def _without_comments(text: str) -> str:
    """Return JSONC as JSON of the same length: comments and trailing commas become spaces; offsets stay true."""

    def blank(match: re.Match[str]) -> str:
        return match[1] or re.sub(r"[^\n]", " ", match[0])

    return _TRAILING_COMMA.sub(blank, _STRING_OR_COMMENT.sub(blank, text))


def _plainer(error: str) -> str:
    """Return msgspec's message in a user's words: its `$` is the top of the file."""
    return error.replace(" - at `$", " at `").replace("`.", "`").replace("``", "the top level")
