"""Take a snapshot: roots → a manifest, and what is new of their contents in the store.

First the trees are walked, by stat(2) alone (tree.py), beside the manifest from before, if there is one. An entry whose
line begins as it did then (time of change, device, inode, links, kind, mode, time, size) is taken from there with
the digest, unless it may have been written in the same tick of the clock in which it was read then. So a tree that did
not change costs one stat(2) a name. When all has been counted, and --rollback-max-size is not exceeded, what is new
is read and stored by two threads (reading.py), in batches that are written in their order.

The time of change (ctime) cannot be set by a program, which is why what an agent does to times hides nothing. What is
written through a mapping that another process has held since before the first snapshot may show late: as in git.

What is stored gets its name, and is on the disk, before the manifest gets its name.

Memory: batches under way, and the directories on the way down; a million entries are a stream.
"""

from __future__ import annotations

import os
import time
from collections import deque
from queue import SimpleQueue
from threading import Event, Thread

from nono.errors import KernelError, StoreError, UsageError
from nono.kernel.sync import sync_directory
from nono.record import Record
from nono.rollback.ignore import Ignore, Rules
from nono.rollback.manifest import UNSTORED, Manifest, RootSummary, Writer, line_of, stat_part, tail_of, unescape
from nono.rollback.objects import Stage, Stop, Store
from nono.rollback.reading import Budget, Reader
from nono.rollback.tree import FILE, Entry, Walk, open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

DEFAULT_MAX_BYTES = 10 << 30
MAX_LISTED = 1000
"""What was left out and what was noted is listed up to so many; the manifest has them all."""

_THREADS = min(os.cpu_count() or 1, 2)
_BATCH = 64  # entries that one thread reads at a time
_UNDER_WAY = 4 * _THREADS
_TICK_NS = 100_000_000  # the clock of file times advances every 1 to 10 ms
_COARSE_NS = 2_000_000_000  # where it counts seconds: FAT counts two
_PENDING = UNSTORED + b"\t\t\t\t\n"


class Noted(Record):
    """Something that is to be told. path: absolute."""

    path: bytes
    reason: str
    note: str


class Snapshot(Record):
    """What was taken: the manifest's path and Merkle root, and the sums over all roots.

    written: bytes that are new in the store. left_out: entries with a reason, the first MAX_LISTED of left_out_count.
    notes: what is covered but not wholly, and .gitignore files that were not heeded. gitignore: those that were read,
    by root and directory, for `take` of the final snapshot.
    """

    path: str
    root: str
    roots: tuple[RootSummary, ...]
    files: int
    total_bytes: int
    written: int
    left_out: tuple[Noted, ...]
    left_out_count: int
    notes: tuple[Noted, ...]
    gitignore: Mapping[str, Mapping[str, str]]


