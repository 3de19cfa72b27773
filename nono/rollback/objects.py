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
import sys
from _thread import get_ident
from errno import EDQUOT, EFBIG, ENOSPC, ENXIO, EROFS
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock, ioctl
from hashlib import sha256
from itertools import islice
from typing import Self

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
_COPIED_AT_A_TIME = 64 << 20  # by the kernel: a user who interrupts waits for it
_HOLES = 64 << 20  # from so many bytes of holes on, they are left out of the hash
_BLOCK = 4096  # of a sparse file, what is hashed or not
_SPARSE = b"nono sparse file 1\n"
_FULL = (ENOSPC, EDQUOT, EFBIG, EROFS)
_COPY_FILE_RANGE = getattr(os, "copy_file_range", None)
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
        """A place to put contents; its `commit` makes them objects. A context manager: what was not committed goes."""
        return Stage(self)

    def path(self, digest: str) -> str:
        return f"{self.objects}/{digest[:2]}/{digest[2:]}"

    def has(self, digest: str) -> bool:
        """Whether there is an object of this digest."""
        return os.path.exists(self.path(digest))

    def holds(self, digest: str, size: int) -> bool:
        """Whether there is an object of this digest and size."""
        try:
            return os.stat(self.path(digest)).st_size == size
        except OSError:
            return False

    def open(self, digest: str) -> int:
        """Return a descriptor to read the contents from. Raises StoreError when they are not there."""
        path = self.path(digest)
        try:
            try:
                return os.open(path, _OPEN_OBJECT)
            except PermissionError:  # an agent that knows the contents knows the name, and Landlock lets it chmod
                os.chmod(path, 0o400)
                return os.open(path, _OPEN_OBJECT)
        except OSError as error:
            raise StoreError(f"object {digest} cannot be read: {error.strerror}") from None

    def verify(self, digest: str) -> bool:
        """Whether the object is there and its contents are what its name says. Raises OSError for a failing disk."""
        try:
            fd = self.open(digest)
        except StoreError:
            return False
        try:
            return has_digest(fd, digest)
        finally:
            os.close(fd)

    def digests(self) -> Iterator[str]:
        """Every object there is."""
        for prefix in sorted(os.listdir(self.objects)):
            if len(prefix) == 2:
                with os.scandir(os.path.join(self.objects, prefix)) as found:
                    for item in found:
                        yield prefix + item.name

    def collect(self, manifests: Callable[[], Iterable[str]]) -> tuple[int, int]:
        """Remove what no manifest names: (objects, bytes) that went. Waits for the lock.

        manifests: called once the store is held, for the paths of all that there are. Raises StoreError when one cannot
        be read: then nothing is removed, since what it names is not known.
        """
        with self.lock(alone=True):
            paths = list(manifests())
            total = 0
            for path in paths:
                with Manifest(path) as manifest:
                    total += sum(root.files for root in manifest.roots)
            parts = total // _AT_A_TIME + 1
            removed = freed = 0
            try:
                self._remove_abandoned()
                for part in range(parts):
                    kept = {digest for path in paths for digest in _digests_in(path) if _part_of(digest, parts) == part}
                    for digest in self.digests():
                        if _part_of(digest, parts) == part and digest not in kept:
                            freed += os.stat(self.path(digest)).st_blocks * 512
                            os.unlink(self.path(digest))
                            removed += 1
            except OSError as error:
                raise StoreError(f"{self.objects} cannot be cleaned up: {error.strerror}") from None
            return removed, freed

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class Stored(Record):
    """What was put. written: bytes that are new in the store."""

    digest: str
    size: int
    written: int


class Stopped(Exception):
    """What was being done is no longer wanted."""


class Stop:
    """Set `asked` for what copies and hashes, in another thread, to end with Stopped."""

    asked = False


