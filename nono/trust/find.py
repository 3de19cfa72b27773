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

from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from nono.trust.globs import Matcher

SKIPPED = (
    ".cache", ".git", ".gradle", ".hg", ".mypy_cache", ".next", ".nuxt", ".pytest_cache", ".ruff_cache", ".svn",
    ".terraform", ".tox", ".venv", "__pycache__", "dist", "node_modules", "target", "vendor", "venv",
)  # fmt: skip
"""The names of directories that nobody looks into: the Rust tool's."""


class Found(Record):
    """path: relative to the root. problem: why nono cannot vouch for it, "" where it can be opened."""

    path: str
    problem: str = ""


def find(root: str, matcher: Matcher, skip: Collection[str] = ()) -> Iterator[Found]:
    """Yield what matches below `root`, sorted by path. skip: names of directories, besides SKIPPED."""
    raise NotImplementedError
