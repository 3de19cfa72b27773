"""Take a snapshot: roots → a manifest, and what is new of their contents in the store. (Being filled in.)"""

from __future__ import annotations

import os

from nono.record import Record
from nono.rollback.manifest import RootSummary
from nono.rollback.objects import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

DEFAULT_MAX_BYTES = 10 << 30


class Rules(Record):
    """What is left out. The final snapshot is told those of the baseline, whatever the agent wrote since.

    defaults: whether the built-in names are excluded. patterns, globs: as a profile has them. include: what is taken
    whatever the others say. gitignore: None to read the .gitignore files of the tree; else those that the baseline
    read, by the directory they are in ("ROOT\\0DIRECTORY" → text).
    """

    patterns: tuple[str, ...] = ()
    globs: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    defaults: bool = True
    gitignore: Mapping[str, str] | None = None


class Snapshot(Record):
    """What was taken. left_out: the first entries with a reason, as (absolute path, reason, note), of `left_out_count`.

    notes: the same of what was covered, but not wholly. gitignore: for Rules.
    """

    path: str
    root: str
    roots: tuple[RootSummary, ...]
    files: int
    bytes: int
    written: int
    left_out: tuple[tuple[bytes, str, str], ...]
    left_out_count: int
    notes: tuple[tuple[bytes, str, str], ...]
    gitignore: Mapping[str, str]


def take(
    roots: Sequence[bytes],
    store: Store,
    path: str,
    *,
    previous: str = "",
    rules: Rules | None = None,
    never: Iterable[bytes] = (),
    across: Iterable[bytes] = (),
    max_bytes: int = DEFAULT_MAX_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Snapshot:
    """Snapshot the roots (absolute, real; nested ones are merged) into the manifest at `path`, a new file.

    previous: a manifest to compare with ("" for none): what is unchanged since is not read. never, across: tree.Walk.
    max_bytes: of files that are covered; a tree with more is refused before anything is stored. progress(done, total):
    bytes; total is 0 while they are being counted, and `done` is then the number of entries.

    Raises UsageError for a tree that is too large, StoreError when the store or the manifest cannot be written or a
    root cannot be read.
    """
    raise NotImplementedError
