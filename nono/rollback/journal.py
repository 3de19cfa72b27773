"""The journal of one restore: what it is about to do, written before it does it, and how far it came.

The first line is the state, of fixed length, so that going on is one write in place, which needs no room on a full
disk. Then one JSON document a line: the roots, with the name of the staging directory in each; what had to be opened to
look into it; the steps and directories of the plan. It comes to be as a whole (temporary file, fsync, rename), and what
is added to it before the state APPLYING counts only then.

    STAGING    nothing has been changed but for the staging directories -> abandon
    APPLYING   every step may or may not have been done                 -> go on forward
    REVERTING  the same                                                 -> go on backward
    RESTORED   all done, the staging directories are still there        -> tidy up
    REVERTED   all undone, they are still there                         -> tidy up

Whoever has it open holds a lock on it (flock), so that there is one at a time. Names of files are written as Python's
surrogateescape has them: JSON escapes what is not UTF-8.
"""

from __future__ import annotations

import fcntl
import json
import os
from base64 import b64decode, b64encode

from nono.errors import StoreError
from nono.kernel.sync import sync_directory
from nono.record import Record
from nono.rollback.reach import Meta
from nono.rollback.spool import Rows, Spool
from nono.rollback.steps import META, REMOVE, Directory, Plan, Step
from nono.rollback.tree import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

STAGING, APPLYING, REVERTING, RESTORED, REVERTED = "staging", "applying", "reverting", "restored", "reverted"
_STATES = (STAGING, APPLYING, REVERTING, RESTORED, REVERTED)
_STATE_BYTES = 16
_VERSION = 1


class StagedRoot(Record):
    """One root. staging: the name of the directory in it; holder: what the directory that holds that had before."""

    path: bytes
    is_file: bool
    staging: bytes
    holder: Meta


class Opened(Record):
    """What had to be opened to look at it, and what it had before."""

    root: int
    path: bytes
    meta: Meta


class Journal:
    """An open journal."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._spool = Spool(fd, is_owned=False)
        self.state = STAGING
        self.roots: list[StagedRoot] = []
        self.opened: list[Opened] = []
        self.plans: list[Plan] = []

    @classmethod
    def begin(cls, path: str, roots: Sequence[StagedRoot]) -> Journal:
        """Return a new journal in the state STAGING. Raises OSError."""
        scratch = f"{path}.new"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(scratch, flags, 0o600)
        journal = cls(path, fd)
        try:
            _lock(fd)
            head = {"version": _VERSION, "roots": [_root_out(root) for root in roots]}
            _write(fd, _state(STAGING) + _line(head))
            os.fsync(fd)
            os.rename(scratch, path)
            sync_directory(os.path.dirname(path))
        except BaseException:
            os.close(fd)
            raise
        journal.roots = list(roots)
        return journal

    @classmethod
    def read(cls, path: str) -> Journal | None:
        """Return the journal that is there, None for none. Raises StoreError."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"the journal {path} of a restore cannot be opened: {error.strerror}") from None
        journal = cls(path, fd)
        try:
            _lock(fd)
            journal._load()
        except BaseException:
            os.close(fd)
            raise
        return journal

    def go_on(self, state: str) -> None:
        """Write the state; it is on the disk when this returns."""
        os.pwrite(self._fd, _state(state), 0)
        os.fsync(self._fd)
        self.state = state

    def open_up(self, opened: Opened) -> None:
        """Note what is about to be opened."""
        _write(self._fd, _line({"opened": [opened.root, _text(opened.path), _meta_out(opened.meta)]}))
        os.fsync(self._fd)
        self.opened.append(opened)

    def write(self, plans: Sequence[Plan]) -> None:
        """Write what is to be done."""
        data = bytearray()
        for index, plan in enumerate(plans):
            for step in plan.steps:
                data += _line({"root": index, "step": _step_out(step)})
                if len(data) > 1 << 16:
                    _write(self._fd, bytes(data))
                    data.clear()
            for directory in plan.directories:
                data += _line({"root": index, "directory": _directory_out(directory)})
                if len(data) > 1 << 16:
                    _write(self._fd, bytes(data))
                    data.clear()
        _write(self._fd, bytes(data))
        os.fsync(self._fd)
        self.plans = list(plans)

    def end(self) -> None:
        """Remove the journal: there is nothing left to do."""
        os.unlink(self.path)
        sync_directory(os.path.dirname(self.path))
        self.close()

    def close(self) -> None:
        """Let go of the journal; it stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _load(self) -> None:
        with open(self._fd, "rb", closefd=False) as file:
            first = file.readline()
            self.state = first.strip().decode("ascii", "replace")
            try:
                head = json.loads(file.readline())
                if self.state not in _STATES or head["version"] != _VERSION:
                    raise ValueError(self.state)
                self.roots = [_root_in(root) for root in head["roots"]]
                self.plans = [self._plan() for _ in self.roots]
                at = file.tell()
                for line in file:
                    try:
                        self._take(line, at)
                    except (ValueError, KeyError, TypeError, IndexError):
                        if self.state == STAGING:
                            break  # it was being written; what was not synced may be anything, and does not count
                        raise
                    at += len(line)
            except (ValueError, KeyError, TypeError, IndexError):
                raise StoreError(
                    f"the journal {self.path} of a restore is damaged; what it had moved is in the directories "
                    "named .nono-restore-* in the roots of the session"
                ) from None
        for plan in self.plans:
            plan.removes.reverse()  # they are written as they are done: what is in a directory before it

    def _take(self, line: bytes, at: int) -> None:
        """Take one line, which stands there in the file. Raises ValueError, KeyError, TypeError, IndexError."""
        if not line.endswith(b"\n"):
            raise ValueError(line)
        entry = json.loads(line)
        if "step" in entry:
            _rows_of(self.plans[entry["root"]], _step_in(entry["step"])).note(at, len(line))
        elif "directory" in entry:
            _directory_in(entry["directory"])
            self.plans[entry["root"]].directories.note(at, len(line))
        elif "opened" in entry:
            root, path, meta = entry["opened"]
            self.opened.append(Opened(root, os.fsencode(path), _meta_in(meta)))

    def _plan(self) -> Plan:
        """Return a plan whose rows are the journal's."""
        removes, puts, metas = (Rows(self._spool, _never, _step_of) for _ in range(3))
        return Plan.empty(Spool())._replace(
            removes=removes, puts=puts, metas=metas, directories=Rows(self._spool, _never, _directory_of)
        )


