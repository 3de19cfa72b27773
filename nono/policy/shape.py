"""What a value of a profile may be: checked with its place, merged with what it inherits, described as JSON Schema.

One description serves all three, so that what an editor accepts is what nono accepts. A profile's shape is written with
these words in profile.py. Checking turns lists into tuples and leaves everything else as it is; a mistake says its JSON
path, what was found, what was expected and, of a misspelt word, the nearest one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from nono.errors import PolicyError
from nono.policy import data
from nono.policy.conditions import parse as parse_condition
from nono.policy.jsonc import Repeated
from nono.policy.network import nearest
from nono.policy.variables import looks_like_key
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# How a value is merged with the one that it inherits.
REPLACE = "replace"  # the child's, where it is given
APPEND = "append"  # the base's, then the child's, each once
CLEAR = "clear"  # as APPEND; but an empty list, written out, clears what is inherited
EITHER = "either"  # true where any level says so
KEYS = "keys"  # key by key, the child's first

_SHOWN = 40
_keys: dict[str, dict[str, str]] = {}  # data/profile-keys.json, once read


class Mistake(Exception):
    """What is wrong at one place of a file; `at` is its JSON path."""

    def __init__(self, at: str, what: str) -> None:
        super().__init__(f"{at or 'the top level'}{what if what.startswith(' ') else ': ' + what}")


class UnknownKey(Mistake):
    """`key` is none of an object's. near: whether it is close to one of them."""

    def __init__(self, at: str, what: str, key: str, near: str) -> None:
        super().__init__(at, what)
        self.key, self.near = key, near


class Conditional(Record):
    """An entry of a list, or a value of a map, that counts only where one of the predicates holds."""

    value: Any
    when: tuple[str, ...]


class Kind:
    """Any value: the base of the others. expected: in a user's words."""

    expected = "a value"

    def check(self, value: object, at: str) -> Any:
        """Return `value` as the rest of nono takes it. Raises Mistake."""
        return value

    def schema(self) -> dict[str, Any]:
        """Return its JSON Schema."""
        return {}

    def wrong(self, value: object, at: str) -> Mistake:
        return Mistake(at, f"found {found(value)}, expected {self.expected}")


class Text(Kind):
    """A string. choices: the only ones. rule: raises PolicyError for one that is not sound."""

    def __init__(
        self,
        expected: str = "a string",
        *,
        choices: Callable[[], Iterable[str]] | None = None,
        rule: Callable[[str], object] | None = None,
        empty: bool = True,
    ) -> None:
        self.expected, self._choices, self._rule, self._empty = expected, choices, rule, empty

    def check(self, value: object, at: str) -> Any:
        if type(value) is not str or not (value or self._empty):
            raise self.wrong(value, at)
        if "\0" in value:
            raise Mistake(at, "holds a NUL byte; leave it out")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise Mistake(at, "holds half of a surrogate pair, which is no character") from None
        if self._choices is not None and value not in (known := tuple(self._choices())):
            near = nearest(value, known)
            hint = f"; did you mean {near}?" if near else ""
            raise Mistake(at, f"found {found(value)}, expected one of {', '.join(known)}{hint}")
        if self._rule is not None:
            try:
                self._rule(value)
            except PolicyError as error:
                raise Mistake(at, str(error)) from None
        return value

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "string"}
        if self._choices is not None:
            schema["enum"] = list(self._choices())
        if not self._empty:
            schema["minLength"] = 1
        return schema


class Flag(Kind):
    """true or false."""

    expected = "true or false"

    def check(self, value: object, at: str) -> Any:
        if type(value) is not bool:
            raise self.wrong(value, at)
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


class Number(Kind):
    """A whole number in a range."""

    def __init__(self, least: int, most: int, expected: str) -> None:
        self._least, self._most, self.expected = least, most, expected

    def check(self, value: object, at: str) -> Any:
        if type(value) is not int or not self._least <= value <= self._most:
            raise self.wrong(value, at)
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self._least, "maximum": self._most}


