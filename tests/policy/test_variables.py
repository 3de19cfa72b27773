"""The table of variables is sound, and what it says of names and values."""

from __future__ import annotations

from nono.policy import data
from nono.policy.network import builtin_routes
from nono.policy.variables import BASE, HOOKS, SESSIONS, Names, looks_like_key, stem


def test_every_entry_has_a_reason_and_no_other_purpose() -> None:
    table = data.read("variables.json")
    groups = table["hooks"] + table["sessions"]
    assert all(group["reason"] and group["names"] for group in groups)
    names = [name for group in groups for name in group["names"]]
    assert len(names) == len(set(names))
    assert not [name for name in table["base"] if name in HOOKS or name in SESSIONS]
    assert not [name for route in builtin_routes().values() for name in route.env_vars if name in HOOKS or name in BASE]
    assert all(shape["of"] and shape["rest"] >= 16 for shape in table["key_shapes"])


def test_names_are_exact_or_all_that_begin_so() -> None:
    names = Names(["A_*", "B"])
    assert [name in names for name in ("A_", "A_X", "A", "B", "B_X", "a_x")] == [True, True, False, True, False, False]
    assert "" not in Names(())
    assert "ANYTHING" in Names("*")


def test_a_star_stands_for_any_letters() -> None:
    names = Names(["*_TOKEN", "*SECRET*", "A*B*C"])
    yes = ("X_TOKEN", "_TOKEN", "SECRET", "MY_SECRET_X", "ABC", "AxBBxC", "ABCBC")
    no = ("TOKEN", "X_TOKENS", "SECRE", "ACB", "AB", "BC", "AC", "xABC", "x_token")
    assert [name in names for name in yes] == [True] * len(yes)
    assert [name in names for name in no] == [False] * len(no)
    assert [name in Names(["AB*BA"]) for name in ("ABA", "ABBA", "ABxBA")] == [False, True, True]
    assert not names.exact


def test_a_key_is_long_and_has_digits_and_nothing_strange() -> None:
    assert looks_like_key("sk-" + "ab12" * 8)
    for other in ("", "sk-", "sk-" + "ab12" * 4, "sk-" + "abcd" * 8, "sk-" + "ab12" * 8 + " x", "x sk-" + "ab12" * 8):
        assert not looks_like_key(other)


def test_the_stem_of_a_provider() -> None:
    assert [stem(name) for name in ("OPENAI_API_KEY", "GITHUB_TOKEN", "MINE")] == ["OPENAI", "GITHUB", ""]
