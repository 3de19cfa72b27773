"""Whatever is done to a log or to the ledger is found, and it is said where."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nono.audit import chain, cleanup, examine, read, verify
from nono.audit.examine import CHANGED, MISSING, MOVED, REPEATED, TORN, Verified
from nono.audit.log import AuditLog
from nono.audit.verify import (
    FAULTY,
    GONE,
    HEADLESS,
    NO_FILE,
    RENAMED,
    RUNNING,
    TRUNCATED,
    UNENDED,
    UNENTERED,
    UNLISTED,
    VANISHED,
    WHOLE,
)
from nono.errors import StoreError

FIELDS = ("host", "status", "time")


def write_session(state: Path, records: int = 4, name: str = "") -> Path:
    """Write the log of a session with a start, an exit and so many exchanges between them."""
    with AuditLog(str(state), print, name=name) as log:
        log.begin({"argv": ["true"]})
        for number in range(records):
            log.append(FIELDS, (f"host-{number}", 200, number / 7))
        log.ended(0)
    return Path(log.path)


def audit(state: Path) -> tuple[verify.Ledger, dict[str, verify.Session]]:
    ledger, sessions = verify.everything(str(state / "audit"))
    return ledger, {each.session: each for each in sessions}


def chain_of(data: bytes) -> Verified:
    return examine.chain_of("x", io.BytesIO(data))


def ledger_of(data: bytes) -> verify.Ledger:
    return verify.ledger_of(io.BytesIO(data))


def faults_of(data: bytes) -> list[tuple[int, str]]:
    return [(fault.line, fault.what) for fault in chain_of(data).faults]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_session(tmp_path_factory.mktemp("state")).read_bytes()


def lines_of(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def test_a_whole_log_has_no_fault(tmp_path: Path) -> None:
    log = write_session(tmp_path)
    ledger, sessions = audit(tmp_path)
    assert (ledger.records, ledger.faults) == (2, ())
    assert sessions[log.stem] == verify.Session(log.stem, WHOLE, 6, ())


def test_every_changed_byte_is_found_in_its_line(log: bytes) -> None:
    numbers = itertools.accumulate((c == 0x0A for c in log), initial=1)
    for at, (byte, line) in enumerate(zip(log, numbers, strict=False)):
        for new in {byte ^ 1, byte ^ 0x20, byte ^ 0x80, 0x0A, 0x30} - {byte}:
            found = faults_of(log[:at] + bytes((new,)) + log[at + 1 :])
            assert found, (at, new)
            assert found[0][0] in (line, line + 1), (at, new, found)


@pytest.fixture(params=[1, 2, 3])
def small_batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A chain of which only so many lines are looked at together."""
    monkeypatch.setattr(examine, "_BATCH", request.param)
    return int(request.param)


def test_in_batches_every_change_is_found_as_well(log: bytes, small_batches: int) -> None:
    lines = lines_of(log)
    assert faults_of(log) == []
    for order in itertools.permutations(range(len(lines))):
        found = faults_of(b"".join(lines[at] for at in order))
        wrong = next((at for at, number in enumerate(order) if at != number), None)
        assert bool(found) == (wrong is not None), order
        assert wrong is None or min(line for line, _ in found) == wrong + 1, (order, found)
    for at in range(len(lines)):
        changed = lines[at].replace(b"host", b"hosd").replace(b"kind", b"kint")
        assert faults_of(b"".join([*lines[:at], changed, *lines[at + 1 :]])) == [(at + 1, CHANGED)]
        without = faults_of(b"".join([*lines[:at], *lines[at + 1 :]]))
        assert without == ([(at + 1, MISSING)] if at < len(lines) - 1 else [])
        twice = faults_of(b"".join([*lines[: at + 1], *lines[at:]]))
        assert [line for line, _ in twice][:1] == [at + 2]
    for torn in (log[:-9], log + b'{"n":7'):
        assert [what for _, what in faults_of(torn)] == [TORN]


def test_half_records_in_any_batch_are_told_by_the_next(tmp_path: Path, small_batches: int) -> None:
    path = tmp_path / "audit" / "ledger"
    for number in range(5):
        write_session(tmp_path, name=f"s{number}")
        path.write_bytes(path.read_bytes() + b'{"n":%d,"kind"' % (2 * number + 3))
    found, _ = audit(tmp_path)
    assert (found.faults, [fault.line for fault in found.remarks]) == ((), [3, 6, 9, 12, 15])


def test_a_line_without_end_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_session(tmp_path)
    monkeypatch.setattr(read, "LONGEST", 4096)
    monkeypatch.setattr(examine, "LONGEST", 4096)
    data = log.read_bytes()
    log.write_bytes(data + b'{"n":7,"kind":"' + b"x" * 100_000)
    assert audit(tmp_path)[1][log.stem].state == FAULTY
    assert faults_of(log.read_bytes())[0][0] == 7


