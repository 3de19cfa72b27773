"""Signatures without a key that were verified before: a start need not verify them, nor import `sigstore`, again.

STATE/trust/verified has one small file for each: what was verified (the digests of the bundle, of the trusted root and
of the verifier's version, and this format), and the identity that came of it. Another trusted root or another version
of `sigstore` means another file, so whatever changes what is believed has every bundle verified anew. Only success is
kept. What has to be asked every time (is the identity a publisher, blocklists, digests of files) is not in here.

Whoever can write there can forge an identity. That is the user, and root: the directory and its parent have to be the
user's own and nobody else's to write, neither may be a link, and no agent reaches STATE, behind any wall. Anything else
there, and a file that is not whole, counts as absent and is written anew; a cache that cannot be written costs time.

A file is written beside its place and renamed, so a reader sees a whole one. It is not brought to the disk (fsync): one
that a crash took is made again.
"""

from __future__ import annotations

import json
import os
import stat
from hashlib import sha256

from nono.record import Record
from nono.trust.policy import Keyless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nono.trust.bundle import Bundle
    from nono.trust.trusted_root import TrustRoot

MOST_ENTRIES = 1024
_KEPT_ENTRIES = 768  # when there are too many: the newest
_FORMAT = 1
_MOST_BYTES = 32 << 10
_DIRECTORIES = ("trust", "verified")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Key(Record):
    """What a verification depends on: SHA-256 in hex digits."""

    bundle: str
    root: str

    @property
    def name(self) -> str:
        """The name of its file."""
        return sha256(f"nono {_FORMAT} {self.bundle} {self.root}".encode()).hexdigest()


def identity_of(state: str, bundle: Bundle, root: TrustRoot, verify: Callable[[Bundle, TrustRoot], Keyless]) -> Keyless:
    """Return who signed `bundle`, as `verify` (keyless.identity_of) says or said. state: STATE. Raises as it does."""
    key = Key(sha256(bundle.raw).hexdigest(), root.digest)
    known = _load(state, key)
    if known is None:
        known = verify(bundle, root)
        _store(state, key, known)
    return known


def _load(state: str, key: Key) -> Keyless | None:
    """Return the identity that is kept under `key`; None where there is none that is whole."""
    try:
        with _Directory(state, make=False) as directory:
            fd = os.open(key.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
            try:
                _must_be_own(os.fstat(fd), stat.S_IFREG)
                data = os.read(fd, _MOST_BYTES)
            finally:
                os.close(fd)
        fields = json.loads(data)["identity"]
        identity = Keyless(*(fields[name] for name in Keyless._fields))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return identity if data == _encode(key, identity) else None


def _store(state: str, key: Key, identity: Keyless) -> None:
    """Keep an identity, if that can be."""
    data = _encode(key, identity)
    if len(data) >= _MOST_BYTES:
        return
    temporary = f"{key.name}.{os.getpid()}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with _Directory(state, make=True) as directory:
            _make_room(directory)
            try:
                with open(os.open(temporary, flags, 0o600, dir_fd=directory), "wb") as file:
                    file.write(data)
                os.rename(temporary, key.name, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                os.unlink(temporary, dir_fd=directory)
    except OSError:
        pass


def _encode(key: Key, identity: Keyless) -> bytes:
    """Return a file's contents. `sum` is over all the rest, so that a damaged one is not half believed."""
    fields = {"format": _FORMAT, "bundle": key.bundle, "root": key.root, "identity": identity._asdict()}
    digest = sha256(json.dumps(fields).encode()).hexdigest()
    return json.dumps({**fields, "sum": digest}, indent=1).encode() + b"\n"


def _make_room(directory: int) -> None:
    """Remove the oldest files, where there are too many. What a killed process left behind goes with them."""
    names = os.listdir(directory)
    if len(names) < MOST_ENTRIES:
        return
    by_age = sorted(names, key=lambda name: -os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime_ns)
    for name in by_age[_KEPT_ENTRIES:]:
        os.unlink(name, dir_fd=directory)


def _must_be_own(status: os.stat_result, kind: int) -> None:
    """Raise OSError unless it is of this kind, and nobody but this user can write it."""
    if stat.S_IFMT(status.st_mode) != kind or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError


class _Directory:
    """STATE/trust/verified, open for as long as the `with` lasts. Raises OSError where it is not the user's alone."""

    def __init__(self, state: str, *, make: bool) -> None:
        self._state = state
        self._make = make

    def __enter__(self) -> int:
        if self._make:
            os.makedirs(self._state, mode=0o700, exist_ok=True)
        self._fd = os.open(self._state, _DIRECTORY & ~os.O_NOFOLLOW)
        try:
            for name in _DIRECTORIES:
                self._fd = self._below(name)
        except OSError:
            os.close(self._fd)
            raise
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _below(self, name: str) -> int:
        """Return the directory `name` in the one that is open, which is closed when that went well."""
        if self._make:
            try:
                os.mkdir(name, 0o700, dir_fd=self._fd)
            except FileExistsError:
                pass
        fd = os.open(name, _DIRECTORY, dir_fd=self._fd)
        try:
            _must_be_own(os.fstat(fd), stat.S_IFDIR)
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        return fd
