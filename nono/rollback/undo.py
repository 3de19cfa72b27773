"""Undo a session: from its manifests and what is there now to a plan, and to its restore.

What is there now is listed as the final snapshot was taken (the same rules), into a manifest of its own: what stat(2)
says to be unchanged since is not read again. Nothing is stored for a preview. For a restore, the contents of what gives
way and is not in the store are put there first, and the listing stays with the session (`saved-N`): so a restore can be
undone, too.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from nono.errors import StoreError, UsageError
from nono.kernel.sync import sync_directory
from nono.record import Record
from nono.rollback import sessions
from nono.rollback.changes import merge
from nono.rollback.ignore import Ignore, Rules
from nono.rollback.journal import RESTORED, REVERTED
from nono.rollback.manifest import Manifest, Writer, stat_part
from nono.rollback.objects import Store, clone, copy, has_digest, has_holes, hash_of
from nono.rollback.planning import May, plan
from nono.rollback.reach import Reach
from nono.rollback.reading import xattrs_of
from nono.rollback.restore import Restore, pending, recover
from nono.rollback.sessions import Session
from nono.rollback.spool import PLAN, Spool
from nono.rollback.steps import META, Plan
from nono.rollback.tree import DIRECTORY, FILE, LINK, SPECIAL, UNREADABLE, Entry, Root, Walk, open_root

SAVED = "saved-"
_NOW = "now-"  # and the process that lists what there is, for as long as it plans
_PENDING = ".pending"  # until the restore before which it was listed is done
_RACY_NS = 2_000_000_000  # what was changed so shortly before a listing began is read anew
_ROUNDS = 64  # directories in directories that had to be opened first
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_GONE = (FileNotFoundError, NotADirectoryError)


class Undone(Record):
    """What a restore did, or would do: (root, plan) each. saved: the name of the listing from before; "" for none."""

    plans: tuple[tuple[bytes, Plan], ...]
    saved: str = ""

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to do."""
        return all(each.is_nothing for _, each in self.plans)


class Selection(Record):
    """Which paths, absolute: themselves and, unless is_exact, what is below them; () for all."""

    paths: tuple[bytes, ...] = ()
    is_exact: bool = False

    def chooser(self, root: bytes) -> Callable[[bytes], bool]:
        """Return whether a path of this root is chosen."""
        if not self.paths:
            return lambda path: True
        prefix = root.rstrip(b"/") + b"/"
        within = {path[len(prefix) :] for path in self.paths if path.startswith(prefix)}
        if self.is_exact:
            whole = root in self.paths
            return lambda path: path in within if path else whole
        if any(path == root or prefix.startswith(path.rstrip(b"/") + b"/") for path in self.paths):
            return lambda path: True
        below = tuple(path + b"/" for path in within)
        return lambda path: path in within or path.startswith(below)


def preview(session: Session, store: Store, selection: Selection, *, force: bool = False, undo: bool = False) -> Undone:
    """Return what a restore would do now. Raises StoreError, UsageError."""
    with ExitStack() as stack:
        before, after = _listings(stack, session, undo=undo)
        now = os.path.join(session.directory, f"{_NOW}{os.getpid()}")
        stack.callback(_remove, now)
        _list(session, now, before, after, {}, None)
        with Manifest(now) as current:
            return Undone(_plans(session, before, after, current, {}, selection, store, force=force))


def restore(
    session: Session,
    store: Store,
    selection: Selection,
    *,
    force: bool = False,
    undo: bool = False,
    check: Callable[[Undone], None] = lambda undone: None,
) -> Undone:
    """Put back what the session changed; return what was done. An interrupted restore is finished before.

    check: shown what is about to be done; what it raises stops it. Raises StoreError, UsageError.
    """
    with ExitStack() as stack:
        stack.callback(os.close, sessions.hold(session))
        _remove_abandoned(session)
        _settle_saved(session, recover(session.journal))
        stack.enter_context(store.lock())
        before, after = _listings(stack, session, undo=undo)
        roots = [(root.path, _is_file(root.path)) for root in before.roots]
        opened: dict[tuple[int, bytes], Entry] = {}
        failed: list[bool] = []
        stack.callback(lambda: _settle_saved(session, REVERTED) if failed and not interrupted(session) else None)
        running = stack.enter_context(Restore(session.journal, roots))
        now = os.path.join(session.directory, f"{_NOW}{os.getpid()}")
        stack.callback(_remove, now)
        _list(session, now, before, after, opened, running)
        with Manifest(now) as current:
            plans = _plans(session, before, after, current, opened, selection, store, force=force)
            undone = Undone(plans)
            check(undone)
            if undone.is_nothing:
                return undone
            _save(plans, store)
        saved = _next_saved(session)
        os.rename(now, os.path.join(session.directory, f"{saved}{_PENDING}"))
        sync_directory(session.directory)
        try:
            running.carry_out(
                [each for _, each in plans], lambda digest, fd: _copy_to(store, digest, fd), _room_for(store)
            )
        except BaseException:
            failed.append(True)  # settled when the journal of what was not begun is gone, too
            raise
        _settle_saved(session, RESTORED)
        return undone._replace(saved=saved)


