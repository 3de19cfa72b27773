"""Judge what the two runs of the agent did, and tell it to somebody who has never heard of nono. Pure.

`failures` is the judgement: one sentence for each defence that did not hold, none when all did. The rest is prose.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping, Sequence

from nono.demo import answers
from nono.demo.stage import VARIABLES, Run

_INDENT = "   "
_NAME_WIDTH = 11

# theft -> in plain words what the agent tries
_THEFTS = {
    "environment": "look for a key in its environment",
    "key_file": "read the file that holds the key",
    "parent_environment": "read its parent's environment in /proc",
    "parent_memory": "search its parent's memory for a key",
    "tcp": "send what it has away by TCP",
    "udp": "send what it has away by UDP",
    "unix_socket": "ask a password agent (unix socket)",
    "session_bus": "ask the desktop's keystore (D-Bus)",
    "kernel_keyring": "open the kernel's keyring",
}

_ERRNO_WORDS = {
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.ENOENT: "no such file in here",
    errno.ECONNREFUSED: "its network is its own",
    errno.ENETUNREACH: "its network is its own",
    errno.EAFNOSUPPORT: "no such sockets in here",
    errno.EPROTONOSUPPORT: "no such protocol in here",
    errno.ENOSYS: "no such system call in here",
}


def stolen(run: Run, theft: str) -> bool:
    """Whether the theft had any success: loot in the agent's hands, or a message at the collector."""
    return bool(run.tried(theft).get("loot")) or theft in run.arrived


def failures(
    run: Run, thefts: Sequence[str], keys: Mapping[str, str], audit_log: Sequence[str], token_status: int
) -> list[str]:
    """Return one sentence for each thing that is not as promised in `run`, the agent's run with nono."""
    found = []
    if run.status != 0:
        found.append(f"The agent ended with status {run.status}. nono said: {run.stderr.strip() or 'nothing'}")
    tokens = {str(line["held"]) for line in run.lines if line.get("held")}
    for service in VARIABLES:
        asked = run.asked(service)
        if asked.get("text") != answers.TEXT:
            found.append(
                f"{service} did not answer the agent as it should: {asked.get('error') or asked or 'no answer'}"
            )
        held = str(asked.get("held", ""))
        if any(key in held for key in keys.values()):
            found.append(f"The agent held the real key of {service}.")
        if not any(each.service == service and each.accepted for each in run.received):
            found.append(f"{service} never received its key.")
    for each in run.received:
        if any(token in each.head or token in each.body.decode(errors="replace") for token in tokens):
            found.append(f"The agent's token was sent on to {each.service}.")
        others = [name for name, key in keys.items() if key in each.head and name != each.service]
        found += [f"The key of {name} was sent to {each.service}." for name in others]
    for theft in thefts:
        if not run.tried(theft):
            found.append(f"The agent never came to this attempt: {_THEFTS[theft]}.")
        elif stolen(run, theft):
            found.append(f"The agent could {_THEFTS[theft]}.")
    spilt = [key for key in keys.values() if key in run.stderr or any(key in line for line in audit_log)]
    found += [f"A real key stands in what nono printed or wrote down: {key}" for key in spilt]
    if not audit_log:
        found.append("nono wrote no audit log.")
    if token_status != 401:
        found.append(f"The agent's token, sent straight to the service, was answered {token_status} instead of 401.")
    return found


def opening(port: int) -> str:
    """What is about to happen."""
    return f"""\
nono demo: an agent works with API keys that it never holds.

All of it happens on this machine, with made-up keys; nothing of yours is read or sent.

{_INDENT}services   stand-ins for OpenAI, Anthropic and Gemini on https://localhost:{port},
{_INDENT}           which answer only to whoever presents the right key
{_INDENT}agent      a small program that asks each of them a question, then tries to steal a key
"""


def without_nono(run: Run) -> str:
    """The agent as usual."""
    return f"1. Without nono: the keys are in the agent's environment, as is usual.\n\n{_work(run)}"