def test_every_removed_or_added_byte_is_found(log: bytes) -> None:
    for at in range(len(log) - 1):
        assert faults_of(log[:at] + log[at + 1 :]), at
        for new in (b"0", b" ", b"\n", log[at : at + 1]):
            assert faults_of(log[:at] + new + log[at:]), (at, new)


def test_every_other_order_of_lines_is_found(log: bytes) -> None:
    lines = lines_of(log)
    for order in itertools.permutations(range(len(lines))):
        found = faults_of(b"".join(lines[at] for at in order))
        assert bool(found) == (order != tuple(range(len(lines)))), order
        wrong = next((at for at, number in enumerate(order) if at != number), 0) + 1
        assert not found or min(line for line, _ in found) == wrong, (order, found)


def test_two_lines_that_changed_places_are_out_of_place(log: bytes) -> None:
    one, two, three, four, *rest = lines_of(log)
    assert faults_of(b"".join([one, three, two, four, *rest])) == [(2, MOVED), (3, MOVED)]


def test_missing_records_are_numbered(log: bytes) -> None:
    lines = lines_of(log)
    (fault,) = chain_of(b"".join(lines[:1] + lines[3:])).faults
    assert (fault.line, fault.what, fault.detail) == (2, MISSING, "records 2 to 3 are missing before this line")
    (fault,) = chain_of(b"".join(lines[1:])).faults
    assert (fault.line, fault.what, fault.detail) == (1, MISSING, "record 1 is missing before this line")


def test_a_changed_record_accuses_no_other(log: bytes) -> None:
    assert faults_of(log.replace(b"host-1", b"host-9")) == [(3, CHANGED)]
    hash_of_three = lines_of(log)[2][-20:-4]
    assert faults_of(log.replace(hash_of_three, b"0" * 16)) == [(3, CHANGED)]


def test_a_repeated_line_and_half_a_line_are_said(log: bytes) -> None:
    lines = lines_of(log)
    assert faults_of(b"".join([*lines[:3], lines[1], *lines[3:]])) == [(4, REPEATED)]
    assert faults_of(log[:-9]) == [(6, TORN)]
    assert faults_of(log + b'{"n":7') == [(7, TORN)]
    assert faults_of(b"".join([*lines[:2], b"\x00\xffnonsense\n", *lines[2:]])) == [(3, CHANGED)]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_mixture_of_lines_is_found(log: bytes, data: st.DataObject) -> None:
    lines = lines_of(log)
    piece = st.sampled_from([*lines, b"\n", b"{}\n", b'{"n":3}\n', lines[2][5:]])
    mixed = b"".join(data.draw(st.lists(piece, max_size=9)))
    is_prefix = any(mixed == b"".join(lines[:count]) for count in range(len(lines) + 1))
    assert bool(faults_of(mixed)) == (not is_prefix) or not chain_of(mixed).is_chained


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_judged(data: bytes) -> None:
    chain_of(data)
    ledger_of(data)


def test_what_the_chain_cannot_tell_the_ledger_does(tmp_path: Path) -> None:
    cut, gone, emptied, whole = (write_session(tmp_path, name=name) for name in ("cut", "gone", "emptied", "whole"))
    cut.write_bytes(b"".join(lines_of(cut.read_bytes())[:3]))
    gone.unlink()
    emptied.write_bytes(b"")
    _, sessions = audit(tmp_path)
    assert [(f.line, f.what) for f in sessions[cut.stem].faults] == [(4, TRUNCATED)]
    assert "ended with record 6, the log with record 3" in sessions[cut.stem].faults[0].detail
    assert (sessions[gone.stem].state, sessions[gone.stem].faults[0].what) == (VANISHED, GONE)
    assert sessions[emptied.stem].faults[0].what == TRUNCATED
    assert sessions[whole.stem].state == WHOLE


def test_a_log_that_was_sealed_anew_is_found_by_the_ledger(tmp_path: Path) -> None:
    """Whoever can write the log can make another good one; the ledger says that it is not the one that was written."""
    log, other = write_session(tmp_path, name="a"), write_session(tmp_path, records=5, name="b")
    texts = [line.partition(",")[2].rpartition(',"hash"')[0] for line in log.read_text().splitlines()]
    for at, expected in ((0, {(1, CHANGED), (6, CHANGED)}), (2, {(6, CHANGED)})):
        forged = [
            text.replace("true", "false").replace("host-1", "host-9") if at == i else text
            for i, text in enumerate(texts)
        ]
        log.write_bytes(chain.seal(0, chain.NOTHING, forged)[0])
        assert chain_of(log.read_bytes()).faults == ()
        assert {(f.line, f.what) for f in audit(tmp_path)[1][log.stem].faults} == expected
    log.write_bytes(other.read_bytes())
    assert (1, RENAMED) in {(f.line, f.what) for f in audit(tmp_path)[1][log.stem].faults}


