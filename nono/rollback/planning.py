"""What a restore has to do: from three listings of one root to the steps that lead back. Pure.

The listings are streams of Entry in the order of a walk: *before* the session, *after* it (None where nono was killed
and there is no such listing), and *now*. A path is put back when it is chosen and is not as it was before. What is
not as the session left it was changed since: that is kept, unless `force`. What came since, and was never the
session's, is always kept. What was left out of the listing before (excluded, unreadable, special) is not touched.

Steps, each of which can be recognised as done or not done from the disk alone (restore.py):

- remove: what is at `path` goes into the trash; directories after what was in them.
- replace: a file or link goes where a file or link is.
- place: a file, link or directory goes where nothing is; directories before what goes into them.
- meta: mode, time and attributes of what stays.

Besides, `directories`: what each directory whose names change, or whose mode forbids to look into it, is to have in
the end; before the restore, and after it.

Hard links: names that were one file before and are not the same set of names now are all put back, as one file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nono.record import Record
from nono.rollback.reach import Meta, is_kept
from nono.rollback.tree import DIRECTORY, FILE, LINK, SPECIAL, UNREADABLE, Entry, sort_key

REMOVE, REPLACE, PLACE, META = "remove", "replace", "place", "meta"

# Kept.reason
CHANGED_SINCE = "changed since the session"
HOLDS_OTHER = "a directory that holds what is not tracked, or came since"
IN_THE_WAY = "below what was put there since"
NOT_STORED = "its contents were not stored"

_OWNER = 0o700


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
    """A path that was not put back, and why."""

    path: bytes
    reason: str


class Plan(Record):
    """What is to be done in one root."""

    steps: tuple[Step, ...] = ()
    directories: tuple[Directory, ...] = ()
    kept: tuple[Kept, ...] = ()


def is_new(step: Step) -> bool:
    """Whether the step puts something there that is staged before."""
    return step.operation in (REPLACE, PLACE)


def meta_of(entry: Entry) -> Meta:
    """Return what the entry has besides its content."""
    return Meta(entry.mode, entry.mtime_ns, tuple(pair for pair in entry.xattrs if is_kept(pair[0])))


def same_content(one: Entry, other: Entry) -> bool:
    """Whether both are of one kind, with the same contents."""
    if one.kind != other.kind:
        return False
    if one.kind == FILE:
        return one.size == other.size and one.digest == other.digest
    return one.kind != LINK or one.target == other.target


def same(one: Entry, other: Entry) -> bool:
    """Whether nothing is to be restored between the two."""
    if not same_content(one, other) or one.mtime_ns != other.mtime_ns:
        return False
    return one.kind == LINK or meta_of(one) == meta_of(other)


def unchanged_since(after: Entry | None, now: Entry | None) -> bool:
    """Whether what is there now is what the session left; times do not count."""
    if after is None or now is None:
        return after is now
    if after.kind == now.kind and (now.kind == SPECIAL or after.reason == UNREADABLE):
        return after.inode == now.inode and after.size == now.size
    if not same_content(after, now):
        return False
    return now.kind == LINK or meta_of(after)._replace(mtime_ns=0) == meta_of(now)._replace(mtime_ns=0)


def aligned(
    *listings: Iterable[Entry] | None,
) -> Iterator[tuple[Entry | None, ...]]:
    """Yield the entries of the listings path by path, None where one has no such path."""
    streams = [iter(listing) if listing is not None else iter(()) for listing in listings]
    heads = [next(stream, None) for stream in streams]
    while any(head is not None for head in heads):
        path = min((head.path for head in heads if head is not None), key=sort_key)
        at = [head is not None and head.path == path for head in heads]
        yield tuple(head if is_at else None for head, is_at in zip(heads, at, strict=True))
        heads = [next(stream, None) if is_at else head for stream, head, is_at in zip(streams, heads, at, strict=True)]


def plan(
    before: Callable[[], Iterable[Entry]],
    after: Callable[[], Iterable[Entry]] | None,
    now: Callable[[], Iterable[Entry]],
    *,
    chosen: Callable[[bytes], bool] = lambda path: True,
    force: bool = False,
    is_stored: Callable[[str], bool] = bool,
) -> Plan:
    """Return what leads back to `before`; the listings are functions, because they are read more than once.

    chosen: whether a path is to be put back. Directories that lead to it are made where they are not there. is_stored:
    whether the contents with this digest can be had.
    """
    wanted = _wanted(before, after, now, chosen, force)
    removes: list[Entry] = []
    puts: list[tuple[Entry | None, Entry]] = []
    metas: list[tuple[Entry, Entry]] = []
    kept = list(wanted.kept)
    for old, new in wanted.differing:
        if old is None:
            assert new is not None
            if new.kind == DIRECTORY and new.path in wanted.holding:
                kept.append(Kept(new.path, HOLDS_OTHER))
            else:
                removes.append(new)
        elif old.kind == FILE and not is_stored(old.digest):
            kept.append(Kept(old.path, NOT_STORED))
        elif new is None:
            puts.append((None, old))
        elif new.kind == DIRECTORY != old.kind and new.path in wanted.holding:
            kept.append(Kept(new.path, HOLDS_OTHER))
        elif new.kind != old.kind and DIRECTORY in (new.kind, old.kind):
            removes.append(new)
            puts.append((None, old))
        elif same_content(old, new) and old.path not in wanted.relinked and new.kind != LINK:
            metas.append((new, old))
        else:
            puts.append((new, old))
    steps = _numbered(removes, puts, metas)
    return Plan(steps, _directories(steps, metas, wanted, chosen), tuple(kept))


class _Wanted(Record):
    """differing: (before, now) of what is to be put back. holding: directories with something in them that stays.

    relinked: names of files that had several. directories: (before, now) of all. lasting: those in which a name stays
    that was not there before.
    """

    differing: list[tuple[Entry | None, Entry | None]]
    kept: list[Kept]
    holding: set[bytes]
    relinked: set[bytes]
    directories: dict[bytes, tuple[Entry | None, Entry | None]]
    lasting: set[bytes]


class _Above:
    """A directory on the way to where the comparison is. judged: whether it is to be put back; done: taken up."""

    def __init__(self, old: Entry | None, new: Entry | None, judged: str, *, done: bool) -> None:
        self.path = (old or new or _NOTHING).path
        self.old, self.new, self.judged, self.done = old, new, judged, done

    @property
    def is_missing(self) -> bool:
        """Whether what was in it cannot be put back as long as it is not."""
        return not self.done and (self.new is None or self.new.kind != DIRECTORY)

    @property
    def may_be_made(self) -> bool:
        """Whether it may be made for what is in it: nothing is there, or what the session put there."""
        return (
            self.old is not None
            and self.old.kind == DIRECTORY
            and not self.old.reason
            and (self.new is None or self.judged == _PUT_BACK)
        )


_NOTHING = Entry(b"", SPECIAL)


def _wanted(
    before: Callable[[], Iterable[Entry]],
    after: Callable[[], Iterable[Entry]] | None,
    now: Callable[[], Iterable[Entry]],
    chosen: Callable[[bytes], bool],
    force: bool,
) -> _Wanted:
    wanted = _Wanted([], [], set(), _relinked(before, now), {}, set())
    way: list[_Above] = []  # the directories that lead to here
    for old, left, new in aligned(before(), after() if after is not None else None, now()):
        path = (old or left or new or _NOTHING).path
        while way and not _is_in(path, way[-1].path):
            way.pop()
        verdict = _judge(old, left, new, path in wanted.relinked, after is not None, force)
        is_taken = verdict == _PUT_BACK and chosen(path)
        if is_taken and old is not None and not all(each.may_be_made for each in way if each.is_missing):
            wanted.kept.append(Kept(path, IN_THE_WAY))
            is_taken = False
        elif is_taken:
            for each in way:
                if old is not None and each.is_missing:
                    wanted.differing.append((each.old, each.new))
                    each.done = True
            wanted.differing.append((old, new))
        elif verdict not in ("", _PUT_BACK) and chosen(path):
            wanted.kept.append(Kept(path, verdict))
        is_directory = any(each is not None and each.kind == DIRECTORY for each in (old, new))
        if new is not None and not is_taken and not (old is not None and old.kind == new.kind == DIRECTORY):
            wanted.holding.update(each.path for each in way)
            if old is None:
                wanted.lasting.add(path.rpartition(b"/")[0])
        if is_directory:
            way.append(_Above(old, new, verdict, done=is_taken))
            wanted.directories[path] = (old, new)
    return wanted


_PUT_BACK = "put back"


def _judge(
    old: Entry | None, left: Entry | None, new: Entry | None, is_relinked: bool, is_known: bool, force: bool
) -> str:
    """Return _PUT_BACK, the reason why it is kept although it differs, or "" for nothing to do."""
    if old is not None and (old.reason or old.kind == SPECIAL):
        return ""  # it was not tracked
    if old is None and (new is None or not new.path or (new.reason and new.kind != SPECIAL)):
        return ""
    if old is not None and new is not None and new.reason and new.kind == old.kind:
        return CHANGED_SINCE if new.reason == UNREADABLE else ""
    if old is not None and new is not None and not is_relinked and same(old, new):
        return ""
    if old is None and left is None and is_known:
        return ""  # it came since, and is none of the session's
    if is_known and unchanged_since(left, new):
        return _PUT_BACK
    if old is not None and new is not None and old.kind == new.kind == DIRECTORY and old.mode == new.mode:
        return _PUT_BACK  # its time, which every name in it changes
    if old is not None and new is not None and is_known and same_content(old, new) and old.mode == new.mode:
        return _PUT_BACK  # touched
    return _PUT_BACK if force else CHANGED_SINCE


def _relinked(before: Callable[[], Iterable[Entry]], now: Callable[[], Iterable[Entry]]) -> set[bytes]:
    """Return the names that were one file and are not now, and those that are one now and were not."""
    was: dict[bytes, tuple[int, int]] = {}
    groups: dict[tuple[int, int], list[bytes]] = {}
    for entry in before():
        if entry.kind == FILE and entry.links > 1 and not entry.reason:
            was[entry.path] = (entry.device, entry.inode)
            groups.setdefault(was[entry.path], []).append(entry.path)
    found: dict[bytes, tuple[int, int]] = {}
    shared: dict[tuple[int, int], list[bytes]] = {}
    for entry in now():
        if entry.kind == FILE and not entry.reason and (entry.links > 1 or entry.path in was):
            found[entry.path] = (entry.device, entry.inode)
            shared.setdefault(found[entry.path], []).append(entry.path)
    broken: set[bytes] = set()
    for paths in groups.values():
        if len(paths) > 1 and len({found.get(path) for path in paths}) > 1:
            broken.update(paths)
    if any(len(paths) > 1 for paths in shared.values()):
        was.update({entry.path: (entry.device, entry.inode) for entry in before() if entry.path in found})
        for paths in shared.values():
            ours = [path for path in paths if path in was]
            if len({was[path] for path in ours}) > 1:
                broken.update(ours)
    return broken


def _numbered(
    removes: list[Entry], puts: list[tuple[Entry | None, Entry]], metas: list[tuple[Entry, Entry]]
) -> tuple[Step, ...]:
    steps: list[Step] = []
    for new in sorted(removes, key=lambda entry: sort_key(entry.path), reverse=True):
        steps.append(Step(REMOVE, new.path, len(steps), was=new))
    first: dict[tuple[int, int], int] = {}
    for there, old in sorted(puts, key=lambda pair: sort_key(pair[1].path)):
        number, link_to = len(steps), -1
        if old.kind == FILE and old.links > 1:
            link_to = first.setdefault((old.device, old.inode), number)
        steps.append(
            Step(
                PLACE if there is None else REPLACE, old.path, number, there, old, -1 if link_to == number else link_to
            )
        )
    for there, old in metas:
        if there.kind != DIRECTORY:
            steps.append(Step(META, there.path, len(steps), there, old))
    return tuple(steps)


def _directories(
    steps: tuple[Step, ...], metas: list[tuple[Entry, Entry]], wanted: _Wanted, chosen: Callable[[bytes], bool]
) -> tuple[Directory, ...]:
    """Return what is to be set in the end on each directory that is touched, the deepest first."""
    removed = {step.path for step in steps if step.operation == REMOVE and step.was and step.was.kind == DIRECTORY}
    made = {step.path for step in steps if step.becomes is not None and step.becomes.kind == DIRECTORY}
    touched = {step.path.rpartition(b"/")[0] for step in steps} | removed | made
    touched.update(there.path for there, _ in metas if there.kind == DIRECTORY)
    for path in list(touched):  # and those on the way that nobody may pass
        while path:
            path = path.rpartition(b"/")[0]
            new = wanted.directories.get(path, (None, None))[1]
            if new is not None and new.mode & _OWNER != _OWNER:
                touched.add(path)
    unsettled = wanted.lasting | {each.path.rpartition(b"/")[0] for each in wanted.kept}
    found = []
    for path in sorted(touched, key=sort_key, reverse=True):
        old, new = wanted.directories.get(path, (None, None))
        now = meta_of(new) if new is not None and new.kind == DIRECTORY else None
        was = meta_of(old) if old is not None and old.kind == DIRECTORY and not old.reason else None
        if path in made:
            after = was
        elif path in removed:
            after = None
        elif was is None or now is None or not chosen(path):
            after = now
        else:
            after = was if path not in unsettled else was._replace(mtime_ns=now.mtime_ns)
        if after is not None or now is not None:
            found.append(Directory(path, after, now))
    return tuple(found)


def _is_in(path: bytes, directory: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")
