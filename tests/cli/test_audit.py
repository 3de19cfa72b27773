"""nono audit: list, show, verify and export, as a user calls them."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from nono.audit import read
from nono.audit.log import AuditLog
from nono.cli.audits import export, place, show
from nono.proxy.services import Exchange
from nono.supervisor.denials import Denial
from tests.runs import Site, unfolded

_MOST_BYTES = 1_500_000
HOSTILE = "/a\x1b]0;pwned\x07\u202e<script>"


def write(site: Site, name: str = "", *, paths: tuple[str, ...] = ("/v1/x",), **start: object) -> str:
    """Write the log of a session, and return its id."""
    with AuditLog(str(site.state), print, name=name) as log:
        log.begin({"version": "0.1.0", "argv": ["agent", "two words"], "workdir": str(site.work), **start})
        for path in paths:
            values = (1.5, "", "h.example", "203.0.113.7:443", "POST", path, "allowed", 200, "", 1, 2, 3.5, "")
            log.append(Exchange._fields, Exchange(*values))
            reason = "no. The operator can grant it with --allow-domain h.example"
            refused = (2.5, "", "h.example", "", "GET", path, "refused", 403, "host_denied", 0, 0, 0.1, reason)
            log.append(Exchange._fields, Exchange(*refused, "--allow-domain h.example"))
        log.write_denials(
            [
                Denial("path", "/secret", "read", "sensitive_path", "deny_x", "--read-file /secret", 2, "", "kernel"),
                Denial("host", "h.example", "connect", "host_denied", "", "", 1, "", "proxy"),
            ]
        )
        log.ended(3)
    return log.session


def test_a_real_run_from_list_to_export(site: Site) -> None:
    done = site.run(["--allow-cwd", "--name", "first", "--block-net"], ["sh", "-c", "exit 7", "--token=hunter2"])
    assert done.returncode == 7
    listed = site.nono(["audit", "list"])
    assert listed.stdout.splitlines()[1].split()[1] == "7"
    shown = site.nono(["audit", "show", "first"])
    assert shown.returncode == 0, shown.stderr
    assert "sh -c 'exit 7' --token=***" in shown.stdout
    assert "hunter2" not in site.audit_log()
    assert "with status 7" in shown.stdout
    assert "(--allow-cwd)" in shown.stdout
    assert "blocked" in shown.stdout
    checked = site.nono(["audit", "verify"])
    assert (checked.returncode, checked.stdout.splitlines()[0]) == (0, "sessions  1 whole, from start to end")
    exported = site.nono(["audit", "export", "first"])
    (log,) = (site.state / "audit").glob("*.jsonl")
    assert exported.stdout == log.read_text()


def test_a_key_is_no_name(site: Site) -> None:
    key = "sk-proj-" + "a1B2c3D4" * 4
    done = site.run(["--name", key], ["true"])
    assert (done.returncode, "looks like a key" in done.stderr, key in done.stderr) == (2, True, False)
    assert not site.state.exists()


def test_a_start_says_what_was_granted_and_never_a_reference(site: Site) -> None:
    references = site.store_in_files()
    site.run(["--profile", str(site.profile(references)), "--allow-cwd", "--deny", str(site.work / "x")], ["true"])
    (start, _) = (json.loads(line) for line in next((site.state / "audit").glob("*.jsonl")).read_text().splitlines())
    assert start["kind"] == "start"
    assert {"path": str(site.work), "access": "read+write", "origin": "--allow-cwd"} in start["grants"]
    assert start["denies"] == [str(site.work / "x")]
    assert [each["name"] for each in start["credentials"]] == ["openai", "anthropic", "gemini"]
    assert [each["name"] for each in start["profiles"]][-1:] == ["test"]
    assert start["network"] == "proxy"
    assert not any(reference in site.audit_log() for reference in references.values())


def test_a_session_is_named_in_four_ways(site: Site) -> None:
    one, two = write(site, "one"), write(site, "two")
    for wanted, found in ((one, one), ("one", one), ("two", two), ("last", two), (two[:-1], two)):
        assert site.nono(["audit", "show", wanted]).stdout.split()[1] == found, wanted
    done = site.nono(["audit", "show", "2"])
    assert (done.returncode, "2 sessions begin with that" in done.stderr) == (2, True)
    done = site.nono(["audit", "show", "../../etc/passwd"])
    assert (done.returncode, "no session is called that" in done.stderr) == (2, True)


def test_without_a_log_it_is_said(site: Site) -> None:
    assert "no session is recorded yet" in site.nono(["audit", "list"]).stdout
    assert "no session is recorded yet" in site.nono(["audit", "verify"]).stdout
    assert site.nono(["audit", "verify"]).returncode == 0
    done = site.nono(["audit", "show", "last"])
    assert (done.returncode, done.stderr) == (2, "nono: there is no audit log yet; each nono run writes one\n")


def test_tampering_has_exit_status_1_and_a_place(site: Site) -> None:
    session = write(site)
    log = site.state / "audit" / f"{session}.jsonl"
    log.write_bytes(log.read_bytes().replace(b"/v1/x", b"/v1/y", 1))
    done = site.nono(["audit", "verify"])
    assert done.returncode == 1
    assert done.stdout.startswith(f"{session}.jsonl:2: changed: record 2 is not as it was")
    assert site.nono(["audit", "show", session]).returncode == 1
    assert "not as it was written" in site.nono(["audit", "export", session, "--format", "html"]).stdout
    told = json.loads(site.nono(["audit", "verify", session, "--json"]).stdout)
    assert not told["ok"]
    assert [(fault["line"], fault["what"]) for fault in told["faults"]] == [(2, "changed")]


def test_a_session_that_was_killed_is_told_apart(site: Site) -> None:
    with site.start(["--allow-cwd"], ["sh", "-c", "echo ready; sleep 60"]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert "1 still running" in site.nono(["audit", "verify"]).stdout
        assert "running" in site.nono(["audit", "list"]).stdout
        process.kill()
    done = site.nono(["audit", "verify"])
    assert done.returncode == 0
    assert "ended without an end record" in done.stdout
    assert "no end" in site.nono(["audit", "list"]).stdout


def test_the_ledger_leads_to_an_earlier_head(site: Site) -> None:
    write(site)
    head = json.loads(site.nono(["audit", "verify", "--json"]).stdout)["ledger"]["head"]
    write(site)
    assert site.nono(["audit", "verify", "--head", head]).returncode == 0
    (site.state / "audit" / "ledger").unlink()
    for log in (site.state / "audit").glob("*.jsonl"):
        log.unlink()
    write(site)
    assert site.nono(["audit", "verify"]).returncode == 0, "somebody wrote all of it anew"
    done = site.nono(["audit", "verify", "--head", head])
    assert done.returncode == 1
    assert "does not lead to the head" in done.stdout


def test_old_logs_are_removed_and_not_missed(site: Site) -> None:
    old, odd, new = write(site, "old"), write(site, "odd"), write(site, "new")
    directory = site.state / "audit"
    (directory / f"{odd}.jsonl").write_bytes((directory / f"{odd}.jsonl").read_bytes().replace(b"/v1/x", b"/v1/y", 1))
    for each in (old, odd):
        os.utime(directory / f"{each}.jsonl", (1.0, 1.0))
    done = site.nono(["audit", "cleanup"])
    assert (done.returncode, "--older-than 90d" in unfolded(done.stderr)) == (2, True)
    done = site.nono(["audit", "cleanup", "--older-than", "90d", "--dry-run"])
    assert (done.returncode, f"would go  {old}" in done.stdout) == (0, True)
    done = site.nono(["audit", "cleanup", "--older-than", "90d"])
    assert (done.returncode, done.stderr) == (0, "")
    assert f"removed   {old}\n" in done.stdout
    assert f"stays     {odd}  (it is not as it was written" in done.stdout
    assert sorted(path.name for path in directory.iterdir()) == sorted([f"{odd}.jsonl", f"{new}.jsonl", "ledger"])
    assert site.nono(["audit", "verify"]).returncode == 1
    assert site.nono(["audit", "cleanup", odd]).returncode == 0
    checked = site.nono(["audit", "verify"])
    assert checked.returncode == 0, checked.stdout
    assert re.search(rf"2 removed by nono audit cleanup: \S+ on 20\d\d-.*{old} on 20", unfolded(checked.stdout))
    assert f"{odd}: it was not as it was written when it was removed" in unfolded(checked.stdout)
    told = json.loads(site.nono(["audit", "verify", "--json"]).stdout)["sessions"]
    assert [each["state"] for each in told if "removed" in each] == ["removed"] * 2
    (directory / f"{new}.jsonl").unlink()
    assert "vanished" in site.nono(["audit", "verify"]).stdout


def test_a_running_session_is_not_removed(site: Site) -> None:
    with site.start(["--allow-cwd"], ["sh", "-c", "echo ready; read line"]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        done = site.nono(["audit", "cleanup", "last"])
        assert (done.returncode, "it is running" in done.stdout) == (1, True)
        process.communicate(b"\n")
    assert site.nono(["audit", "verify"]).returncode == 0
    assert site.nono(["audit", "cleanup", "last", "--json"]).returncode == 0
    assert "removed" in site.nono(["audit", "verify"]).stdout


def test_only_what_was_denied(site: Site) -> None:
    write(site)
    lines = site.nono(["audit", "show", "last", "--denied"]).stdout.splitlines()
    assert [line.split()[1] for line in lines if "  denied  " in line] == ["denied", "denied"]
    assert "--read-file /secret" in lines[-1]
    assert not any("allowed" in line for line in lines)


def test_effects_elsewhere_are_listed(site: Site) -> None:
    write(site, paths=("/a", "/b"))
    assert "POST h.example, 2 times" in site.nono(["audit", "show", "last"]).stdout


@pytest.mark.parametrize("words", [["list"], ["show", "last"], ["show", "last", "-v", "--denied"], ["verify"]])
def test_a_terminal_is_shown_nothing_that_moves_its_cursor_and_80_columns(site: Site, words: list[str]) -> None:
    write(site, paths=(HOSTILE, "/" + "long" * 30), argv=["x" * 200, HOSTILE], workdir=HOSTILE)
    done = site.nono(["audit", *words])
    assert done.returncode == 0, done.stderr
    assert all(c.isprintable() or c == "\n" for c in done.stdout)
    wide = [line for line in done.stdout.splitlines() if len(line) > 80]
    assert all("x" * 200 in line for line in wide), "but for one word that is longer"


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_an_export_to_a_terminal_is_escaped(site: Site, form: str) -> None:
    session = write(site)
    log = site.state / "audit" / f"{session}.jsonl"
    log.write_bytes(log.read_bytes() + HOSTILE.encode() + b"\n")
    main, follower = pty.openpty()
    command = [sys.executable, "-m", "nono", "audit", "export", session, "--format", form]
    with subprocess.Popen(command, stdout=follower, env=site.environment, cwd=site.work) as process:
        os.close(follower)
        text = b""
        try:
            while piece := os.read(main, 65536):
                text += piece
        except OSError:
            pass
    os.close(main)
    assert process.returncode == 0
    assert b"\x1b" not in text
    assert b"h.example" in text


def test_csv_and_html(site: Site) -> None:
    write(site, paths=("=1+1", HOSTILE))
    rows = list(csv.DictReader(io.StringIO(site.nono(["audit", "export", "last", "--format", "csv"]).stdout)))
    assert [row["kind"] for row in rows] == ["start", *["exchange"] * 4, "denial", "exit"]
    assert rows[1]["path"] == "'=1+1"
    page = site.nono(["audit", "export", "last", "--format", "html"]).stdout
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_file_is_written_anew_and_privately(site: Site) -> None:
    write(site)
    arguments = ["audit", "export", "last", "--format", "html", "-o", "page.html"]
    assert site.nono(arguments).returncode == 0
    assert (site.work / "page.html").stat().st_mode & 0o777 == 0o600
    assert "--force" in site.nono(arguments).stderr
    assert site.nono([*arguments, "--force"]).returncode == 0


def test_a_log_without_hashes_is_shown_and_said_not_to_be_nonos(site: Site) -> None:
    directory = site.state / "audit"
    directory.mkdir(parents=True)
    old = {"time": 1.5, "host": "h.example", "method": "GET", "path": "/x", "verdict": "allowed", "status": 200}
    (directory / "20250101T000000Z-1.jsonl").write_text(json.dumps(old) + "\n")
    assert "GET h.example/x" in site.nono(["audit", "show", "last"]).stdout
    assert "unknown" in site.nono(["audit", "list"]).stdout.splitlines()[1]
    checked = site.nono(["audit", "verify"])
    assert checked.returncode == 1
    assert "not in the ledger: the ledger does not know of this session" in unfolded(checked.stdout)


def test_a_log_that_cannot_be_read_is_an_error_of_one_sentence(site: Site, tmp_path: Path) -> None:
    session = write(site)
    log = site.state / "audit" / f"{session}.jsonl"
    log.unlink()
    log.symlink_to(tmp_path)
    for words in (["show", session], ["export", session]):
        done = site.nono(["audit", *words])
        assert done.returncode == 1, words
        assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr
    assert session in site.nono(["audit", "list"]).stdout
    checked = site.nono(["audit", "verify"])
    assert (checked.returncode, f"{session}.jsonl: no file: it is a link" in checked.stdout) == (1, True)


def test_what_changed_is_shown_where_snapshots_were_taken(site: Site) -> None:
    (site.work / "kept").write_text("before")
    done = site.run(
        ["--allow-cwd", "--rollback", "--no-rollback-prompt"], ["sh", "-c", "echo x > 'new<b>'; echo after > kept"]
    )
    assert done.returncode == 0, done.stderr
    shown = site.nono(["audit", "show", "last"]).stdout
    assert "files        modified" in shown
    assert "new<b>" in shown
    page = site.nono(["audit", "export", "last", "--format", "html"]).stdout
    assert "new&lt;b&gt;" in page
    assert "new<b>" not in page
    (final,) = (site.state / "rollback" / "sessions").glob("*/final")
    final.unlink()
    assert "no snapshot was taken at its end" in site.nono(["audit", "show", "last"]).stdout
    final.write_bytes((final.parent / "baseline").read_bytes())
    assert "final snapshot is not the one that was taken" in site.nono(["audit", "show", "last"]).stdout
    assert site.nono(["audit", "verify"]).returncode == 0


def peak_of(site: Site, action: Callable[[argparse.Namespace], int], **arguments: object) -> int:
    """Carry out an action here, and return how many bytes it had at most."""
    tracemalloc.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(read, "_WAITING", 100)
            patch.setattr(place, "directory", lambda: str(site.state / "audit"))
            assert action(argparse.Namespace(**arguments)) == 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("verbose", [False, True])
def test_a_large_session_is_shown_without_keeping_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, verbose: bool
) -> None:
    session = write(site, paths=("/v1/x",) * 5000)
    said: list[str] = []
    ends = ("more  (-v to list)", "times")
    monkeypatch.setattr(place, "say", lambda line: said.append(line) if line.endswith(ends) else None)
    peak = peak_of(site, show.run, session=session, denied=False, json=False, verbose=verbose)
    assert peak < _MOST_BYTES
    more = [] if verbose else ["9901 more  (-v to list)"]  # 10001, one denial among them, and 100 shown
    denial = said[:1] if verbose else []  # with its time
    assert said == [*denial, *more, f"{'':<13}POST h.example, 5000 times"]


@pytest.mark.parametrize("form", ["jsonl", "csv", "html"])
def test_a_large_session_is_exported_without_keeping_it(site: Site, tmp_path: Path, form: str) -> None:
    session = write(site, paths=("/v1/x",) * 5000)
    file = tmp_path / "exported"
    assert peak_of(site, export.run, session=session, format=form, output=str(file), force=False) < _MOST_BYTES
    assert (site.state / "audit" / f"{session}.jsonl").stat().st_size > 2 * _MOST_BYTES
    assert file.stat().st_size > _MOST_BYTES / 2


def test_what_is_no_text_is_exported_as_it_is(site: Site) -> None:
    session = write(site)
    log = site.state / "audit" / f"{session}.jsonl"
    data = log.read_bytes().replace(b"/v1/x", b"/v1/\xff", 1)
    log.write_bytes(data)
    command = [sys.executable, "-m", "nono", "audit", "export", session]
    assert subprocess.run(command, env=site.environment, capture_output=True, check=True).stdout == data
    site.nono(["audit", "export", session, "-o", "out.jsonl"])
    assert (site.work / "out.jsonl").read_bytes() == data


def test_json_of_a_session_is_one_object(site: Site) -> None:
    session = write(site, paths=("/a", "/b"))
    told = json.loads(site.nono(["audit", "show", session, "--json"]).stdout)
    assert (told["session"], told["state"], len(told["records"])) == (session, "whole", 7)
    assert json.loads(site.nono(["audit", "show", session, "--json", "--denied"]).stdout)["records"][0]["path"] == "/a"


def test_a_log_with_numbers_beyond_all_measure_is_listed(site: Site) -> None:
    session = write(site)
    log = site.state / "audit" / f"{session}.jsonl"
    *lines, _ = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines) + '{"kind":"exit","duration_ms":1' + "0" * 400 + ',"status":0}\n')
    listed = site.nono(["audit", "list"])
    assert (listed.returncode, listed.stderr) == (0, "")
