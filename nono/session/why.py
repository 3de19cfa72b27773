"""Why may the agent, or may it not? Answered from the policy that a run with these flags would have, found as it is.

`explain` decides nothing: the sandbox's own expansion and plan tell what the agent would have at a path, the proxy's
allowlist what it would have of a host, and policy/verdict.py says why. A flag that it suggests has been tried: with it
the same question was asked again, and the answer was yes.

With `probe`, the question is also put to the kernel and the proxy (probe.py); whatever they say counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.machinery import PathFinder

from nono.errors import KernelError, NonoError
from nono.kernel import landlock
from nono.policy import host_verdict
from nono.policy.capabilities import READ, WRITE, CapabilitySet, PathDeny, is_at_or_below
from nono.policy.resolve import Place
from nono.policy.resolve import expand as expand_path
from nono.policy.verdict import BOTH, BUILT_IN, PRIVATE_DIRECTORY, SENSITIVE_PATH, Verdict, judge_path
from nono.record import Record
from nono.sandbox import expansion
from nono.sandbox.expansion import ABSENT, DIRECTORY, Entry
from nono.sandbox.filesystem import Disk
from nono.sandbox.plan import Plan, make_plan, walls_to_try
from nono.sandbox.reach import Reach, reach_of
from nono.session.parts import registries_of
from nono.session.policy import Decision, Order, complete, decide
from nono.session.trust import verified
from nono.supervisor import wall
from nono.supervisor.scratch import ScratchDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nono.session.probe import Ground, Outcome

# Where what the agent sees depends on which wall is to be had here.
_PRIVATE = ("/tmp", "/dev", "/proc")
# These are each process's own.
_STREAMS = ("/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr")
_OWN = ("/proc/self", "/proc/thread-self", *_STREAMS)
ADDRESS_DENIED = "address_denied"  # as the proxy has it: a name that leads to a private address
PROBED = "probed"  # the reason, where kernel or proxy disagree with the policy as it was read
_STREAM = "It is what the agent has open itself."
# A flag that may be suggested -> the field of Request that it fills.
_FIELDS = {
    f"--{field.replace('_', '-')}": field
    for field in (
        "allow", "read", "write", "allow_file", "read_file", "write_file", "bypass_protection", "allow_domain",
        "allow_endpoint", "open_port",
    )
}  # fmt: skip


class Question(Record):
    """path: as it was written, with access (READ | WRITE bits); or host and port; or url and method."""

    path: str = ""
    access: int = READ
    host: str = ""
    port: int = 443
    url: str = ""
    method: str = "GET"


class Answer(Record):
    """path, real_path: absolute, of a question about one. verified: a suggested flag has been tried.

    probed: what kernel or proxy said, None where they were not asked. agrees: whether that was the verdict, too; where
    it was not, `verdict` is theirs, and `policy` what was thought.
    """

    verdict: Verdict
    place: Place
    path: str = ""
    real_path: str = ""
    verified: bool = False
    probed: Outcome | None = None
    agrees: bool = True
    policy: Verdict | None = None


class Subject(Record):
    """A path as it is on the disk. directory: the nearest one above it that exists."""

    path: str
    real_path: str
    is_directory: bool
    exists: bool
    directory: str


def explain(order: Order, question: Question, environment: Mapping[str, str], *, probe: bool = False) -> Answer:
    """Return the verdict on `question` for a run of `order`. Raises NonoError where that run would not start.

    probe: kernel and proxy are asked, and what they say counts.
    """
    answer = _answer(order, question, environment, probe=probe)
    verdict = answer.verdict
    if verdict.allowed or not verdict.flag:
        return answer
    try:
        by_proxy = verdict.reason == ADDRESS_DENIED  # the policy had allowed it before
        tried = _answer(with_flag(order, verdict.flag), question, environment, probe=by_proxy)
    except NonoError:
        tried = answer
    if tried.verdict.allowed:
        return answer._replace(verified=True)
    return answer._replace(verdict=verdict._replace(flag="", profile_line=""))


def with_flag(order: Order, text: str) -> Order:
    """Return the order with the flags of `text`, written as for a shell."""
    import shlex

    words = shlex.split(text)
    request = order.request
    for flag, value in zip(words[::2], words[1::2], strict=True):
        field = _FIELDS[flag]
        added: dict[str, Any] = {field: (*getattr(request, field), int(value) if field == "open_port" else value)}
        request = request._replace(**added)
    return order._replace(request=request)


def _answer(order: Order, question: Question, environment: Mapping[str, str], *, probe: bool = False) -> Answer:
    decision = decide(order, environment)
    if question.path:
        with (
            ScratchDirectory(decision.place.temporary_directory, create=True) as scratch,
            verified(decision, order) as trusted,
        ):
            behind = Behind(decision, environment, scratch.path, trusted.denies)
            answer = about_path(behind, question)
            return with_probe(behind, question, answer) if probe else answer
    registries, are_stale = known_registries(decision, environment)
    origins = decision.inherited.origins if decision.inherited is not None else host_verdict.NOBODY
    verdict = about_host(decision.capabilities, question, registries, origins)
    if are_stale and verdict.reason == host_verdict.HOST_NOT_ALLOWED:
        detail = f"{verdict.detail} Not all hosts of package registries are known yet: a run asks for them."
        verdict = verdict._replace(detail=detail)
    answer = Answer(verdict, decision.place)
    if not probe:
        return answer
    with ScratchDirectory(decision.place.temporary_directory, create=True) as scratch:
        return with_probe(Behind(decision, environment, scratch.path), question, answer)


def with_probe(behind: Behind, question: Question, answer: Answer) -> Answer:
    """Return the answer with what kernel or proxy say, which counts."""
    from nono.session import probe

    verdict = answer.verdict
    if question.path:
        subject = look(question.path, behind.place, behind.disk)
        (outcome,) = probe.about_paths(behind, [(subject, question.access)])
        agrees = probe.agrees(outcome, verdict.allowed)
        if not agrees and probe.lists_names(outcome, subject, question.access, verdict):
            agrees, outcome = True, outcome._replace(note="its names can be listed; what is in it cannot be read")
    else:
        outcome = probe.about_host(behind.ground, question.host, question.port, question.url, question.method, verdict)
        if verdict.allowed and outcome.code == ADDRESS_DENIED:
            return answer._replace(verdict=of_address(question, verdict), probed=outcome)
        agrees = probe.agrees(outcome, verdict.allowed)
    return weigh(answer, outcome, agrees=agrees)


def of_address(question: Question, verdict: Verdict) -> Verdict:
    """Return the verdict on a host that is allowed, and whose addresses are not: only who looks them up knows that."""
    name, port = host_verdict.split_url(question.url)[1:3] if question.url else (question.host, question.port)
    detail = (
        f"It is allowed, but {name} has no address that may be dialled: a private one only for a host that is named "
        "itself, not by a suffix or a group."
    )
    flag, line = host_verdict.naming(name, port)
    return Verdict(False, ADDRESS_DENIED, verdict.origin, detail, verdict.closest, flag, line)


def weigh(answer: Answer, outcome: Outcome, *, agrees: bool) -> Answer:
    """Return the answer with what was said; where that is another, it counts."""
    verdict = answer.verdict
    if agrees:
        return answer._replace(probed=outcome)
    allowed = outcome.result in ("allowed", "unreachable")
    detail = (
        f"The {outcome.asked} {'allows' if allowed else 'refuses'} it ({outcome.errno or outcome.code or 'no error'}), "
        f"though by the policy it is {'allowed' if verdict.allowed else 'denied'}: please tell us, it is a bug."
    )
    said = Verdict(allowed, PROBED, "", detail, verdict.closest)
    return answer._replace(verdict=said, probed=outcome, agrees=False, policy=verdict)


def about_host(
    has: CapabilitySet,
    question: Question,
    registries: Iterable[str] = (),
    written_by: host_verdict.Origins = host_verdict.NOBODY,
) -> Verdict:
    """Return the verdict on a host or a URL. registries: the hosts of package registries, which are added."""
    registries = tuple(registries)
    if has.allowlist is not None:
        has.allowlist.add(registries)
    intercepts = has.intercept and PathFinder.find_spec("cryptography") is not None
    asked = {"written_by": written_by, "registries": registries, "intercepts": intercepts}
    if question.url:
        return host_verdict.judge_url(has, question.url, question.method, **asked)  # type: ignore[arg-type]
    return host_verdict.judge_host(has, question.host, question.port, **asked)  # type: ignore[arg-type]


def known_registries(decision: Decision, environment: Mapping[str, str]) -> tuple[tuple[str, ...], bool]:
    """Return the hosts of package registries that are known, and whether a run would ask for others."""
    group = registries_of(decision.capabilities, environment, decision.place, lambda note: None)
    return (tuple(group.hosts), bool(group.stale)) if group is not None else ((), False)


class Behind:
    """What a run's paths come to. Expanded once; planned for the wall that is wanted or, where it matters, is here."""

    @property
    def ground(self) -> Ground:
        """What a wall is put around."""
        from nono.session.probe import Ground

        return Ground(self.capabilities, self.expansion, self.temporary_directory, self.place.workdir)

    def __init__(
        self,
        decision: Decision,
        environment: Mapping[str, str],
        temporary_directory: str,
        denies: Iterable[PathDeny] = (),
    ) -> None:
        """denies: what is protected besides."""
        self.place = decision.place
        self.disk = Disk()
        self.temporary_directory = temporary_directory
        self.capabilities = complete(
            decision, environment, temporary_directory=temporary_directory, inherited=(), denies=denies
        )
        self._wall = walls_to_try(self.capabilities.sandbox)[0]
        self.expansion = expansion.expand(self.capabilities, self.disk, mounts=self._wall.mounts)
        self._reach: dict[bool, Reach] = {}

    def reach(self, path: str) -> Reach:
        """Return what the agent has, as far as it matters for `path`."""
        matters = any(is_at_or_below(path, top) for top in _PRIVATE)
        if matters not in self._reach:
            self._reach[matters] = reach_of(
                self._plan_here() if matters else self._plan_wanted(), self.temporary_directory
            )
        return self._reach[matters]

    def _plan_wanted(self) -> Plan:
        return make_plan(
            self.expansion, landlock.abi(), os.uname().machine, self._wall,
            temporary_directory=self.temporary_directory, workdir=self.place.workdir, connect_ports=(1,),
        )  # fmt: skip

    def _plan_here(self) -> Plan:
        """Return the plan for the strongest wall that is to be had here, found by putting it up."""
        try:
            standing = wall.put_up(
                self.expansion, self.capabilities, temporary_directory=self.temporary_directory, proxy_port=None,
                terminal=None,
            )  # fmt: skip
        except KernelError:
            return self._plan_wanted()  # such a run would not start; what it would have is told nevertheless
        standing.prepared.abandon()
        return standing.plan


