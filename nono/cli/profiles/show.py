"""`nono profile show`: what a profile comes to with all that it builds on, and which of them says what.

Paths are shown as they are for this user, here and now. A key that was pasted into the file is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from nono.cli import render
from nono.cli.profiles import sources
from nono.cli.profiles.flat import LISTS, flat
from nono.cli.profiles.layout import hanging, said, shown
from nono.policy import groups
from nono.policy.inherit import BUILT_IN, Inherited
from nono.policy.paths import Place, expand, unescaped
from nono.policy.profile import Filesystem, Profile
from nono.supervisor.whereabouts import find_place

_FILESYSTEM = "filesystem"
_NO_PATHS = ("suppress_save_prompt",)
_OWN_SOCKETS = "own"
_WIDTH = 18


def run(arguments: argparse.Namespace) -> int:
    """Show the profile; return 0."""
    place = find_place(None, os.environ)
    if arguments.raw:
        text = sources.read(arguments.profile, place).text
        if sys.stdout.isatty():  # a file may be anybody's; it shall not repaint the screen
            text = "".join(f"{render.printable(line)}\n" for line in text.splitlines())
        if arguments.json:
            text = json.dumps({"text": text}) + "\n"
        print(text, end="" if text.endswith("\n") else "\n")
        return 0
    inherited = sources.resolved(arguments.profile, place)
    if arguments.json:
        print(json.dumps(_object(inherited, place), indent=1))
    else:
        home = render.home_of(os.environ)
        print("".join(f"{line}\n" for line in _lines(inherited, place, home)), end="")
    return 0


def _lines(inherited: Inherited, place: Place, home: str) -> Iterator[str]:
    meta = inherited.profile.meta
    yield from hanging("", f"{inherited.name}{f': {meta.description}' if meta.description else ''}")
    yield ""
    yield "from (each over those above it)"
    width = max(len(render.printable(name)) for name, _ in inherited.lineage)
    for name, source in inherited.lineage:
        yield from hanging(f"  {render.printable(name):<{width}}  ", render.short(source, home))
    chosen = _groups(inherited)
    yield "groups"
    always = [name for name in chosen if name in groups.DEFAULT]
    yield from hanging(f"  {len(always)} that every run has  ", "(nono profile groups)")
    for sign, names in (("+", [name for name in chosen if name not in groups.DEFAULT]), ("-", _left_out(inherited))):
        for name in names:
            key = "groups.include" if sign == "+" else "groups.exclude"
            yield from _row(f"{sign} {name}", "", _origin(inherited, key, name))
    section = ""
    for key, value in flat(inherited.profile).items():
        first, _, rest = key.partition(".")
        if first == "groups":
            continue
        if first != section:
            section = first
            yield section
        for at, each in enumerate((value or ["none"]) if isinstance(value, LISTS) else [value]):
            text = said(each)
            if first == _FILESYSTEM and rest not in _NO_PATHS and each != _OWN_SOCKETS:
                text = render.short(expand(unescaped(each), place), home)
                text += f" ({each})" if text != each else ""
            yield from _row(rest if not at else "", text, _origin(inherited, key, each))


def _row(label: str, text: str, origin: str) -> list[str]:
    label = render.printable(shown(label))
    if len(label) > _WIDTH and text:
        return [f"  {label}", *hanging(" " * (_WIDTH + 3), f"{text}  [{origin}]")]
    return hanging(f"  {label:<{_WIDTH}} ", f"{text}  [{origin}]" if text else f"[{origin}]")


def _origin(inherited: Inherited, key: str, value: Any) -> str:
    """Return the name of the profile that wrote `value`; of a map, the key is what it wrote."""
    found = inherited.origins.get((key, str(value)))
    if found is None:
        above, _, name = key.rpartition(".")
        while found is None and above:
            found = inherited.origins.get((above, name))
            above, _, part = above.rpartition(".")
            name = f"{part}.{name}"
    return found or inherited.name


def _groups(inherited: Inherited) -> tuple[str, ...]:
    chosen = inherited.profile.groups
    return groups.select(chosen.include, chosen.exclude)


def _left_out(inherited: Inherited) -> list[str]:
    return [groups.ALIASES.get(name, name) for name in inherited.profile.groups.exclude]


def _object(inherited: Inherited, place: Place) -> dict[str, Any]:
    meta = inherited.profile.meta
    return {
        "name": inherited.name,
        "description": meta.description,
        "lineage": [
            {"name": name, "source": source, "built_in": source == BUILT_IN} for name, source in inherited.lineage
        ],
        "groups": list(_groups(inherited)),
        "paths": [
            {"field": field, "written": text, "path": expand(unescaped(text), place), "origin": origin}
            for field in Filesystem._fields
            if field not in _NO_PATHS
            for text in getattr(inherited.profile.filesystem, field)
            if text != _OWN_SOCKETS
            for origin in [_origin(inherited, f"{_FILESYSTEM}.{field}", text)]
        ],
        "profile": _tree(inherited),
        "origins": _origins(inherited),
    }


def _tree(inherited: Inherited) -> dict[str, Any]:
    """Return the merged profile, without what is not said."""
    found: dict[str, Any] = {}
    nothing = Profile()
    for section, value in inherited.profile._asdict().items():
        default = getattr(nothing, section)
        if value != default:
            found[section] = shown(
                value
                if isinstance(value, dict) or not hasattr(value, "_fields")
                else {field: each for field, each in value._asdict().items() if each != getattr(default, field)}
            )
    return found


def _origins(inherited: Inherited) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for (key, value), name in inherited.origins.items():
        found.setdefault(key, {})[shown(value)] = name
    return found
