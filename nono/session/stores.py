"""Where what `nono run --rollback` stored lies: in the state directory, and wherever `--rollback-dest` once said.

Every run asks, also those without --rollback: whoever may write to a store says what a later restore writes, and where,
so no grant opens one. Hence it is small, and imports nothing of the rollback rooms. A list that is there and cannot be
read is no empty list: nothing starts.
"""

from __future__ import annotations

import os

from nono.errors import StoreError
from nono.policy.paths import Place

ELSEWHERE = "elsewhere"  # STATE/rollback/elsewhere: the directories that the user named, NUL between them


def destinations(place: Place) -> list[str]:
    """Return every directory that may have a store: that of the state directory first. Raises StoreError."""
    own = os.path.join(place.state, "rollback")
    found = [os.path.realpath(own)]
    try:
        with open(os.path.join(own, ELSEWHERE), "rb") as file:
            found += [os.fsdecode(line) for line in file.read().split(b"\0") if line]
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise StoreError(
            f"{own}/{ELSEWHERE} cannot be read ({error.strerror}): which stores are to be closed to the agent is not "
            "known; make it readable"
        ) from None
    return list(dict.fromkeys(found))
