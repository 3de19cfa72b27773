"""Walk along a chain (chain.py) and say where it breaks, with bounded memory: a log may have a million records.

A file whose every record follows from the one before it is good, and nothing more is to be said: nothing is kept of its
lines. Where one does not follow, the file is looked at anew from a little before that place, in batches, to say what
happened: records that are *changed*, that are *missing* (by their numbers), *out of place* or *repeated*. What is
compared is this batch and the one before it, so what was moved farther is changed in one place and missing in another.
Whatever does not follow is said, also where several things were done at once and the words for it are not the best.

Half a record at the end is *torn*: so a nono leaves it that was killed in the middle of a write, or a machine that lost
power (and then, on some file systems, zeros behind it). Whoever writes on behind one says so in the next record, whose
last member `torn` is the SHA-256 of the half: then that is a remark, and the chain has no fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from nono.audit import chain
from nono.audit.chain import Link
from nono.audit.read import LONGEST, lines_of, object_of
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

CHANGED, MISSING, MOVED, REPEATED, TORN = "changed", "missing", "out of place", "repeated", "torn"
_BATCH, _BATCH_BYTES = 5000, 8 << 20  # lines, and what they have together
_MAX_FAULTS = 1000


class Fault(Record):
    """One thing that is wrong. line: from 1, 0 for the file as a whole. what: a word of those above, or verify.py's."""

    file: str
    line: int
    what: str
    detail: str


class Verified(Record):
    """What a chain comes to. records, last: the number and the hash of the last one that is as it was written.

    first: the first record's hash, "" for none. opening, closing: the first and the last record. lines: all of them.
    remarks: halves of records that the record behind them tells of.
    """

    records: int
    first: str
    last: str
    faults: tuple[Fault, ...]
    opening: Mapping[str, Any]
    closing: Mapping[str, Any]
    is_chained: bool
    lines: int
    is_empty: bool
    remarks: tuple[Fault, ...] = ()


class _Mark(Record):
    """A place in a file up to which all is well: its offset, and the last record before it."""

    offset: int
    number: int
    hash: bytes


def chain_of(name: str, file: BinaryIO) -> Verified:
    """Verify one file, from its beginning. name: of it, for what is said of it."""
    file.seek(0)
    previous, number, offset = chain.NOTHING, 0, 0
    first = opening = line = b""
    closing = b""
    marks = (_Mark(0, 0, previous),) * 2
    for line in lines_of(file):
        link = chain.parse(line[:-1]) if line.endswith(b"\n") else None
        if link is None or link.number != number + 1 or not chain.follows(link, previous):
            break
        if not number:
            first, opening = link.hash, line
        number, previous, closing, offset = link.number, link.hash, line, offset + len(line)
        if not number % _BATCH:
            marks = (marks[1], _Mark(offset, number, previous))
        line = b""
    is_torn = _is_half(line, number, previous)
    if is_torn or not line:
        torn = Fault(name, number + 1, TORN, "half a record, without the end of its line")
        return Verified(
            number, first.decode(), previous.decode() if number else "", (torn,) if is_torn else (), object_of(opening),
            object_of(closing), True, number + is_torn, not (number or is_torn),
        )  # fmt: skip
    file.seek(marks[0].offset)
    return _Examination(name, marks[0], first, opening).of(file)


