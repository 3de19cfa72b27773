"""Say what profiles are made of.

`nono profile groups` lists the groups of hosts that network profiles are made of. The hosts of package_registries are
not built in: the package managers of this machine (pip, npm, cargo, go, maven, gem) are asked for theirs, which takes a
few seconds when the settings of one have changed.

examples:
  nono profile groups
  nono profile groups --json
"""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from typing import Any

from nono.cli import render
from nono.cli.args import Parser
from nono.errors import NonoError
from nono.policy.network import GROUPS, REGISTRIES
from nono.registries.ask import is_private
from nono.registries.group import Group
from nono.registries.helper import ask_all
from nono.registries.managers import MANAGERS
from nono.supervisor.whereabouts import find_place

_WRAP = textwrap.TextWrapper(110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of `nono profile`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    text = "list the groups of hosts that network profiles are made of"
    groups = actions.add_parser("groups", help=text, description=text)
    groups.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """List the groups; return 0."""
    group = Group(os.environ, find_place(None, os.environ))
    if group.stale:
        names = ", ".join(tool.manager.name for tool in group.stale)
        render.notice(f"asking {names} where packages come from")
        try:
            group.answers.update(ask_all(group.stale, group.state, group.closed))
        except NonoError as error:
            render.notice(f"no more package managers are asked: {error}")
    elif cannot := group.cannot_ask:
        render.notice(cannot)
    managers = [_described(name, group) for name in (manager.name for manager in MANAGERS)]
    if arguments.json:
        groups: dict[str, Any] = {name: {"hosts": hosts} for name, hosts in GROUPS.items()}
        groups[REGISTRIES] = {"hosts": group.hosts, "managers": managers}
        print(json.dumps(groups, indent=1))
        return 0
    for name, hosts in GROUPS.items():
        print(name)
        if name == REGISTRIES:
            print("".join(map(_lines, managers)), end="")
        else:
            print(_WRAP.fill(", ".join(hosts)))
    return 0


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
