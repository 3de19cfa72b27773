"""What a restore has to do: from three listings of one root to the steps that lead back (steps.py). Pure.

The listings are streams of Entry in the order of a walk: *before* the session, *after* it (None where nono was killed
and there is no such listing), and *now*. A path is put back when it is chosen and is not as it was before. What is
not as the session left it was changed since: that is kept, unless `force`. What came since, and was never the
session's, is always kept. What was left out of the listing before (excluded, unreadable, special) is not touched.

One pass over all three, beside each other; what is remembered are the directories on the way to where it is. Whether a
directory may go is known when all below it was seen: until then its step is there on trial.

Hard links: names that were one file before and are not the same set of names now are all put back, as one file. Only
for these a pass is made before, which remembers the files that have several names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from stat import S_ISGID, S_ISUID

from nono.record import Record
from nono.rollback.changes import has_other_owner
from nono.rollback.spool import Spool
from nono.rollback.steps import META, PLACE, REMOVE, REPLACE, Directory, Kept, Plan, Step, meta_of
from nono.rollback.tree import DIRECTORY, FILE, LINK, SPECIAL, UNREADABLE, Entry, sort_key

# Kept.reason
CHANGED_SINCE = "changed since the session"
HOLDS_OTHER = "a directory that holds what is not tracked, or came since"
IN_THE_WAY = "below what was put there since"
NOT_STORED = "its contents were not stored"
CANNOT_SAVE = "it cannot be read, so it cannot be saved first"
WITHOUT_BITS = "without its set-user-ID and set-group-ID bits: you may not give it the owner that it had"

_OWNER = 0o700
_IDENTITY_BITS = S_ISUID | S_ISGID
_PUT_BACK = "put back"


class May(Record):
    """What is possible. is_stored: whether the contents with this digest can be had. can_give: whether a file of this
    user's can get this owner and group."""

    is_stored: Callable[[str], bool] = bool
    can_give: Callable[[int, int], bool] = lambda uid, gid: False


def same_content(one: Entry, other: Entry) -> bool:
    """Whether both are of one kind, with the same contents."""
    if one.kind != other.kind:
        return False
    if one.kind == FILE:
        return one.size == other.size and one.digest == other.digest
    return one.kind != LINK or one.target == other.target


def same_owner(one: Entry, other: Entry) -> bool:
    """Whether both belong to the same user and group, as far as that is known."""
    return not has_other_owner(one, other)


def _same_meta(one: Entry, other: Entry) -> bool:
    return one.mode == other.mode and (one.xattrs == other.xattrs or meta_of(one).xattrs == meta_of(other).xattrs)


def unchanged_since(after: Entry | None, now: Entry | None) -> bool:
    """Whether what is there now is what the session left; times do not count."""
    if after is None or now is None:
        return after is now
    if after.kind == now.kind and (now.kind == SPECIAL or after.reason == UNREADABLE):
        return after.inode == now.inode and after.size == now.size
    if not same_content(after, now) or not same_owner(after, now):
        return False
    return now.kind == LINK or _same_meta(after, now)


def aligned(*listings: Iterable[Entry] | None) -> Iterator[tuple[Entry | None, ...]]:
    """Yield the entries of the listings path by path, None where one has no such path."""
    streams = [iter(listing) if listing is not None else iter(()) for listing in listings]
    heads = [next(stream, None) for stream in streams]
    keys = [sort_key(head.path) if head is not None else None for head in heads]
    while any(key is not None for key in keys):
        least = min(key for key in keys if key is not None)
        at = [key == least for key in keys]
        yield tuple([head if is_at else None for head, is_at in zip(heads, at, strict=True)])
        for index, is_at in enumerate(at):
            if is_at:
                head = heads[index] = next(streams[index], None)
                keys[index] = sort_key(head.path) if head is not None else None


def plan(
    before: Callable[[], Iterable[Entry]],
    after: Callable[[], Iterable[Entry]] | None,
    now: Callable[[], Iterable[Entry]],
    *,
    chosen: Callable[[bytes], bool] = lambda path: True,
    force: bool = False,
    may: May | None = None,
    spool: Spool | None = None,
) -> Plan:
    """Return what leads back to `before`; the listings are functions, because they are read more than once.

    chosen: whether a path is to be put back. Directories that lead to it are made where they are not there. spool:
    where the plan's rows go.
    """
    planning = _Planning(Plan.empty(spool or Spool()), _Links(before, now), chosen, may or May())
    for old, left, new in aligned(before(), after() if after is not None else None, now()):
        planning.add(old, left, new, after is not None, force)
    return planning.finish()


