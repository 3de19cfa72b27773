"""`nono audit verify`: what is wrong, in which file and line; and what nobody can tell."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module

from nono.audit import read, verify
from nono.audit.examine import Fault
from nono.audit.log import BUNDLE
from nono.audit.verify import Ledger, Session
from nono.cli.audits import place
from nono.cli.profiles.layout import hanging
from nono.errors import StoreError, UsageError

_SHOWN = 100
_HALF = "half an entry, as a nono leaves it that is killed while it writes, or a machine that loses power"
_STATES = {
    verify.WHOLE: "whole, from start to end",
    verify.RUNNING: "still running, whole so far",
    verify.UNENDED: "ended without an end record (killed, or the machine lost power), whole as far as it goes; records "
    "at the end may be missing, and nobody can tell",
    verify.UNENTERED: "whole, from start to end, but their end is not in the ledger (nono was killed in that instant, "
    "or the ledger's last lines were taken away)",
    verify.FAULTY: "not as written",
    verify.VANISHED: "vanished",
    verify.REMOVED: "removed by nono audit cleanup",
}


def run(arguments: argparse.Namespace) -> int:
    """Verify; return 1 where something is wrong."""
    directory = place.directory()
    try:
        if arguments.session is None:
            ledger, sessions = verify.everything(directory)
        else:
            name = read.find(directory, arguments.session)
            ledger = verify.ledger_in(directory)
            sessions = [verify.one(directory, name, ledger)]
    except OSError as error:
        raise StoreError(f"cannot read {error.filename or directory}: {error.strerror}") from None
    signed, more, notes = _signatures(directory, sessions, arguments.public_key)
    faults = [*ledger.faults, *(fault for each in sessions for fault in each.faults), *more]
    if arguments.head is not None and arguments.head.encode() not in ledger.hashes:
        faults.append(Fault(read.LEDGER, 0, verify.GONE, "it does not lead to the head that was named"))
    if arguments.json:
        print(json.dumps({**_object(directory, ledger, sessions, faults, signed), "notes": notes}, indent=1))
        return int(bool(faults))
    for fault in faults[:_SHOWN]:
        at = f"{fault.file}:{fault.line}" if fault.line else fault.file
        _say(f"{at}: {fault.what}: {fault.detail}", "")
    if len(faults) > _SHOWN:
        place.say(f"{len(faults) - _SHOWN} more")
    counts = Counter(each.state for each in sessions)
    for state, text in _STATES.items():
        if counts[state]:
            names = [_named(each) for each in sessions if each.state == state]
            which = f": {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if state != verify.WHOLE else ""
            _say(f"{counts[state]} {text}{which}", f"{'sessions':<10}")
    for signer, count in Counter(signed.values()).items():
        _say(f"{count} by {signer}", f"{'signed':<10}")
    remarks = [*notes, *(f"{each.session}: {remark}" for each in sessions for remark in each.remarks)]
    remarks += [f"ledger, line {each.line}: {_HALF}" for each in ledger.remarks]
    for remark in remarks[:_SHOWN]:
        _say(remark, f"{'note':<10}")
    if not sessions:
        place.say("no session is recorded yet; each nono run writes a log")
    if ledger.records:
        _say(f"{ledger.records} entries, head {ledger.head}", f"{'ledger':<10}")
        if not faults:
            _say(
                "somebody with your own rights could have written all of it anew; keep the head elsewhere, and say "
                "--head HASH, to know",
                f"{'note':<10}",
            )
    return int(bool(faults))


def _signatures(
    directory: str, sessions: Sequence[Session], public_key: str | None
) -> tuple[dict[str, str], list[Fault], list[str]]:
    """Return whose signature each session's log has, what is wrong with them, and what else is to be said."""
    of = {each.session: os.path.join(directory, each.session + read.SUFFIX + BUNDLE) for each in sessions}
    if public_key is None and not any(each.signed_by or os.path.lexists(of[each.session]) for each in sessions):
        return {}, [], []
    signatures = import_module("nono.cli.audits.signatures")
    try:
        trusted = signatures.keys_of(public_key)
        found = {each.session: signatures.check(directory, each, trusted) for each in sessions}
    except UsageError as error:
        if public_key is not None:
            raise
        return {}, [], [f"signatures were not looked at: {error}"]
    except OSError as error:
        raise StoreError(f"cannot read {error.filename or directory}: {error.strerror}") from None
    faults = [fault for each in found.values() for fault in each.faults]
    notes = [each.note for each in found.values() if each.note]
    return {session: each.by for session, each in found.items() if each.by}, faults, notes


def _named(session: Session) -> str:
    day = place.moment(session.removed, "%Y-%m-%d") if session.removed else ""
    return f"{session.session} on {day}" if day else session.session


def _say(text: str, label: str) -> None:
    for line in hanging(label, text):
        place.say(line)


def _object(
    directory: str,
    ledger: Ledger,
    sessions: Sequence[Session],
    faults: Sequence[Fault],
    signed: Mapping[str, str],
) -> dict[str, object]:
    return {
        "directory": directory,
        "ok": not faults,
        "ledger": {"records": ledger.records, "head": ledger.head, "path": os.path.join(directory, read.LEDGER)},
        "sessions": [_session(each, signed) for each in sessions],
        "faults": [fault._asdict() for fault in faults],
        "remarks": [fault._asdict() for fault in ledger.remarks],
    }


def _session(session: Session, signed: Mapping[str, str]) -> dict[str, object]:
    told: dict[str, object] = {"session": session.session, "state": session.state, "records": session.records}
    told |= {"signed_by": signed[session.session]} if session.session in signed else {}
    told |= {"remarks": list(session.remarks)} if session.remarks else {}
    return told | ({"removed": session.removed} if session.removed else {})