class Maybe(Kind):
    """null, or a value of another kind."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.expected = f"{kind.expected} or null"

    def check(self, value: object, at: str) -> Any:
        if value is None:
            return None
        return self.kind.check(value, at)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.kind.schema(), {"type": "null"}]}


class Either(Kind):
    """A value of the first kind or, when it is of the type `of`, of the second."""

    def __init__(self, first: Kind, of: type, second: Kind) -> None:
        self._first, self._of, self.second = first, of, second
        self.expected = f"{first.expected} or {second.expected}"

    def check(self, value: object, at: str) -> Any:
        if isinstance(value, self._of):
            return self.second.check(value, at)
        try:
            return self._first.check(value, at)
        except Mistake:
            if isinstance(value, (str, bool)):
                raise
            raise self.wrong(value, at) from None

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self._first.schema(), self.second.schema()]}


class Each(Kind):
    """A list of values of a kind. named: each may be {named: value, "when": …} in its place."""

    def __init__(self, kind: Kind, *, named: str = "", least: int = 0) -> None:
        self.kind, self.named, self._least = kind, named, least
        self.expected = f"a list of {kind.expected.removeprefix('a ').removeprefix('an ')}s"
        if " (" in kind.expected:
            self.expected = f"a list, each {kind.expected}"

    def check(self, value: object, at: str) -> Any:
        if type(value) is not list or len(value) < self._least:
            raise self.wrong(value, at)
        checked: list[Any] = []
        for index, entry in enumerate(value):
            place = f"{at}[{index}]"
            conditional = self.named and isinstance(entry, dict)
            checked.append(_conditional(entry, self.kind, self.named, place) if conditional
                           else self.kind.check(entry, place))  # fmt: skip
        return tuple(checked)

    def schema(self) -> dict[str, Any]:
        items = self.kind.schema()
        if self.named:
            items = {"anyOf": [items, _conditional_schema(self.kind, self.named)]}
        schema = {"type": "array", "items": items}
        return {**schema, "minItems": self._least} if self._least else schema


class Map(Kind):
    """An object whose keys are the user's. named: a value may be {named: value, "when": …}."""

    def __init__(self, kind: Kind, *, key: Kind | None = None, named: str = "") -> None:
        self.kind, self._key, self.named = kind, key or Text(), named
        self.expected = f"an object of {kind.expected}"

    def check(self, value: object, at: str) -> Any:
        if not isinstance(value, dict):
            raise self.wrong(value, at)
        once(value, at)
        checked = {}
        for name, entry in value.items():
            self._key.check(name, at)
            place = f"{at}.{shown(name)}"
            conditional = self.named and isinstance(entry, dict)
            checked[name] = _conditional(entry, self.kind, self.named, place) if conditional \
                else self.kind.check(entry, place)  # fmt: skip
        return checked

    def schema(self) -> dict[str, Any]:
        values = self.kind.schema()
        if self.named:
            values = {"anyOf": [values, _conditional_schema(self.kind, self.named)]}
        return {"type": "object", "additionalProperties": values}


class Member(Record):
    """One key of an object. aliases: its names in other versions. needed: it cannot be left out."""

    kind: Kind
    merge: str = REPLACE
    meaning: str = ""
    aliases: tuple[str, ...] = ()
    needed: bool = False


