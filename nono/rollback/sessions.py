"""Where the snapshots of a session are: STATE/rollback/sessions/ID/, the user's alone (0700).

    meta.json   what the session was: its id, when, the command (redacted), the roots, the rules, what was left out
    baseline    the manifest from before the agent started
    final       the one from after it ended; not there when nono was killed, or could not take it
    journal     of a restore that is under way (restore.py)
    lock        held (flock) while the session runs, or is restored

ID is the audit log's session id. The directory is made first and `baseline` gets its name only once it is whole, so a
session without one is what a crash left: `whole` says so, `cleanup` removes it, and nothing else looks at it.
"""

from __future__ import annotations

import json
import os
from fcntl import LOCK_EX, LOCK_NB, flock

from nono.errors import StoreError, UsageError
from nono.kernel.sync import sync_directory
from nono.record import Record
from nono.rollback.manifest import Manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

META = "meta.json"
BASELINE = "baseline"
FINAL = "final"
JOURNAL = "journal"
LOCK = "lock"


class Session(Record):
    """One session on the disk. meta: what meta.json says, {} if it has none that can be read."""

    id: str
    directory: str
    meta: Mapping[str, Any]

    @property
    def baseline(self) -> str:
        return os.path.join(self.directory, BASELINE)

    @property
    def final(self) -> str:
        return os.path.join(self.directory, FINAL)

    @property
    def journal(self) -> str:
        return os.path.join(self.directory, JOURNAL)

    @property
    def whole(self) -> bool:
        """Whether there is a baseline."""
        return os.path.exists(self.baseline)

    @property
    def ended(self) -> bool:
        """Whether there is a final state to compare with."""
        return os.path.exists(self.final)


def create(directory: str, session_id: str, meta: Mapping[str, Any]) -> Session:
    """Make a session's directory below `directory` (STATE/rollback) and write its meta.json. Raises StoreError."""
    path = os.path.join(directory, "sessions", session_id)
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.mkdir(path, 0o700)
    except OSError as error:
        raise StoreError(f"{path} cannot be made: {error.strerror}") from None
    session = Session(session_id, path, meta)
    write_meta(session, meta)
    return session


def write_meta(session: Session, meta: Mapping[str, Any]) -> Session:
    """Replace meta.json, wholly or not at all. Raises StoreError."""
    write_whole(os.path.join(session.directory, META), json.dumps(meta, indent=1).encode() + b"\n")
    return session._replace(meta=meta)


def write_whole(path: str, data: bytes) -> None:
    """Put a file in place, synced, wholly or not at all. Raises StoreError."""
    temporary = f"{path}.{os.getpid()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
        sync_directory(os.path.dirname(path))
    except OSError as error:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise StoreError(f"{path} cannot be written: {error.strerror}") from None


def sessions(directory: str) -> Iterator[Session]:
    """Every session below `directory` (STATE/rollback), the latest last, whole or not."""
    try:
        names = sorted(os.listdir(os.path.join(directory, "sessions")))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{directory} cannot be read: {error.strerror}") from None
    for name in names:
        path = os.path.join(directory, "sessions", name)
        if os.path.isdir(path):
            yield Session(name, path, _read_meta(path))


def find(directory: str, text: str) -> Session:
    """The session of this id, or the only one whose id begins or ends so. Raises UsageError."""
    found = list(sessions(directory))
    exact = [session for session in found if session.id == text]
    like = exact or [session for session in found if session.id.startswith(text) or session.id.endswith(f"-{text}")]
    if len(like) == 1:
        return like[0]
    if like:
        raise UsageError(f"{text!r} is more than one session; say more of its id (`nono rollback list` has them)")
    raise UsageError(f"there is no session {text!r}; `nono rollback list` shows those there are")


def previous(directory: str, roots: Sequence[bytes]) -> str:
    """The manifest to compare a new baseline with: the latest that has the most of these roots; "" for none."""
    best, most = "", 0
    wanted = set(roots)
    for session in reversed(list(sessions(directory))):
        for path in (session.final, session.baseline):
            try:
                with Manifest(path) as manifest:
                    shared = len(wanted.intersection(root.path for root in manifest.roots))
            except StoreError:
                continue
            if shared > most:
                best, most = path, shared
        if most == len(wanted):
            break
    return best


def manifests(directory: str) -> list[str]:
    """Every manifest of every session, for objects.Store.collect: what it names is kept.

    Those are the files in a session's directory whose names begin with "baseline", "final" or "saved", but for what is
    being written.
    """
    return [
        os.path.join(session.directory, name)
        for session in sessions(directory)
        for name in sorted(os.listdir(session.directory))
        if name.startswith((BASELINE, FINAL, "saved")) and not name.endswith((".new", ".draft"))
    ]


def hold(session: Session, wait: bool = False) -> int:
    """Lock a session, which runs or is restored while the descriptor that is returned is open. Raises StoreError."""
    path = os.path.join(session.directory, LOCK)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}") from None
    try:
        flock(fd, LOCK_EX | (0 if wait else LOCK_NB))
    except OSError:
        os.close(fd)
        raise StoreError(f"session {session.id} is running or being restored; try again when it has ended") from None
    return fd


def is_held(session: Session) -> bool:
    """Whether it runs or is being restored."""
    try:
        os.close(hold(session))
    except StoreError:
        return True
    return False


def remove(session: Session) -> None:
    """Remove a session's directory: what it named becomes garbage (objects.Store.collect). Raises StoreError."""
    try:
        for name in (BASELINE, *sorted(set(os.listdir(session.directory)) - {BASELINE})):
            try:
                os.unlink(os.path.join(session.directory, name))
            except FileNotFoundError:
                pass
        os.rmdir(session.directory)
    except OSError as error:
        raise StoreError(f"{session.directory} cannot be removed: {error.strerror}") from None


def check_meta(session: Session) -> None:
    """Raise StoreError where meta.json is damaged: without its rules, what was left out would count as the agent's."""
    path = os.path.join(session.directory, META)
    try:
        with open(path, "rb") as file:
            if not isinstance(json.loads(file.read()), dict):
                raise ValueError
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise StoreError(f"{path} is damaged; nothing is restored without it") from None


def _read_meta(path: str) -> Mapping[str, Any]:
    try:
        with open(os.path.join(path, META), "rb") as file:
            meta = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}
