"""What a variable of the environment is, by its name and value: a hook, a session, a key, or nothing of that.

Pure; data/variables.json is the table, with a reason for each entry. A *hook* makes programs run other code than they
were asked to, or hand a password to another program. What only says where to search (PATH, PYTHONPATH, PERL5LIB,
NODE_PATH, CLASSPATH) is none: projects need it, and what is found there is confined like all else. A *session* opens a
whole store of secrets. A *key* looks like one that a provider gives out.

Sources: environ(7) and ld.so(8), "secure-execution mode"; sudo's initial_badenv_table; the manual of each program.
"""

from __future__ import annotations

from collections.abc import Iterable

from nono.policy import data

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TABLE: dict[str, Any] = data.read("variables.json")
_KEY = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_DIGITS = frozenset("0123456789")
_ENDS = ("_API_KEY", "_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_PAT")
_FUNCTION = "() {"  # how bash up to 4.2 exports a function, under any name


class Names:
    """A set of names, each exact or with * in it, which stands for any letters: NAME_*, *_TOKEN, *SECRET*."""

    __slots__ = ("exact", "patterns", "prefixes")

    def __init__(self, names: Iterable[str]) -> None:
        names = tuple(names)
        self.exact = frozenset(name for name in names if "*" not in name)
        self.prefixes = tuple(name[:-1] for name in names if name.find("*") == len(name) - 1)
        self.patterns = tuple(name.split("*") for name in names if -1 < name.find("*") < len(name) - 1)

    def __contains__(self, name: str) -> bool:
        return (
            name in self.exact
            or name.startswith(self.prefixes)
            or any(_matches(name, pieces) for pieces in self.patterns)
        )


def _matches(name: str, pieces: list[str]) -> bool:
    """Whether `name` is these pieces with any letters between them."""
    first, *middle, last = pieces
    if not (name.startswith(first) and name.endswith(last) and len(name) >= len(first) + len(last)):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in middle:  # the first place that fits leaves most for the rest
        at = name.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


HOOKS = Names(name for group in _TABLE["hooks"] for name in group["names"])
SESSIONS = Names(name for group in _TABLE["sessions"] for name in group["names"])
BASE = Names(_TABLE["base"])  # what every program may have
_SHAPES = {prefix: shape["rest"] for shape in _TABLE["key_shapes"] for prefix in shape["prefixes"]}
_PREFIXES = tuple(_SHAPES)


def is_hook(name: str, value: str) -> bool:
    """Whether the variable makes programs run other code."""
    return name in HOOKS or value.startswith(_FUNCTION)


def looks_like_key(value: str) -> bool:
    """Whether `value` as a whole has the shape of a provider's key, or is a private key."""
    if value.startswith("-----BEGIN "):
        return "PRIVATE KEY-----" in value[:64]
    if not value.startswith(_PREFIXES):
        return False
    return any(
        value.startswith(prefix)
        and len(value) >= len(prefix) + rest
        and _KEY.issuperset(value)
        and not _DIGITS.isdisjoint(value[len(prefix) :])
        for prefix, rest in _SHAPES.items()
    )


def key_prefixes() -> dict[str, int]:
    """Return what providers' keys begin with, and how many characters follow at least."""
    return dict(_SHAPES)


def is_named_like_key(name: str, stems: Iterable[str]) -> bool:
    """Whether `name` is what a key of one of the providers is called; `stems` as `stem` gives them."""
    return name.endswith(_ENDS) and any(name.startswith(f"{stem}_") for stem in stems)


def stem(key_variable: str) -> str:
    """Return what the variables of a provider begin with: OPENAI of OPENAI_API_KEY; "" where that is not to be seen."""
    return next((key_variable.removesuffix(end) for end in _ENDS if key_variable.endswith(end)), "")
