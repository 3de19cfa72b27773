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

import re
from itertools import takewhile
from unicodedata import category, normalize

from nono.errors import PolicyError
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST_CHARACTERS = 1024  # of a pattern
MOST_ALTERNATIVES = 256  # that the braces of one pattern come to
MOST_OF_ALL = 1 << 16  # characters that all patterns come to
_DEEPEST = 8  # braces in braces
_SHOWN = 80
_SPECIAL = frozenset("*?[{")
_IMPOSSIBLE = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|^~/")  # a component that no path has; a home directory


class Part(Record):
    """Characters that must follow each other; each an expression for one character.

    gap: anything may stand before them. whole: they begin a component of the path.
    """

    gap: bool
    whole: bool
    characters: tuple[str, ...]


class Matcher:
    """Compiled patterns, in their order."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        self._rows: list[tuple[Part, ...]] = []
        expressions = []
        size = 0
        for pattern in self.patterns:
            rows = [_parts(alternative) for alternative in _without_braces(pattern)]
            size += sum(len(part.characters) + 1 for row in rows for part in row)
            if size > MOST_OF_ALL:
                raise PolicyError(f"the patterns come to more than {MOST_OF_ALL} characters, without their braces")
            self._rows += rows
            expressions.append("|".join(_expression(row) for row in rows))
        self._each = tuple(expressions)
        self._any = _compiled("|".join(expressions)) if expressions else None
        self._any_folded: re.Pattern[str] | None = None
        self._spelt = {_spelt(row[0]) for row in self._rows}
        self._anywhere = any(len(row) > 1 and not row[0].characters for row in self._rows)

    def match(self, relative: str) -> bool:
        """Whether any pattern matches the path `relative` to the root."""
        return self._any is not None and self._any.fullmatch(relative) is not None

    def match_folded(self, relative: str) -> bool:
        """Whether any pattern matches a path that is as good as `relative` where A and a are the same."""
        if self._any is None:
            return False
        if self._any_folded is None:
            self._any_folded = re.compile(self._any.pattern, re.DOTALL | re.IGNORECASE)
        return self._any_folded.fullmatch(_folded(relative)) is not None

    def may_match_below(self, relative: str, *, folded: bool = False) -> bool:
        """Whether any pattern could match something in the directory `relative`; "" is the root. folded: see above."""
        if self._anywhere or not relative:
            return bool(self._rows)
        beginning = (_folded(relative) if folded else relative) + "/"
        flags = re.IGNORECASE if folded else 0
        for first, *more in self._rows:
            if not more and len(first.characters) <= len(beginning):
                continue
            if all(_fits(one, there, flags) for one, there in zip(first.characters, beginning, strict=False)):
                return True
        return False

    def names(self, relative: str) -> bool:
        """Whether any pattern spells the directory `relative` out, before its first wildcard."""
        return any(text.startswith(relative + "/") for text in self._spelt)

    def no_more_below(self, one: str, than: str) -> bool:
        """Whether what matches in the directory `one` would all match in the directory `than`. "": the root.

        False where that cannot be said.
        """
        for row in self._rows:
            here, there = _standing(row, one), _standing(row, than)
            if here is None or (there is not None and here[0] < there[0]):
                continue  # nothing matches here; or the gap there may hold what is still to come here
            if there is None or here[0] != there[0] or not set(here[1]) <= set(there[1]):
                return False
        return True

    def unmatched(self, paths: Iterable[str]) -> tuple[str, ...]:
        """Return the patterns that match none of `paths`."""
        listed = tuple(paths)
        compiled = [(pattern, _compiled(each)) for pattern, each in zip(self.patterns, self._each, strict=True)]
        return tuple(pattern for pattern, each in compiled if not any(each.fullmatch(path) for path in listed))


def compile(patterns: Sequence[str]) -> Matcher:  # noqa: A001  (globs.compile reads as re.compile does)
    """Return the Matcher. Raises PolicyError, which names the pattern and what is wrong with it."""
    return Matcher(patterns)


def is_literal(pattern: str) -> bool:
    """Whether `pattern` has no wildcard, so that it names one file."""
    characters = iter(pattern)
    for character in characters:
        if character == "\\":
            next(characters, "")
        elif character in _SPECIAL:
            return False
    return True


def refuse_impossible(pattern: str) -> None:
    """Raise PolicyError where a pattern, or what its braces come to, can match no path: it would protect nothing."""
    if any(_IMPOSSIBLE.search(alternative) for alternative in _without_braces(pattern)):
        raise _wrong(pattern, 'paths are relative to the root, with no "/" at an end, and no "//", "." or ".." in them')


def _spelt(part: Part) -> str:
    """Return the characters of a part, up to the first wildcard."""
    return "".join(each[-1] for each in takewhile(lambda each: each != "." and each[0] != "[", part.characters))


def _fits(expression: str, character: str, flags: int = 0) -> bool:
    """Whether an expression for one character (of a Part) matches it."""
    if expression[0] == "[" or flags:
        return re.fullmatch(expression, character, re.DOTALL | flags) is not None
    return expression == "." or expression[-1] == character


def _folded(relative: str) -> str:
    """Return a path without what file systems that take A for a take for the same: the case of letters, how a letter
    and its accent are put together, and characters that cannot be seen."""
    if relative.isascii():
        return relative.lower()
    return "".join(each for each in normalize("NFC", relative.casefold()) if category(each) != "Cf")


def _standing(row: tuple[Part, ...], directory: str) -> tuple[int, tuple[int, ...]] | None:
    """Return how much of a row the path of a directory has behind it: how many parts, and each number of characters of
    the next one that it may end with. By these alone, what follows matches or not; None: nothing can."""
    beginning = directory and directory + "/"
    first, *gaps = row
    if not all(_fits(one, there) for one, there in zip(first.characters, beginning, strict=False)):
        return None
    if len(beginning) < len(first.characters):
        return 0, (len(beginning),)
    at = len(first.characters)
    for number, part in enumerate(gaps, 1):
        text = "".join(part.characters)
        there = _compiled(f"(?<![^/]){text}" if part.whole else text).search(beginning, at)
        if there is None or number == len(gaps):  # the last one is at the end of the path, which is not here yet
            return number, _begun(part, beginning, at)
        at = there.end()
    return None


def _begun(part: Part, beginning: str, at: int) -> tuple[int, ...]:
    """Return with how many characters of `part` the text ends, from `at` on: all that there may be."""
    found = []
    for count in range(min(len(part.characters), len(beginning) - at + 1)):
        start = len(beginning) - count
        begins = not part.whole or start == 0 or beginning[start - 1] == "/"
        if begins and all(_fits(*pair) for pair in zip(part.characters, beginning[start:], strict=False)):
            found.append(count)
    return tuple(found)


def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.DOTALL)


def _expression(row: tuple[Part, ...]) -> str:
    """Nothing is repeated but gaps; each but the last is in an atomic group, with the part that ends it."""
    written = []
    last = len(row) - 1
    for index, part in enumerate(row):
        text = ("(?<![^/])" if part.whole else "") + "".join(part.characters)
        if part.gap:
            text = f".*{text}" if index == last else f"(?>.*?{text})"
        written.append(text)
    return "".join(written)


def _parts(pattern: str) -> tuple[Part, ...]:
    """Return a pattern without braces as its parts, of which the first has no gap."""
    parts: list[Part] = []
    characters: list[str] = []
    gap = whole = False
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "*":
            begins = at == 0 or pattern[at - 1] == "/"
            stop = at
            while stop < len(pattern) and pattern[stop] == "*":
                stop += 1
            if characters or not parts:  # otherwise it is a gap after a gap, which are one
                parts.append(Part(gap, whole, tuple(characters)))
                characters = []
            gap, whole = True, begins and stop - at == 2 and pattern.startswith("/", stop)
            at = stop + whole  # the "/" of `**/` goes with the gap
            continue
        stop = at + 1
        if character == "?":
            characters.append(".")
        elif character == "[":
            stop = _class_end(pattern, at)
            characters.append(_class(pattern, at + 1, stop - 1))
        else:
            if character == "\\":
                stop += 1
            characters.append(re.escape(pattern[stop - 1]))
        at = stop
    parts.append(Part(gap, whole, tuple(characters)))
    return tuple(parts)


def _class(pattern: str, start: int, stop: int) -> str:
    """Return what is between the brackets as an expression for one character."""
    negated = pattern[start] in "!^"
    at = start + negated
    ranges = []
    while at < stop:
        low = high = pattern[at]
        if at + 2 < stop and pattern[at + 1] == "-":
            high = pattern[at + 2]
            at += 2
        at += 1
        if low > high:
            raise _wrong(pattern, f"the range {low}-{high} is the wrong way round")
        ranges.append(f"{_one(low)}-{_one(high)}")
    return f"[{'^' if negated else ''}{''.join(ranges)}]"


def _one(character: str) -> str:
    return f"\\U{ord(character):08x}"


def _class_end(pattern: str, at: int) -> int:
    """Return where the class that begins at `at` has ended. A bracket that comes first in it is one of its members."""
    first = at + 2 if pattern.startswith(("!", "^"), at + 1) else at + 1
    stop = pattern.find("]", first + 1)
    if stop < 0:
        raise _wrong(pattern, "a [ has no ]")
    return stop + 1


def _without_braces(pattern: str) -> list[str]:
    """Return the patterns that the braces of `pattern` stand for."""
    if not pattern or len(pattern) > MOST_CHARACTERS:
        raise _wrong(pattern, f"it has to have 1 to {MOST_CHARACTERS} characters")
    if not pattern.isprintable():
        raise _wrong(pattern, "it has a character that cannot be shown")
    alternatives, at = _alternatives(pattern, 0, 0)
    if at < len(pattern):
        raise _wrong(pattern, "a } has no {")
    return alternatives


def _alternatives(pattern: str, at: int, depth: int) -> tuple[list[str], int]:
    """Return what stands from `at` up to the brace that ends it, written out; and where that is."""
    done: list[str] = []  # before the last comma
    rows = [""]
    empty = True
    while at < len(pattern) and pattern[at] != "}":
        character = pattern[at]
        stop = at + 1
        if character == "{":
            if depth == _DEEPEST:
                raise _wrong(pattern, f"its braces are nested more than {_DEEPEST} deep")
            inner, stop = _alternatives(pattern, at + 1, depth + 1)
            if stop == len(pattern):
                raise _wrong(pattern, "a { has no }")
            stop += 1
            if len(done) + len(rows) * len(inner) > MOST_ALTERNATIVES:
                raise _wrong(pattern, f"its braces come to more than {MOST_ALTERNATIVES} alternatives")
            rows = [row + more for row in rows for more in inner]
        elif character == "," and depth:
            done += [] if empty else rows
            rows, empty = [""], True
            at = stop
            continue
        else:
            if character == "[":
                stop = _class_end(pattern, at)
            elif character == "\\":
                stop += 1
                if stop > len(pattern):
                    raise _wrong(pattern, "it ends with a backslash")
            rows = [row + pattern[at:stop] for row in rows]
        empty = False
        at = stop
    if not empty or not done:  # as globset has it, {,a} is {a}
        done += rows
    return done, at


def _wrong(pattern: str, what: str) -> PolicyError:
    shown = pattern if len(pattern) <= _SHOWN and pattern.isprintable() else "…"
    return PolicyError(f"the pattern '{shown}' is wrong: {what}")
