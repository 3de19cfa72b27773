"""What the first record of a session says: who started what, and what it may do.

Pure. Credentials are named, never by their reference: a key may have been pasted in its place. What the user typed is
redacted; what the built-in policy says (the groups' denies, the hosts of a network profile) is named, not repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nono import __version__
from nono.audit import redact
from nono.policy.capabilities import READ, WRITE, CapabilitySet, PathGrant
from nono.policy.protection import PROFILES_DENY, USERS_DENY

_ACCESS = {READ: "read", WRITE: "write", READ | WRITE: "read+write"}


def start_of(
    argv: Sequence[str],
    name: str,
    capabilities: CapabilitySet,
    grants: Iterable[PathGrant],
    lineage: Iterable[tuple[str, str]],
    wall: str,
) -> dict[str, object]:
    """Return the members of a start. grants: as they are applied. lineage: (name, file) of each profile, base first."""
    has = capabilities
    through = has.upstream_proxy
    return {
        "version": __version__,
        "name": name,
        "argv": redact.argv(argv),
        "workdir": redact.without_keys(has.workdir),
        "profiles": [{"name": each, "source": redact.without_keys(source)} for each, source in lineage],
        "grants": [
            {"path": redact.without_keys(grant.path), "access": _ACCESS[grant.access], "origin": grant.origin}
            for grant in grants
        ],
        "denies": [redact.without_keys(deny.path) for deny in has.denies if deny.group in (USERS_DENY, PROFILES_DENY)],
        "unprotected": [redact.without_keys(path) for path in has.bypassed],
        "network": has.network,
        "network_profile": has.network_profile,
        "hosts": [redact.url(host) for host in has.allowed_hosts],
        "denied_hosts": [redact.url(host) for host in has.denied_hosts],
        "upstream_proxy": f"{through.host}:{through.port}" if through is not None else "",
        "credentials": [{"name": route.name, "upstream": redact.url(route.upstream)} for route in has.routes],
        "exposed_credentials": [variable for _, variable in has.env_credentials],
        "sockets": [*map(redact.without_keys, has.unix_sockets), *(["own"] if has.own_sockets else [])],
        "open_ports": list(has.open_ports),
        "listen_ports": list(has.listen_ports),
        "limits": {field: value for field, value in zip(has.limits._fields, has.limits, strict=True) if value},
        "wall": wall,
    }
