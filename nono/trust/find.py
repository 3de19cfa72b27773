"""The files of a tree that a policy's includes match; and those of which nono cannot say.

Directories are opened one below the other, without following a link, and only where a pattern may match something in
them. Left out are: bundles beside what they are for, the policy itself where it has a bundle (it is verified as a
policy), directories that SKIPPED names, unless a pattern spells them out or an agent's own directory holds them, and
those that the caller names: what is in them was installed or made by a tool, not written for an agent.

A Found with a problem is a path that an agent could read as instructions, and that nono does not vouch for:
- a matching path that is a symlink, or is not a regular file, or whose name is not UTF-8;
- a matching path below a symlinked directory. One that leads to a place in the tree is looked into under its own name,
  also where that is a place on the way to it, unless the same would match again. One that leads out is not, nor one
  by way of /proc, where each process finds its own: it is a problem itself where a pattern may match something in it;
- a path that matches but for its case, in a directory where names of another case are the same;
- what has the name of a bundle, and nothing that it would be for;
- a directory that cannot be read, and what is deeper or more than the bounds allow, where a pattern may match in it.

Number of links and st_size are files.py's, on the opened inode.
"""

from __future__ import annotations

import os
from string import ascii_letters

from nono.record import Record
from nono.trust.bundle import MULTI_NAME, SUFFIX
from nono.trust.policy import NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from nono.trust.globs import Matcher

SKIPPED = (
    ".cache", ".git", ".gradle", ".hg", ".mypy_cache", ".next", ".nuxt", ".pytest_cache", ".ruff_cache", ".svn",
    ".terraform", ".tox", ".venv", "__pycache__", "dist", "node_modules", "target", "vendor", "venv",
)  # fmt: skip
"""The names of directories that nobody looks into: the Rust tool's."""
AGENTS = frozenset((".agents", ".claude", ".codex", ".cursor", ".gemini", ".opencode"))
"""The names of directories in which agents look for instructions: all of each is looked into."""

_DEEPEST = 64  # directories below each other
_MOST_SEEN = 1_000_000  # entries of directories
_MOST_THROUGH_LINKS = 50_000  # of those, below symlinked directories
_MOST_LINKS = 40  # on the way to one place: more leads nowhere, path_resolution(7)
_PROC = "/proc"
_OTHER_CASE = str.maketrans(ascii_letters, ascii_letters.swapcase())
_LEAVE_OUT = "if no agent reads instructions there, nor in any other directory of this name: --skip-dir"
_OPEN = "make it readable (chmod u+rx), and see what is in it"  # an agent that closed it can open it again
_COPY_DIRECTORY = f"put a copy of the directory in its place; {_LEAVE_OUT}"
_LINK, _LINK_TO_DIRECTORY = _LINKS = ("link", "link to a directory")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(Record):
    """path: relative to the root. problem: why nono cannot vouch for it, "" where it can be opened; next_step: then."""

    path: str
    problem: str = ""
    next_step: str = ""


def find(root: str, matcher: Matcher, skip: Collection[str] = ()) -> Iterator[Found]:
    """Yield what matches below `root`, sorted by path. skip: names of directories, besides SKIPPED."""
    walk = _Walk(os.path.realpath(root), matcher, skip)
    if matcher.may_match_below(""):
        walk.enter("", "", ())
    yield from sorted(walk.found)


