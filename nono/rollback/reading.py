"""Take one entry's contents, attributes or target, once the walk has found it and it is new.

Everything is opened anew, relative to its directory (tree.Ladder) and never through a link. A file is opened with
O_PATH first, which opens nothing: only when fstat(2) says that it is a regular file is it opened for reading, by its
descriptor. So a fifo that was put in its place neither blocks nor wakes its writer, and a device does nothing. What
fstat(2) says before and after tells whether a file was written meanwhile; then it is read again, `_ATTEMPTS` times.
"""

from __future__ import annotations

import os
from errno import EINVAL, ELOOP, ENOENT, ENOTDIR, ENOTSUP
from stat import S_ISDIR, S_ISLNK, S_ISREG

from nono.errors import UsageError
from nono.rollback.tree import O_PATH, UNREADABLE, Entry, Ladder, Root, count_bytes, entry_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.rollback.objects import Stage

CHANGED = "changed while it was read"
_ATTEMPTS = 3
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | getattr(os, "O_NOCTTY", 0)
_GONE = (ENOENT, ENOTDIR, ELOOP)
_MAX_XATTR_BYTES = 256 << 10  # of one file: more than ext4 has room for; XFS would take hundreds of megabytes
_USER = "user."  # the attributes that a user may set: xattr(7); the others are the kernel's, or root's
_CAPABILITY = "security.capability"  # what a program may do whoever starts it: capabilities(7)
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")


class Budget:
    """How much may still be read: a file can grow after it was counted. Shared by threads; a little more is no harm."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    def take(self, size: int) -> None:
        """Raises UsageError."""
        self._taken += size
        if self._taken > self._limit:
            raise UsageError("the files grow while they are stored, beyond --rollback-max-size; see what writes them")


class Reader:
    """Reads the entries of one root, in any order; one for each thread. A context manager."""

    def __init__(self, root: Root, stage: Stage, budget: Budget) -> None:
        """root: owned by the Reader from now on."""
        self._ladder = Ladder(root.fd)
        self._name = root.name
        self._stage = stage
        self._budget = budget
        self.written = 0

    def __enter__(self) -> Reader:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        self._ladder.close()

    def read(self, path: bytes) -> Entry | None:
        """The whole entry, as it is now; None when it is gone. Raises StoreError, UsageError."""
        try:
            return self._read(path)
        except OSError as error:
            if error.errno in _GONE:
                return None
            return self._unreadable(path, error)

    def _read(self, path: bytes) -> Entry:
        if not path and not self._name:
            return self._directory(b"", self._ladder.directory(b""))
        directory, _, name = path.rpartition(b"/")
        directory_fd = self._ladder.directory(directory)
        name = name or self._name
        if O_PATH == os.O_RDONLY:  # macOS: it would open what must not be, and fail for a link
            found = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
            if S_ISLNK(found.st_mode):
                return entry_of(path, found)._replace(target=os.readlink(name, dir_fd=directory_fd))
            if not S_ISREG(found.st_mode) and not S_ISDIR(found.st_mode):
                return entry_of(path, found)
        fd = os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory_fd)
        try:
            found = os.fstat(fd)
            if S_ISDIR(found.st_mode):
                return self._directory(path, self._ladder.directory(path))
            if S_ISLNK(found.st_mode):
                return entry_of(path, found)._replace(target=os.readlink(b"", dir_fd=fd))
            if not S_ISREG(found.st_mode):
                return entry_of(path, found)
            file = _reopen(fd, found, name, directory_fd)
        finally:
            os.close(fd)
        try:
            return self._file(path, file)
        finally:
            os.close(file)

    def _directory(self, path: bytes, fd: int) -> Entry:
        xattrs, note = xattrs_of(fd)
        return entry_of(path, os.fstat(fd), note=note)._replace(xattrs=xattrs)

    def _file(self, path: bytes, fd: int) -> Entry:
        note = CHANGED
        for _ in range(_ATTEMPTS):
            before = os.fstat(fd)
            self._budget.take(count_bytes(before.st_size, before.st_blocks))
            xattrs, xattr_note = xattrs_of(fd)
            stored = self._stage.put(fd, before.st_size)
            self.written += stored.written
            after = os.fstat(fd)
            if _state(before) == _state(after) and stored.size == after.st_size:
                note = xattr_note
                break
        return entry_of(path, after, note=note)._replace(size=stored.size, digest=stored.digest, xattrs=xattrs)

    def _unreadable(self, path: bytes, error: OSError) -> Entry | None:
        directory, _, name = path.rpartition(b"/")
        try:
            found = os.stat(name or self._name, dir_fd=self._ladder.directory(directory), follow_symlinks=False)
        except OSError:
            return None
        return entry_of(path, found, UNREADABLE, error.strerror or "")


def _state(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _reopen(path_fd: int, found: os.stat_result, name: bytes, directory_fd: int) -> int:
    """Open for reading what the descriptor, of a regular file, stands for."""
    try:
        return os.open(b"/proc/self/fd/%d" % path_fd, _READ)
    except (FileNotFoundError, PermissionError):  # no /proc; or the file is not to be read, as the next one will say
        fd = os.open(name, _READ | os.O_NOFOLLOW, dir_fd=directory_fd)
    now = os.fstat(fd)
    if (now.st_dev, now.st_ino) != (found.st_dev, found.st_ino):
        os.close(fd)
        raise FileNotFoundError(ENOENT, os.strerror(ENOENT))
    return fd


def xattrs_of(fd: int) -> tuple[tuple[tuple[bytes, bytes], ...], str]:
    """The attributes that a user may set, sorted, and a note of those that could not be read."""
    try:
        names = os.listxattr(fd)
    except AttributeError:  # macOS: Python has no call for it
        return (), ""
    except OSError as error:
        return (), "" if error.errno in (ENOTSUP, EINVAL) else f"its attributes could not be read: {error.strerror}"
    if not names:
        return (), ""
    found, lost, size = [], [], 0
    for name in sorted(names):
        if name.startswith(_USER) or name in _ACLS:
            try:
                value = os.getxattr(fd, name)
            except OSError as error:
                lost.append(f"{name} ({error.strerror})")
                continue
            size += len(value)
            if size > _MAX_XATTR_BYTES:
                lost.append("and more, which are too large")
                break
            found.append((os.fsencode(name), value))
        elif name == _CAPABILITY:
            lost.append(f"{name} (a program that is put back has no rights of its own)")
    return tuple(found), f"attributes that could not be kept: {', '.join(lost)}"[:1000] if lost else ""
