"""Grants and denies -> the pieces of the file system that the child gets.

Landlock only ever allows: a right on a directory is a right on all below it, and nothing below can be taken out again.
A grant around a denied path is therefore replaced by grants of everything beside that path: each directory on the way
down to it is expanded into its entries. What follows from that, and is wanted:

- nothing can be created, removed or renamed directly in an expanded directory, because only its entries are granted. So
  a denied path that does not exist yet cannot be made either, and the denied one cannot be moved out of the way;
- an entry that appears in an expanded directory later is not granted;
- a path that is denied for writing only (nono's own code, the profile) is a hole in the writable pieces, not in the
  readable ones: such a grant is expanded once for each;
- of a pinned file (a signed one), all that is to be is that it stays as it is. Where the child has mounts of its own,
  one on the file does that (mounts.py), and what is around it is granted as it stands; elsewhere it is such a hole;
- a hole in a denied path (--bypass-protection) is granted again, as a piece of its own, where a grant is around it;
- listing an expanded directory works, and so do `ls` and file-name completion. READ_DIR is inherited like any other
  right, so the *names* in a denied directory below can be listed as well; its contents cannot be read.

A path is judged by what it really is, never by its name: a grant that leads through a symbolic link into a denied place
is refused, and a denied path that is a link denies its target. The same directory seen through a second mount is denied
there too. Upper and lower case count as one, as on a file system that folds them. Files in a denied directory that are
links to files elsewhere (a repository of dotfiles) are denied at their target, except under the built-in grants, which
hold no secrets.

Pure: the disk is seen through a Listing, which `filesystem.Disk` implements.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from nono.errors import PolicyError, UsageError
from nono.policy.capabilities import NOTED, READ, WRITE, CapabilitySet, PathDeny, PathGrant, is_at_or_below
from nono.policy.protection import PROFILES_DENY, USERS_DENY, can_be_bypassed
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object

# What a path is. FILE is everything that is no other kind: also a socket or a FIFO.
ABSENT, DIRECTORY, FILE, DEVICE, LINK = "absent", "directory", "file", "device", "link"
EXPANDED = "expanded"  # a directory whose entries are granted one by one: it can be listed, no more

STREAM = "standard stream"  # the origin of a grant of what is open already, and need not be seen to be opened again

_SHOWN = 3  # paths in one note
MAX_PIECES = 4096  # about 40 ms to open; a home directory has some hundred

# A grant of the root does not mean these: devices of the disks, other users' terminals, the kernel's own settings. They
# can be granted by name.
_NEVER_IMPLIED = ("/dev", "/proc", "/sys")


class Entry(Record):
    """What a path leads to: its real path (the last components may be absent) and its kind, never LINK."""

    path: str
    kind: str


class Listing(Protocol):
    """The file system, as the expansion needs to see it."""

    def look(self, path: str) -> Entry:
        """Follow every symbolic link of `path`."""

    def children(self, path: str) -> Iterable[tuple[str, str]]:
        """Name and kind of each entry of a directory, links not followed; nothing where it cannot be listed."""

    def aliases(self, path: str) -> Iterable[str]:
        """Other paths at which mounts show the same file as the real path `path`, or a part of it."""

    def is_socket(self, path: str) -> bool:
        """Whether the real path `path` is an AF_UNIX socket."""


class Piece(Record):
    """One real path to grant. kind: DIRECTORY (with all below), FILE, DEVICE or EXPANDED. access: READ | WRITE bits."""

    path: str
    kind: str
    access: int


class Expansion(Record):
    """grants: those that took effect, for the summary. notes: what a user may stumble over. network: NETWORK_*.

    For a mount namespace: writable: real paths of the grants that may be written; masked: what is denied in an expanded
    directory, and is there; read_only: real paths that must not be written, inside of writable grants; pinned: files of
    which only the mounts keep writers away; opened: denied paths in there in which a bypass opens something. has_tmp:
    whether /tmp is a directory. own_sockets: AF_UNIX sockets may be made where files may. unix_sockets: those that may
    be connected to, where they really are.
    """

    pieces: tuple[Piece, ...]
    grants: tuple[PathGrant, ...]
    notes: tuple[str, ...]
    network: str
    writable: tuple[str, ...] = ()
    masked: tuple[Entry, ...] = ()
    read_only: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    has_tmp: bool = False
    own_sockets: bool = False
    unix_sockets: tuple[Entry, ...] = ()


def expand(capabilities: CapabilitySet, listing: Listing, *, mounts: bool = False) -> Expansion:
    """Return the pieces that the grants come to once every denied path is left out.

    mounts: it is for a wall with mounts; without, it is for any.
    Raises UsageError for a grant that does not exist or is of the wrong kind (a socket may come later), PolicyError for
    one that is itself denied or that would come to more than MAX_PIECES pieces.
    """
    denies = _Denies((deny for deny in capabilities.denies if deny.access & READ), listing)
    read_only = _Denies((deny for deny in capabilities.denies if not deny.access & READ), listing)
    pinned = [deny for deny in capabilities.denies if mounts and _is_pinned(deny)]
    by_landlock = [deny for deny in capabilities.denies if not (pinned and _is_pinned(deny))]
    holes = _Denies((deny for deny in by_landlock if not deny.access & READ), listing) if pinned else read_only
    both: _Denies | None = None  # made when a writable grant meets a read-only path, which is rare
    pieces: dict[tuple[str, str], int] = {}
    taken: list[PathGrant] = []
    notes: dict[str, None] = {}
    missing: dict[str, list[str]] = {}
    writable: dict[str, None] = {}
    for grant in capabilities.grants:
        entry = _find(grant, listing)
        if entry is None:
            if grant.absent == NOTED:
                missing.setdefault(grant.origin, []).append(grant.path)
            continue
        names = (grant.path,) if grant.path == entry.path else (grant.path, entry.path)
        if deny := denies.around(names, grant):
            if not grant.optional:
                raise PolicyError(_refusal(grant, entry, deny))
            notes[f"{grant.origin} {grant.path}: it is protected ({deny.group}, {deny.path}) and was left out"] = None
            continue
        parts = [(grant, denies)]
        if grant.access & WRITE:
            if deny := read_only.around(names, grant):
                reason = f"cannot be made writable ({deny.group}: {deny.path}); grant it with --read"
                raise PolicyError(f"{grant.origin} {grant.path}: {reason}")
            if holes.within(entry.path, grant):
                both = both or _Denies(by_landlock, listing)
                parts = [(grant._replace(access=WRITE), both)]
                if grant.access & READ:
                    parts.append((grant._replace(access=READ), denies))
        taken.append(grant)
        if grant.access & WRITE and entry.kind in (DIRECTORY, FILE):
            writable[entry.path] = None
        for part, left_out in parts:
            for path, kind, access in _all_pieces(part, entry, left_out, listing):
                is_news = kind == EXPANDED and grant.access & WRITE and not grant.optional
                if is_news and (note := left_out.note(path)):
                    notes[note] = None
                pieces[path, kind] = pieces.get((path, kind), 0) | access
                if len(pieces) > MAX_PIECES:
                    raise PolicyError(
                        f"{grant.origin} {grant.path}: too broad; with its protected paths taken out it comes to more "
                        f"than {MAX_PIECES} entries. Grant the directories inside it that the agent needs"
                    )
    notes.update((_note_of_missing(origin, paths), None) for origin, paths in missing.items())
    sockets = []
    for path in capabilities.unix_sockets:
        grant, entry = PathGrant(path, READ | WRITE, True, "--allow-unix-socket"), listing.look(path)
        if deny := denies.around((path, entry.path), grant):
            raise PolicyError(_refusal(grant, entry, deny))
        # Below /tmp it is mounted where the agent may read and write all, so a file would be granted by it.
        if entry.kind != ABSENT and not listing.is_socket(entry.path):
            raise UsageError(f"--allow-unix-socket {path}: is not a socket; leave it out, or grant it with --read-file")
        sockets.append(entry)
    return Expansion(
        pieces=tuple(_uncovered(pieces)),
        grants=tuple(taken),
        notes=tuple(notes),
        network=capabilities.network,
        writable=tuple(writable),
        masked=tuple(_masked(capabilities.denies, pieces, listing)),
        read_only=tuple(_read_only(by_landlock, writable.keys(), listing)),
        pinned=tuple(_pinned(pinned, writable.keys(), listing)),
        opened=tuple(_opened(capabilities.denies, writable.keys(), listing)),
        has_tmp=listing.look("/tmp") == Entry("/tmp", DIRECTORY),
        own_sockets=capabilities.own_sockets,
        unix_sockets=tuple(sockets),
    )


def _masked(denies: Iterable[PathDeny], pieces: Mapping[tuple[str, str], int], listing: Listing) -> Iterator[Entry]:
    """Yield what is denied, is there, and stands in a directory that is expanded; not what has holes."""
    for deny in denies:
        if deny.access & READ and not deny.holes:
            entry = listing.look(deny.path)
            directory = entry.path.rpartition("/")[0] or "/"
            if entry.kind in (DIRECTORY, FILE) and (directory, EXPANDED) in pieces:
                yield entry


def _read_only(denies: Iterable[PathDeny], writable: AbstractSet[str], listing: Listing) -> Iterator[str]:
    """Yield what is denied for writing only, is there, and lies in a writable grant."""
    for deny in denies:
        if not deny.access & READ and not deny.is_link:
            entry = listing.look(deny.path)
            if entry.kind in (DIRECTORY, FILE) and not writable.isdisjoint(ancestors(entry.path)):
                yield entry.path


def _is_pinned(deny: PathDeny) -> bool:
    return deny.pinned and not deny.access & READ


def _pinned(denies: Iterable[PathDeny], writable: AbstractSet[str], listing: Listing) -> Iterator[str]:
    """Yield what is there, and lies in a writable grant, by each name that it has in one."""
    for deny in denies:
        entry = listing.look(deny.path)
        if entry.kind in (DIRECTORY, FILE):
            for path in (entry.path, *listing.aliases(entry.path)):
                if not writable.isdisjoint(ancestors(path)):
                    yield path


def _opened(denies: Iterable[PathDeny], writable: AbstractSet[str], listing: Listing) -> Iterator[str]:
    """Yield what is denied but for holes, is there, and lies in a writable grant."""
    for deny in denies:
        if deny.holes and deny.access & READ:
            entry = listing.look(deny.path)
            if entry.kind == DIRECTORY and not writable.isdisjoint(ancestors(entry.path)):
                yield entry.path


def _refusal(grant: PathGrant, entry: Entry, deny: PathDeny) -> str:
    """Say why a grant is refused, and what to do."""
    named = f"{grant.origin} {grant.path}"
    if deny.group in (USERS_DENY, PROFILES_DENY):
        where = "filesystem.deny of the profile" if deny.group == PROFILES_DENY else deny.group
        return f"{named}: it is denied by {where} ({deny.path}); leave one of them out"
    sentence = f"{named}: it is protected ({deny.group}, {deny.path}) and stays denied; leave it out"
    if not can_be_bypassed(deny):
        return sentence
    below = [path for path in (grant.path, entry.path) if is_at_or_below(path, deny.path)]
    return f"{sentence}, or open it with --bypass-protection {below[0] if below else deny.path}"


def ancestors(path: str) -> Iterator[str]:
    """Yield `path` and every directory above it, up to "/"."""
    while path != "/":
        yield path
        path = path.rpartition("/")[0] or "/"
    yield path


def _add_directories_above(path: str, found: set[str]) -> None:
    """Add every directory above `path` to `found`, in which the ones above a member are members."""
    directory = path.rpartition("/")[0] or "/"
    while directory not in found:
        found.add(directory)
        directory = directory.rpartition("/")[0] or "/"


class _Denies:
    """The denied paths, by every name under which they can be met, and the directories above them."""

    def __init__(self, denies: Iterable[PathDeny], listing: Listing) -> None:
        self._listing = listing
        # Keys and members are in lower case, but for holes: where case is folded, a hole has one spelling.
        self._holes: dict[PathDeny, set[str]] = {}
        self._named_holes: set[str] = set()
        self._denied: dict[str, tuple[PathDeny, ...]] = {}
        self._met: dict[str, tuple[PathDeny, ...]] = {}  # see _at_or_above
        self._linked: dict[str, PathDeny] = {}
        self._above: set[str] = set()
        self._above_linked: set[str] = set()
        for deny in denies:
            if deny.is_link:  # it is no piece of anything; that nothing takes its place follows from the expansion
                for path in (deny.path, *listing.aliases(deny.path)):
                    _add_directories_above(path.lower(), self._above)
                continue
            entry = listing.look(deny.path)
            if deny.holes:
                self._holes[deny] = self._spellings(deny.holes, entry.path)
                self._named_holes.update(deny.holes)
            for path in {path.lower() for path in (deny.path, entry.path, *listing.aliases(entry.path))}:
                self._denied[path] = (*self._denied.get(path, ()), deny)
                _add_directories_above(path, self._above)
            if entry.kind == DIRECTORY:
                self._follow_links(entry.path, deny)
        for path in _NEVER_IMPLIED:
            _add_directories_above(path, self._above)
        self._above_linked |= self._above

    def _follow_links(self, directory: str, deny: PathDeny) -> None:
        for name, kind in self._listing.children(directory):
            if kind == LINK:
                target = self._listing.look(f"{directory}/{name}")
                if target.kind == FILE and f"{deny.path}/{name}" not in deny.holes:
                    self._linked[target.path.lower()] = deny
                    _add_directories_above(target.path.lower(), self._above_linked)

    def around(self, paths: Iterable[str], grant: PathGrant) -> PathDeny | None:
        """Return the deny that holds for one of `paths`: its own or that of a directory above it."""
        for path in paths:
            folded = path.lower()
            for deny in self._met.get(folded) or self._at_or_above(folded):
                if not any(is_at_or_below(path, hole) for hole in self._holes.get(deny, ())):
                    return deny
            if folded in self._linked and not grant.optional:
                return self._linked[folded]
        return None

    def _at_or_above(self, path: str) -> tuple[PathDeny, ...]:
        """Return the denies of `path`, then those of the directories above it, which are those of all its siblings."""
        found = self._met.get(path)
        if found is None:
            found = self._denied.get(path, ())
            if path != "/":
                directory = path.rpartition("/")[0] or "/"
                found += self._met.get(directory) or self._at_or_above(directory)
            self._met[path] = found
        return found

    def holes(self, directory: str, grant: PathGrant) -> Iterator[Entry]:
        """Yield what a grant of the real path `directory` reaches through holes of denied paths below it."""
        for path in self._named_holes:
            entry = self._listing.look(path)
            is_inside = entry.kind != ABSENT and is_at_or_below(entry.path, directory)
            if is_inside and self.around((path, entry.path), grant) is None:
                yield entry

    def _spellings(self, holes: Iterable[str], denied: str) -> set[str]:
        """Return every name of the holes in a deny whose real path is `denied`, which none of them may be around."""
        found = set(holes)
        for hole in holes:
            real = self._listing.look(hole).path
            if not is_at_or_below(denied, real):
                found.update((real, *self._listing.aliases(real)))
        return found

    def within(self, path: str, grant: PathGrant) -> bool:
        """Say whether something denied lies below `path`."""
        return path.lower() in (self._above if grant.optional else self._above_linked)

    def at(self, path: str, grant: PathGrant) -> bool:
        """Say whether an entry of an expanded directory is left out."""
        path = path.lower()
        if path in self._denied or path in _NEVER_IMPLIED:
            return True
        return not grant.optional and path in self._linked

    def note(self, directory: str) -> str:
        """Return a sentence on an expanded directory, naming a protected path that really is directly in it."""
        found = [f"{directory.rstrip('/')}/{name}".lower() for name, _ in self._listing.children(directory)]
        for denies in map(self._denied.get, found):
            for deny in denies or ():
                return (
                    f"{directory}: new files cannot be created directly in it, because it holds {deny.path} "
                    f"({deny.group}); the directories in it are granted one by one"
                )
        return ""


def _note_of_missing(origin: str, paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    are = "are" if len(paths) > 1 else "is"
    return f"{origin}: {', '.join(paths[:_SHOWN])}{more} {are} not there (or not yours to see) and left out"


def _find(grant: PathGrant, listing: Listing) -> Entry | None:
    """Return what the grant names, None for an optional one that is not there, or is not what it should be."""
    entry = listing.look(grant.path)
    problem = ""
    if entry.kind == ABSENT:
        problem = (
            "no such file or directory, a link that leads nowhere, or not yours to see; create it first or leave it out"
        )
    elif grant.is_file and entry.kind == DIRECTORY:
        instead = "write it where directories stand, without _file" if grant.absent else "grant it with "
        problem = f"is a directory; {instead}{'' if grant.absent else grant.origin.removesuffix('-file')}"
    elif not grant.is_file and entry.kind != DIRECTORY and not grant.optional and not grant.absent:
        problem = f"is not a directory; grant it with {grant.origin}-file"
    if not problem:
        return entry
    if grant.optional or (grant.absent and entry.kind == ABSENT):
        return None
    raise UsageError(f"{grant.origin} {grant.path}: {problem}")


def _all_pieces(grant: PathGrant, entry: Entry, denies: _Denies, listing: Listing) -> Iterable[Piece]:
    """Return the pieces of a grant, and those that a bypass opens in what is denied below it."""
    if entry.kind != DIRECTORY or not denies.within(entry.path, grant):
        return (Piece(entry.path, entry.kind, grant.access),)  # as most of hundreds are
    return _pieces_and_holes(grant, entry, denies, listing)


def _pieces_and_holes(grant: PathGrant, entry: Entry, denies: _Denies, listing: Listing) -> Iterator[Piece]:
    yield from _pieces(grant, entry, denies, listing)
    if not grant.optional:
        for hole in denies.holes(entry.path, grant):
            yield from _pieces(grant, hole, denies, listing)


def _pieces(grant: PathGrant, entry: Entry, denies: _Denies, listing: Listing) -> Iterator[Piece]:
    if entry.kind != DIRECTORY or not denies.within(entry.path, grant):
        yield Piece(entry.path, entry.kind, grant.access)
        return
    yield Piece(entry.path, EXPANDED, grant.access & READ)
    for name, kind in listing.children(entry.path):
        child = Entry(f"{entry.path.rstrip('/')}/{name}", kind)
        if kind != LINK and not denies.at(child.path, grant):
            yield from _pieces(grant, child, denies, listing)


def _uncovered(pieces: dict[tuple[str, str], int]) -> Iterator[Piece]:
    """Leave out what a granted directory above gives already: each piece costs three system calls."""
    trees = {path: access for (path, kind), access in pieces.items() if kind == DIRECTORY}
    above: dict[str, int] = {}  # access that a directory and those above it give
    for (path, kind), access in pieces.items():
        parent = path.rpartition("/")[0] or "/"
        if parent not in above:
            above[parent] = 0
            for directory in ancestors(parent):
                above[parent] |= trees.get(directory, 0)
        covered = above[parent] | (trees.get(path, 0) if kind == EXPANDED else 0)
        if kind == DEVICE or access & ~covered:  # a device also needs the right to ioctl(2), which a directory lacks
            yield Piece(path, kind, access)


def protection(capabilities: CapabilitySet, path: str, access: int, listing: Listing) -> PathDeny | None:
    """Return what denies this access to `path`, by whatever name, link or mount; None where nothing does."""
    denies = _Denies((deny for deny in capabilities.denies if deny.access & access), listing)
    return denies.around((path, listing.look(path).path), PathGrant(path, access, True, ""))
