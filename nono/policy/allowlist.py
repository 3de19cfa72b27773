"""The hosts that the agent may name: which of them the proxy connects to, and which requests there.

Pure: names and ports in, a verdict out; no look-up (a denied name is never resolved). Names are compared as the
resolver would be asked for them: lower case, without the trailing dot, international ones IDNA-encoded.

An entry is a host (`example.com`), a suffix (`.example.com` or `*.example.com`: whatever ends in it, not `example.com`
itself, never `evilexample.com`), or an address literal, each with or without a `:PORT`; or a URL, whose scheme names
the port, and whose path, if it has one, is a glob: only requests for it are granted; https:// is never granted as plain
text, whatever the port. Without a port an entry means 443 for a tunnel (CONNECT), 80 and 443 for a plain request.
Grants add up: who is granted all paths by one entry is not held to the path of another. A denied entry goes before any
allowed one and, without a port, denies every port.

A verdict says whether the operator himself named this very host: only then may it have a private address (pins.py). A
suffix or a group never names a host, because whoever owns the domain chooses what is below it.

Refused before anything else, whatever is allowed: a name with NUL, `%`, CR, LF, `[[`, white space or other characters
that no host name has, a label that is empty or too long, and numbers that only some resolvers take for addresses
(`0x7f.1`, `2130706433`); then the names of clouds' metadata services.

Entries are kept in dictionaries by name, and a suffix is looked up label by label, so that a verdict costs the same
with ten entries and with 100,000 (bench/). Plain names, all but a few, are read without being taken apart.

Source: RFC 1123 section 2.1; RFC 5891; RFC 6943 section 3.1 (comparing host names).
"""

from __future__ import annotations

from collections.abc import Iterable

from nono.errors import PolicyError, Refusal
from nono.policy.routes import EndpointRule, endpoint_rule
from nono.record import Record

# Names of link-local metadata services that some resolver inside some cloud answers; an address is checked by pins.py.
METADATA_HOSTS = frozenset(
    (
        "metadata", "metadata.google.internal", "metadata.goog", "metadata.azure.internal", "instance-data",
        "instance-data.ec2.internal", "metadata.tencentyun.com", "metadata.platformequinix.com", "metadata.packet.net",
        "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "fd00:ec2:0:0:0:0:0:254",
        "fd20:ce:0:0:0:0:0:254",
    )
)  # fmt: skip

_HOST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
_HEX = frozenset("0123456789abcdef")
_PLAIN = "".join(sorted(_HOST)).encode()
_MAX_NAME = 253
_MAX_LABEL = 63
_SCHEMES = {"https": 443, "http": 80}
# IDNA 2003 (Python's codec) maps these to other names than IDNA 2008 (browsers, curl) does: RFC 5894 section 7.2.
_TWO_READINGS = frozenset("ßẞς\u200c\u200d")


class Verdict(Record):
    """What the agent may do at a host and port.

    named: an operator's entry names this very host: private and loopback addresses may be dialled.
    rules: only these requests are granted; () for all.
    """

    named: bool
    rules: tuple[EndpointRule, ...] = ()


class Entry(Record):
    """A host, or (is_suffix) whatever ends in `.name`; at `port` (0: the default ones); `rule` None: all requests.

    tls: over TLS only.
    """

    name: str
    is_suffix: bool
    port: int = 0
    rule: EndpointRule | None = None
    tls: bool = False


Grants = tuple[tuple[int, EndpointRule | None, bool], ...]  # port, rule and tls of each entry for one name
_EVERYTHING: Grants = ((0, None, False),)
_NAMED = Verdict(True)
_REACHABLE = Verdict(False)


