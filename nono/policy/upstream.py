"""The proxy of the operator's network: which one nono's own proxy goes through, and which hosts it does not.

Pure. A flag or profile names it, `HOST:PORT` or `http://HOST[:PORT]`; else the variables that curl, pip and git read
in the caller's environment name it, because behind such a proxy nothing else gets out: of https_proxy, all_proxy and
http_proxy the first that is set, lower case before upper, and no_proxy for the hosts that are reached without it. The
child gets none of these variables, whoever names the proxy. `direct` in their place means none.

Direct, without that proxy, are the hosts of `--upstream-bypass` and no_proxy, as curl and Go read the latter:

    example.com         this name and all below it        10.0.0.0/8, 10.1.2.3    address literals; no name is looked up
    .example.com        all below it, not itself          *                       everything
    *.example.com       the same                          each with :PORT, too

They are read here and nowhere else, so that what a run begins with is what its proxy takes. What makes no sense is
refused in a flag or profile, and left out of no_proxy.

A user name or password never stands in a flag, which every process of the machine can read; one in the environment is
not taken either, for it would be a copy that nobody wipes. `--upstream-proxy-credential` names a stored USER:PASSWORD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nono.errors import NonoError, PolicyError, UsageError
from nono.policy.allowlist import is_address, parse_entry, quoted
from nono.policy.capabilities import UpstreamProxy
from nono.record import Record

DIRECT = "direct"
FLAG = "--upstream-proxy"

_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY")
_FORMS = "write HOST:PORT or http://HOST:PORT"
_BYPASS_FORMS = "write HOST, .SUFFIX, *.SUFFIX, an address or a network (10.0.0.0/8)"


class Network(Record):
    """The addresses of `bits` bits whose number is `prefix` without its last `free` bits."""

    bits: int
    prefix: int
    free: int


class Bypass(Record):
    """One pattern: a network, or a name with what is below it ("": all names and addresses); port 0: any."""

    network: Network | None
    name: str
    itself: bool
    port: int


_EVERYTHING = Bypass(None, "", True, 0)


def upstream_proxy(
    named: str, credential: str, bypass: Iterable[str], environment: Mapping[str, str]
) -> UpstreamProxy | None:
    """Return the proxy to go through; None for none.

    named: what a flag or profile says, "" for nothing. credential: a reference, "" for none. bypass: patterns.
    environment: the caller's. Raises UsageError.
    """
    bypass = tuple(dict.fromkeys(bypass))
    for pattern in bypass:
        if _bypass(pattern) in (None, _EVERYTHING):
            raise UsageError(f"--upstream-bypass {quoted(pattern)}: {_BYPASS_FORMS}")
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
    return [word for word in text.replace(",", " ").split() if _bypass(word) is not None]


def _bypass(pattern: str) -> Bypass | None:
    try:
        return parse_bypass(pattern)
    except PolicyError:
        return None


def parse_bypass(pattern: str) -> Bypass:
    """Read a pattern: see above. Raises PolicyError."""
    text, slash, rest = pattern.strip().partition("/")
    width, colon, port = rest.partition(":")
    everything = text == "*" or text.startswith("*:")
    try:
        # parse_entry knows of no host for all; any name will do to read the port behind it.
        entry = parse_entry(f"all{text[1:]}" if everything else text + colon + port)
    except PolicyError as error:
        raise PolicyError(f"upstream bypass {quoted(pattern)}: {error}; {_BYPASS_FORMS}") from None
    if "/" not in rest and is_address(entry.name):
        number, bits = _number(entry.name)
        if not slash:
            width = str(bits)
        if width.isascii() and width.isdigit() and len(width) <= 3 and int(width) <= bits:
            free = bits - int(width)
            return Bypass(Network(bits, number >> free, free), "", True, entry.port)
    elif not slash:
        return Bypass(None, "" if everything else entry.name, not entry.is_suffix, entry.port)
    raise PolicyError(f"upstream bypass {quoted(pattern)}: this is no network; {_BYPASS_FORMS}")


def _number(address: str) -> tuple[int, int]:
    """Return a normalised address literal as a number, and how many bits it has."""
    if ":" in address:
        return int("".join(group.zfill(4) for group in address.split(":")), 16), 128
    return int.from_bytes(bytes(map(int, address.split(".")))), 32
