"""A directory tree as a stream of entries, in order, without following or opening what must not be.

Order: a directory comes before what is in it, and names in one directory are in the order of their bytes; that is the
order of paths with each "/" taken for NUL (`sort_key`). So two trees can be compared by one pass over both.

What is never done: a symbolic link is never followed (every open is relative to the descriptor of the directory that
holds the name, with O_NOFOLLOW), a fifo, socket or device is never opened, another mount is never entered unless the
caller says that it belongs to the root, and nothing recurses, so that depth costs no stack. Descriptors of at most
`_KEPT` directories are open at a time (Ladder). Memory: the names of the directories on the way from the root to where
the walk is, in blocks of sorted bytes where they are many.

What cannot be taken is not passed over in silence: it is an Entry with a `reason`.

Source: path_resolution(7), openat(2), and fts(3) for what goes wrong without descriptors.
"""

from __future__ import annotations

import os
from collections import deque
from errno import EINVAL, ELOOP, ENOENT
from heapq import merge
from stat import S_ISDIR, S_ISGID, S_ISLNK, S_ISREG, S_ISUID, S_ISVTX
from typing import Self

from nono.kernel import mountinfo, paths
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Entry.kind
FILE = "file"
DIRECTORY = "dir"
LINK = "link"
SPECIAL = "special"

# Entry.reason: why it was left out
EXCLUDED = "excluded"  # by a rule, which `note` names
IS_SPECIAL = "special"  # a fifo, socket or device
MOUNT = "mount"  # another file system, or another place of this one
UNREADABLE = "unreadable"  # `note` has the kernel's words
TOO_DEEP = "too deep"

MAX_PATH_BYTES = 65536  # a tree whose paths are longer was made to do harm: listing it costs the square of its depth
"""What an agent can make deeper than this is left out, and said to be."""

O_PATH = getattr(os, "O_PATH", os.O_RDONLY)  # macOS has none: a directory must be readable to be passed through
_KEPT = 64  # directories whose descriptors stay open on the way down; a soft limit of 256 files (macOS) has room for it
_INLINE = 65536  # what is smaller may be in the inode, and have no blocks
_BLOCK = 4096  # names that are sorted at a time; of more, blocks are kept as bytes, a third of the memory
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_PERMISSIONS = 0o777 | S_ISUID | S_ISGID | S_ISVTX


class Entry(Record):
    """One name in a tree.

    path: relative to the root, without "/" at its ends, b"" for the root itself (which may be a file). mode: the
    permission bits with set-uid, set-gid and sticky. size: bytes of a file, 0 of anything else. digest: of a file's
    contents, in hex, the name of its object; "" where they were not stored. target: of a link. xattrs: sorted. uid,
    gid: whose it is; -1 where that is not known.

    reason: "" for what is covered; else one of the constants above, and neither contents nor what is below were taken.
    note: more about the reason; without a reason, what could not be taken of something that is covered ("changed while
    it was read", an attribute that could not be read).

    (device, inode): two entries of one manifest that agree in these, and have links > 1, are one file.
    """

    path: bytes
    kind: str
    mode: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    size: int = 0
    device: int = 0
    inode: int = 0
    links: int = 1
    digest: str = ""
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    reason: str = ""
    note: str = ""
    uid: int = -1
    gid: int = -1


def sort_key(path: bytes) -> bytes:
    """By this, paths sort as the walk meets them."""
    return path.replace(b"/", b"\0")


class Ladder:
    """Descriptors of the directories from a root down to where the work is; a context manager.

    `directory(path)` opens what is missing on the way, each name relative to its parent and never through a link. At
    most `_KEPT` are open. What it returns is the Ladder's own, good until its next call.
    """

    def __init__(self, root_fd: int, open_below: Callable[[int, bytes], int] | None = None) -> None:
        """root_fd: of the root, owned by the Ladder from now on. open_below(fd, name): opens a directory in one."""
        self._root_fd = root_fd
        self._open_below = open_below or _open_below
        self._path = b""
        self._names: list[bytes] = []
        self._fds: deque[int] = deque()  # of the last len(_fds) of _names

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._leave_to(0)
        self._path = b""
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def directory(self, path: bytes) -> int:
        """Return a descriptor of the directory at `path` (b"" is the root). Raises OSError."""
        if path != self._path:
            self._go(path)
        return self._fds[-1] if self._fds else self._root_fd

    def forget(self, path: bytes) -> None:
        """Close the directory at `path`, and those in it: it is about to have another place."""
        if not path or (self._path + b"/").startswith(path + b"/"):
            above = path.count(b"/") if path else 0
            self._leave_to(above if len(self._names) - above < len(self._fds) else 0)  # or none of those is open
            self._path = b"/".join(self._names)

    def _go(self, path: bytes) -> None:
        names, shared = path.split(b"/") if path else [], 0
        if not self._path or path.startswith(self._path + b"/"):
            shared = len(self._names)
        elif not path or self._path.startswith(path + b"/"):
            shared = len(names)
        else:
            for ours, theirs in zip(self._names, names, strict=False):
                if ours != theirs:
                    break
                shared += 1
        if len(self._names) - shared >= len(self._fds):  # none of those that are open is on the way
            shared = 0
        self._leave_to(shared)
        try:
            for name in names[shared:]:
                fd = self._open_below(self._fds[-1] if self._fds else self._root_fd, name)
                self._names.append(name)
                self._fds.append(fd)
                if len(self._fds) > _KEPT:
                    os.close(self._fds.popleft())
        finally:
            self._path = b"/".join(self._names)

    def _leave_to(self, depth: int) -> None:
        while len(self._names) > depth:
            self._names.pop()
            if self._fds:
                os.close(self._fds.pop())