class Allowlist:
    """Decides about hosts; call it with a name and a port."""

    def __init__(self, allowed: Iterable[str], denied: Iterable[str] = (), groups: Iterable[str] = ()) -> None:
        """allowed, denied: entries as operators write them. groups: hosts and suffixes of built-in groups.

        Raises PolicyError for an entry that is not sound.
        """
        denied = tuple(denied)
        for text in denied:
            if "://" in text:
                raise PolicyError(f"host {quoted(text)}: --deny-domain takes HOST or HOST:PORT, for all paths")
        self._allowed = _Table(allowed)
        self._denied = _Table(denied)
        self._groups = _Table(groups)
        for host in sorted(METADATA_HOSTS & self._allowed.hosts.keys()):
            raise PolicyError(f"host {host!r} is a cloud's metadata service, which is never reachable; leave it out")

    @property
    def has_paths(self) -> bool:
        """Whether only some paths of an https:// host are granted: to be judged, its TLS must be intercepted."""
        return self._allowed.has_https_rules

    def denies(self, name: str, port: int) -> bool:
        """Whether a denied entry covers the normalised `name` at this port."""
        return any(denied_port in (0, port) for denied_port, _, _ in self._denied.find(name))

    def add(self, groups: Iterable[str]) -> None:
        """Grant hosts and suffixes of groups that were computed meanwhile."""
        self._groups.add(groups)

    def __call__(self, host: str, port: int, *, tunnel: bool) -> Verdict:
        """Return what is granted at `host`:`port`. Raises Refusal: 400 bad_host, 403 host_denied.

        tunnel: asked for with CONNECT; else by a plain request for an http:// URL.
        """
        try:
            name = normalise(host)
        except ValueError as error:
            raise Refusal(400, "bad_host", f"This is no host name: {error}.") from None
        if name in METADATA_HOSTS:
            raise Refusal(403, "host_denied", f"{name} is a cloud's metadata service, which is never reachable.")
        if self.denies(name, port):
            raise Refusal(403, "host_denied", f"{name} is denied by --deny-domain or the profile's deny_domain.")
        is_default = port == 443 or (port == 80 and not tunnel)
        ports = (0, port) if is_default else (port,)
        entries = self._allowed.hosts.get(name, ())
        named = [rule for granted, rule, tls in entries if granted in ports and (tunnel or not tls)]
        if None in named:
            return _NAMED
        others = (*self._allowed.below(name), *self._groups.find(name))
        reachable = [rule for granted, rule, tls in others if granted in ports and (tunnel or not tls)]
        if None in reachable:
            return _REACHABLE
        rules = tuple(rule for rule in (*named, *reachable) if rule is not None)
        if rules:
            return Verdict(not reachable, rules)
        wanted = host_and_port(host.strip("[]") if ":" in name else name, 0 if is_default else port)
        refusal = Refusal(403, "host_denied", f"{wanted} is not in the allowlist.", f"--allow-domain {wanted}")
        refusal.unlisted = True
        raise refusal


class EveryPublicHost(Allowlist):
    """An allowlist on which every host stands, none of them by its name, so that none may have a private address.

    For `nono learn`, which tells afterwards what was reached. What is denied stays denied, and so do metadata services.
    """

    def __call__(self, host: str, port: int, *, tunnel: bool) -> Verdict:
        try:
            return super().__call__(host, port, tunnel=tunnel)
        except Refusal as refusal:
            if refusal.unlisted:
                return _REACHABLE
            raise