class Stage:
    """See Store.stage. `put` may be called by several threads at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.count = 0  # of what is to be named
        self.stop = Stop()
        self._no_clones: set[int] = set()
        for attempt in range(100):
            self.directory = os.path.join(store.directory, "staging", f"{os.getpid()}-{os.urandom(4).hex()}-{attempt}")
            try:
                os.mkdir(self.directory, 0o700)
                self._fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                flock(self._fd, LOCK_EX)
                self._objects_fd = os.open(store.objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                break
            except FileExistsError:
                continue
            except OSError as error:
                raise StoreError(f"{self.directory} cannot be made: {error.strerror}") from None

    def __enter__(self) -> Self:
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

    def put(self, fd: int, size: int) -> Stored:
        """Take the contents of an open regular file, from its beginning to its end, wherever that is by now.

        size: as fstat(2) has it. Raises StoreError when the store cannot take it, OSError when the file
        cannot be read.
        """
        if size <= _SMALL:
            data = os.pread(fd, _SMALL + 1, 0)
            if len(data) <= _SMALL:
                return self.put_bytes(data)
        return self._put_file(fd)

    def put_bytes(self, data: bytes) -> Stored:
        """Take these. Raises StoreError."""
        digest = sha256(data).hexdigest()
        try:
            if self._is_object(digest, len(data)):
                return Stored(digest, len(data), 0)
            fd = os.open(digest, _OPEN_NEW, 0o400, dir_fd=self._fd)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)
        except FileExistsError:  # another file of this snapshot has the same
            return Stored(digest, len(data), 0)
        except OSError as error:
            raise self.cannot(error) from None
        self.count += 1
        return Stored(digest, len(data), len(data))

    def _put_file(self, fd: int) -> Stored:
        temporary = f"new-{get_ident()}"
        try:
            target = os.open(temporary, _OPEN_NEW, 0o400, dir_fd=self._fd)
        except OSError as error:
            raise self.cannot(error) from None
        try:
            try:
                copy(fd, target, self._no_clones, self.stop)
            except OSError as error:
                if error.errno in _FULL:
                    raise self.cannot(error) from None
                raise
            found = os.fstat(target)
            digest = hash_of(target, found.st_size, has_holes(target, found), self.stop)
            if self._is_object(digest, found.st_size):
                return Stored(digest, found.st_size, 0)
            os.rename(temporary, digest, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            self.count += 1
            return Stored(digest, found.st_size, found.st_blocks * 512)
        finally:
            os.close(target)
            try:
                os.unlink(temporary, dir_fd=self._fd)
            except OSError:
                pass

    def commit(self) -> None:
        """Bring what was put, and what else was written to this file system, to the disk, and name it.

        Raises StoreError.
        """
        if not self.count:
            return
        try:
            sync_file_system(self._fd)
            while True:  # names that were not seen because others went meanwhile are seen the next time
                with os.scandir(self.directory) as found:
                    digests = [item.name for item in islice(found, 10_000)]
                if not digests:
                    break
                for digest in digests:
                    self._name(digest)
            sync_file_system(self._fd)  # the names, before the manifest that relies on them
        except OSError as error:
            raise self.cannot(error) from None

    def _name(self, digest: str) -> None:
        target = f"{digest[:2]}/{digest[2:]}"
        try:
            os.rename(digest, target, src_dir_fd=self._fd, dst_dir_fd=self._objects_fd)
        except FileNotFoundError:
            try:
                os.mkdir(digest[:2], 0o700, dir_fd=self._objects_fd)
            except FileExistsError:
                pass
            os.rename(digest, target, src_dir_fd=self._fd, dst_dir_fd=self._objects_fd)

    def _is_object(self, digest: str, size: int) -> bool:
        """Whether there is one already; one that was cut is replaced."""
        try:
            return os.stat(f"{digest[:2]}/{digest[2:]}", dir_fd=self._objects_fd).st_size == size
        except FileNotFoundError:
            return False

    def cannot(self, error: OSError) -> StoreError:
        """What to say of an error of the store's own disk."""
        step = "; free some, or name another place with --rollback-dest" if error.errno in _FULL else ""
        return StoreError(f"contents cannot be stored in {self._store.directory}: {error.strerror}{step}")