def _open_below(fd: int, name: bytes) -> int:
    return os.open(name, _OPEN_DIRECTORY, dir_fd=fd)


class Root(Record):
    """An open root. fd: of the directory, or of the one that holds the file; name: b"" or the file's in it."""

    path: bytes
    fd: int
    name: bytes


def open_root(path: bytes) -> Root | None:
    """Open a root (absolute, without links), which may be a directory or a file; None when it is not there.

    Raises OSError: ELOOP or ENOTDIR when there is a link in its place, or on the way to it. An agent that may write to
    a directory above, which is not tracked, could put one there: the final snapshot would be of something else.
    """
    path = path.rstrip(b"/") or b"/"
    if not path.startswith(b"/"):
        raise OSError(EINVAL, os.strerror(EINVAL), os.fsdecode(path))
    parent, name = os.path.split(path)
    try:
        if not name:
            return Root(path, os.open(path, _OPEN_DIRECTORY), b"")
        parent_fd = _open_real(os.fsdecode(parent))
    except FileNotFoundError:
        return None
    try:
        found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        if not S_ISDIR(found.st_mode):
            if S_ISLNK(found.st_mode):
                raise OSError(ELOOP, os.strerror(ELOOP), os.fsdecode(path))
            root, parent_fd = Root(path, parent_fd, name), -1
            return root
        return Root(path, os.open(name, _OPEN_DIRECTORY, dir_fd=parent_fd), b"")
    except FileNotFoundError:
        return None
    finally:
        if parent_fd >= 0:
            os.close(parent_fd)


def _open_real(path: str) -> int:
    if hasattr(os, "O_PATH"):
        return paths.open_real(path)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # macOS: no such call


