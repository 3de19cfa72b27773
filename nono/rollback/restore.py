"""Carry out a restore so that it can be killed at any instruction: run again, it is done whole, or not at all.

Before anything of the user's is changed, all that will be needed is there: the new files, links and directories lie in
a staging directory of each root (same file system), with their contents, modes and times, synced; and the journal says
what is to be done. A full disk shows now, and then the staging directory goes and nothing was changed.

What follows is renames: the old into the staging directory (the trash), the new out of it. So the disk itself says how
far it came, and every step can be repeated, and undone, without being asked how far it was:

    replace   old-N is a second name of the old file, then new-N is renamed over it: there is no moment without a file
    remove    the old is renamed to old-N
    place     new-N is renamed to where nothing is

Modes and times come last, the deepest directory first. Then the state is RESTORED, the trash goes, and the journal.

What is about to be replaced or removed is looked at once more: when it is not what the plan saw (another process is at
work there), everything is undone. What somebody wrote in the place of what was put there by then gets a name beside it.
A file that somebody holds open keeps its old contents for him.

A failure on the way (a full disk, one that has become read-only) undoes what was done. When not even that works, the
journal stays, and nothing is lost: the old is in the trash, until running it again has finished.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from errno import EEXIST, ELOOP, ENOENT, ENOTDIR, ENOTEMPTY
from itertools import chain, islice

from nono.errors import StoreError
from nono.rollback.journal import APPLYING, RESTORED, REVERTED, REVERTING, STAGING, Journal, Opened, StagedRoot
from nono.rollback.reach import Meta, Reach, add_mode, look, set_meta, set_meta_of
from nono.rollback.staging import check_room, new_name, old_name, stage
from nono.rollback.steps import META, PLACE, REMOVE, REPLACE, Plan, Step, meta_of
from nono.rollback.tree import DIRECTORY, FILE, LINK, SPECIAL, Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

STAGING_PREFIX = b".nono-restore-"
_ASIDE = b".written-during-restore-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_A_TIME = 4096  # names of the trash that are removed before it is listed anew
_KINDS = {stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: LINK}


class Restore:
    """One restore: a context manager, left with everything as it was unless `carry_out` has returned.

    Look at the trees only inside of it: it holds the lock.
    """

    def __init__(self, journal_path: str, roots: Sequence[tuple[bytes, bool]]) -> None:
        """journal_path: where its journal is to be. roots: path, and whether it is a file."""
        self._path = journal_path
        self._roots = roots
        self._journal: Journal | None = None
        self._reaches: list[Reach] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Raises StoreError: a root is gone, another restore is running or was interrupted."""
        with ExitStack() as undo:
            staged = []
            for path, is_file in self._roots:
                reach = undo.enter_context(Reach(path, is_file=is_file))
                self._reaches.append(reach)
                staged.append(StagedRoot(path, is_file, STAGING_PREFIX + os.urandom(8).hex().encode(), _holder(reach)))
            if os.path.lexists(self._path):
                raise StoreError("a restore of this session was interrupted; run: nono rollback restore")
            try:
                self._journal = Journal.begin(self._path, staged)
            except OSError as error:
                raise StoreError(f"the journal {self._path} cannot be written: {error.strerror}") from None
            self._open = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._open:
            if self._journal is not None and self._journal.state == STAGING:
                _abandon(self._journal, self._reaches)

    def open_up(self, root: int, entry: Entry) -> None:
        """Let this user read, write and search what he may not; it gets its mode back in the end."""
        assert self._journal is not None
        self._journal.open_up(Opened(root, entry.path, Meta(entry.mode, entry.mtime_ns, None, entry.uid, entry.gid)))
        _open_up(self._reaches[root], entry.path)

    def carry_out(
        self,
        plans: Sequence[Plan],
        copy_to: Callable[[str, int], None],
        room_for: Callable[[Entry, int], int] = lambda entry, device: entry.size,
    ) -> None:
        """Do what the plans, one a root, say. copy_to: writes the contents with a digest into an open file.

        room_for: how many bytes a file takes on the file system with this device number.
        Raises StoreError; then everything is as it was, unless it says otherwise.
        """
        journal = self._journal
        assert journal is not None
        try:
            for reach, plan in zip(self._reaches, plans, strict=True):
                check_room(reach, plan, room_for)
            journal.write(plans)
            for reach, plan, root in zip(self._reaches, plans, journal.roots, strict=True):
                stage(reach, plan, root.staging, copy_to)
            journal.go_on(APPLYING)
        except OSError as error:
            raise StoreError(f"nothing was changed: {_words(error)}") from None
        _finish(journal, self._reaches)


