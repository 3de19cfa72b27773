"""The built-in path groups: what every agent needs to run, and what stays denied whatever is granted.

Pure: reads its own data file and nothing else; no path is looked at. Every built-in grant is optional, because no
machine has all of them, and none is writable but devices that keep nothing. Every deny holds under any broader grant,
also while the path does not exist. An agent's own directories (~/.claude, ~/.codex) are granted by profiles, not here.

Data: data/paths.json. A path starts with "/", "~" (home) or one of $CONFIG, $STATE, $RUNTIME. A directory of the XDG
base directory specification may have been moved by a variable: such a path counts in both places, the moved and the
default one, because the file may have been left behind. "os" is absent where the path holds on both systems.
"""

from __future__ import annotations

from nono.policy import data
from nono.policy.capabilities import READ, WRITE, PathDeny, PathGrant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ACCESS = {"read": READ, "readwrite": READ | WRITE}
_table: dict[str, list[dict[str, Any]]] = {}  # the data file, once read


def system_grants(home: str, config_home: str, *, platform: str = "linux") -> tuple[PathGrant, ...]:
    """Return the grants that every run has: programs, settings, devices, language runtimes; all optional.

    home, config_home ($XDG_CONFIG_HOME or its default): absolute. platform: sys.platform. `origin` of each grant is its
    group's name.
    """
    variables = {"~": (home,), "$CONFIG": (config_home, f"{home}/.config")}
    return tuple(
        PathGrant(path, _ACCESS[group["access"]], False, group["group"], optional=True)
        for group, path in _paths("grants", variables, platform)
    )


def sensitive_paths(
    home: str,
    config_home: str,
    state_home: str,
    runtime_dir: str,
    *,
    data_home: str = "",
    platform: str = "linux",
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
    return tuple(PathDeny(path, group["group"]) for group, path in _paths("denies", variables, platform))


def _paths(kind: str, variables: dict[str, tuple[str, ...]], platform: str) -> list[tuple[dict[str, Any], str]]:
    if not _table:
        _table.update(data.read("paths.json"))
    return [
        (group, path)
        for group in _table[kind]
        if group.get("os", platform) == platform
        for pattern in group["paths"]
        for path in _expand(pattern, variables)
    ]


def _expand(pattern: str, variables: dict[str, tuple[str, ...]]) -> list[str]:
    head, slash, rest = pattern.partition("/")
    if not head:
        return [pattern]
    return [f"{base.rstrip('/')}{slash}{rest}" for base in dict.fromkeys(variables[head]) if base]