class Walk:
    """What one walk is told. Iterating `entries(root)` does the walk."""

    def __init__(
        self,
        rule_for: Callable[[bytes, bool], str] | None = None,
        enter: Callable[[bytes, int], None] | None = None,
        never: Iterable[bytes] = (),
        across: Iterable[bytes] = (),
    ) -> None:
        """rule_for(path, is_directory): what excludes it, or "". enter(path, fd): a directory is about to be read.

        never: absolute paths that are left out whatever the rules say (nono's own state; what the agent is denied),
        known by device and inode. across: mount points that belong to the root (granted by themselves).
        """
        self._rule_for = rule_for
        self._enter = enter
        self._across = frozenset(across)
        self._never = frozenset(identity for path in never if (identity := _identity(path)))
        self._mounts = _mount_points() - self._across
        self.bytes = 0  # that the files which were yielded take

    def entries(self, root: Root) -> Iterator[Entry]:
        """Yield what is below the root, itself first, as stat(2) has it: no digest, target or xattrs yet.

        Owns the root's descriptor. Raises OSError only for the root itself.
        """
        if root.name:
            try:
                found = os.stat(root.name, dir_fd=root.fd, follow_symlinks=False)
            finally:
                os.close(root.fd)
            self.bytes += count_bytes(found.st_size, found.st_blocks)
            yield entry_of(b"", found)
            return
        with Ladder(root.fd) as ladder:
            yield from self._below(root, ladder)

    def _below(self, root: Root, ladder: Ladder) -> Iterator[Entry]:
        top = os.fstat(root.fd)
        prefix = root.path.rstrip(b"/") + b"/"
        mounts = {path[len(prefix) :] for path in self._mounts if path.startswith(prefix)}
        across = {path[len(prefix) :] for path in self._across if path.startswith(prefix)}
        yield entry_of(b"", top)
        levels = [self._names_in(ladder, b"", (top.st_dev, top.st_ino))]
        directory = b""
        devices = [top.st_dev]
        identities = [(top.st_dev, top.st_ino)]
        above = set(identities)
        while levels:
            name = next(levels[-1], None)
            if name is None:
                levels.pop()
                directory = directory.rpartition(b"/")[0]
                devices.pop()
                above.discard(identities.pop())
                continue
            path = directory + b"/" + name if directory else name
            try:
                found = os.stat(name, dir_fd=ladder.directory(directory), follow_symlinks=False)
            except FileNotFoundError:
                continue  # it went while we looked: as if it had never been there
            except OSError as error:
                yield Entry(path, SPECIAL, reason=UNREADABLE, note=error.strerror or "")
                continue
            is_directory = S_ISDIR(found.st_mode)
            identity = (found.st_dev, found.st_ino)
            reason = note = ""
            if self._never and identity in self._never:
                reason, note = EXCLUDED, "not the agent's to write"
            elif self._rule_for and (note := self._rule_for(path, is_directory)):
                reason = EXCLUDED
            elif is_directory and (path in mounts or (found.st_dev != devices[-1] and path not in across)):
                reason = MOUNT
            elif is_directory and identity in above:
                reason, note = MOUNT, "it is in itself"
            elif not is_directory and path in mounts:
                reason = MOUNT
            elif len(path) > MAX_PATH_BYTES:
                reason = TOO_DEEP
            names = None
            if is_directory and not reason:
                try:
                    names = self._names_in(ladder, path, identity)
                except (FileNotFoundError, NotADirectoryError):
                    continue  # renamed away, or something else put there, since the stat
                except OSError as error:
                    reason, note = UNREADABLE, error.strerror or ""
            if not reason and S_ISREG(found.st_mode):
                self.bytes += count_bytes(found.st_size, found.st_blocks)
            yield entry_of(path, found, reason, note)
            if names is not None:
                levels.append(names)
                directory = path
                devices.append(found.st_dev)
                identities.append(identity)
                above.add(identity)

    def _names_in(self, ladder: Ladder, path: bytes, identity: tuple[int, int]) -> Iterator[bytes]:
        fd = ladder.directory(path)
        opened = os.fstat(fd)
        if (opened.st_dev, opened.st_ino) != identity:  # another one was put there; what it is, was not asked
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT))
        if path:
            os.stat(b".", dir_fd=fd)  # whoever may read its names, and not search it, knows nothing of what they are
        if self._enter:
            self._enter(path, fd)
        return _sorted_names(fd)


def _sorted_names(fd: int) -> Iterator[bytes]:
    """The names in an open directory, in order. They are read at once, so that the descriptor may go."""
    blocks: list[bytes] = []
    names: list[bytes] = []
    with os.scandir(fd) as found:
        for item in found:
            names.append(os.fsencode(item.name))
            if len(names) == _BLOCK:
                names.sort()
                blocks.append(b"/".join(names))
                names = []
    names.sort()
    if not blocks:
        return iter(names)
    if names:
        blocks.append(b"/".join(names))
    return merge(*(_split(block) for block in blocks))


def _split(block: bytes) -> Iterator[bytes]:
    start = 0
    while (end := block.find(b"/", start)) >= 0:
        yield block[start:end]
        start = end + 1
    yield block[start:]


def entry_of(path: bytes, found: os.stat_result, reason: str = "", note: str = "") -> Entry:
    """What stat(2) says of a path. A fifo, socket or device is left out."""
    mode = found.st_mode
    size = 0
    if S_ISREG(mode):
        kind = FILE
        size = found.st_size
    elif S_ISDIR(mode):
        kind = DIRECTORY
    elif S_ISLNK(mode):
        kind = LINK
    else:
        kind = SPECIAL
        reason = reason or IS_SPECIAL
    return tuple.__new__(  # a third of the time of Entry(…)
        Entry,
        (
            path,
            kind,
            mode & _PERMISSIONS,
            found.st_mtime_ns,
            found.st_ctime_ns,
            size,
            found.st_dev,
            found.st_ino,
            found.st_nlink,
            "",
            b"",
            (),
            reason,
            note,
            found.st_uid,
            found.st_gid,
        ),
    )


def _identity(path: bytes) -> tuple[int, int] | None:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _mount_points() -> frozenset[bytes]:
    """Where something is mounted: a bind mount of the same file system has the same device number."""
    try:
        return frozenset(os.fsencode(mounted.point) for mounted in mountinfo.read())
    except OSError:  # macOS; /proc that is not there. Then the device number has to do.
        return frozenset()


def count_bytes(size: int, blocks: int) -> int:
    """What a file takes where it is stored: its holes take nothing. blocks: of 512 bytes, as stat(2) has them."""
    return size if size <= _INLINE else min(size, blocks * 512)
