"""One JSON line an exchange, in a private file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nono.audit.log import AuditLog
from nono.errors import StoreError


def test_writes_a_json_line_for_each_entry(tmp_path: Path) -> None:
    fields = ("route", "status", "time")
    entries = [
        ("openai", 200, 1.5),
        ('a"%s\n\u2028é\x1b', 0, 1e-6),
        ("openai", -1, 1795292689.092936),
        (None, 2**63, 0.0),
    ]
    with AuditLog(str(tmp_path), print) as log:
        assert [log.append(fields, entry) for entry in entries] == [True, False, False, False]
        log.flush()
        assert log.append(("other",), ["x"]) is True
    lines = [json.loads(line) for line in Path(log.path).read_bytes().splitlines()]
    assert [line.pop("n") for line in lines] == [1, 2, 3, 4, 5]
    assert {line.pop("kind") for line in lines} == {"exchange"}
    assert all(len(line.pop("hash")) == 64 for line in lines)
    assert lines == [*(dict(zip(fields, entry, strict=True)) for entry in entries), {"other": "x"}]


def test_remembers_a_bounded_number_of_strings(tmp_path: Path) -> None:
    with AuditLog(str(tmp_path), print) as log:
        for number in range(3000):
            log.append(("path",), [f"/{number}"])
        assert len(log._quoted) <= 1024
        assert len(log._lines) <= 1024
        log.append(("path",), ["/" + "a" * 2000])
        assert max(map(len, log._lines.values())) < 1100
    assert len(Path(log.path).read_bytes().splitlines()) == 3001


def test_whoever_watches_is_shown_the_same_entries(tmp_path: Path) -> None:
    shown: list[object] = []
    with AuditLog(str(tmp_path), print, shown.append) as log:
        log.append(("path",), ["/a"])
        log.append(("path",), ["/b"])
        assert not shown
        log.flush()
        log.flush()
        assert shown == [[["/a"], ["/b"]]]
        log.append(("path",), ["/c"])
        log.show(["opened"])
    assert shown[1:] == [[["/c"], ["opened"]]]
    assert len(Path(log.path).read_bytes().splitlines()) == 3


def test_counts_each_thing_that_was_refused(tmp_path: Path) -> None:
    fields = ("host", "verdict", "reason", "ms")
    with AuditLog(str(tmp_path), print) as log:
        for host, verdict, reason in [("a", "refused", "no a"), ("b", "allowed", "late"), ("c", "refused", "no c")] * 2:
            log.append(fields, [host, verdict, reason, 1.0])
        log.append(fields, ["a", "refused", "no a", 2.0])
        for number in range(3000):
            log.append(fields, [str(number), "refused", f"no {number}", 1.0])
    assert [(named["host"], named["reason"], count) for named, count in log.refused[:3]] == [
        ("a", "no a", 3),
        ("c", "no c", 2),
        ("0", "no 0", 1),
    ]
    assert len(log.refused) == 256


def test_file_and_directory_are_private(tmp_path: Path) -> None:
    with AuditLog(str(tmp_path / "state"), print) as log:
        pass
    assert os.stat(log.path).st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(log.path)).st_mode & 0o777 == 0o700


def test_refuses_to_start_without_a_log(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("in the way")
    with pytest.raises(StoreError, match="cannot open the audit log"):
        AuditLog(str(tmp_path), print)


def test_a_full_disk_is_said_at_the_end_and_raises_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    with AuditLog(str(tmp_path), said.append) as log:
        os.dup2(full := os.open("/dev/full", os.O_WRONLY), log._fd)
        os.close(full)
        log.append(("a",), [1])
        log.flush()
        assert not said
    assert said == [f"the audit log {log.path} is not whole: No space left on device"]


def test_a_name_is_a_part_of_the_files_name(tmp_path: Path) -> None:
    with AuditLog(str(tmp_path), print, name="nightly-1") as log:
        pass
    assert log.path.endswith(f"-{os.getpid()}-nightly-1.jsonl")