class _Above:
    """A directory on the way to where the pass is; of its entries the path is left out."""

    def __init__(self, length: int, old: Entry | None, new: Entry | None, judged: str) -> None:
        self.length = length  # of its path
        self.old, self.new = old and _moved(old, b""), new and _moved(new, b"")
        self.judged = judged  # whether it is to be put back
        self.is_done = False  # a step for it was made
        self.remove = self.put = -1  # the steps that are there on trial
        self.number = -1  # of the latter
        self.holds = False  # something in it stays
        self.is_touched = False  # names in it change
        self.is_reset = False  # its own mode, owner, attributes or time are put back
        self.is_passed = False  # the same is true of what is below it
        self.is_unsettled = False  # its time is not what it was: something in it is not

    @property
    def is_missing(self) -> bool:
        """Whether what was in it cannot be put back as long as it is not."""
        return not self.is_done and (self.new is None or self.new.kind != DIRECTORY)

    @property
    def may_be_made(self) -> bool:
        """Whether it may be made for what is in it: nothing is there, or what the session put there."""
        return (
            self.old is not None
            and self.old.kind == DIRECTORY
            and not self.old.reason
            and (self.new is None or (self.judged == _PUT_BACK and bool(self.new.digest or self.new.kind != FILE)))
        )

    def meta(self, *, chosen: bool, path: bytes) -> Directory | None:
        """Return what it is to have in the end."""
        old, new = self.old, self.new
        now = meta_of(new) if new is not None and new.kind == DIRECTORY else None
        was = meta_of(old) if old is not None and old.kind == DIRECTORY and not old.reason else None
        after = now
        if self.is_done and was is not None and now is None:
            after = was
        elif self.is_done and was is None:
            after = None
        elif was is not None and now is not None and chosen and self.judged in ("", _PUT_BACK):
            after = was if not self.is_unsettled else was._replace(mtime_ns=now.mtime_ns)
        return Directory(path, after, now) if after is not None or now is not None else None


