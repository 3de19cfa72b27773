"""What a session changed of files, by its snapshots (nono run --rollback), held against what its log says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from nono.audit import read
from nono.cli.rollbacks import changed, places
from nono.errors import NonoError
from nono.rollback.manifest import Manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST = 20_000
Changes = list[tuple[str, str]]


def changes(session: str, records: Iterable[Mapping[str, Any]], home: str) -> tuple[Changes | None, list[str]]:
    """Return (what, path) of each change, None where it is not known; and sentences for what is wrong or left out."""
    told = {read.text(each, "when"): read.text(each, "root") for each in records if each.get("kind") == "snapshot"}
    if not told:
        return None, []
    found = next((each.session for each in places.every() if each.session.id == session), None)
    if found is None or not found.whole:
        return None, ["its snapshots are gone (nono rollback cleanup removes old ones)"]
    if not found.ended:
        return None, ["no snapshot was taken at its end, so its changes of files are not known"]
    try:
        for when, path in (("baseline", found.baseline), ("final", found.final)):
            with Manifest(path) as manifest:
                if manifest.root != told.get(when, ""):
                    return None, [f"its {when} snapshot is not the one that was taken"]
        listed = changed.of_session(found)
        rows = [(changed.LABELS[each.change.kind], changed.described(each, home)) for each in islice(listed, MOST)]
        more = sum(1 for _ in listed)
    except NonoError as error:
        return None, [f"its snapshots cannot be read: {error}"]
    return rows, [f"{more} more changes of files: nono rollback show {session}"] if more else []
