"""How restore reaches into one root: by descriptors only, so that what is planted there leads nowhere else.

A root is a directory, or one file in a directory that is not tracked itself. It is opened once, by its real path, of
which no part may be a link. From there each name is opened relative to the descriptor of the directory before it, never
following a link, never on another file system. Contents are read and written through the descriptor that was looked at.

A directory that its owner may not read, write or search is opened by giving him these rights: whoever uses that has
noted its mode before (the journal), and puts it back.

The directories on the way to the one that was used last stay open (tree.Ladder), one way to look and one to write: so a
deep tree costs what a flat one does.

A set-user-ID or set-group-ID bit is only ever given to what has the owner and the group that it is to have.

Sources: openat(2), symlink(7), chown(2); chmod(2) follows links, so it is given /proc/self/fd/N of an O_PATH
descriptor.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from errno import EACCES, EINVAL, ENODATA, ENOENT, ENOTSUP, EPERM, EXDEV
from functools import partial

from nono.errors import StoreError
from nono.kernel.paths import open_real
from nono.record import Record
from nono.rollback.tree import Ladder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC if hasattr(os, "O_PATH") else os.O_RDONLY | os.O_NOFOLLOW
_OWNER = 0o700
_IDENTITY_BITS = stat.S_ISUID | stat.S_ISGID


class Meta(Record):
    """What a file or directory has besides its content. xattrs: None for whatever it has. uid, gid: -1 for unknown."""

    mode: int
    mtime_ns: int
    xattrs: tuple[tuple[bytes, bytes], ...] | None = None
    uid: int = -1
    gid: int = -1


class Reach:
    """An open root; a context manager. path: absolute, real. name: of the file, where the root is one; else empty."""

    def __init__(self, path: bytes, *, is_file: bool = False) -> None:
        """Raises StoreError when it is not there, or a link is in its place."""
        self.path = path
        directory, _, name = path.rpartition(b"/") if is_file else (path, b"/", b"")
        self.name = name
        try:
            fd = open_real(os.fsdecode(directory or b"/"))
            try:
                self.fd = os.open(".", _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
        except OSError as error:
            to_do = (
                "where it was moved, move it back; where it was removed, make it again (mkdir; touch, if it was a file)"
            )
            if error.errno == EACCES:  # as an agent can leave it; what it was is not known, so nobody else opens it
                to_do = "if it is yours, say chmod u+rwx"
            raise StoreError(
                f"{os.fsdecode(directory)} cannot be opened: {error.strerror}; {to_do}, and run this again"
            ) from None
        self.device = os.fstat(self.fd).st_dev
        self._ladders: dict[bool, Ladder] = {}  # the way to what was used last: to look, and to write

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.forget()
        os.close(self.fd)

    def forget(self, path: bytes = b"") -> None:
        """Close what is open of the directory at `path`, and of those below: it is about to have another place."""
        for writes, ladder in list(self._ladders.items()):
            if path:
                ladder.forget(path)
            else:
                self._ladders.pop(writes).close()

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """Return the descriptor of the directory that holds `path`, which stays ours, and the name in it.

        Its owner may read, write and search the directory from now on. Raises OSError: ENOTDIR or ELOOP for what is
        none, EXDEV for another file system.
        """
        if self.name:
            return self.fd, self.name
        above, _, name = path.rpartition(b"/")
        return self.directory(above), name

    def holder(self, path: bytes) -> tuple[int, bytes]:
        """As `parent`, but for looking at it, and for setting modes: it need not be writable, and no mode is changed
        but of directories that cannot be passed."""
        if self.name:
            return self.fd, self.name
        above, _, name = path.rpartition(b"/")
        return self._at(above, writes=False), name

    def directory(self, path: bytes) -> int:
        """Return the descriptor of a directory, which stays ours; its owner may do everything there."""
        fd = self._at(path, writes=True)
        now = os.fstat(fd)
        if now.st_mode & _OWNER != _OWNER and os.geteuid() == now.st_uid:
            os.fchmod(fd, stat.S_IMODE(now.st_mode) | _OWNER)
        return fd

    def _at(self, path: bytes, *, writes: bool) -> int:
        if not path or self.name:
            return self.fd
        ladder = self._ladders.get(writes)
        if ladder is None:
            flags = _DIRECTORY if writes else _LOOK | os.O_DIRECTORY
            ladder = self._ladders[writes] = Ladder(os.dup(self.fd), partial(self._open_below, flags))
        return ladder.directory(path)

    def _open_below(self, flags: int, fd: int, name: bytes) -> int:
        if name in (b"", b".", b".."):
            raise OSError(ENOENT, os.strerror(ENOENT), name)
        try:
            below = os.open(name, flags, dir_fd=fd)
        except PermissionError:
            os.chmod(_path_of(fd), stat.S_IMODE(os.fstat(fd).st_mode) | _OWNER)  # so that a name in it can be found
            add_mode(fd, name, _OWNER)
            below = os.open(name, flags, dir_fd=fd)
        if os.fstat(below).st_dev != self.device:
            os.close(below)
            raise OSError(EXDEV, "another file system is mounted there", name)
        return below


def add_mode(directory_fd: int, name: bytes, bits: int) -> None:
    """Add these bits to the mode of a directory or file."""
    fd = os.open(name, _LOOK, dir_fd=directory_fd)
    try:
        now = os.fstat(fd)
        if now.st_mode & bits != bits and not stat.S_ISLNK(now.st_mode):
            os.chmod(_path_of(fd), stat.S_IMODE(now.st_mode) | bits)
    finally:
        os.close(fd)


def look(directory_fd: int, name: bytes) -> os.stat_result | None:
    """Return what `name` is, not followed; None for nothing."""
    try:
        return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def set_meta(directory_fd: int, name: bytes, meta: Meta) -> None:
    """Give `name` (a link: only its time) what `meta` says, the access time excepted. Twice is once."""
    fd = os.open(name, _LOOK, dir_fd=directory_fd)
    try:
        now = os.fstat(fd)
        if stat.S_ISLNK(now.st_mode):
            if _is_others(now, meta):
                _give(lambda: os.chown(name, meta.uid, meta.gid, dir_fd=directory_fd, follow_symlinks=False))
            os.utime(name, ns=(now.st_atime_ns, meta.mtime_ns), dir_fd=directory_fd, follow_symlinks=False)
        elif stat.S_ISREG(now.st_mode) or stat.S_ISDIR(now.st_mode):
            set_meta_of(_path_of(fd), now, meta)
    finally:
        os.close(fd)


def set_meta_of(path: str | int, now: os.stat_result, meta: Meta) -> None:
    """Give the file or directory at `path`, or an open one, what `meta` says. now: what it is."""
    if _is_others(now, meta):
        _give(lambda: os.chown(path, meta.uid, meta.gid))
    if meta.xattrs is not None:
        _set_xattrs(path, now, meta.xattrs)
    there = os.stat(path)
    mode = meta.mode
    if mode & _IDENTITY_BITS and (there.st_uid, there.st_gid) != (meta.uid, meta.gid):
        mode &= ~_IDENTITY_BITS | there.st_mode  # another user's program, or group's, it must not become
    if stat.S_IMODE(there.st_mode) != mode:
        os.chmod(path, mode)
    os.utime(path, ns=(now.st_atime_ns, meta.mtime_ns))


def _is_others(now: os.stat_result, meta: Meta) -> bool:
    return meta.uid >= 0 and (now.st_uid, now.st_gid) != (meta.uid, meta.gid)


def _give(change: Callable[[], None]) -> None:
    try:
        change()
    except OSError as error:  # not root; or root of a container, who does not know that user
        if error.errno not in (EPERM, EINVAL):
            raise


def _set_xattrs(path: str | int, now: os.stat_result, wanted: Iterable[tuple[bytes, bytes]]) -> None:
    """Set the attributes that are kept; those that this user or file system cannot have are left out."""
    if not hasattr(os, "listxattr"):
        return
    left = {os.fsdecode(name): value for name, value in wanted if is_kept(name)}
    there = _xattrs(path)
    if there == left:
        return
    os.chmod(path, stat.S_IMODE(now.st_mode) | 0o600)  # user.* is written by whoever may write the file
    there = _xattrs(path)
    for name in there.keys() - left.keys():
        os.removexattr(path, name)
    for name, value in left.items():
        if there.get(name) != value:
            try:
                os.setxattr(path, name, value)
            except OSError as error:
                if error.errno not in (ENOTSUP, EPERM):
                    raise


def _xattrs(path: str | int) -> dict[str, bytes]:
    found = {}
    try:
        for name in os.listxattr(path):
            if is_kept(os.fsencode(name)):
                found[name] = os.getxattr(path, name)
    except OSError as error:
        if error.errno not in (ENODATA, ENOTSUP, EPERM, EACCES):
            raise
    return found


def is_kept(name: bytes) -> bool:
    """Whether an extended attribute is the user's to keep: not those that the system writes itself."""
    return name.startswith((b"user.", b"system.posix_acl_"))


def _path_of(fd: int) -> str:
    return f"/proc/self/fd/{fd}"
