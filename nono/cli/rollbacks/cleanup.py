"""`nono rollback cleanup`: remove sessions, what a crash left, and the contents that no session needs."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence

from nono.cli import render
from nono.cli.rollbacks import places
from nono.errors import UsageError
from nono.policy.quantities import parse_duration
from nono.rollback import sessions
from nono.rollback.objects import Store
from nono.rollback.undo import interrupted


def run(arguments: argparse.Namespace) -> int:
    """Remove them; return 0, or 1 where one had to stay."""
    stay: list[str] = []
    goes: list[places.Found] = []
    for found in _chosen(arguments):
        if sessions.is_held(found.session):
            if found.session.whole:
                stay.append(f"{found.session.id}  (it is running, or being restored)")
        elif interrupted(found.session):
            stay.append(f"{found.session.id}  (a restore was interrupted: nono rollback restore finishes it)")
        else:
            goes.append(found)
    removed = freed = 0
    if not arguments.dry_run:
        for found in goes:
            held = sessions.hold(found.session)  # from here on no restore of it begins
            try:
                if not interrupted(found.session):
                    sessions.remove(found.session)
            finally:
                os.close(held)
        for directory in places.directories():
            count, size = Store(directory).collect(lambda directory=directory: sessions.manifests(directory))  # type: ignore[misc]
            removed, freed = removed + count, freed + size
    names = [found.session.id for found in goes]
    if arguments.json:
        print(json.dumps({"removed": names, "kept": stay, "contents": removed, "bytes": freed}, indent=1))
        return int(bool(stay))
    rows = [("would go" if arguments.dry_run else "removed", render.printable(name)) for name in names]
    rows += [("stays", render.printable(name)) for name in stay]
    if not arguments.dry_run:
        rows.append(("freed", f"{freed / 1e6:.1f} MB in {removed} contents that no session needs"))
    elif not rows:
        rows.append(("nothing", "would be removed"))
    print(render.table(rows), end="")
    return int(bool(stay))


def _chosen(arguments: argparse.Namespace) -> Sequence[places.Found]:
    """Return the sessions that are to go: those named or described, and what a crash left."""
    every = places.every()
    whole = [each for each in every if each.session.whole]
    chosen = [each for each in every if not each.session.whole]
    if arguments.session:
        if arguments.keep is not None or arguments.older_than is not None:
            raise UsageError("name sessions, or say which with --keep or --older-than, not both")
        chosen += [places.find(name) for name in dict.fromkeys(arguments.session)]
    elif arguments.keep is not None or arguments.older_than is not None:
        old = whole if arguments.keep is None else whole[: max(len(whole) - arguments.keep, 0)]
        if arguments.older_than is not None:
            before = time.time() - parse_duration(arguments.older_than, "--older-than")
            old = [each for each in old if os.stat(each.session.baseline).st_mtime < before]
        chosen += old
    return chosen
