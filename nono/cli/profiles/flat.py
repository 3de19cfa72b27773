"""What a profile comes to, flat: a value by key, as ("filesystem.read", ("~/notes",)). What is not said is left out."""

from __future__ import annotations

from typing import Any

from nono.policy.profile import Profile

_SHOWN_ONLY = "meta"  # says nothing of what a run may do
LISTS, MAPS = (tuple, list), (dict,)


def flat(profile: Profile) -> dict[str, Any]:
    """Return all that `profile` says, in the order of the format."""
    found: dict[str, Any] = {}
    nothing = Profile()
    for section, value in profile._asdict().items():
        if section == _SHOWN_ONLY:
            continue
        if isinstance(value, LISTS) and not hasattr(value, "_fields"):
            found |= {section: value} if value else {}
            continue
        if isinstance(value, MAPS):
            found |= {f"{section}.{name}": each for name, each in value.items()}
            continue
        for field, inner in value._asdict().items():
            if inner == getattr(getattr(nothing, section), field):
                continue
            if isinstance(inner, MAPS):
                found |= {f"{section}.{field}.{name}": each for name, each in inner.items()}
            else:
                found[f"{section}.{field}"] = inner
    return found
