"""Another user, for a child of a test."""

from __future__ import annotations

import os

from nono.kernel import process


def become(user: int) -> None:
    """Go on as `user`, without privileges of another; as an ordinary process, which others of his may look into."""
    if user != os.geteuid():
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    process.set_dumpable(True)  # changing the user took it
