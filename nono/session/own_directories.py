"""The directories that profiles keep for their agents, ~/.local/share/nono/NAME: made when they are not there.

An agent's settings and sessions have to last from run to run, and the user's own of the same program are not what it
may write: hooks, servers and programs that it leaves there would run outside of the sandbox. So its profile grants a
directory that nobody else reads. It is the user's alone (0700). Nothing else that a profile grants is made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from nono.errors import StoreError
from nono.policy.capabilities import WRITE, PathGrant
from nono.policy.resolve import Place


def is_own(grant: PathGrant, place: Place) -> bool:
    """Whether this is a profile's grant of a writable directory of its agent's own."""
    homes = (f"{place.data_home}/nono/", f"{place.home}/.local/share/nono/")
    return bool(grant.access & WRITE and grant.absent) and not grant.is_file and grant.path.startswith(homes)


def make(grants: Iterable[PathGrant], place: Place) -> None:
    """Make those that are not there. Raises StoreError."""
    for grant in grants:
        if is_own(grant, place):
            try:
                os.makedirs(grant.path, mode=0o700, exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"{grant.origin} {grant.path}: cannot be made: {error.strerror}; make it yourself, or leave it out"
                ) from None
