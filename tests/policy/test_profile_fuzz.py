"""Whatever stands in profiles: a profile or one sentence comes out, and a child never widens what the levels say.

Profiles are made from the description of their shape, so that a key that is added there is tried here.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nono.errors import PolicyError, UsageError
from nono.policy.capabilities import NETWORK_BLOCKED, NETWORK_OPEN, CapabilitySet
from nono.policy.conditions import Facts
from nono.policy.inherit import Inherited, Source, inherit
from nono.policy.paths import Place
from nono.policy.profile import PATCH, SHAPE
from nono.policy.resolve import Request, resolve
from nono.policy.shape import Each, Either, Flag, Kind, Map, Maybe, Mistake, Number, Shape, Text

PLACE = Place("/home/u", "/home/u/app", "/tmp", "/home/u/.config", "/home/u/.local/state", "/run/user/1", uid="1")
FACTS = Facts("linux", "fedora", (), "43")
_WORDS = (
    "~/a", "/b", "$HOME/c", "$WORKDIR", "$TMPDIR/$UID", "~/.ssh", "~/.aws/config", "/", "own", "a/*", "$X", "~x", "\0",
    "openai", "github", "mine", "example.com", "*.example.com", "https://example.com/x/**", "developer", "minimal",
    "go_runtime", "git_config", "deny_credentials", "AWS_*", "*_TOKEN", "PATH", "isolated", "allow_all", "pathname",
    "read", "readwrite", "none", "linux", "!linux", "p.example:3128", "child", "base", "nope", "", "https://a.example/v1",
    "header", "X-Key", "Bearer {}", "/bot{}/", "my_key", "\ud800", "é",
)  # fmt: skip
words = st.sampled_from(_WORDS)
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def _is_sound(kind: Kind, word: str) -> bool:
    try:
        kind.check(word, "")
    except Mistake:
        return False
    return True


def values(kind: Kind) -> st.SearchStrategy[Any]:
    """Values of a kind, nearly all of them sound."""
    if isinstance(kind, Shape):
        return st.fixed_dictionaries(
            {name: values(member.kind) for name, member in kind.members.items() if member.needed},
            optional={
                alias: values(kind.members[name].kind)
                for alias, name in kind.names.items()
                if not kind.members[name].needed
            },
        )
    if isinstance(kind, Maybe):
        return st.none() | values(kind.kind)
    if isinstance(kind, Each):
        entries = values(kind.kind)
        when = st.sampled_from(["linux", "!linux", "macos", ["macos", "linux:fedora:>=43"]])
        conditional = st.fixed_dictionaries({kind.named: entries}, optional={"when": when})
        return st.lists(st.one_of(entries, entries, entries, conditional) if kind.named else entries, max_size=3)
    if isinstance(kind, Map):
        return st.dictionaries(words, values(kind.kind), max_size=2)
    if isinstance(kind, Text):
        return st.sampled_from(kind.schema().get("enum") or [word for word in _WORDS if _is_sound(kind, word)])
    if isinstance(kind, Flag):
        return st.booleans()
    if isinstance(kind, Number):
        return st.sampled_from([1, 80, 65535, 0, 65536])
    if isinstance(kind, Either):
        return words | st.lists(words, max_size=2) | st.booleans()
    raise AssertionError(kind)


def some_keys(shape: Shape) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of a few keys, so that many of them are sound as a whole."""
    names = st.lists(st.sampled_from(sorted(shape.names)), max_size=3, unique=True)
    return names.flatmap(
        lambda keys: st.fixed_dictionaries({key: values(shape.members[shape.names[key]].kind) for key in keys})
    )


def profiles() -> st.SearchStrategy[Any]:
    def section(name: str) -> st.SearchStrategy[Any]:
        kind = PATCH.members[name].kind
        return some_keys(kind) if isinstance(kind, Shape) else values(kind)

    sections = st.lists(st.sampled_from(sorted(PATCH.members)), max_size=3, unique=True)
    return sections.flatmap(lambda names: st.fixed_dictionaries({name: section(name) for name in names}))


def few(*choices: Any) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(choices), max_size=2)


_paths = few("~/a", "/b", {"path": "/c", "when": "linux"}, {"path": "/d", "when": "!linux"})
_network = {
    "block": st.booleans(),
    "network_profile": st.sampled_from(["developer", "minimal", None]),
    "allow_domain": few("a.example", "*.b.example"),
    "deny_domain": few("c.a.example"),
    "credentials": few("openai", "github"),
    "open_port": few(1, 2),
}
_environment = {"allow_vars": few("A", "B_*"), "deny_vars": few("C", "*_D")}
# What decides how wide a run is, so often that two levels have much to say to each other.
deciding = st.fixed_dictionaries(
    {},
    optional={
        "filesystem": st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(("allow", "read", "write_file", "deny", "unix_socket"), _paths)
            | {"bypass_protection": few("~/.aws/config")},
        ),
        "network": st.fixed_dictionaries({}, optional=_network),
        "environment": st.fixed_dictionaries({}, optional=_environment),
        "groups": st.fixed_dictionaries({}, optional={"include": few("go_runtime"), "exclude": few("git_config")}),
        "workdir": st.fixed_dictionaries({"access": st.sampled_from(["none", "read", "readwrite"])}),
        "platform_overrides": st.fixed_dictionaries(
            {}, optional={"linux": st.fixed_dictionaries({"network": st.fixed_dictionaries({}, optional=_network)})}
        ),
    },
)


