"""The files that instruct an agent, verified for one run: nono/trust, put together.

In this order: the policies and their signatures, the files that they are about, a verdict on each. Where the policies
say deny, one that is not verified means that nothing starts; a blocked one means that whatever they say. With
--trust-override, deny is warn for this run; a project's policy that does not count itself (unsigned, by a stranger) is
then left out, but never the user's own, and never for what is blocked.

What is verified, and its bundle, and the policies, are for the agent to read only (PathDeny.pinned). Each file is held
open from the look that it was judged by until the agent starts; just before, `recheck` sees whether its path still
leads to that very file, unwritten. After that, within the sandbox, nothing can change it. Somebody outside of the
sandbox can, as the user himself can: that is the limit of it.

After the run, `look_again` compares: what is new or changed, matches the includes and is not signed is told, and is in
the audit log. With deny, the next run refuses it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from resource import RLIMIT_NOFILE, getrlimit
from time import monotonic, time

from nono.audit.redact import without_keys
from nono.errors import NonoError
from nono.policy.capabilities import WRITE, PathDeny, is_at_or_below
from nono.policy.paths import Place, expand
from nono.policy.protection import SIGNED
from nono.policy.quantities import counted
from nono.policy.verdict import show
from nono.record import Record
from nono.session.trust import Trusted, in_sight
from nono.supervisor.guard import links_on_the_way
from nono.trust import anchors, check, files, find, globs
from nono.trust.anchors import Loaded
from nono.trust.check import Multi, Verdict
from nono.trust.errors import BLOCKED, CHANGED, UNSIGNED, VERIFIED, TrustError, sentence
from nono.trust.files import Opened
from nono.trust.find import Found
from nono.trust.policy import DENY, NAME, WARN, Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.audit.log import AuditLog
    from nono.trust.bundle import Bundle
    from nono.trust.check import Checked
    from nono.trust.policy import Keyless
    from nono.trust.trusted_root import TrustRoot

_SHOWN = 12  # files in one message
_MOST_TOLD = 1000  # that a run has left: an agent may make any number, and would keep its user waiting
_LONGEST_S = 10  # that he waits for it: copies of signed files verify, so they are not told, and not counted
_MOST_HELD = 128  # files that stay open, and a quarter of those that may; of more, the path alone is looked at again
_SEE_ALL = "nono trust list"
NEW, EDITED, GONE = "new", "changed", "gone"  # since the start
_HOW = {NEW: "new since this run", EDITED: "changed since this run began", GONE: "which was there before this run"}


class Refused(NonoError):
    """Files that instruct the agent are not what the policies want them to be."""

    def __init__(self, message: str, details: Sequence[str]) -> None:
        super().__init__(message)
        self.details = tuple(details)


class _Seen(Record):
    """A file at the start. opened: with its descriptor or, where that is closed, what there was; None: not read."""

    verdict: Verdict
    opened: Opened | None


class _Subject(Record):
    """What the policies are about. name: as a user knows it. found: below the root; None: it is at `path`."""

    name: str
    found: Found | None = None
    path: str = ""


def verify(place: Place, sight: tuple[str, ...], *, skip: Sequence[str], override: bool) -> Verified:
    """Verify all that the policies are about. sight: see trust.in_sight. Raises NonoError: nothing may start."""
    keyless = _keyless(place)
    root, loaded, left_out = _load(place, keyless, override=override)
    made = Verified(place, sight, root or os.path.realpath(place.workdir), loaded, left_out, skip, keyless, override)
    try:
        made.look()
        made.refuse()
    except BaseException:
        made.release()
        raise
    return made


class Verified(Trusted):
    """See Trusted. root: below which the includes count. left_out: why the project's policy was; "" for not."""

    def __init__(
        self,
        place: Place,
        sight: tuple[str, ...],
        root: str,
        loaded: Loaded,
        left_out: str,
        skip: Sequence[str],
        keyless: Callable[[Bundle], Keyless],
        override: bool,
    ) -> None:
        self._place = place
        self._sight = sight
        self._root = root
        self._users, self._projects = (f"{at.rstrip('/')}/{NAME}" for at in (f"{place.config_home}/nono", root))
        self._policies = loaded.opened
        self._left_out = left_out
        self._skip = tuple(dict.fromkeys(skip))
        self._keyless = keyless
        self._override = override
        self._rules: Rules = loaded.rules
        self._enforcement = WARN if override and self._rules.enforcement == DENY else self._rules.enforcement
        self._matcher = globs.compile(self._rules.includes)
        self._multi: Multi | None = None
        self._held: list[Opened] = []
        descriptors = getrlimit(RLIMIT_NOFILE)[0]  # -1: no limit
        self._most_held = min(_MOST_HELD, descriptors // 4) if descriptors >= 0 else _MOST_HELD
        self._seen: dict[str, _Seen] = {}  # by name
        self._missing: list[Verdict] = []
        self._notes = list(loaded.notes)
        self._protected: dict[str, None] = {}

    def look(self) -> None:
        """Find the files, and judge each."""
        self._protect(self._policies)
        self._multi = check.open_multi(self._root, self._rules, self._keyless)
        if self._multi is not None and self._multi.opened is not None:
            if self._multi.vouched.error is None:
                self._protect([self._multi.opened])
            files.close(self._multi.opened)
        for subject in self._subjects():
            verdict, opened, bundles = self._check(subject)
            self._seen[subject.name] = _Seen(verdict, opened)
            if verdict.outcome == VERIFIED and opened is not None:
                self._protect([opened, *bundles])
                if len(self._held) < self._most_held:
                    self._held.append(opened)
                    opened = None
            _close(opened, *bundles)
        self._miss()
        self.denies = (
            *(PathDeny(path, SIGNED, WRITE, pinned=True) for path in self._protected),
            *(PathDeny(link, SIGNED, WRITE, is_link=True) for link in dict.fromkeys(self._links())),
        )
        self.rows = tuple(self._rows())

    def _protect(self, these: Iterable[Opened]) -> None:
        """Let the agent not write these; what nono's own directory holds is closed to it anyway."""
        own = os.path.realpath(f"{self._place.config_home}/nono")
        for opened in these:
            path = f"{os.path.realpath(opened.root).rstrip('/')}/{opened.relative}"
            if not is_at_or_below(path, own):
                self._protected[path] = None

    def _subjects(self) -> Iterator[_Subject]:
        found = find.find(self._root, self._matcher, self._skip)
        yield from (_Subject(each.path, each) for each in check.with_named(found, self._multi))
        for text in self._rules.files:
            path = expand(text, self._place)
            yield _Subject(self._shown(path), path=path)

    def _links(self) -> Iterator[str]:
        """Yield the links on the way to files elsewhere: whoever replaces one says what such a path means."""
        for text in self._rules.files:
            yield from links_on_the_way(expand(text, self._place))

    def _check(self, subject: _Subject) -> Checked:
        if subject.found is not None:
            return check.check_path(self._root, subject.found, self._rules, self._keyless, self._multi)
        checked = check.check_file(subject.path, self._rules, self._keyless)
        return checked._replace(verdict=checked.verdict._replace(path=subject.name))

    def _miss(self) -> None:
        """Judge the patterns of the project that nothing matches: one without wildcards names a file."""
        project = self._rules.project
        if project is None:
            return
        for pattern in globs.compile(project.includes).unmatched(self._seen):
            if globs.is_literal(pattern):
                reason = f"is not there, and is one of the includes of {self._shown(self._projects)}"
                step = "put it back, or take it out of the policy and sign that: nono trust sign-policy"
                self._missing.append(Verdict(pattern, "", UNSIGNED, "", reason, step))
            else:
                self._notes.append(f"nothing matches {pattern}, one of the includes of {self._shown(self._projects)}")

    def refuse(self) -> None:
        """Raise Refused where nothing may start."""
        refused = [verdict for verdict in self._unverified() if check.denies(verdict, self._enforcement)]
        if not refused:
            return
        blocked = [verdict for verdict in refused if verdict.outcome == BLOCKED]
        others = [verdict for verdict in refused if verdict.outcome != BLOCKED]
        details = _lines([*blocked, *others])
        if blocked:
            what = f"{_files(blocked)} that would instruct the agent {_are(blocked)} on a blocklist"
            if others:
                what += f", and {_files(others)} {_are(others)} not verified"
        else:
            what = f"{_files(others)} that would instruct the agent {_are(others)} not verified ({self._who_denies()})"
            details.append("to start once all the same: --trust-override")
        if self._root != os.path.realpath(self._place.workdir):
            details.insert(0, f"in {self._shown(self._root)}:")
        raise Refused(f"{what}; nothing was started", details)

    def _who_denies(self) -> str:
        return f"{', '.join(self._sources(DENY))}: deny"

    def _sources(self, enforcement: str = "") -> list[str]:
        """Return the policies that count, for the user; enforcement: only those that say so."""
        policies = ((self._rules.user, self._users), (self._rules.project, self._projects))
        return [self._shown(path) for policy, path in policies if policy and enforcement in ("", policy.enforcement)]

    def _unverified(self) -> list[Verdict]:
        every = [*(seen.verdict for seen in self._seen.values()), *self._missing]
        return [verdict for verdict in every if verdict.outcome != VERIFIED]

    def _rows(self) -> Iterator[tuple[str, str]]:
        """Yield the rows of the summary."""
        unverified = self._unverified()
        verified = [seen.verdict for seen in self._seen.values() if seen.verdict.outcome == VERIFIED]
        sources = self._sources()
        by = ", ".join(dict.fromkeys(verdict.publisher for verdict in verified))
        text = f"{_files(verified)} verified{f', signed by {by}' if by else ''}"
        text += f"; {len(unverified)} not" if unverified else ""
        if sources:
            yield "trust", f"{text}  ({', '.join(sources)})"
            if self._skip:
                yield "", f"not looked for in directories called {', '.join(self._skip)}  (--skip-dir, or a profile)"
        if self._left_out:
            yield "warning", f"--trust-override: what the project's policy forbids is not asked. {self._left_out}"
        if self._override and self._rules.enforcement == DENY and unverified:
            those = f"{_files(unverified)} that {_are(unverified)} not verified"
            yield "warning", f"--trust-override: the agent gets {those}"
        if self._enforcement == WARN:
            yield from (("warning", line) for line in _lines(unverified))
        elif unverified:
            yield "", f"the agent gets them, as the policy says audit; see: {_SEE_ALL}"
        yield from (("note", note) for note in self._notes)

    def record(self, audit: AuditLog) -> None:
        """See Trusted."""
        now = time()
        rules = {"enforcement": self._rules.enforcement, "override": self._override, "left_out": self._left_out}
        where = {"root": without_keys(self._root), "skip": list(self._skip)}
        audit.write("trust", {"time": now, "what": "rules", **where, **rules})
        for opened in self._policies:
            audit.write("trust", {"time": now, "what": "policy", "path": opened.path, "sha256": opened.sha256})
        for verdict in (*(seen.verdict for seen in self._seen.values()), *self._missing):
            _write(audit, now, "file", verdict)

    def recheck(self) -> None:
        """See Trusted."""
        held = set(self._held)
        for name, (verdict, opened) in self._seen.items():
            if opened is None or verdict.outcome != VERIFIED:
                continue
            try:
                if opened in held:
                    files.recheck(opened)
                elif _identity(opened) != opened.identity:
                    raise TrustError(CHANGED, name, "")
            except TrustError:
                reason = "was changed after it was verified; nothing was started"
                raise TrustError(CHANGED, name, reason, "look at what it is now, and start again") from None
        for path in in_sight(self._place):
            if path not in self._sight:
                raise TrustError(CHANGED, self._shown(path), "was made while files were verified", "start again")

    def release(self) -> None:
        """See Trusted."""
        _close(*self._held, *self._policies)
        self._held, self._policies = [], ()

    def look_again(self, audit: AuditLog, notice: Callable[[str], None]) -> None:
        """See Trusted."""
        if not self.is_running:
            return
        changes: list[tuple[str, Verdict]] = []
        try:
            for change, verdict in islice(self._changes(monotonic() + _LONGEST_S), _MOST_TOLD):
                changes.append((change, verdict))
        except (NonoError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            else_ = "else " if changes else ""
            notice(f"what {else_}the run has left unsigned is not known: {reason}. See: {_SEE_ALL}")
        now = time()
        for change, verdict in changes:
            _write(audit, now, change, verdict)
        for change, verdict in changes[:_SHOWN]:
            notice(f"{verdict.path}, {_HOW[change]}, {sentence(verdict.reason, verdict.next_step)}")
        if len(changes) > _SHOWN:
            notice(f"{len(changes) - _SHOWN} more files that would instruct an agent changed in this run: {_SEE_ALL}")
        if changes and self._rules.enforcement == DENY:
            notice("the next run does not start until these are verified")

    def _changes(self, until: float) -> Iterator[tuple[str, Verdict]]:
        """Yield what is not as it was at the start, and not verified now: how, and what it is now.

        until: a time of monotonic(). Raises NonoError when it has come.
        """
        for path in in_sight(self._place):
            if path not in self._sight:
                yield NEW, Verdict(self._shown(path), "", UNSIGNED, "", "is a policy from the next run on", "read it")
        left = set(self._seen)
        for subject in self._subjects():
            left.discard(subject.name)
            before = self._seen.get(subject.name)
            if before is not None and before.opened is not None and _identity(before.opened) == before.opened.identity:
                continue
            if monotonic() > until:
                raise NonoError(f"there is more than can be looked at in {_LONGEST_S} s")
            now, opened, bundles = self._check(subject)
            _close(opened, *bundles)
            if now.outcome == VERIFIED:
                continue
            if before is None:
                yield NEW, now
            elif (now.sha256, now.outcome) != (before.verdict.sha256, before.verdict.outcome):
                yield EDITED, now
        for name in sorted(left):
            yield GONE, self._seen[name].verdict._replace(outcome=CHANGED, reason="is gone", next_step="")

    def _shown(self, path: str) -> str:
        return show(path, self._place)


def _load(place: Place, keyless: Callable[[Bundle], Keyless], *, override: bool) -> tuple[str, Loaded, str]:
    """Return the root of the project that has a policy ("" for none), the rules, and why its policy is left out."""
    root, config = "", f"{place.config_home}/nono"
    try:
        found = anchors.find_root(os.path.realpath(place.workdir), os.path.realpath(place.home))
        root = found.path
        loaded = anchors.load_policies(root, config, keyless)
        return root, loaded._replace(notes=(*found.notes, *loaded.notes)), ""
    except NonoError as error:
        if not override or (isinstance(error, TrustError) and error.outcome == BLOCKED):
            raise
        left_out = str(error)
    return root, anchors.load_policies("", config, keyless), left_out


def _keyless(place: Place) -> Callable[[Bundle], Keyless]:
    """Return what says who signed a bundle without a key: of one that was verified before, without `sigstore`."""
    roots: list[TrustRoot] = []

    def identity_of(bundle: Bundle) -> Keyless:
        from nono.trust import trusted_root, verified_cache

        if not roots:
            roots.append(trusted_root.load(f"{place.config_home}/nono"))
        return verified_cache.identity_of(place.state, bundle, roots[0], verify_anew)

    def verify_anew(bundle: Bundle, root: TrustRoot) -> Keyless:
        from nono.trust import keyless

        return keyless.identity_of(bundle, root)

    return identity_of


def _identity(opened: Opened) -> tuple[int, ...] | None:
    """Return what is at its path now, as Opened.identity has it; None for nothing, or by way of a link."""
    try:
        found = os.lstat(opened.path)
        real = os.path.realpath(opened.path)
    except OSError:
        return None
    if real != opened.path:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _write(audit: AuditLog, now: float, what: str, verdict: Verdict) -> None:
    members = {"path": without_keys(verdict.path), "sha256": verdict.sha256, "outcome": verdict.outcome}
    members |= {"publisher": verdict.publisher, "reason": without_keys(verdict.reason)}
    audit.write("trust", {"time": now, "what": what, **members})


def _close(*these: Opened | None) -> None:
    for opened in these:
        if opened is not None:
            files.close(opened)


def _lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Return a line for each, of very many for the first."""
    lines = [f"{verdict.path} {sentence(verdict.reason, verdict.next_step)}" for verdict in verdicts[:_SHOWN]]
    if len(verdicts) > _SHOWN:
        lines.append(f"and {len(verdicts) - _SHOWN} more: {_SEE_ALL}")
    return lines


def _files(verdicts: Sequence[Verdict]) -> str:
    return counted(len(verdicts), "file")


def _are(verdicts: Sequence[Verdict]) -> str:
    return "is" if len(verdicts) == 1 else "are"
