"""Ask the kernel and the proxy themselves, behind the very wall that a run would have: `nono why --probe`.

Everything is put together as for a run, up to the point where the agent would execute its program; there it asks
instead (csrc/probe.c). So the answer cannot disagree with the sandbox. The proxy is a run's own, without keys: a
CONNECT needs none, and nothing else is sent to a host with TLS. It does connect to the host that is asked about.

What is asked of files changes nothing: an existing one is opened without truncation, a new one is made under its own
name, never in the place of another (O_EXCL), and removed at once; in a directory under a name of ours. Devices and
sockets are not opened, because opening may do something; nor are the process's own files (/proc/self, /dev/fd).
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable, Sequence
from errno import EACCES, ECONNREFUSED, ENETUNREACH, ENOENT, ENOTDIR, ENXIO, EPERM, EROFS, errorcode

from nono.credentials import phantom
from nono.kernel import process
from nono.kernel.probe import Connect, Create, List, Open, Probe, Reply
from nono.kernel.spawn import EVENT_EXITED, Child, receive_event
from nono.policy.allowlist import host_and_port, normalise
from nono.policy.capabilities import NETWORK_PROXY, READ, WRITE, CapabilitySet, is_at_or_below
from nono.policy.host_verdict import (
    BAD_HOST,
    BAD_URL,
    ENDPOINT_NOT_ALLOWED,
    NETWORK_OPEN,
    OWN_LOOPBACK,
    PORT_OPENED,
    ROUTE,
    split_url,
)
from nono.policy.verdict import SENSITIVE_PATH, Verdict
from nono.record import Record
from nono.sandbox import filesystem
from nono.sandbox.expansion import Expansion
from nono.session.parts import Parts, authority_of, make_proxy
from nono.supervisor import wall
from nono.supervisor.wall import Standing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.session.why import Behind, Subject

Question = Open | List | Create | Connect

ALLOWED, DENIED, NOT_FOUND, UNREACHABLE, UNKNOWN = "allowed", "denied", "not_found", "unreachable", "unknown"
_TIMEOUT_S = 30
_NOBODY = 0xC0000201  # 192.0.2.1, RFC 5737: no machine has it, but a network has a way there
_REFUSALS = (EACCES, EPERM, EROFS)
_HARMLESS_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


class Ground(Record):
    """What a wall is put around."""

    capabilities: CapabilitySet
    expansion: Expansion
    temporary_directory: str
    workdir: str


class Outcome(Record):
    """What was answered. asked: "kernel", "proxy", or "" where nothing was; then `note` says why.

    errno: the name of an error; "" for none. code: why the proxy refused.
    """

    asked: str
    result: str
    errno: str = ""
    code: str = ""
    note: str = ""
    wall: str = ""


NOT_ASKED = Outcome("", UNKNOWN, note="opening it may do something, or it is each process's own")


def about_paths(behind: Behind, asked: Sequence[tuple[Subject, int]]) -> list[Outcome]:
    """Ask the kernel about paths, each with READ | WRITE bits; all by one agent."""
    questions = [_questions(behind, subject, access) for subject, access in asked]
    replies, text = ask_kernel(behind.ground, [question for some in questions for question in some])
    left = iter(replies)
    return [read_path([next(left) for _ in some], text) if some else NOT_ASKED for some in questions]


def _questions(behind: Behind, subject: Subject, access: int) -> tuple[Question, ...]:
    own = behind.reach(subject.real_path).own(subject.real_path)
    is_own = bool(own) and subject.real_path != own
    return questions_about(
        subject.real_path, access, is_directory=subject.is_directory, exists=subject.exists,
        directory=own if is_own else subject.directory, own=is_own,
    )  # fmt: skip


class Request(Record):
    """What to ask the proxy. target: an http:// URL; "" for CONNECT."""

    where: str
    target: str = ""
    method: str = "GET"

    def head(self, authorization: bytes) -> bytes:
        """Return the request, with the value of Proxy-Authorization."""
        line = f"{self.method} {self.target}" if self.target else f"CONNECT {self.where}"
        lines = (f"{line} HTTP/1.1".encode(), f"Host: {self.where}".encode(), b"Proxy-Authorization: " + authorization)
        return b"\r\n".join((*lines, b"Connection: close", b"", b""))


