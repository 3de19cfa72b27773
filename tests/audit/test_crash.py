"""A nono that is killed anywhere in a session: no other log suffers, and nobody is accused of tampering.

Every call of `os` that changes the log or the ledger is a failpoint, each tried in a process of its own: killed before
it, in the middle of a write, and after it.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nono.audit import ledger, verify
from nono.audit.log import AuditLog, Signer
from tests.audit.test_verify import FIELDS, audit, write_session
from tests.runs import Site

CALLS = ("open", "write", "ftruncate", "fdatasync", "close", "unlink", "rename")
ENOUGH = 200  # calls; a session has fewer


def session(state: Path, name: str) -> None:
    """Write one, with the agent's marks beside the log: what had begun, and which records were written."""
    signer = Signer("f" * 64, lambda *_: b"signed")
    with AuditLog(str(state), lambda _: None, name=name, signer=signer) as log:
        log.begin({"argv": ["agent"]})
        (state / f"begun-{name}").touch()
        for number in range(4):
            log.append(FIELDS, (f"host-{number}", 200, number / 7))
            if number % 2:
                log.flush()
        log.ended(0)
    (state / f"ended-{name}").touch()


def run(state: Path, at: int, how: str, name: str = "killed") -> int:
    """Write a session in a process of its own, killed at its call number `at`. Return how many there were, or -1."""
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        count = 0

        def failing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal count
                count += 1
                if count != at:
                    return real(*arguments, **named)
                if how == "half" and name == "write":
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) * 2 // 3])
                elif how == "all but the end" and name == "write":
                    real(arguments[0], bytes(arguments[1])[:-1])
                elif how == "after":
                    real(*arguments, **named)
                return os.kill(os.getpid(), signal.SIGKILL)

            return call

        try:
            for each in CALLS:
                setattr(os, each, failing(each, getattr(os, each)))
            session(state, name)
        except BaseException:  # noqa: BLE001 (a forked test must not go on)
            traceback.print_exc()
            os._exit(8)
        told, at = count, 0
        os.write(writes, str(told).encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as file:
        told = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return int(told or "-1")


@pytest.mark.parametrize("how", ["before", "half", "all but the end", "after"])
def test_killed_at_any_call_it_is_a_session_without_end(tmp_path: Path, how: str) -> None:
    for at in range(1, ENOUGH):
        state = tmp_path / str(at)
        write_session(state, name="earlier")
        is_over = run(state, at, how) >= 0
        found, sessions = audit(state)
        assert not found.faults, (at, found)
        assert not any(each.faults for each in sessions.values()), (at, sessions)
        (killed,) = [each for each in sessions.values() if each.session.endswith("killed")] or [None]
        begun, ended = (state / "begun-killed").exists(), (state / "ended-killed").exists()
        if begun:
            assert killed is not None
            states = (verify.WHOLE,) if is_over else (verify.UNENDED, verify.UNENTERED, verify.WHOLE)
            assert killed.state in states, (at, killed)
        assert ended <= (killed is not None and killed.state == verify.WHOLE)
        is_signed = killed is not None and (state / "audit" / f"{killed.session}.jsonl.bundle").exists()
        assert killed is None or bool(killed.signature) <= is_signed
        later = write_session(state, name="later")
        found, sessions = audit(state)
        assert not found.faults, (at, found)
        assert sessions[later.stem].state == verify.WHOLE
        assert all(not each.faults for each in sessions.values()), (at, sessions)
        if is_over:
            break
    else:
        pytest.fail("it never came to its end")
    assert at > 10


def test_sessions_killed_while_others_write_harm_no_other(tmp_path: Path) -> None:
    writers = []
    for number in range(3):
        if (pid := os.fork()) == 0:
            for again in range(15):
                write_session(tmp_path, name=f"whole-{number}-{again}")
            os._exit(0)
        writers.append(pid)
    chosen = random.Random(7)
    for number in range(40):
        run(tmp_path, chosen.randrange(1, 25), chosen.choice(["before", "half", "after"]), f"killed-{number}")
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in writers)
    found, sessions = audit(tmp_path)
    assert not found.faults
    assert not [each for each in sessions.values() if each.faults]
    states = [each.state for each in sessions.values() if "-whole-" in each.session]
    assert states == [verify.WHOLE] * 45


def test_what_a_power_failure_leaves_behind_the_end_is_no_tampering(tmp_path: Path) -> None:
    """Zeros, on file systems that write a file's size before its data; half a record; both."""
    write_session(tmp_path, name="earlier")
    path = tmp_path / "audit" / "ledger"
    for number, rest in enumerate((b"\0" * 300, b'{"n":3,"ki', b'{"n":3,"kind"\0\0\0', b"{", b"\0" * 100_000), 1):
        data = path.read_bytes()
        path.write_bytes(data + rest.replace(b'"n":3', b'"n":%d' % (2 * number + 1)))
        assert not audit(tmp_path)[0].faults
        later = write_session(tmp_path, name=f"later-{number}")
        found, sessions = audit(tmp_path)
        assert (found.faults, len(found.remarks), found.records) == ((), number, 2 * number + 2)
        assert sessions[later.stem].state == verify.WHOLE


