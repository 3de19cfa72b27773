"""What differs between two snapshots: one pass over both manifests, and the texts behind a difference.

Pure but for `unified_diff`, which reads the two objects. What counts as changed is what a restore would put back:
contents, kind, mode, target, attributes, and a file's own time (of a directory, its time says only that something in it
was made or removed). A file whose inode changed, or that has another time of change, is the same.
"""

from __future__ import annotations

from nono.record import Record
from nono.rollback.manifest import Manifest
from nono.rollback.tree import DIRECTORY, FILE, LINK, Entry, sort_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Change.kind
ADDED = "added"
REMOVED = "removed"
MODIFIED = "modified"  # its contents, or where a link leads
TYPE = "type"  # it is of another kind
MODE = "mode"  # its mode, attributes or both, and nothing above
TIME = "time"  # nothing but a file's time

MAX_DIFF_BYTES = 1 << 20  # what is larger is said to be too large; difflib takes the square of it in the worst case


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
    if (before.mode, before.xattrs) != (after.mode, after.xattrs):
        return MODE
    if before.kind != DIRECTORY and before.mtime_ns != after.mtime_ns:
        return TIME
    return ""


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
