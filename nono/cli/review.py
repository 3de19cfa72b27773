"""After a run with --rollback: what changed, and what the user wants of it.

On a terminal (standard input and error, in its foreground, not silent) he is asked: keep all, see the differences, put
all back, or choose path by path. Whatever is no clear answer keeps: an empty line, the end of input, ^C. What was typed
before the question, for the agent, is no answer. Elsewhere one line says what changed, and the command that undoes it.
"""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Callable
from itertools import islice
from time import monotonic

from nono.cli import render
from nono.cli.rollbacks import changed
from nono.cli.rollbacks.changed import Changed
from nono.cli.rollbacks.restore import rows as restored_rows
from nono.errors import NonoError
from nono.rollback import undo
from nono.rollback.objects import Store
from nono.rollback.sessions import Session
from nono.rollback.snapshot import Snapshot
from nono.rollback.undo import Selection
from nono.session.rollback import Tracker, Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono.cli.messages import Messages

_LISTED = 30
_NAMED = 4  # of what is left out
_MOST = 10_000  # changes that are looked at one by one
_HELP = "k keep all   d show the differences   r put all back   c choose"
_EACH = "k keep   r put back   d show the difference   q keep the rest"


def review(session: Session, store: Store, messages: Messages, home: str, *, asks: bool) -> None:
    """Say what the session changed, and ask what is to become of it, if that can be asked. Raises nothing."""
    try:
        listed = changed.of_session(session)
        found = list(islice(listed, _MOST))
        count = len(found) + sum(1 for _ in listed)
    except NonoError as error:
        messages.notice(f"what the run changed cannot be said: {error}")
        return
    if not found:
        messages.rows([("rollback", "nothing of what is tracked was changed")])
        return
    shown = changed.rows(found[:_LISTED], home)
    if count > _LISTED:
        shown.append(("", f"{count - _LISTED} more  (nono rollback show {session.id} -v)"))
    messages.rows(shown)
    if not (asks and can_ask()):
        messages.rows([("rollback", f"to put this back: nono rollback restore {session.id}")])
        return
    try:
        chosen = _Question(session, store, home, found, whole=count == len(found)).ask()
    except (KeyboardInterrupt, EOFError):
        _write("\n")
        chosen = None
    if chosen is None:
        messages.rows([("kept", f"all of it; to put it back: nono rollback restore {session.id}")])
        return
    try:
        undone = undo.restore(session, store, chosen)
        messages.rows(restored_rows(undone, session.id, home, done=True, most=_LISTED))
    except NonoError as error:
        messages.notice(str(error))
    except KeyboardInterrupt:
        if undo.interrupted(session):
            messages.notice(f"interrupted; this finishes it, or undoes it: nono rollback restore {session.id}")
        else:
            messages.notice("interrupted: nothing was put back")


def tracker(
    messages: Messages,
    home: str,
    exclude: Sequence[str],
    include: Sequence[str],
    destination: str | None,
    max_size: str | None,
    *,
    is_silent: bool,
) -> Tracker:
    """Return what takes the snapshots of a run, and says what it takes. Raises UsageError."""

    def told(session: Session, taken: Snapshot) -> None:
        messages.rows(_baseline(taken, home))

    wanted = Wanted(tuple(exclude), tuple(include), destination, max_size)
    return Tracker(wanted, messages.notice, None if is_silent else Bar(monotonic), told)


def _baseline(taken: Snapshot, home: str) -> list[tuple[str, str]]:
    """Return what is said of the state before the run: what is covered, and what is not."""
    roots = ", ".join(changed.shown(root.path, home) for root in taken.roots)
    rows = [("rollback", f"{roots}: {taken.files:,} files, {taken.total_bytes / 1e6:,.1f} MB can be put back")]
    left_out = [
        f"{changed.shown(each.path, home)} ({render.printable(each.note or each.reason)})" for each in taken.left_out
    ]
    if left_out:
        more = f", and {taken.left_out_count - _NAMED} more" if taken.left_out_count > _NAMED else ""
        rows.append(("", f"but for {', '.join(left_out[:_NAMED])}{more}  (--rollback-include)"))
    notes = dict.fromkeys(render.printable(each.note or each.reason) for each in taken.notes)
    return rows + [("note", note) for note in list(notes)[:_NAMED]]


class _Question:
    """The conversation; `ask` returns what is to be put back, None for nothing."""

    def __init__(self, session: Session, store: Store, home: str, found: Sequence[Changed], *, whole: bool) -> None:
        self._session, self._store, self._home, self._found, self._whole = session, store, home, found, whole

    def ask(self) -> Selection | None:
        answers: dict[str, Callable[[], Selection | None]] = {"r": lambda: Selection(), "c": self._choose}
        while True:
            answer = read_line(f"{_HELP}  [k] ")
            if answer == "d":
                for each in self._found:
                    self._show(each)
            elif answer in answers:
                return answers[answer]()
            elif answer in ("k", ""):
                return None

    def _choose(self) -> Selection | None:
        if not self._whole:
            _write(f"these are the first {_MOST} changes; the others are kept\n")
        chosen: list[bytes] = []
        for number, each in enumerate(self._found, 1):
            what = f"{changed.LABELS[each.change.kind]} {changed.described(each, self._home)}"
            _write(f"({number}/{len(self._found)}) {what}\n")
            answer = self._about(each)
            if answer == "q":
                break
            if answer == "r":
                chosen.append(each.path)
        return Selection(tuple(chosen), is_exact=True) if chosen else None

    def _about(self, each: Changed) -> str:
        while True:
            answer = read_line(f"{_EACH}  [k] ")
            if answer != "d":
                return answer if answer in ("r", "q") else "k"
            self._show(each)

    def _show(self, each: Changed) -> None:
        try:
            lines = changed.difference(self._store, each)
        except NonoError as error:
            lines = [str(error)]
        lines = lines or [f"{changed.LABELS[each.change.kind]}: {changed.described(each, self._home)}"]
        _write("\n".join(lines) + "\n")


def can_ask() -> bool:
    """Whether there is somebody to answer: a terminal in whose foreground we are."""
    try:
        return os.isatty(0) and os.isatty(2) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def read_line(prompt: str) -> str:
    """Ask, and return the answer in lower case, without blanks. Raises EOFError, KeyboardInterrupt."""
    try:
        termios.tcflush(0, termios.TCIFLUSH)
    except termios.error:
        raise EOFError from None
    _write(prompt)
    data = b""
    while not data.endswith(b"\n"):
        try:
            more = os.read(0, 1024)
        except OSError:
            more = b""
        if not more:
            raise EOFError
        data += more
        if len(data) > 4096:
            raise EOFError
    return data.decode("ascii", "replace").strip().lower()


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


class Bar:
    """How far a snapshot is, on a terminal, when it takes over a second: one line, which goes when it is done."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun: float | None = None
        self._next = 0.0
        self._is_shown = False

    def __call__(self, done: int, total: int) -> None:
        """Show it. total: 0 while the tree is being counted; -1 at the end."""
        now = self._clock()
        if total < 0:
            if self._is_shown:
                _write("\r\033[K")
            self._begun, self._is_shown = None, False
            return
        if self._begun is None:
            self._begun, self._next = now, now + 1
        if now < self._next or not os.isatty(2):
            return
        self._next, self._is_shown = now + 0.1, True
        if total:
            part = min(done / total, 1.0)
            bar = "#" * int(part * 30)
            text = f"nono  snapshot    [{bar:<30}] {part:4.0%} of {total / 1e6:,.0f} MB"
        else:
            text = f"nono  snapshot    {done:,} names"
        _write(f"\r\033[K{text}")