def recover(journal_path: str) -> str:
    """Finish what a restore that was interrupted had begun; return RESTORED, REVERTED, or "" where there is none.

    Raises StoreError.
    """
    journal = Journal.read(journal_path)
    if journal is None:
        return ""
    try:
        with ExitStack() as stack:
            reaches = [stack.enter_context(Reach(root.path, is_file=root.is_file)) for root in journal.roots]
            if journal.state == STAGING:
                _abandon(journal, reaches)
                return REVERTED
            return _finish(journal, reaches)
    finally:
        journal.close()


def _finish(journal: Journal, reaches: Sequence[Reach]) -> str:
    """Go from any state but STAGING to the end; return how it ended. Raises StoreError when that is REVERTED anew."""
    failure: BaseException | None = None
    aside: list[str] = []
    try:
        if journal.state == APPLYING:
            try:
                for reach, plan, root in zip(reaches, journal.plans, journal.roots, strict=True):
                    _apply(reach, plan, root.staging)
                _settle(journal, reaches, forward=True)
                journal.go_on(RESTORED)
            except BaseException as error:  # noqa: BLE001  (^C, too; it is raised below)
                failure = error
                journal.go_on(REVERTING)
        if journal.state == REVERTING:
            for reach, plan, root in zip(reaches, journal.plans, journal.roots, strict=True):
                try:
                    aside += _revert(reach, plan, root.staging)
                except StoreError as error:
                    raise StoreError(
                        f"{error}. All that gave way is in the store: to go on without that, remove {journal.path} "
                        "and run this again with --force"
                    ) from None
            _settle(journal, reaches, forward=False)
            journal.go_on(REVERTED)
        ended = journal.state
        _tidy(journal, reaches)
    except OSError as error:
        journal.close()
        raise StoreError(
            f"the restore could not be finished, nor undone: {_words(error)}. Nothing is lost: when that is put right, "
            "run it again"
        ) from None
    if isinstance(failure, (OSError, StoreError)):
        reason = _words(failure) if isinstance(failure, OSError) else str(failure)
        also = f". What was written there meanwhile is now {', '.join(aside)}" if aside else ""
        raise StoreError(f"nothing was changed: {reason}{also}") from None
    if failure is not None:
        raise failure
    return ended


def _abandon(journal: Journal, reaches: Sequence[Reach]) -> None:
    """Go back from the state STAGING."""
    try:
        for opened in reversed(journal.opened):
            _set(reaches[opened.root], opened.path, opened.meta)
        _tidy(journal, reaches)
    except OSError as error:
        journal.close()
        raise StoreError(
            f"nothing was changed, but a staging directory ({os.fsdecode(STAGING_PREFIX)}…) is left: {_words(error)}; "
            "the next restore removes it"
        ) from None


def _apply(reach: Reach, plan: Plan, staging_name: bytes) -> None:
    """Do every step that is not done."""
    with _staging(reach, plan, staging_name) as staging:
        for step in plan.steps:
            try:
                _apply_one(reach, staging, step)
            except OSError as error:
                error.filename = reach.path + b"/" + step.path if step.path else reach.path
                raise


def _apply_one(reach: Reach, staging: int, step: Step) -> None:
    if step.operation == META:
        assert step.was is not None
        assert step.becomes is not None
        _check_still(reach, step, metas=(meta_of(step.was), meta_of(step.becomes)))
        _set(reach, step.path, meta_of(step.becomes))
    elif step.operation == REMOVE:
        _remove(reach, staging, step)
    elif look(staging, new_name(step.number)) is not None:
        _put(reach, staging, step)


def _remove(reach: Reach, staging: int, step: Step) -> None:
    assert step.was is not None
    if look(staging, old_name(step.number)) is None:
        _check_still(reach, step)
        if step.was.kind == DIRECTORY:
            reach.directory(step.path)  # moving one writes to it: its ".." changes
            reach.forget(step.path)
        directory_fd, name = reach.parent(step.path)
        os.rename(name, old_name(step.number), src_dir_fd=directory_fd, dst_dir_fd=staging)
    if step.was.kind == DIRECTORY and not _is_empty(staging, old_name(step.number)):
        raise _changed(reach, step.path)


def _is_empty(directory_fd: int, name: bytes) -> bool:
    fd = os.open(name, _DIRECTORY, dir_fd=directory_fd)
    try:
        return not os.listdir(fd)
    finally:
        os.close(fd)