class _Table:
    """Entries by the name that they begin or end with."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.hosts: dict[str, Grants] = {}
        self.suffixes: dict[str, Grants] = {}
        self.has_https_rules = False
        self.add(texts)

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            if text.startswith("*."):
                table, name = self.suffixes, text[2:]
            elif text.startswith("."):
                table, name = self.suffixes, text[1:]
            else:
                table, name = self.hosts, text
            grants = _EVERYTHING
            if not _is_plain(name):
                entry = parse_entry(text)
                table, name = self.suffixes if entry.is_suffix else self.hosts, entry.name
                if entry.port or entry.rule is not None:
                    grants = ((entry.port, entry.rule, entry.tls),)
                    self.has_https_rules |= entry.rule is not None and entry.tls
            known = table.setdefault(name, grants)
            if known is not grants:
                table[name] = tuple(dict.fromkeys(known + grants))

    def find(self, name: str) -> Grants:
        """The grants of all entries that cover `name`."""
        return self.hosts.get(name, ()) + self.below(name)

    def below(self, name: str) -> Grants:
        """The grants of all suffixes that `name` ends in. An address has none: parse_entry refuses such a suffix."""
        grants: Grants = ()
        if self.suffixes:
            at = name.find(".")
            while at >= 0:
                grants += self.suffixes.get(name[at + 1 :], ())
                at = name.find(".", at + 1)
        return grants


def parse_entry(text: str) -> Entry:
    """Read an entry as an operator writes it: see above. Raises PolicyError."""

    def fail(why: str) -> PolicyError:
        return PolicyError(f"host {quoted(text)}: {why}")

    if text.strip() == "*":
        raise fail("this would allow every host; name those that the agent needs, e.g. '*.example.com'")
    port, rule, authority = 0, None, text.strip()
    scheme, separator, rest = authority.partition("://")
    if "@" in (rest if separator else authority).partition("/")[0]:
        raise fail("leave the user name out; a credential is named with --credential")
    if separator:
        port = _SCHEMES.get(scheme.lower(), 0)
        if not port:
            raise fail("write a host name, or a URL that begins with http:// or https://")
        authority, slash, path = rest.partition("/")
        if path:
            try:
                rule = endpoint_rule("*", slash + path)
            except ValueError as error:
                raise fail(str(error)) from None
    host, colon, digits = authority.rpartition(":")
    if colon and (host.endswith("]") or ":" not in host):
        if not digits.isascii() or not digits.isdigit() or len(digits) > 5 or not 0 < int(digits) < 65536:
            raise fail("the port must be a number from 1 to 65535")
        port = int(digits)
    else:
        host = authority
    is_suffix = host.startswith((".", "*."))
    try:
        name = normalise(host.removeprefix("*").removeprefix(".") if is_suffix else host)
    except ValueError as error:
        raise fail(str(error)) from None
    if is_suffix and is_address(name):
        raise fail("an address has no subdomains")
    return Entry(name, is_suffix, port, rule, bool(separator) and scheme.lower() == "https")


def quoted(text: str) -> str:
    """Return an entry as an error quotes it: without what may be a password."""
    return repr(text.rpartition("@")[2])


def normalise(host: str) -> str:
    """Return the name as it is compared. Raises ValueError with a reason for what is no host name."""
    if _is_plain(host):
        return host
    if "\0" in host or "%" in host or "\r" in host or "\n" in host or "[[" in host:
        raise ValueError("it contains a character that no host name has")
    if ":" in host:
        return _ipv6(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    name = host[:-1] if host.endswith(".") else host
    if not name.isascii():
        if not _TWO_READINGS.isdisjoint(name):
            raise ValueError("programs encode this name in two ways; write it as they send it, xn--…")
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError("it cannot be encoded as an international name") from None
    name = name.lower()
    if not name or len(name) > _MAX_NAME or not _HOST.issuperset(name):
        raise ValueError("it is empty, too long, or contains a character that no host name has")
    labels = name.split(".")
    if any(not label or len(label) > _MAX_LABEL for label in labels):
        raise ValueError("a part of it is empty or too long")
    if _is_number(labels[-1]) and not is_address(name):
        raise ValueError("it is a number that only some resolvers take for an address")
    return name


def host_and_port(host: str, port: int) -> str:
    """Return a host and a port as they are written together (RFC 3986 section 3.2.2). port: 0 to leave it out."""
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port}" if port else name


def is_address(name: str) -> bool:
    """Whether a normalised name is an address literal."""
    if ":" in name:
        return True
    parts = name.split(".")
    return len(parts) == 4 and all(p.isdigit() and len(p) <= 3 and int(p) < 256 and str(int(p)) == p for p in parts)


def _is_plain(name: str) -> bool:
    """Whether a name needs no normalising, told in half a microsecond: all but a few are so."""
    return (
        name.isascii()
        and not name.encode().translate(None, _PLAIN)
        and ".." not in name
        and 0 < len(name) <= _MAX_LABEL
        and name[0] != "."
        and name[-1] != "."
        and not name[name.rfind(".") + 1].isdigit()  # an address, or what some take for one
    )


def _is_number(label: str) -> bool:
    # inet_aton takes decimal, octal and 0x; a top-level domain is never one of these.
    return label.isdigit() or (label.startswith("0x") and _HEX.issuperset(label[2:]))


def _ipv6(text: str) -> str:
    """Return the one spelling of an IPv6 address that is compared: eight numbers, none left out."""
    text = text.lower()
    head, _, last = text.rpartition(":")
    if "." in last and is_address(last):
        a, b, c, d = map(int, last.split("."))
        text = f"{head}:{a << 8 | b:x}:{c << 8 | d:x}"
    left, gap, right = text.partition("::")
    before, after = _groups(left), _groups(right)
    missing = 8 - len(before) - len(after)
    if missing < 1 if gap else missing:
        raise ValueError("it is no IPv6 address")
    return ":".join(f"{number:x}" for number in (*before, *(0,) * missing, *after))


def _groups(text: str) -> list[int]:
    groups = text.split(":") if text else []
    if not all(0 < len(group) <= 4 and _HEX.issuperset(group) for group in groups):
        raise ValueError("it is no IPv6 address")
    return [int(group, 16) for group in groups]
