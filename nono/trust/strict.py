"""JSON as a signature needs it: one meaning for everybody, and bounded before it is parsed.

Refused are a key that stands twice in an object (two programs read two values), NaN and Infinity, bytes that are not
UTF-8, a byte order mark, and more depth than DEEPEST; the size is bounded by the caller, who has read the file.
Recursion cannot get deep: the brackets are counted first, outside of strings, in one pass.

Source: RFC 8259 sections 4 and 8.1.
"""

from __future__ import annotations

import json
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEEPEST = 64
_SHOWN = 40
# A string may lack its end: matched all the same, so that nothing is looked at twice.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|([\[{])|([\]}])', re.DOTALL)


class NotStrict(Exception):
    """What is wrong with the text, in a few words that follow its name."""


def loads(data: bytes) -> Any:
    """Return the value. Raises NotStrict."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise NotStrict("is not UTF-8") from None
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        if match[1]:
            depth += 1
            if depth > DEEPEST:
                raise NotStrict(f"is nested more than {DEEPEST} deep")
        elif match[2]:
            depth -= 1
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as error:
        what = error.msg[:1].lower() + error.msg[1:]
        raise NotStrict(f"is not JSON: line {error.lineno}, column {error.colno}: {what}") from None
    except RecursionError:
        raise NotStrict("is nested too deeply") from None
    except ValueError:
        raise NotStrict("holds a number that is too long") from None


def name(key: str) -> str:
    """Return a key or another word of the text as it may stand in a message."""
    return f"'{key}'" if len(key) <= _SHOWN and key.isprintable() else "'…'"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotStrict(f"has the key {name(twice)} twice, and one would replace the other")
    return found


def _constant(word: str) -> Any:
    raise NotStrict(f"is not JSON: it has no number called {word}")
