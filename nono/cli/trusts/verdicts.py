"""Verdicts as lines for a person, and as JSON. Paths, names and reasons are a project's: none repaints the screen."""

from __future__ import annotations

from collections.abc import Sequence

from nono.cli.render import printable, short
from nono.cli.trusts.place import Sight, Where
from nono.policy.quantities import counted
from nono.trust import errors, policy
from nono.trust.check import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LABELS = {errors.VERIFIED: "verified", errors.UNSIGNED: "unsigned", errors.BLOCKED: "blocked"}
_ENFORCEMENT = {
    policy.DENY: "deny: nono run starts no agent unless all are",
    policy.WARN: "warn: nono run says so, and starts the agent",
    policy.AUDIT: "audit: nono run notes it, and starts the agent",
}
NO_POLICY = "no policy is in sight; judged by your own keys. Make one with: nono trust init --include PATTERN"
NO_MATCH = "this pattern of the policy matches nothing"


def rows(
    sight: Sight, verdicts: Sequence[Verdict], unmatched: Sequence[str], at: Where, home: str
) -> list[tuple[str, str]]:
    """Return what was judged, by which policies, and what that comes to."""
    told = [("policy", printable(short(path, home))) for path in _policies(sight, at)] or [("note", NO_POLICY)]
    told = [(label if not index else "", text) for index, (label, text) in enumerate(told)]
    told += [("note", printable(note)) for note in sight.notes]
    told += [row(verdict, home) for verdict in verdicts]
    told += [("refused", f"{printable(pattern)}: {NO_MATCH}") for pattern in unmatched]
    good = sum(verdict.outcome == errors.VERIFIED for verdict in verdicts)
    means = f"  ({_ENFORCEMENT[sight.rules.enforcement]})" if _policies(sight, at) else ""
    told.append(("checked", f"{counted(len(verdicts), 'file')}: {good} verified, {len(verdicts) - good} not{means}"))
    return told


def row(verdict: Verdict, home: str) -> tuple[str, str]:
    """Return a verdict as a row of render.py."""
    path = printable(short(verdict.path, home))
    by = f"  ({printable(verdict.publisher)})" if verdict.publisher else ""
    if verdict.outcome == errors.VERIFIED:
        return "verified", path + by
    step = f"; {printable(verdict.next_step)}" if verdict.next_step else ""
    return _LABELS.get(verdict.outcome, "refused"), f"{path}{by}: {printable(verdict.reason)}{step}"


def as_json(sight: Sight, verdicts: Sequence[Verdict], unmatched: Sequence[str], at: Where) -> dict[str, Any]:
    """Return the same as data. Names that are not UTF-8 are as Python's surrogateescape has them."""
    return {
        "root": sight.root,
        "policies": _policies(sight, at),
        "enforcement": sight.rules.enforcement,
        "files": [_as_json(each) for each in verdicts],
        "unmatched": list(unmatched),
        "notes": list(sight.notes),
    }


def _as_json(verdict: Verdict) -> dict[str, str]:
    told = {"path": verdict.path, "status": verdict.outcome, "signer": verdict.publisher, "sha256": verdict.sha256}
    if verdict.outcome != errors.VERIFIED:
        told |= {"reason": verdict.reason, "next_step": verdict.next_step}
    return told


def _policies(sight: Sight, at: Where) -> list[str]:
    """Return the policies that count here, the project's first."""
    project = [sight.policy] if sight.policy else []
    return project + ([at.users_policy] if sight.rules.user is not None else [])
