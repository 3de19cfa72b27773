"""Contents by their SHA-256: STATE/rollback/objects/ab/cdef…, one file each, shared by all sessions.

An object is the whole of a file's contents, read-only and the user's alone. It gets its name last, when it is whole and
on the disk: what is put goes to a directory of its own below `staging` (a Stage), is written there, brought to the disk
by one syncfs(2) for all, and only then renamed into `objects`. So a crash, of the process or of the machine, leaves no
object that is torn; what it leaves in `staging` is found (the directory of a process that lives is locked) and removed.
Two processes may put the same contents at once: the second rename puts the same in place of the same.

Contents are hashed on their way. Small ones are read, and not written when they are there already. Larger ones are
cloned (FICLONE: no byte is copied, and the clone cannot change while it is hashed), else copied in the kernel
(copy_file_range(2)), else read and written. Holes stay holes. The digest of a file with more than 64 MiB of holes is
not that of its bytes, since hashing a hole of 100 GB takes a minute: it is that of its size and of those of its blocks
that are not zero (`_SPARSE`).

Garbage collection takes what no manifest names. It holds the store's lock alone; whoever stores holds it shared until
the manifest that names what was stored has its name.

Source: ioctl_ficlone(2), copy_file_range(2), lseek(2) for SEEK_DATA, rename(2), syncfs(2).
"""

from __future__ import annotations

import os
from errno import EEXIST, EINVAL, ENOENT, ENOSPC, ENXIO, EOPNOTSUPP, EXDEV
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock, ioctl
from hashlib import sha256

from nono.errors import StoreError
from nono.kernel.sync import sync_file_system
from nono.record import Record
from nono.rollback.manifest import Manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_SMALL = 1 << 18  # read whole, hashed, and written only if they are new; larger ones are copied first
_CHUNK = 1 << 20
_HOLES = 64 << 20  # from so many bytes of holes on, they are left out of the hash
_BLOCK = 4096  # of a sparse file, what is hashed or not
_SPARSE = b"nono sparse file 1\n"
_OPEN_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_OPEN_OBJECT = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_AT_A_TIME = 200_000  # digests in memory while garbage is looked for: 30 MB


