"""`nono audit show`: one session, from what it was allowed to what came of it, in 80 columns."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import islice

from nono.audit import read, signed, verify
from nono.audit.summary import Summary
from nono.audit.verify import Session
from nono.cli import render
from nono.cli.args import COLUMNS
from nono.cli.audits import place
from nono.cli.profiles.layout import hanging
from nono.cli.render import short
from nono.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LABEL = 13
_SHOWN = 100  # exchanges
_FILES = 20
_FLAGS = {"--allow", "--read", "--write", "--allow-file", "--read-file", "--write-file", "--allow-cwd"}
_STATES = {
    verify.UNENDED: "it ended without an end record; records at its end may be missing",
    verify.UNENTERED: "its end is not in the ledger, whose last lines may be missing",
    verify.RUNNING: "it is still running",
}


def run(arguments: argparse.Namespace) -> int:
    """Show the session; return 0, or 1 for a log that is not as it was written."""
    directory = place.directory()
    name = read.find(directory, arguments.session)
    try:
        checked = verify.one(directory, name, verify.ledger_in(directory))
    except OSError as error:
        raise StoreError(f"cannot read {directory}: {error.strerror}") from None
    records = read.records(os.path.join(directory, name))
    if arguments.json:
        _print_json(checked, filter(_is_denied, records) if arguments.denied else records)
    else:
        for line in _lines(checked, records, denied=arguments.denied, verbose=arguments.verbose):
            place.say(line)
    return int(bool(checked.faults))


def _print_json(checked: Session, records: Iterable[Mapping[str, Any]]) -> None:
    """Print one object, a record a line: a session may have a million."""
    faults = [fault._asdict() for fault in checked.faults]
    whole = {"session": checked.session, "state": checked.state, "faults": faults, "remarks": list(checked.remarks)}
    print(json.dumps(whole, indent=1)[:-2] + ',\n "records": [', end="")
    separator = "\n  "
    for record in records:
        print(separator + json.dumps(record), end="")
        separator = ",\n  "
    print("\n ]\n}")


def _lines(checked: Session, records: Iterable[Mapping[str, Any]], *, denied: bool, verbose: bool) -> Iterator[str]:
    summary = Summary(records)
    home = render.home_of(os.environ)
    if not denied:
        yield from _rows("session", [checked.session])
        yield from _about(summary.start, summary.end, home, verbose=verbose)
    for fault in checked.faults[:_SHOWN]:
        at = f"line {fault.line}" if fault.line else "the log"
        yield from _rows("warning", [f"{at}: {fault.what}: {fault.detail}  (nono audit verify)"])
    notes = [_STATES[checked.state]] if checked.state in _STATES else []
    yield from _rows("note", [*notes, *checked.remarks])
    events = summary.refused + summary.denials if denied else summary.exchanges + summary.denials + summary.gaps
    if events and not denied:
        yield ""
    most = events if verbose or denied else _SHOWN
    for each in islice(read.in_time(filter(_is_denied if denied else _is_event, records)), most):
        yield from _event(each, home)
    if most < events:
        yield f"{events - most} more  (-v to list)"
    if denied and not events:
        yield "nothing was denied"
    if summary.trust and not denied:
        on_files = signed.rows(summary.trust)
        yield ""
        for label, text in on_files if verbose else on_files[:_FILES]:
            yield from _rows(label, [text])
        if len(on_files) > _FILES and not verbose:
            yield f"{len(on_files) - _FILES} more  (-v to list)"
    if summary.snapshots and not denied:
        yield ""
        found, remarks = import_module("nono.cli.audits.files").changes(checked.session, summary.snapshots, home)
        told = [f"{what} {path}" for what, path in found or ()]
        most = len(told) if verbose else _FILES
        more = [f"{len(told) - most} more  (-v to list)"] if len(told) > most else []
        yield from _rows("files", [*(told[:most] or ([] if found is None else ["none was changed"])), *more, *remarks])
    if not denied:
        yield from _effects(summary.effects)


def _is_event(record: Mapping[str, Any]) -> bool:
    return read.text(record, "kind") in ("exchange", "denial", "gap", "")


def _is_denied(record: Mapping[str, Any]) -> bool:
    return record.get("kind") == "denial" or record.get("verdict") == "refused"


def _about(start: Mapping[str, Any], end: Mapping[str, Any], home: str, *, verbose: bool) -> Iterator[str]:
    if not start:
        return
    where = short(read.text(start, "workdir"), home)
    yield from _rows("started", [f"{_began(start)} by nono {read.text(start, 'version')}, in {where}"])
    yield from _rows("command", [place.command(str(word) for word in read.sequence(start, "argv"))])
    profiles = [read.text(each, "name") for each in _objects(start, "profiles")]
    yield from _rows("profile", [" ← ".join(reversed(profiles))])
    grants = list(_objects(start, "grants"))
    shown = [each for each in grants if verbose or read.text(each, "origin") in _FLAGS or _of_profile(each)]
    for each in shown:
        path = short(read.text(each, "path"), home)
        yield from _rows(read.text(each, "access") or "?", [f"{path}  ({read.text(each, 'origin')})"])
    if len(shown) < len(grants):
        yield from _rows("granted", [f"{len(grants) - len(shown)} more, of the system  (-v to list)"])
    yield from _rows("denied", [short(str(path), home) for path in read.sequence(start, "denies")])
    yield from _rows("unprotected", [short(str(path), home) for path in read.sequence(start, "unprotected")])
    yield from _rows("network", [_network(start)])
    keys = [f"{read.text(each, 'name')} → {read.text(each, 'upstream')}" for each in _objects(start, "credentials")]
    yield from _rows("credentials", keys)
    exposed = [f"the agent held the real key of {name}" for name in read.sequence(start, "exposed_credentials")]
    yield from _rows("warning", exposed)
    limits = start.get("limits")
    if isinstance(limits, dict) and limits:
        yield from _rows("limits", [", ".join(f"{name} {value}" for name, value in limits.items())])
    yield from _rows("wall", [read.text(start, "wall")])
    if end:
        took = place.duration(read.number(end, "duration_ms") / 1000)
        yield from _rows("ended", [f"with status {end.get('status')} after {took}"])


def _of_profile(grant: Mapping[str, Any]) -> bool:
    return read.text(grant, "origin").startswith("profile")


def _network(start: Mapping[str, Any]) -> str:
    parts = [read.text(start, "network")]
    if profile := read.text(start, "network_profile"):
        parts.append(f"profile {profile}")
    if hosts := [str(host) for host in read.sequence(start, "hosts")]:
        parts.append(f"hosts {', '.join(hosts)}")
    if denied := [str(host) for host in read.sequence(start, "denied_hosts")]:
        parts.append(f"not {', '.join(denied)}")
    if through := read.text(start, "upstream_proxy"):
        parts.append(f"through {through}")
    return "; ".join(parts)


def _event(record: Mapping[str, Any], home: str) -> Iterator[str]:
    if record.get("kind") == "gap":
        yield from _rows("gap", [f"{record.get('lost')} records could not be written"])
        return
    if record.get("kind") == "denial":
        what = f"{read.text(record, 'access')} {short(read.text(record, 'what'), home)}".strip()
        times = f", {record['times']} times" if read.number(record, "times") > 1 else ""
        origin = read.text(record, "origin")
        why = read.text(record, "reason").replace("_", " ") + (f": {origin}" if origin else "")
        yield f"{_clock(read.number(record, 'time')):<12}  denied   {place.cut(what + times, COLUMNS - 23)}"
        yield from _more(why, read.text(record, "flag"))
        return
    label = "denied" if record.get("verdict") == "refused" else "allowed"
    method, host = read.text(record, "method"), read.text(record, "host")
    what = f"{method} {host}{read.text(record, 'path')}" if method else "a connection"
    status, took = int(read.number(record, "status")), read.number(record, "duration_ms") / 1000
    at = read.number(record, "time")
    tail = f"  {status or '-':>3}  {place.duration(took):>6}"
    room = COLUMNS - 23 - len(tail)
    yield f"{_clock(at):<12}  {label:<7}  {place.cut(what, room):<{room}}{tail}"
    yield from _more(read.reason(record), read.text(record, "flag"))


def _more(reason: str, flag: str) -> Iterator[str]:
    if reason:
        yield from hanging(" " * 23, reason[:1000])
    if flag:
        yield " " * 23 + flag[:1000]  # never folded: it is to be copied


def _effects(requests: Mapping[tuple[str, str], int]) -> Iterator[str]:
    if requests:
        yield ""
        most = sorted(requests.items(), key=lambda item: -item[1])
        named = [(f"{method} {host}", count) for (method, host), count in most[:20]]
        texts = [f"{what}, {count} times" if count > 1 else what for what, count in named]
        more = [f"{len(most) - 20} more"] if len(most) > 20 else []
        yield from _rows("effects", ["requests that may have changed something elsewhere:", *texts, *more])


def _objects(record: Mapping[str, Any], member: str) -> Iterator[Mapping[str, Any]]:
    return (each for each in read.sequence(record, member) if isinstance(each, dict))


def _rows(label: str, texts: Sequence[str]) -> Iterator[str]:
    for index, text in enumerate(filter(None, texts)):
        yield from hanging(f"{'' if index else place.cut(label, _LABEL - 1):<{_LABEL}}", text)


def _began(start: Mapping[str, Any]) -> str:
    return place.moment(read.number(start, "time"), "%Y-%m-%d %H:%M:%S UTC") or "at no known time"


def _clock(seconds: float) -> str:
    time = place.moment(seconds, "%H:%M:%S")
    return f"{time}.{int(seconds % 1 * 1000):03}" if time else ""