def request_for(host: str, port: int, url: str, method: str, verdict: Verdict) -> Request | Outcome:
    """Return what to ask about a host or a URL, or why nobody is asked."""
    if verdict.reason in (NETWORK_OPEN, PORT_OPENED, OWN_LOOPBACK, BAD_HOST, BAD_URL):
        return Outcome("", UNKNOWN, note="neither proxy nor sandbox has a part in it")
    if not url:
        return Request(host_and_port(normalise(host), port))
    scheme, host, port, _ = split_url(url)
    if scheme == "https":
        return Request(host_and_port(normalise(host), port))
    if method not in ("GET", "HEAD"):
        return Outcome("", UNKNOWN, note=f"a {method} may change something there")
    target = url.partition("#")[0]
    if not target.isascii() or not target.isprintable() or " " in target:
        return Outcome("", UNKNOWN, note="it is not written as it would be sent")
    return Request(target.split("/")[2].partition("?")[0], target, method)


def about_host(ground: Ground, host: str, port: int, url: str, method: str, verdict: Verdict) -> Outcome:
    """Ask the proxy about a host or a URL; where there is none, the kernel."""
    request = request_for(host, port, url, method, verdict)
    if isinstance(request, Outcome):
        return request
    if ground.capabilities.network != NETWORK_PROXY:
        replies, text = _ask(ground, lambda standing: (Connect(port, b"", _NOBODY, 1),), None)
        return read_refusal(replies[0].errno, text)
    token = phantom.new_token()
    head = request.head(b"Bearer " + token)
    replies, text = _ask(ground, lambda standing: (Connect(standing.port, head),), token)
    return read_host(read_answer(replies[0], text), verdict, url)


def read_refusal(errno: int, wall_text: str) -> Outcome:
    """Return what the error of a connection to nobody comes to, where there is no proxy."""
    refused = errno in (*_REFUSALS, ENETUNREACH, ECONNREFUSED)  # the last is the mediator's
    return Outcome("kernel", DENIED if refused else UNKNOWN, errorcode.get(errno, ""), "", "", wall_text)


def read_host(outcome: Outcome, verdict: Verdict, url: str) -> Outcome:
    """Return the proxy's answer as one to the question."""
    if verdict.reason == ROUTE and outcome.result == DENIED:
        return outcome._replace(result=ALLOWED, note="by its own name it is refused, at the base URL it is served")
    if not url.lower().startswith("https:"):
        return outcome
    note = "the proxy was asked about the host; the request itself is judged inside TLS"
    if verdict.reason == ENDPOINT_NOT_ALLOWED and outcome.result != DENIED:
        return outcome._replace(result=UNKNOWN, note=note)
    return outcome._replace(note=outcome.note or note)


def agrees(outcome: Outcome, allowed: bool) -> bool:
    """Whether this is what was expected; also where it says nothing about it."""
    if outcome.result == ALLOWED or outcome.result == UNREACHABLE:
        return allowed
    return outcome.result in (UNKNOWN, NOT_FOUND) or not allowed


def lists_names(outcome: Outcome, subject: Subject, access: int, verdict: Verdict) -> bool:
    """Whether it is no more than the names in a protected directory, which Landlock grants with what is above."""
    return outcome.result == ALLOWED and subject.is_directory and access == READ and verdict.reason == SENSITIVE_PATH


def questions_about(
    path: str, access: int, *, is_directory: bool, exists: bool, directory: str, own: bool
) -> tuple[Question, ...]:
    """Return what to ask about a real path; () where nothing may be. directory: see verdict.judge_path.

    own: it lies in a directory of the agent's own, where it is not there yet.
    """
    if any(is_at_or_below(path, top) for top in ("/proc/self", "/proc/thread-self", "/dev/fd")):
        return ()
    if exists and not own and not _may_be_opened(path):
        return ()
    if is_directory and exists:
        questions: list[Question] = [List(path)] if access & READ else []
        return (*questions, *([Create(f"{path.rstrip('/')}/{_name()}")] if access & WRITE else []))
    if exists and not own:
        flags = [flag for bit, flag in ((READ, os.O_RDONLY), (WRITE, os.O_WRONLY)) if access & bit]
        return tuple(Open(path, flag) for flag in flags)
    if not access & WRITE:
        return (Open(path, os.O_RDONLY),)
    name = path if path.rpartition("/")[0] == directory.rstrip("/") else f"{directory.rstrip('/')}/{_name()}"
    return (Create(name, os.O_RDWR if access & READ else os.O_WRONLY),)


def ask_kernel(ground: Ground, questions: Sequence[Question]) -> tuple[tuple[Reply, ...], str]:
    """Return the kernel's replies, and what the wall is. Raises KernelError where such a run would not start."""
    return _ask(ground, lambda standing: tuple(questions), None)