class Store:
    """The objects below a directory, which is made (0700) when it is not there.

    directory: STATE/rollback, or what --rollback-dest says. Raises StoreError.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.objects = os.path.join(directory, "objects")
        self._staging = os.path.join(directory, "staging")
        try:
            for path in (directory, self.objects, self._staging):
                os.makedirs(path, mode=0o700, exist_ok=True)
            found = os.stat(directory)
        except OSError as error:
            raise StoreError(f"{directory} cannot be made: {error.strerror}") from None
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise StoreError(f"{directory} is open to others; `chmod 700` it, and see whose it is, before it is used")

    def lock(self, alone: bool = False, wait: bool = True) -> Lock:
        """Hold the store while something is stored or read (shared), or removed (alone). A context manager.

        Raises StoreError when it is held and wait is false.
        """
        return Lock(os.path.join(self.directory, "lock"), alone, wait)

    def stage(self) -> Stage:
        """A place to put contents, whose `commit` makes them objects. A context manager: what was not committed goes."""
        return Stage(self)

    def path(self, digest: str) -> str:
        return f"{self.objects}/{digest[:2]}/{digest[2:]}"

    def has(self, digest: str) -> bool:
        return os.path.exists(self.path(digest))

    def open(self, digest: str) -> int:
        """Return a descriptor to read the contents from. Raises StoreError when they are not there."""
        try:
            return os.open(self.path(digest), _OPEN_OBJECT)
        except OSError as error:
            raise StoreError(f"object {digest} cannot be read: {error.strerror}") from None

    def verify(self, digest: str) -> bool:
        """Whether the object is there and its contents are what its name says. Raises OSError for a failing disk."""
        try:
            fd = self.open(digest)
        except StoreError:
            return False
        try:
            size = os.fstat(fd).st_size
            return hash_of(fd, size) == digest or hash_of(fd, size, sparse=True) == digest
        finally:
            os.close(fd)

    def digests(self) -> Iterator[str]:
        """Every object there is."""
        for prefix in sorted(os.listdir(self.objects)):
            if len(prefix) == 2:
                with os.scandir(os.path.join(self.objects, prefix)) as found:
                    for item in found:
                        yield prefix + item.name

    def collect(self, manifests: Iterable[str]) -> tuple[int, int]:
        """Remove what none of these manifests (their paths) names: (objects, bytes) that went. Waits for the lock.

        Raises StoreError when one cannot be read: then nothing is removed, since what it names is not known.
        """
        with self.lock(alone=True):
            self._remove_abandoned()
            opened = [Manifest(path) for path in manifests]
            try:
                total = sum(root.files for manifest in opened for root in manifest.roots)
                parts = total // _AT_A_TIME + 1
                removed = freed = 0
                for part in range(parts):
                    kept = {
                        digest
                        for manifest in opened
                        for digest in _digests_in(manifest)
                        if int(digest[:4], 16) % parts == part
                    }
                    for digest in self.digests():
                        if int(digest[:4], 16) % parts == part and digest not in kept:
                            size = os.stat(self.path(digest)).st_blocks * 512
                            os.unlink(self.path(digest))
                            removed += 1
                            freed += size
                return removed, freed
            except (OSError, ValueError) as error:
                raise StoreError(f"{self.objects} cannot be cleaned up: {error}") from None
            finally:
                for manifest in opened:
                    manifest.close()

    def _remove_abandoned(self) -> None:
        """Remove what a process that died left in `staging`."""
        for name in os.listdir(self._staging):
            path = os.path.join(self._staging, name)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                flock(fd, LOCK_EX | LOCK_NB)
                _empty(path)
                os.rmdir(path)
            except OSError:
                pass  # of a process that lives
            finally:
                os.close(fd)


class Lock:
    """See Store.lock."""

    def __init__(self, path: str, alone: bool, wait: bool) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreError(f"{path} cannot be opened: {error.strerror}") from None
        try:
            flock(self._fd, (LOCK_EX if alone else LOCK_SH) | (0 if wait else LOCK_NB))
        except OSError as error:
            os.close(self._fd)
            raise StoreError(f"another nono is using {os.path.dirname(path)}; try again when it is done") from error

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class Stored(Record):
    """What was put. written: bytes that are new in the store."""

    digest: str
    size: int
    written: int


class Stage:
    """See Store.stage. `put` may be called by several threads at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._clones = True
        self._number = 0
        for attempt in range(100):
            self.directory = os.path.join(store.directory, "staging", f"{os.getpid()}-{os.urandom(4).hex()}-{attempt}")
            try:
                os.mkdir(self.directory, 0o700)
                self._fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                flock(self._fd, LOCK_EX)
                break
            except FileExistsError:
                continue
            except OSError as error:
                raise StoreError(f"{self.directory} cannot be made: {error.strerror}") from None
        self._objects_fd = os.open(store.objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was not committed."""
        if self._fd < 0:
            return
        try:
            _empty(self.directory)
            os.rmdir(self.directory)
        except OSError:
            pass  # garbage collection finds it
        os.close(self._fd)
        os.close(self._objects_fd)
        self._fd = -1

    def put(self, fd: int, size: int, blocks: int = 0) -> Stored:
        """Take the contents of an open regular file, from its beginning to its end, wherever that is by now.

        size, blocks: as fstat(2) has them. Raises StoreError when the store cannot take it, OSError when the file
        cannot be read.
        """
        if size <= _SMALL:
            data = os.pread(fd, _SMALL + 1, 0)
            if len(data) <= _SMALL:
                return self._put_bytes(data)
            size = os.fstat(fd).st_size  # it grew
        return self._put_file(fd, size, blocks)

    def put_bytes(self, data: bytes) -> Stored:
        return self._put_bytes(data)

    def _put_bytes(self, data: bytes) -> Stored:
        digest = sha256(data).hexdigest()
        if self._is_known(digest):
            return Stored(digest, len(data), 0)
        temporary = self._temporary()
        try:
            fd = os.open(temporary, _OPEN_NEW, 0o400, dir_fd=self._fd)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)
            os.rename(temporary, digest, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            raise self._full(error) from None
        return Stored(digest, len(data), len(data))

    def _put_file(self, fd: int, size: int, blocks: int) -> Stored:
        temporary = self._temporary()
        try:
            target = os.open(temporary, _OPEN_NEW, 0o400, dir_fd=self._fd)
        except OSError as error:
            raise self._full(error) from None
        try:
            if self._clones and not clone(fd, target):
                self._clones = os.fstat(fd).st_dev == os.fstat(target).st_dev and self._clones and False
            try:
                if os.fstat(target).st_size == 0:
                    copy(fd, target)
            except OSError as error:
                raise self._full(error) from None
            found = os.fstat(target)
            digest = hash_of(target, found.st_size, sparse=has_holes(target, found))
            if self._is_known(digest):
                os.unlink(temporary, dir_fd=self._fd)
                return Stored(digest, found.st_size, 0)
            os.rename(temporary, digest, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            return Stored(digest, found.st_size, found.st_blocks * 512)
        except BaseException:
            try:
                os.unlink(temporary, dir_fd=self._fd)
            except OSError:
                pass
            raise
        finally:
            os.close(target)

    def commit(self) -> None:
        """Bring what was put, and what else was written to this file system, to the disk, and name it."""
        raise NotImplementedError

    def _temporary(self) -> str:
        raise NotImplementedError

    def _is_known(self, digest: str) -> bool:
        raise NotImplementedError

    def _full(self, error: OSError) -> StoreError:
        raise NotImplementedError


def clone(source_fd: int, target_fd: int) -> bool:
    """Make the target, empty, share all that is in the source (FICLONE); False where the file system cannot."""
    raise NotImplementedError


def copy(source_fd: int, target_fd: int) -> int:
    """Copy all of the source to the target, which is empty: bytes. Clone, else copy_file_range, else read and write.

    Holes stay holes. Raises OSError.
    """
    raise NotImplementedError


def hash_of(fd: int, size: int, sparse: bool = False) -> str:
    raise NotImplementedError


def has_holes(fd: int, found: os.stat_result) -> bool:
    raise NotImplementedError


def _digests_in(manifest: Manifest) -> Iterator[str]:
    raise NotImplementedError


def _empty(directory: str) -> None:
    raise NotImplementedError
