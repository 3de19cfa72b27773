"""Changes as lines for a person, and as JSON: what a session did, what a restore would do, and their differences.

Names and texts are the agent's: each goes through render.printable, so that none repaints the screen.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import groupby

from nono.audit import read
from nono.cli.render import printable, short
from nono.record import Record
from nono.rollback import changes
from nono.rollback.changes import Change, compare, unified_diff
from nono.rollback.manifest import Manifest
from nono.rollback.objects import Store
from nono.rollback.reach import Reach
from nono.rollback.sessions import Session
from nono.rollback.steps import META, Kept
from nono.rollback.tree import DIRECTORY, FILE, LINK, UNREADABLE, Entry, sort_key
from nono.rollback.undo import Selection, Undone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LABELS = {
    changes.ADDED: "added",
    changes.REMOVED: "removed",
    changes.MODIFIED: "modified",
    changes.TYPE: "replaced",
    changes.MODE: "mode",
    changes.TIME: "touched",
}


class Changed(Record):
    """One change, with its root's path."""

    root: bytes
    change: Change

    @property
    def path(self) -> bytes:
        """Absolute."""
        return self.root.rstrip(b"/") + b"/" + self.change.path if self.change.path else self.root


def of_session(session: Session, selection: Selection | None = None) -> Iterator[Changed]:
    """Yield what the session changed, in order. Raises StoreError."""
    with Manifest(session.baseline) as before, Manifest(session.final) as after:
        choosers = [(selection or Selection()).chooser(root.path) for root in before.roots]
        for change in changes.changes(before, after):
            if choosers[change.root](change.path):
                yield Changed(before.roots[change.root].path, change)


def of_undone(undone: Undone) -> Iterator[Changed]:
    """Yield what a restore changes: from what is there now to what was; in order, but modes of directories last."""
    for index, (root, plan) in enumerate(undone.plans):
        steps = merge(plan.removes, plan.puts, plan.metas, key=lambda step: sort_key(step.path))
        for path, group in groupby(steps, key=lambda step: step.path):
            was, becomes = None, None
            for step in group:
                was, becomes = step.was or was, step.becomes or becomes
            kind = compare(was, becomes) or changes.MODIFIED
            yield Changed(root, Change(kind, index, path, was, becomes))
        for path, after, before in plan.directories:
            if after is None or before is None or (after.mode, after.xattrs) == (before.mode, before.xattrs):
                continue
            old = Entry(path, DIRECTORY, before.mode)
            yield Changed(root, Change(changes.MODE, index, path, old, old._replace(mode=after.mode)))


def kept_of(undone: Undone) -> Iterator[tuple[bytes, Kept]]:
    """Yield what a restore leaves as it is, wholly or in part, with its absolute path."""
    for root, plan in undone.plans:
        for kept in plan.kept:
            yield root.rstrip(b"/") + b"/" + kept.path if kept.path else root, kept


def shown(path: bytes, home: str) -> str:
    """Return a path for a person."""
    return printable(short(os.fsdecode(path), home))


def described(changed: Changed, home: str) -> str:
    """Return what is said of one change behind its label."""
    before, after = changed.change.before, changed.change.after
    text = shown(changed.path, home)
    entry = after or before
    if entry is not None and entry.kind == DIRECTORY:
        text += "/"
    if after is not None and after.kind == LINK:
        text += f" → {printable(os.fsdecode(after.target))}"
    elif changed.change.kind == changes.TYPE and before is not None and after is not None:
        text += f"  ({before.kind} → {after.kind})"
    elif changed.change.kind == changes.MODE and before is not None and after is not None and before.mode != after.mode:
        text += f"  ({before.mode:04o} → {after.mode:04o})"
    elif changed.change.kind == changes.MODE and before and after and changes.has_other_owner(before, after):
        text += f"  ({before.uid}:{before.gid} → {after.uid}:{after.gid})"
    if after is not None and after.reason:
        text += f"  ({printable(after.reason)}: cannot be put back)" if before is not None else f"  ({after.reason})"
    return text


