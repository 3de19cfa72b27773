"""What differs between two snapshots: one pass over both manifests, and the texts behind a difference.

Pure but for `unified_diff`, which reads the two objects. What counts as changed is what a restore would put back:
contents, kind, mode, target, attributes, and a file's own time (of a directory, its time says only that something in it
was made or removed). A file whose inode changed, or that has another time of change, is the same.
"""

from __future__ import annotations

import os
import re
from difflib import unified_diff as difference
from itertools import islice

from nono.record import Record
from nono.rollback.manifest import Manifest
from nono.rollback.tree import DIRECTORY, FILE, LINK, Entry, sort_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nono.rollback.objects import Store

# Change.kind
ADDED = "added"
REMOVED = "removed"
MODIFIED = "modified"  # its contents, or where a link leads
TYPE = "type"  # it is of another kind
MODE = "mode"  # its mode, owner or attributes, and nothing above
TIME = "time"  # nothing but a file's time

MAX_DIFF_BYTES = 1 << 20
"""Of what is larger it is said that it is too large to show."""

_MAX_PRODUCT = 4_000_000  # lines times lines that difflib is given
_SEARCHED = 8000  # bytes in which a NUL makes a file binary: git's number
_RANGE = re.compile(r"([-+])(\d+)")


class Change(Record):
    """One path that differs. root: index of the manifest's roots. path: relative to it.

    before, after: the entries; None where there is none. One that has a `reason` was left out: what is in it is not
    known, and cannot be restored.
    """

    kind: str
    root: int
    path: bytes
    before: Entry | None
    after: Entry | None


def merge(before: Iterable[Entry], after: Iterable[Entry]) -> Iterator[tuple[Entry | None, Entry | None]]:
    """Pairs of entries of one path, in order; None where one side has none. Both in the order of tree.sort_key."""
    ours, theirs = iter(before), iter(after)
    left, right = next(ours, None), next(theirs, None)
    while left is not None and right is not None:
        if left.path == right.path:
            yield left, right
            left, right = next(ours, None), next(theirs, None)
        elif sort_key(left.path) < sort_key(right.path):
            yield left, None
            left = next(ours, None)
        else:
            yield None, right
            right = next(theirs, None)
    while left is not None:
        yield left, None
        left = next(ours, None)
    while right is not None:
        yield None, right
        right = next(theirs, None)


def compare(before: Entry | None, after: Entry | None) -> str:
    """The kind of the change from one to the other; "" for none."""
    if before is None or after is None:
        return ADDED if before is None else REMOVED
    if before.reason or after.reason:
        if bool(before.reason) != bool(after.reason) or before.kind != after.kind:
            return TYPE if before.kind != after.kind else MODIFIED
        return ""  # what it was is as little known as what it is
    if before.kind != after.kind:
        return TYPE
    if before.kind == FILE and (before.digest, before.size) != (after.digest, after.size):
        return MODIFIED
    if before.kind == LINK:
        return MODIFIED if before.target != after.target else ""  # a link's mode and time cannot be seen
    if (before.mode, before.xattrs) != (after.mode, after.xattrs) or has_other_owner(before, after):
        return MODE
    if before.kind != DIRECTORY and before.mtime_ns != after.mtime_ns:
        return TIME
    return ""


def has_other_owner(before: Entry, after: Entry) -> bool:
    """Whether it is known to belong to somebody else."""
    return before.uid >= 0 and after.uid >= 0 and (before.uid, before.gid) != (after.uid, after.gid)


def between(before: Iterable[Entry], after: Iterable[Entry], root: int = 0) -> Iterator[Change]:
    """The changes from one tree to another, in order."""
    for left, right in merge(before, after):
        kind = compare(left, right)
        if kind:
            entry = left or right
            assert entry is not None
            yield Change(kind, root, entry.path, left, right)


def changes(before: Manifest, after: Manifest) -> Iterator[Change]:
    """The changes between two snapshots of the same roots; a root that only one of them has is passed over."""
    indices = {root.path: index for index, root in enumerate(after.roots)}
    for index, root in enumerate(before.roots):
        if root.path in indices:
            yield from between(before.entries(index), after.entries(indices[root.path]), index)


def unified_diff(store: Store, change: Change, name: str) -> list[str]:
    """The difference of two texts, in lines without their ends, as diff -u has it.

    name: how the path is shown. One line that says so for what is binary, too large, no file, or not stored. What the
    lines hold is the agent's: print none of it as it is. Raises StoreError.
    """
    sides = [entry for entry in (change.before, change.after) if entry is not None]
    if any(entry.kind != FILE or entry.reason or not entry.digest for entry in sides):
        return []
    if any(entry.size > MAX_DIFF_BYTES for entry in sides):
        return [f"{name}: too large to show what differs"]
    before, after = (_contents(store, entry) for entry in (change.before, change.after))
    if b"\0" in before[:_SEARCHED] or b"\0" in after[:_SEARCHED]:  # git's rule
        return [f"Binary file {name} differs"]
    old_name, new_name = (f"a/{name}" if change.before else "/dev/null"), (f"b/{name}" if change.after else "/dev/null")
    lines = list(_hunks(_lines(before), _lines(after)))
    return [f"--- {old_name}", f"+++ {new_name}", *lines] if lines else []


def _hunks(before: list[str], after: list[str]) -> Iterator[str]:
    """In at most a few seconds: difflib takes the square of the length, which whoever wrote the texts could exploit."""
    start = 0
    while start < len(before) and start < len(after) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    removed, added = before[start : len(before) - end], after[start : len(after) - end]
    if len(removed) * len(added) <= _MAX_PRODUCT:
        first = max(start - 3, 0)  # only what is near the difference is given to difflib
        old, new = (text[first : len(text) - max(end - 3, 0)] for text in (before, after))
        for line in islice(difference(old, new, lineterm=""), 2, None):
            if line.startswith("@@"):
                line = _RANGE.sub(lambda found: f"{found[1]}{int(found[2]) + first}", line, count=2)
            yield from line.split("\n")
    else:
        yield f"@@ -{start + 1},{len(removed)} +{start + 1},{len(added)} @@"
        for sign, side in (("-", removed), ("+", added)):
            for line in side:
                yield from f"{sign}{line}".split("\n")


def _lines(text: bytes) -> list[str]:
    """Split at line feeds alone; a last line without one is told."""
    lines = os.fsdecode(text).split("\n")
    if lines[-1]:
        lines[-1] += "\n\\ No newline at end of file"
    else:
        lines.pop()
    return lines


def _contents(store: Store, entry: Entry | None) -> bytes:
    if entry is None:
        return b""
    with open(store.open(entry.digest), "rb") as file:
        return file.read(MAX_DIFF_BYTES + 1)
