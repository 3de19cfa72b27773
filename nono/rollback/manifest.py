"""A snapshot as a file: every entry of every root, in order, with one hash over all that can be restored.

    nono snapshot 1
    0 <name> <ctime> <device> <inode> <links> <kind> <mode> <mtime> <size> <digest> <target> <xattrs> <reason> <note>
    …                                                      one line an entry, its fields divided by tabs
                                                           <mode>: 644.1000.1000, with the owner and the group
    {"roots": […], "root": …, "lines": …, "started_ns": …}
    <where the line before begins, 20 digits> <its SHA-256>

The first field is the depth, and only the last name of a path is written: lines come in the order of tree.sort_key, so
those before tell the directory. A million entries are read and written as a stream. Tabs, line ends and backslashes in
names are escaped; anything else, UTF-8 or not, is there as it is.

"root" is a Merkle root: the hash of a directory is that of the lines of what is in it, each from its kind to its
reason, and of the hashes of the directories among them. Times of change, inode numbers and notes do not count: what was
restored has the root it had. "lines" is the SHA-256 of all that stands before it: any byte that was damaged is found.

A file that was not finished has no last line and is no manifest; it has its name only once it is whole (snapshot.py).
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import Self

from nono.errors import StoreError
from nono.record import Record
from nono.rollback.tree import DIRECTORY, FILE, LINK, SPECIAL, Entry, sort_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, BinaryIO

MAGIC = b"nono snapshot 1\n"
TRAILER_BYTES = 86  # 20 digits, a blank, 64 digits, a line end
UNSTORED = b"?"  # instead of a digest, in a draft: the contents are still to be stored
_BUFFERED = 2000  # lines that are written at a time

_KINDS = {FILE: b"f", DIRECTORY: b"d", LINK: b"l", SPECIAL: b"s"}
_KIND_NAMES = {letter: name for name, letter in _KINDS.items()}


class RootSummary(Record):
    """One root of a snapshot. path: absolute. start, end: where its lines are in the file.

    files, total_bytes: of what is covered. left_out: entries with a reason. digest: its Merkle root; "" for one that
    was not there, which has no entries.
    """

    path: bytes
    start: int
    end: int
    entries: int
    files: int
    total_bytes: int
    left_out: int
    digest: str


class Manifest:
    """A finished manifest, open for reading; a context manager. roots: sorted by path. root: hex."""

    def __init__(self, path: str) -> None:
        """Open it and read what it says of itself. Raises StoreError: not there, not finished, damaged."""
        self.path = path
        try:
            self._file: BinaryIO = open(path, "rb", buffering=1 << 18)  # noqa: SIM115
        except OSError as error:
            raise StoreError(f"the snapshot {path} cannot be read: {error.strerror}") from None
        try:
            size = os.fstat(self._file.fileno()).st_size
            self._file.seek(max(size - TRAILER_BYTES, 0))
            trailer = self._file.read()
            self._end = int(trailer.split(b" ")[0])
            self._file.seek(self._end)
            line = self._file.read(max(size - TRAILER_BYTES - self._end, 0))
            if trailer != _trailer(self._end, line):
                raise ValueError
            about = json.loads(line)
            self.root = str(about["root"])
            self.started_ns = int(about["started_ns"])
            self._lines = str(about["lines"])
            self.roots = tuple(RootSummary(os.fsencode(path), *rest) for path, *rest in about["roots"])
            self._file.seek(0)
            if self._file.read(len(MAGIC)) != MAGIC:
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError):
            self._file.close()
            raise self._damaged() from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def close(self) -> None:
        self._file.close()

    def root_of(self, path: bytes) -> int:
        """Which of `roots` covers this absolute path; -1 for none."""
        for index, root in enumerate(self.roots):
            if path == root.path or path.startswith(root.path.rstrip(b"/") + b"/"):
                return index
        return -1

    def lines(self, index: int) -> Iterator[bytes]:
        """The lines of one root, with their ends. Each iterator has a place of its own in the file."""
        root = self.roots[index]
        with open(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC), "rb", buffering=1 << 18) as file:
            file.seek(root.start)
            left = root.end - root.start
            while left > 0:
                line = file.readline()
                if not line:
                    raise self._damaged()
                left -= len(line)
                yield line

    def entries(self, index: int) -> Iterator[Entry]:
        """The entries of one root, in order. Raises StoreError for a line that is none."""
        return entries_of(self.lines(index), self.path)

    def find(self, index: int, path: bytes) -> Entry | None:
        """The entry of one path, found by reading."""
        key = sort_key(path)
        for entry in self.entries(index):
            if entry.path == path:
                return entry
            if sort_key(entry.path) > key:
                return None
        return None

    def verify(self) -> None:
        """Compute every hash anew. Raises StoreError for a file that is not as it was written."""
        hasher = sha256()
        self._file.seek(0)
        left = self._end
        while left:
            data = self._file.read(min(left, 1 << 20))
            if not data:
                raise self._damaged()
            hasher.update(data)
            left -= len(data)
        if hasher.hexdigest() != self._lines:
            raise self._damaged()
        for index, root in enumerate(self.roots):
            merkle = Merkle()
            for line in self.lines(index):
                depth, name, _, _, _, _, rest = line.split(b"\t", 6)
                merkle.add(int(depth), name, rest.rpartition(b"\t")[0])
            if merkle.finish() != root.digest:
                raise self._damaged()
        if _root_over(self.roots) != self.root:
            raise self._damaged()

    def _damaged(self) -> StoreError:
        return StoreError(
            f"the snapshot {self.path} is damaged or was not finished; `nono rollback cleanup` removes it"
        )


class Writer:
    """Write a manifest to a file: begin_root, then its lines, and so on; at the end, finish."""

    def __init__(self, file: BinaryIO) -> None:
        """file: empty, unbuffered or not; stays the caller's."""
        self._file = file
        self._hasher = sha256()
        self._offset = 0
        self._buffer: list[bytes] = [MAGIC]
        self._roots: list[RootSummary] = []
        self._path: bytes | None = None
        self._start = 0
        self._merkle = Merkle()
        self._entries = self._files = self._bytes = self._left_out = 0
        self._covered_from = 0

    @property
    def entries(self) -> int:
        return self._entries

    def begin_root(self, path: bytes) -> None:
        self._end_root()
        self._flush()
        self._path, self._start, self._merkle = path, self._offset, Merkle()
        self._entries = self._files = self._bytes = self._left_out = 0

    def add_line(self, line: bytes) -> None:
        """Add an entry's line."""
        depth, name, _, _, _, _, rest = line.split(b"\t", 6)
        kept, _, _ = rest.rpartition(b"\t")
        self._buffer.append(line)
        self._merkle.add(int(depth), name, kept)
        self._entries += 1
        if not kept.endswith(b"\t"):
            self._left_out += 1
        elif rest.startswith(b"f"):
            self._files += 1
            self._bytes += int(rest.split(b"\t", 4)[3])
        if len(self._buffer) >= _BUFFERED:
            self._flush()

    def add(self, entry: Entry) -> None:
        self.add_line(line_of(entry))

    def finish(self, started_ns: int) -> tuple[str, tuple[RootSummary, ...]]:
        """Write the end, and return the Merkle root and the roots. started_ns: before anything was looked at."""
        self._end_root()
        self._flush()
        roots = tuple(self._roots)
        root = _root_over(roots)
        about = {
            "roots": [(os.fsdecode(path), *rest) for path, *rest in roots],
            "root": root,
            "lines": self._hasher.hexdigest(),
            "started_ns": started_ns,
        }
        line = json.dumps(about).encode() + b"\n"
        _write_all(self._file, line + _trailer(self._offset, line))
        self._file.flush()
        return root, roots

    def _end_root(self) -> None:
        if self._path is not None:
            self._flush()
            digest = self._merkle.finish()
            counts = (self._entries, self._files, self._bytes, self._left_out)
            self._roots.append(RootSummary(self._path, self._start, self._offset, *counts, digest))
            self._path = None

    def _flush(self) -> None:
        data = b"".join(self._buffer)
        self._buffer.clear()
        self._hasher.update(data)
        self._offset += len(data)
        _write_all(self._file, data)


