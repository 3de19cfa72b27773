"""P9: every decision can be seen: an audit log that the child cannot touch, and a reason for each denial."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest

from tests.runs import KEYS, Site, lines

ASK = ["OPENAI_BASE_URL", "POST", "/chat/completions?secret=in-the-query", {"Authorization": "Bearer TOKEN"}, "{}"]


def flags(site: Site) -> list[str]:
    return ["--profile", str(site.profile(site.store_in_files())), "--allow-cwd"]


def entries(site: Site) -> list[dict[str, object]]:
    return site.exchanges()


def test_every_exchange_has_a_line(site: Site) -> None:
    done = site.run(flags(site), site.agent("send", json.dumps([ASK, ASK])))
    assert [line["status"] for line in lines(done.stdout)] == [200, 200]
    for entry in entries(site):
        assert (entry["route"], entry["host"], entry["method"]) == ("openai", f"localhost:{site.upstream.port}", "POST")
        assert (entry["path"], entry["status"]) == ("/chat/completions", 200)
        assert entry["bytes_up"] == 2
        assert isinstance(entry["bytes_down"], int)
        assert entry["bytes_down"] > 100
    assert len(entries(site)) == 2
    assert "in-the-query" not in site.audit_log()
    assert not any(key in site.audit_log() for key in KEYS.values())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (["OPENAI_BASE_URL", "POST", "/chat/completions", {}, "{}"], 401),
        (["OPENAI_BASE_URL", "POST", "/../admin", {"Authorization": "Bearer TOKEN"}, "{}"], 400),
        (["OPENAI_BASE_URL", "TRACE", "/chat/completions", {"Authorization": "Bearer TOKEN"}, None], 405),
    ],
    ids=["no token", "path", "method"],
)
def test_every_denial_has_a_line_with_its_reason(site: Site, request_: list[object], status: int) -> None:
    done = site.run(flags(site), site.agent("send", json.dumps([request_])))
    (told,) = lines(done.stdout)
    assert told["status"] == status
    error = json.loads(told["body"])["error"]
    (entry,) = entries(site)
    assert (entry["status"], entry["code"]) == (status, error["code"])
    assert entry["reason"]
    assert site.upstream.received == []


def test_the_child_cannot_touch_the_log(site: Site) -> None:
    """Even where the whole home is granted."""
    earlier = site.run(flags(site), site.agent("send", json.dumps([ASK])))
    assert earlier.returncode == 0
    (log,) = (path for path in site.state.rglob("*.jsonl"))
    before = log.read_bytes()
    script = """
        for file in "$1" "$1.new" "$2/x"; do cat "$file"; echo forged >> "$file"; done
        rm -f "$1"; mv "$2" "$2.old"; mkdir "$2/y"
    """
    done = site.run(
        [*flags(site), "--allow", str(site.home)], ["/bin/sh", "-c", script, "sh", str(log), str(log.parent)]
    )
    assert "Permission denied" in done.stderr
    assert log.read_bytes() == before
    assert [path for path in log.parent.parent.rglob("*") if path.suffix != ".jsonl"] == [
        log.parent,
        log.parent / "ledger",
    ]
    assert "ecret" not in done.stdout


def test_the_log_is_private(site: Site) -> None:
    site.run(flags(site), site.agent("send", json.dumps([ASK])))

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    (log,) = (path for path in site.state.rglob("*.jsonl"))
    assert (mode(log), mode(log.parent)) == (0o600, 0o700)


def test_the_summary_says_what_is_granted(site: Site) -> None:
    done = site.run([*flags(site), "--read", str(site.home)], ["true"])
    assert f"only openai → localhost:{site.upstream.port}" in done.stderr
    assert re.search(rf"read\+write +{site.work}\n", done.stderr)
    assert re.search(r"read +~\n", done.stderr)
    assert "wall" in done.stderr
