"""globset's rules, in linear time."""

from __future__ import annotations

import re
from re import _constants, _parser  # type: ignore[attr-defined]

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import PolicyError
from nono.trust import globs

# pattern, what it matches, what it does not
CASES = [
    ("CLAUDE.md", ["CLAUDE.md"], ["claude.md", "a/CLAUDE.md", "CLAUDE.mdx", "CLAUDEXmd"]),
    ("*.md", ["a.md", ".md", "a/b.md"], ["a.mdx", "amd"]),
    ("SKILL*", ["SKILL", "SKILL.md", "SKILL/x"], ["a/SKILL"]),
    ("a?c", ["abc", "a/c"], ["ac", "abbc"]),
    ("**/SKILL.md", ["SKILL.md", "a/SKILL.md", "a/b/SKILL.md"], ["xSKILL.md", "a/xSKILL.md"]),
    ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb", "x/a/b", "a/b/c"]),
    (".claude/**", [".claude/a", ".claude/a/b"], [".claude", "x/.claude/a"]),
    ("**", ["a", "a/b"], []),
    ("**/*.md", ["a.md", "b/a.md"], ["a.txt"]),
    ("**/a/**/b/*.md", ["a/b/x.md", "q/a/z/b/x.md"], ["ab/x.md", "a/x.md"]),
    ("**/**/x", ["x", "a/x", "a/b/x"], ["ax"]),
    ("a**b", ["ab", "a/x/b"], ["b"]),
    ("a/***/b", ["a/x/b", "a//b"], ["a/b"]),
    ("{a,b}.md", ["a.md", "b.md"], ["c.md", "{a,b}.md"]),
    ("{a,b/{c,d}}/x", ["a/x", "b/c/x", "b/d/x"], ["b/x", "c/x"]),
    ("{,a}b", ["ab"], ["b"]),
    ("{**/a,b}", ["a", "x/a", "b"], ["x/b"]),
    ("[abc]x", ["ax", "cx"], ["dx", "x"]),
    ("[a-c]x", ["bx"], ["dx", "-x"]),
    ("[!a-c]x", ["dx", "/x"], ["ax"]),
    ("[^a]x", ["bx"], ["ax"]),
    ("[]a]x", ["]x", "ax"], ["bx"]),
    ("[a-]x", ["ax", "-x"], ["bx"]),
    ("[!]]x", ["ax"], ["]x"]),
    ("[[]x", ["[x"], ["x"]),
    ("[{}]x", ["{x", "}x"], ["x"]),
    ("a\\*b", ["a*b"], ["axb"]),
    ("\\{a\\}", ["{a}"], ["a"]),
    ("a,b", ["a,b"], ["a"]),
    ("a.(b)|c+$^", ["a.(b)|c+$^"], ["ab", "c"]),
    ("é*", ["éa"], ["ea"]),
]


@pytest.mark.parametrize(("pattern", "matched", "not_matched"), CASES)
def test_matches_as_globset_does(pattern: str, matched: list[str], not_matched: list[str]) -> None:
    matcher = globs.compile([pattern])
    assert [path for path in matched + not_matched if matcher.match(path)] == matched
    both = globs.compile(["never/ever", pattern])
    assert all(both.match(path) for path in matched)


def test_a_newline_in_a_name_is_a_character() -> None:
    assert globs.compile(["a*"]).match("a\nb")
    assert not globs.compile(["a"]).match("a\n")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "1 to 1024"),
        ("a" * 1025, "1 to 1024"),
        ("[a", "a [ has no ]"),
        ("[]", "a [ has no ]"),
        ("[!]", "a [ has no ]"),
        ("[z-a]", "wrong way round"),
        ("{a", "a { has no }"),
        ("{a,{b}", "a { has no }"),
        ("a}", "a } has no {"),
        ("a\\", "backslash"),
        ("a\n", "cannot be shown"),
        ("{" * 9 + "a" + "}" * 9, "more than 8 deep"),
        ("{a,b}" * 9, "more than 256 alternatives"),
        ("{" + "a," * 300 + "b}", "more than 256 alternatives"),
    ],
)
def test_refuses_a_wrong_pattern_by_name(pattern: str, reason: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(reason)):
        globs.compile(["fine", pattern])


