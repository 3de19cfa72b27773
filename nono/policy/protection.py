"""The denied paths of one run: the built-in ones, the user's own, and what --bypass-protection takes out again.

Pure. A bypass names one path that a built-in group protects: a protected path itself, or one below it. It lifts the
protection of that path and of what is below it, and of nothing else: beside `~/.aws/credentials`, the rest of `~/.aws`
stays denied. It grants nothing; the path still needs a grant, the user's or a built-in one. Three kinds of denies
cannot be bypassed: nono's own settings and state, which decide what the next run may do; what this run protects besides
(its keys, nono's own code; supervisor/guard.py); and the user's own --deny, which he can leave out.
"""

from __future__ import annotations

from collections.abc import Iterable

from nono.errors import UsageError
from nono.policy.capabilities import PathDeny, is_at_or_below
from nono.policy.network import nearest

NONO = "deny_nono"  # the group of nono's own settings and state, in data/groups.json
SIGNED = "signed, read-only"  # what stands in the place of a group for a signed file (nono/trust)
USERS_DENY, PROFILES_DENY = "--deny", "profile"  # what stands in the place of a group for the user's own
_BUILT_IN = "deny_"  # what the name of every built-in group begins with
_SHOWN = 4


def can_be_bypassed(deny: PathDeny) -> bool:
    """Whether --bypass-protection lifts this deny."""
    return deny.group.startswith(_BUILT_IN) and deny.group != NONO


def bypass(denies: Iterable[PathDeny], paths: Iterable[str], origin: str) -> tuple[PathDeny, ...]:
    """Return the denies without the protection of `paths`, absolute and normalised; `origin` named them.

    Raises UsageError for a path that nothing protects, or that stays protected.
    """
    left = tuple(denies)
    for path in paths:
        for deny in left:
            if deny.group == NONO and is_at_or_below(path, deny.path):
                raise UsageError(
                    f"{origin} {path}: nono's own settings and state ({deny.path}) stay closed, because they decide "
                    "what the next run may do; leave it out"
                )
        matching = [deny for deny in left if can_be_bypassed(deny) and is_at_or_below(path, deny.path)]
        if not matching:
            raise UsageError(
                f"{origin} {path}: {_why_not(path, [deny.path for deny in left if can_be_bypassed(deny)])}"
            )
        left = tuple(
            deny._replace(holes=(*deny.holes, path)) if deny in matching else deny
            for deny in left
            if not (deny in matching and deny.path == path)
        )
    return left


def _why_not(path: str, protected: list[str]) -> str:
    below = [each for each in protected if is_at_or_below(each, path)]
    if below:
        shown = ", ".join(below[:_SHOWN]) + (f" and {len(below) - _SHOWN} more" if len(below) > _SHOWN else "")
        return f"is not protected itself, only in it {shown}; name what shall be opened"
    directory, _, name = path.rpartition("/")
    beside = {each.rpartition("/")[2]: each for each in protected if each.rpartition("/")[0] == directory}
    near = nearest(name, beside)
    if near and near.strip(".")[0] == name.strip(".")[:1]:  # of short names, each is near each
        return f"no built-in group protects it; did you mean {beside[near]}?"
    return (
        "no built-in group protects it, so there is nothing to bypass; grant it with --read or --allow "
        "(nono's own code and the keys of this run stay closed)"
    )
