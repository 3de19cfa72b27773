"""The Landlock domain that a package manager runs in: it is asked, and can do no harm if it is not what it seems.

What an agent wrote in an earlier run (a virtual environment that has been activated since, a file of settings) may be
executed or obeyed here, outside of that agent's sandbox. So a manager reads and executes what is on this machine except
the sensitive paths, but for its own settings, and except what the agent of this run can write; it writes in its scratch
directory only, gains no privilege, and reaches no process outside. The network is open to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from nono.errors import PolicyError
from nono.kernel import landlock, process
from nono.policy.capabilities import NETWORK_OPEN, READ, WRITE, CapabilitySet, PathDeny, PathGrant, is_at_or_below
from nono.sandbox import filesystem
from nono.sandbox.expansion import Expansion
from nono.sandbox.plan import make_plan

_SYSTEM = (
    ("/dev/null", READ | WRITE), ("/dev/zero", READ), ("/dev/random", READ), ("/dev/urandom", READ), ("/proc", READ),
    ("/sys", READ),
)  # fmt: skip


def is_available() -> bool:
    """Whether this kernel has Landlock; without it no manager is asked."""
    return landlock.abi() > 0


def around(closed: Iterable[str]) -> Expansion:
    """Return the disk without the paths in `closed`. Raises PolicyError when that comes to too many pieces."""
    return _expand([("/", READ)], tuple(PathDeny(path, "closed to package managers") for path in closed))


def enter(outside: Expansion, settings: Iterable[str], closed: Iterable[str], scratch: str) -> None:
    """Confine the calling thread and what it starts, for good.

    outside: what `around` returned. settings: files that the manager obeys, readable in closed places, too.
    Raises PolicyError when one of them leads into another closed place, KernelError when there is no Landlock.
    """
    for path in settings:
        real = os.path.realpath(path)
        for each in closed:
            if not is_at_or_below(path, each) and is_at_or_below(real, os.path.realpath(each)):
                raise PolicyError(f"{path} leads to {real}, which is closed to package managers")
    inside = _expand([*_SYSTEM, *((path, READ) for path in settings), (scratch, READ | WRITE)])
    both = outside._replace(pieces=outside.pieces + inside.pieces)
    ruleset = filesystem.open_ruleset(make_plan(both, landlock.abi(), os.uname().machine))
    try:
        process.set_no_new_privs()
        landlock.restrict_self(ruleset)
    finally:
        os.close(ruleset)


def _expand(grants: Iterable[tuple[str, int]], denies: tuple[PathDeny, ...] = ()) -> Expansion:
    capabilities = CapabilitySet(
        tuple(PathGrant(path, access, False, "package managers", optional=True) for path, access in grants),
        denies, NETWORK_OPEN, (), "/",
    )  # fmt: skip
    expansion = filesystem.expand(capabilities)
    if denies and not expansion.pieces:
        raise PolicyError("the agent may write everywhere")
    return expansion