def test_what_nobody_leaves_behind_by_accident_is_tampering(tmp_path: Path) -> None:
    write_session(tmp_path, name="earlier")
    path = tmp_path / "audit" / "ledger"
    data = path.read_bytes()
    for rest in (b"x", b'{"n":4,', b'{"n":3,"kind":"end"\n', b"\n", b'{"n":3,"hash":"' + b"0" * 64 + b'"}x'):
        path.write_bytes(data + rest)
        assert audit(tmp_path)[0].faults, rest
        write_session(tmp_path, name="later")
        assert audit(tmp_path)[0].faults, rest
        path.write_bytes(data)


def test_a_killed_session_with_its_end_in_the_ledger_is_truncated(tmp_path: Path) -> None:
    log = write_session(tmp_path)
    data = log.read_bytes()
    for cut in (1, 2, 50, len(data) // 2):
        log.write_bytes(data[:-cut])
        assert audit(tmp_path)[1][log.stem].state == verify.FAULTY, cut


def test_a_killed_session_may_end_anywhere_behind_its_first_record(tmp_path: Path) -> None:
    """That was there before the ledger knew of the session; of what came later nobody can tell."""
    log = write_session(tmp_path)
    path = tmp_path / "audit" / "ledger"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    data = log.read_bytes()
    first = data.index(b"\n") + 1
    for cut in range(len(data)):
        log.write_bytes(data[:cut])
        found = audit(tmp_path)[1][log.stem]
        assert found.state == (verify.UNENDED if cut >= first else verify.FAULTY), (cut, found)
        assert bool(found.remarks) == (cut > first and data[cut - 1 : cut] != b"\n"), (cut, found)


def test_half_a_record_that_cannot_be_taken_away_is_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, and then has an error; a chain that went on behind the half would be broken."""
    failing = ["write", "ftruncate", "ftruncate"]
    write, ftruncate = os.write, os.ftruncate

    def half(fd: int, data: bytes) -> int:
        if failing[:1] == ["write"]:
            failing[0] = "full"
            return write(fd, bytes(data)[:20])
        if failing[:1] == ["full"]:
            failing.pop(0)
            raise OSError(errno.ENOSPC, "full")
        return write(fd, data)

    def stuck(fd: int, size: int) -> None:
        if failing:
            raise OSError(errno.EIO, failing.pop(0))
        ftruncate(fd, size)

    said: list[str] = []
    with AuditLog(str(tmp_path), said.append) as log:
        log.begin({})
        monkeypatch.setattr(os, "write", half)
        monkeypatch.setattr(os, "ftruncate", stuck)
        for number in range(3):
            log.append(FIELDS, (f"host-{number}", 200, 1.5))
            log.flush()
            assert audit(tmp_path)[1][log.session].state == verify.RUNNING
    assert not failing
    assert "is not whole" in said[0]
    ((_, found),) = audit(tmp_path)[1].items()
    assert (found.state, found.records) == (verify.WHOLE, 4)
    assert '"lost":2' in Path(log.path).read_text()


def test_a_session_waits_for_the_ledger_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_session(tmp_path)
    monkeypatch.setattr(ledger, "_PATIENCE_S", 0.2)
    fd = os.open(tmp_path / "audit" / "ledger", os.O_RDONLY)
    ledger.flock(fd, ledger.LOCK_EX)
    began = time.monotonic()
    with pytest.raises(Exception, match="cannot write the audit ledger"), AuditLog(str(tmp_path), print) as log:
        log.begin({})
    assert 0.1 < time.monotonic() - began < 2
    os.close(fd)


def test_real_runs_that_are_killed_while_they_write_are_no_tampering(site: Site) -> None:
    """With an agent that sends as fast as it can, so that nono is nearly always about to write."""
    flags = ["--profile", str(site.profile(site.store_in_files())), "--allow-cwd"]
    for number in range(4):
        with site.start([*flags, "--name", f"killed-{number}"], site.agent("ask", "1000000", "4")) as process:
            (log,) = _wait_for(lambda name=f"killed-{number}": list((site.state / "audit").glob(f"*{name}.jsonl")))  # type: ignore[misc]
            _wait_for(lambda log=log: b'"exchange"' in log.read_bytes())  # type: ignore[misc]
            time.sleep(0.02 * number)
            process.kill()
        done = site.run([*flags, "--name", f"after-{number}"], ["true"])
        assert done.returncode == 0, done.stderr
    checked = site.nono(["audit", "verify", "--json"])
    told = json.loads(checked.stdout)
    assert (checked.returncode, told["faults"]) == (0, [])
    states = {each["session"].split("-", 2)[2].split("-")[0]: each["state"] for each in told["sessions"]}
    assert states == {"killed": verify.UNENDED, "after": verify.WHOLE}


def _wait_for(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + 30
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


def test_a_signature_has_its_name_on_the_disk_before_the_ledger_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what a power failure took would be missed, as if somebody had."""
    done: list[object] = []
    rename, enter, fdatasync = os.rename, ledger.enter, os.fdatasync

    def entered(path: str, members: str) -> int:
        done.append("signed" if '"signed"' in members else "")
        return enter(path, members)

    monkeypatch.setattr(os, "rename", lambda *names: (done.append("renamed"), rename(*names))[1])
    monkeypatch.setattr(ledger, "enter", entered)
    monkeypatch.setattr(os, "fdatasync", lambda fd: (done.append(os.fstat(fd).st_ino), fdatasync(fd))[1])
    with AuditLog(str(tmp_path), print, signer=Signer("f" * 64, lambda *_: b"signed")) as log:
        log.begin({"argv": ["true"]})
    directory = (tmp_path / "audit").stat().st_ino
    assert done[done.index("renamed") : done.index("signed")] == ["renamed", directory]
