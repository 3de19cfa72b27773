"""Where nono's own lines go: standard error, the log, neither."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from nono.cli.messages import Messages
from nono.errors import UsageError
from tests.runs import Site

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ "


def logged(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    assert all(re.match(STAMP, line) for line in lines)
    return [re.sub(STAMP, "", line) for line in lines]


def test_a_run_is_logged_also_when_it_is_silent(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = site.run(["--silent", "--log-file", str(log), "--block-net"], ["/bin/true"])
    assert (done.returncode, done.stderr) == (0, "")
    assert any(line.split()[:2] == ["network", "blocked"] for line in logged(log))
    assert log.stat().st_mode & 0o777 == 0o600
    site.run(["--silent", "--log-file", str(log), "--block-net"], ["/bin/true"])
    assert sum(line.startswith("nono  ") for line in logged(log)) == 2


def test_the_error_that_ends_a_run_is_logged(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = site.run(["--log-file", str(log)], ["/nonexistent"])
    assert done.returncode == 127
    assert any("/nonexistent" in line for line in logged(log))


def test_what_a_name_does_to_a_terminal_it_does_not_do_to_the_log(tmp_path: Path) -> None:
    with Messages(silent=True, log_file=str(tmp_path / "log")) as messages:
        messages.notice("a\x1b[2Jb\nc")
    assert logged(tmp_path / "log") == ["nono  note  a\\x1b[2Jb\\nc"]


def test_a_log_that_is_a_link_or_no_file_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to("target")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", ".", "missing/log", "a\0b"):
        with pytest.raises(UsageError, match="--log-file"):
            Messages(log_file=str(tmp_path / name))
    assert (tmp_path / "target").read_text() == ""


def test_a_run_has_the_name_that_it_is_given(site: Site) -> None:
    assert site.run(["--name", "nightly_1", "--block-net"], ["/bin/true"]).returncode == 0
    assert [path.name.split("-")[2] for path in (site.state / "audit").glob("*.jsonl")] == ["nightly_1.jsonl"]
    for wrong in ("", "a/b", "..", "x" * 65, "é"):
        done = site.run(["--name", wrong], ["/bin/true"])
        assert done.returncode == 2
        assert "is not a name" in done.stderr