def clone(source_fd: int, target_fd: int) -> bool:
    """Make the target, empty, share all that is in the source (FICLONE); False where that cannot be."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        ioctl(target_fd, _FICLONE, source_fd)
    except OSError:
        return False
    return True


def copy(source_fd: int, target_fd: int, no_clones: set[int] | None = None, stop: Stop | None = None) -> int:
    """Copy all of the source to the target, which is empty: bytes. Clone, else copy_file_range, else read and write.

    Holes stay holes. no_clones: devices whose files are not worth the try; it is added to. stop: asked now and then.
    Raises OSError, Stopped.
    """
    found = os.fstat(source_fd)
    if no_clones is None or found.st_dev not in no_clones:
        if clone(source_fd, target_fd):
            return os.fstat(target_fd).st_size
        if no_clones is not None:
            no_clones.add(found.st_dev)
    size = found.st_size
    for start, end in extents(source_fd, size, found.st_blocks):
        _copy_range(source_fd, target_fd, start, end, stop)
    if os.fstat(target_fd).st_size < size:
        os.ftruncate(target_fd, size)
    return size


def _copy_range(source_fd: int, target_fd: int, start: int, end: int, stop: Stop | None) -> None:
    in_kernel = _COPY_FILE_RANGE is not None
    while start < end:
        if stop is not None and stop.asked:
            raise Stopped
        if in_kernel and _COPY_FILE_RANGE:
            try:
                done = _COPY_FILE_RANGE(source_fd, target_fd, min(end - start, _COPIED_AT_A_TIME), start, start)
            except OSError as error:
                if error.errno in _FULL:
                    raise
                in_kernel = False  # another file system, an old kernel, a filter
                continue
            if not done:
                in_kernel = False  # the end; or one of those files whose size is not what can be read
        else:
            data = os.pread(source_fd, min(end - start, _CHUNK), start)
            done = os.pwrite(target_fd, data, start) if data else 0
            if not data:
                return  # it was cut
        start += done


def extents(fd: int, size: int, blocks: int) -> Iterator[tuple[int, int]]:
    """Where there is data, as (start, end). One extent where there are no holes, or nobody knows."""
    if blocks * 512 >= size:
        if size:
            yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno != ENXIO:  # ENXIO: nothing but a hole until the end
                yield end, size
            return
        if start >= size:
            return
        yield start, end


def has_holes(fd: int, found: os.stat_result) -> bool:
    """Whether the holes are left out of its hash."""
    if found.st_size - found.st_blocks * 512 < _HOLES:
        return False
    data = sum(end - start for start, end in extents(fd, found.st_size, found.st_blocks))
    return found.st_size - data >= _HOLES


def has_digest(fd: int, digest: str) -> bool:
    """Whether an open file has the contents of this digest, whose holes may have been left out of it or not."""
    found = os.fstat(fd)
    holes = has_holes(fd, found)
    if hash_of(fd, found.st_size, holes) == digest:
        return True
    return found.st_size >= _HOLES and hash_of(fd, found.st_size, not holes) == digest  # smaller ones have one only


def hash_of(fd: int, size: int, sparse: bool = False, stop: Stop | None = None) -> str:
    """The digest of `size` bytes from the beginning. sparse: that of a file whose holes are left out."""
    if sparse:
        return _sparse_hash(fd, size, stop)
    hasher = sha256()
    offset = 0
    while offset < size:
        if stop is not None and stop.asked:
            raise Stopped
        data = os.pread(fd, min(_CHUNK, size - offset), offset)
        if not data:
            break
        hasher.update(data)
        offset += len(data)
    return hasher.hexdigest()


def _sparse_hash(fd: int, size: int, stop: Stop | None) -> str:
    """Which blocks are holes is the file system's affair; which are not zero is not."""
    hasher = sha256(_SPARSE + b"%d\n" % size)
    zeros = bytes(_BLOCK)
    done = 0
    for start, end in extents(fd, size, 0):
        offset = max(start // _BLOCK * _BLOCK, done)
        done = -(-end // _BLOCK) * _BLOCK
        while offset < min(done, size):
            if stop is not None and stop.asked:
                raise Stopped
            data = os.pread(fd, min(_CHUNK, done - offset), offset)
            if not data:
                break
            for at in range(0, len(data), _BLOCK):
                block = data[at : at + _BLOCK]
                if block != zeros[: len(block)]:
                    hasher.update(b"%d:" % (offset + at))
                    hasher.update(block)
            offset += len(data)
    return hasher.hexdigest()


def _digests_in(path: str) -> Iterator[str]:
    with Manifest(path) as manifest:
        for index in range(len(manifest.roots)):
            for line in manifest.lines(index):
                digest = line.split(b"\t", 11)[10]
                if digest:
                    yield digest.decode()


def _part_of(digest: str, parts: int) -> int:
    return int(digest[:8], 16) % parts


def _empty(directory: str) -> None:
    with os.scandir(directory) as found:
        for item in found:
            os.unlink(item.path)
