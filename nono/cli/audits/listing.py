"""`nono audit list`: a line for each session, the latest last, where a terminal shows it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Container

from nono.audit import read
from nono.audit.read import Brief
from nono.cli.args import COLUMNS
from nono.cli.audits import place
from nono.errors import StoreError

_SHOWN = 50
_LONGEST_ID = 40
_UNKNOWN = "unknown"


def run(arguments: argparse.Namespace) -> int:
    """List the sessions; return 0."""
    directory = place.directory()
    try:
        names = read.names_of(directory)
        entered = read.entered(directory)
    except OSError as error:
        raise StoreError(f"cannot list {directory}: {error.strerror}") from None
    limit = _SHOWN if arguments.limit is None else arguments.limit
    shown = names[-limit:] if limit else names
    briefs = sorted(
        (read.brief(directory, name) for name in shown), key=lambda brief: (brief.session[:16], brief.started)
    )
    if arguments.json:
        print(json.dumps({"directory": directory, "sessions": [_object(brief, entered) for brief in briefs]}, indent=1))
        return 0
    if not names:
        place.say("no session is recorded yet; each nono run writes a log")
        return 0
    width = min(max(len(brief.session) for brief in briefs), _LONGEST_ID)
    place.say(f"{'session':<{width}}  {'exit':>7}  {'took':>6}  command")
    for brief in briefs:
        took = place.duration(brief.duration_s) if brief.duration_s is not None else ""
        line = f"{brief.session:<{width}}  {_status(brief, entered):>7}  {took:>6}  "
        room = COLUMNS - len(line)
        words = place.command(brief.argv)
        if room < 12:
            place.say(line.rstrip())
            place.say(f"    {place.cut(words, COLUMNS - 4)}".rstrip())
        else:
            place.say(f"{line}{place.cut(words, room)}".rstrip())
    if any(_status(brief, entered) == _UNKNOWN for brief in briefs):
        place.say("unknown: the ledger does not know of it  (nono audit verify)")
    if len(shown) < len(names):
        place.say(f"{len(names) - len(shown)} earlier ones  (--limit 0 lists all)")
    return 0


def _status(brief: Brief, entered: Container[str]) -> str:
    if brief.is_running:
        return "running"
    if brief.session not in entered:
        return _UNKNOWN
    return str(brief.status) if brief.status is not None else "no end"


def _object(brief: Brief, entered: Container[str]) -> dict[str, object]:
    return {**brief._asdict(), "argv": list(brief.argv), "is_known": brief.session in entered}
