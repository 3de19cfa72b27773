"""What a session comes to, in one pass over its records and in bounded memory: for `show` and for the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nono.audit import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST = 20_000  # different things that were denied, or asked for elsewhere; of more, only their number is known


class Summary:
    """start, end: those records, {} for none. snapshots, trust: all of those.

    exchanges, refused, denials, gaps: how many. effects: requests that may have changed something elsewhere, by method
    and host; `effect` is how many. denied: by what, why, and the flag that would grant it.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self.start: Mapping[str, Any] = {}
        self.end: Mapping[str, Any] = {}
        self.snapshots: list[Mapping[str, Any]] = []
        self.trust: list[Mapping[str, Any]] = []
        self.exchanges = self.refused = self.denials = self.gaps = self.effect = 0
        self.began, self.over = float("inf"), 0.0  # of exchanges
        self.effects: dict[tuple[str, str], int] = {}
        self.denied: dict[tuple[str, str, str], int] = {}
        for record in records:
            self._take(record)

    def _take(self, record: Mapping[str, Any]) -> None:
        kind = read.text(record, "kind")
        if kind in ("exchange", ""):
            self._take_exchange(record)
        elif kind == "denial":
            self.denials += 1
            what = f"{read.text(record, 'access')} {read.text(record, 'what')}".strip()
            why = read.text(record, "detail") or read.text(record, "reason").replace("_", " ")
            origin = read.text(record, "origin")
            key = (what, f"{why} ({origin})" if origin else why, read.text(record, "flag"))
            _count(self.denied, key, int(read.number(record, "times") or 1))
        elif kind == "start":
            self.start = self.start or record
        elif kind == "exit":
            self.end = record
        elif kind == "snapshot" and len(self.snapshots) < MOST:
            self.snapshots.append(record)
        elif kind == "trust" and len(self.trust) < MOST:
            self.trust.append(record)
        elif kind == "gap":
            self.gaps += 1

    def _take_exchange(self, record: Mapping[str, Any]) -> None:
        self.exchanges += 1
        time = read.number(record, "time")
        self.began = min(self.began, time)
        self.over = max(self.over, time + read.number(record, "duration_ms") / 1000)
        if record.get("verdict") == "refused":
            self.refused += 1
            target = read.text(record, "host") + read.text(record, "path")
            what = " ".join(filter(None, (read.text(record, "method"), target)))
            why = read.reason(record) or read.text(record, "code")
            _count(self.denied, (what or "a connection", why, read.text(record, "flag")), 1)
        elif read.has_side_effects(record):
            self.effect += 1
            _count(self.effects, (read.text(record, "method"), read.text(record, "host")), 1)


def _count(counts: dict[Any, int], key: object, more: int) -> None:
    if key in counts or len(counts) < MOST:
        counts[key] = counts.get(key, 0) + more