def _trailer(offset: int, line: bytes) -> bytes:
    return b"%020d %b\n" % (offset, sha256(line).hexdigest().encode())


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


class Merkle:
    """The hash of a tree from its lines, in their order; as deep as the tree, no larger."""

    def __init__(self) -> None:
        self._above: list[tuple[int, bytes, Any]] = []  # depth, the directory's own line, a hash under way
        self._result = ""

    def add(self, depth: int, name: bytes, kept: bytes) -> None:
        """Add a line: its name, and what counts of it, from its kind to its reason."""
        above = self._above
        while above and above[-1][0] >= depth:
            self._leave()
        if kept.startswith(b"d"):
            above.append((depth, b"%b\t%b" % (name, kept), sha256()))
        elif above:
            above[-1][2].update(b"%b\t%b\n" % (name, kept))
        else:  # the root is a file
            self._result = sha256(b"\t%b\n" % kept).hexdigest()

    def finish(self) -> str:
        """The hash of the root, in hex; "" for nothing."""
        while self._above:
            self._leave()
        return self._result

    def _leave(self) -> None:
        _, line, hasher = self._above.pop()
        record = b"%b\t%b\n" % (line, hasher.hexdigest().encode())
        if self._above:
            self._above[-1][2].update(record)
        else:
            self._result = sha256(record).hexdigest()


