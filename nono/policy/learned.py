"""What a command used -> the least that lets it run again: for `nono learn`.

Pure. What was wanted of the file system comes in as `Wish`es, paths real, together with what the run was granted
(`Known`); out come the lines of a profile, and what was wanted but denied, which never becomes a line that counts.

A wish is judged in this order; the first that holds counts:

1. It is in the run's own temporary directory, or the like: nothing.
2. The sandbox did not give it, or a group protects it: `wanted`.
3. The groups that every run has, or what the command itself needs, give it: nothing.
4. It is in the working directory: `workdir`.
5. It is in what the user granted by a flag: that grant, with the access that was used of it.
6. It was read: `lines`, after collapsing.

Collapsing. A directory that was listed is granted, because nothing less than its tree lets it be listed. MANY files of
one directory are the directory; MANY things of one directory, directories among them, are it only where a tool keeps
its own (below a hidden directory of the home, or outside of it). One directory of the cache is granted as a whole: the
names in it change. Never a directory that holds a protected path, also one that does not exist yet, nor one of those
that hold everything: `/`, the home, what is above it, and those in which all programs have theirs (~/.config, /etc …).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nono.policy.capabilities import READ, WRITE, PathDeny, is_at_or_below
from nono.policy.protection import can_be_bypassed
from nono.record import Record

# What is wanted of a path; READ and WRITE are those of capabilities.py.
ENTRY = 4  # it is made, removed or renamed: its directory is written to
EXECUTE = 8  # which READ grants
MAKE = 16  # it is made if it is not there
MKDIR = 32  # what is made (ENTRY) is a directory

ABSENT, DIRECTORY, FILE = "absent", "directory", "file"
MANY = 4
_MOST_WANTED = 200
_OF_ALL = (
    "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/media", "/mnt", "/opt", "/proc", "/root", "/run", "/sbin",
    "/srv", "/sys", "/tmp", "/usr", "/usr/local", "/usr/share", "/var", "/var/cache", "/var/lib", "/var/log",
    "/var/run", "/var/tmp", "/Users", "/Library", "/System", "/Applications", "/private",
)  # fmt: skip
_OF_ALL_AT_HOME = (".config", ".cache", ".local", ".local/bin", ".local/lib", ".local/share", ".local/state", ".var")


class Wish(Record):
    """path: real, absolute. access: what was wanted of it. kind: what it is, after the run: ABSENT, DIRECTORY or FILE.

    directory: real: the one that it is in; of what is absent, the nearest that exists.
    """

    path: str
    access: int
    kind: str
    directory: str


class Tree(Record):
    """Access (READ | WRITE) to a real path and, with `whole`, to all below it."""

    path: str
    access: int
    whole: bool = True


class Known(Record):
    """home, workdir, cache: real; workdir is "" where it is none of its own (the home). dropped: trees of no interest.

    always: what every run with this command is given. given: what the sandbox gave in this run. granted: what the user
    did, by flags. denies: by all their names. bypassed: what the user opened of them.
    """

    home: str
    workdir: str
    cache: str
    dropped: tuple[str, ...]
    always: tuple[Tree, ...]
    given: tuple[Tree, ...]
    granted: tuple[Tree, ...] = ()
    denies: tuple[PathDeny, ...] = ()
    bypassed: tuple[str, ...] = ()


class Line(Record):
    """One path of a profile's `filesystem`."""

    path: str
    access: int
    is_file: bool


class Wanted(Record):
    """What was not given. why: half a sentence. line: what would grant it; None where nothing does, or nothing should.

    deny: the protected path that it belongs to, which has to be bypassed besides; "" for none. first: a directory to
    make before.
    """

    path: str
    access: int
    why: str
    line: Line | None = None
    deny: str = ""
    first: str = ""


class Learned(Record):
    """workdir: READ | WRITE bits. left_out: how many more things were wanted than are told."""

    workdir: int
    lines: tuple[Line, ...]
    wanted: tuple[Wanted, ...]
    left_out: int = 0


def learn(wishes: Iterable[Wish], known: Known) -> Learned:
    """Return what the command needs, as far as these wishes tell."""
    judge = _Judge(known)
    for wish in wishes:
        judge.take(wish)
    lines = [Line(tree.path, access, not tree.whole) for tree, access in judge.used.items()]
    lines += (Line(path, READ, is_file) for path, is_file in judge.collapsed())
    wanted = list(judge.wanted.values())
    return Learned(
        workdir=judge.workdir,
        lines=tuple(sorted(lines, key=lambda line: line.path)),
        wanted=tuple(sorted(wanted[:_MOST_WANTED], key=lambda each: each.path)),
        left_out=judge.untold + max(0, len(wanted) - _MOST_WANTED),
    )


