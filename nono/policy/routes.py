"""What a route is: one upstream, one credential, and how each is presented.

Data, and the check of a rule. The built-in routes (data/network-policy.json) and the custom credentials of a profile
have this one shape; DESIGN section 4 lists the fields. A Route names its credential, it never holds it.
"""

from __future__ import annotations

from nono.record import Record

_NOT_IN_A_PATH = frozenset(' \\?#"<>')


class EndpointRule(Record):
    """A request this route allows. `path` is a glob: `*` is one segment, `**` any number."""

    method: str
    path: str


def endpoint_rule(method: str, path: str) -> EndpointRule:
    """Return the rule; ValueError with a reason when no request could ever fit it."""
    if not method.isascii() or not (method == "*" or method.replace("-", "").isalpha()):
        raise ValueError(f"{method!r} is no method; write GET, POST … or * for any")
    if not path.startswith("/"):
        raise ValueError(f"the path {path!r} must begin with '/'")
    if not path.isascii() or not path.isprintable() or not _NOT_IN_A_PATH.isdisjoint(path):
        raise ValueError(f"the path {path!r} must be one as it is sent: %-escaped, without query")
    if not {".", ".."}.isdisjoint(path.split("/")):
        raise ValueError(f"the path {path!r} must not have '.' or '..' in it")
    return EndpointRule(method.upper(), path)


# Bytes of the longest key, by inject_mode: as it is written (itself, in base64, each octet as %XX) it must fit into one
# slot of the proxy's locked memory (nono/proxy/inject.py).
MAX_KEY_BYTES = {"header": 16384, "basic_auth": 12288, "query_param": 5461, "url_path": 5461}


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
    intercept: also requests that the agent sends to the upstream itself, over TLS of its own, get the credential.
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
    intercept: bool = False
