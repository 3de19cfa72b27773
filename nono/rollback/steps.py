"""What a restore is to do, as data.

Steps, each of which can be recognised as done or not done from the disk alone (restore.py):

- remove: what is at `path` goes into the trash; directories after what was in them.
- replace: a file or link goes where a file or link is.
- place: a file, link or directory goes where nothing is; directories before what goes into them.
- meta: owner, mode, time and attributes of what stays.

Besides, `directories`: what each directory whose names change, or whose mode forbids to look into it, is to have in
the end; before the restore, and after it.
"""

from __future__ import annotations

import marshal
from itertools import chain

from nono.record import Record
from nono.rollback.reach import Meta, is_kept
from nono.rollback.spool import Rows, Spool
from nono.rollback.tree import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

REMOVE, REPLACE, PLACE, META = "remove", "replace", "place", "meta"


class Step(Record):
    """One step. number: of its names in the staging directory. was: what is there now; becomes: what is to be.

    link_to: the number of the step whose staged file this one is another name of; -1 for none.
    """

    operation: str
    path: bytes
    number: int
    was: Entry | None = None
    becomes: Entry | None = None
    link_to: int = -1


class Directory(Record):
    """What a directory is to have in the end: after the restore (None: it is gone then), and if that is reverted."""

    path: bytes
    after: Meta | None
    before: Meta | None


class Kept(Record):
    """A path that was not put back, or not wholly, and why."""

    path: bytes
    reason: str


class Plan(Record):
    """What is to be done in one root. The steps are in the order of the walk, the deepest directories first."""

    removes: Rows[Step]
    puts: Rows[Step]
    metas: Rows[Step]
    directories: Rows[Directory]
    kept: Rows[Kept]

    @classmethod
    def empty(cls, spool: Spool) -> Plan:
        """Return one whose rows go into the spool."""
        removes, puts, metas = (Rows(spool, _step_out, _step_in) for _ in range(3))
        return cls(removes, puts, metas, Rows(spool, _directory_out, _directory_in), Rows(spool, _kept_out, _kept_in))

    @property
    def step_count(self) -> int:
        """How many steps there are."""
        return len(self.removes) + len(self.puts) + len(self.metas)

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not self.step_count and not len(self.directories)

    @property
    def steps(self) -> Iterator[Step]:
        """The steps in the order in which they are done."""
        return chain(reversed(self.removes), self.puts, self.metas)

    @property
    def backward(self) -> Iterator[Step]:
        """The steps in the order in which they are undone."""
        return chain(reversed(self.metas), reversed(self.puts), self.removes)


def meta_of(entry: Entry) -> Meta:
    """Return what the entry has besides its content."""
    xattrs = tuple(pair for pair in entry.xattrs if is_kept(pair[0])) if entry.xattrs else ()
    return Meta(entry.mode, entry.mtime_ns, xattrs, entry.uid, entry.gid)


def _step_out(step: Step) -> bytes:
    operation, path, number, was, becomes, link_to = step
    return marshal.dumps((operation, path, number, was and tuple(was[1:]), becomes and tuple(becomes[1:]), link_to))


def _step_in(row: bytes) -> Step:
    operation, path, number, was, becomes, link_to = marshal.loads(row)
    return Step(
        operation,
        path,
        number,
        was and tuple.__new__(Entry, (path, *was)),
        becomes and tuple.__new__(Entry, (path, *becomes)),
        link_to,
    )


def _directory_out(directory: Directory) -> bytes:
    path, after, before = directory
    return marshal.dumps((path, after and tuple(after), before and tuple(before)))


def _directory_in(row: bytes) -> Directory:
    path, after, before = marshal.loads(row)
    return Directory(path, after and Meta(*after), before and Meta(*before))


def _kept_out(kept: Kept) -> bytes:
    return marshal.dumps((kept.path, kept.reason))


def _kept_in(row: bytes) -> Kept:
    return Kept(*marshal.loads(row))