class _Planning:
    """The pass."""

    def __init__(self, plan: Plan, links: _Links, chosen: Callable[[bytes], bool], may: May) -> None:
        self._plan, self._links, self._chosen, self._may = plan, links, chosen, may
        self._way: list[_Above] = []
        self._path = b""  # where it is
        self._count = 0
        self._first: dict[tuple[int, int], int] = {}  # of the names of one file, the step that makes it

    def add(self, old: Entry | None, left: Entry | None, new: Entry | None, is_known: bool, force: bool) -> None:
        """Take the next path: what was, what the session left, and what is there now."""
        path = (old or left or new).path  # type: ignore[union-attr]
        self._leave_for(path)
        self._path = path
        is_relinked = self._links.are_broken(old, new)
        verdict = _judge(old, left, new, is_relinked, is_known, force, self._may)
        reason = "" if verdict == _PUT_BACK else verdict
        is_wanted = bool(verdict) and self._chosen(path)
        missing: list[_Above] = []
        if is_wanted and not reason:
            missing = self._missing() if old is not None else []
            reason = self._hindrance(old, new, missing, is_relinked)
        is_taken = is_wanted and not reason
        if is_wanted and reason:
            self._keep(path, reason)
        above = self._way[-1] if self._way else None
        if new is not None and not is_taken and not (old is not None and old.kind == new.kind == DIRECTORY) and above:
            above.holds = True
            above.is_unsettled |= old is None
        here = None
        if any(each is not None and each.kind == DIRECTORY for each in (old, new)):
            here = _Above(len(path), old, new, reason or verdict)
        if is_taken:
            for number, each in enumerate(reversed(missing)):
                place = len(self._way) - len(missing) + number
                self._put_back(_with_path(each.old, path[: each.length]), _with_path(each.new, path[: each.length]),
                               each, self._way[place - 1] if place else None)  # fmt: skip
            self._put_back(old, new, here, above, is_relinked=is_relinked)
        if here is not None:
            self._way.append(here)

    def finish(self) -> Plan:
        """Return the plan: all was seen."""
        while self._way:
            self._leave()
        return self._plan

    def _missing(self) -> list[_Above]:
        """Return the directories that must be made before what is here, the deepest first."""
        found = []
        for each in reversed(self._way):
            if not each.is_missing:
                break
            found.append(each)
        return found

    def _hindrance(self, old: Entry | None, new: Entry | None, missing: list[_Above], is_relinked: bool) -> str:
        """Return why what is to be put back cannot be; "" for nothing."""
        if not all(each.may_be_made for each in missing):
            return IN_THE_WAY
        if old is not None and old.kind == FILE and not self._may.is_stored(old.digest):
            return NOT_STORED
        is_meta = old is not None and new is not None and not is_relinked and same_content(old, new)
        if new is not None and new.kind == FILE and not new.digest and not is_meta:
            return CANNOT_SAVE
        return ""

    def _put_back(
        self,
        old: Entry | None,
        new: Entry | None,
        here: _Above | None,
        above: _Above | None,
        *,
        is_relinked: bool = False,
    ) -> None:
        """Write the steps for one path. here: where it is, or was, a directory."""
        removes, puts = self._plan.removes, self._plan.puts
        if here is not None:
            here.is_done = True
        if old is None:
            assert new is not None
            index = removes.append(self._step(REMOVE, new.path, new, None))
            if here is not None:
                here.remove = index
                return  # whether it goes is seen when it is left
        elif new is None:
            puts.append(self._step(PLACE, old.path, None, self._becoming(old)))
        elif new.kind != old.kind and DIRECTORY in (new.kind, old.kind):
            index = removes.append(self._step(REMOVE, new.path, new, None))
            put = puts.append(self._step(PLACE, old.path, None, self._becoming(old)))
            if here is not None and new.kind == DIRECTORY:
                here.remove, here.put, here.number = index, put, self._count - 1
                return
        elif same_content(old, new) and not is_relinked and new.kind != LINK:
            if here is not None:
                here.is_done, here.is_reset = False, True  # it stays
                self._becoming(old, new)  # told, where it is without its bits
                return
            self._plan.metas.append(self._step(META, new.path, new, self._becoming(old, new)))
        else:
            puts.append(self._step(REPLACE, old.path, new, self._becoming(old)))
        if here is not None:
            here.is_touched = True
        if above is not None:
            above.is_touched = True

    def _becoming(self, old: Entry, new: Entry | None = None) -> Entry:
        """Return what is to be: without the bits that would make it another user's program than it was.

        new: what is there and stays, its owner and all.
        """
        if not old.mode & _IDENTITY_BITS or self._may.can_give(old.uid, old.gid):
            return old
        if new is not None and same_owner(old, new):
            return old
        self._plan.kept.append(Kept(old.path, WITHOUT_BITS))
        return old._replace(mode=old.mode & ~_IDENTITY_BITS)

    def _step(self, operation: str, path: bytes, was: Entry | None, becomes: Entry | None) -> Step:
        number, link_to = self._count, -1
        self._count += 1
        if operation in (PLACE, REPLACE) and becomes is not None and becomes.kind == FILE and becomes.links > 1:
            first = self._first.setdefault((becomes.device, becomes.inode), number)
            link_to = -1 if first == number else first
        return Step(operation, path, number, was, becomes, link_to)

    def _keep(self, path: bytes, reason: str) -> None:
        self._plan.kept.append(Kept(path, reason))
        if self._way:
            self._way[-1].is_unsettled = True

    def _leave_for(self, path: bytes) -> None:
        while self._way and not _is_in(path, self._path[: self._way[-1].length]):
            self._leave()

    def _leave(self) -> None:
        """All below a directory was seen: decide on it."""
        here = self._way.pop()
        path, above = self._path[: here.length], self._way[-1] if self._way else None
        if here.remove >= 0:
            if here.holds:
                self._plan.removes.drop(here.remove)
                if here.put >= 0 and here.old is not None:
                    self._plan.puts.drop(here.put)
                    identity = here.old.device, here.old.inode
                    if self._first.get(identity) == here.number:
                        del self._first[identity]
                here.is_done = False
                self._keep(path, HOLDS_OTHER)
            else:
                here.is_touched = True
                if above is not None:
                    above.is_touched = True
        if here.is_passed and here.new is not None and here.new.mode & _OWNER != _OWNER:
            here.is_touched = True  # nobody may pass it
        directory = None
        if here.is_touched or here.is_reset:
            directory = here.meta(chosen=self._chosen(path), path=path)
        if directory is not None and (here.is_touched or directory.after != directory.before):
            self._plan.directories.append(directory)
            here.is_touched = True
        if above is not None:
            above.holds |= here.holds
            above.is_passed |= here.is_touched or here.is_passed


