"""Which sessions there are, in all stores, and which one the user means."""

from __future__ import annotations

import os

from nono.errors import UsageError
from nono.record import Record
from nono.rollback import sessions
from nono.rollback.objects import Store
from nono.rollback.sessions import Session
from nono.rollback.undo import repair_modes
from nono.session.stores import destinations
from nono.supervisor.whereabouts import find_place

LAST = "last"


class Found(Record):
    """A session, and the directory of its store."""

    directory: str
    session: Session

    @property
    def store(self) -> Store:
        """Its store. Raises StoreError."""
        return Store(self.directory)


def directories() -> list[str]:
    """Return the directories of all stores that there are."""
    found = [each for each in destinations(find_place(None, os.environ)) if os.path.isdir(each)]
    for directory in found:
        repair_modes(directory)
    return [directory for directory in found if os.path.isdir(os.path.join(directory, "sessions"))]


def every() -> list[Found]:
    """Return all sessions, the latest last. Raises StoreError."""
    found = [Found(directory, each) for directory in directories() for each in sessions.sessions(directory)]
    return sorted(found, key=lambda each: each.session.id)


def find(wanted: str) -> Found:
    """Return the session that is meant: its id, what that begins with, its name, or `last`. Raises UsageError."""
    found = _find(wanted)
    repair_modes(found.directory, found.session)
    return found


def _find(wanted: str) -> Found:
    whole = [each for each in every() if each.session.whole]
    if not whole:
        raise UsageError("no session can be undone yet. To have one: nono run --rollback …")
    if wanted == LAST:
        return whole[-1]
    exact = [each for each in whole if each.session.id == wanted]
    begin = exact or [each for each in whole if wanted and each.session.id.startswith(wanted)]
    named = begin or [each for each in whole if each.session.id.split("-", 2)[2:] == [wanted]][-1:]
    if len(named) == 1:
        return named[0]
    if named:
        raise UsageError(f"{len(named)} sessions begin with that; type more of it. See: nono rollback list")
    raise UsageError("there is no such session. See: nono rollback list")


def audit_log(session: Session) -> str:
    """Return where the audit log of the same session is."""
    return os.path.join(find_place(None, os.environ).state, "audit", f"{session.id}.jsonl")