def test_all_patterns_together_are_bounded() -> None:
    with pytest.raises(PolicyError, match="come to more than"):
        globs.compile(["{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}" + "x" * 900] * 100)


HEAVY = [
    "**/a*" * 100,
    "*a" * 300 + "b",
    "**/" * 100 + "b",
    "?*" * 100 + "b",
    "[!b]*" * 100 + "b",
    "{*a,*aa}" * 8 + "b",
]


@pytest.mark.parametrize("pattern", HEAVY)
def test_heavy_patterns_end(pattern: str) -> None:
    """A backtracking matcher would be at this until the end of the world."""
    matcher = globs.compile([pattern])
    assert not matcher.match("a" * 3999 + "c")
    assert not matcher.match("x/" * 2000 + "c")


@pytest.mark.parametrize("pattern", [*HEAVY, *(case[0] for case in CASES)])
def test_nothing_can_be_backtracked_into_but_one_gap_at_the_end(pattern: str) -> None:
    """Counted in the compiled expression: each gap stands in an atomic group of its own, with no other repetition in
    it, but for at most one in each alternative, behind which everything is of fixed length."""
    for alternative in globs._without_braces(pattern):
        tree = _parser.parse(globs._expression(globs._parts(alternative)), re.DOTALL)
        open_gaps = 0
        for operation, argument in tree:
            if operation in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
                open_gaps += 1
                assert argument[2][0][0] is _constants.ANY
            elif operation is _constants.ATOMIC_GROUP:
                assert not open_gaps
                repeated = [each for each in argument if each[0] in (_constants.MAX_REPEAT, _constants.MIN_REPEAT)]
                assert len(repeated) == 1
                assert argument[0] == repeated[0]
            else:
                assert operation in (
                    _constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN, _constants.ASSERT_NOT
                ), operation  # fmt: skip
        assert open_gaps <= 1


def words(pattern: str) -> list[str]:
    """A pattern of `a`, `b`, `/`, `*` and `?` as its parts: characters, `*`, and `**/`."""
    found = []
    for match in re.finditer(r"\*+/?|.", pattern):
        word = match[0]
        if word == "**/" and (match.start() == 0 or pattern[match.start() - 1] == "/"):
            found.append(word)
        elif word.startswith("*"):
            found += ["*", "/"] if word.endswith("/") else ["*"]
        else:
            found.append(word)
    return found


def slowly(parts: list[str], path: str, at: int = 0) -> bool:
    """The same rules, as one would explain them."""
    if not parts:
        return at == len(path)
    first, *rest = parts
    if first == "*":
        return any(slowly(rest, path, end) for end in range(at, len(path) + 1))
    if first == "**/":
        ends = [at, *(end for end in range(at + 1, len(path) + 1) if path[end - 1] == "/")]
        return any(slowly(rest, path, end) for end in ends)
    return at < len(path) and first in ("?", path[at]) and slowly(rest, path, at + 1)


@given(st.text("ab/*?", min_size=1, max_size=9), st.text("ab/", max_size=9))
def test_agrees_with_the_slow_way(pattern: str, path: str) -> None:
    assert globs.compile([pattern]).match(path) is slowly(words(pattern), path)


@given(st.text("ab/*?", min_size=1, max_size=9), st.text("ab/", min_size=1, max_size=9))
def test_where_something_matches_the_directories_above_may(pattern: str, path: str) -> None:
    matcher = globs.compile([pattern])
    if matcher.match(path):
        assert matcher.may_match_below("")
        for at, character in enumerate(path[:-1]):
            if character == "/" and at:
                assert matcher.may_match_below(path[:at])


def test_directories_in_which_nothing_can_match_are_known() -> None:
    matcher = globs.compile(["CLAUDE.md", ".claude/**", "docs/*/x", "[ab]/c"])
    assert [path for path in ("src", ".claude", ".claude/x", "docs", "docs/a/b", "doc", "a", "c", "a/c", ".claud")
            if matcher.may_match_below(path)] == [".claude", ".claude/x", "docs", "docs/a/b", "a"]  # fmt: skip
    assert globs.compile(["**/x"]).may_match_below("any/where")
    assert not globs.compile([]).may_match_below("")
    assert not globs.compile([]).match("x")