def _root_over(roots: Iterable[RootSummary]) -> str:
    return sha256(b"".join(b"%b\0%b\0" % (root.path, root.digest.encode()) for root in roots)).hexdigest()


def stat_part(entry: Entry) -> bytes:
    """The beginning of an entry's line, up to its size: what stat(2) says. What begins alike is unchanged."""
    path = entry.path
    depth = path.count(b"/") + 1 if path else 0
    return b"%d\t%b\t%d\t%d\t%d\t%d\t%b\t%o%b\t%d\t%d\t" % (
        depth,
        escape(path[path.rfind(b"/") + 1 :]),
        entry.ctime_ns,
        entry.device,
        entry.inode,
        entry.links,
        _KINDS[entry.kind],
        entry.mode,
        b".%d.%d" % (entry.uid, entry.gid) if entry.uid >= 0 else b"",
        entry.mtime_ns,
        entry.size,
    )


def line_of(entry: Entry) -> bytes:
    return stat_part(entry) + tail_of(entry)


def tail_of(entry: Entry) -> bytes:
    """The rest of an entry's line, from the digest to the end."""
    xattrs = b",".join(b"%b:%b" % (name.hex().encode(), value.hex().encode()) for name, value in entry.xattrs)
    reason, note = escape(os.fsencode(entry.reason)), escape(os.fsencode(entry.note))
    return b"%b\t%b\t%b\t%b\t%b\n" % (entry.digest.encode(), escape(entry.target), xattrs, reason, note)


def entries_of(lines: Iterable[bytes], where: str) -> Iterator[Entry]:
    """Entries from their lines, which must begin with a root's. where: the file, for the error."""
    directory = b""  # with "/" at its end, the one that was met last; those on the way to it are its beginnings
    ends: list[int] = []  # of that which holds entries of depth n + 1
    owners: dict[bytes, tuple[int, int, int]] = {}  # modes and owners that were met: there are few
    for line in lines:
        try:
            depth_text, name, ctime, device, inode, links, kind, mode, mtime, size, rest = line.split(b"\t", 10)
            digest, target, xattrs, reason, note = rest[:-1].split(b"\t")
            depth = int(depth_text)
            if depth > len(ends) or not line.endswith(b"\n") or (depth and not name):
                raise ValueError
            path = directory[: ends[depth - 1]] + unescape(name) if depth else b""
            if kind == b"d":
                directory = path + b"/" if depth else b""
                del ends[depth:]
                ends.append(len(directory))
            elif depth < len(ends):
                del ends[depth:]
            if (owned := owners.get(mode)) is None:
                permissions, _, owner = mode.partition(b".")
                uid, gid = owner.split(b".") if owner else (b"-1", b"-1")
                owned = owners[mode] = int(permissions, 8), int(uid), int(gid)
            entry = tuple.__new__(
                Entry,
                (
                    path,
                    _KIND_NAMES[kind],
                    owned[0],
                    int(mtime),
                    int(ctime),
                    int(size),
                    int(device),
                    int(inode),
                    int(links),
                    digest.decode("ascii"),
                    unescape(target) if target else b"",
                    tuple(_xattr(pair) for pair in xattrs.split(b",")) if xattrs else (),
                    os.fsdecode(unescape(reason)) if reason else "",
                    os.fsdecode(unescape(note)) if note else "",
                    *owned[1:],
                ),
            )
        except (ValueError, KeyError, IndexError):
            raise StoreError(f"the snapshot {where} is damaged; `nono rollback cleanup` removes it") from None
        yield entry


def _xattr(pair: bytes) -> tuple[bytes, bytes]:
    name, value = pair.decode("ascii").split(":")
    return bytes.fromhex(name), bytes.fromhex(value)


def escape(name: bytes) -> bytes:
    if b"\\" in name or b"\t" in name or b"\n" in name:
        return name.replace(b"\\", b"\\\\").replace(b"\t", b"\\t").replace(b"\n", b"\\n")
    return name


def unescape(text: bytes) -> bytes:
    """Raises ValueError for what `escape` does not make."""
    if b"\\" not in text:
        return text
    parts = text.split(b"\\\\")
    done = []
    for part in parts:
        pieces = part.split(b"\\")
        for index, piece in enumerate(pieces[1:], 1):
            replaced = {b"t": b"\t", b"n": b"\n"}.get(piece[:1])
            if replaced is None:
                raise ValueError
            pieces[index] = replaced + piece[1:]
        done.append(b"".join(pieces))
    return b"\\".join(done)
