"""docs/audit.md says what an entry has, and which codes there are."""

from __future__ import annotations

import re
from pathlib import Path

from nono.proxy.services import Exchange

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")


def test_every_field_is_described() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", DOCUMENT, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(Exchange._fields)


def test_every_code_is_listed() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "nono").rglob("*.py"))
    raised = set(re.findall(r"(?:Refusal|UpstreamError)\(\s*\w+,\s*\"(\w+)\"", sources))
    reported = set(re.findall(r"(?:_report|_handshake_failed)\(\s*\"(\w+)\"", sources))
    assert {"host_denied", "client_left"} <= raised | reported
    listed = DOCUMENT.partition("Codes of what is refused")[2].partition("## While")[0]
    assert set(re.findall(r"`(\w+)`", listed)) - {"too_many_connections"} == raised | reported
