"""Which profiles there are: the files in the user's directory, and the built-in ones."""

from __future__ import annotations

import os
from typing import NamedTuple

from nono.cli.complete.words import builtin_profiles
from nono.errors import PolicyError
from nono.policy import profile as profiles
from nono.policy.inherit import BUILT_IN, Inherited, Source, inherit
from nono.policy.paths import Place
from nono.policy.profile import Written
from nono.supervisor.profiles import Profiles, find_facts

_ENDINGS = (".json", ".jsonc")


class Entry(NamedTuple):
    """A profile that can be named. source: its file, or BUILT_IN. note: what else to know of it; "" for nothing.

    error: why it cannot be used, "" where it can; written: None where it cannot even be read.
    """

    name: str
    source: str
    written: Written | None
    error: str
    note: str = ""


def entries(place: Place) -> list[Entry]:
    """Return all profiles, the user's first."""
    paths = users_files(place)
    own = [_entry(os.path.splitext(os.path.basename(path))[0], path, place) for path in paths]
    names = [entry.name for entry in own]
    own.sort(key=lambda entry: entry.name)
    own = [
        entry._replace(note="there are a .json and a .jsonc of this name; keep one of them")
        if names.count(entry.name) > 1
        else entry
        for entry in own
    ]
    return [
        *own,
        *(
            entry._replace(note="yours takes its place") if entry.name in names else entry
            for entry in (_entry(name, BUILT_IN, place) for name in builtin_profiles())
        ),
    ]


def users_files(place: Place) -> list[str]:
    """Return the files in the user's directory of profiles."""
    try:
        found = sorted(os.listdir(place.profiles))
    except OSError:
        return []
    return [os.path.join(place.profiles, name) for name in found if name.endswith(_ENDINGS) and name[0] != "."]


def read(name: str, place: Place) -> Source:
    """Return the text of the profile called `name`, or in that file. Raises PolicyError."""
    return Profiles(place).read(name)


def resolved(name: str, place: Place, *, referrer: str = "") -> Inherited:
    """Return what the profile comes to, with all that it builds on. Raises PolicyError."""
    reader = Profiles(place)
    return inherit(
        [name],
        lambda wanted, by: reader.read(wanted, by or referrer),
        lambda: find_facts(place.platform),
    )


def _entry(name: str, source: str, place: Place) -> Entry:
    """Return the entry of a file or a built-in profile, with its error if it has one."""
    built_in = source == BUILT_IN
    written = None
    try:
        text = Profiles(place).read(name if built_in else source, f"{BUILT_IN}:" if built_in else "").text
        written = profiles.parse(text, name if built_in else source)
        resolved(name if built_in else source, place, referrer=f"{BUILT_IN}:" if built_in else "")
    except PolicyError as error:
        return Entry(name, source, written, str(error))
    return Entry(name, source, written, "")
