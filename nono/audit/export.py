"""A session in a form for other programs: its records as CSV. (JSON Lines is the log as it is; HTML is page.py's.)

Columns are those of an exchange, which most records are, and what other records say besides is put where it fits. A
spreadsheet takes a cell for a formula that begins with one of = + - @ (or with a tab or a line's end before them): such
a cell is given an apostrophe in front, because hosts, paths and reasons are of the agent's choosing.
Source: RFC 4180; OWASP, CSV Injection.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping

from nono.audit import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COLUMNS = (
    "session", "n", "time", "kind", "verdict", "method", "host", "path", "status", "code", "bytes_up", "bytes_down",
    "duration_ms", "route", "address", "access", "times", "reason", "flag", "detail",
)  # fmt: skip
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%", "＝", "＋", "－", "＠")


def csv_of(session: str, records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a CSV file, its header first."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for record in records:
        writer.writerow([_cell(value) for value in _row(session, record)])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _row(session: str, record: Mapping[str, Any]) -> Iterator[Any]:
    kind = read.text(record, "kind")
    known = dict(record)
    known["session"] = session
    if kind == "denial":
        known |= {"verdict": "refused", "path": record.get("what", ""), "code": record.get("reason", "")}
        known["reason"] = record.get("detail", "")
        known["detail"] = record.get("origin", "")
    elif kind == "start":
        known["detail"] = " ".join(str(word) for word in read.sequence(record, "argv"))
    elif kind == "trust":
        words = ("what", "publisher", "sha256", "enforcement")
        known["verdict"] = record.get("outcome", "")
        known["detail"] = " ".join(filter(None, (read.text(record, word) for word in words)))
    elif kind == "gap":
        known["detail"] = f"{record.get('lost', '?')} records could not be written"
    for column in COLUMNS:
        yield known.get(column, "")


def _cell(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, (dict, list)):
        value = json.dumps(value)
    if isinstance(value, (int, float)):
        return value
    text = str(value).replace("\0", "").encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULAS) else text
