"""`nono rollback list`: the sessions that can be undone."""

from __future__ import annotations

import argparse
import json
import os

from nono.cli import render
from nono.cli.audits.place import command, cut
from nono.cli.rollbacks import places
from nono.errors import StoreError
from nono.rollback import sessions
from nono.rollback.manifest import Manifest
from nono.rollback.undo import interrupted, saved_states

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(arguments: argparse.Namespace) -> int:
    """List them; return 0."""
    told = [_told(each) for each in places.every() if each.session.whole]
    if arguments.json:
        print(json.dumps({"sessions": told}, indent=1))
        return 0
    home = render.home_of(os.environ)
    for each in told:
        about = ", ".join(cut(render.short(root, home), 48) for root in each["roots"])
        print(f"{render.printable(each['session'])}  {each['files']} files  {about}")
        state = f"  {each['state']}" if each["state"] else ""
        print(f"    {cut(command(each['argv']), 70)}{state}")
    if not told:
        render.to_stderr("nono: no session can be undone yet. To have one: nono run --rollback …\n")
    return 0


def _told(found: places.Found) -> dict[str, Any]:
    session, meta = found.session, found.session.meta
    try:
        with Manifest(session.baseline) as baseline:
            files, roots = sum(root.files for root in baseline.roots), [os.fsdecode(r.path) for r in baseline.roots]
        state = ""
    except StoreError:
        files, roots, state = 0, [], "damaged: nono rollback verify"
    if sessions.is_held(session):
        state = "running"
    elif interrupted(session):
        state = "a restore was interrupted: nono rollback restore finishes it"
    elif not state and not session.ended:
        state = "no state after the run: nono was killed, or could not take it"
    elif not state and saved_states(session):
        state = "restored"
    return {
        "session": session.id,
        "started": str(meta.get("started", "")),
        "argv": [str(word) for word in meta.get("argv", ())],
        "roots": roots,
        "files": files,
        "state": state,
        "store": found.directory,
    }
