"""The built-in groups of paths: what every agent needs to run, what more a profile can ask for, what stays denied.

Pure: reads its own data file and nothing else; no path is looked at. DEFAULT names the groups that every run has, with
a profile or without. Every grant of a group is optional, because no machine has all of them; those of DEFAULT are
writable for devices only that keep nothing. Groups that deny are all in DEFAULT and required: no profile leaves them
out, and what they deny holds under any broader grant, also while the path does not exist. An agent's own directories
(~/.claude, ~/.codex) are granted by profiles, not here.

Data: data/groups.json. A path starts with "/", "~" (home) or one of $CONFIG, $STATE, $DATA, $RUNTIME. A directory of
the XDG base directory specification may have been moved by a variable: such a path counts in both places, the moved and
the default one, because the file may have been left behind. A group of another system than this one grants and denies
nothing. The names are those of the existing tool, so that its profiles load; where what a name stands for is done
otherwise here, or not at all, `note` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nono.errors import PolicyError
from nono.policy import data
from nono.policy.capabilities import READ, WRITE, PathDeny, PathGrant
from nono.policy.network import nearest
from nono.record import Record


class Group(Record):
    """One group. `required`: it cannot be left out. platform: "linux", "macos", or "" for both."""

    name: str
    description: str
    required: bool
    platform: str
    read: Sequence[str]
    write: Sequence[str]
    readwrite: Sequence[str]
    deny: Sequence[str]
    note: str

    def is_for(self, platform: str) -> bool:
        """Whether it counts on the system that sys.platform calls so."""
        return self.platform in ("", _SYSTEMS.get(platform, platform))


_SYSTEMS = {"darwin": "macos"}  # sys.platform -> what groups and profiles call it
_POLICY = data.read("groups.json")

GROUPS: dict[str, Group] = {
    name: Group(
        name,
        fields["description"],
        fields.get("required", False),
        fields.get("platform", ""),
        fields.get("read", ()),
        fields.get("write", ()),
        fields.get("readwrite", ()),
        fields.get("deny", ()),
        fields.get("note", ""),
    )
    for name, fields in _POLICY["groups"].items()
}
ALIASES: dict[str, str] = _POLICY["aliases"]  # other names of the existing tool -> ours
DEFAULT: tuple[str, ...] = tuple(_POLICY["default"])


def select(include: Iterable[str] = (), exclude: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the names of a run's groups: those of DEFAULT and `include`, without those of `exclude`, which wins.

    Raises PolicyError for a name that is no group's, and for leaving out a group that is required.
    """
    left_out = {_named(name, "exclude") for name in exclude}
    for name in left_out:
        if GROUPS[name].required:
            raise PolicyError(
                f"groups.exclude: {name} ({GROUPS[name].description}) is never left out; "
                "to open one path of it, name that in filesystem.bypass_protection, and grant it"
            )
    chosen = dict.fromkeys((*DEFAULT, *(_named(name, "include") for name in include)))
    return tuple(name for name in chosen if name not in left_out)


def _named(name: str, field: str) -> str:
    name = ALIASES.get(name, name)
    if name in GROUPS:
        return name
    near = nearest(name, (*GROUPS, *ALIASES))
    advice = f"did you mean {near}?" if near else "`nono profile groups` lists them"
    raise PolicyError(f"groups.{field}: there is no group {name!r}; {advice}")


def system_grants(
    home: str, config_home: str, *, platform: str = "linux", names: Iterable[str] = DEFAULT
) -> tuple[PathGrant, ...]:
    """Return what the groups `names` grant; without names, what every run has: programs, settings, devices, runtimes.

    home, config_home ($XDG_CONFIG_HOME or its default): absolute. platform: sys.platform. `origin` of each grant is its
    group's name, the first one's where several grant the same.
    """
    variables = {"~": (home,), "$CONFIG": (config_home, f"{home}/.config")}
    grants: dict[tuple[str, int], PathGrant] = {}
    for group in _of(names, platform):
        for patterns, access in ((group.read, READ), (group.write, WRITE), (group.readwrite, READ | WRITE)):
            for pattern in patterns:
                for path in _expand(pattern, variables):
                    grants.setdefault((path, access), PathGrant(path, access, False, group.name, True))
    return tuple(grants.values())


def sensitive_paths(
    home: str,
    config_home: str,
    state_home: str,
    runtime_dir: str,
    *,
    data_home: str = "",
    platform: str = "linux",
    names: Iterable[str] = DEFAULT,
) -> tuple[PathDeny, ...]:
    """Return the paths that stay denied under any broader grant, each with the group that names the reason.

    config_home, state_home, runtime_dir, data_home: $XDG_CONFIG_HOME and so on, or their defaults; "" for none. nono's
    own settings and state, `nono` in the first two, are among the denied.
    """
    variables = {
        "~": (home,),
        "$CONFIG": (config_home, f"{home}/.config"),
        "$STATE": (state_home, f"{home}/.local/state"),
        "$RUNTIME": (runtime_dir,),
        "$DATA": (data_home, f"{home}/.local/share"),
    }
    return tuple(
        PathDeny(path, group.name)
        for group in _of(names, platform)
        for pattern in group.deny
        for path in _expand(pattern, variables)
    )


def _of(names: Iterable[str], platform: str) -> list[Group]:
    return [group for group in map(GROUPS.__getitem__, names) if group.is_for(platform)]


def _expand(pattern: str, variables: dict[str, tuple[str, ...]]) -> list[str]:
    if pattern[0] == "/":
        return [pattern]
    head, slash, rest = pattern.partition("/")
    return [f"{base.rstrip('/')}{slash}{rest}" for base in dict.fromkeys(variables[head]) if base]
