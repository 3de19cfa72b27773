"""Which paths the includes of a policy match: the rules of globset, in time linear in the path.

    ?        any character, "/" too
    *        any characters, "/" too
    **/x     x in any directory, and x itself;  a/**/b: also a/b;  a/**: all that is below a
    [a-z]    one of these;  [!a-z] or [^a-z]: none of these
    {a,b}    one of these; they nest
    \\*       a star

Compared with the whole path relative to the root, case-sensitive; `**` that is not a whole component is `*`.

A pattern is brought to alternatives without braces (a bounded number), each a row of parts of fixed length with gaps
between them. A gap may hold anything, so the leftmost place where the next part fits is as good as any other: each part
is searched once, from where the last one ended, and never again. In the regular expression that is an atomic group; so
there is nothing to backtrack into, whatever the pattern.

Source: the documentation of the crate globset, "Syntax"; the Rust tool uses it with its defaults.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST_CHARACTERS = 1024  # of a pattern
MOST_ALTERNATIVES = 256  # that the braces of one pattern come to


class Matcher:
    """Compiled patterns, in their order."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)

    def match(self, relative: str) -> bool:
        """Whether any pattern matches the path `relative` to the root."""
        raise NotImplementedError

    def may_match_below(self, relative: str) -> bool:
        """Whether any pattern could match something in the directory `relative`; "" is the root."""
        raise NotImplementedError

    def unmatched(self, paths: Iterable[str]) -> tuple[str, ...]:
        """Return the patterns that match none of `paths`."""
        raise NotImplementedError


def compile(patterns: Sequence[str]) -> Matcher:  # noqa: A001  (globs.compile reads as re.compile does)
    """Return the Matcher. Raises PolicyError, which names the pattern and what is wrong with it."""
    return Matcher(patterns)


def is_literal(pattern: str) -> bool:
    """Whether `pattern` has no wildcard, so that it names one file."""
    raise NotImplementedError