def with_nono(run: Run) -> str:
    """The agent in the sandbox, and what nono itself said."""
    said = "".join(f"{_INDENT}{line}\n" for line in run.stderr.splitlines())
    command = f"{_INDENT}$ nono run --profile demo.json -- python agent.py\n"
    return f"2. With nono: the same agent, unchanged.\n\n{command}{said}\n{_work(run)}"


def not_started(run: Run) -> str:
    """The end, where nono refused to start the agent."""
    said = run.stderr.strip().removeprefix("nono: ") or f"nothing, and ended with status {run.status}"
    return (
        "nono did NOT start the agent on this machine: it starts none that it cannot confine. No key was at risk.\n"
        f"What it says is missing:\n{_INDENT}{said}\n"
    )


def _work(run: Run) -> str:
    text = ""
    for service in VARIABLES:
        asked = run.asked(service)
        if asked.get("status") == 200:
            first, last = asked["ms"] or (0, 0)
            does = f"answered in {asked['pieces']} pieces, the first after {first:.0f} ms, the last after {last:.0f} ms"
        else:
            does = f"did not answer: {asked.get('error', 'never asked')}"
        text += f"{_INDENT}{service:<{_NAME_WIDTH}}{does}\n"
    return text


def side_by_side(run: Run, token_status: int) -> str:
    """What the agent held, and what the service received instead."""
    left = 32
    text = "3. What the agent held, and what the service received.\n\n"
    text += f"{_INDENT}{'':<{_NAME_WIDTH}}{'the agent':<{left}}the service\n"
    formats = {service.name: service.header for service in answers.SERVICES}
    for service, (variable, _) in VARIABLES.items():
        held = str(run.asked(service).get("held", ""))
        received = next((each.presented for each in run.received if each.service == service), "nothing")
        text += (
            f"{_INDENT}{service:<{_NAME_WIDTH}}{f'{variable}={_short(held)}':<{left}}{formats[service]}: {received}\n"
        )
    return (
        f"{text}\n{_INDENT}The agent's token was made for this run and works in this run's proxy only: sent straight\n"
        f"{_INDENT}to the service, it is answered {token_status}.\n"
    )


def _short(token: str) -> str:
    return token if len(token) <= 20 else f"{token[:8]}…{token[-4:]}"


def attempts(before: Run, after: Run, thefts: Sequence[str], keys: Collection[str]) -> str:
    """The thefts, without nono and with it."""
    width, middle = max(map(len, _THEFTS.values())) + 2, 15
    text = "4. What the agent tried, to get hold of a key and to send it away.\n\n"
    text += f"{_INDENT}{'':<{width}}{'without nono':<{middle}}with nono\n"
    for theft in thefts:
        outcome = (_outcome(run, theft, keys) for run in (before, after))
        text += f"{_INDENT}{_THEFTS[theft]:<{width}}{next(outcome):<{middle}}{next(outcome)}\n"
    return text


def _outcome(run: Run, theft: str, keys: Collection[str]) -> str:
    tried = run.tried(theft)
    loot = str(tried.get("loot", ""))
    if any(key in loot for key in keys):
        return "GOT THE KEY"
    if stolen(run, theft):
        return "SUCCEEDED"
    if not tried:
        return "not tried"
    number = int(tried.get("errno", 0))
    if number:
        return f"{errno.errorcode.get(number, number)}: {_ERRNO_WORDS.get(number) or tried['says']}"
    return str(tried.get("says") or "nothing there but the token")


def closing(found: Sequence[str], seconds: float, lines: int) -> str:
    """The verdict."""
    if not found:
        return (
            f"Every defence held ({seconds:.1f} s). nono wrote {lines} lines of audit, none with a secret in it.\n"
            f"For your own agent:\n"
            f"{_INDENT}nono credential set openai\n"
            f"{_INDENT}nono run --allow-cwd --credential openai -- COMMAND\n"
        )
    listed = "".join(f"{_INDENT}- {sentence}\n" for sentence in found)
    many = "One defence" if len(found) == 1 else f"{len(found)} defences"
    return f"{many} did NOT hold on this machine. Do not rely on nono here.\n\n{listed}"