class _Examination:
    """Looks at a chain of which something is wrong."""

    def __init__(self, name: str, mark: _Mark, first: bytes, opening: bytes) -> None:
        self._name = name
        self._line = self._highest = mark.number  # the line; the last record that is as it was written
        self._before: tuple[bytes, ...] = (mark.hash,)  # the hashes that the next record may follow from
        self._earlier: dict[int, list[Link]] = {}  # by number: those of the batch before, and of this one
        self._these: dict[int, list[Link]] = {}
        self._seen_earlier: dict[bytes, int] = {}  # lines, and where they stand
        self._seen: dict[bytes, int] = {}
        self._faults: list[Fault] = []
        self._remarks: list[Fault] = []
        self._first, self._opening = first, opening
        self._last: Link | None = None
        self._closing = b""

    def of(self, file: BinaryIO) -> Verified:
        lines = lines_of(file)
        ahead = list(islice(lines, 1))
        while ahead:
            batch, ahead = _batch(ahead, lines)  # the record behind one tells of it
            links = [chain.parse(line[:-1]) if line.endswith(b"\n") else None for line in (*batch, *ahead)]
            self._earlier, self._these = self._these, {}
            self._seen_earlier, self._seen = self._seen, {}
            for link in links:
                if link is not None:
                    self._these.setdefault(link.number, []).append(link)
            for line, link, after in zip(batch, links, [*links[1:], None], strict=False):
                self._line += 1
                if link is not None:
                    if not self._first:
                        self._first, self._opening = link.hash, line
                    self._last, self._closing = link, line
                self._judge(line, link, after)
        if not self._faults and not self._remarks:
            self._say(self._line, CHANGED, "the chain is broken")
        last, first = self._last, self._first.decode()
        return Verified(
            last.number if last is not None else 0, first, last.hash.decode() if last is not None else "",
            tuple(self._faults), object_of(self._opening), object_of(self._closing), last is not None, self._line,
            False, tuple(self._remarks),
        )  # fmt: skip

    def _judge(self, line: bytes, link: Link | None, after: Link | None) -> None:
        expected = self._highest + 1
        if link is None:
            self._judge_no_record(line, after)
            return
        number = link.number
        if (there := self._seen.get(line) or self._seen_earlier.get(line)) is not None:
            self._say(self._line, REPEATED, f"record {number} is also in line {there}")
            return
        self._seen[line] = self._line
        predecessors = [chain.NOTHING] if number == 1 else [each.hash for each in self._known(number - 1)]
        if number == expected and any(chain.follows(link, each) for each in (*self._before, *predecessors)):
            self._highest = number
        elif any(chain.follows(link, each) for each in predecessors):  # as it was written, but not here
            if number > expected and not self._are_all_there(expected, number):
                self._say_missing(expected, number)
            else:
                self._say(self._line, MOVED, f"record {number} stands where record {expected} was")
            self._highest = max(self._highest, number)
        elif number > expected and not self._known(number - 1) and _continues(link, after):
            self._say_missing(expected, number)
            self._highest = number
        else:
            self._say(self._line, CHANGED, f"record {expected} is not as it was written")
            self._highest = expected
        # The next one follows from the hash that is written here or, if only that was changed, from the right one.
        self._before = (link.hash, *(chain.digest(each, link.body) for each in self._before))[:3]

    def _judge_no_record(self, line: bytes, after: Link | None) -> None:
        if not line.endswith(b"\n"):
            if any(_is_half(line, self._highest, each) for each in self._before):
                self._say(self._line, TORN, "half a record, without the end of its line")
            else:
                self._say(self._line, CHANGED, "this is no record, nor the beginning of one")
        elif (
            after is not None
            and _is_half(line[:-1], self._highest, chain.NOTHING)
            and after.body.endswith(chain.torn(line[:-1]).encode())
            and any(chain.follows(after, each) for each in self._before)
        ):
            self._remarks.append(Fault(self._name, self._line, TORN, "half a record, which the one behind it tells of"))
        else:
            self._say(self._line, CHANGED, "this line is no record any more")

    def _say(self, line: int, what: str, detail: str) -> None:
        if len(self._faults) < _MAX_FAULTS:
            self._faults.append(Fault(self._name, line, what, detail))

    def _say_missing(self, first: int, end: int) -> None:
        what = f"record {first} is" if end - first == 1 else f"records {first} to {end - 1} are"
        self._say(self._line, MISSING, f"{what} missing before this line")

    def _known(self, number: int) -> Sequence[Link]:
        return self._these.get(number, []) + self._earlier.get(number, [])

    def _are_all_there(self, first: int, end: int) -> bool:
        most = len(self._these) + len(self._earlier)
        return end - first <= most and all(self._known(number) for number in range(first, end))


def _batch(begun: list[bytes], lines: Iterator[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return the next lines, no more than memory has room for, and the one behind them."""
    size = sum(map(len, begun))
    for line in lines:
        if len(begun) >= _BATCH or size >= _BATCH_BYTES:
            return begun, [line]
        begun.append(line)
        size += len(line)
    return begun, []


def _is_half(line: bytes, number: int, previous: bytes) -> bool:
    return 0 < len(line) < LONGEST and chain.is_half(line, number, previous)


def _continues(link: Link, after: Link | None) -> bool:
    """Whether the record behind `link` follows from it, or there is none: then its number can be believed."""
    return after is None or (after.number == link.number + 1 and chain.follows(after, link.hash))