def about_path(behind: Behind, question: Question) -> Answer:
    """Return the verdict on a path."""
    return judge(behind, look(question.path, behind.place, behind.disk), question.access)


def judge(behind: Behind, subject: Subject, access: int) -> Answer:
    """Return the verdict on a path that was looked at."""
    if any(is_at_or_below(subject.path, link) for link in _STREAMS):
        return Answer(
            Verdict(True, PRIVATE_DIRECTORY, BUILT_IN, _STREAM), behind.place, subject.path, subject.real_path
        )
    reach = behind.reach(subject.real_path)
    to_make_in = "" if subject.exists else subject.directory
    reached = reach.access(subject.real_path, is_directory=subject.is_directory, to_make_in=to_make_in)
    grants = tuple(grant._replace(path=behind.disk.look(grant.path).path) for grant in behind.expansion.grants)

    def judged(denies: tuple[PathDeny, ...]) -> Verdict:
        return judge_path(
            subject.path, subject.real_path, access, grants, denies, behind.place, subject.is_directory,
            exists=subject.exists, reached=reached, permitted=permitted(subject), private=reach.own(subject.real_path),
            directory=subject.directory,
        )  # fmt: skip

    verdict = judged(behind.capabilities.denies)
    if (not verdict.allowed or subject.is_directory) and verdict.reason not in (SENSITIVE_PATH, PRIVATE_DIRECTORY):
        # By another name: a second mount, or a link in a protected directory.
        deny = expansion.protection(behind.capabilities, subject.path, access, behind.disk)
        if deny is not None:
            there = deny._replace(path=subject.real_path, holes=(), group=deny.group)
            verdict = judged((*behind.capabilities.denies, there))._replace(flag="", profile_line="")
    return Answer(verdict, behind.place, subject.path, subject.real_path)