def repair_modes(directory: str, session: Session | None = None) -> None:
    """Give the store's directories, and the session's files, the modes that they had: Landlock confines no chmod(2)."""
    objects = os.path.join(directory, "objects")
    for path in (directory, objects, os.path.join(directory, "staging"), os.path.join(directory, "sessions")):
        _repair(path, 0o700)
    if session is not None:
        _repair(session.directory, 0o700)
        for entry in (*os.scandir(objects), *os.scandir(session.directory)):
            if not entry.is_symlink():
                _repair(entry.path, 0o700 if entry.is_dir() else 0o600)


def _repair(path: str, mode: int) -> None:
    try:
        if stat.S_IMODE(os.lstat(path).st_mode) != mode:
            os.chmod(path, mode)
    except OSError:
        pass  # not there, or not ours: whoever needs it says so


def interrupted(session: Session) -> bool:
    """Whether a restore of this session was begun and not finished."""
    return os.path.exists(session.journal)


def finish(session: Session) -> str:
    """Finish an interrupted restore; return how it ended, see restore.recover. Raises StoreError."""
    fd = sessions.hold(session)
    try:
        ended = recover(session.journal)
        _settle_saved(session, ended)
        return ended
    finally:
        os.close(fd)


def interrupted_in(directory: str, roots: Sequence[bytes]) -> str:
    """Return the id of a session whose restore was interrupted in one of these trees; "" for none."""
    for session in sessions.sessions(directory):
        if interrupted(session):
            for path in pending(session.journal):
                if any(
                    (one + b"/").startswith(other + b"/")
                    for root in roots
                    for one, other in ((path, root), (root, path))
                ):
                    return session.id
    return ""


def unsettled_states(session: Session) -> list[str]:
    """Return the names of what was listed and saved before a restore that was not finished."""
    names = sorted(os.listdir(session.directory))
    return [name for name in names if name.startswith(SAVED) and name.endswith(_PENDING)]


def saved_states(session: Session) -> list[str]:
    """Return the names of what was listed and saved before each restore, oldest first."""
    names = [name for name in os.listdir(session.directory) if name.startswith(SAVED)]
    return sorted(
        (name for name in names if name.removeprefix(SAVED).isdigit()), key=lambda name: int(name[len(SAVED) :])
    )


def _listings(stack: ExitStack, session: Session, *, undo: bool) -> tuple[Manifest, Manifest | None]:
    """Return where it is to lead, and what the session left. Raises StoreError, UsageError."""
    sessions.check_meta(session)
    if undo:
        saved = saved_states(session)
        if not saved:
            raise UsageError(f"session {session.id} was not restored, so there is nothing to undo")
        before = stack.enter_context(Manifest(os.path.join(session.directory, saved[-1])))
        return before, stack.enter_context(Manifest(session.baseline))
    baseline = stack.enter_context(Manifest(session.baseline))
    return baseline, stack.enter_context(Manifest(session.final)) if session.ended else None


def _plans(
    session: Session,
    before: Manifest,
    after: Manifest | None,
    now: Manifest,
    opened: dict[tuple[int, bytes], Entry],
    selection: Selection,
    store: Store,
    *,
    force: bool,
) -> tuple[tuple[bytes, Plan], ...]:
    plans = []
    try:
        spool = Spool.beside(session.directory)
        may = May(lambda digest: bool(digest) and store.has(digest), _Giver(spool.fd).can_give)
    except OSError as error:
        raise StoreError(f"{session.directory} cannot be written: {error.strerror}") from None
    for index, root in enumerate(before.roots):
        left = _entries_of(after, root.path) if after is not None else None

        def current(path: bytes = root.path, index: int = index) -> Iterator[Entry]:
            for entry in _entries_of(now, path)():
                was = opened.get((index, entry.path))
                yield entry if was is None else entry._replace(mode=was.mode, mtime_ns=was.mtime_ns)

        try:
            made = plan(
                _entries_of(before, root.path),
                left,
                current,
                chosen=selection.chooser(root.path),
                force=force,
                may=may,
                spool=spool,
            )
        except OSError as error:
            raise StoreError(f"nothing was changed: {session.directory}: {error.strerror}") from None
        plans.append((root.path, made))
    return tuple(plans)