def _put(reach: Reach, staging: int, step: Step) -> None:
    new, old = new_name(step.number), old_name(step.number)
    directory_fd, name = reach.parent(step.path)
    if step.operation == REPLACE:
        is_saved = look(staging, old) is not None
        if not is_saved or look(directory_fd, name) is not None:
            _check_still(reach, step)
            directory_fd, name = reach.parent(step.path)
        if not is_saved:
            try:
                os.link(name, old, src_dir_fd=directory_fd, dst_dir_fd=staging, follow_symlinks=False)
            except FileExistsError:
                raise
            except OSError:  # no second names on this file system, or of this file
                os.rename(name, old, src_dir_fd=directory_fd, dst_dir_fd=staging)
        there, saved = look(directory_fd, name), look(staging, old)
        if there is not None and (saved is None or not os.path.samestat(there, saved)):
            raise _changed(reach, step.path)
    elif look(directory_fd, name) is not None:
        raise _changed(reach, step.path)
    os.rename(new, name, src_dir_fd=staging, dst_dir_fd=directory_fd)


def _revert(reach: Reach, plan: Plan, staging_name: bytes) -> list[str]:
    """Undo every step that is done; return where to what somebody wrote meanwhile was moved."""
    aside: list[str] = []
    with _staging(reach, plan, staging_name) as staging:
        for step in plan.backward:
            new, old = new_name(step.number), old_name(step.number)
            if step.operation == META:
                assert step.was is not None
                _set(reach, step.path, meta_of(step.was))
                continue
            saved = look(staging, old)
            if saved is not None:
                directory_fd, name = reach.parent(step.path)
                there = look(directory_fd, name)
                if there is not None and os.path.samestat(there, saved):
                    os.unlink(old, dir_fd=staging)  # it had its second name only
                else:
                    _set_aside(reach, step, aside)
                    directory_fd, name = reach.parent(step.path)
                    os.rename(old, name, src_dir_fd=staging, dst_dir_fd=directory_fd)
            elif step.operation == PLACE and look(staging, new) is None:
                _take_back(reach, staging, step, aside)
    return aside


def _take_back(reach: Reach, staging: int, step: Step, aside: list[str]) -> None:
    try:
        if step.becomes is not None and step.becomes.kind == DIRECTORY:
            reach.directory(step.path)
        reach.forget(step.path)
        if not _set_aside(reach, step, aside):
            directory_fd, name = reach.parent(step.path)
            os.rename(name, new_name(step.number), src_dir_fd=directory_fd, dst_dir_fd=staging)
    except FileNotFoundError:
        pass  # taken back before, with the directory that it was in
    except OSError as error:
        if error.errno != ENOTDIR:
            raise


def _set_aside(reach: Reach, step: Step, aside: list[str]) -> bool:
    """Where at the step's path is what neither the restore nor the session put there, give it a name beside that."""
    directory_fd, name = reach.parent(step.path)
    there, becomes = look(directory_fd, name), step.becomes
    if there is None:
        return False
    if becomes is not None and _KINDS.get(stat.S_IFMT(there.st_mode)) == becomes.kind:
        if becomes.kind == DIRECTORY:
            is_ours = _is_empty(directory_fd, name)
        else:
            is_ours = there.st_mtime_ns == becomes.mtime_ns and (becomes.kind == LINK or there.st_size == becomes.size)
        if is_ours:
            return False
    if stat.S_ISDIR(there.st_mode):
        reach.forget(step.path)
        directory_fd, name = reach.parent(step.path)
    beside = name[: 255 - len(_ASIDE) - 8] + _ASIDE + os.urandom(4).hex().encode()
    os.rename(name, beside, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    path = reach.path if reach.name else reach.path + b"/" + step.path
    aside.append(os.fsdecode(path.rpartition(b"/")[0] + b"/" + beside))
    return True


def _settle(journal: Journal, reaches: Sequence[Reach], *, forward: bool) -> None:
    """Give directories their modes and times, and what had been opened, too; all is synced then."""
    ours = {(opened.root, opened.path) for opened in journal.opened}
    stepped = {
        (index, path)
        for index, plan in enumerate(journal.plans if ours else ())
        for path in chain((step.path for step in plan.steps), (each.path for each in plan.directories))
        if (index, path) in ours
    }
    for opened in reversed(journal.opened):
        if not forward or (opened.root, opened.path) not in stepped:
            _set(reaches[opened.root], opened.path, opened.meta)
    for reach, plan in zip(reaches, journal.plans, strict=True):
        for directory in plan.directories:
            meta = directory.after if forward else directory.before
            if meta is not None:
                _set(reach, directory.path, meta, sync=True)


def _set(reach: Reach, path: bytes, meta: Meta, *, sync: bool = False) -> None:
    """Give what is at `path` these modes and times; nothing where it is gone."""
    if not path and not reach.name:
        now = os.fstat(reach.fd)
        if sync:
            os.fsync(reach.fd)
        set_meta_of(reach.fd, now, meta)
        return
    try:
        if sync:
            os.fsync(reach.directory(path))
        directory_fd, name = reach.holder(path)
        set_meta(directory_fd, name, meta)
    except (FileNotFoundError, NotADirectoryError):
        pass


def _tidy(journal: Journal, reaches: Sequence[Reach]) -> None:
    """Remove the staging directories, give the directories that held them their times back, remove the journal."""
    for index, (reach, root) in enumerate(zip(reaches, journal.roots, strict=True)):
        reach.forget()
        holder = root.holder
        directories = journal.plans[index].directories if index < len(journal.plans) else ()
        for directory in islice(reversed(directories), 1):  # the root's is the last
            if not directory.path and not reach.name:
                holder = (directory.after if journal.state == RESTORED else directory.before) or holder
        found = look(reach.fd, root.staging)
        if found is not None and stat.S_ISDIR(found.st_mode):  # or somebody has taken it away: what is there is his
            reach.directory(b"")
            _remove_staging(reach.fd, root.staging)
        os.fsync(reach.fd)
        if _holder(reach) != holder._replace(xattrs=None):
            set_meta_of(reach.fd, os.fstat(reach.fd), holder)
    journal.end()


def _remove_staging(parent_fd: int, name: bytes) -> None:
    fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    try:
        count = 0
        while names := _some_names(fd):
            for each in names:
                found = look(fd, each)
                if found is None:
                    continue
                if not stat.S_ISDIR(found.st_mode):
                    os.unlink(each, dir_fd=fd)
                    continue
                try:
                    os.rmdir(each, dir_fd=fd)
                except OSError as error:
                    if error.errno not in (ENOTEMPTY, EEXIST):
                        raise
                    count = _raise_contents(fd, each, count)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent_fd)