def _judge(
    old: Entry | None, left: Entry | None, new: Entry | None, is_relinked: bool, is_known: bool, force: bool, may: May
) -> str:
    """Return _PUT_BACK, the reason why it is kept although it differs, or "" for nothing to do."""
    if old is not None and (old.reason or old.kind == SPECIAL):
        return ""  # it was not tracked
    if old is None and (new is None or not new.path or (new.reason and new.kind != SPECIAL)):
        return ""
    if old is not None and new is not None and new.reason and new.kind == old.kind:
        return CHANGED_SINCE if new.reason == UNREADABLE else ""
    if old is not None and new is not None and not is_relinked and _is_as_it_was(old, new, may):
        return ""
    if old is None and left is None and is_known:
        return ""  # it came since, and is none of the session's
    if is_known and unchanged_since(left, new):
        return _PUT_BACK
    if old is not None and new is not None and same_owner(old, new):
        if old.kind == new.kind == DIRECTORY and _same_meta(old, new):
            return _PUT_BACK  # its time, which every name in it changes
        if is_known and same_content(old, new) and _same_meta(old, new):
            return _PUT_BACK  # touched
    return _PUT_BACK if force else CHANGED_SINCE


def _is_as_it_was(old: Entry, new: Entry, may: May) -> bool:
    """Whether nothing is to be restored between the two, or nothing that can be."""
    if old.mtime_ns != new.mtime_ns or not same_content(old, new):
        return False
    if not same_owner(old, new):
        if may.can_give(old.uid, old.gid):
            return False
        if old.mode & ~_IDENTITY_BITS == new.mode & ~_IDENTITY_BITS:  # those that it had are another owner's
            return new.kind == LINK or _same_meta(old._replace(mode=new.mode), new)
    return new.kind == LINK or _same_meta(old, new)


class _Links:
    """Which names were one file and are not now, and which are one now and were not."""

    def __init__(self, before: Callable[[], Iterable[Entry]], now: Callable[[], Iterable[Entry]]) -> None:
        became: dict[tuple[int, int], tuple[int, int] | None] = {}
        had: dict[tuple[int, int], tuple[int, int]] = {}
        self._parted: set[tuple[int, int]] = set()  # files that were, whose names are several now
        self._joined: set[tuple[int, int]] = set()  # files that are, whose names were several
        for old, new in aligned(before(), now()):
            if old is None:
                continue
            was = old.device, old.inode
            now_is = _file_of(new)
            if old.links > 1 and _file_of(old) is not None and became.setdefault(was, now_is) != now_is:
                self._parted.add(was)
            if now_is is not None and new is not None and new.links > 1 and had.setdefault(now_is, was) != was:
                self._joined.add(now_is)

    def are_broken(self, old: Entry | None, new: Entry | None) -> bool:
        """Whether this path is one of those names."""
        if old is None:
            return False
        if self._parted and old.links > 1 and _file_of(old) in self._parted:
            return True
        return bool(self._joined) and new is not None and _file_of(new) in self._joined


def _file_of(entry: Entry | None) -> tuple[int, int] | None:
    return (entry.device, entry.inode) if entry is not None and entry.kind == FILE and not entry.reason else None


def _moved(entry: Entry, path: bytes) -> Entry:
    return tuple.__new__(Entry, (path, *entry[1:]))


def _with_path(entry: Entry | None, path: bytes) -> Entry | None:
    return None if entry is None else _moved(entry, path)


def _is_in(path: bytes, directory: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")
