"""What `nono run --rollback` does around a run: a snapshot before the agent starts, and one when all of it has ended.

Tracked is what the user let the agent write, by flags or profiles: directories and files, by their real paths. Not
tracked are what the built-in groups open, the run's temporary directory, and the directories that profiles keep for
their agents (own_directories.py), whose memory of their sessions is not the user's work. What is denied below a tracked
directory is left out: the agent cannot write it.

The store lies in the state directory, which every wall closes; one that the user named elsewhere (`--rollback-dest`)
must be out of every grant's reach, and is remembered (`STATE/rollback/elsewhere`), so that `nono rollback` finds it.

Whatever can be refused is refused before the agent starts. A final state that cannot be taken is told, and no failure
of the run: what the baseline has can still be put back.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import gmtime, strftime

from nono.audit import redact
from nono.errors import NonoError, StoreError, UsageError
from nono.policy.capabilities import READ, TEMPORARY_DIRECTORY, WRITE, CapabilitySet, PathGrant, is_at_or_below
from nono.policy.groups import GROUPS
from nono.policy.paths import Place, expand
from nono.policy.quantities import parse_size
from nono.record import Record
from nono.rollback import sessions, snapshot, undo
from nono.rollback.ignore import Rules
from nono.rollback.objects import Lock, Store
from nono.rollback.sessions import Session
from nono.session.own_directories import is_own
from nono.session.stores import ELSEWHERE, destinations
from nono.supervisor.command import ORIGIN as COMMAND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.session.policy import Decision

_SPECIAL = frozenset((TEMPORARY_DIRECTORY, COMMAND))


class Wanted(Record):
    """What the user asked for. destination: None for the state directory. max_size: as typed; None for the default."""

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    destination: str | None = None
    max_size: str | None = None


class Tracker:
    """The snapshots of one run. session, store: once it has begun. changed: whether it ended, and differs."""

    def __init__(
        self,
        wanted: Wanted,
        notice: Callable[[str], None],
        progress: Callable[[int, int], None] | None = None,
        told: Callable[[Session, snapshot.Snapshot], None] | None = None,
    ) -> None:
        """progress: shown how far a snapshot is, (done, total), see snapshot.take; a total of -1 says that it is over.

        told: shown the baseline, before the agent starts. Raises UsageError.
        """
        self._wanted = wanted
        self._max_bytes = snapshot.DEFAULT_MAX_BYTES
        if wanted.max_size is not None:
            self._max_bytes = parse_size(wanted.max_size, "--rollback-max-size")
        self._notice = notice
        self._progress = progress
        self._told = told
        self._taken: snapshot.Snapshot | None = None
        self._never: list[bytes] = []
        self._across: list[bytes] = []
        self._rules = Rules()
        self._lock = -1
        self.taken: list[snapshot.Snapshot] = []  # the baseline, then the final state
        self.session: Session | None = None
        self.store: Store | None = None
        self.ended = False
        self.is_running = False  # set once there is an agent

    def begin(
        self,
        session_id: str,
        argv: Sequence[str],
        decision: Decision,
        capabilities: CapabilitySet,
        grants: Iterable[PathGrant],
    ) -> None:
        """Take the baseline. grants: what the agent gets, to the last. Raises NonoError: nothing may start."""
        place = decision.place
        directory = destination(self._wanted.destination, place)
        _check_out_of_reach(directory, (*grants, *capabilities.grants), place)
        roots = tracked(capabilities.grants, place)
        if not roots:
            raise UsageError("--rollback: the agent may write nothing of yours; leave it out, or add --allow-cwd")
        stores = dict.fromkeys((directory, *destinations(place)))
        waiting = next(filter(None, (undo.interrupted_in(store, roots) for store in stores)), "")
        if waiting:
            raise StoreError(
                f"a restore of session {waiting} was interrupted in the same files; finish it first: "
                f"nono rollback restore {waiting}"
            )
        self._never = [
            os.fsencode(os.path.realpath(deny.path))
            for deny in capabilities.denies
            if deny.access & WRITE and not deny.is_link
        ]
        self._never.append(os.fsencode(directory))
        self._across = [root for root in roots if os.path.ismount(root)]
        self._rules = self._make_rules(decision)
        self.store = Store(directory)
        if self._wanted.destination is not None:
            remember(directory, place)
        facts = {
            "session": session_id,
            "started": strftime("%Y-%m-%dT%H:%M:%SZ", gmtime()),
            "argv": redact.argv(argv),
            "workdir": place.workdir,
            "roots": [os.fsdecode(root) for root in roots],
            "rules": self._rules._asdict(),
            "never": [os.fsdecode(path) for path in self._never],
            "across": [os.fsdecode(path) for path in self._across],
        }
        previous = sessions.previous(directory, roots)
        self.session = sessions.create(directory, session_id, facts)
        self._lock = sessions.hold(self.session)
        try:
            taken = self._take(roots, self.session.baseline, previous, None)
        except BaseException:
            self.close()
            sessions.remove(self.session)
            raise
        told = [[os.fsdecode(each.path), each.reason, each.note] for each in taken.left_out]
        more = {"gitignore": taken.gitignore, "left_out": told, "left_out_count": taken.left_out_count}
        self.session = sessions.write_meta(self.session, {**facts, **more})
        self._taken = taken
        if self._told is not None:
            self._told(self.session, taken)

    def end(self) -> None:
        """Take the final state; all of the agent has ended. Raises StoreError only where none was started."""
        if self._taken is None or self.session is None or self.store is None:
            return
        if not self.is_running:  # nothing was started, so there is nothing to undo
            self.close()
            sessions.remove(self.session)
            return
        try:
            undo.repair_modes(self.store.directory, self.session)
            roots = [root.path for root in self._taken.roots]
            taken = self._take(roots, self.session.final, self.session.baseline, self._taken.gitignore)
            facts = {**self.session.meta, "ended": strftime("%Y-%m-%dT%H:%M:%SZ", gmtime())}
            self.session = sessions.write_meta(self.session, facts)
            self.ended = bool(taken)
        except (NonoError, OSError) as error:
            reason = str(error) if isinstance(error, NonoError) else error.strerror
            self._notice(
                f"the state after the run could not be taken: {reason}. What it was before can be put back with: "
                f"nono rollback restore {self.session.id} --force"
            )
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the session."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take(
        self, roots: Sequence[bytes], path: str, previous: str, gitignore: Mapping[str, Mapping[str, str]] | None
    ) -> snapshot.Snapshot:
        assert self.store is not None
        try:
            taken = snapshot.take(
                roots, self.store, path, previous=previous, rules=self._rules, gitignore=gitignore, never=self._never,
                across=self._across, max_bytes=self._max_bytes, progress=self._progress,
            )  # fmt: skip
            self.taken.append(taken)
            return taken
        finally:
            if self._progress is not None:
                self._progress(0, -1)

    def _make_rules(self, decision: Decision) -> Rules:
        exclude = self._wanted.exclude
        if decision.inherited is not None:
            says = decision.inherited.profile.rollback
            exclude = (*says.exclude_patterns, *says.exclude_globs, *exclude)
        return Rules(exclude=tuple(exclude), include=self._wanted.include)


def destination(chosen: str | None, place: Place) -> str:
    """Return the directory of the store, by its real path. Raises UsageError."""
    if chosen is None:
        return os.path.realpath(os.path.join(place.state, "rollback"))
    return os.path.realpath(expand(chosen, place))


def remember(directory: str, place: Place) -> None:
    """Let `nono rollback` find this store, and no later run open it. Raises StoreError."""
    if directory in destinations(place):
        return
    own = os.path.join(place.state, "rollback")
    try:
        for path in (place.state, own):
            os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{own} cannot be made: {error.strerror}") from None
    path = os.path.join(own, ELSEWHERE)
    with Lock(f"{path}.lock", alone=True, wait=True):  # or one of two runs that begin at once would forget the other's
        known = dict.fromkeys((*destinations(place)[1:], directory))
        sessions.write_whole(path, b"\0".join(map(os.fsencode, known)))


def tracked(grants: Iterable[PathGrant], place: Place) -> list[bytes]:
    """Return the real paths of what is tracked: directories and files that the user lets the agent write."""
    found = []
    for grant in grants:
        if not grant.access & WRITE or grant.optional or grant.origin in _SPECIAL or grant.origin in GROUPS:
            continue
        path = os.path.realpath(grant.path)
        if is_own(grant, place) or path.startswith(("/dev/", "/proc/", "/sys/")):
            continue
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            found.append(os.fsencode(path))
    return list(dict.fromkeys(found))


def _check_out_of_reach(directory: str, grants: Iterable[PathGrant], place: Place) -> None:
    """Refuse a store that the agent could read, or write. The state directory is closed under any grant."""
    if is_at_or_below(directory, os.path.realpath(place.state)):
        return
    for grant in grants:
        path = os.path.realpath(grant.path)
        if grant.access & (READ | WRITE) and is_at_or_below(directory, path):
            raise UsageError(
                f"--rollback-dest {directory} is within the agent's reach ({grant.origin} {grant.path}); name a "
                "directory outside of what is granted"
            )
        if is_at_or_below(path, directory):
            raise UsageError(f"--rollback-dest {directory} holds {path}, which is granted; name another directory")
