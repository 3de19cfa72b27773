"""Credentials in files: file:///PATH, and the directory that `--store file` keeps its own in.

A file is read only when nobody but its owner can have written or read it: not a symbolic link, a regular file, owned by
this user or root, no group or other bits, one link, in a directory where nobody else can replace it. It is looked at
through the open descriptor, so what was checked is what is read, and read by the kernel straight into locked memory.

Writing replaces the file in one step (rename) after its bytes are on the disk, so that a crash leaves the old value or
the new one. The sandbox never grants these paths to the child; that is decided elsewhere.
"""

from __future__ import annotations

import os
import stat

from nono.credentials.validation import RAW_MAX_BYTES, TOO_LONG
from nono.errors import CredentialError, StoreError
from nono.kernel.secretmem import SecretBuffer
from nono.kernel.sync import sync_directory

_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO must not block


def read(path: str, missing: str, what: str = "credential") -> tuple[SecretBuffer, int]:
    """Return the content of `path` in a new locked buffer that the caller owns, and its length.

    missing: the sentence when there is no such file. what: it is, in the user's words. Raises CredentialError.
    """
    directory, name = os.path.split(path)
    try:
        directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise CredentialError(missing) from None
    except OSError as exc:
        raise CredentialError(f"the {what}'s directory {directory} cannot be opened: {exc.strerror}.") from None
    try:
        _check_directory(os.fstat(directory_fd), directory, what)
        try:
            fd = os.open(name, _OPEN_FLAGS, dir_fd=directory_fd)
        except FileNotFoundError:
            raise CredentialError(missing) from None
        except OSError as exc:
            raise CredentialError(_cannot_open(path, directory_fd, name, exc, what)) from None
    finally:
        os.close(directory_fd)
    try:
        status = os.fstat(fd)
        _check_file(status, path, what)
        return _read_all(fd, status.st_size, path, what)
    finally:
        os.close(fd)


def check_place(path: str, what: str = "credential") -> None:
    """Raise CredentialError where `read` would refuse any file at `path`, for what its directory is."""
    directory = os.path.dirname(path)
    try:
        status = os.stat(directory)
    except OSError as exc:
        raise CredentialError(f"the {what}'s directory {directory} cannot be opened: {exc.strerror}.") from None
    _check_directory(status, directory, what)


def _read_all(fd: int, size: int, path: str, what: str) -> tuple[SecretBuffer, int]:
    buffer = SecretBuffer(size + 1)  # one more, to see a file that grew
    try:
        length = 0
        while length <= size:
            with buffer.view[length : size + 1] as rest:
                count = os.readv(fd, [rest])
            if not count:
                return buffer, length
            length += count
    except OSError as exc:
        buffer.close()
        raise CredentialError(f"the {what} file {path} cannot be read: {exc.strerror}.") from None
    buffer.close()
    raise CredentialError(f"the {what} file {path} changed while it was read. Run again.")


def _cannot_open(path: str, directory_fd: int, name: str, error: OSError, what: str) -> str:
    try:
        if stat.S_ISLNK(os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode):
            return f"the {what} file {path} is a symbolic link. Name the file itself."
    except OSError:
        pass
    return f"the {what} file {path} cannot be opened: {error.strerror}."


def _check_directory(status: os.stat_result, path: str, what: str) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise CredentialError(f"the {what}'s directory {path} is another user's. Keep the file in one of your own.")
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise CredentialError(f"other users can replace files in {path}. Make it private: chmod go-w {path}")


def _check_file(status: os.stat_result, path: str, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CredentialError(f"the {what} file {path} is not a regular file.")
    if status.st_uid not in (os.geteuid(), 0):
        raise CredentialError(f"the {what} file {path} belongs to another user. Copy it to a file of your own.")
    if status.st_mode & 0o077:
        raise CredentialError(
            f"other users can read or write the {what} file {path}. Make it private: chmod 600 {path}"
        )
    if status.st_nlink != 1:
        raise CredentialError(f"the {what} file {path} has another hard link. Copy it to a file of its own.")
    if status.st_size > RAW_MAX_BYTES:
        raise CredentialError(f"the {what} file {path} {TOO_LONG}; it must hold the key alone.")


def private_directory(path: str) -> None:
    """Make `path` a directory of mode 0700, with its parents, or check that it is one. Raises StoreError."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        status = os.stat(path, follow_symlinks=False)
    except OSError as exc:
        raise StoreError(f"the directory {path} cannot be made: {exc.strerror}.") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise StoreError(f"{path} is not a directory of this user; move it away.")
    if status.st_mode & 0o077:
        raise StoreError(f"other users can enter {path}. Make it private: chmod 700 {path}")


def write(path: str, content: memoryview) -> None:
    """Replace `path` by a file of mode 0600 with `content`, all or nothing. Raises StoreError."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}.new")  # no credential's name starts with a dot
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StoreError(f"{path} cannot be written: {exc.strerror}.") from None
    try:
        try:
            os.fchmod(fd, 0o600)  # whatever the umask took away
            written = 0
            while written < len(content):
                with content[written:] as rest:
                    written += os.write(fd, rest)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
        sync_directory(directory)
    except OSError as exc:
        remove(temporary)
        raise StoreError(f"{path} cannot be written: {exc.strerror}.") from None


def names(directory: str) -> list[str]:
    """Return the names of the files in `directory`, sorted, without those that start with a dot. Raises StoreError."""
    try:
        return sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise StoreError(f"{directory} cannot be listed: {exc.strerror}.") from None


def remove(path: str) -> bool:
    """Remove `path`; False when it was not there. Raises StoreError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise StoreError(f"{path} cannot be removed: {exc.strerror}.") from None
    return True
