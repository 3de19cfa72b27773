"""Why the agent may, or may not: a path, a host or a URL, under the policy that a run with these flags would have.

It takes every flag of `nono run`, and a command behind --, whose own files count. Nothing is started, no key is asked
for. The flag that it suggests has been tried on the same question. With --probe the kernel and the proxy are asked
themselves, behind the very wall that a run would have. Inside a run, --self asks about that run.

Exit status: 0 allowed, 3 denied; 1 and 2 as everywhere: nono's own error, a mistake in flags or profile.

examples:
  nono why --path ~/.aws/credentials --allow ~            why it stays denied, and what would open it
  nono why --path ./build --op write -p claude-code       under a profile
  nono why --host api.example.com --allow-cwd --credential openai
  nono why --url https://example.com/v1/x --method POST --allow-domain 'https://example.com/v1/**'
  nono why --self --path /etc/shadow --json               inside a run
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from nono.cli import render
from nono.cli.flags import add_policy_arguments, parse_port, policy_request
from nono.errors import UsageError
from nono.policy.capabilities import READ, WRITE
from nono.policy.resolve import Request
from nono.policy.verdict import source
from nono.session import why as session
from nono.session.policy import Order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nono.session.probe import Outcome

ALLOWED, DENIED = 0, 3
_UNBROKEN = "\xa0"
_OPERATIONS = {"read": READ, "write": WRITE, "readwrite": READ | WRITE}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `nono why`."""
    parser.usage = "nono why (--path PATH [--op OP] | --host HOST [--port N] | --url URL) [flags] [-- COMMAND …]"
    asked = parser.add_argument_group("what is asked")
    asked.add_argument("--path", metavar="PATH", help="may the agent have this file or directory")
    asked.add_argument("--op", choices=tuple(_OPERATIONS), help="for what (default: read)")
    asked.add_argument("--host", metavar="HOST", help="may the agent reach this host")
    asked.add_argument("--port", type=parse_port, metavar="N", help="at this port (default: 443)")
    asked.add_argument("--url", metavar="URL", help="is a request for this forwarded")
    asked.add_argument("--method", metavar="METHOD", help="of the request (default: GET)")
    asked.add_argument("--probe", action="store_true", help="ask the kernel and the proxy, behind the very wall")
    asked.add_argument("--self", dest="inside", action="store_true", help="about the run that this is called in")
    asked.add_argument("--json", action="store_true", help="answer with one JSON object")
    add_policy_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Answer; return 0 for allowed, 3 for denied."""
    question = _question(arguments)
    if arguments.inside:
        return _show(arguments, question, _inside(arguments, question))
    order = Order(
        argv=tuple(arguments.command or ()),
        request=policy_request(arguments),
        profile=arguments.profile,
        workdir=arguments.workdir,
    )
    return _show(arguments, question, session.explain(order, question, os.environ, probe=arguments.probe))


def _inside(arguments: argparse.Namespace, question: session.Question) -> session.Answer:
    if policy_request(arguments) != Request() or arguments.profile or arguments.workdir or arguments.command:
        raise UsageError("--self asks about the run that it is in; leave out the flags of policy and the command")
    answer: session.Answer = import_module("nono.session.inside").explain(question, os.environ)
    return answer


def _show(arguments: argparse.Namespace, question: session.Question, answer: session.Answer) -> int:
    what = _facts(question, answer)
    if arguments.json:
        text = import_module("json").dumps(what) + "\n"
    else:
        rows = human(what, render.home_of(os.environ))
        text = render.table(rows, colour=render.shows_colour() and sys.stdout.isatty()).replace(_UNBROKEN, " ")
    sys.stdout.write(text)
    return ALLOWED if answer.verdict.allowed else DENIED


def _question(arguments: argparse.Namespace) -> session.Question:
    named = [name for name in ("path", "host", "url") if getattr(arguments, name) is not None]
    if len(named) != 1:
        raise UsageError("ask about one thing: --path PATH, --host HOST or --url URL")
    for flag, its in (("op", "path"), ("port", "host"), ("method", "url")):
        if getattr(arguments, flag) is not None and named != [its]:
            raise UsageError(f"--{flag} goes with --{its}")
    if not getattr(arguments, named[0]):
        raise UsageError(f"--{named[0]} must not be empty")
    if named == ["path"]:
        return session.Question(path=arguments.path, access=_OPERATIONS[arguments.op or "read"])
    if named == ["host"]:
        return session.Question(host=arguments.host, port=arguments.port or 443)
    method = arguments.method or "GET"
    if not (method.isascii() and method.replace("-", "").isalpha()):
        raise UsageError("--method takes the name of a method, e.g. POST")
    return session.Question(url=arguments.url, method=method.upper())


def _facts(question: session.Question, answer: session.Answer) -> dict[str, Any]:
    """Return the answer as it is written in JSON."""
    verdict = answer.verdict
    kind, name = source(verdict.origin)
    what: dict[str, Any] = {"status": "allowed" if verdict.allowed else "denied", "reason": verdict.reason}
    if question.path:
        operation = next(name for name, access in _OPERATIONS.items() if access == question.access)
        what |= {"path": answer.path, "real_path": answer.real_path, "op": operation}
    elif question.url:
        what |= {"url": question.url, "method": question.method}
    else:
        what |= {"host": question.host, "port": question.port}
    if answer.probed is not None:
        what["probe"] = _probed(answer, answer.probed)
    return what | {
        "detail": verdict.detail,
        "source": {"kind": kind, "name": name},
        "closest": verdict.closest or None,
        "suggested_flag": verdict.flag or None,
        "tried": answer.verified,
        "profile_line": verdict.profile_line or None,
    }


def _probed(answer: session.Answer, outcome: Outcome) -> dict[str, Any]:
    said: dict[str, Any] = {
        "asked": outcome.asked or None,
        "result": outcome.result,
        "errno": outcome.errno or None,
        "code": outcome.code or None,
        "note": outcome.note or None,
        "wall": outcome.wall or None,
        "agrees": answer.agrees,
    }
    if answer.policy is not None:
        said["policy"] = {"reason": answer.policy.reason, "detail": answer.policy.detail}
    return said


def human(what: dict[str, Any], home: str) -> list[tuple[str, str]]:
    """Return the answer for a person, as rows."""
    if "path" in what:
        subject = f"{what['op']} {render.short(what['path'], home)}"
        if what["real_path"] != what["path"]:
            subject += f" → {render.short(what['real_path'], home)}"
    elif "url" in what:
        subject = f"{what['method']} {what['url']}"
    else:
        subject = f"connect {what['host']}:{what['port']}"
    rows = [(what["status"], f"{subject}  ({what['reason']})"), ("because", what["detail"])]
    if what["source"]["kind"] != "none":
        rows.append(("rule", " ".join(word for word in what["source"].values() if word)))
    if what["closest"] and what["status"] == "denied":
        rows.append(("closest", what["closest"]))
    if what["suggested_flag"]:
        rows.append(("would help", what["suggested_flag"].replace(" ", _UNBROKEN)))  # to be copied
    if what["profile_line"]:
        rows.append(("in profile", what["profile_line"].replace(" ", _UNBROKEN)))
    if "probe" in what:
        rows.append(("asked", _probe_text(what["probe"])))
    return [(label, _UNBROKEN.join(map(render.printable, text.split(_UNBROKEN)))) for label, text in rows]


def _probe_text(said: dict[str, Any]) -> str:
    if said["asked"] is None:
        return f"nobody: {said['note']}"
    why = ", ".join(text for text in (said["errno"], said["code"], said["note"]) if text)
    return f"the {said['asked']}, behind {said['wall']}: {said['result']}" + (f" ({why})" if why else "")