def inherited(*texts: str) -> Inherited:
    """Return what these say, each the base of the next."""
    read = {f"p{number}": text for number, text in enumerate(texts)}
    return inherit(
        list(read), lambda name, _: Source(name, f"/{name}", read[name]) if name in read else None, lambda: FACTS
    )


def decide(*written: Any) -> CapabilitySet | None:
    """Return what a run with these profiles may do; None where that is refused."""
    try:
        return resolve(Request(), inherited(*map(json.dumps, written)), PLACE)
    except (PolicyError, UsageError) as error:
        said = str(error)
    assert "\n" not in said
    return None


_quickly = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@_quickly
@given(profiles(), st.integers(0, 40), junk)
def test_anything_is_decided_or_refused(written: Any, at: int, strange: Any) -> None:
    """One value anywhere in a profile is replaced by junk."""
    places: list[tuple[Any, Any]] = []
    left = [written]
    while left:
        value = left.pop()
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            places.append((value, key))
            left.append(inner)
    decide(written)
    if places:
        parent, key = places[at % len(places)]
        parent[key] = strange
    decide(written)


@_quickly
@given(junk | st.dictionaries(st.sampled_from(sorted(SHAPE.names)), junk, max_size=3))
def test_any_json_is_decided_or_refused(written: Any) -> None:
    decide(written)


@_quickly
@given(st.text(alphabet='{}[]":,/*\\ \n\tabc0123.eE+-ntfx\0é\ud800', max_size=60))
def test_any_text_is_decided_or_refused(text: str) -> None:
    try:
        inherited(text)
    except PolicyError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said


def _said(profile: Any, key: str) -> list[Any]:
    """What a profile says of the network, on this system."""
    parts = (profile, (profile.get("platform_overrides") or {}).get("linux") or {})
    networks = [part.get("network") or {} for part in parts]
    return [network[key] for network in networks if key in network]


@settings(_quickly, max_examples=400)
@given(deciding, deciding)
def test_a_child_never_widens_what_the_levels_say(base: Any, child: Any) -> None:
    alone = decide(base), decide(child)
    both = decide(base, child)
    assume(None not in (*alone, both))
    one, two, merged = (*alone, both)
    assert one
    assert two
    assert merged
    assert {(g.path, g.access, g.is_file) for g in merged.grants} <= {
        (g.path, g.access, g.is_file) for has in (one, two) for g in has.grants
    }
    assert {(d.path, d.access) for d in merged.denies if not d.holes} >= {
        (d.path, d.access)
        for has in (one, two)
        for d in has.denies
        if not d.holes
        and d.path not in merged.bypassed
        and not any(x.path == d.path and x.holes for x in merged.denies)
    }
    assert set(merged.bypassed) <= {*one.bypassed, *two.bypassed}
    assert set(merged.unix_sockets) <= {*one.unix_sockets, *two.unix_sockets}
    assert merged.own_sockets <= (one.own_sockets or two.own_sockets)
    if True in (*_said(base, "block"), *_said(child, "block")):
        assert merged.network == NETWORK_BLOCKED
    if None not in (*_said(base, "network_profile"), *_said(child, "network_profile")):
        assert (merged.network == NETWORK_OPEN) <= (one.network == NETWORK_OPEN)
    assert (merged.network == NETWORK_OPEN) <= (two.network == NETWORK_OPEN)
    assert set(merged.allowed_hosts) <= {*one.allowed_hosts, *two.allowed_hosts}
    assert set(merged.group_hosts) <= {*one.group_hosts, *two.group_hosts}
    assert {r.name for r in merged.routes} <= {r.name for has in (one, two) for r in has.routes}
    assert set(merged.env_credentials) <= {*one.env_credentials, *two.env_credentials}
    ports = (*_said(base, "open_port"), *_said(child, "open_port"))
    assert set(merged.open_ports) <= {port for several in ports for port in several}
    assert set(merged.environment.deny_vars) >= {*one.environment.deny_vars, *two.environment.deny_vars}
    allowed = [has.environment.allow_vars for has in (one, two)]
    if merged.environment.allow_vars is None:
        assert allowed == [None, None]
    else:
        assert set(merged.environment.allow_vars) <= {name for names in allowed for name in names or ()}
    if merged.allowlist is not None:
        hosts = (*_said(base, "deny_domain"), *_said(child, "deny_domain"))
        assert set(merged.denied_hosts) == {host for several in hosts for host in several}
