"""The files of a tree that a policy's includes match; and those of which nono cannot say.

Directories are opened one below the other, without following a link, and only where a pattern may match something in
them. Left out are: bundles (*.bundle), the policy itself where it has a bundle (it is verified as a policy), and
directories that SKIPPED or the caller names: what is in them was installed or made by a tool, not written for an agent.

A Found with a problem is a path that an agent could read as instructions, and that nono does not vouch for:
- a matching path that is a symlink, or is not a regular file, or whose name is not UTF-8;
- a matching path below a symlinked directory. One that leads to a place in the tree is looked into under its own name;
  one that leads out is not, and is a problem itself where a pattern may match something in it;
- a directory that cannot be read, and what is deeper or more than the bounds allow, where a pattern may match in it.

Number of links and st_size are files.py's, on the opened inode.
"""

from __future__ import annotations

import os

from nono.record import Record
from nono.trust.bundle import SUFFIX
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


_DEEPEST = 64  # directories below each other
_MOST_SEEN = 1_000_000  # entries of directories
_MOST_THROUGH_LINKS = 50_000  # of those, below symlinked directories
_LEAVE_OUT = "leave it out with --skip-dir, if no agent reads instructions there"
_COPY_DIRECTORY = "put a copy of the directory in its place, or leave it out with --skip-dir"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(Record):
    """path: relative to the root. problem: why nono cannot vouch for it, "" where it can be opened; next_step: then."""

    path: str
    problem: str = ""
    next_step: str = ""


def find(root: str, matcher: Matcher, skip: Collection[str] = ()) -> Iterator[Found]:
    """Yield what matches below `root`, sorted by path. skip: names of directories, besides SKIPPED."""
    walk = _Walk(os.path.realpath(root), matcher, {*SKIPPED, *skip})
    if matcher.may_match_below(""):
        walk.enter("", "", False, ())
    yield from sorted(walk.found)


class _Walk:
    """One look at a tree."""

    def __init__(self, root: str, matcher: Matcher, skip: Collection[str]) -> None:
        self._root, self._matcher, self._skip = root, matcher, skip
        self._left = [_MOST_SEEN, _MOST_THROUGH_LINKS]
        self.found: list[Found] = []

    def enter(self, place: str, name: str, linked: bool, above: tuple[str, ...]) -> None:
        """Look into the directory `place`, relative to the root and without links in it.

        name: what it is called on the way here, which goes through a symlink where `linked`. above: the places that
        the way has come through.
        """
        if len(above) >= _DEEPEST:
            self._tell(name, f"is more than {_DEEPEST} directories deep, where nono does not look", _LEAVE_OUT)
            return
        try:
            fd = self._open(place)
            try:
                with os.scandir(fd) as entries:
                    listed = [(entry.name, _kind(entry)) for entry in entries]
            finally:
                os.close(fd)
        except (OSError, UnicodeEncodeError) as error:
            why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "its name is not UTF-8"
            self._tell(name, f"cannot be looked into ({why})", _LEAVE_OUT)
            return
        self._left[linked] -= len(listed)
        if self._left[linked] < 0:
            most = _MOST_THROUGH_LINKS if linked else _MOST_SEEN
            self._tell(name, f"has more than {most} files below it, and nono does not look at all of them", _LEAVE_OUT)
            return
        for entry, kind in listed:
            below = f"{name}/{entry}" if name else entry
            inside = f"{place}/{entry}" if place else entry
            if kind == "directory":
                if entry not in self._skip and self._matcher.may_match_below(below):
                    self.enter(inside, below, linked, (*above, place))
            elif self._matcher.match(below):
                if kind == "link to a directory" or not _is_ours(entry, listed, below):
                    self._tell(below, *_problem(kind, linked, below))
            elif kind == "link to a directory" and entry not in self._skip and self._matcher.may_match_below(below):
                self._follow(inside, below, (*above, place))

    def _follow(self, place: str, name: str, above: tuple[str, ...]) -> None:
        target = os.path.realpath(f"{self._root}/{place}")
        if target != self._root and not target.startswith(f"{self._root.rstrip('/')}/"):
            what = "is a symlink to a directory outside, where an includes pattern may match a file"
            self._tell(name, what, _COPY_DIRECTORY)
            return
        real = target[len(self._root) :].strip("/")
        if real not in above:
            self.enter(real, name, True, above)

    def _tell(self, path: str, problem: str = "", next_step: str = "") -> None:
        self.found.append(Found(path or ".", problem, next_step))

    def _open(self, place: str) -> int:
        fd = os.open(self._root, _DIRECTORY)
        for part in place.split("/") if place else ():
            try:
                below = os.open(part, _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd


def _is_ours(entry: str, listed: list[tuple[str, str]], below: str) -> bool:
    """Whether it is a bundle, or a policy that has one."""
    return entry.endswith(SUFFIX) or (below == NAME and any(name == NAME + SUFFIX for name, _ in listed))


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        try:
            return "link to a directory" if entry.is_dir() else "link"
        except OSError:
            return "link"
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def _problem(kind: str, linked: bool, path: str) -> tuple[str, str]:
    """Return what is wrong with a matching path, and what to do."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8", "rename it"
    if linked:
        return "is reached through a symlinked directory", _COPY_DIRECTORY
    if kind == "file":
        return "", ""
    if kind == "other":
        return "is not a regular file", "remove it"
    return "is a symlink", "put a copy of the file in its place"
