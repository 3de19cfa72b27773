"""What a run leaves for its own agent: its policy, in a file of its temporary directory, so that `nono why --self` can
say why. NONO_POLICY names it.

The file is made before the agent starts, so that nothing of the agent's can be in its place, and written once it runs,
because a user waits for the start. The agent may write it; then it deceives itself, and nobody else: the supervisor
never reads it. Nothing secret is in it: no token, no key, no reference to one, no name of a file that holds one. It has
what the summary shows the user, and the built-in protected paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from nono.errors import PolicyError
from nono.policy.allowlist import Allowlist
from nono.policy.capabilities import CapabilitySet, PathDeny, PathGrant
from nono.policy.protection import PROFILES_DENY, SIGNED, USERS_DENY
from nono.policy.resolve import Place
from nono.policy.routes import EndpointRule, Route
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from nono.policy.host_verdict import Origins

VARIABLE = "NONO_POLICY"
_NAME = ".nono-policy.json"
_VERSION = 1
_MAX_BYTES = 16 << 20


class Left(Record):
    """What the file says. private: directories of the agent's own. wall: as the summary has it."""

    place: Place
    capabilities: CapabilitySet
    private: tuple[str, ...]
    wall: str
    origins: Origins
    registries: tuple[str, ...] = ()


class PolicyFile:
    """The file, empty at first; a context manager."""

    def __init__(self, directory: str) -> None:
        """Make it in the run's own directory, in which there is nothing else yet."""
        path = os.path.join(directory, _NAME)
        self.variables = {VARIABLE: path}
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def write(self, left: Left) -> None:
        """Write what the agent may know. That there is no room for it is no reason to end the run."""
        data = memoryview(to_text(left).encode())
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)


def to_text(left: Left) -> str:
    """Return the JSON of the file."""
    import json

    has = left.capabilities
    place = left.place
    known = [deny for deny in has.denies if _may_be_known(deny)]
    return json.dumps({
        "version": _VERSION,
        "wall": left.wall,
        "private": left.private,
        "home": place.home,
        "workdir": place.workdir,
        "temporary_directory": place.temporary_directory,
        "grants": [[grant.path, grant.access, grant.is_file, grant.origin] for grant in has.grants],
        "denies": [[deny.path, deny.group, deny.access, deny.holes] for deny in known],
        "network": has.network,
        "routes": [[route.name, route.upstream, route.base_url_vars[:1], route.endpoint_rules] for route in has.routes],
        "allowed": has.allowed_hosts,
        "denied": has.denied_hosts,
        "groups": has.group_hosts if has.allowlist is not None else None,
        "registries": left.registries,
        "network_profile": has.network_profile,
        "open_ports": has.open_ports,
        "intercept": has.intercept,
        "origins": [[member, value, name] for (member, value), name in left.origins.items() if _is_shown(member)],
    })  # fmt: skip


def from_text(text: str) -> Left:
    """Return what the file says. Raises PolicyError for one that the agent has spoilt."""
    import json

    try:
        return _read(json.loads(text))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise PolicyError(f"the file that {VARIABLE} names is not what nono wrote; start a new run") from None


def read(path: str) -> str:
    """Return the text of the file; "" where it is still empty. Raises PolicyError."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), encoding="utf-8") as file:
            return file.read(_MAX_BYTES)
    except (OSError, UnicodeDecodeError):
        raise PolicyError(f"the file that {VARIABLE} names ({path}) cannot be read; start a new run") from None


def _may_be_known(deny: PathDeny) -> bool:
    """Whether the agent may know of it: it is built in, or the summary names it; not where keys and profiles are."""
    return deny.group.startswith("deny_") or deny.group in (USERS_DENY, PROFILES_DENY, SIGNED)


def _is_shown(member: str) -> bool:
    return member in ("network.allow_domain", "network.deny_domain", "network.block")


def _read(data: Any) -> Left:
    if data["version"] != _VERSION:
        raise ValueError("another version")
    home, texts = str(data["home"]), _texts
    allowed, denied = texts(data["allowed"]), texts(data["denied"])
    groups = data["groups"]
    registries = texts(data["registries"])
    allowlist = None if groups is None else Allowlist(allowed, denied, (*texts(groups), *registries))
    routes = tuple(
        Route(
            str(name), str(upstream), "", base_url_vars=texts(variables),
            endpoint_rules=tuple(EndpointRule(str(method), str(path)) for method, path in rules),
        )
        for name, upstream, variables, rules in data["routes"]
    )  # fmt: skip
    capabilities = CapabilitySet(
        grants=tuple(PathGrant(str(p), int(a), bool(f), str(o)) for p, a, f, o in data["grants"]),
        denies=tuple(PathDeny(str(p), str(g), int(a), texts(holes)) for p, g, a, holes in data["denies"]),
        network=str(data["network"]),
        routes=routes,
        workdir=str(data["workdir"]),
        allowed_hosts=allowed,
        denied_hosts=denied,
        group_hosts=texts(groups or ()),
        allowlist=allowlist,
        network_profile=str(data["network_profile"]),
        open_ports=tuple(int(port) for port in data["open_ports"]),
        intercept=bool(data["intercept"]),
    )
    place = Place(home, capabilities.workdir, str(data["temporary_directory"]), f"{home}/.config", f"{home}/.local", "")
    origins = {(str(member), str(value)): str(name) for member, value, name in data["origins"]}
    return Left(place, capabilities, texts(data["private"]), str(data["wall"]), origins, registries)


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(map(str, values))
