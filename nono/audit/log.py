"""The audit log of one run: a chain of records (chain.py) in a file that the child can neither read nor write.

One file per run, `STATE/audit/SESSION.jsonl`, 0600 in a 0700 directory that every sandbox denies; the session's id is
YYYYMMDDTHHMMSSZ-PID[-NAME]. Its records, by their "kind": one start (`begin`), an exchange for each decision of the
proxy, a denial for each thing that was denied otherwise, one exit; a gap says how many could not be written. The ledger
knows of each session (ledger.py). While it is open the file is locked (flock), which tells a running session from one
that was killed.

Exchanges are collected and written with one write(2) when the loop comes to rest (`flush`), so that none costs a
system call of its own; their hashes are made then. Whoever watches (`view`) is shown the same entries. What was written
is synced to the disk beside the loop (sync.py), and at the end. A log that cannot be opened, or a start that cannot be
written, stops the run before the agent starts (fail closed); what cannot be written later is reported when the run
ends, as is a log that somebody removed.

Nothing secret is here to be written: an exchange is made of the proxy's verdicts and of the request's method, route and
path without its query, and what has the shape of a key is taken out of it (redact.py).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from fcntl import LOCK_EX, LOCK_NB, flock
from operator import itemgetter

from nono.audit import chain, ledger
from nono.audit.redact import MARK, without_keys
from nono.audit.sync import Syncer, aside, fault_of
from nono.errors import NonoError, StoreError
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

_MAX_KEPT = 1024  # strings remembered in their encoded form, and as many lines but for their numbers
_MAX_KEPT_CHARACTERS = 1024
_MAX_REFUSED = 256
_LOCK_TRIES, _LOCK_PAUSE_S = 100, 0.001
_ARE_EXCHANGES = ("proxy", "mediator")  # Denial.source
BUNDLE = ".bundle"  # behind a log's name: its signature
_NUMBERS = {int: "%d", float: "%.6f"}
encode = json.JSONEncoder(separators=(",", ":")).encode


class Signer(Record):
    """Who signs a log at its end. key: the fingerprint of his public key.

    sign: given the log's name, its SHA-256, the number of its records and the last one's hash, returns the signature's
    file. Raises NonoError, OSError.
    """

    key: str
    sign: Callable[[str, str, int, str], bytes]


class AuditLog:
    """An open audit file; a context manager. `path` is where it is, `session` the id of the run."""

    def __init__(
        self,
        state_directory: str,
        notice: Callable[[str], None],
        view: Callable[[Sequence[Any]], None] | None = None,
        name: str = "",
        signer: Signer | None = None,
    ) -> None:
        """Open a new log below `state_directory`. notice: told at the end if the log has gaps. Raises StoreError.

        view: shown the entries (each as `append` was given its values) once they are written; raises nothing. name: the
        run's, a part of the file's. signer: signs it when it is over.
        """
        self._began = time.time()
        self._directory = os.path.join(state_directory, "audit")
        self._notice = notice
        self._fault = ""
        self._pending: list[str] = []  # the members of records, as JSON
        self._count, self._last = 0, chain.NOTHING  # the number and the hash of the last record
        self._lost = 0  # records that could not be written, since the last that could
        self._signer = signer
        self._digest = chain.sha256() if signer is not None else None  # of what was written
        self._half_at = -1  # where half a record stands that could not be taken away
        self._is_session = False
        self._status = 1
        self._syncer: Syncer | None = None
        self._hidden: tuple[memoryview, ...] = ()
        self._is_named = False  # whether the file's name is on the disk
        self._view = view
        self._refused: dict[Sequence[object], list[Any]] = {}  # by its texts: those by name, and how often
        self._seen: list[Sequence[object]] = []  # what the view is still to be shown
        self._fields: Sequence[str] = ()
        self._text_fields: Sequence[str] = ()
        self._kinds: list[str] = []  # for each field, how its numbers are written, or nothing for a text
        self._texts_of = self._numbers_of = _picker(())
        self._lines: dict[Sequence[object], str] = {}  # by their texts, with places for the numbers
        self._quoted: dict[object, str] = {}
        try:
            for path in (state_directory, self._directory):  # makedirs gives its mode to the last one only
                os.makedirs(path, mode=0o700, exist_ok=True)
            self.session, self._fd = _new_file(self._directory, self._began, name)
        except OSError as error:
            raise StoreError(f"cannot open the audit log in {self._directory}: {error.strerror}") from None
        self.path = os.path.join(self._directory, f"{self.session}.jsonl")
        _lock(self._fd)

    def begin(self, facts: Mapping[str, object]) -> None:
        """Write the start of a session, and enter it in the ledger. Raises StoreError: nothing may start."""
        signed = {"signed_by": self._signer.key} if self._signer is not None else {}
        self.write("start", {"time": self._began, "session": self.session, **signed, **facts})
        self.flush()
        what, reason = "log", self._fault
        if not reason:
            try:
                first = {"time": self._began, "session": self.session, "first": self._last.decode()}
                os.close(self._enter("start", first))
            except OSError as error:
                what, reason = "ledger", str(error.strerror)
        if reason:
            self._fault, self._count, self._lost = "", 0, 0  # it is said here, not at the end
            raise StoreError(f"cannot write the audit {what} in {self._directory}: {reason}")
        self._is_session = True

    def sync_beside(self) -> None:
        """From now on, have what is written synced within sync.WINDOW_S. Not before the agent has started."""
        try:
            self._syncer = Syncer(self._sync)
        except RuntimeError:  # no thread can be had: it is synced at the end
            return
        self._syncer.wake()

    def write(self, kind: str, members: Mapping[str, object]) -> None:
        """Take one record of any kind, to be written with the next flush."""
        self._pending.append(encode({"kind": kind, **members})[1:-1])

    def write_denials(self, denied: Iterable[Any]) -> None:
        """Take what was denied in the run, but for what is an exchange. denied: supervisor.denials.Denial, each."""
        for denial in denied:
            if denial.source not in _ARE_EXCHANGES:
                told = {name: self._shown(value) for name, value in denial._asdict().items()}
                told["denied"] = told.pop("kind")
                self.write("denial", {"time": time.time(), **told})

    def hide(self, keys: Iterable[memoryview]) -> None:
        """From now on, put *** in the place of each of these keys: the agent holds them, and may send them anywhere."""
        self._hidden = tuple(keys)

    def _shown(self, value: object) -> object:
        if not isinstance(value, str):
            return value
        text = without_keys(value)
        if self._hidden:
            data = text.encode("utf-8", "surrogatepass")
            for key in self._hidden:
                data = data.replace(key, MARK.encode())
            text = data.decode("utf-8", "surrogatepass")
        return text

    def ended(self, status: int) -> None:
        """Remember the exit status, for the last record."""
        self._status = status

    def append(self, fields: Sequence[str], values: Sequence[object]) -> bool:
        """Take one entry, its values in the order of `fields`; return whether it is the first since the last flush.

        What is a number in the first entry with these fields is one in all of them. The texts of entries are few and
        come again, so a line is made once for each, and the numbers are written into it (to the microsecond).
        """
        if fields is not self._fields:
            self._learn(fields, values)
        texts = self._texts_of(values)
        line = self._lines.get(texts) or self._line(texts)
        if self._refused and texts in self._refused:
            self._refused[texts][1] += 1
        self._pending.append(line % self._numbers_of(values))
        if self._view is not None:
            self._seen.append(values)
        return len(self._pending) == 1

    def _learn(self, fields: Sequence[str], values: Sequence[object]) -> None:
        self._fields = fields
        self._kinds = [_NUMBERS.get(value.__class__, "") for value in values]
        self._text_fields = [name for name, kind in zip(fields, self._kinds, strict=True) if not kind]
        self._numbers_of = _picker([index for index, kind in enumerate(self._kinds) if kind])
        self._texts_of = _picker([index for index, kind in enumerate(self._kinds) if not kind])
        self._lines.clear()

    def _line(self, texts: Sequence[object]) -> str:
        if "refused" in texts and len(self._refused) < _MAX_REFUSED:
            named = dict(zip(self._text_fields, texts, strict=True))
            if named.get("verdict") == "refused":
                self._refused.setdefault(texts, [named, 0])
        left = iter(texts)
        written = (kind or self._quote(next(left)).replace("%", "%%") for kind in self._kinds)
        members = (f"{encode(name)}:{text}" for name, text in zip(self._fields, written, strict=True))
        line = ",".join(('"kind":"exchange"', *members))
        if len(line) <= _MAX_KEPT_CHARACTERS:
            if len(self._lines) >= _MAX_KEPT:
                self._lines.clear()
            self._lines[texts] = line
        return line

    def _quote(self, value: object) -> str:
        text = self._quoted.get(value)
        if text is None:
            text = encode(self._shown(value))
            if len(text) <= _MAX_KEPT_CHARACTERS:
                if len(self._quoted) >= _MAX_KEPT:
                    self._quoted.clear()
                self._quoted[value] = text
        return text

    @property
    def refused(self) -> list[tuple[dict[str, object], int]]:
        """What was refused: its texts by field, each once, at most _MAX_REFUSED; and how often."""
        return [(named, count) for named, count in self._refused.values()]

    @property
    def is_watched(self) -> bool:
        """Whether there is a view."""
        return self._view is not None

    def show(self, values: Sequence[object]) -> None:
        """Let the view see, at the next flush, what is no entry."""
        self._seen.append(values)

    def flush(self) -> None:
        """Write what was taken; an error is kept for the end, never raised into an exchange."""
        if self._pending:
            texts, self._pending = self._pending, []
            if self._lost:
                texts.insert(0, f'"kind":"gap","lost":{self._lost}')
            data, number, last = chain.seal(self._count, self._last, texts)
            if self._put(data):
                self._count, self._last, self._lost = number, last, 0
            else:
                self._lost += len(texts) - bool(self._lost)
            if self._syncer is not None:
                self._syncer.wake()
        if self._view is not None and self._seen:
            seen, self._seen = self._seen, []
            self._view(seen)

    def _put(self, data: bytes) -> bool:
        """Write whole records or, where the disk is full, none: the chain goes on from the last one that is there."""
        left = memoryview(data)
        try:
            if self._half_at >= 0:
                self._cut()
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            self._fault = os.strerror(error.errno or 0)
            try:
                if len(left) < len(data):
                    self._half_at = os.fstat(self._fd).st_size - (len(data) - len(left))
                    self._cut()
            except OSError:
                pass  # half a record stays, until the next write
            return False
        if self._digest is not None:
            self._digest.update(data)
        return True

    def _cut(self) -> None:
        os.ftruncate(self._fd, self._half_at)
        self._half_at = -1

    def _enter(self, kind: str, members: Mapping[str, object]) -> int:
        return ledger.enter(os.path.join(self._directory, ledger.NAME), encode({"kind": kind, **members})[1:-1])

    def _sync(self) -> None:
        faults = [fault_of(self._fd)]
        if not self._is_named:
            try:
                for path in (os.path.join(self._directory, ledger.NAME), self._directory):
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    faults.append(fault_of(fd))
                    os.close(fd)
                self._is_named = True
            except OSError:
                pass  # no descriptor can be had now; there is a next time, and the end
        self._fault = next(filter(None, faults), self._fault)

    def _end(self, error: BaseException | None) -> None:
        """Write the last record, and what the ledger says of the session; have both on the disk."""
        if error is not None:
            self._status = error.exit_status if isinstance(error, NonoError) else 1
        now = time.time()
        self.write("exit", {"time": now, "status": self._status, "duration_ms": round((now - self._began) * 1000, 3)})
        self.flush()
        if not self._is_there():  # nor is the ledger that knows of it, where the whole directory was moved away
            self._fault = "somebody removed it"
            self._sync()
            return
        synced = aside(self._sync)
        try:
            last = {"time": now, "session": self.session, "records": self._count, "last": self._last.decode()}
            fd = self._enter("end", last)
            self._fault = fault_of(fd) or self._fault
            os.close(fd)
        except OSError as error:
            self._fault = f"its end is not in the ledger: {error.strerror}"
        synced()
        self._sign()

    def _sign(self) -> None:
        """Write the signature beside the log. It is for whoever asks later: the run has ended, as it did."""
        if self._signer is None or self._digest is None:
            return
        new = os.path.join(self._directory, f".{self.session}{BUNDLE}")
        try:
            name = os.path.basename(self.path)
            made = self._signer.sign(name, self._digest.hexdigest(), self._count, self._last.decode())
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(made)
                file.flush()
                fault = fault_of(file.fileno())
            if fault:
                raise OSError(0, fault)
            os.rename(new, self.path + BUNDLE)
            fd = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
            fault_of(fd)  # its name, before the ledger says that there is one
            os.close(fd)
            told = {"time": time.time(), "session": self.session, "signature": chain.sha256(made).hexdigest()}
            fd = self._enter("signed", told)
            fault_of(fd)
            os.close(fd)
        except (NonoError, OSError) as error:
            if os.path.lexists(new):
                os.unlink(new)
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._notice(f"the audit log {self.path} is not signed: {reason}")

    def _is_there(self) -> bool:
        try:
            here, named = os.fstat(self._fd), os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return (here.st_dev, here.st_ino) == (named.st_dev, named.st_ino)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.flush()
        if self._syncer is not None:
            self._syncer.stop()
        if self._is_session:
            self._end(error)
        elif not (self._count or self._lost):  # what was refused before it began is no session
            try:
                os.unlink(self.path)
            except OSError:
                pass
        os.close(self._fd)
        self._hidden = ()  # the keys are wiped next
        if self._fault:
            self._notice(f"the audit log {self.path} is not whole: {self._fault}")


def _new_file(directory: str, began: float, name: str) -> tuple[str, int]:
    """Return the id of a new session, which no other has, not one of another PID namespace either; and its file."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(began))
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for again in ("", *(f".{number}" for number in range(2, 100))):
        session = "-".join(filter(None, (stamp, f"{os.getpid()}{again}", name)))
        try:
            return session, os.open(os.path.join(directory, f"{session}.jsonl"), flags, 0o600)
        except FileExistsError:
            continue
    raise FileExistsError(17, "a hundred sessions began at once")


def _lock(fd: int) -> None:
    """Lock the file as long as it is open. On a file system without locks nobody can tell that the session runs."""
    for _ in range(_LOCK_TRIES):
        try:
            flock(fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)  # somebody asks, in this instant, whether it runs: read.is_open
            continue
        except OSError:
            pass
        return


def _picker(indices: Sequence[int]) -> Callable[[Sequence[object]], Sequence[object]]:
    """Return what takes the values at these indices, as a tuple."""
    if len(indices) > 1:
        return itemgetter(*indices)
    return lambda values: tuple(values[index] for index in indices)
