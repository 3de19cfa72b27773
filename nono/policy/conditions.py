"""`when`: on which machines an entry of a profile counts.

    linux                       linux:fedora:>=43            macos:>=15
    linux:ubuntu                linux:fedora:>=43:server     !linux:nixos       (! : everywhere else)
    linux:debian-like           windows:>=10:>=22000

A distribution is ID of os-release(5), or with -like also one of its ID_LIKE; then come VERSION_ID and VARIANT_ID. A
version is compared number by number; ==, >=, >, <=, < stand before it (none: ==). What a machine does not say, it does
not match. A list of predicates holds when any of them does. Pure; a predicate that cannot be read is an error, never
false or true.
"""

from __future__ import annotations

from collections.abc import Iterable

from nono.errors import PolicyError
from nono.policy.network import nearest
from nono.record import Record

_SYSTEMS = ("linux", "macos", "windows", "freebsd", "netbsd", "openbsd")
_NAMES = {"linux": "linux", "darwin": "macos", "win32": "windows"}  # of sys.platform
_COMPARATORS = ("==", ">=", "<=", ">", "<")
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
_LIKE = "-like"
_FORMS = "write linux, linux:fedora:>=43, linux:debian-like, macos:>=15 or, for all others, !linux:nixos"


class Facts(Record):
    """What machine this is. system: as in predicates. version: VERSION_ID, or the version of macOS; "" for unknown."""

    system: str
    distribution: str = ""
    like: tuple[str, ...] = ()
    version: str = ""
    variant: str = ""


class Predicate(Record):
    """One predicate, read. versions: (comparator, version); a second one is of the build of Windows."""

    negated: bool
    system: str
    distribution: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    variant: str = ""


def system_of(platform: str) -> str:
    """Return the name in predicates of a sys.platform."""
    return _NAMES.get(platform, platform.rstrip("0123456789"))


def parse(text: str) -> Predicate:
    """Read one predicate. Raises PolicyError."""

    def fail(why: str) -> PolicyError:
        shown = text if len(text) <= 60 and text.isprintable() else "this"
        return PolicyError(f"{shown} is no condition: {why}; {_FORMS}")

    body = text.strip()
    negated = body.startswith("!")
    system, *rest = body.removeprefix("!").split(":")
    if system not in _SYSTEMS:
        near = nearest({"darwin": "macos", "osx": "macos", "mac": "macos"}.get(system, system), _SYSTEMS)
        raise fail(f"did you mean {near}?" if near else f"it must begin with {', '.join(_SYSTEMS[:3])}")
    words = [_split(part) for part in rest]
    if not all(version and _WORD.issuperset(version) for _, version in words):
        raise fail("between colons stand names and versions")
    distribution, variant = "", ""
    if system == "linux" and words:
        (comparator, distribution), *words = words
        if comparator:
            raise fail("the distribution comes before its version")
        if len(words) == 2:
            comparator, variant = words.pop()
            if comparator:
                raise fail("the last part is a variant, not a version")
    if len(words) > {"linux": 1, "macos": 1, "windows": 2}.get(system, 0):
        raise fail("it has too many parts")
    versions = tuple((comparator or "==", version) for comparator, version in words)
    return Predicate(negated, system, distribution, versions, variant)


def holds(predicates: Iterable[str], facts: Facts) -> bool:
    """Whether any of the predicates is true of the machine."""
    return any(_matches(predicate, facts) is not predicate.negated for predicate in map(parse, predicates))


def _split(part: str) -> tuple[str, str]:
    for comparator in _COMPARATORS:
        if part.startswith(comparator):
            return comparator, part[len(comparator) :]
    return "", part


def _matches(predicate: Predicate, facts: Facts) -> bool:
    if predicate.system != facts.system:
        return False
    if wanted := predicate.distribution:
        base = wanted.removesuffix(_LIKE)
        if facts.distribution != wanted and (base == wanted or base not in (facts.distribution, *facts.like)):
            return False
    for (comparator, version), actual in zip(
        predicate.versions, (facts.version, facts.version.rpartition(".")[2]), strict=False
    ):
        if not actual or not _compares(actual, comparator, version):
            return False
    return predicate.variant in ("", facts.variant)


def _compares(actual: str, comparator: str, version: str) -> bool:
    order = _order(actual.split("."), version.split("."))
    return {"==": order == 0, ">=": order >= 0, "<=": order <= 0, ">": order > 0, "<": order < 0}[comparator]


def _order(left: list[str], right: list[str]) -> int:
    """Return -1, 0 or 1. What is no number comes before whatever it is not equal to."""
    for mine, other in zip(left, right, strict=False):
        if mine == other:
            continue
        if not (_is_number(mine) and _is_number(other)):
            return -1
        if int(mine) != int(other):
            return -1 if int(mine) < int(other) else 1
    return (len(left) > len(right)) - (len(left) < len(right))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
