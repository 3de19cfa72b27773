"""Why may I not? Asked by the agent, inside its run: `nono why --self`.

The kernel and the proxy are asked by doing, with what this very process has; why they say so is read from the file that
the run has left (policy_file.py). So a file that the agent has changed changes the explanation, never the answer.
"""

from __future__ import annotations

import base64
import errno
import os
import socket
import time
from collections.abc import Mapping

from nono.errors import UsageError
from nono.kernel.probe import Connect, Create, List, Open, Reply
from nono.policy.capabilities import NETWORK_OPEN, NETWORK_PROXY, READ, WRITE, is_at_or_below
from nono.policy.verdict import FILE_PERMISSIONS, PRIVATE_DIRECTORY, SENSITIVE_PATH, Verdict, judge_path
from nono.sandbox.filesystem import Disk
from nono.session import policy_file, probe, why
from nono.session.policy_file import Left
from nono.session.probe import Outcome
from nono.session.why import Answer, Question

_TIMEOUT_S = 10
_WAIT_S = 2  # for the supervisor, which writes the file when the agent has started
_NOBODY = "192.0.2.1"  # RFC 5737


def explain(question: Question, environment: Mapping[str, str]) -> Answer:
    """Return the verdict on `question` for the run that this process is in. Raises UsageError outside of one."""
    left = _left(environment)
    if question.path:
        return _about_path(left, question)
    return _about_host(left, question, environment)


def _left(environment: Mapping[str, str]) -> Left:
    path = environment.get(policy_file.VARIABLE, "")
    if not path:
        raise UsageError("--self asks about the run that it is in, and this is none; leave --self out")
    end = time.monotonic() + _WAIT_S
    while not (text := policy_file.read(path)) and time.monotonic() < end:
        time.sleep(0.02)
    return policy_file.from_text(text)


def _about_path(left: Left, question: Question) -> Answer:
    place, has = left.place, left.capabilities
    subject = why.look(question.path, place, Disk())
    own = next((top for top in left.private if is_at_or_below(subject.real_path, top)), "")
    outcomes: dict[int, Outcome] = {}
    for access in (READ, WRITE) if subject.exists else (question.access,):
        questions = probe.questions_about(
            subject.real_path, access, is_directory=subject.is_directory, exists=subject.exists,
            directory=subject.directory, own=False,
        )  # fmt: skip
        if access == READ or question.access & access:  # to read is asked always: it says what is lacking
            said = probe.read_path([ask(each) for each in questions if not isinstance(each, Connect)], left.wall)
            outcomes[access] = said if questions else probe.NOT_ASKED
    asked = [each for access, each in outcomes.items() if question.access & access]
    outcome = next((each for each in asked if each.result != probe.ALLOWED), asked[-1])
    reached = None
    if outcome.asked and outcome.result != probe.UNKNOWN:
        reached = sum(access for access, each in outcomes.items() if each.result == probe.ALLOWED)
    grants = has.grants
    covered = any(is_at_or_below(subject.real_path, grant.path) for grant in grants if grant.access & question.access)
    verdict = judge_path(
        subject.path, subject.real_path, question.access, grants, has.denies, place, subject.is_directory,
        exists=subject.exists, reached=reached, directory=subject.directory,
    )  # fmt: skip
    if verdict.allowed and own and not covered:
        detail = f"The agent has a {own} of its own, which is gone after the run."
        verdict = Verdict(True, PRIVATE_DIRECTORY, "built-in", detail, own)
    told = verdict.allowed or verdict.reason == SENSITIVE_PATH  # whose mount looks like permissions to a user
    if reached is not None and not told and covered and question.access & ~why.permitted(subject):
        detail = "The permissions of the file forbid it, to the user himself."
        verdict = Verdict(False, FILE_PERMISSIONS, "", detail, verdict.closest)
    answer = Answer(verdict, place, subject.path, subject.real_path)
    if not probe.agrees(outcome, verdict.allowed) and probe.lists_names(outcome, subject, question.access, verdict):
        return answer._replace(probed=outcome._replace(note="its names can be listed; what is in it cannot be read"))
    return why.weigh(answer, outcome, agrees=probe.agrees(outcome, verdict.allowed))


def ask(question: Open | List | Create) -> Reply:
    """Ask the kernel as csrc/probe.c does."""
    carefully = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    left_behind = False
    try:
        if isinstance(question, List):
            with os.scandir(question.path) as entries:
                next(entries, None)
        elif isinstance(question, Open):
            os.close(os.open(question.path, question.flags | carefully))
        else:
            made = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | carefully
            os.close(os.open(question.path, made, 0o600))
            try:
                os.close(os.open(question.path, question.flags | carefully))
            finally:
                try:
                    os.unlink(question.path)
                except OSError:
                    left_behind = True
    except OSError as error:
        return Reply(error.errno or errno.EIO, b"", left_behind)
    return Reply(0, b"", left_behind)


def _about_host(left: Left, question: Question, environment: Mapping[str, str]) -> Answer:
    has = left.capabilities
    verdict = why.about_host(has, question, left.registries, left.origins)
    answer = Answer(verdict, left.place)
    request = probe.request_for(question.host, question.port, question.url, question.method, verdict)
    if isinstance(request, Outcome):
        return answer._replace(probed=request)
    if has.network == NETWORK_OPEN:
        return answer._replace(probed=probe.NOT_ASKED)
    if has.network == NETWORK_PROXY:
        reply = _ask_proxy(request, environment)
        outcome = probe.read_host(probe.read_answer(reply, left.wall), verdict, question.url)
    else:
        outcome = probe.read_refusal(_connect(question.port), left.wall)
    if verdict.allowed and outcome.code == why.ADDRESS_DENIED:
        return answer._replace(verdict=why.of_address(question, verdict), probed=outcome)
    return why.weigh(answer, outcome, agrees=probe.agrees(outcome, verdict.allowed))


def _ask_proxy(request: probe.Request, environment: Mapping[str, str]) -> Reply:
    """Ask the proxy that the environment names, with its token."""
    address = environment.get("HTTPS_PROXY") or environment.get("https_proxy") or ""
    user, _, where = address.partition("://")[2].rstrip("/").rpartition("@")
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError("--self finds no proxy of this run in HTTPS_PROXY; start it with the environment of the run")
    head = request.head(b"Basic " + base64.b64encode(user.encode()))
    try:
        with socket.create_connection((host, int(port)), _TIMEOUT_S) as connection:
            connection.sendall(head)
            answer = b""
            while b"\r\n\r\n" not in answer and len(answer) < 4096 and (more := connection.recv(4096)):
                answer += more
    except TimeoutError:
        return Reply(errno.ETIMEDOUT)
    except OSError as error:
        return Reply(error.errno or errno.EIO)
    return Reply(0, answer)


def _connect(port: int) -> int:
    try:
        socket.create_connection((_NOBODY, port), 1).close()
    except TimeoutError:
        return errno.ETIMEDOUT
    except OSError as error:
        return error.errno or errno.EIO
    return 0