def look(text: str, place: Place, disk: Disk) -> Subject:
    """Return what a path, as the user wrote it, is. Raises UsageError for one that cannot be."""
    path = expand_path(text, place)
    if any(is_at_or_below(path, own) for own in _OWN):
        return Subject(path, path, False, True, "/")  # of the agent's own process, not of this one
    entry: Entry = disk.look(path)
    directory = entry.path.rpartition("/")[0] or "/"
    while disk.look(directory).kind != DIRECTORY:
        directory = directory.rpartition("/")[0] or "/"
    return Subject(path, entry.path, entry.kind == DIRECTORY, entry.kind != ABSENT, directory)


def permitted(subject: Subject) -> int:
    """Return what the user himself may do there, without the privileges that root gives up: READ | WRITE bits."""
    path = subject.real_path if subject.exists else subject.directory
    try:
        status = os.stat(path)
    except OSError:
        return BOTH
    if os.geteuid() != 0:
        readable = os.access(path, os.R_OK) or not subject.exists
        return (READ if readable else 0) | (WRITE if os.access(path, os.W_OK) else 0)
    shift = 6 if status.st_uid == os.geteuid() else 3 if status.st_gid in (os.getegid(), *os.getgroups()) else 0
    bits = status.st_mode >> shift
    return (READ if bits & 4 or not subject.exists else 0) | (WRITE if bits & 2 else 0)
