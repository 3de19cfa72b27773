"""What a route is: one upstream, one credential, and how each is presented.

Pure data. The built-in routes (data/network-policy.json) and the custom credentials of a profile have this one shape;
DESIGN section 4 lists the fields. A Route names its credential, it never holds it.
"""

from __future__ import annotations

from nono.record import Record


class EndpointRule(Record):
    """A request this route allows. `path` is a glob: `*` is one segment, `**` any number."""

    method: str
    path: str


class Presentation(Record):
    """Where a credential stands in a request: the fields of `inject_mode` and its parameters."""

    inject_mode: str = "header"  # header, url_path, query_param, basic_auth
    inject_header: str = "Authorization"
    credential_format: str = "Bearer {}"
    path_pattern: str = ""
    path_replacement: str = ""
    query_param_name: str = ""


class Route(Record):
    """One reverse route: requests for /NAME/... go to `upstream` with the credential that `credential_key` names.

    upstream: https://HOST[:PORT][/BASE], or http:// to a loopback literal only.
    env_vars: variables that get the phantom token; base_url_vars: those that get http://127.0.0.1:PORT/NAME.
    proxy: how the agent presents its token when that differs from `inject`; None when it does not.
    """

    name: str
    upstream: str
    credential_key: str
    inject: Presentation = Presentation()
    proxy: Presentation | None = None
    env_vars: tuple[str, ...] = ()
    base_url_vars: tuple[str, ...] = ()
    endpoint_rules: tuple[EndpointRule, ...] = ()
    tls_ca: str = ""
    tls_client_cert: str = ""
    tls_client_key: str = ""
