"""Say what this machine offers to nono, what is missing, and the command that would enable more.

Everything is tried, nothing is changed and nobody is asked anything. First come the checks, one a line; then the walls,
in the order in which `nono run` tries them, each with what it enforces in full, in part and not at all.
The exit status is 0 when a wall that lets nothing by works here, else 1.

examples:
  nono setup --check-only
  nono setup --check-only --json
"""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from typing import Any

from nono.cli import render
from nono.credentials.stores import state_home
from nono.errors import UsageError
from nono.supervisor import machine
from nono.supervisor.enforcement import ASPECTS, FULL, NONE, PARTIAL
from nono.supervisor.machine import Check, Stand

_COLUMNS = 80
_LABEL, _STATE = 14, 7
_DEGREES = ((FULL, "enforces"), (PARTIAL, "in part"), (NONE, "not"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `nono setup`."""
    parser.usage = "nono setup --check-only [--json]"
    parser.add_argument("--check-only", action="store_true", help="say what there is; change nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object (docs/setup.md)")


def run(arguments: argparse.Namespace) -> int:
    """Print what this machine offers; return 0 when a whole wall works here, else 1."""
    if not arguments.check_only:
        raise UsageError("nono setup changes nothing yet; say what there is with: nono setup --check-only")
    checks = machine.examine(state_home())
    stands = machine.examine_walls(checks, os.path.expanduser("~"))
    if arguments.json:
        print(json.dumps(as_object(checks, stands), indent=1))
    else:
        print(as_text(checks, stands), end="")
    return 0 if any(stand.row.is_whole and not stand.reason for stand in stands) else 1


def as_object(checks: list[Check], stands: list[Stand]) -> dict[str, Any]:
    """Return what `--json` prints; docs/setup.md documents it."""
    uname = os.uname()
    return {
        "kernel": {"system": uname.sysname, "release": uname.release, "machine": uname.machine},
        "checks": [check._asdict() for check in checks],
        "walls": [
            {
                "name": stand.row.wall.name,
                "mounts": stand.row.wall.mounts,
                "whole": stand.row.is_whole,
                "works": not stand.reason,
                "reason": stand.reason,
                "enforces": dict(stand.enforces),
            }
            for stand in stands
        ],
    }


def as_text(checks: list[Check], stands: list[Stand]) -> str:
    """Return the lines for a person: at most 80 columns wide, but for a command that is longer."""
    lines = []
    home = render.home_of(os.environ).rstrip("/") + "/"
    for check in checks:
        lines += _row(check.name, check.state, check.finding.replace(home, "~/"))
        if check.state != machine.OK and check.remedy:
            lines += _wrapped(check.remedy, "  → ")
    explained = {check.remedy: check.name for check in checks if check.remedy}
    for stand in stands:
        title = stand.row.wall.name
        if sum(other.row.wall.name == title for other in stands) > 1:
            title += ", with mounts and processes of its own" if stand.row.wall.mounts else ", without mounts"
        lines += _row("wall", "no" if stand.reason else "works", title)
        if stand.reason:
            check_name = explained.get(stand.reason)
            lines += _wrapped(f"see {check_name}" if check_name else stand.reason, "  → ")
            continue
        for degree, word in _DEGREES:
            names = [aspect.replace("_", " ") for aspect in ASPECTS if stand.enforces[aspect] == degree]
            if names:
                lines += _wrapped(", ".join(names), f"  {word:<{_LABEL - 2}} ")
    return "".join(f"{'    ' if index else 'nono'}  {line}\n" for index, line in enumerate(lines))


def _row(label: str, state: str, text: str) -> list[str]:
    return _wrapped(text, f"{label:<{_LABEL}} {state:<{_STATE}}  ")


def _wrapped(text: str, label: str) -> list[str]:
    """Return `text` in lines beside `label`; what is one word long, as a path, is never broken."""
    return textwrap.wrap(
        render.printable(text),
        _COLUMNS - 6,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [label.rstrip()]
