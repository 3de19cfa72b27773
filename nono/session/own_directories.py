"""The directories that profiles keep for their agents, ~/.local/share/nono/NAME: made when they are not there.

An agent's settings and sessions have to last from run to run, and the user's own of the same program are not what it
may write: hooks, servers and programs that it leaves there would run outside of the sandbox. So its profile grants a
directory that nobody else reads. It is the user's alone (0700). Nothing else that a profile grants is made.

A run that was granted what is around them (--allow ~) could put a link there, and so say what the next run of that
agent may write. So none is followed below ~/.local/share/nono.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from nono.errors import StoreError
from nono.policy.capabilities import WRITE, PathGrant
from nono.policy.resolve import Place


def is_own(grant: PathGrant, place: Place) -> bool:
    """Whether this is a profile's grant of a writable directory of its agent's own."""
    return bool(grant.access & WRITE and grant.absent) and not grant.is_file and grant.path.startswith(_homes(place))


def make(grants: Iterable[PathGrant], place: Place) -> None:
    """Make those that are not there. Raises StoreError, also where a link stands in the place of one."""
    for grant in grants:
        if is_own(grant, place):
            if link := _link_on_the_way(grant.path, place):
                raise StoreError(
                    f"{grant.origin} {grant.path}: {link} is a link, which an earlier run may have made; remove it, or "
                    "grant what it leads to by its own name"
                )
            try:
                os.makedirs(grant.path, mode=0o700, exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"{grant.origin} {grant.path}: cannot be made: {error.strerror}; make it yourself, or leave it out"
                ) from None


def _homes(place: Place) -> tuple[str, str]:
    return f"{place.data_home}/nono/", f"{place.home}/.local/share/nono/"


def _link_on_the_way(path: str, place: Place) -> str:
    """Return the first symbolic link below nono's data directory that leads to `path`; "" for none."""
    top = next(home for home in _homes(place) if path.startswith(home))
    at = top.rstrip("/")
    for name in path[len(top) :].split("/"):
        at = f"{at}/{name}"
        if os.path.islink(at):
            return at
    return ""
