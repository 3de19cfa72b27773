"""What a session's records say of signed files: what was verified before the agent started, and what it left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nono.audit import read
from nono.policy.quantities import counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERIFIED = "verified"
_LEFT = ("new", "changed", "gone")  # after the run, and not verified


def rows(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (label, text) of each thing that there is to say. records: of the kind "trust"; none: no rows."""
    if not records:
        return []
    files = [each for each in records if each.get("what") == "file"]
    verified = [each for each in files if each.get("outcome") == VERIFIED]
    by = ", ".join(_words(verified, "publisher"))
    text = f"{counted(len(verified), 'file')} verified{f', signed by {by}' if by else ''}"
    rules = next((each for each in records if each.get("what") == "rules"), {})
    found = [("signed", f"{text}  ({read.text(rules, 'enforcement') or 'no rules are recorded'})")]
    if rules.get("override") is True:
        found.append(("warning", "--trust-override: deny was warn"))
    if left_out := read.text(rules, "left_out"):
        found.append(("warning", f"the project's policy was left out: {left_out}"))
    found += [("not signed", _told(each)) for each in files if each.get("outcome") != VERIFIED]
    return found + [(f"left {each['what']}", _told(each)) for each in records if each.get("what") in _LEFT]


def _told(record: Mapping[str, Any]) -> str:
    return f"{read.text(record, 'path')} {read.text(record, 'reason') or read.text(record, 'outcome')}"


def _words(records: Iterable[Mapping[str, Any]], member: str) -> list[str]:
    return [word for word in dict.fromkeys(read.text(each, member) for each in records) if word]
