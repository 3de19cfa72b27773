"""JSON with comments (JSONC): text in, plain values out. What is not sound is refused with its place.

Stricter than `json`: a key that stands twice in an object is an error, because the second would replace the first
without a word (and a second `deny` would open what the first one closed); so are NaN and Infinity. Also allowed are
`//` and `/* */` comments and a comma before a closing bracket. Time and memory are linear in the text.
"""

from __future__ import annotations

import json
import re

from nono.errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST_CHARACTERS = 1 << 20
# A string and a comment may lack their end: matched all the same, so that nothing is looked at twice.
_STRING = r'"(?:[^"\\\n]|\\.)*+"?'
_STRING_OR_COMMENT = re.compile(rf"({_STRING})|//[^\n]*|/\*(?:.*?\*/|(?P<open>.*))", re.DOTALL)
_STRING_OR_COMMA = re.compile(rf"({_STRING})|,(?=[ \t\r\n]*[}}\]])", re.DOTALL)
_NOT_A_NEWLINE = re.compile(r"[^\n]")


class Repeated(dict[str, "Any"]):
    """An object in which `key` stands more than once; whoever knows its place refuses it."""

    key = ""


def loads(text: str, source: str) -> Any:
    """Return the value of `text`, objects with a repeated key as Repeated.

    PolicyError names `source`, line and column.
    """
    if len(text) > MOST_CHARACTERS:
        raise PolicyError(f"profile {source}: is longer than {MOST_CHARACTERS >> 20} MiB, which no profile is")
    text = text.removeprefix("\ufeff")
    try:
        try:
            return _decode(text)
        except json.JSONDecodeError:
            return _decode(without_comments(text))
    except json.JSONDecodeError as error:
        what = error.msg[:1].lower() + error.msg[1:]
        raise PolicyError(f"profile {source}: line {error.lineno}, column {error.colno}: {what}") from None
    except RecursionError:
        raise PolicyError(f"profile {source}: is nested too deeply to be a profile") from None
    except ValueError:
        raise PolicyError(f"profile {source}: holds a number that is too long") from None


def without_comments(text: str) -> str:
    """Return `text` with comments and trailing commas replaced by spaces, so that lines and columns stay true."""

    def blank(match: re.Match[str]) -> str:
        if match.lastgroup == "open":
            raise json.JSONDecodeError("this comment has no end", text, match.start())
        return match[1] or _NOT_A_NEWLINE.sub(" ", match[0])

    return _STRING_OR_COMMA.sub(blank, _STRING_OR_COMMENT.sub(blank, text))


def _decode(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    repeated = Repeated(found)
    repeated.key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return repeated


def _refuse_constant(name: str) -> Any:
    raise json.JSONDecodeError(f"a number called {name} is not JSON", name, 0)
