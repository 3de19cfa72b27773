"""Find what was changed in audit logs and in their ledger, and say which line of which file.

A file whose every record follows from the one before it is good, and nothing more is to be said. Of one that is not,
the whole is looked at anew, to say what happened to it: records that are *changed*, that are *missing* (by their
numbers), *out of place* or *repeated*, half a record at the end. Whatever does not follow is said, also where several
things were done at once and the words for it are then not the best.

What a chain cannot tell, and what the ledger tells instead: whether records are missing at the end of a session that
has ended, and whether a whole log is. What neither tells: the tail of a session that was killed before its end, and all
of it, if somebody with the user's own rights wrote everything anew. Against that helps the ledger's head, if a copy is
kept elsewhere (`Ledger.head`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from nono.audit import chain
from nono.audit.chain import Link
from nono.audit.read import LEDGER, is_open, names_of, object_of, session_of
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What is said of a session.
WHOLE, RUNNING, UNENDED, UNENTERED, FAULTY, VANISHED, UNCHAINED = (
    "whole", "running", "unended", "unentered", "faulty", "vanished", "unchained",
)  # fmt: skip
# Fault.what
CHANGED, MISSING, MOVED, REPEATED, TORN = "changed", "missing", "out of place", "repeated", "torn"
TRUNCATED, UNLISTED, RENAMED, HEADLESS, GONE = "truncated", "not in the ledger", "renamed", "no start", "vanished"
_MAX_FAULTS = 1000


class Fault(Record):
    """One thing that is wrong. line: from 1, 0 for the file as a whole. what: one of the words above."""

    file: str
    line: int
    what: str
    detail: str


class Verified(Record):
    """What a chain comes to. records, last: the number and the hash of the last one that is as it was written.

    first: the first record's hash, "" for none. kinds: of the first and of the last record.
    """

    records: int
    first: str
    last: str
    faults: tuple[Fault, ...]
    opening: Mapping[str, Any]
    closing: Mapping[str, Any]
    is_chained: bool


class Session(Record):
    """What is known of one session. state: WHOLE … UNCHAINED."""

    session: str
    state: str
    records: int
    faults: tuple[Fault, ...]


class Ledger(Record):
    """What the ledger comes to. head: its last hash, which tells of all before it. hashes: of all its records."""

    records: int
    head: str
    faults: tuple[Fault, ...]
    starts: Mapping[str, Mapping[str, Any]]
    ends: Mapping[str, Mapping[str, Any]]
    hashes: frozenset[bytes]


def chain_of(name: str, data: bytes) -> Verified:
    """Verify one file, `data` all of it."""
    return _sound(data) or _unsound(name, data)


def _sound(data: bytes) -> Verified | None:
    """Return what a file comes to of which every record follows from the one before it; None for any other.

    Nothing is kept of a line: a session may have a million of them.
    """
    previous, number, at = chain.NOTHING, 0, 0
    first = last = None
    opening = b""
    while at < len(data):
        end = data.find(b"\n", at)
        line = data[at:end]
        last = chain.parse(line) if end >= 0 else None
        number += 1
        if last is None or last.number != number or not chain.follows(last, previous):
            return None
        if first is None:
            first, opening = last, line
        previous, at = last.hash, end + 1
    if first is None or last is None:
        return None
    closing = object_of(data[data.rfind(b"\n", 0, -1) + 1 :])
    return Verified(number, first.hash.decode(), last.hash.decode(), (), object_of(opening), closing, True)


def _unsound(name: str, data: bytes) -> Verified:
    lines = data.split(b"\n")
    tail = lines.pop()
    links = [chain.parse(line) for line in lines]
    if not any(links) and not chain.parse(tail):
        return Verified(0, "", "", (), {}, {}, not data)
    is_only_torn = not lines or (tail and _sound(data[: -len(tail)]) is not None)
    faults = [] if is_only_torn else _faults(name, lines, links)
    if tail:
        faults.append(Fault(name, len(lines) + 1, TORN, "half a record, without the end of its line"))
    whole = [(link, line) for link, line in zip(links, lines, strict=True) if link is not None]
    if not whole:
        return Verified(0, "", "", tuple(faults), {}, {}, True)
    (first, opening), (last, closing) = whole[0], whole[-1]
    return Verified(
        last.number,
        first.hash.decode(),
        last.hash.decode(),
        tuple(faults),
        object_of(opening),
        object_of(closing),
        True,
    )


def _faults(name: str, lines: Sequence[bytes], links: Sequence[Link | None]) -> list[Fault]:
    """Say what is wrong in a chain of which something is."""
    numbers: dict[int, list[Link]] = {}
    for link in links:
        if link is not None:
            numbers.setdefault(link.number, []).append(link)
    faults: list[Fault] = []
    seen: dict[bytes, int] = {}  # lines that stood before
    highest = 0  # of the records that are as they were written
    before: tuple[bytes, ...] = (chain.NOTHING,)  # the hashes that the next record may follow from
    for at, (line, link) in enumerate(zip(lines, links, strict=True), 1):
        if len(faults) >= _MAX_FAULTS:
            break
        if link is None:
            faults.append(Fault(name, at, CHANGED, "this line is no record any more"))
            continue
        number, expected = link.number, highest + 1
        if line in seen:
            faults.append(Fault(name, at, REPEATED, f"record {number} is also in line {seen[line]}"))
            continue
        seen[line] = at
        predecessors = [chain.NOTHING] if number == 1 else _hashes(numbers.get(number - 1, ()))
        if number == expected and any(chain.follows(link, each) for each in (*before, *predecessors)):
            highest = number
        elif any(chain.follows(link, each) for each in predecessors):  # as it was written, but not here
            if number > expected and not _are_all_there(numbers, expected, number):
                faults.append(_missing(name, at, expected, number))
            else:
                faults.append(Fault(name, at, MOVED, f"record {number} stands where record {expected} was"))
            highest = max(highest, number)
        elif number > expected and number - 1 not in numbers and _continues(link, links[at : at + 1]):
            faults.append(_missing(name, at, expected, number))
            highest = number
        else:
            faults.append(Fault(name, at, CHANGED, f"record {expected} is not as it was written"))
            highest = expected
        # The next one follows from the hash that is written here or, if only that was changed, from the right one.
        before = (link.hash, *(chain.digest(each, link.body) for each in before))[:3]
    if not faults:
        faults.append(Fault(name, len(lines), CHANGED, "the chain is broken"))
    return faults


def _hashes(links: Iterable[Link]) -> list[bytes]:
    return [link.hash for link in links]


def _are_all_there(numbers: Mapping[int, object], first: int, end: int) -> bool:
    return end - first < len(numbers) + 1 and all(number in numbers for number in range(first, end))


def _continues(link: Link, following: Sequence[Link | None]) -> bool:
    """Whether the record behind `link` follows from it, or there is none: then its number can be believed."""
    after = following[0] if following else None
    return after is None or (after.number == link.number + 1 and chain.follows(after, link.hash))


def _missing(name: str, at: int, first: int, end: int) -> Fault:
    what = f"record {first} is" if end - first == 1 else f"records {first} to {end - 1} are"
    return Fault(name, at, MISSING, f"{what} missing before this line")


def ledger_of(data: bytes) -> Ledger:
    """Verify the ledger, and return what it says."""
    verified = chain_of(LEDGER, data)
    faults = list(verified.faults)
    if not verified.is_chained:
        faults.append(Fault(LEDGER, 1, CHANGED, "no line of it is a record"))
    starts: dict[str, Mapping[str, Any]] = {}
    ends: dict[str, Mapping[str, Any]] = {}
    hashes = set()
    for line in data.split(b"\n"):
        link = chain.parse(line)
        if link is None:
            continue
        hashes.add(link.hash)
        entry = object_of(line)
        of = {"start": starts, "end": ends}.get(str(entry.get("kind")))
        if of is not None:
            of[str(entry.get("session"))] = entry
    return Ledger(verified.records, verified.last, tuple(faults), starts, ends, frozenset(hashes))


def session(name: str, data: bytes, ledger: Ledger, *, runs: bool) -> Session:
    """Verify one log, by itself and against the ledger. name: of its file. runs: its nono has it open."""
    told = session_of(name)
    verified = chain_of(name, data)
    start, end = ledger.starts.get(told), ledger.ends.get(told)
    faults = list(verified.faults)
    is_half_begun = not data or (data.startswith(b'{"n":1,') and b"\n" not in data)
    if is_half_begun and start is None:  # nono was killed before it had written the start; no agent had started
        return Session(told, RUNNING if runs else UNENDED, 0, ())
    if not data:
        faults.append(Fault(name, 0, TRUNCATED, "the log is empty"))
    elif not verified.is_chained:
        if start is None:
            return Session(told, UNCHAINED, data.count(b"\n"), ())
        faults.append(Fault(name, 1, CHANGED, "no line of it is a record"))
    elif verified.opening.get("kind") != "start" and not _reported(faults, 1):
        faults.append(Fault(name, 1, HEADLESS, "its first record does not say how the session began"))
    elif (written := str(verified.opening.get("session", told))) != told:
        faults.append(Fault(name, 1, RENAMED, f"this is the log of session {written}"))
    if start is None:
        if not runs and not _is_only_begun(verified):
            faults.append(Fault(name, 0, UNLISTED, "the ledger does not know of this session"))
    elif verified.first and start.get("first") != verified.first and not _reported(faults, 1):
        faults.append(Fault(name, 1, CHANGED, "the ledger has another first record"))
    has_exit = verified.closing.get("kind") == "exit"
    if data and end is not None and not (end.get("records") == verified.records and end.get("last") == verified.last):
        faults += _against_end(name, data, verified, end, faults)
    if faults:
        return Session(told, FAULTY, verified.records, tuple(faults))
    if end is not None:
        return Session(told, WHOLE, verified.records, ())
    return Session(told, RUNNING if runs else UNENTERED if has_exit else UNENDED, verified.records, ())


def _is_only_begun(verified: Verified) -> bool:
    """Whether there is a start and nothing else: nono was killed before it was in the ledger; no agent had started."""
    return verified.records == 1 and not verified.faults and verified.opening.get("kind") == "start"


def _against_end(
    name: str, data: bytes, verified: Verified, end: Mapping[str, Any], faults: Sequence[Fault]
) -> list[Fault]:
    """Say how a log differs from what the ledger says of its end."""
    records, lines = end.get("records"), data.count(b"\n") + 1
    if isinstance(records, int) and records > verified.records:
        text = f"the session ended with record {records}, the log with record {verified.records}"
        return [Fault(name, lines, TRUNCATED, text)]
    if isinstance(records, int) and records < verified.records:
        return [Fault(name, records + 1, CHANGED, f"the session ended with record {records}; this was added")]
    if any(fault.line >= lines - 1 for fault in faults):
        return []
    return [Fault(name, lines - 1, CHANGED, "the ledger has another last record")]


def _reported(faults: Iterable[Fault], line: int) -> bool:
    return any(fault.line == line for fault in faults)


def ledger_in(directory: str) -> Ledger:
    """Verify the ledger of an audit directory. Raises OSError."""
    return ledger_of(_read(os.path.join(directory, LEDGER)))


def everything(directory: str) -> tuple[Ledger, list[Session]]:
    """Verify all of an audit directory. Raises OSError."""
    names = names_of(directory)  # before the ledger: a session that begins meanwhile is in it by then
    ledger = ledger_in(directory)
    sessions = [one(directory, name, ledger) for name in names]
    known = {each.session for each in sessions}
    for each in ledger.starts:
        if each not in known and not os.path.lexists(os.path.join(directory, f"{each}.jsonl")):
            fault = Fault(f"{each}.jsonl", 0, GONE, "the ledger knows of this session, and its log is gone")
            sessions.append(Session(each, VANISHED, 0, (fault,)))
    for each in ledger.ends:
        if each not in ledger.starts and each not in known:
            fault = Fault(LEDGER, 0, MISSING, f"the end of session {each} is there, its start is not")
            sessions.append(Session(each, VANISHED, 0, (fault,)))
    if not ledger.records and any(each.state == FAULTY for each in sessions):
        ledger = ledger._replace(faults=(*ledger.faults, Fault(LEDGER, 0, GONE, "there is no ledger")))
    return ledger, sorted(sessions)


def one(directory: str, name: str, ledger: Ledger) -> Session:
    """Verify the log `name`. Raises OSError."""
    path = os.path.join(directory, name)
    runs = is_open(path)  # before it is read: what ends meanwhile only has more records
    data = _read(path)
    found = session(name, data, ledger, runs=runs)
    is_unknown = any(fault.what == UNLISTED for fault in found.faults)
    if is_unknown or found.state == UNENTERED:  # it may have begun or ended since the ledger was read
        found = session(name, data, ledger_in(directory), runs=runs)
    if runs and found.faults and all(fault.what == TORN for fault in found.faults):
        return Session(found.session, RUNNING, found.records, ())  # it is being written
    return found


def _read(path: str) -> bytes:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        return b""
    with open(fd, "rb") as file:
        return file.read()