def paths(least: int) -> st.SearchStrategy[str]:
    return st.lists(st.text("ab", min_size=1, max_size=3), min_size=least, max_size=4).map("/".join)


@given(st.text("ab/*?", min_size=1, max_size=9), paths(0), paths(0), paths(1))
def test_where_no_more_is_below_what_matches_matches_there_too(pattern: str, one: str, than: str, rest: str) -> None:
    matcher = globs.compile([pattern])
    if matcher.no_more_below(one, than) and matcher.match(f"{one}/{rest}" if one else rest):
        assert matcher.match(f"{than}/{rest}" if than else rest)


@pytest.mark.parametrize(
    ("pattern", "than", "one", "expected"),
    [
        ("**/SKILL.md", "", "a/b", True),
        ("**/skills/*.md", "a", "a/b", True),
        ("**/skills/*.md", "a", "a/skills", False),
        ("**/skills/*.md", "skills", "skills/skills", True),
        ("docs/*.md", "", "docs", False),
        ("docs/*.md", "docs", "docs/docs", True),
        ("docs/x/*.md", "docs", "docs/docs", True),
        ("a*bc/d", "ab", "abb", True),
        ("*b/c/d", "b", "b/c", False),
        ("CLAUDE.md", "a", "b", True),
        ("CLAUDE.md", "", "b", True),
        ("CLAUDE.md", "b", "", False),
        ("docs/*.md", "docs", "", True),
    ],
)
def test_directories_in_which_no_more_matches_are_known(pattern: str, than: str, one: str, expected: bool) -> None:
    assert globs.compile([pattern]).no_more_below(one, than) is expected


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("**/SKILL.md", "a/skill.MD"),
        ("**/SKILL.md", "S\N{KELVIN SIGN}ILL.md"),
        ("SKILL.md", "\N{LATIN SMALL LETTER LONG S}kill.md"),
        ("SKILL.md", "SKILL\N{ZERO WIDTH JOINER}.md"),
        ("class.md", "CLA\N{LATIN SMALL LETTER SHARP S}.md"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "Cafe\N{COMBINING ACUTE ACCENT}"),
    ],
)
def test_what_other_file_systems_take_for_the_same_is_known(pattern: str, path: str) -> None:
    matcher = globs.compile([pattern])
    assert not matcher.match(path)
    assert matcher.match_folded(path)
    assert not matcher.match_folded(path + "x")
    assert not globs.compile([]).match_folded(path)
    assert globs.compile(["Docs/x"]).may_match_below("dOCS", folded=True)
    assert not globs.compile(["Docs/x"]).may_match_below("dOCS")


def test_directories_that_a_pattern_spells_out_are_known() -> None:
    matcher = globs.compile(["{vendor,dist}/a/*.md", "target", "**/venv/x"])
    assert [path for path in ("vendor", "vendor/a", "dist", "target", "venv", "vendor/b", "vend")
            if matcher.names(path)] == ["vendor", "vendor/a", "dist"]  # fmt: skip


@pytest.mark.parametrize("pattern", ["/a", "a/", "./a", "../a", "a//b", "a/./b", "*/../b", "..", "{a,b/}", "~/a"])
def test_a_pattern_that_can_match_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(PolicyError, match="paths are relative to the root"):
        globs.refuse_impossible(pattern)


def test_a_pattern_that_can_match_is_not_refused() -> None:
    for pattern in ("a", ".a", "a/.b/..c", "**", "**/a", "...", "a/**", "[.]/x", "{a,b}/c"):
        globs.refuse_impossible(pattern)


def test_unmatched_patterns_are_named() -> None:
    matcher = globs.compile(["a.md", "*.txt", "{b,c}.md"])
    assert matcher.unmatched(["c.md", "a.md"]) == ("*.txt",)
    assert matcher.unmatched([]) == matcher.patterns


@pytest.mark.parametrize(
    ("pattern", "literal"),
    [("CLAUDE.md", True), ("a/b", True), ("a\\*b", True), ("a*", False), ("a?", False), ("[a]", False), ("{a}", False)],
)
def test_literal(pattern: str, literal: bool) -> None:
    assert globs.is_literal(pattern) is literal