def take(
    roots: Sequence[bytes],
    store: Store,
    path: str,
    *,
    previous: str = "",
    rules: Rules | None = None,
    gitignore: Mapping[str, Mapping[str, str]] | None = None,
    never: Iterable[bytes] = (),
    across: Iterable[bytes] = (),
    max_bytes: int = DEFAULT_MAX_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Snapshot:
    """Snapshot the roots (absolute, real; nested ones are merged) into the manifest at `path`.

    previous: a manifest to compare with ("" for none): what is unchanged since is not read. gitignore: None to read
    those of the tree; else Snapshot.gitignore of the baseline. never, across: tree.Walk. max_bytes: of files that are
    covered; a tree with more is refused before anything is stored. progress(done, total): bytes; while they are being
    counted total is 0, and done the number of entries.

    Raises UsageError for a tree that is too large, StoreError when the store or the manifest cannot be written or a
    root cannot be read.
    """
    taking = _Taking(store, rules or Rules(), gitignore, progress)
    merged = merge_roots(roots)
    walk_across = {*across, *(root for root in roots if root not in merged)}
    with store.lock(), store.stage() as stage:
        try:
            return taking.take(merged, stage, path, previous, (tuple(never), walk_across), max_bytes)
        except OSError as error:
            if isinstance(error, KernelError):
                raise
            raise stage.cannot(error) from None


def merge_roots(roots: Iterable[bytes]) -> tuple[bytes, ...]:
    """Sorted, without those that are below another."""
    merged: list[bytes] = []
    for root in sorted(set(roots), key=lambda root: root.rstrip(b"/").replace(b"/", b"\0")):
        if not merged or not (root + b"/").startswith(merged[-1].rstrip(b"/") + b"/"):
            merged.append(root)
    return tuple(merged)


class _Taking:
    """One snapshot being taken."""

    def __init__(
        self,
        store: Store,
        rules: Rules,
        gitignore: Mapping[str, Mapping[str, str]] | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._store = store
        self._rules = rules
        self._known_gitignore = gitignore
        self._progress = progress
        self._gitignore: dict[str, Mapping[str, str]] = {}
        self._left_out: list[Noted] = []
        self._notes: list[Noted] = []
        self._entries = self._bytes = 0
        self._pending = self._pending_bytes = self._written = 0

    def take(
        self,
        roots: Sequence[bytes],
        stage: Stage,
        path: str,
        previous: str,
        bounds: tuple[Iterable[bytes], Iterable[bytes]],
        max_bytes: int,
    ) -> Snapshot:
        started_ns = time.time_ns()
        draft, new = f"{path}.draft", f"{path}.new"
        before = _open_previous(previous)
        try:
            with _created(draft) as file:
                writer = Writer(file)
                for root in roots:
                    writer.begin_root(root)
                    self._walk(root, before, writer, bounds, max_bytes)
                digest, summaries = writer.finish(started_ns)
                if not self._pending:
                    os.rename(draft, new)
                    os.fsync(file.fileno())
            if self._pending:
                with Manifest(draft) as manifest, _created(new) as file:
                    writer = Writer(file)
                    self._fill(manifest, writer, stage, Budget(max_bytes))
                    digest, summaries = writer.finish(started_ns)
                    stage.commit()
                    os.fsync(file.fileno())
            os.rename(new, path)
            sync_directory(os.path.dirname(path))
        finally:
            if before:
                before.close()
            for name in (draft, new):
                try:
                    os.unlink(name)
                except OSError:
                    pass
        return Snapshot(
            path,
            digest,
            summaries,
            sum(root.files for root in summaries),
            sum(root.total_bytes for root in summaries),
            self._written,
            tuple(self._left_out),
            sum(root.left_out for root in summaries),
            tuple(self._notes),
            self._gitignore,
        )

    def _walk(
        self,
        path: bytes,
        before: Manifest | None,
        writer: Writer,
        bounds: tuple[Iterable[bytes], Iterable[bytes]],
        max_bytes: int,
    ) -> None:
        """Write a line for each entry of a root: its whole line, or one that says what is still to be read."""
        key = os.fsdecode(path)
        texts = None if self._known_gitignore is None else self._known_gitignore.get(key, {})
        ignore = Ignore(self._rules, texts)
        try:
            root = open_root(path)
            if root is None:
                return
            walk = Walk(ignore.rule_for, ignore.enter, *bounds)
            lines = _Before(before, path, self._store)
            for entry in walk.entries(root):
                self._entries += 1
                if not self._entries & 1023 and self._progress:
                    self._progress(self._entries, 0)
                part = stat_part(entry)
                if entry.reason:
                    self._tell(path, entry)
                    writer.add_line(part + tail_of(entry))
                    continue
                known = lines.find(part, entry)
                if known:
                    writer.add_line(known)
                    continue
                if self._bytes + walk.bytes > max_bytes:
                    break
                self._pending += 1
                self._pending_bytes += entry.size
                writer.add_line(part + _PENDING)
        except OSError as error:
            raise StoreError(
                f"{key} cannot be read, so what changes in it could not be undone: {error.strerror}"
            ) from None
        self._bytes += walk.bytes
        if self._bytes > max_bytes:
            raise UsageError(
                f"what the command may write is more than {human(max_bytes)} (at {key}): raise --rollback-max-size, "
                "leave something out with --rollback-exclude, or grant less"
            )
        self._gitignore[key] = ignore.texts
        for directory, note in ignore.notes[: MAX_LISTED - len(self._notes)]:
            self._notes.append(Noted(os.path.join(path, directory), "", note))

    def _tell(self, root: bytes, entry: Entry) -> None:
        told = self._left_out if entry.reason else self._notes
        if len(told) < MAX_LISTED:
            told.append(Noted(os.path.join(root, entry.path) if entry.path else root, entry.reason, entry.note))

    def _fill(self, draft: Manifest, writer: Writer, stage: Stage, budget: Budget) -> None:
        """Copy the draft, with what was still to be read."""
        done = 0
        for index, root in enumerate(draft.roots):
            writer.begin_root(root.path)
            stage.stop = Stop()
            with _Threads(root.path, stage, budget) as threads:
                gone = -1  # below this depth, what was in a directory that is gone, or something else by now
                for batch in threads.run(_batches(draft, index)):
                    for depth, line in zip(batch.depths, batch.lines, strict=True):
                        if gone >= 0 and depth > gone:
                            continue
                        if line:
                            writer.add_line(line)
                        gone = -1 if line.split(b"\t", 7)[6:7] == [b"d"] else depth
                    for entry in batch.told:
                        self._tell(root.path, entry)
                    done += batch.bytes
                    if self._progress:
                        self._progress(min(done, self._pending_bytes), self._pending_bytes)
            self._written += threads.written


class _Batch:
    """Lines of a draft, in order, and which of them are to be read."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []  # b"": gone
        self.depths: list[int] = []
        self.todo: list[tuple[int, bytes]] = []  # (which line, its path)
        self.told: list[Entry] = []
        self.bytes = 0
        self.done = Event()
        self.error: BaseException | None = None


def _batches(draft: Manifest, index: int) -> Iterator[_Batch]:
    batch = _Batch()
    names: list[bytes] = []
    for line in draft.lines(index):
        fields = line.split(b"\t", 11)
        depth = int(fields[0])
        if depth:
            del names[depth - 1 :]
            names.append(unescape(fields[1]))
        if fields[10] == UNSTORED:
            batch.todo.append((len(batch.lines), b"/".join(names)))
            batch.bytes += int(fields[9])
        batch.lines.append(line)
        batch.depths.append(depth)
        if len(batch.todo) == _BATCH or len(batch.lines) == 16 * _BATCH:
            yield batch
            batch = _Batch()
    yield batch


class _Threads:
    """Threads that read batches. A context manager: they have ended when it has."""

    def __init__(self, root: bytes, stage: Stage, budget: Budget) -> None:
        self._queue: SimpleQueue[_Batch | None] = SimpleQueue()
        self._stage = stage
        self.written = 0
        self._readers = []
        for _ in range(_THREADS):
            opened = open_root(root)
            if opened:
                self._readers.append(Reader(opened, stage, budget))
        self._threads = [Thread(target=self._work, args=(reader,), daemon=True) for reader in self._readers]

    def __enter__(self) -> _Threads:  # noqa: PYI034
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stage.stop.asked = True  # each thread has done what it was given, or what it does is no longer wanted
        for _reader in self._readers:
            self._queue.put(None)
        for number, reader in enumerate(self._readers):
            self._threads[number].join()
            self.written += reader.written

    def run(self, batches: Iterable[_Batch]) -> Iterator[_Batch]:
        """Yield the batches in their order, each once it has been read."""
        under_way: deque[_Batch] = deque()
        for batch in batches:
            under_way.append(batch)
            if not batch.todo:
                batch.done.set()
            elif self._threads:
                self._queue.put(batch)
            else:  # the root is gone
                batch.lines = [b""] * len(batch.lines)
                batch.done.set()
            if len(under_way) > _UNDER_WAY:
                yield _wait(under_way.popleft())
        while under_way:
            yield _wait(under_way.popleft())

    def _work(self, reader: Reader) -> None:
        with reader:
            while (batch := self._queue.get()) is not None:
                try:
                    for index, path in batch.todo:
                        if self._stage.stop.asked:
                            break
                        entry = reader.read(path)
                        batch.lines[index] = line_of(entry) if entry else b""
                        if entry and (entry.reason or entry.note):
                            batch.told.append(entry)
                except BaseException as error:  # noqa: BLE001 (raised where the batch is waited for)
                    batch.error = error
                batch.done.set()


def _wait(batch: _Batch) -> _Batch:
    batch.done.wait()
    if batch.error:
        raise batch.error
    return batch


class _Before:
    """The lines that a root had, met in the order of the walk."""

    def __init__(self, manifest: Manifest | None, root: bytes, store: Store) -> None:
        self._started_ns = manifest.started_ns if manifest else 0
        self._store = store
        self._lines: Iterator[bytes] = iter(())
        if manifest:
            for index, summary in enumerate(manifest.roots):
                if summary.path == root:
                    self._lines = manifest.lines(index)
        self._depth = -1
        self._name = self._line = b""
        self._next()

    def find(self, part: bytes, entry: Entry) -> bytes:
        """The line from before of an entry that is unchanged; b"" for none. part: how it begins now."""
        depth = entry.path.count(b"/") + 1 if entry.path else 0
        name = entry.path[entry.path.rfind(b"/") + 1 :]
        while self._depth > depth or (self._depth == depth and self._name < name):
            self._next()
        if self._depth != depth or self._name != name:
            return b""
        line = self._line
        self._next()
        if not line.startswith(part) or not line.endswith(b"\t\t\n"):  # it has a reason or a note: try again
            return b""
        tick = _COARSE_NS if entry.ctime_ns % 1000 == 0 else _TICK_NS
        if entry.ctime_ns >= self._started_ns - tick:
            return b""
        if entry.kind == FILE and not self._store.holds(line[len(part) : len(part) + 64].decode("ascii"), entry.size):
            return b""
        return line

    def _next(self) -> None:
        self._line = next(self._lines, b"")
        if self._line:
            depth, name, _ = self._line.split(b"\t", 2)
            self._depth, self._name = int(depth), unescape(name)
        else:
            self._depth = -1


def _open_previous(path: str) -> Manifest | None:
    try:
        return Manifest(path) if path else None
    except StoreError:  # it saves time, nothing else
        return None


def _created(path: str) -> BinaryIO:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    return open(fd, "wb", buffering=0)


def human(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
