"""CSV of a session, which a spreadsheet opens."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nono.audit.export import COLUMNS, csv_of


def rows(*records: dict[str, object]) -> list[dict[str, str]]:
    text = "".join(csv_of("session", records))
    assert "\r\n" in text
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_each_record_is_a_row() -> None:
    start, exchange, denial, gap, end = rows(
        {"n": 1, "kind": "start", "time": 1.5, "argv": ["a", "b c"]},
        {"n": 2, "kind": "exchange", "method": "GET", "host": "h", "path": "/p", "verdict": "refused", "status": 403},
        {"n": 3, "kind": "denial", "what": "/x", "access": "read", "reason": "path_not_granted", "times": 2},
        {"n": 4, "kind": "gap", "lost": 7},
        {"n": 5, "kind": "exit", "status": 1, "duration_ms": 2.5},
    )
    assert (start["session"], start["detail"], start["time"]) == ("session", "a b c", "1.5")
    assert (exchange["method"], exchange["host"], exchange["path"], exchange["status"]) == ("GET", "h", "/p", "403")
    assert (denial["verdict"], denial["path"], denial["code"], denial["times"]) == (
        "refused",
        "/x",
        "path_not_granted",
        "2",
    )
    assert gap["detail"] == "7 records could not be written"
    assert (end["status"], end["duration_ms"]) == ("1", "2.5")
    assert rows() == []


@pytest.mark.parametrize(
    "cell", ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", " =1", "=cmd|' /C calc'!A0", "|x", "%0A"]
)
def test_no_cell_is_a_formula(cell: str) -> None:
    (row,) = rows({"kind": "exchange", "path": cell, "host": cell})
    assert row["path"].startswith("'")
    assert row["host"].startswith("'")


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_one_cell(text: str) -> None:
    (row,) = rows({"kind": "exchange", "path": text, "reason": [text], "status": None})
    assert set(row) == set(COLUMNS)
    assert row["path"].lstrip("' ")[:1] not in tuple("=+-@") or row["path"].startswith("'")
    plain = text.encode("utf-8", "backslashreplace").decode().replace("\0", "")
    assert row["path"] in (plain, f"'{plain}")
