"""Grants and denies -> the pieces of the file system that the child gets.

Landlock only ever allows: a right on a directory is a right on all below it, and nothing below can be taken out again.
A grant around a denied path is therefore replaced by grants of everything beside that path: each directory on the way
down to it is expanded into its entries. What follows from that, and is wanted:

- nothing can be created, removed or renamed directly in an expanded directory, because only its entries are granted. So
  a denied path that does not exist yet cannot be made either, and the denied one cannot be moved out of the way;
- an entry that appears in an expanded directory later is not granted;
- a path that is denied for writing only (nono's own code, the profile) is a hole in the writable pieces, not in the
  readable ones: such a grant is expanded once for each;
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

from collections.abc import Iterable, Iterator

from nono.errors import PolicyError, UsageError
from nono.policy.capabilities import READ, WRITE, CapabilitySet, PathDeny, PathGrant
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object

# What a path is. FILE is everything that is no other kind: also a socket or a FIFO.
ABSENT, DIRECTORY, FILE, DEVICE, LINK = "absent", "directory", "file", "device", "link"
EXPANDED = "expanded"  # a directory whose entries are granted one by one: it can be listed, no more

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


class Piece(Record):
    """One real path to grant. kind: DIRECTORY (with all below), FILE, DEVICE or EXPANDED. access: READ | WRITE bits."""

    path: str
    kind: str
    access: int


class Expansion(Record):
    """grants: those that took effect, for the summary. notes: what a user may stumble over. network: NETWORK_*."""

    pieces: tuple[Piece, ...]
    grants: tuple[PathGrant, ...]
    notes: tuple[str, ...]
    network: str


def expand(capabilities: CapabilitySet, listing: Listing) -> Expansion:
    """Return the pieces that the grants come to once every denied path is left out.

    Raises UsageError for a grant that does not exist or is of the wrong kind, PolicyError for one that is itself denied
    or that would come to more than MAX_PIECES pieces.
    """
    denies = _Denies((deny for deny in capabilities.denies if deny.access & READ), listing)
    read_only = _Denies((deny for deny in capabilities.denies if not deny.access & READ), listing)
    both: _Denies | None = None  # made when a writable grant meets a read-only path, which is rare
    pieces: dict[tuple[str, str], int] = {}
    taken: list[PathGrant] = []
    notes: dict[str, None] = {}
    for grant in capabilities.grants:
        entry = _find(grant, listing)
        if entry is None:
            continue
        if deny := denies.around({grant.path, entry.path}, grant):
            sentence = f"{grant.origin} {grant.path}: it is protected ({deny.group}, {deny.path})"
            if not grant.optional:
                raise PolicyError(f"{sentence} and stays denied; leave it out")
            notes[f"{sentence} and was left out"] = None
            continue
        parts = [(grant, denies)]
        if grant.access & WRITE:
            if deny := read_only.around({grant.path, entry.path}, grant):
                reason = f"cannot be made writable ({deny.group}: {deny.path}); grant it with --read"
                raise PolicyError(f"{grant.origin} {grant.path}: {reason}")
            if read_only.within(entry.path, grant):
                both = both or _Denies(capabilities.denies, listing)
                parts = [(grant._replace(access=WRITE), both)]
                if grant.access & READ:
                    parts.append((grant._replace(access=READ), denies))
        taken.append(grant)
        for piece, left_out in ((piece, by) for part, by in parts for piece in _pieces(part, entry, by, listing)):
            if piece.kind == EXPANDED and not grant.optional and (note := left_out.note(piece.path)):
                notes[note] = None
            key = (piece.path, piece.kind)
            pieces[key] = pieces.get(key, 0) | piece.access
            if len(pieces) > MAX_PIECES:
                raise PolicyError(
                    f"{grant.origin} {grant.path}: too broad; with its protected paths taken out it comes to more than "
                    f"{MAX_PIECES} entries. Grant the directories inside it that the agent needs"
                )
    return Expansion(tuple(_uncovered(pieces)), tuple(taken), tuple(notes), capabilities.network)


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
        # Keys and members are in lower case.
        self._denied: dict[str, PathDeny] = {}
        self._linked: dict[str, PathDeny] = {}
        self._above: set[str] = set()
        self._above_linked: set[str] = set()
        for deny in denies:
            entry = listing.look(deny.path)
            for path in {path.lower() for path in (deny.path, entry.path, *listing.aliases(entry.path))}:
                self._denied[path] = deny
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
                if target.kind == FILE:
                    self._linked[target.path.lower()] = deny
                    _add_directories_above(target.path.lower(), self._above_linked)

    def around(self, paths: Iterable[str], grant: PathGrant) -> PathDeny | None:
        """Return the deny that holds for one of `paths`: its own or that of a directory above it."""
        for path in map(str.lower, paths):
            for directory in ancestors(path):
                if directory in self._denied:
                    return self._denied[directory]
            if path in self._linked and not grant.optional:
                return self._linked[path]
        return None

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
        for deny in map(self._denied.get, found):
            if deny is not None:
                return (
                    f"{directory}: new files cannot be created directly in it, because it holds {deny.path} "
                    f"({deny.group}); the directories in it are granted one by one"
                )
        return ""


def _find(grant: PathGrant, listing: Listing) -> Entry | None:
    """Return what the grant names, None for an optional one that is not there or is not what it should be."""
    entry = listing.look(grant.path)
    problem = ""
    if entry.kind == ABSENT:
        problem = "no such file or directory, or not yours to see; create it first or leave it out"
    elif grant.is_file and entry.kind == DIRECTORY:
        problem = f"is a directory; grant it with {grant.origin.removesuffix('-file')}"
    elif not grant.is_file and entry.kind != DIRECTORY and not grant.optional:
        problem = f"is not a directory; grant it with {grant.origin}-file"
    if not problem:
        return entry
    if grant.optional:
        return None
    raise UsageError(f"{grant.origin} {grant.path}: {problem}")


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
    for (path, kind), access in pieces.items():
        covered = trees.get(path, 0) if kind == EXPANDED else 0
        for directory in ancestors(path.rpartition("/")[0] or "/"):
            covered |= trees.get(directory, 0)
        if kind == DEVICE or access & ~covered:  # a device also needs the right to ioctl(2), which a directory lacks
            yield Piece(path, kind, access)