def rows(changed: Iterable[Changed], home: str) -> list[tuple[str, str]]:
    """Return the changes as rows of render.py."""
    return [(LABELS[each.change.kind], described(each, home)) for each in changed]


def difference(store: Store, changed: Changed) -> list[str]:
    """Return the lines of a unified diff, printable; none for what has no text."""
    name = os.fsdecode(changed.path).lstrip("/")
    return [printable_line(line) for line in unified_diff(store, changed.change, name)]


def printable_line(line: str) -> str:
    """Return a line of somebody's text for a terminal; its tabs stay."""
    return "\t".join(map(printable, line.split("\t")))


def as_json(changed: Changed) -> dict[str, Any]:
    """Return a change as data. Names that are not UTF-8 are as Python's surrogateescape has them."""
    sides = {"before": changed.change.before, "after": changed.change.after}
    told: dict[str, Any] = {"change": changed.change.kind, "path": os.fsdecode(changed.path)}
    for side, entry in sides.items():
        if entry is not None:
            told[side] = {"kind": entry.kind, "mode": f"{entry.mode:04o}"}
            if entry.uid >= 0:
                told[side] |= {"uid": entry.uid, "gid": entry.gid}
            if entry.kind == FILE:
                told[side] |= {"size": entry.size, "sha256": entry.digest}
            if entry.kind == LINK:
                told[side]["target"] = os.fsdecode(entry.target)
            if entry.reason:
                told[side]["reason"] = entry.reason
    return told


def print_json(told: dict[str, Any]) -> None:
    """Print one object as json.dumps(…, indent=1) has it; what is an iterator is printed item by item, as a list."""
    begin = "{\n "
    for key, value in told.items():
        print(f"{begin}{json.dumps(key)}: ", end="")
        begin = ",\n "
        if not isinstance(value, Iterator):
            print(json.dumps(value, indent=1).replace("\n", "\n "), end="")
            continue
        count = 0
        for count, item in enumerate(value, 1):
            text = json.dumps(item, indent=1).replace("\n", "\n  ")
            print(f"{',' if count > 1 else '['}\n  {text}", end="")
        print("\n ]" if count else "[]", end="")
    print("\n}")


class OnDisk:
    """A store that also has the contents that are in the tree now: for the difference between that and a snapshot."""

    def __init__(self, store: Store, undone: Undone) -> None:
        self._store = store
        self._places = {
            step.was.digest: (root, step.path)
            for root, plan in undone.plans
            for step in plan.steps
            if step.was is not None
            and step.was.kind == FILE
            and step.operation != META
            and step.was.reason != UNREADABLE
        }

    def open(self, digest: str) -> int:
        """Return a descriptor to read the contents from."""
        if self._store.has(digest) or digest not in self._places:
            return self._store.open(digest)
        root, path = self._places[digest]
        with Reach(root, is_file=not path) as reach:
            directory_fd, name = reach.holder(path)
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory_fd)


def effects(log: str) -> list[tuple[str, str, int]]:
    """Return the requests that may have changed something elsewhere: (method, host, how often), by the audit log."""
    counts: dict[tuple[str, str], int] = {}
    if os.path.exists(log):
        for record in read.records(log):
            if read.has_side_effects(record):
                key = read.text(record, "method"), read.text(record, "host")
                counts[key] = counts.get(key, 0) + 1
    return sorted(((method, host, count) for (method, host), count in counts.items()), key=lambda each: -each[2])


def effect_rows(found: list[tuple[str, str, int]], most: int = 20) -> list[tuple[str, str]]:
    """Return them as rows, which say that they stay."""
    if not found:
        return []
    rows = [("elsewhere", "these requests may have changed something that no restore brings back:")]
    for method, host, count in found[:most]:
        rows.append(("", f"{printable(method)} {printable(host)}" + (f"  ({count} times)" if count > 1 else "")))
    if len(found) > most:
        rows.append(("", f"{len(found) - most} more  (nono audit show)"))
    return rows