def _some_names(fd: int) -> list[bytes]:
    with os.scandir(fd) as found:
        return [os.fsencode(item.name) for item in islice(found, _AT_A_TIME)]


def _raise_contents(fd: int, name: bytes, count: int) -> int:
    """Move what somebody has put into a directory of the trash meanwhile up into the trash itself."""
    inner = os.open(name, _DIRECTORY, dir_fd=fd)
    try:
        for each in os.listdir(inner):
            count += 1
            os.rename(os.fsencode(each), b"more-%d" % count, src_dir_fd=inner, dst_dir_fd=fd)
    finally:
        os.close(inner)
    return count


@contextmanager
def _staging(reach: Reach, plan: Plan, name: bytes) -> Iterator[int]:
    """Open the staging directory of a root; -1 where nothing was staged. Raises StoreError."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=reach.fd)
    except OSError as error:
        if error.errno not in (ENOENT, ENOTDIR, ELOOP):
            raise
        if plan.step_count:
            raise StoreError(
                f"{os.fsdecode(reach.path + b'/' + name)} was removed, which held what was moved"
            ) from None
        fd = -1
    try:
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)


def _check_still(reach: Reach, step: Step, metas: Sequence[Meta] = ()) -> None:
    """Raise StoreError when at the step's path is not what the plan saw."""
    directory_fd, name = reach.holder(step.path)
    now, was = look(directory_fd, name), step.was
    assert was is not None
    if (
        now is None
        or _KINDS.get(stat.S_IFMT(now.st_mode), SPECIAL) != was.kind
        or (now.st_dev, now.st_ino) != (was.device, was.inode)
        or (was.kind == FILE and now.st_size != was.size)
        or (was.kind == FILE and now.st_mtime_ns not in (was.mtime_ns, *(meta.mtime_ns for meta in metas)))
    ):
        raise _changed(reach, step.path)


def _changed(reach: Reach, path: bytes) -> StoreError:
    whole = os.fsdecode(reach.path + b"/" + path if path else reach.path)
    return StoreError(f"{whole} was changed while it was being restored; when nothing else works there, run it again")


def _open_up(reach: Reach, path: bytes) -> None:
    directory_fd, name = reach.holder(path)
    found = look(directory_fd, name)
    if found is not None and (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        bits = 0o700 if stat.S_ISDIR(found.st_mode) else 0o600
        add_mode(directory_fd, name, bits)


def _holder(reach: Reach) -> Meta:
    now = os.fstat(reach.fd)
    return Meta(stat.S_IMODE(now.st_mode), now.st_mtime_ns, None, now.st_uid, now.st_gid)


def _words(error: OSError) -> str:
    where = error.filename if isinstance(error.filename, str) else os.fsdecode(error.filename or b"")
    return f"{where}: {error.strerror}" if where.startswith("/") else str(error.strerror)


def pending(journal_path: str) -> Iterator[bytes]:
    """Yield the roots of a restore that was interrupted; none where none was."""
    journal = Journal.read(journal_path)
    if journal is not None:
        journal.close()
        yield from (root.path for root in journal.roots)