class _Giver:
    """Finds out to whom this user may give what he has, by giving away a file that nobody sees."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._found: dict[tuple[int, int], bool] = {}

    def can_give(self, uid: int, gid: int) -> bool:
        """Whether a file can get this owner and group."""
        if uid < 0 or gid < 0:
            return False
        if (uid, gid) not in self._found:
            try:
                os.fchown(self._fd, uid, gid)
                self._found[uid, gid] = True
            except OSError:
                self._found[uid, gid] = False
        return self._found[uid, gid]


def _entries_of(manifest: Manifest, root: bytes) -> Callable[[], Iterator[Entry]]:
    index = next((index for index, each in enumerate(manifest.roots) if each.path == root), -1)
    return lambda: manifest.entries(index) if index >= 0 else iter(())


def _list(
    session: Session,
    path: str,
    before: Manifest,
    after: Manifest | None,
    opened: dict[tuple[int, bytes], Entry],
    running: Restore | None,
) -> None:
    """Write what is there now into the manifest `path`. running: opens what cannot be read."""
    for _ in range(_ROUNDS):
        closed = _list_once(session, path, before, after)
        if running is None:
            return
        news = [(index, entry) for index, entry in closed if (index, entry.path) not in opened]
        if not news:
            return
        for index, entry in news:
            opened[index, entry.path] = entry
            try:
                running.open_up(index, entry)
            except PermissionError:
                continue


def _list_once(session: Session, path: str, before: Manifest, after: Manifest | None) -> list[tuple[int, Entry]]:
    meta, known = session.meta, after or before
    closed: list[tuple[int, Entry]] = []
    never = [os.fsencode(each) for each in meta.get("never", ())]
    across = [os.fsencode(each) for each in meta.get("across", ())]
    texts = meta.get("gitignore", {})
    started_ns = time.time_ns()
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            writer = Writer(file)
            for index, root in enumerate(before.roots):
                writer.begin_root(root.path)
                with _opened(root.path) as (walked, reach):
                    ignore = Ignore(rules_of(session), texts.get(os.fsdecode(root.path), {}))
                    walk = Walk(ignore.rule_for, ignore.enter, never, across)
                    gone = b"/"  # what is in a directory that went meanwhile
                    for left, entry in merge(_entries_of(known, root.path)(), walk.entries(walked)):
                        if entry is None or entry.path.startswith(gone):
                            continue
                        filled = _filled(reach, left, entry, known.started_ns)
                        if filled is None:
                            gone = entry.path + b"/"
                            continue
                        writer.add(filled)
                        if filled.reason == UNREADABLE and filled.kind in (FILE, DIRECTORY):
                            closed.append((index, filled))
            writer.finish(started_ns)
            os.fsync(file.fileno())  # it may stay, as what a restore can be undone by
    except OSError as error:
        raise StoreError(f"{error.filename or path} cannot be looked at: {error.strerror}") from None
    return closed


@contextmanager
def _opened(path: bytes) -> Iterator[tuple[Root, Reach]]:
    walked = open_root(path)
    if walked is None:
        raise StoreError(
            f"{os.fsdecode(path)} is not there any more. Make it again (mkdir; touch, if it was a file), and run this "
            "again"
        )
    with Reach(path, is_file=bool(walked.name)) as reach:
        yield walked, reach


def _filled(reach: Reach, left: Entry | None, entry: Entry, known_ns: int) -> Entry | None:
    """Return the entry with contents, target and attributes; None when it went meanwhile."""
    if entry.reason or entry.kind == SPECIAL:
        return entry
    if (
        left is not None
        and not left.reason
        and left.ctime_ns < known_ns - _RACY_NS
        and (left.digest or left.kind != FILE)
        and stat_part(left) == stat_part(entry)
    ):
        return entry._replace(digest=left.digest, target=left.target, xattrs=left.xattrs)
    try:
        directory_fd, name = reach.holder(entry.path) if entry.path or reach.name else (reach.fd, b".")
        if entry.kind == LINK:
            return entry._replace(target=os.readlink(name, dir_fd=directory_fd))
        fd = os.open(name, _OPEN, dir_fd=directory_fd)
    except _GONE:
        return None
    except OSError as error:
        return entry._replace(reason=UNREADABLE, note=error.strerror or "")
    try:
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != (entry.device, entry.inode):
            return None
        xattrs = xattrs_of(fd)[0]
        if entry.kind == FILE and stat.S_ISREG(found.st_mode):
            return entry._replace(
                digest=hash_of(fd, found.st_size, has_holes(fd, found)), size=found.st_size, xattrs=xattrs
            )
        return entry._replace(xattrs=xattrs)
    finally:
        os.close(fd)


def rules_of(session: Session) -> Rules:
    """Return what was left out of its snapshots, as meta.json has it."""
    told = session.meta.get("rules", {})
    return Rules(
        tuple(told.get("exclude", ())), tuple(told.get("include", ())),
        bool(told.get("defaults", True)), bool(told.get("gitignore", True)),
    )  # fmt: skip


def _save(plans: Sequence[tuple[bytes, Plan]], store: Store) -> None:
    """Store the contents of what gives way. Raises StoreError."""
    with store.stage() as stage:
        for path, made in plans:
            with Reach(path, is_file=_is_file(path)) as reach:
                for step in made.steps:
                    was = step.was
                    if was is None or was.kind != FILE or step.operation == META or store.has(was.digest):
                        continue
                    directory_fd, name = reach.holder(step.path)
                    try:
                        fd = os.open(name, _OPEN, dir_fd=directory_fd)
                    except OSError as error:
                        raise StoreError(f"{os.fsdecode(step.path)} cannot be saved first: {error.strerror}") from None
                    try:
                        if stage.put(fd, os.fstat(fd).st_size).digest != was.digest:
                            raise StoreError(f"{os.fsdecode(step.path)} is being written; run this again later")
                    finally:
                        os.close(fd)
        stage.commit()


def _settle_saved(session: Session, ended: str) -> None:
    """Let the listing from before a restore stay when that was done; remove it when it was not."""
    for name in unsettled_states(session):
        path = os.path.join(session.directory, name)
        if ended == REVERTED:
            _remove(path)
        else:  # without a journal: killed when all was over, so it may have been done
            os.rename(path, path.removesuffix(_PENDING))


def _remove_abandoned(session: Session) -> None:
    """Remove what a preview or a restore that was killed had listed."""
    for name in os.listdir(session.directory):
        if name.startswith((_NOW, PLAN)):
            try:
                os.kill(int(name.partition("-")[2]), 0)
            except (ProcessLookupError, ValueError, OverflowError):
                _remove(os.path.join(session.directory, name))
            except PermissionError:
                pass  # it lives


def _room_for(store: Store) -> Callable[[Entry, int], int]:
    """Return what tells how many bytes a file takes: what is stored, or none where the file system shares it."""
    shared = os.stat(store.objects).st_dev if _can_share(store.objects) else None

    def room(entry: Entry, device: int) -> int:
        if device == shared:
            return 0
        try:
            return min(entry.size, os.stat(store.path(entry.digest)).st_blocks * 512)
        except OSError:
            return entry.size

    return room


def _can_share(directory: str) -> bool:
    """Whether the file system of the store makes copies that share their contents."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None:
        return False
    try:
        one, other = (os.open(directory, flag | os.O_RDWR | os.O_CLOEXEC, 0o600) for _ in range(2))
    except OSError:
        return False
    try:
        os.write(one, bytes(4096))
        return clone(one, other)
    except OSError:
        return False
    finally:
        os.close(one)
        os.close(other)


def _copy_to(store: Store, digest: str, fd: int) -> None:
    try:
        source = store.open(digest)
    except StoreError:
        _repair(store.path(digest), 0o400)
        source = store.open(digest)
    try:
        copy(source, fd)
    finally:
        os.close(source)
    if not has_digest(fd, digest):
        raise StoreError(f"object {digest} of the store is damaged; nono rollback verify says what else is")


def _next_saved(session: Session) -> str:
    saved = saved_states(session)
    return f"{SAVED}{int(saved[-1][len(SAVED) :]) + 1 if saved else 1}"


def _is_file(path: bytes) -> bool:
    try:
        return not stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