class Shape(Kind):
    """An object whose keys are fixed. path: where it stands, as data/profile-keys.json has it."""

    expected = "an object"

    def __init__(self, members: Mapping[str, Member], path: str) -> None:
        self.members, self._path = members, path
        self.names = {alias: name for name, member in members.items() for alias in (name, *member.aliases)}
        self._needed = tuple(name for name, member in members.items() if member.needed)

    def check(self, value: object, at: str) -> Any:
        if not isinstance(value, dict):
            raise self.wrong(value, at)
        once(value, at)
        checked: dict[str, Any] = {}
        said: dict[str, str] = {}
        for key, entry in value.items():
            place = f"{at}.{shown(key)}" if at else shown(key)
            name = self.names.get(key)
            if name is None:
                if not self._is_without_effect(key, entry, place):
                    raise self._unknown(key, place)
                continue
            if name in said:
                raise Mistake(place, f" says the same as {said[name]}, which is there, too; leave one of them out")
            said[name] = key
            try:
                checked[name] = self.members[name].kind.check(entry, place)
            except Mistake:
                if not isinstance(entry, str) or not self._is_without_effect(f"{name}={entry}", entry, place):
                    raise
        for name in self._needed:
            if checked.get(name) is None:
                raise Mistake(at, f"{name} is missing")
        return checked

    def without_effect(self, value: Mapping[str, Any], at: str = "") -> list[tuple[str, str]]:
        """Return (JSON path, reason) for each key of a sound `value` from which nothing follows."""
        said = []
        for key, entry in value.items():
            place = f"{at}.{shown(key)}" if at else shown(key)
            if key not in self.names:
                path = f"{self._path}.{key}" if self._path else key
                if not reason(path) and not asks_for_nothing(entry):
                    said.append((place, _keys["without_effect"].get(path, "")))
                continue
            kind = self.members[self.names[key]].kind
            kind = kind.kind if isinstance(kind, Maybe) else kind
            kind = kind.second if isinstance(kind, Either) else kind
            if isinstance(kind, Shape) and isinstance(entry, dict):
                said += kind.without_effect(entry, place)
        return said

    def _is_without_effect(self, key: str, value: object, at: str) -> bool:
        """Whether a key that this shape lacks may stand there. Raises Mistake for one that is refused by name."""
        path = f"{self._path}.{key}" if self._path else key
        if why := reason(path):
            if asks_for_nothing(value):
                return True
            raise Mistake(at, f" is refused: {why}" if "=" not in key else f"{found(value)} is refused: {why}")
        return path in _keys["without_effect"]

    def _unknown(self, key: str, at: str) -> Mistake:
        near = nearest(key, self.names)
        hint = f"did you mean {near}?" if near else f"known here are {', '.join(self.members) or 'none'}"
        return UnknownKey(at, f" is not a known key; {hint}", key, near)

    def schema(self) -> dict[str, Any]:
        properties = {}
        for name, member in self.members.items():
            schema = member.kind.schema()
            if member.meaning:
                schema["description"] = member.meaning
            properties[name] = schema
            for alias in member.aliases:
                properties[alias] = {
                    **member.kind.schema(),
                    "description": f"Another name of {name}.",
                    "deprecated": True,
                }
        schema = {"type": "object", "additionalProperties": False, "properties": properties}
        return {**schema, "required": list(self._needed)} if self._needed else schema


def reason(path: str) -> str:
    """Return why a key, or KEY=VALUE, is refused; "" where it is not."""
    if not _keys:
        _keys.update(data.read("profile-keys.json"))
    return _keys["refused"].get(path, "")


WHEN = Each(Text("a condition (string)", rule=parse_condition), least=1)


def _when(value: object, at: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (WHEN.kind.check(value, at),)
    if not isinstance(value, list) or not value:
        raise Mistake(at, f"found {found(value)}, expected a condition (string) or a list of them")
    checked: tuple[str, ...] = WHEN.check(value, at)
    return checked


def _conditional(entry: dict[str, Any], kind: Kind, named: str, at: str) -> Any:
    once(entry, at)
    for key in entry:
        if key not in (named, "when"):
            hint = f"; did you mean {near}?" if (near := nearest(key, (named, "when"))) else ""
            raise Mistake(f"{at}.{shown(key)}", f" is not a known key, expected {named} and when{hint}")
    if named not in entry:
        raise Mistake(at, f"{named} is missing")
    value = kind.check(entry[named], f"{at}.{named}")
    return Conditional(value, _when(entry["when"], f"{at}.when")) if "when" in entry else value


def _conditional_schema(kind: Kind, named: str) -> dict[str, Any]:
    when = {"anyOf": [{"type": "string"}, WHEN.schema()]}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {named: kind.schema(), "when": when},
        "required": [named],
    }


def once(value: dict[str, Any], at: str) -> None:
    """Raise Mistake for an object in which a key stands twice."""
    if isinstance(value, Repeated):
        place = f"{at}.{shown(value.key)}" if at else shown(value.key)
        raise Mistake(place, " stands twice, and one would replace the other; make one of them")


def found(value: object) -> str:
    """Return `value` in a few words. A secret that strayed here is not repeated."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        if not value:
            return "an empty string"
        return (
            f'"{value}"' if len(value) <= _SHOWN and value.isprintable() and not looks_like_key(value) else "a string"
        )
    text = str(value) if not isinstance(value, int) or abs(value) < 10**_SHOWN else "a long number"
    return text if len(text) <= _SHOWN else "a long number"


def shown(key: str) -> str:
    """Return a key as it may stand in a message."""
    return key if len(key) <= _SHOWN and key.isprintable() and not looks_like_key(key) else '"…"'


def asks_for_nothing(value: object) -> bool:
    """Whether `value` holds nothing but null, false, and empty strings, lists and objects."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
        elif value not in (None, False, ""):
            return False
    return True
