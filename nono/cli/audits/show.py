"""`nono audit show`: one session, from what it was allowed to what came of it, in 80 columns."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

from nono.audit import read, verify
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
    verify.UNCHAINED: "it was written before nono chained its records",
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
    status = int(bool(checked.faults))
    if arguments.denied:
        records = filter(_is_denied, records)
    if arguments.json:
        faults = [fault._asdict() for fault in checked.faults]
        whole = {"session": checked.session, "state": checked.state, "faults": faults, "records": list(records)}
        print(json.dumps(whole, indent=1))
        return status
    start: Mapping[str, Any] = {}
    end: Mapping[str, Any] = {}
    snapshots: list[Mapping[str, Any]] = []
    shown: list[Mapping[str, Any]] = []  # of a session that may have a million: no more than is needed
    most = sys.maxsize if arguments.verbose or arguments.denied else _SHOWN
    events = 0
    effects: dict[str, int] = {}
    for record in records:
        kind = read.text(record, "kind")
        if kind == "start":
            start = start or record
        elif kind == "exit":
            end = end or record
        elif kind == "snapshot":
            snapshots.append(record)
        elif kind in ("exchange", "denial", "gap", ""):
            events += 1
            shown.append(record)
            if len(shown) > most + _SHOWN:
                shown = read.in_time(shown)[:most]
        if read.has_side_effects(record):
            what = f"{read.text(record, 'method')} {read.text(record, 'host')}"
            effects[what] = effects.get(what, 0) + 1
    shown = read.in_time(shown)[:most]
    home = render.home_of(os.environ)
    lines: list[str] = []
    if not arguments.denied:
        lines += _rows("session", [checked.session])
        lines += _about(start, end, home, verbose=arguments.verbose)
    for fault in checked.faults[:_SHOWN]:
        at = f"line {fault.line}" if fault.line else "the log"
        lines += _rows("warning", [f"{at}: {fault.what}: {fault.detail}  (nono audit verify)"])
    if checked.state in _STATES:
        lines += _rows("note", [_STATES[checked.state]])
    if lines and events:
        lines.append("")
    for each in shown:
        lines += _event(each, home)
    if len(shown) < events:
        lines.append(f"{events - len(shown)} more  (-v to list)")
    if arguments.denied and not events:
        lines.append("nothing was denied")
    if snapshots:
        found, remarks = import_module("nono.cli.audits.files").changes(checked.session, snapshots, home)
        told = [f"{what} {path}" for what, path in found or ()]
        most = len(told) if arguments.verbose else _FILES
        more = [f"{len(told) - most} more  (-v to list)"] if len(told) > most else []
        lines += [
            "",
            *_rows("files", [*(told[:most] or ([] if found is None else ["none was changed"])), *more, *remarks]),
        ]
    for line in (*lines, *_effects(effects)):
        place.say(line)
    return status


def _is_denied(record: Mapping[str, Any]) -> bool:
    return record.get("kind") == "denial" or record.get("verdict") == "refused"


def _about(start: Mapping[str, Any], end: Mapping[str, Any], home: str, *, verbose: bool) -> Iterator[str]:
    if not start:
        return
    where = short(read.text(start, "workdir"), home)
    yield from _rows(
        "started", [f"{_stamp(read.number(start, 'time'))} by nono {read.text(start, 'version')}, in {where}"]
    )
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


def _effects(hosts: Mapping[str, int]) -> Iterator[str]:
    if hosts:
        yield ""
        most = sorted(hosts.items(), key=lambda item: -item[1])
        texts = [f"{what}, {count} times" if count > 1 else what for what, count in most[:20]]
        more = [f"{len(most) - 20} more"] if len(most) > 20 else []
        yield from _rows("effects", ["requests that may have changed something elsewhere:", *texts, *more])


def _objects(record: Mapping[str, Any], member: str) -> Iterator[Mapping[str, Any]]:
    return (each for each in read.sequence(record, member) if isinstance(each, dict))


def _rows(label: str, texts: Sequence[str]) -> Iterator[str]:
    for index, text in enumerate(filter(None, texts)):
        yield from hanging(f"{'' if index else place.cut(label, _LABEL - 1):<{_LABEL}}", text)


def _stamp(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, OSError, ValueError):
        return "at no known time"


def _clock(seconds: float) -> str:
    try:
        return time.strftime("%H:%M:%S", time.gmtime(seconds)) + f"{seconds % 1:.3f}"[1:]
    except (OverflowError, OSError, ValueError):
        return ""
