"""`nono profile diff`: what two profiles come to, compared. As diff(1): 0 for the same, 1 different, 2 for trouble."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from nono.cli.profiles.flat import LISTS, flat
from nono.cli.profiles.layout import hanging, said, shown
from nono.cli.profiles.sources import resolved
from nono.cli.render import printable
from nono.supervisor.whereabouts import find_place

SAME, DIFFERENT = 0, 1


def run(arguments: argparse.Namespace) -> int:
    """Compare; return 0 where both say the same, else 1."""
    place = find_place(None, os.environ)
    changes = compare(flat(resolved(arguments.one, place).profile), flat(resolved(arguments.other, place).profile))
    if arguments.json:
        print(json.dumps({"same": not changes, "changes": changes}, indent=1))
    elif changes:
        print(f"--- {printable(arguments.one)}\n+++ {printable(arguments.other)}")
        for change in changes:
            print(printable(change["key"]))
            for sign, values in (("-", change["removed"]), ("+", change["added"])):
                for value in values:
                    print("\n".join(hanging(f"  {sign} ", said(value))))
    return DIFFERENT if changes else SAME


def compare(one: dict[str, Any], other: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each key that differs, with what is only in one and only in the other."""
    changes = []
    for key in dict.fromkeys((*one, *other)):
        before, after = one.get(key), other.get(key)
        if before == after:
            continue
        removed, added = _values(before), _values(after)
        if isinstance(before, LISTS) and isinstance(after, LISTS):
            removed, added = [v for v in removed if v not in added], [v for v in added if v not in removed]
        changes.append({"key": shown(key), "removed": shown(removed), "added": shown(added)})
    return [change for change in changes if change["removed"] or change["added"]]


def _values(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, LISTS) else [value]
