"""One JSON line an exchange, in a private file."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from nono.audit import log as audit_log
from nono.audit import read, sync, verify
from nono.audit.log import AuditLog
from nono.errors import StoreError
from nono.supervisor.denials import Denial


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
        log.begin({})
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


def test_what_is_refused_before_it_begins_leaves_no_log(tmp_path: Path) -> None:
    with pytest.raises(StoreError), AuditLog(str(tmp_path), print) as log:
        raise StoreError("the port is in use")
    assert os.listdir(os.path.dirname(log.path)) == []


def test_who_asks_whether_it_runs_keeps_it_from_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run would be taken for one that was killed, as long as it lasts."""
    taken = audit_log.flock
    times = iter((BlockingIOError, BlockingIOError, None))

    def flock(fd: int, how: int) -> None:
        if (error := next(times)) is not None:
            raise error
        taken(fd, how)

    monkeypatch.setattr(audit_log, "flock", flock)
    with AuditLog(str(tmp_path), print) as log:
        log.begin({})
        assert read.is_open(log.path)


def test_a_name_is_a_part_of_the_files_name(tmp_path: Path) -> None:
    with AuditLog(str(tmp_path), print, name="nightly-1") as log:
        pass
    assert log.path.endswith(f"-{os.getpid()}-nightly-1.jsonl")


def records(log: AuditLog) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(log.path).read_bytes().splitlines()]


def state_of(state: Path) -> list[str]:
    return [each.state for each in verify.everything(str(state / "audit"))[1]]


def fill(log: AuditLog) -> int:
    """Let nothing more be written into the log; return its descriptor, to undo that with."""
    kept = os.dup(log._fd)
    os.dup2(device := os.open("/dev/full", os.O_WRONLY), log._fd)
    os.close(device)
    return kept


def test_a_session_begins_and_ends_with_a_record(tmp_path: Path) -> None:
    with AuditLog(str(tmp_path), print, name="x") as log:
        log.begin({"argv": ["a"]})
        log.ended(7)
    first, last = records(log)
    assert (first["kind"], first["session"], first["argv"]) == ("start", log.session, ["a"])
    assert (last["kind"], last["status"]) == ("exit", 7)
    assert isinstance(last["duration_ms"], float)


def test_a_run_that_breaks_down_has_its_errors_status(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path), print)
    log.begin({})
    log.__exit__(StoreError, StoreError("x"), None)
    assert records(log)[-1]["status"] == 1
    assert state_of(tmp_path) == [verify.WHOLE]


