"""What `nono rollback` prints."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nono.cli.rollbacks import changed
from nono.cli.rollbacks.changed import Changed
from nono.rollback.changes import MODE, Change
from nono.rollback.tree import Entry


@pytest.mark.parametrize("items", [[], [1], [{"path": "a\udcff", "deep": {"list": [1, {}]}}, {"path": "b"}]])
def test_a_list_that_is_printed_as_it_comes_looks_like_any_other(
    capsys: pytest.CaptureFixture[str], items: list[Any]
) -> None:
    whole: dict[str, Any] = {"session": "1", "restored": True, "roots": ["/a"], "none": [], "changes": items, "n": 1}
    changed.print_json({**whole, "changes": iter(items)})
    assert capsys.readouterr().out == json.dumps(whole, indent=1) + "\n"


def test_a_change_of_owner_is_shown() -> None:
    before = Entry(b"file", "file", 0o644, uid=0, gid=0)
    change = Changed(b"/root", Change(MODE, 0, b"file", before, before._replace(uid=1000)))
    assert changed.described(change, "/home") == "/root/file  (0:0 → 1000:0)"
    told = changed.as_json(change)["after"]
    assert told == {"kind": "file", "mode": "0644", "uid": 1000, "gid": 0, "size": 0, "sha256": ""}
