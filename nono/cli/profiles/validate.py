"""`nono profile validate`: every mistake of each file, with its place; exit status 1 where there is one."""

from __future__ import annotations

import argparse
import json
import os

from nono.cli import render
from nono.cli.profiles.layout import hanging
from nono.cli.profiles.mistakes import Findings, examine
from nono.cli.profiles.sources import users_files
from nono.policy.inherit import BUILT_IN
from nono.supervisor.whereabouts import find_place

VALID, INVALID = 0, 1


def run(arguments: argparse.Namespace) -> int:
    """Check the profiles; return 0 where all of them can be used, else 1."""
    place = find_place(None, os.environ)
    named = arguments.profiles or users_files(place)
    found = [examine(name, place, os.environ) for name in named]
    status = INVALID if any(each.mistakes for each in found) else VALID
    if arguments.json:
        print(json.dumps({"valid": status == VALID, "profiles": [_object(each) for each in found]}, indent=1))
        return status
    home = render.home_of(os.environ)
    for each in found:
        print(_lines(each, home), end="")
    if not found:
        print(f"there are no profiles in {render.printable(render.short(place.profiles, home))}")
    return status


def _lines(found: Findings, home: str) -> str:
    title = render.short(found.source, home) if found.source not in ("", BUILT_IN) else found.name
    verdict = (
        "ok" if not found.mistakes else "1 mistake" if len(found.mistakes) == 1 else f"{len(found.mistakes)} mistakes"
    )
    lines = [f"{render.printable(title)}: {verdict}"]
    for label, texts in (("  mistake  ", found.mistakes), ("  warning  ", found.warnings)):
        for text in texts:
            lines += hanging(label, text.replace(f"{home}/", "~/"))
    return "".join(f"{line}\n" for line in lines)


def _object(found: Findings) -> dict[str, object]:
    return {
        "name": found.name,
        "source": found.source,
        "valid": not found.mistakes,
        "mistakes": list(found.mistakes),
        "warnings": list(found.warnings),
    }
