"""`nono audit cleanup`: remove logs, and have the ledger say that the user did."""

from __future__ import annotations

import argparse
import json
import os
import time

from nono.audit import cleanup, read, verify
from nono.cli.audits import place
from nono.errors import StoreError, UsageError
from nono.policy.quantities import parse_duration

_STAYS = {
    verify.RUNNING: "it is running",
    verify.FAULTY: "it is not as it was written, and may be evidence; name it to remove it",
}


def run(arguments: argparse.Namespace) -> int:
    """Remove them; return 0, or 1 where one that was named had to stay."""
    directory = place.directory()
    removed: list[str] = []
    stay: dict[str, str] = {}
    freed = 0
    try:
        names = _chosen(arguments, directory)
        ledger = verify.ledger_in(directory)
        for name in names:
            session = verify.one(directory, name, ledger)
            if session.state == verify.RUNNING or (session.state == verify.FAULTY and not arguments.session):
                stay[session.session] = _STAYS[session.state]
                continue
            size = os.stat(os.path.join(directory, name), follow_symlinks=False).st_size
            if arguments.dry_run or cleanup.remove(directory, session):
                removed.append(session.session)
                freed += size
            else:
                stay[session.session] = _STAYS[verify.RUNNING]
    except OSError as error:
        raise StoreError(f"cannot read {error.filename or directory}: {error.strerror}") from None
    if arguments.json:
        print(json.dumps({"removed": removed, "kept": stay, "bytes": freed}, indent=1))
        return int(bool(stay and arguments.session))
    for each in removed:
        place.say(f"{'would go' if arguments.dry_run else 'removed':<10}{each}")
    for each, why in stay.items():
        place.say(f"{'stays':<10}{each}  ({why})")
    verb = "would be freed" if arguments.dry_run else "freed; nono audit verify says who is gone, and when"
    logs = f"{len(removed)} log{'s' if len(removed) != 1 else ''}"
    place.say(f"{logs}, {freed / 1e6:.1f} MB {verb}" if removed else "no log is removed")
    return int(bool(stay and arguments.session))


def _chosen(arguments: argparse.Namespace, directory: str) -> list[str]:
    """Return the logs that are to go, oldest first. Raises UsageError, OSError."""
    if bool(arguments.session) == (arguments.older_than is not None):
        raise UsageError("say which logs: name sessions, or say --older-than TIME, as in --older-than 90d")
    if arguments.session:
        return list(dict.fromkeys(read.find(directory, wanted) for wanted in arguments.session))
    before = time.time() - parse_duration(arguments.older_than, "--older-than")
    names = read.names_of(directory)
    return [name for name in names if os.stat(os.path.join(directory, name), follow_symlinks=False).st_mtime < before]