class _Trees:
    """Trees by path, so that a look-up costs as many steps as the path has names."""

    def __init__(self, trees: Iterable[Tree]) -> None:
        self._whole: dict[str, int] = {}
        self._alone: dict[str, int] = {}
        for tree in trees:
            table = self._whole if tree.whole else self._alone
            table[tree.path] = table.get(tree.path, 0) | tree.access

    def access(self, path: str) -> int:
        """What is given at `path`."""
        return self._alone.get(path, 0) | self.tree(path)

    def tree(self, path: str) -> int:
        """What is given at `path` and below it."""
        found = 0
        for directory in _upwards(path):
            found |= self._whole.get(directory, 0)
        return found


class _Judge:
    def __init__(self, known: Known) -> None:
        self._known = known
        self._always = _Trees(known.always)
        self._given = _Trees(known.given)
        self._dropped = dict.fromkeys(known.dropped)
        self._granted = {tree.path: tree for tree in known.granted}
        home = known.home
        self._too_broad = {*_OF_ALL, known.cache, *_upwards(home), *(f"{home}/{name}" for name in _OF_ALL_AT_HOME)}
        self._denied: dict[str, list[PathDeny]] = {}
        for deny in known.denies:
            self._denied.setdefault(deny.path.lower(), []).append(deny)
        self._holds_denied = {up for deny in known.denies for up in _upwards(deny.path.lower())}
        self.workdir = 0
        self.used: dict[Tree, int] = {}
        self.wanted: dict[tuple[str, str], Wanted] = {}
        self.untold = 0
        self._files: set[str] = set()
        self._directories: set[str] = set()

    def take(self, wish: Wish) -> None:
        """Sort one wish in."""
        is_there = wish.kind != ABSENT
        if wish.access & (READ | EXECUTE) and is_there:
            self._need(wish, wish.path, READ, wish.kind)
        if wish.access & WRITE and is_there:
            self._need(wish, wish.path, WRITE, wish.kind)
        is_made = wish.access & MAKE and (not is_there or self._given.tree(wish.directory) & WRITE)
        if wish.access & ENTRY or is_made:
            self._need(wish, wish.directory, WRITE, DIRECTORY)

    def _need(self, wish: Wish, path: str, access: int, kind: str) -> None:
        """`access` to `path`, which exists, is needed for the wish."""
        if any(up in self._dropped for up in _upwards(path)):
            return
        if access & ~self._given.access(path) or self._deny_of(path, access) is not None:
            self._refused(wish, path, access, kind)
        elif access & ~self._always.access(path) == 0:
            return
        elif self._known.workdir and is_at_or_below(path, self._known.workdir):
            self.workdir |= access
        elif any(is_at_or_below(path, opened) for opened in self._known.bypassed):
            line = Line(path, access, kind != DIRECTORY)
            why = "opened by --bypass-protection in this run"
            self._want(Wanted(path, access, why, line, self._deny_of_bypassed(path)))
        elif tree := self._grant_around(path):
            self.used[tree] = self.used.get(tree, 0) | access
        elif kind == DIRECTORY:
            if self._given.tree(path) & READ and not self._is_too_broad(path):
                self._directories.add(path)
            else:
                self._want(Wanted(path, READ, "was listed, which takes a grant of all that is in it"))
        else:
            self._files.add(path)

    def _grant_around(self, path: str) -> Tree | None:
        """The user's own grant that is nearest."""
        for directory in _upwards(path):
            tree = self._granted.get(directory)
            if tree is not None and (tree.whole or directory == path):
                return tree
        return None

    def _deny_of_bypassed(self, path: str) -> str:
        return next(opened for opened in self._known.bypassed if is_at_or_below(path, opened))

    def _refused(self, wish: Wish, path: str, access: int, kind: str) -> None:
        deny = self._deny_of(path, access) or self._deny_of(wish.path, access)
        line = Line(path, access, kind != DIRECTORY)
        if deny is not None and not can_be_bypassed(deny):
            if access == WRITE and not deny.access & READ:
                return self._want(Wanted(wish.path, access, f"stays read-only: {deny.group}"))
            return self._want(Wanted(wish.path, access, f"is protected by {deny.group}, and never opened"))
        if deny is not None:
            opened = path if is_at_or_below(path, deny.path) else deny.path
            return self._want(Wanted(path, access, f"is protected by {deny.group}", line, opened))
        if access == READ:
            why = "is not let through while learning"
            if is_at_or_below(path, self._known.home):
                why = "was not let through: a link in a protected directory leads to it, or it came during the run"
                return self._want(Wanted(path, access, why))
            is_all = kind == DIRECTORY and self._is_too_broad(path)
            return self._want(Wanted(path, access, why, None if is_all else line))
        if self._always.tree(path) & READ:
            if "__pycache__" not in wish.path:
                self._want(Wanted(wish.path, access, "belongs to the system, and is not written"))
            return None
        if kind != DIRECTORY or not self._is_too_broad(path):
            return self._want(Wanted(path, access, "was to be written", line))
        name, slash, _ = wish.path[len(path.rstrip("/")) + 1 :].partition("/")
        first = f"{path.rstrip('/')}/{name}"
        if wish.kind == ABSENT and (slash or wish.access & MKDIR) and not self._is_too_broad(first):
            return self._want(Wanted(first, access, "was to be made", Line(first, WRITE, False), "", first))
        why = "was to be made, renamed or removed; a directory that holds so much else is not granted for that"
        return self._want(Wanted(wish.path, access, why))

    def _want(self, wanted: Wanted) -> None:
        key = (wanted.path, wanted.why)
        known = self.wanted.get(key)
        if known is not None:
            access = known.access | wanted.access
            line = known.line._replace(access=access) if known.line is not None else None
            self.wanted[key] = known._replace(access=access, line=line)
        elif len(self.wanted) < 10 * _MOST_WANTED:
            self.wanted[key] = wanted
        else:
            self.untold += 1

    def _deny_of(self, path: str, access: int) -> PathDeny | None:
        for directory in _upwards(path.lower()):
            for deny in self._denied.get(directory, ()):
                if deny.access & access and not any(is_at_or_below(path, hole) for hole in deny.holes):
                    return deny
        return None

    def _is_too_broad(self, directory: str) -> bool:
        return directory in self._too_broad or directory.lower() in self._holds_denied

    # Collapsing.

    def collapsed(self) -> list[tuple[str, bool]]:
        """Return (path, whether it is a file) of what was read, with nothing that another one covers."""
        files, directories = self._files, self._directories
        for path in (*files, *directories):
            if tree := self._cache_of(path):
                directories.add(tree)
        files = _outside(files, directories)
        inside: dict[str, set[str]] = {}  # directory: what was read in it
        for path in files:
            inside.setdefault(_above(path), set()).add(path)
        for directory, paths in inside.items():
            if len(paths) >= MANY and self._can_be_granted(directory):
                directories.add(directory)
        files = _outside(files, directories)
        self._collapse_upwards(files, directories)
        directories = {path for path in directories if not _is_inside(_above(path), directories)}
        found = [(path, True) for path in _outside(files, directories)]
        return sorted([*found, *((path, False) for path in directories)])

    def _collapse_upwards(self, files: set[str], directories: set[str]) -> None:
        inside: dict[str, set[str]] = {}
        for path in (*files, *directories):
            inside.setdefault(_above(path), set()).add(path)
        for directory in sorted(inside, key=lambda path: -path.count("/")):  # the deepest first
            while len(inside.get(directory, ())) >= MANY:
                if not (self._is_a_tools_own(directory) and self._can_be_granted(directory)):
                    break
                directories.add(directory)
                above = _above(directory)
                inside.setdefault(above, set()).add(directory)
                directory = above

    def _can_be_granted(self, directory: str) -> bool:
        return bool(self._given.tree(directory) & READ) and not self._is_too_broad(directory)

    def _is_a_tools_own(self, directory: str) -> bool:
        home = self._known.home
        if not is_at_or_below(directory, home):
            return directory.count("/") >= 2
        names = directory[len(home.rstrip("/")) + 1 :].split("/")
        return any(name.startswith(".") for name in names)

    def _cache_of(self, path: str) -> str:
        """The directory of the cache that `path` is below."""
        cache = self._known.cache
        if not cache or not path.startswith(f"{cache}/"):
            return ""
        directory = f"{cache}/{path[len(cache) + 1 :].partition('/')[0]}"
        return directory if directory != path and self._can_be_granted(directory) else ""


def _outside(paths: set[str], directories: set[str]) -> set[str]:
    return {path for path in paths if not _is_inside(path, directories)}


def _is_inside(path: str, directories: set[str]) -> bool:
    return any(directory in directories for directory in _upwards(path))


def _above(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _upwards(path: str) -> Iterable[str]:
    """`path` and every directory above it."""
    while path != "/" and path:
        yield path
        path = path.rpartition("/")[0] or "/"
    yield "/"


class Hosts(Record):
    """allowed: entries of the allowlist -> the group of hosts that has them, "" for none. refused: (host, reason).

    credentials: those that were used. inherits: the network is restricted by a profile that is extended.
    """

    allowed: Mapping[str, str] = {}
    refused: tuple[tuple[str, str], ...] = ()
    credentials: tuple[str, ...] = ()
    inherits: bool = False


def entry_of(host: str, *, tunnel: bool) -> str:
    """Return the entry of an allowlist for a host as an exchange has it, HOST or HOST:PORT."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdigit() or (":" in name and not name.endswith("]")):
        return host
    return name if port == "443" or (port == "80" and not tunnel) else host
