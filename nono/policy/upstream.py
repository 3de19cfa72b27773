"""The proxy of the operator's network: which one nono's own proxy goes through, and which hosts it does not.

Pure. A flag or profile names it, `HOST:PORT` or `http://HOST[:PORT]`; else the variables that curl, pip and git read
in the caller's environment name it, because behind such a proxy nothing else gets out: of https_proxy, all_proxy and
http_proxy the first that is set, lower case before upper, and no_proxy for the hosts that are reached without it. The
child gets none of these variables, whoever names the proxy. `direct` in their place means none.

A user name or password never stands in a flag, which every process of the machine can read; one in the environment is
not taken either, for it would be a copy that nobody wipes. `--upstream-proxy-credential` names a stored USER:PASSWORD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nono.errors import NonoError, PolicyError, UsageError
from nono.policy.allowlist import is_address, normalise, parse_entry, quoted
from nono.policy.capabilities import UpstreamProxy

DIRECT = "direct"
FLAG = "--upstream-proxy"

_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY")
_FORMS = "write HOST:PORT or http://HOST:PORT"


def upstream_proxy(
    named: str, credential: str, bypass: Iterable[str], environment: Mapping[str, str]
) -> UpstreamProxy | None:
    """Return the proxy to go through; None for none.

    named: what a flag or profile says, "" for nothing. credential: a reference, "" for none. bypass: patterns.
    environment: the caller's. Raises UsageError.
    """
    bypass = tuple(dict.fromkeys(bypass))
    for pattern in bypass:
        if not _is_pattern(pattern):
            raise UsageError(
                f"--upstream-bypass {quoted(pattern)}: write HOST, *.SUFFIX, an address or a network (10.0.0.0/8)"
            )
    if named == DIRECT:
        return None
    if named:
        return _parse(named, FLAG, credential)._replace(bypass=bypass)
    for variable in _VARIABLES:
        if environment.get(variable, "").strip():
            found = _parse(environment[variable].strip(), variable, credential)
            direct = _no_proxy(environment.get("no_proxy") or environment.get("NO_PROXY") or "")
            return None if "*" in direct else found._replace(bypass=tuple(dict.fromkeys((*bypass, *direct))))
    return None


def _parse(text: str, origin: str, credential: str) -> UpstreamProxy:
    """Read the proxy that a flag or variable names. What it says is quoted in no error: it may hold a password."""

    def fail(why: str) -> NonoError:
        instead = "" if origin == FLAG else f". Or name a proxy with {FLAG} HOST:PORT, or {FLAG} {DIRECT} for none"
        return UsageError(f"{origin}: {why}{instead}")

    scheme, separator, authority = text.rpartition("://")
    if separator and scheme.lower() != "http":
        raise fail("nono goes through an http:// proxy only, which may well carry https:// connections")
    authority = authority.removesuffix("/")
    _, at, authority = authority.rpartition("@")
    if at and (origin == FLAG or not credential):
        flag = "--upstream-proxy-credential NAME"
        raise fail(f"it holds a user name. Store USER:PASSWORD with nono credential set NAME, and name it with {flag}")
    try:
        entry = parse_entry(authority)
    except PolicyError:
        raise fail(f"it names no proxy; {_FORMS}") from None
    port = entry.port or (80 if separator else 0)
    if entry.is_suffix or not port:
        raise fail(f"it names no proxy; {_FORMS}")
    literal = authority.partition("]")[0].removeprefix("[").lower()  # an IPv6 address as it was written
    return UpstreamProxy(literal if ":" in entry.name else entry.name, port, credential, (), origin)


def _no_proxy(text: str) -> list[str]:
    """Return the patterns of NO_PROXY. What is none is left out: programs differ in what they take."""
    return [word for word in text.replace(",", " ").split() if word == "*" or _is_pattern(word)]


def _is_pattern(text: str) -> bool:
    network, slash, bits = text.partition("/")
    try:
        if slash:
            widest = 128 if ":" in network else 32
            is_width = bits.isascii() and bits.isdigit() and len(bits) <= 3 and int(bits) <= widest
            return is_width and is_address(normalise(network))
        return "://" not in text and bool(parse_entry(text))
    except (PolicyError, ValueError):
        return False