def test_records_added_behind_the_end_are_found(tmp_path: Path) -> None:
    log = write_session(tmp_path)
    data = log.read_bytes()
    last = chain.parse(lines_of(data)[-1][:-1])
    assert last is not None
    log.write_bytes(data + chain.seal(last.number, last.hash, ['"kind":"exchange","host":"forged"'])[0])
    assert [(f.line, f.what) for f in audit(tmp_path)[1][log.stem].faults] == [(7, CHANGED)]


def test_a_planted_log_and_one_without_its_start_are_found(tmp_path: Path) -> None:
    write_session(tmp_path)
    write_session(tmp_path / "elsewhere", name="planted")
    (planted,) = (tmp_path / "elsewhere" / "audit").glob("*.jsonl")
    planted.rename(tmp_path / "audit" / planted.name)
    assert [f.what for f in audit(tmp_path)[1][planted.stem].faults] == [UNLISTED]
    with AuditLog(str(tmp_path), print, name="headless") as log:
        log.append(FIELDS, ("x", 1, 1.0))
    assert [f.what for f in audit(tmp_path)[1][log.session].faults] == [HEADLESS, UNLISTED]


def test_any_change_of_the_ledger_is_found(tmp_path: Path) -> None:
    for name in "abc":
        write_session(tmp_path, name=name)
    ledger = tmp_path / "audit" / "ledger"
    data = ledger.read_bytes()
    numbers = itertools.accumulate((c == 0x0A for c in data), initial=1)
    for at, (byte, line) in enumerate(zip(data, numbers, strict=False)):
        found = ledger_of(data[:at] + bytes((byte ^ 1,)) + data[at + 1 :]).faults
        assert found, at
        assert found[0].line in (line, line + 1), (at, found)
    lines = lines_of(data)
    for order in itertools.permutations(range(len(lines))):
        if list(order) != sorted(order):
            assert ledger_of(b"".join(lines[at] for at in order)).faults, order


def test_a_ledger_that_was_cut_off_or_removed_is_found(tmp_path: Path) -> None:
    first, second = write_session(tmp_path, name="a"), write_session(tmp_path, name="b")
    path = tmp_path / "audit" / "ledger"
    path.write_bytes(b"".join(lines_of(path.read_bytes())[:2]))
    _, sessions = audit(tmp_path)
    assert (sessions[first.stem].state, sessions[second.stem].faults[0].what) == (WHOLE, UNLISTED)
    path.write_bytes(lines_of(path.read_bytes())[0])
    assert audit(tmp_path)[1][first.stem].state == UNENTERED
    path.unlink()
    ledger, sessions = audit(tmp_path)
    assert [f.what for f in ledger.faults] == [GONE]
    assert {each.state for each in sessions.values()} == {FAULTY}


def test_a_session_that_was_killed_is_said_to_have_no_end(tmp_path: Path) -> None:
    """Its last records may be missing, and nobody can tell."""
    if (pid := os.fork()) == 0:
        log = AuditLog(str(tmp_path), print, name="killed")
        log.begin({})
        log.append(FIELDS, ("x", 1, 1.0))
        log.flush()
        os._exit(9)
    os.waitpid(pid, 0)
    ((_, killed),) = audit(tmp_path)[1].items()
    assert (killed.state, killed.records, killed.faults) == (UNENDED, 2, ())


def test_a_session_that_was_killed_before_the_ledger_knew_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No agent had started; with one record more, one had."""
    write_session(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "_enter", lambda *_: os.open(os.devnull, os.O_RDONLY))
        log = AuditLog(str(tmp_path), print, name="killed")
        log.begin({})
        os.close(log._fd)
        assert audit(tmp_path)[1][log.session] == verify.Session(log.session, UNENDED, 1, ())
        more = write_session(tmp_path, name="planted")
        half = Path(log.path).with_name("20261122T060000Z-1.jsonl")
        half.write_bytes(Path(log.path).read_bytes()[:50])
    assert audit(tmp_path)[1][half.stem] == verify.Session(half.stem, UNENDED, 0, ())
    assert [fault.what for fault in audit(tmp_path)[1][more.stem].faults] == [UNLISTED]


def test_a_running_session_is_said_to_run(tmp_path: Path) -> None:
    with AuditLog(str(tmp_path), print) as log:
        log.begin({})
        assert audit(tmp_path)[1][log.session].state == RUNNING
    assert audit(tmp_path)[1][log.session].state == WHOLE


def test_a_session_that_begins_and_ends_while_others_are_verified_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log was there when the names were listed, but not in the ledger that was read then."""
    log = write_session(tmp_path)
    read = verify.ledger_in
    ledgers = iter([ledger_of(b"")])
    monkeypatch.setattr(verify, "ledger_in", lambda directory: next(ledgers, None) or read(directory))
    assert audit(tmp_path)[1][log.stem].state == WHOLE


