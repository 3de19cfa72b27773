"""`nono profile list`: a broken file is listed with what is wrong in it, not left out."""

from __future__ import annotations

import argparse
import json
import os

from nono.cli import render
from nono.cli.profiles.layout import hanging
from nono.cli.profiles.sources import Entry, entries
from nono.policy.inherit import BUILT_IN
from nono.supervisor.whereabouts import find_place


def run(arguments: argparse.Namespace) -> int:
    """List the profiles; return 0."""
    place = find_place(None, os.environ)
    found = entries(place)
    if arguments.json:
        print(json.dumps({"directory": place.profiles, "profiles": [_object(entry) for entry in found]}, indent=1))
        return 0
    home = render.home_of(os.environ)
    own = [entry for entry in found if entry.source != BUILT_IN]
    width = max((len(render.printable(entry.name)) for entry in found), default=0)
    print(f"yours ({render.printable(render.short(place.profiles, home))})")
    for entry in own:
        print(_lines(entry, width, home), end="")
    if not own:
        print("  none; write one with: nono profile init")
    print("\nbuilt-in")
    for entry in found[len(own) :]:
        print(_lines(entry, width, home), end="")
    return 0


def _lines(entry: Entry, width: int, home: str) -> str:
    texts = [_description(entry)] if entry.written is not None else []
    if entry.written is not None and entry.written.extends:
        texts.append(f"extends {', '.join(entry.written.extends)}")
    if entry.error:
        texts.append(f"cannot be used: {_without_source(entry).replace(f'{home}/', '~/')}")
    if entry.note:
        texts.append(f"({entry.note})")
    lines: list[str] = []
    for text in filter(None, texts):
        label = f"  {render.printable(entry.name) if not lines else '':<{width}}  "
        lines += hanging(label, text)
    return "".join(f"{line}\n" for line in lines or [f"  {render.printable(entry.name)}"])


def _description(entry: Entry) -> str:
    description = entry.written.members.get("meta", {}).get("description") if entry.written is not None else ""
    return description or ""


def _without_source(entry: Entry) -> str:
    return entry.error.removeprefix(f"profile {entry.source}: ")


def _object(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "source": entry.source,
        "description": _description(entry),
        "extends": list(entry.written.extends) if entry.written is not None else [],
        "shadowed": entry.source == BUILT_IN and bool(entry.note),
        "error": entry.error,
        "note": entry.note,
    }
