"""Is there a policy about signed files? Then they are verified before the agent starts; else nothing is imported.

A policy is in sight where the user has one (CONFIG/nono/trust-policy.json), or where a trust-policy.json lies in the
working directory or above it, up to the home directory; elsewhere up to the root. That is asked with a few lstat(2);
whether such a file is one of nono's, whose it is, and who signed it, is for verification.py to find out, which is
imported only then, as is all of nono/trust.

`Trusted` is what was verified for one run, and here it is nothing: no policy was in sight.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from nono.policy.capabilities import PathDeny
from nono.policy.paths import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from nono.audit.log import AuditLog
    from nono.session.policy import Decision, Order

_NAME = "trust-policy.json"


class Trusted:
    """What was verified for one run; a context manager, which lets go of the files.

    denies: what the agent must not write. rows: for the summary, (label, text) each. is_running: set once there is an
    agent.
    """

    denies: tuple[PathDeny, ...] = ()
    rows: tuple[tuple[str, str], ...] = ()
    is_running = False

    def record(self, audit: AuditLog) -> None:
        """Write what was found into the audit log."""

    def recheck(self) -> None:
        """Raise TrustError where something is not as it was when it was verified; nothing may start then."""

    def release(self) -> None:
        """Let go of the files: the agent has started."""

    def look_again(self, audit: AuditLog, notice: Callable[[str], None]) -> None:
        """Tell what the run has left that is not signed; all of the agent, if there was one, has ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def in_sight(place: Place) -> tuple[str, ...]:
    """Return the paths of what may be policies for a run here; () where there is nothing to verify."""
    own = f"{place.config_home}/nono/{_NAME}"
    found = [own] if os.path.lexists(own) else []
    directory, home = os.path.realpath(place.workdir), os.path.realpath(place.home)
    while True:
        path = f"{directory.rstrip('/')}/{_NAME}"
        if os.path.lexists(path):
            found.append(path)
        if directory in (home, "/"):
            return tuple(found)
        directory = os.path.dirname(directory)


def verified(decision: Decision, order: Order) -> Trusted:
    """Verify the files that instruct the agent of this order, if there is a policy.

    Raises NonoError where it must not start because of them.
    """
    sight = in_sight(decision.place)
    if not sight:
        return Trusted()
    from nono.session import verification

    skip = decision.inherited.profile.skipdirs if decision.inherited is not None else ()
    return verification.verify(
        decision.place, sight, skip=(*skip, *order.request.skip_dir), override=order.request.trust_override
    )
