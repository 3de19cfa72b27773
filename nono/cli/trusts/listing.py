"""`nono trust list`: the files that the policies name, how each stands, and who signed it."""

from __future__ import annotations

import argparse
import json
import os

from nono.cli import render
from nono.cli.trusts import place, verdicts


def run(arguments: argparse.Namespace) -> int:
    """List them; return 0."""
    at = place.where()
    sight = place.look(arguments, at)
    found, unmatched = place.everything(sight)
    if arguments.json:
        print(json.dumps(verdicts.as_json(sight, found, unmatched, at), indent=1))
    elif found or unmatched:
        print(render.table(verdicts.rows(sight, found, unmatched, at, render.home_of(os.environ))), end="")
    else:
        render.to_stderr(f"nono: {render.printable(place.no_match(sight))}\n")
    return 0