class _Walk:
    """One look at a tree."""

    def __init__(self, root: str, matcher: Matcher, skip: Collection[str]) -> None:
        self._root, self._matcher, self._skip = root, matcher, skip
        self._left = [_MOST_SEEN, _MOST_THROUGH_LINKS]
        self.found: list[Found] = []

    def enter(
        self, place: str, name: str, above: tuple[tuple[str, str], ...], *, linked: bool = False, folds: bool = False
    ) -> None:
        """Look into the directory `place`, relative to the root and without links in it.

        name: what it is called on the way here, which goes through a symlink where `linked`, and through a directory
        that tells no cases apart where `folds`. above: the directories of that way, each as its place and its name.
        """
        if len(above) >= _DEEPEST:
            self._tell(name, f"is more than {_DEEPEST} directories deep, where nono does not look", _LEAVE_OUT)
            return
        if self._left[linked] < 0:
            self._tell_of_too_many(name, linked)
            return
        try:
            fd = self._open(place)
            try:
                with os.scandir(fd) as entries:
                    listed = {entry.name: _kind(entry) for entry in entries}
                folds = folds or _folds(fd, listed)
            finally:
                os.close(fd)
        except (OSError, UnicodeEncodeError) as error:
            why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "its name is not UTF-8"
            next_step = _OPEN if isinstance(error, PermissionError) else _LEAVE_OUT
            self._tell(name, f"cannot be looked into ({why})", next_step)
            return
        self._left[linked] -= len(listed)
        if self._left[linked] < 0:
            self._tell_of_too_many(name, linked)
            return
        way = (*above, (place, name))
        for entry, kind in listed.items():
            below = f"{name}/{entry}" if name else entry
            inside = f"{place}/{entry}" if place else entry
            if kind == "directory":
                if self._may_be_in(entry, below, folds):
                    self.enter(inside, below, way, linked=linked, folds=folds)
            elif kind != _LINK_TO_DIRECTORY and _is_ours(entry, listed, below):
                continue
            elif self._matcher.match(below):
                self._tell(below, *_problem(kind, linked, below))
            elif folds and self._matcher.match_folded(below):
                self._tell(below, "matches but for its case, which makes no difference in this directory", "rename it")
            elif kind in _LINKS and self._may_be_in(entry, below, folds):
                self._follow(kind, inside, below, way, folds)

    def _may_be_in(self, entry: str, name: str, folds: bool) -> bool:
        """Whether something that matches may be in the directory `name`, and it is looked for there."""
        if entry in self._skip or not self._matcher.may_match_below(name, folded=folds):
            return False
        return entry not in SKIPPED or self._matcher.names(name) or not AGENTS.isdisjoint(name.split("/"))

    def _follow(self, kind: str, place: str, name: str, above: tuple[tuple[str, str], ...], folds: bool) -> None:
        target = _destination(f"{self._root.rstrip('/')}/{place}")
        if target == _PROC:
            self._tell(name, "is a symlink through /proc, where each process finds its own", _COPY_DIRECTORY)
            return
        if kind == _LINK or not target:
            return
        if target != self._root and not target.startswith(f"{self._root.rstrip('/')}/"):
            what = "is a symlink to a directory outside, where an includes pattern may match a file"
            self._tell(name, what, _COPY_DIRECTORY)
            return
        real = target[len(self._root) :].strip("/")
        if not any(there == real and self._matcher.no_more_below(name, way) for there, way in above):
            self.enter(real, name, above, linked=True, folds=folds)

    def _tell(self, path: str, problem: str = "", next_step: str = "") -> None:
        self.found.append(Found(path or ".", problem, next_step))

    def _tell_of_too_many(self, name: str, linked: bool) -> None:
        most = f"{_MOST_THROUGH_LINKS} files through symlinks" if linked else f"{_MOST_SEEN} files"
        self._tell(name, f"is not looked into, because nono has seen {most}, and looks at no more", _LEAVE_OUT)

    def _open(self, place: str) -> int:
        fd = os.open(self._root, _DIRECTORY)
        for part in place.split("/") if place else ():
            try:
                below = os.open(part, _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd


def _is_ours(entry: str, listed: Collection[str], below: str) -> bool:
    """Whether it is a bundle of something there, or a policy that has one."""
    if entry.endswith(SUFFIX):
        return entry == MULTI_NAME or entry.removesuffix(SUFFIX) in listed
    return below == NAME and NAME + SUFFIX in listed


def _folds(directory: int, names: Collection[str]) -> bool:
    """Whether a name in the other case leads to the same there. One that is not found answers it."""
    for name in names:
        other = name.translate(_OTHER_CASE)
        if other != name and other not in names:
            try:
                os.stat(other, dir_fd=directory, follow_symlinks=False)
            except OSError:
                return False
            return True
    return False


def _destination(path: str) -> str:
    """Return where a symlink in a directory without links leads to: no link is left in it; "" for in circles.

    _PROC: by way of /proc. os.path.realpath would go through that, and raises where a link is replaced as it looks.
    """
    at, _, name = path.rpartition("/")
    left, links = [name], 0
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            at = at.rpartition("/")[0]
            continue
        inside = f"{at}/{part}"
        if inside == _PROC:
            return _PROC
        try:
            target = os.readlink(inside)
        except OSError:
            at = inside
            continue
        links += 1
        if links > _MOST_LINKS:
            return ""
        left += reversed(target.split("/"))
        if target.startswith("/"):
            at = ""
    return at or "/"


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        try:
            return _LINK_TO_DIRECTORY if entry.is_dir() else _LINK
        except OSError:
            return _LINK
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def _problem(kind: str, linked: bool, path: str) -> tuple[str, str]:
    """Return what is wrong with a matching path, and what to do."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8", "rename it"
    if path.endswith(SUFFIX) and kind not in _LINKS:
        return "has the name of a bundle, and what it would be for is not there", "remove it, or rename it"
    if linked:
        return "is reached through a symlinked directory", _COPY_DIRECTORY
    if kind == "file":
        return "", ""
    if kind == "other":
        return "is not a regular file", "remove it"
    return "is a symlink", "put a copy of the file in its place"
