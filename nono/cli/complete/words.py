"""What there is to complete: the command line as data, and the names that are built in.

A script is made once and used for long, so it holds no name that the disk holds, as those of the user's own profiles:
those it looks up in their directory, as names of files and nothing else. A file name may be anything; a script never
hands one to what expands or evaluates words (compgen -W, eval).
"""

from __future__ import annotations

import os
from typing import NamedTuple

from nono import __version__
from nono.cli import describe
from nono.cli.describe import Verb
from nono.policy import data, groups
from nono.policy.network import GROUPS, NETWORK_PROFILES, builtin_routes


class Words(NamedTuple):
    """All that a script is made of. named: the built-in names by kind of value (describe.PROFILE …)."""

    version: str
    verbs: tuple[Verb, ...]
    named: dict[str, tuple[str, ...]]


def words() -> Words:
    """Return what there is to complete."""
    named = {
        describe.PROFILE: builtin_profiles(),
        describe.NETWORK_PROFILE: tuple(NETWORK_PROFILES),
        describe.CREDENTIAL: tuple(builtin_routes()),
        describe.GROUP: tuple(dict.fromkeys((*groups.GROUPS, *GROUPS))),
    }
    return Words(__version__, describe.verbs(), named)


def builtin_profiles() -> tuple[str, ...]:
    """Return the names of the built-in profiles."""
    directory = os.path.join(os.path.dirname(data.__file__), "profiles")
    try:
        return tuple(sorted(name.removesuffix(".json") for name in os.listdir(directory) if name.endswith(".json")))
    except FileNotFoundError:
        return ()
