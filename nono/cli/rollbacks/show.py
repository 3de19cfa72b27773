"""`nono rollback show`: what a session changed, what was left out, and what no restore brings back."""

from __future__ import annotations

import argparse
import os
from itertools import islice

from nono.cli import render
from nono.cli.audits.place import command
from nono.cli.rollbacks import changed, places
from nono.cli.rollbacks.restore import selection_of
from nono.rollback import sessions
from nono.rollback.sessions import Session
from nono.rollback.undo import interrupted, saved_states

_SHOWN = 200
_KILLED = (
    "there is no state after the run (nono was killed, or could not take it): what differs now may be yours; "
    "nono rollback restore --dry-run --force shows it"
)


def run(arguments: argparse.Namespace) -> int:
    """Show the session; return 0."""
    found = places.find(arguments.session)
    session, home = found.session, render.home_of(os.environ)
    selection = selection_of(arguments.path, [os.fsencode(str(root)) for root in session.meta.get("roots", ())])
    effects = changed.effects(places.audit_log(session))
    if arguments.json:
        told = {
            **{key: value for key, value in session.meta.items() if key not in ("gitignore", "never", "across")},
            "ended_whole": session.ended,
            "changes": map(changed.as_json, changed.of_session(session, selection) if session.ended else ()),
            "effects": [{"method": method, "host": host, "count": count} for method, host, count in effects],
        }
        changed.print_json(told)
        return 0
    if arguments.diff:
        for each in changed.of_session(session, selection) if session.ended else ():
            lines = changed.difference(found.store, each) or [
                f"{changed.LABELS[each.change.kind]}: {changed.described(each, home)}"
            ]
            print("\n".join(lines))
        return 0
    rows = _about(session, home)
    if session.ended:
        most = None if arguments.verbose else _SHOWN
        listed = changed.of_session(session, selection)
        rows += changed.rows(islice(listed, most), home) or [("changed", "nothing")]
        more = sum(1 for _ in listed)
        if more:
            rows.append(("", f"{more} more  (-v to list)"))
    rows += _left_out(session, home, verbose=arguments.verbose)
    rows += changed.effect_rows(effects)
    print(render.table(rows), end="")
    return 0


def _about(session: Session, home: str) -> list[tuple[str, str]]:
    meta = session.meta
    rows = [("session", render.printable(session.id))]
    rows.append(("command", render.printable(command(str(word) for word in meta.get("argv", ())))))
    rows += [("tracked", changed.shown(os.fsencode(str(root)), home)) for root in meta.get("roots", ())]
    if sessions.is_held(session):
        rows.append(("note", "it is running, or being restored"))
    elif not session.ended:
        rows.append(("note", _KILLED))
    if interrupted(session):
        rows.append(("note", f"a restore was interrupted; nono rollback restore {session.id} finishes it"))
    saved = len(saved_states(session))
    if saved:
        rows.append(
            (
                "note",
                f"restored {saved} times; nono rollback restore {session.id} --undo takes back the last"
                if saved > 1
                else f"restored once; nono rollback restore {session.id} --undo takes it back",
            )
        )
    return rows


def _left_out(session: Session, home: str, *, verbose: bool) -> list[tuple[str, str]]:
    left_out = [each for each in session.meta.get("left_out", ()) if len(each) == 3]
    count = session.meta.get("left_out_count", len(left_out))
    if not count:
        return []
    shown = left_out if verbose else left_out[:8]
    rows: list[tuple[str, str]] = []
    for path, reason, note in shown:
        why = f"{reason} {note}" if note else reason
        rows.append(
            ("" if rows else "left out", f"{changed.shown(os.fsencode(path), home)}  ({render.printable(why)})")
        )
    if count > len(shown):
        rows.append(("", f"{count - len(shown)} more" + ("" if verbose else "  (-v to list)")))
    return rows
