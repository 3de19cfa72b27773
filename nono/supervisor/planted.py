"""Links that an earlier run may have made, and that would open to this one what they lead to.

A grant follows the symbolic links of its path, because users have them. But whoever may replace a link says what the
grant opens the next time. So a grant must not lead through one that this very run lets its agent replace, unless that
agent has what it leads to anyway: the user names the target instead. And a built-in grant, which nobody wrote, is left
out where there is a link below a directory of the home that some earlier run was perhaps granted (--allow ~/go, of
which ~/go/bin is read in every run). Links directly in the home are the user's: it holds what is protected, so that no
run can make or replace anything directly in it (sandbox/expansion.py); and so does each directory that does.

Looks at the disk, changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from nono.errors import PolicyError
from nono.policy.capabilities import READ, WRITE, PathDeny, PathGrant, is_at_or_below
from nono.policy.groups import GROUPS
from nono.supervisor.guard import links_on_the_way


def without_planted(
    grants: Iterable[PathGrant], sockets: Iterable[str], denies: Iterable[PathDeny], home: str
) -> tuple[PathGrant, ...]:
    """Return the grants but the built-in ones that may have been led elsewhere.

    sockets: paths of --allow-unix-socket. Raises PolicyError for a grant of the user's own that may have been.
    """
    grants, denies = tuple(grants), tuple(denies)
    writable = [(os.path.realpath(grant.path), grant) for grant in grants if grant.access & WRITE]
    asked = [(grant.path, grant) for grant in grants if not grant.optional]
    asked += [(path, PathGrant(path, 0, True, "--allow-unix-socket")) for path in sockets]
    for path, grant in asked:
        real = os.path.realpath(path)
        if real == path or any(
            grant.access and other is not grant and not grant.access & ~other.access and is_at_or_below(real, directory)
            for directory, other in writable
        ):
            continue
        if any(
            not deny.holes and deny.access & READ and is_at_or_below(real, os.path.realpath(deny.path))
            for deny in denies
        ):
            continue  # is refused for that
        for link in links_on_the_way(path):
            for directory, other in writable:
                if other is not grant and is_at_or_below(link, directory) and not _holds_protected(link, denies):
                    raise PolicyError(
                        f"{grant.origin} {path}: leads through the link {link}, which the agent may replace "
                        f"({other.origin} {other.path}), as an earlier run may have done; name what it leads to: {real}"
                    )
    always = tuple(deny for deny in denies if deny.group.startswith("deny_"))  # of earlier runs, too
    return tuple(grant for grant in grants if not (grant.optional and _may_be_led_elsewhere(grant, always, home)))


def _may_be_led_elsewhere(grant: PathGrant, denies: tuple[PathDeny, ...], home: str) -> bool:
    above = home.rstrip("/") + "/"
    if grant.origin not in GROUPS or not grant.path.startswith(above):
        return False
    at = len(above)
    while (at := grant.path.find("/", at) + 1) > 0:  # from the second name on
        end = grant.path.find("/", at)
        path = grant.path if end < 0 else grant.path[:end]
        if os.path.islink(path) and not _holds_protected(path, denies):
            return True
    return False


def _holds_protected(link: str, denies: Iterable[PathDeny]) -> bool:
    """Whether the directory of a link holds something protected, so that nothing directly in it can be replaced."""
    directory = os.path.dirname(link)
    return any(
        is_at_or_below(path, directory)
        for deny in denies
        if deny.access & WRITE and not deny.pinned  # beside a pinned file, other things may be made
        for path in ((deny.path,) if deny.is_link else (deny.path, os.path.realpath(deny.path)))
    )
