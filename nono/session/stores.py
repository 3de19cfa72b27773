"""Where what `nono run --rollback` stored lies: in the state directory, and wherever `--rollback-dest` once said.

Every run asks, also those without --rollback: whoever may write to a store says what a later restore writes, and where,
so no grant opens one. Hence it is small, and imports nothing of the rollback rooms.
"""

from __future__ import annotations

import os

from nono.policy.paths import Place

ELSEWHERE = "elsewhere"  # STATE/rollback/elsewhere: the directories that the user named, NUL between them


def destinations(place: Place) -> list[str]:
    """Return every directory that may have a store: that of the state directory first."""
    own = os.path.join(place.state, "rollback")
    found = [os.path.realpath(own)]
    try:
        with open(os.path.join(own, ELSEWHERE), "rb") as file:
            found += [os.fsdecode(line) for line in file.read().split(b"\0") if line]
    except OSError:
        pass
    return list(dict.fromkeys(found))