def test_a_log_without_hashes_is_not_nonos(tmp_path: Path) -> None:
    write_session(tmp_path)
    old = tmp_path / "audit" / "20250101T000000Z-1.jsonl"
    old.write_text('{"time":1.5,"route":"openai","status":200}\n' * 3)
    ledger, sessions = audit(tmp_path)
    assert (sessions[old.stem].state, ledger.faults) == (FAULTY, ())
    assert [(f.line, f.what) for f in sessions[old.stem].faults] == [(1, CHANGED), (0, UNLISTED)]


@pytest.mark.parametrize("plant", [lambda path: path.symlink_to("/nonexistent"), Path.mkdir, os.mkfifo])
def test_what_is_called_like_a_log_and_is_none_hides_no_other(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    whole, replaced = write_session(tmp_path, name="a"), write_session(tmp_path, name="b")
    replaced.unlink()
    planted = whole.with_name("20260101T000000Z-1-x.jsonl")
    for path in (replaced, planted):
        plant(path)
    ledger, sessions = audit(tmp_path)
    assert (ledger.faults, sessions[whole.stem].state) == ((), WHOLE)
    for path in (replaced, planted):
        assert sessions[path.stem].state == FAULTY
        assert [(fault.file, fault.what) for fault in sessions[path.stem].faults] == [(path.name, NO_FILE)]
        assert read.brief(str(path.parent), path.name).started == 0
        with pytest.raises(StoreError):
            cleanup.remove(str(path.parent), sessions[path.stem])
    assert verify.ledger_in(str(whole.parent)) == ledger, "nothing says that they were removed"


def test_half_a_line_in_the_ledger_stays_and_the_chain_goes_on(tmp_path: Path) -> None:
    """As a machine leaves it that lost power."""
    write_session(tmp_path, name="a")
    path = tmp_path / "audit" / "ledger"
    path.write_bytes(path.read_bytes() + b'{"n":3,"kind":"sta')
    later = write_session(tmp_path, name="b")
    ledger, sessions = audit(tmp_path)
    assert ([(f.line, f.what) for f in ledger.remarks], ledger.faults) == ([(3, TORN)], ())
    assert sessions[later.stem].state == WHOLE
    data = path.read_bytes()
    for changed in (b'{"n":3,"kind":"stb', b'{"n":3,"kind":"st', b"", b'{"n":3,"kind":"sta\n{"n":3,"kind":"sta'):
        found = ledger_of(data.replace(b'{"n":3,"kind":"sta\n', changed + b"\n"))
        assert [f.line for f in found.faults][:1] == [3], "what the next record says of it is sealed, too"


def test_sessions_that_run_at_once_share_the_ledger(tmp_path: Path) -> None:
    children = []
    for number in range(8):
        if (pid := os.fork()) == 0:
            for again in range(5):
                write_session(tmp_path, records=random.Random(number).randrange(4), name=f"{number}-{again}")
            os._exit(0)
        children.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
    ledger, sessions = audit(tmp_path)
    assert (ledger.records, ledger.faults) == (80, ())
    assert [each.state for each in sessions.values()] == [WHOLE] * 40


def test_records_are_json_for_anybody(log: bytes) -> None:
    """And anybody can verify them: what docs/audit.md says, done here anew."""
    import hashlib

    before = "0" * 64
    for line in log.decode().splitlines():
        body, _, rest = line.rpartition(',"hash":"')
        before = hashlib.sha256((before + body).encode()).hexdigest()
        assert rest == f'{before}"}}'
        assert json.loads(line)["hash"] == before


def test_a_large_file_that_is_no_log_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (read, examine):
        monkeypatch.setattr(module, "LONGEST", 1 << 20)
    with (tmp_path / "holes").open("w+b") as file:
        file.truncate(64 << 20)
        tracemalloc.start()
        try:
            assert not examine.chain_of("x", file).is_chained
            assert tracemalloc.get_traced_memory()[1] < 32 << 20
        finally:
            tracemalloc.stop()


def test_a_large_log_is_not_kept_in_pieces(tmp_path: Path) -> None:
    data = write_session(tmp_path, 5000).read_bytes()
    tracemalloc.start()
    try:
        assert chain_of(data).records == 5002
        assert tracemalloc.get_traced_memory()[1] < len(data) / 10
    finally:
        tracemalloc.stop()
