"""`nono rollback restore`: put back what a session changed, or say what would be."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from itertools import islice

from nono.cli import render
from nono.cli.rollbacks import changed, places
from nono.errors import UsageError
from nono.rollback import undo
from nono.rollback.journal import RESTORED
from nono.rollback.planning import CHANGED_SINCE
from nono.rollback.undo import Selection, Undone

_SHOWN = 200


def run(arguments: argparse.Namespace) -> int:
    """Restore; return 0, or 1 where something that was to be put back was left as it is."""
    found = places.find(arguments.session)
    session, store, home = found.session, found.store, render.home_of(os.environ)
    is_preview = arguments.dry_run or arguments.diff
    if undo.interrupted(session) and not is_preview:
        ended = undo.finish(session)
        if ended == RESTORED and arguments.undo:  # it may have been this one: what it took back is not to come again
            render.notice(
                "a restore of this session had been interrupted; it was finished, and nothing else was done. "
                f"nono rollback show {session.id} says how it is now"
            )
            return 0
        render.notice(
            "a restore of this session had been interrupted; it was "
            + ("finished" if ended == RESTORED else "undone, and is done anew")
        )
    selection = selection_of(arguments.path, [os.fsencode(str(root)) for root in session.meta.get("roots", ())])
    call = undo.preview if is_preview else undo.restore
    undone = call(session, store, selection, force=arguments.force, undo=arguments.undo)
    kept = sum(len(plan.kept) for _, plan in undone.plans)
    status = int(bool(kept))
    if arguments.json:
        changed.print_json(_told(undone, session.id, done=not is_preview))
        return status
    if arguments.diff:
        contents = changed.OnDisk(store, undone)
        for each in changed.of_undone(undone):
            lines = changed.difference(contents, each)  # type: ignore[arg-type]
            print("\n".join(lines or [f"{_label(each)}: {changed.described(each, home)}"]))
        return status
    if not session.ended and not arguments.force and kept:
        raise UsageError(
            f"session {session.id} has no state after the run, so nobody knows which of {kept} differences are "
            "yours; --force puts everything back, and saves what is there first (--dry-run --force shows it)"
        )
    print(render.table(rows(undone, session.id, home, done=not is_preview)), end="")
    effects = [] if arguments.undo or selection.paths else changed.effects(places.audit_log(session))
    print(render.table(changed.effect_rows(effects)), end="")
    return status


def rows(undone: Undone, session: str, home: str, *, done: bool, most: int = _SHOWN) -> list[tuple[str, str]]:
    """Return what is said of a restore."""
    steps = changed.of_undone(undone)
    told = [(_label(each), changed.described(each, home)) for each in islice(steps, most)]
    is_nothing = not told
    if more := sum(1 for _ in steps):
        told.append(("", f"{more} more"))
    left = changed.kept_of(undone)
    told += [("left alone", f"{changed.shown(path, home)}  ({kept.reason})") for path, kept in islice(left, most)]
    if more := sum(1 for _ in left):
        told.append(("", f"{more} more"))
    if any(kept.reason == CHANGED_SINCE for _, kept in changed.kept_of(undone)):
        told.append(("", "--force puts these back, too; what is there is saved first"))
    if is_nothing:
        told.append(("nothing", "is to be put back" if not told else "else is to be put back"))
    elif done:
        told.append(("restored", f"nono rollback restore {session} --undo takes it back"))
    else:
        told.append(("nothing", "was changed: this is a preview"))
    return told


def _label(each: changed.Changed) -> str:
    labels = {"added": "brings back", "removed": "removes", "mode": "mode", "time": "time"}
    return labels.get(each.change.kind, "puts back")


def selection_of(paths: Sequence[str], roots: Sequence[bytes]) -> Selection:
    """Return the paths as the sessions know them. Raises UsageError for one that is not tracked."""
    found = []
    for text in paths:
        path = _tracked_path(os.fsencode(os.path.abspath(os.path.expanduser(text))), roots)
        if path is None:
            raise UsageError(f"{text} was not tracked in this session; nono rollback show says what was")
        found.append(path)
    return Selection(tuple(found))


def _tracked_path(path: bytes, roots: Sequence[bytes]) -> bytes | None:
    """Return the path as the session knows it; None for one that it does not.

    Links that lead to a root are followed; those in it, which the agent may have planted, are not.
    """
    parts = path.split(b"/")
    for count in range(1, len(parts) + 1):
        real = os.path.realpath(b"/".join(parts[:count]) or b"/")
        if real in roots:
            return b"/".join((real.rstrip(b"/"), *parts[count:])) or b"/"
    real = os.path.realpath(path)
    return real if any(root.startswith(real.rstrip(b"/") + b"/") for root in roots) else None


def _told(undone: Undone, session: str, *, done: bool) -> dict[str, object]:
    return {
        "session": session,
        "restored": done and not undone.is_nothing,
        "saved": undone.saved,
        "changes": map(changed.as_json, changed.of_undone(undone)),
        "left_alone": ({"path": os.fsdecode(path), "reason": kept.reason} for path, kept in changed.kept_of(undone)),
    }