def _rows_of(plan: Plan, step: Step) -> Rows[Step]:
    return {REMOVE: plan.removes, META: plan.metas}.get(step.operation, plan.puts)


def _never(value: object) -> bytes:
    raise AssertionError(value)  # Journal.write writes them


def _step_of(row: bytes) -> Step:
    return _step_in(json.loads(row)["step"])


def _directory_of(row: bytes) -> Directory:
    return _directory_in(json.loads(row)["directory"])


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError("another restore of this session is running; wait for its end") from None


def _state(state: str) -> bytes:
    return f"{state:<{_STATE_BYTES - 1}}\n".encode()


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _text(path: bytes) -> str:
    return os.fsdecode(path)


def _meta_out(meta: Meta | None) -> Any:
    if meta is None:
        return None
    xattrs = meta.xattrs and [[_text(name), b64encode(value).decode()] for name, value in meta.xattrs]
    return [meta.mode, meta.mtime_ns, xattrs, meta.uid, meta.gid]


def _meta_in(value: Any) -> Meta:
    mode, mtime_ns, xattrs, *owner = value
    if xattrs is not None:
        xattrs = tuple((os.fsencode(name), b64decode(content)) for name, content in xattrs)
    return Meta(mode, mtime_ns, xattrs, *owner)


def _root_out(root: StagedRoot) -> Any:
    return [_text(root.path), root.is_file, _text(root.staging), _meta_out(root.holder)]


def _root_in(value: Any) -> StagedRoot:
    path, is_file, staging, holder = value
    return StagedRoot(os.fsencode(path), bool(is_file), os.fsencode(staging), _meta_in(holder))


def _entry_out(entry: Entry | None) -> Any:
    if entry is None:
        return None
    meta = _meta_out(Meta(entry.mode, entry.mtime_ns, entry.xattrs, entry.uid, entry.gid))
    return [entry.kind, meta, entry.size, entry.device, entry.inode, entry.digest, _text(entry.target)]


def _entry_in(path: bytes, value: Any) -> Entry | None:
    if value is None:
        return None
    kind, meta, size, device, inode, digest, target = value
    found = _meta_in(meta)
    return Entry(
        path,
        kind,
        found.mode,
        found.mtime_ns,
        0,
        size,
        device,
        inode,
        1,
        digest,
        os.fsencode(target),
        found.xattrs or (),
        uid=found.uid,
        gid=found.gid,
    )


def _step_out(step: Step) -> Any:
    return [
        step.operation, _text(step.path), step.number, _entry_out(step.was), _entry_out(step.becomes), step.link_to,
    ]  # fmt: skip


def _step_in(value: Any) -> Step:
    operation, text, number, was, becomes, link_to = value
    path = os.fsencode(text)
    return Step(operation, path, number, _entry_in(path, was), _entry_in(path, becomes), link_to)


def _directory_out(directory: Directory) -> Any:
    return [_text(directory.path), _meta_out(directory.after), _meta_out(directory.before)]


def _directory_in(value: Any) -> Directory:
    path, after, before = value
    return Directory(
        os.fsencode(path),
        _meta_in(after) if after is not None else None,
        _meta_in(before) if before is not None else None,
    )
