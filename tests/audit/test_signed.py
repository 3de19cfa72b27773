"""What is told of signed files, whatever the records hold."""

from __future__ import annotations

import csv
import io
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nono.audit import export, page, signed
from nono.audit.summary import Summary

RULES = {"kind": "trust", "what": "rules", "enforcement": "deny", "override": False, "left_out": ""}


def file(path: str, outcome: str = "verified", **members: Any) -> dict[str, Any]:
    return {
        "kind": "trust",
        "what": "file",
        "path": path,
        "sha256": "0" * 64,
        "outcome": outcome,
        "reason": "",
        **members,
    }


def test_what_was_verified_is_counted_and_the_rest_named() -> None:
    records = [RULES, file("CLAUDE.md", publisher="ci"), file("a/SKILL.md", publisher="me"), file("b", publisher="ci")]
    assert signed.rows(records) == [("signed", "3 files verified, signed by ci, me  (deny)")]
    records[0] = {**RULES, "override": True, "left_out": "it is not signed"}
    records += [
        file("x", "unsigned", reason="is not signed"),
        file("y", "unsigned", what="new", reason="is not signed"),
    ]
    assert signed.rows(records)[1:] == [
        ("warning", "--trust-override: deny was warn"),
        ("warning", "the project's policy was left out: it is not signed"),
        ("not signed", "x is not signed"),
        ("left new", "y is not signed"),
    ]
    assert signed.rows([]) == []


def test_the_page_and_the_table_have_them() -> None:
    records = [RULES, file("<CLAUDE.md>", "unsigned", reason="is not signed")]
    text = "".join(page.page("s", records, ("whole", ())))
    assert "&lt;CLAUDE.md&gt; is not signed" in text
    rows = list(csv.DictReader(io.StringIO("".join(export.csv_of("s", records)))))
    assert [row["kind"] for row in rows] == ["trust", "trust"]
    assert (rows[1]["path"], rows[1]["verdict"], rows[1]["detail"]) == ("<CLAUDE.md>", "unsigned", f"file {'0' * 64}")
    assert "Files that instruct" not in "".join(page.page("s", [], ("whole", ())))


odd = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)


@given(st.lists(st.dictionaries(st.sampled_from([*RULES, "path", "outcome", "reason", "publisher"]), odd), max_size=5))
def test_no_record_breaks_it(records: list[dict[str, Any]]) -> None:
    made = [{**record, "kind": "trust"} for record in records]
    assert all(isinstance(text, str) for row in signed.rows(Summary(made).trust) for text in row)