def read_path(replies: Sequence[Reply], wall_text: str) -> Outcome:
    """Return what the replies about one path come to."""
    errno = next((reply.errno for reply in replies if reply.errno not in (0, ENXIO)), 0)
    note = ""
    if any(reply.left_behind for reply in replies):
        note = "what was made to ask could not be removed by the agent"
    result = ALLOWED
    if errno in _REFUSALS:
        result = DENIED
    elif errno in (ENOENT, ENOTDIR):
        result = NOT_FOUND
    elif errno:
        result = UNKNOWN
    return Outcome("kernel", result, errorcode.get(errno, str(errno)) if errno else "", "", note, wall_text)


def read_answer(reply: Reply, wall_text: str) -> Outcome:
    """Return what the head of the proxy's answer comes to."""
    if reply.errno:
        return Outcome("proxy", UNKNOWN, errorcode.get(reply.errno, ""), "", "the proxy did not answer", wall_text)
    lines = reply.answer.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    fields = (line.partition(":") for line in lines[1:])
    code = next((value.strip() for name, _, value in fields if name.lower() == "x-nono-error"), "")
    if status in (502, 503, 504):
        return Outcome("proxy", UNREACHABLE, "", code, "allowed, but not to be reached now", wall_text)
    if code and 400 <= status < 500:
        return Outcome("proxy", DENIED, "", code, "", wall_text)
    return Outcome("proxy", ALLOWED if status else UNKNOWN, "", code, "", wall_text)


def _ask(
    ground: Ground, questions: Callable[[Standing], Sequence[Question]], token: bytes | None
) -> tuple[tuple[Reply, ...], str]:
    """Put up the wall, let the agent ask behind it. token: with it, the proxy answers meanwhile."""
    standing = wall.put_up(
        ground.expansion, ground.capabilities, temporary_directory=ground.temporary_directory, proxy_port=None,
        terminal=None,
    )  # fmt: skip
    plan = standing.plan
    with standing.prepared as prepared:
        probe = Probe(questions(standing))
        ruleset = filesystem.open_ruleset(plan)
        try:
            child = prepared.start(
                path=b"/", argv=(), envp=(), workdir=os.fsencode(ground.workdir), ruleset_fd=ruleset,
                seccomp_filter=plan.seccomp_filter, filter_flags=plan.filter_flags, late_rules=plan.late_rules,
                terminal_access=plan.terminal_access, probe=probe,
            )  # fmt: skip
        finally:
            os.close(ruleset)
        if token is None and not (child.notify_fd >= 0 and probe.connects):
            try:
                _await(child)
            finally:
                if child.notify_fd >= 0:
                    os.close(child.notify_fd)
        else:
            _serve(ground, standing, child, token)
        return probe.replies(), plan.text


def _await(child: Child) -> None:
    while select.select([child.control_fd], [], [], _TIMEOUT_S)[0]:
        said = receive_event(child.control_fd)
        if said is None or said[0] == EVENT_EXITED:
            return


def _serve(ground: Ground, standing: Standing, child: Child, token: bytes | None) -> None:
    """Be the supervisor of a run until the agent has asked. token: None: there is no proxy."""
    from nono.audit.log import AuditLog
    from nono.loop import READ as READABLE
    from nono.loop import Loop
    from nono.supervisor.mediation import mediate

    loop = Loop()

    def heard(_: int) -> None:
        said = receive_event(child.control_fd)
        if said is None or said[0] == EVENT_EXITED:
            loop.stop()

    mediator = None
    if child.notify_fd >= 0:
        # It reads the agent's memory, which is ours: no program took its place. No key is in it.
        process.set_dumpable(True)
        mediator = mediate(
            child.notify_fd, standing.plan, ground.expansion, ground.capabilities, standing.port, lambda denial: None
        )
    proxy = None
    with AuditLog(ground.temporary_directory, lambda sentence: None) as audit:  # this is no run: removed with it
        if token is not None:
            parts = Parts(ground.capabilities, {}, token, standing.port, None, authority_of(ground.capabilities))
            admits = mediator.admits if mediator is not None else None
            proxy = make_proxy(loop, os.dup(child.listener_fds[0]), parts, audit, admits)
        try:
            loop.register(child.control_fd, READABLE, heard)
            loop.call_later(_TIMEOUT_S, loop.stop)
            loop.run()
            loop.unregister(child.control_fd)
        finally:
            for served in (proxy, mediator):
                if served is not None:
                    served.close()


def _may_be_opened(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return True
    return path in _HARMLESS_DEVICES or stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISFIFO(mode)


def _name() -> str:
    return f".nono-why-{os.urandom(6).hex()}"
