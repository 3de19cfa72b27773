"""`nono rollback verify`: whether snapshots and contents are as they were stored."""

from __future__ import annotations

import argparse
import json
import os

from nono.cli import render
from nono.cli.rollbacks import places
from nono.errors import StoreError
from nono.rollback import sessions
from nono.rollback.manifest import Manifest
from nono.rollback.undo import saved_states, unsettled_states


def run(arguments: argparse.Namespace) -> int:
    """Check them; return 0, or 1 where something is damaged."""
    chosen = [places.find(arguments.session)] if arguments.session else [e for e in places.every() if e.session.whole]
    faults: list[dict[str, str]] = []
    checked: dict[tuple[str, str], bool] = {}
    for found in chosen:
        faults += _faults(found, checked)
    if arguments.json:
        print(json.dumps({"sessions": len(chosen), "objects": len(checked), "faults": faults}, indent=1))
    else:
        rows = [("damaged", render.printable(f"{fault['session']}: {fault['what']}")) for fault in faults]
        rows.append(
            (
                "checked",
                f"{len(chosen)} sessions, {len(checked)} contents: "
                + ("see above" if faults else "all as they were stored"),
            )
        )
        print(render.table(rows), end="")
    return int(bool(faults))


def _faults(found: places.Found, checked: dict[tuple[str, str], bool]) -> list[dict[str, str]]:
    session, store = found.session, found.store
    faults = []
    try:
        sessions.check_meta(session)
    except StoreError as error:
        faults.append({"session": session.id, "what": str(error)})
    names = [session.baseline, *([session.final] if session.ended else [])]
    needed = len(names)
    names += [os.path.join(session.directory, name) for name in (*saved_states(session), *unsettled_states(session))]
    for number, path in enumerate(names):
        try:
            with Manifest(path) as manifest:
                manifest.verify()
                for index, root in enumerate(manifest.roots):
                    for entry in manifest.entries(index):
                        key = found.directory, entry.digest
                        if not entry.digest or (number >= needed and not store.has(entry.digest)):
                            continue  # of what was there before a restore, only what gave way was stored
                        if key not in checked:
                            checked[key] = store.verify(entry.digest)
                        if not checked[key]:
                            whole = os.fsdecode(root.path + b"/" + entry.path)
                            faults.append({"session": session.id, "what": f"the contents of {whole} ({entry.digest})"})
        except (StoreError, OSError) as error:
            faults.append({"session": session.id, "what": str(error)})
    return faults
