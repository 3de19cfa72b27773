"""Find what was changed in audit logs and in their ledger, and say which line of which file.

Each file is a chain (examine.py). What a chain cannot tell, and what the ledger tells instead: whether records are
missing at the end of a session that has ended, and whether a whole log is; whether the user removed it himself; and
whether a log is nono's at all. What neither tells: the tail of a session that was killed before its end, and all of it,
if somebody with the user's own rights wrote everything anew. Against that helps the ledger's head, if a copy is kept
elsewhere (`Ledger.head`), or a signature by a key that he cannot use.

A session that was killed, also in the middle of a write, has no fault: it is said that it has no end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO

from nono.audit import chain
from nono.audit.examine import CHANGED, MISSING, TORN, Fault, Verified, chain_of
from nono.audit.read import (
    LEDGER,
    SUFFIX,
    NoFileError,
    is_open,
    lines_of,
    names_of,
    number,
    object_of,
    opened,
    session_of,
    text,
)
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

# What is said of a session.
WHOLE, RUNNING, UNENDED, UNENTERED, FAULTY, VANISHED, REMOVED = (
    "whole", "running", "unended", "unentered", "faulty", "vanished", "removed",
)  # fmt: skip
# Fault.what, besides examine.py's
TRUNCATED, UNLISTED, RENAMED, HEADLESS, GONE = "truncated", "not in the ledger", "renamed", "no start", "vanished"
NO_FILE = "no file"

_REMOVED_FAULTY = "it was not as it was written when it was removed"
_UNKNOWN = "the ledger does not know of this session: nono did not write it here, or power was lost in that second"


class Session(Record):
    """What is known of one session. state: WHOLE … REMOVED. remarks: sentences. removed: a time.

    signed_by: the fingerprint of the key that was to sign it, as its start says. signature: the SHA-256 of what that
    key made, as the ledger says; "" for none.
    """

    session: str
    state: str
    records: int
    faults: tuple[Fault, ...]
    remarks: tuple[str, ...] = ()
    removed: float = 0
    signed_by: str = ""
    signature: str = ""


class Ledger(Record):
    """What the ledger comes to. head: its last hash, which tells of all before it. hashes: of all its records.

    starts, ends, removed, signed: its entries, by session. remarks: halves of entries, which are no faults.
    """

    records: int
    head: str
    faults: tuple[Fault, ...]
    starts: Mapping[str, Mapping[str, Any]]
    ends: Mapping[str, Mapping[str, Any]]
    hashes: frozenset[bytes]
    removed: Mapping[str, Mapping[str, Any]]
    signed: Mapping[str, Mapping[str, Any]]
    remarks: tuple[Fault, ...]


def ledger_of(file: BinaryIO) -> Ledger:
    """Verify the ledger, and return what it says."""
    verified = chain_of(LEDGER, file)
    faults = [fault for fault in verified.faults if fault.what != TORN or len(verified.faults) > 1]
    remarks = (*verified.remarks, *(fault for fault in verified.faults if fault not in faults))
    if not verified.is_chained and not verified.is_empty and not remarks:
        faults.append(Fault(LEDGER, 1, CHANGED, "no line of it is a record"))
    entries: dict[str, dict[str, Mapping[str, Any]]] = {"start": {}, "end": {}, "removed": {}, "signed": {}}
    hashes = set()
    file.seek(0)
    for line in lines_of(file):
        link = chain.parse(line.removesuffix(b"\n"))
        if link is None:
            continue
        hashes.add(link.hash)
        entry = object_of(line)
        of = entries.get(str(entry.get("kind")))
        if of is not None:
            of[str(entry.get("session"))] = entry
    return Ledger(
        verified.records, verified.last, tuple(faults), entries["start"], entries["end"], frozenset(hashes),
        entries["removed"], entries["signed"], remarks,
    )  # fmt: skip


def session(name: str, verified: Verified, ledger: Ledger, *, runs: bool) -> Session:
    """Judge one log, by itself and against the ledger. name: of its file. runs: its nono has it open."""
    told = session_of(name)
    start, end = ledger.starts.get(told), ledger.ends.get(told)
    faults = list(verified.faults)
    remarks: tuple[str, ...] = ()
    is_torn = len(faults) == 1 and faults[0].what == TORN
    if start is None and (verified.is_empty or (is_torn and not verified.records)):
        # nono was killed before it had written the start; no agent had started
        return Session(told, RUNNING if runs else UNENDED, 0, ())
    if is_torn and end is None and verified.records:  # as it was killed; the first record was there before the ledger's
        faults.clear()
        remarks = () if runs else (f"line {verified.lines} is half a record: the run was killed while it wrote",)
    if verified.is_empty:
        faults.append(Fault(name, 0, TRUNCATED, "the log is empty"))
    elif not verified.is_chained:
        faults = [Fault(name, 1, CHANGED, "no line of it is a record with a hash")]
    elif verified.records and verified.opening.get("kind") != "start" and not _reported(faults, 1):
        faults.append(Fault(name, 1, HEADLESS, "its first record does not say how the session began"))
    elif (written := str(verified.opening.get("session", told))) != told:
        faults.append(Fault(name, 1, RENAMED, f"this is the log of session {written}"))
    if start is None:
        if not runs and not _is_only_begun(verified):
            faults.append(Fault(name, 0, UNLISTED, _UNKNOWN))
    elif verified.first and start.get("first") != verified.first and not _reported(faults, 1):
        faults.append(Fault(name, 1, CHANGED, "the ledger has another first record"))
    signing = (text(verified.opening, "signed_by"), text(ledger.signed.get(told, {}), "signature"))
    has_exit = verified.closing.get("kind") == "exit"
    at_end = {"records": verified.records, "last": verified.last}
    if end is not None and not verified.is_empty and not at_end.items() <= end.items():
        faults += _against_end(name, verified, end, faults)
    if faults:
        return Session(told, FAULTY, verified.records, tuple(faults), (), 0, *signing)
    if end is not None:
        return Session(told, WHOLE, verified.records, (), (), 0, *signing)
    state = RUNNING if runs else UNENTERED if has_exit and not remarks else UNENDED
    return Session(told, state, verified.records, (), remarks, 0, *signing)


def _is_only_begun(verified: Verified) -> bool:
    """Whether there is a start and nothing else: nono was killed before it was in the ledger; no agent had started."""
    return verified.lines == verified.records == 1 and verified.opening.get("kind") == "start"


def _against_end(name: str, verified: Verified, end: Mapping[str, Any], faults: Sequence[Fault]) -> list[Fault]:
    """Say how a log differs from what the ledger says of its end."""
    records, lines = end.get("records"), verified.lines
    if isinstance(records, int) and records > verified.records:
        detail = f"the session ended with record {records}, the log with record {verified.records}"
        return [Fault(name, lines + (not _reported(faults, lines)), TRUNCATED, detail)]
    if isinstance(records, int) and records < verified.records:
        return [Fault(name, records + 1, CHANGED, f"the session ended with record {records}; this was added")]
    if any(fault.line >= lines for fault in faults):
        return []
    return [Fault(name, lines, CHANGED, "the ledger has another last record")]


def _reported(faults: Iterable[Fault], line: int) -> bool:
    return any(fault.line == line for fault in faults)


def ledger_in(directory: str) -> Ledger:
    """Verify the ledger of an audit directory. Raises OSError."""
    path = os.path.join(directory, LEDGER)
    with _opened(path) as file:
        found = ledger_of(file)
    if found.faults or found.remarks:  # it may have been written to in this instant
        with _opened(path) as file:
            found = ledger_of(file)
    return found


def everything(directory: str) -> tuple[Ledger, list[Session]]:
    """Verify all of an audit directory. Raises OSError."""
    names = names_of(directory)  # before the ledger: a session that begins meanwhile is in it by then
    ledger = ledger_in(directory)
    sessions = [one(directory, name, ledger) for name in names]
    known = {each.session for each in sessions}
    for each in {**ledger.removed, **ledger.starts, **ledger.ends}:
        if each in known or os.path.lexists(os.path.join(directory, each + SUFFIX)):
            continue
        if each in ledger.removed:
            entry = ledger.removed[each]
            remarks = (_REMOVED_FAULTY,) if entry.get("state") == FAULTY else ()
            sessions.append(Session(each, REMOVED, int(number(entry, "records")), (), remarks, number(entry, "time")))
        elif each in ledger.starts:
            fault = Fault(each + SUFFIX, 0, GONE, "the ledger knows of this session, and its log is gone")
            sessions.append(Session(each, VANISHED, 0, (fault,)))
        else:
            fault = Fault(LEDGER, 0, MISSING, f"the end of session {each} is there, its start is not")
            sessions.append(Session(each, VANISHED, 0, (fault,)))
    if not ledger.records and any(each.state == FAULTY for each in sessions):
        ledger = ledger._replace(faults=(*ledger.faults, Fault(LEDGER, 0, GONE, "there is no ledger")))
    return ledger, sorted(sessions)


def one(directory: str, name: str, ledger: Ledger) -> Session:
    """Verify the log `name`. Raises OSError."""
    path = os.path.join(directory, name)
    runs = is_open(path)  # before it is read: what ends meanwhile only has more records
    try:
        with _opened(path) as file:
            verified = chain_of(name, file)
    except NoFileError as error:
        return Session(session_of(name), FAULTY, 0, (Fault(name, 0, NO_FILE, str(error.strerror)),))
    found = session(name, verified, ledger, runs=runs)
    is_unknown = any(fault.what == UNLISTED for fault in found.faults)
    if is_unknown or found.state == UNENTERED:  # it may have begun or ended since the ledger was read
        found = session(name, verified, ledger_in(directory), runs=runs)
    return found


def _opened(path: str) -> BinaryIO:
    try:
        return opened(path)
    except FileNotFoundError:
        return BytesIO()
