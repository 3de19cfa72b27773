"""macOS: the capability set as a Seatbelt profile, the text that sandbox_init(3) takes.

Pure: text in, text out; nothing here asks whether a path exists. The last matching rule wins, so the order is: deny
all, what every program needs, the grants, the denies, the network. Seatbelt can subtract, so a denied path under a
broader grant is simply denied after it, by a rule for the path itself and all below it, whether it exists or not; and
Seatbelt judges chmod, chown and extended attributes too, which Landlock does not.

Paths must be real ones (/private/etc, not /etc): Seatbelt compares what the kernel resolved. Not tested on a Mac: the
tests look at the text.

Source: the reverse-engineered "Apple's Sandbox Guide v1.0" and the profiles in /System/Library/Sandbox/Profiles.
"""

from __future__ import annotations

from collections.abc import Iterator

from nono.policy.capabilities import NETWORK_OPEN, NETWORK_PROXY, READ, WRITE, CapabilitySet, PathGrant

# What dyld, libSystem and every language runtime ask for before main(). No Mach service of the keychain
# (com.apple.SecurityServer, com.apple.securityd) or of the pasteboard is among them.
_BASE = """\
(version 1)
(deny default)
(allow process-fork)
(allow process-info* (target same-sandbox))
(allow signal (target same-sandbox))
(allow sysctl-read)
(allow file-read-metadata)
(allow system-fsctl)
(allow pseudo-tty)
(allow ipc-posix-sem)
(allow mach-lookup
    (global-name "com.apple.system.logger")
    (global-name "com.apple.system.notification_center")
    (global-name "com.apple.system.opendirectoryd.libinfo")
    (global-name "com.apple.bsd.dirhelper"))
(allow file-ioctl (literal "/dev/tty") (literal "/dev/null") (literal "/dev/dtracehelper"))
"""


def profile(capabilities: CapabilitySet, proxy_port: int = 0) -> str:
    """Return the SBPL text for `capabilities`.

    proxy_port: the proxy's port on the loopback address; needed in NETWORK_PROXY. Raises ValueError for a path with a
    NUL byte, or without a port where one is needed.
    """
    lines = [_BASE.rstrip("\n")]
    for grant in capabilities.grants:
        lines.extend(_grant(grant))
    for deny in capabilities.denies:
        what = "file-read-data file-read-xattr file-write* process-exec*" if deny.access & READ else "file-write*"
        lines.append(f"(deny {what} {_subtree(deny.path)})  ; {deny.group}")
    lines.extend(_network(capabilities.network, proxy_port))
    return "\n".join(lines) + "\n"


def quote(path: str) -> str:
    """Return `path` as an SBPL string. Only the backslash and the quote mean anything in one."""
    if "\0" in path:
        raise ValueError("a path cannot hold a NUL byte")
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _subtree(path: str) -> str:
    return f"(literal {quote(path)}) (subpath {quote(path)})"


def _grant(grant: PathGrant) -> Iterator[str]:
    place = f"(literal {quote(grant.path)})" if grant.is_file else _subtree(grant.path)
    if grant.access & READ:
        yield f"(allow file-read* process-exec file-map-executable {place})"
    if grant.access & WRITE:
        yield f"(allow file-write* {place})"
        yield f"(deny file-write-setugid {place})"


def _network(network: str, proxy_port: int) -> Iterator[str]:
    """Yield the network rules. Seatbelt knows two hosts, `localhost` and `*`; a unix socket is neither."""
    if network == NETWORK_OPEN:
        yield '(allow network-outbound (remote ip "*:*"))'
        yield '(allow network-inbound network-bind (local ip "*:*"))'
    elif network == NETWORK_PROXY:
        if not 0 < proxy_port <= 0xFFFF:
            raise ValueError("the proxy's port is missing")
        yield f'(allow network-outbound (remote tcp "localhost:{proxy_port}"))'
    yield "(allow system-socket (socket-domain AF_INET) (socket-domain AF_INET6))"
    yield "(deny network-outbound (remote unix-socket))"
