"""The hosts that the agent may name: which of them the proxy connects to.

Pure: names and ports in, a verdict out; no look-up (a denied name is never resolved). Names are compared as the
resolver would be asked for them: lower case, without the trailing dot, international ones IDNA-encoded. An entry is a
host (`example.com`), a suffix (`.example.com` or `*.example.com`: whatever ends in it, not `example.com` itself, never
`evilexample.com`), or an address literal; each may have a `:PORT`, and without one means ports 80 and 443. A denied
entry goes before an allowed one.

Refused before anything else, whatever is allowed: a name with NUL, `%`, CR, LF, `[[`, white space or other characters
that no host name has, a label that is empty or too long, and numbers that only some resolvers take for addresses
(`0x7f.1`, `2130706433`).

Source: RFC 1123 section 2.1; RFC 5891; RFC 6943 section 3.1 (comparing host names).
"""

from __future__ import annotations

from collections.abc import Iterable

from nono.errors import PolicyError, Refusal
from nono.record import Record

DEFAULT_PORTS = frozenset((80, 443))

_HOST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
_MAX_NAME = 253
_MAX_LABEL = 63


class Entry(Record):
    """A host, or (is_suffix) whatever ends in `.name`; on these ports."""

    name: str
    is_suffix: bool
    ports: frozenset[int]


class Allowlist:
    """Decides about hosts; call it with a name and a port."""

    def __init__(self, allowed: Iterable[str], denied: Iterable[str] = ()) -> None:
        """allowed, denied: entries as users write them. Raises PolicyError for one that is not sound."""
        self._allowed = [parse_entry(text) for text in allowed]
        # A host that is denied without a port is denied on all of them.
        self._denied = [
            entry._replace(ports=frozenset()) if entry.ports is DEFAULT_PORTS else entry
            for entry in (parse_entry(text) for text in denied)
        ]

    def __call__(self, host: str, port: int) -> Refusal | None:
        """None when the agent may reach `host`:`port`, else what it is answered."""
        try:
            name = normalise(host)
        except ValueError as error:
            return Refusal(400, "bad_host", f"This is no host name: {error}.")
        if any(_covers(entry, name) and (not entry.ports or port in entry.ports) for entry in self._denied):
            return Refusal(403, "host_denied", f"{name} is denied by --deny-domain or the profile.")
        on_other_ports = False
        for entry in self._allowed:
            if _covers(entry, name):
                if port in entry.ports:
                    return None
                on_other_ports = True
        wanted = f"{name}:{port}" if on_other_ports or port not in DEFAULT_PORTS else name
        message = f"{wanted} is not in the allowlist. The operator can grant it with --allow-domain {wanted}"
        return Refusal(403, "host_denied", message)


def parse_entry(text: str) -> Entry:
    """Read `example.com`, `.example.com`, `*.example.com`, `[::1]:8080`, each with or without :PORT; or a URL."""
    host, ports = text.strip(), DEFAULT_PORTS
    scheme, separator, rest = host.partition("://")
    if separator:
        if scheme not in ("http", "https"):
            raise PolicyError(f"host {text!r}: write a host name, or a URL that begins with http:// or https://")
        host = rest.partition("/")[0]
    head, colon, tail = host.rpartition(":")
    if colon and (head.endswith("]") or ":" not in head):
        if not tail.isascii() or not tail.isdigit() or not 0 < int(tail) < 65536:
            raise PolicyError(f"host {text!r}: the port must be a number from 1 to 65535")
        host, ports = head, frozenset((int(tail),))
    is_suffix = host.startswith((".", "*."))
    if is_suffix:
        host = host.lstrip("*")[1:]
    try:
        name = normalise(host)
    except ValueError as error:
        raise PolicyError(f"host {text!r}: {error}") from None
    if is_suffix and _is_address(name):
        raise PolicyError(f"host {text!r}: an address has no subdomains")
    return Entry(name, is_suffix, ports)


def normalise(host: str) -> str:
    """Return the name as it is compared. Raises ValueError with a reason for what is no host name."""
    if "\0" in host or "%" in host or "\r" in host or "\n" in host or "[[" in host:
        raise ValueError("it contains a character that no host name has")
    if ":" in host:
        name = host.lower()
        if name.startswith("[") and name.endswith("]"):
            name = name[1:-1]
        if not set("0123456789abcdef:.").issuperset(name):
            raise ValueError("it contains a character that no host name has")
        return name
    name = host[:-1] if host.endswith(".") else host
    if not name.isascii():
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
    if _is_number(labels[-1]) and not _is_address(name):
        raise ValueError("it is a number that only some resolvers take for an address")
    return name


def _is_number(label: str) -> bool:
    # inet_aton takes decimal, octal and 0x; a top-level domain is never one of these.
    return label.isdigit() or (label.startswith("0x") and all(c in "0123456789abcdef" for c in label[2:]))


def _is_address(name: str) -> bool:
    if ":" in name:
        return True
    parts = name.split(".")
    return len(parts) == 4 and all(p.isdigit() and len(p) <= 3 and int(p) < 256 and str(int(p)) == p for p in parts)


def _covers(entry: Entry, name: str) -> bool:
    return name.endswith("." + entry.name) if entry.is_suffix else name == entry.name
