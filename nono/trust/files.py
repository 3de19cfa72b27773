"""One file, opened once: what is hashed is what the descriptor holds, and that is looked at again later.

A path is walked from its root one name at a time, and no symlink is followed on the way: between two looks at it nobody
can lead nono elsewhere. What is opened must be a regular file with one name (st_nlink 1: through another name it could
be written where nothing is protected) of at most 16 MiB. A fifo or a device is never waited for (O_NONBLOCK).

An Opened keeps its descriptor until close(). recheck() is for just before the child starts: the same inode under the
same path, and no write since, as far as size, mtime and ctime tell; ctime cannot be set back by its owner.

Source: open(2), inode(7).
"""

from __future__ import annotations

import errno
import os
from hashlib import sha256
from stat import S_ISLNK, S_ISREG

from nono.record import Record
from nono.trust.errors import CHANGED, UNSAFE_FILE, UnsafeFile

MOST_BYTES = 16 << 20
_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | getattr(os, "O_NOCTTY", 0)
_A_LINK = (errno.ELOOP, errno.EMLINK, errno.ENOTDIR)  # what O_NOFOLLOW and O_DIRECTORY answer, here and there
_AGAIN = "look at what it is now, and start again"


class Opened(Record):
    """A file that was read. fd: open, close() it. root: absolute; relative: below it. sha256: 64 lower-case hex digits.

    identity: device, inode, size, mtime and ctime in ns. data: its contents, where they were asked for.
    """

    fd: int
    root: str
    relative: str
    sha256: str
    identity: tuple[int, int, int, int, int]
    data: bytes = b""

    @property
    def path(self) -> str:
        """The absolute path."""
        return f"{self.root.rstrip('/')}/{self.relative}"


def open_file(root: str, relative: str, *, most: int = MOST_BYTES, keep: bool = False) -> Opened:
    """Return the file `relative` below the directory `root`, read and hashed.

    root: absolute; links in it are followed. relative: without "." and "..". keep: whether .data is wanted.
    Raises UnsafeFile; FileNotFoundError where there is nothing of that name.
    """
    directory, name = _directory(root, relative)
    try:
        fd = os.open(name, _FILE, dir_fd=directory)
    except UnicodeEncodeError:
        raise UnsafeFile(UNSAFE_FILE, relative, "has a name that is not UTF-8") from None
    except OSError as error:
        raise _unsafe(error, relative, _kind(directory, name)) from None
    finally:
        os.close(directory)
    try:
        return _read(fd, root, relative, most, keep)
    except OSError as error:
        os.close(fd)
        raise _unsafe(error, relative) from None
    except BaseException:
        os.close(fd)
        raise


def open_path(path: str, *, most: int = MOST_BYTES, keep: bool = False) -> Opened:
    """Return a file of the user's own by its absolute path: links are followed in its directory, not in its name."""
    directory, _, name = path.rpartition("/")
    try:
        real = os.path.realpath(directory or "/")
    except OSError as error:  # a link that is replaced just now
        raise _unsafe(error, name) from None
    return open_file(real, name, most=most, keep=keep)


def digest(path: str) -> str:
    """Return the SHA-256 of a file that is not vouched for, whatever links lead to it; "" where there is none."""
    try:
        fd = os.open(path, _FILE & ~os.O_NOFOLLOW)
    except (OSError, ValueError):
        return ""
    try:
        status = os.fstat(fd)
        if not S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
            return ""
        with open(fd, "rb", closefd=False) as file:
            return sha256(file.read(MOST_BYTES)).hexdigest()
    except OSError:
        return ""
    finally:
        os.close(fd)


def recheck(opened: Opened) -> None:
    """Raise UnsafeFile (outcome `changed`) unless the path still leads to what was read."""
    seen: list[tuple[int, int, int, int, int]] = []
    try:
        seen.append(_identity(os.fstat(opened.fd)))
        directory, name = _directory(opened.root, opened.relative)
        try:
            seen.append(_identity(os.stat(name, dir_fd=directory, follow_symlinks=False)))
        finally:
            os.close(directory)
    except (OSError, UnsafeFile):
        seen.clear()
    if seen != [opened.identity, opened.identity]:
        raise UnsafeFile(CHANGED, opened.relative, "was changed after it was verified", _AGAIN)


def close(opened: Opened) -> None:
    """Close its descriptor."""
    os.close(opened.fd)


def _directory(root: str, relative: str) -> tuple[int, str]:
    """Return an fd of the directory that `relative` is in, and its last name."""
    *directories, name = relative.split("/")
    if "\0" in relative or any(part in ("", ".", "..") for part in (*directories, name)):
        raise UnsafeFile(UNSAFE_FILE, relative, "is not a path below the directory that it is looked for in")
    try:
        fd = os.open(root, _DIRECTORY)
    except OSError as error:
        raise _unsafe(error, relative) from None
    for part in directories:
        try:
            below = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        except UnicodeEncodeError:
            raise UnsafeFile(UNSAFE_FILE, relative, "has a name that is not UTF-8") from None
        except OSError as error:
            raise _unsafe(error, relative, "is reached through a symlink" if error.errno in _A_LINK else "") from None
        finally:
            os.close(fd)
        fd = below
    return fd, name


def _read(fd: int, root: str, relative: str, most: int, keep: bool) -> Opened:
    status = os.fstat(fd)
    if not S_ISREG(status.st_mode):
        raise UnsafeFile(UNSAFE_FILE, relative, "is not a regular file", "remove it")
    if status.st_nlink != 1:
        raise UnsafeFile(
            UNSAFE_FILE,
            relative,
            f"has {status.st_nlink} names (hard links), and through another one it could be changed",
            "put a copy in its place",
        )
    if status.st_size > most:
        raise UnsafeFile(UNSAFE_FILE, relative, f"is larger than {most >> 20} MiB", "make it smaller")
    digest = sha256()
    pieces = []
    size = 0
    while piece := os.read(fd, _CHUNK):
        size += len(piece)
        if size > status.st_size:
            break
        digest.update(piece)
        if keep:
            pieces.append(piece)
    identity = _identity(os.fstat(fd))
    if size != status.st_size or identity != _identity(status):
        raise UnsafeFile(CHANGED, relative, "was changed while it was read", _AGAIN)
    return Opened(fd, root, relative, digest.hexdigest(), identity, b"".join(pieces))


def _identity(status: os.stat_result) -> tuple[int, int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _kind(directory: int, name: str) -> str:
    """Return what is wrong with what could not be opened, where its kind says it."""
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except (OSError, UnicodeEncodeError):
        return ""
    if S_ISLNK(mode):
        return "is a symlink"
    return "" if S_ISREG(mode) else "is not a regular file"


def _unsafe(error: OSError, relative: str, what: str = "") -> Exception:
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(error.errno, os.strerror(error.errno or 0), relative)
    next_step = "put a copy of the file in its place" if "symlink" in what else ""
    return UnsafeFile(UNSAFE_FILE, relative, what or f"cannot be read ({os.strerror(error.errno or 0)})", next_step)
