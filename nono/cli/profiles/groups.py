"""`nono profile groups`: the groups of paths, for `groups.include`, and those of hosts, for network profiles.

The hosts of package_registries are not built in: the package managers of this machine (pip, npm, cargo, go, maven, gem)
are asked for theirs, which takes a few seconds when the settings of one have changed.
"""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from typing import Any

from nono.cli import render
from nono.cli.args import COLUMNS
from nono.cli.profiles.layout import hanging
from nono.errors import NonoError, UsageError
from nono.policy import groups as path_groups
from nono.policy.capabilities import READ, WRITE
from nono.policy.groups import ALIASES
from nono.policy.groups import GROUPS as PATH_GROUPS
from nono.policy.network import GROUPS, REGISTRIES, nearest
from nono.policy.resolve import Place
from nono.registries.ask import is_private
from nono.registries.group import Group
from nono.registries.helper import ask_all
from nono.registries.managers import MANAGERS
from nono.supervisor.whereabouts import find_place

_WRAP = textwrap.TextWrapper(COLUMNS, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
_SYSTEMS = {"macos": "darwin"}  # what groups call a system -> sys.platform
_ACCESS = {READ: "read", WRITE: "write", READ | WRITE: "readwrite"}


def run(arguments: argparse.Namespace) -> int:
    """List the groups, or show one; return 0."""
    place = find_place(None, os.environ)
    named = arguments.group and ALIASES.get(arguments.group, arguments.group)
    if named and named not in PATH_GROUPS and named not in GROUPS:
        near = nearest(named, (*PATH_GROUPS, *GROUPS))
        hint = f"did you mean {near}?" if near else "`nono profile groups` lists them"
        raise UsageError(f"there is no group '{arguments.group}'; {hint}")
    of_paths = [named] if named in PATH_GROUPS else [] if named else list(PATH_GROUPS)
    of_hosts = [named] if named in GROUPS else [] if named else list(GROUPS)
    registries = _ask(place) if REGISTRIES in of_hosts else None
    if arguments.json:
        found: dict[str, Any] = {name: _path_object(name, place) for name in of_paths}
        found |= {name: {"hosts": GROUPS[name]} for name in of_hosts}
        if registries is not None:
            found[REGISTRIES] = {"hosts": registries.hosts, "managers": _managers(registries)}
        print(json.dumps(found, indent=1))
        return 0
    home = render.home_of(os.environ)
    if named:
        print(_path_group(named, place, home) if of_paths else _host_group(named, registries), end="")
        return 0
    print("groups of paths (* every run has it; ! and it cannot be left out)\n")
    print("".join(_path_line(name) for name in of_paths))
    print("groups of hosts\n")
    print("".join(_host_group(name, registries) for name in of_hosts), end="")
    return 0


def _path_line(name: str) -> str:
    group = PATH_GROUPS[name]
    mark = "!" if group.required else "*" if name in path_groups.DEFAULT else " "
    system = f" ({group.platform} only)" if group.platform and not name.endswith(group.platform) else ""
    text = f"{group.description}{system}{' (see its note)' if group.note else ''}"
    return "".join(f"{line}\n" for line in hanging(f"{mark} {name:<27} ", text))


def _path_group(name: str, place: Place, home: str) -> str:
    group = PATH_GROUPS[name]
    lines = [name, *hanging("  ", group.description)]
    if group.platform:
        lines.append(f"  on {group.platform} only")
    if group.required:
        lines.append("  every run has it; it cannot be left out")
    elif name in path_groups.DEFAULT:
        lines.append("  every run has it, unless groups.exclude names it")
    else:
        lines.append("  for runs whose profile names it in groups.include")
    if group.note:
        lines += hanging("  note: ", group.note)
    for access, paths in _paths(name, place).items():
        for at, path in enumerate(paths):
            lines.append(f"  {access if not at else '':<9}  {render.printable(render.short(path, home))}")
    return "".join(f"{line}\n" for line in lines)


def _path_object(name: str, place: Place) -> dict[str, Any]:
    group = PATH_GROUPS[name]
    return {
        "description": group.description,
        "platform": group.platform,
        "default": name in path_groups.DEFAULT,
        "required": group.required,
        "note": group.note,
        **_paths(name, place),
    }


def _paths(name: str, place: Place) -> dict[str, list[str]]:
    """Return the expanded paths of a group by what it does with them, also of one of another system."""
    platform = _SYSTEMS.get(PATH_GROUPS[name].platform, PATH_GROUPS[name].platform) or place.platform
    found: dict[str, list[str]] = {access: [] for access in (*_ACCESS.values(), "deny")}
    for grant in path_groups.system_grants(place.home, place.config_home, platform=platform, names=[name]):
        found[_ACCESS[grant.access]].append(grant.path)
    for deny in path_groups.sensitive_paths(
        place.home,
        place.config_home,
        place.state_home,
        place.runtime_dir,
        data_home=place.data_home,
        platform=platform,
        names=[name],
    ):
        found["deny"].append(deny.path)
    return {access: paths for access, paths in found.items() if paths}


def _host_group(name: str, registries: Group | None) -> str:
    if name == REGISTRIES and registries is not None:
        return f"{name}\n{''.join(map(_lines, _managers(registries)))}"
    return f"{name}\n{_WRAP.fill(', '.join(GROUPS[name]))}\n"


def _ask(place: Place) -> Group:
    """Return the group of the package registries, once the package managers have been asked."""
    group = Group(os.environ, place)
    if group.stale:
        names = ", ".join(tool.manager.name for tool in group.stale)
        render.notice(f"asking {names} where packages come from")
        try:
            group.answers.update(ask_all(group.stale, group.state, group.closed))
        except NonoError as error:
            render.notice(f"no more package managers are asked: {error}")
    elif cannot := group.cannot_ask:
        render.notice(cannot)
    return group


def _managers(group: Group) -> list[dict[str, Any]]:
    return [_described(manager.name, group) for manager in MANAGERS]


def _described(name: str, group: Group) -> dict[str, Any]:
    """Return what is known of one manager. note: what a reader of its hosts must know; "" for nothing."""
    tool = next((tool for tool in group.tools if tool.manager.name == name), None)
    if tool is None:
        return {"manager": name, "command": "", "hosts": [], "note": "not installed"}
    answer = group.answers.get(tool.key) if not tool.obstacle else None
    note = f"left out: {tool.obstacle}" if tool.obstacle else ""
    if not note and (answer is None or not answer.hosts):
        note = "named no registry"
    elif answer is not None and not answer.whole:
        note = "where its index serves files is not known: the index did not answer; asked again later"
    hosts = [
        {"host": host.entry, "source": host.source, "reachable": not is_private(host.entry)}
        for host in (answer.hosts if answer else ())
    ]
    return {"manager": name, "command": tool.path, "hosts": hosts, "note": note}


def _lines(manager: dict[str, Any]) -> str:
    rows = []
    for host in manager["hosts"]:
        more = "" if host["reachable"] else f"; a private address, which needs --allow-domain {host['host']}"
        rows.append(f"{host['host']}  ({host['source']}{more})")
    if manager["note"]:
        rows.append(f"({manager['note']})")
    labels = (manager["manager"], *[""] * len(rows))
    return "".join(f"  {label:<6} {render.printable(row)}\n" for label, row in zip(labels, rows, strict=False))