def test_sessions_of_one_second_and_one_pid_have_two_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in two containers that share the state directory."""
    monkeypatch.setattr(audit_log.time, "time", lambda: 1795292689.5)
    logs = [AuditLog(str(tmp_path), print, name="n") for _ in range(3)]
    assert len({log.path for log in logs}) == 3
    assert logs[1].session == f"20261121T202449Z-{os.getpid()}.2-n"
    for log in logs:
        log.__exit__(None, None, None)


@pytest.mark.parametrize("full", ["log", "ledger"])
def test_a_start_that_cannot_be_written_stops_the_run(tmp_path: Path, full: str) -> None:
    said: list[str] = []
    with AuditLog(str(tmp_path), said.append) as log:
        if full == "log":
            os.close(fill(log))
        else:
            (tmp_path / "audit" / "ledger").symlink_to("/dev/full")
        with pytest.raises(StoreError, match=f"cannot write the audit {full}"):
            log.begin({})
    assert not said
    assert not Path(log.path).exists(), "no session is left that never was"


def test_what_a_full_disk_lost_is_counted_and_the_chain_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    with AuditLog(str(tmp_path), said.append) as log:
        log.begin({})
        kept = fill(log)
        for number in range(5):
            log.append(("a",), [number])
            if number % 2:
                log.flush()
        log.flush()
        os.dup2(kept, log._fd)
        os.close(kept)
        log.append(("a",), [5])
    assert [(each["kind"], each.get("lost")) for each in records(log)] == [
        ("start", None), ("gap", 5), ("exchange", None), ("exit", None),
    ]  # fmt: skip
    assert "No space left" in said[0]


def test_half_a_write_leaves_no_half_record(tmp_path: Path) -> None:
    """A limit on the size of files is met in the middle of a record."""
    resource = pytest.importorskip("resource")
    log = AuditLog(str(tmp_path), print)
    log.begin({})
    before = Path(log.path).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before + 100, limits[1]))
    try:
        log.append(("a",), ["x" * 300])
        log.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert Path(log.path).stat().st_size == before
    log.__exit__(None, None, None)
    assert [each["kind"] for each in records(log)] == ["start", "gap", "exit"]
    assert state_of(tmp_path) == [verify.WHOLE]


@pytest.mark.parametrize("how", ["unlink", "replace"])
def test_a_log_that_somebody_removed_is_told_at_the_end(tmp_path: Path, how: str) -> None:
    said: list[str] = []
    with AuditLog(str(tmp_path), said.append) as log:
        log.begin({})
        if how == "unlink":
            os.unlink(log.path)
        else:
            other = tmp_path / "other"
            other.write_bytes(Path(log.path).read_bytes())
            other.rename(log.path)
    assert said == [f"the audit log {log.path} is not whole: somebody removed it"]


def test_a_directory_that_was_moved_away_leaves_no_fault_in_the_new_one(tmp_path: Path) -> None:
    with AuditLog(str(tmp_path), lambda _: None) as log:
        log.begin({})
        (tmp_path / "audit").rename(tmp_path / "moved")
        with AuditLog(str(tmp_path), print) as other:
            other.begin({})
    ledger, sessions = verify.everything(str(tmp_path / "audit"))
    assert ([each.state for each in sessions], ledger.faults) == ([verify.WHOLE], ())
    assert not verify.everything(str(tmp_path / "moved"))[0].faults


def test_keys_that_the_agent_holds_are_taken_out_of_what_it_sends(tmp_path: Path) -> None:
    with AuditLog(str(tmp_path), print) as log:
        log.hide([memoryview(b"hunter2-zq"), memoryview("schlüssel".encode())])
        log.append(("host", "path", "status"), ["h", "/bothunter2-zq/x\udcff", 200])
        log.append(("host", "path", "status"), ["schlüssel.example", "/", 200])
        log.write_denials([Denial("path", "/x/hunter2-zq", "read", "sensitive_path", "", "", 1, "", "agent")])
    told = Path(log.path).read_text()
    assert "hunter2" not in told
    assert "schl" not in told
    assert [each.get("path", each.get("what")) for each in records(log)] == ["/bot***/x\udcff", "/", "/x/***"]


def test_it_is_synced_beside_within_the_window_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = threading.Event()
    by: list[tuple[float, int, int]] = []

    def fdatasync(fd: int) -> None:
        by.append((time.monotonic(), threading.get_ident(), os.fstat(fd).st_size))
        synced.set()

    monkeypatch.setattr(sync.os, "fdatasync", fdatasync)
    monkeypatch.setattr(sync, "WINDOW_S", 0.05)
    with AuditLog(str(tmp_path), print) as log:
        log.begin({})
        log.sync_beside()
        began = time.monotonic()
        assert synced.wait(5)
        assert by[0][0] - began >= 0.04
        assert by[0][1] != threading.get_ident()
        time.sleep(0.2)
        assert len(by) == 3, "the log, the ledger and their directory; then nothing, because nothing was written"
        synced.clear()
        for number in range(100):
            log.append(("a",), [number])
            log.flush()
        assert synced.wait(5)
        time.sleep(0.1)
        assert len(by) <= 6, "in batches"
    assert max(size for *_, size in by) == Path(log.path).stat().st_size
    assert state_of(tmp_path) == [verify.WHOLE]


def test_a_fault_of_the_disk_is_told_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fdatasync(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sync.os, "fdatasync", fdatasync)
    said: list[str] = []
    with AuditLog(str(tmp_path), said.append) as log:
        log.begin({})
    assert said == [f"the audit log {log.path} is not whole: Input/output error"]


def test_a_ledger_that_somebody_keeps_locked_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(audit_log.ledger, "_PATIENCE_S", 0.05)
    with AuditLog(str(tmp_path), print) as log:
        fd = os.open(tmp_path / "audit" / "ledger", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="ledger"):
            log.begin({})
        os.close(fd)


def test_keys_are_taken_out_of_paths(tmp_path: Path) -> None:
    key = "sk-abcdefghij0123456789"
    with AuditLog(str(tmp_path), print) as log:
        for _ in range(2):
            log.append(("path", "n"), [f"/v1/{key}/x", 1])
    assert [each["path"] for each in records(log)] == ["/v1/***/x"] * 2


def test_a_sync_that_finds_no_descriptor_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent may hold as many of nono's as it may have."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(sync, "WINDOW_S", 0.01)
    said: list[str] = []
    with AuditLog(str(tmp_path), said.append) as log:
        log.begin({})
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (log._fd + 1, limits[1]))
        try:
            log.sync_beside()
            time.sleep(0.1)
            assert not log._is_named
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert log._is_named
    assert not said
    assert state_of(tmp_path) == [verify.WHOLE]
