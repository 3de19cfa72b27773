"""`extends`: the profiles that one run names, and those that these build on, merged into one.

Each profile counts once, bases before what builds on them, left to right; then, level by level: lists add up, each
entry once, in the order in which it was first written; of maps and single values the later level's counts, where it is
given. `block` stays true once it is. `credentials: []` takes out those that were inherited, null an inherited
network_profile or upstream_proxy. A condition (`when`) is judged, and the entry of platform_overrides that is for this
system is merged as a level of its own, right after its profile.

So a child can add and, in the few ways that are named, take away; what comes out is never more than what its levels say
between them. One case needs care: whoever restricts the network names what may be reached, and a child that takes all
of that away would leave nothing named, which means an open network. It stays restricted (Network.restricted) unless the
child also says `network_profile: null`.

Pure: `read` gets the files. Who wrote what is kept (origins), for messages, the summary and `nono why`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nono.errors import PolicyError
from nono.policy import profile as profiles
from nono.policy.conditions import Facts, holds
from nono.policy.network import builtin_routes, make_route, nearest
from nono.policy.profile import PATCH, Profile, Written
from nono.policy.shape import APPEND, CLEAR, EITHER, KEYS, Conditional, Map, Maybe, Shape, reason
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BUILT_IN = "built-in"
MOST_LEVELS = 10


class Source(Record):
    """One profile's text. name: by which it was found; "" for a file, which may name itself. path: or BUILT_IN."""

    name: str
    path: str
    text: str


class Inherited(Record):
    """What the profiles of one run say together, and who says what.

    lineage: (name, file or BUILT_IN) of each profile, base first. origins: (key, value) -> name of the profile that
    wrote it: ("filesystem.read", "~/notes"), ("network.custom_credentials", "mine"), ("workdir.access", "read").
    places: the same -> file and JSON path.
    """

    profile: Profile
    lineage: tuple[tuple[str, str], ...] = ()
    origins: Mapping[tuple[str, str], str] = {}
    places: Mapping[tuple[str, str], str] = {}

    @property
    def name(self) -> str:
        """The name of the profile that all others are bases of."""
        return self.lineage[-1][0] if self.lineage else ""

    @property
    def files(self) -> tuple[str, ...]:
        """The files that were read, built-in ones left out."""
        return tuple(path for _, path in self.lineage if path != BUILT_IN)

    @property
    def built_in_origins(self) -> frozenset[str]:
        """What origin() says of the built-in profiles."""
        return frozenset(f"profile {name}" for name, path in self.lineage if path == BUILT_IN)

    def origin(self, key: str, value: object) -> str:
        """Return who wrote `value`, as grants name it."""
        name = self.origins.get((key, str(value)), self.name)
        return f"profile {name}" if name else "profile"

    def place(self, key: str, value: object) -> str:
        """Return where `value` is written, as messages begin: `profile FILE: filesystem.read[2]`."""
        return self.places.get((key, str(value)), f"profile {self.name}: {key}" if self.name else f"profile: {key}")


Reader = Callable[[str, str], "Source | None"]


def inherit(names: Sequence[str], read: Reader, facts: Callable[[], Facts]) -> Inherited:
    """Return what the profiles called `names` say together, each later one over the earlier.

    read: (name, path of the profile that extends it or "") -> its text; None for no such profile, which is then an
    error here; it may raise PolicyError itself. facts: about this machine; asked only where a profile has a condition.
    """
    levels = _Lineage(read)
    for name in names:
        levels.add(name, "", ())
    return _merge(levels.found, facts)


def of_text(text: str, source: str = "profile", facts: Facts | None = None) -> Inherited:
    """Return what one profile says that extends no other; for tests, and for text that is in no file."""
    return inherit(
        [source], lambda name, _: Source("", source, text) if name == source else None, lambda: facts or Facts("linux")
    )


class _Lineage:
    """The profiles, read once each, base first."""

    def __init__(self, read: Reader) -> None:
        self._read = read
        self._seen: set[tuple[str, str]] = set()
        self.found: list[tuple[str, Written]] = []

    def add(self, name: str, referrer: str, chain: tuple[tuple[str, tuple[str, str]], ...]) -> None:
        source = self._read(name, referrer)
        if source is None:
            raise PolicyError(f"there is no profile '{name}'")
        key = (source.name, BUILT_IN) if source.path == BUILT_IN else ("", source.path)
        shown = " → ".join([*(link for link, _ in chain), name])
        if any(key == other for _, other in chain):
            raise PolicyError(f"profile {source.path}: extends itself: {shown}; take one of them out")
        if len(chain) > MOST_LEVELS:
            raise PolicyError(f"profile {source.path}: more than {MOST_LEVELS} levels of extends: {shown}")
        if key in self._seen:
            return
        written = profiles.parse(source.text, source.name if source.path == BUILT_IN else source.path)
        for base in written.extends:
            self.add(base, source.path if source.path != BUILT_IN else f"{BUILT_IN}:{source.name}",
                     (*chain, (name, key)))  # fmt: skip
        self._seen.add(key)
        called = source.name or written.name or source.path.rpartition("/")[2].partition(".")[0]
        self.found = [(f"{other} ({base.source})" if other == called else other, base) for other, base in self.found]
        self.found.append((called, written._replace(source=source.path)))


def _merge(levels: Sequence[tuple[str, Written]], facts: Callable[[], Facts]) -> Inherited:
    merging = _Merging(facts)
    for name, written in levels:
        merging.add(name, written.source, written.members)
    network = merging.tree.get("network", {})
    profile = profiles.make(merging.tree, restricted=merging.restricted and not _restricts(network))
    inherited = Inherited(
        profile,
        tuple((name, written.source) for name, written in levels),
        merging.origins,
        merging.places,
    )
    _check_sockets(inherited)
    _check_credentials(inherited)
    return inherited


class _Merging:
    """The tree of what has been said so far, and who said it."""

    def __init__(self, facts: Callable[[], Facts]) -> None:
        self._ask = facts
        self._facts: Facts | None = None
        self.tree: dict[str, Any] = {}
        self.origins: dict[tuple[str, str], str] = {}
        self.places: dict[tuple[str, str], str] = {}
        self.restricted = False
        self._name = self._source = ""

    def add(self, name: str, source: str, members: Mapping[str, Any]) -> None:
        """Merge one profile over what has been merged."""
        self._name, self._source = name, name if source == BUILT_IN else source
        self._level(members, "")
        overrides = members.get("platform_overrides")
        if overrides and (patch := overrides.get(self._machine().system)):
            self._level(patch, f"platform_overrides.{self._machine().system}.")

    def _level(self, members: Mapping[str, Any], at: str) -> None:
        self._shape(PATCH, self.tree, members, "", at)
        network = members.get("network", {})
        if "network_profile" in network and network["network_profile"] is None:
            self.restricted = False
        self.restricted = self.restricted or _restricts(network)

    def _shape(self, shape: Shape, tree: dict[str, Any], members: Mapping[str, Any], path: str, at: str) -> None:
        """Merge an object; path: where it stands in the format; at: what comes before that in this file."""
        for name, value in members.items():
            member = shape.members.get(name)
            if member is None or name == "$schema":
                continue
            key = f"{path}.{name}" if path else name
            kind = member.kind.kind if isinstance(member.kind, Maybe) else member.kind
            if member.merge in (APPEND, CLEAR):
                tree[name] = self._list(tree.get(name, ()), value, key, at, clears=member.merge == CLEAR)
            elif member.merge == EITHER:
                tree[name] = tree.get(name, False) or value
                self._wrote(key, value, f"{at}{key}")
            elif member.merge == KEYS and value is None:
                pass  # `environment: null` says nothing
            elif member.merge == KEYS and isinstance(kind, Shape):
                self._shape(kind, tree.setdefault(name, {}), value, key, at)
            elif member.merge == KEYS and isinstance(kind, Map):
                tree[name] = {**tree.get(name, {}), **self._map(value, key, at)}
            elif path != "security" or value is not None:
                tree[name] = value
                self._wrote(key, value, f"{at}{key}")

    def _list(self, base: tuple[Any, ...], value: tuple[Any, ...], key: str, at: str, *, clears: bool) -> Any:
        if clears and not value:
            return ()
        merged = dict.fromkeys(base)
        for index, entry in enumerate(value):
            said = self._judged(entry)
            if said is not None and said not in merged:
                merged[said] = None
                self._wrote(key, said, f"{at}{key}[{index}]")
        return tuple(merged)

    def _map(self, value: Mapping[str, Any], key: str, at: str) -> dict[str, Any]:
        judged = {name: said for name, entry in value.items() if (said := self._judged(entry)) is not None}
        for name in judged:
            self._wrote(key, name, f"{at}{key}.{name}")
        return judged

    def _judged(self, entry: Any) -> Any:
        """Return the entry's value; None where its condition does not hold."""
        if not isinstance(entry, Conditional):
            return entry
        return entry.value if holds(entry.when, self._machine()) else None

    def _machine(self) -> Facts:
        if self._facts is None:
            self._facts = self._ask()
        return self._facts

    def _wrote(self, key: str, value: object, place: str) -> None:
        self.origins[key, str(value)] = self._name
        self.places[key, str(value)] = f"profile {self._source}: {place}"


def _restricts(network: Mapping[str, Any]) -> bool:
    """Whether such a network is restricted to what is named."""
    return any(network.get(name) for name in ("allow_domain", "credentials", "network_profile"))


def _check_sockets(inherited: Inherited) -> None:
    """Refuse what the sandbox cannot do, where it is meant for this machine."""
    for name in profiles.Filesystem._fields:
        if name.startswith("unix_socket_") and (paths := getattr(inherited.profile.filesystem, name)):
            key = f"filesystem.{name}"
            raise PolicyError(f"{inherited.place(key, paths[0])} is refused: {reason(key)}")


def _check_credentials(inherited: Inherited) -> None:
    """Refuse a credential that is not sound, and the name of one that there is not."""
    network = inherited.profile.network
    if not network.credentials and not network.custom_credentials:
        return
    known = builtin_routes()
    for name, fields in inherited.profile.custom_routes().items():
        try:
            known[name] = make_route(name, fields, known)
        except PolicyError as error:
            raise PolicyError(f"{inherited.place('network.custom_credentials', name)}: {error}") from None
    for name in network.credentials:
        if name not in known:
            hint = f"; did you mean {near}?" if (near := nearest(name, known)) else "."
            raise PolicyError(
                f"{inherited.place('network.credentials', name)}: there is no credential '{name}'{hint} Known ones: "
                f"{', '.join(sorted(known))}"
            )
