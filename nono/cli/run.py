"""Run a command in the sandbox, with the proxy beside it.

The agent holds a token of this session in the place of each key; the proxy puts the real key in on the way out. It
touches only the paths that are granted here. Its output is its own: nono writes to stderr only, before it starts, and
after its end what was refused that a flag would grant.

examples:
  nono run --allow-cwd -- bash                                 a shell that may change this directory only
  nono run --allow-cwd --credential openai -- python agent.py  an agent that never sees the key
  nono run --allow-cwd --network-profile claude-code --credential anthropic -- claude
  nono run --read ~/notes --block-net -- python report.py      no network at all
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module

from nono.audit import redact
from nono.cli import render
from nono.cli.flags import add_policy_arguments, policy_request
from nono.cli.messages import Messages, add_message_arguments
from nono.errors import NonoError, UsageError
from nono.session import run as session
from nono.session.policy import Order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nono.cli.denials import Report
    from nono.session.rollback import Tracker
    from nono.session.summary import Summary
    from nono.supervisor.denials import Denial

_MAX_NAME = 64
_ROLLBACK_FIELDS = ("rollback_exclude", "rollback_include", "rollback_dest", "rollback_max_size")
DRY_RUN = "print what would be applied, start nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `nono run`."""
    parser.usage = "nono run [flags] -- COMMAND [ARGUMENT …]"
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that start() reads."""
    add_policy_arguments(parser)
    other = parser.add_argument_group("other")
    other.add_argument("--dry-run", action="store_true", help=DRY_RUN)
    other.add_argument(
        "--name", type=parse_name, metavar="NAME", help="call this run NAME, in the name of its audit log"
    )
    other.add_argument(
        "--audit-sign-key", metavar="KEYREF", help="sign the audit log at the end: keystore://ID or file:///PATH"
    )
    add_message_arguments(other)
    add_rollback_arguments(parser.add_argument_group("undo"))
    other.add_argument("--no-diagnostics", action="store_true", help="do not look for what was denied, nor tell it")
    other.add_argument(
        "--diagnostics-json",
        metavar="FILE|fd:N",
        help="when all is over, write what was denied as JSON to FILE, or to the open descriptor N",
    )


def add_rollback_arguments(group: argparse._ActionsContainer) -> None:
    """Declare the flags about undoing what the agent does to files."""
    group.add_argument(
        "--rollback", action="store_true", help="snapshot what the agent may write, so that its changes can be undone"
    )
    group.add_argument("--no-rollback-prompt", action="store_true", help="do not ask afterwards what is to be kept")
    group.add_argument(
        "--rollback-exclude", action="append", default=[], metavar="PATTERN", help="leave out names or paths like this"
    )
    group.add_argument(
        "--rollback-include",
        action="append",
        default=[],
        metavar="PATTERN",
        help="take these, whatever leaves them out (.gitignore, node_modules and their like)",
    )
    group.add_argument(
        "--rollback-dest",
        metavar="DIR",
        help="keep the snapshots in DIR instead of the state directory; the agent must not reach it",
    )
    group.add_argument(
        "--rollback-max-size", metavar="SIZE", help="refuse to start when there is more to snapshot (default: 10G)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    if not arguments.command:
        raise UsageError("no command to run. Write it behind --, e.g.: nono run --allow-cwd -- bash")
    return start(arguments, tuple(arguments.command))


def start(arguments: argparse.Namespace, argv: tuple[str, ...]) -> int:
    """Run `argv` as the flags say; return its exit status."""
    order = make_order(arguments, argv)
    home = render.home_of(os.environ)
    with Messages(silent=arguments.silent, log_file=arguments.log_file) as messages:
        tell = teller(arguments, messages, home)

        def footer(denied: Sequence[Denial]) -> None:
            found.extend(denied)
            if denied and is_told:
                messages.rows(import_module("nono.cli.denials").rows(denied, home))

        found: list[Denial] = []
        is_told = not arguments.no_diagnostics and (messages.is_logged or not arguments.silent)
        report = _report(arguments)
        rollback = _rollback(arguments, messages, home)
        asked = footer if is_told or report is not None else None
        status = 1
        try:
            if not arguments.verbose:
                status = session.run(order, os.environ, tell, messages.notice, footer=asked, tracker=rollback)
            else:  # who does not watch does not wait for it
                with import_module("nono.cli.live").LiveView(messages) as live:
                    status = session.run(order, os.environ, tell, messages.notice, live.show, asked, tracker=rollback)
        except NonoError as error:
            status = error.exit_status
            raise
        finally:
            if report is not None:
                report.write(found, status, messages.notice)
        if rollback is not None and rollback.ended and (messages.is_logged or not arguments.silent):
            asks = not (arguments.silent or arguments.no_rollback_prompt)
            import_module("nono.cli.review").review(rollback.session, rollback.store, messages, home, asks=asks)
        return status


def make_order(arguments: argparse.Namespace, argv: tuple[str, ...]) -> Order:
    """Return what the flags of policy ask for."""
    return Order(
        argv=argv,
        request=policy_request(arguments),
        profile=arguments.profile,
        workdir=arguments.workdir,
        proxy_port=arguments.proxy_port,
        dry_run=arguments.dry_run,
        name=getattr(arguments, "name", None) or "",
        audit_sign_key=getattr(arguments, "audit_sign_key", None) or "",
    )


def teller(arguments: argparse.Namespace, messages: Messages, home: str) -> Callable[[Summary], None]:
    """Return what tells the user what his command may do."""

    def tell(what: Summary) -> None:
        if arguments.dry_run:
            print(render.table(render.plan(what, home)), end="")
        elif messages.is_logged or not arguments.silent:
            messages.rows(render.summary(what, home, verbose=arguments.verbose > 0))

    return tell


def parse_name(text: str) -> str:
    """Return the name of a run, which is to be a part of a file's name."""
    if not (0 < len(text) <= _MAX_NAME and text.isascii() and text.replace("-", "").replace("_", "").isalnum()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name: letters, digits, - and _, {_MAX_NAME} at most")
    if redact.argv([text]) != [text]:
        raise argparse.ArgumentTypeError("this looks like a key, which would stay in the log's name; choose another")
    return text


def _report(arguments: argparse.Namespace) -> Report | None:
    """Return where the denials are written as JSON; opened before anything is started. Raises UsageError."""
    if arguments.diagnostics_json is None or arguments.dry_run:
        return None
    report: Report = import_module("nono.cli.denials").Report(arguments.diagnostics_json)  # few runs have one
    return report


def _rollback(arguments: argparse.Namespace, messages: Messages, home: str) -> Tracker | None:
    """Return what takes the snapshots of this run, None where none are wanted. Raises UsageError."""
    if not arguments.rollback:
        for name in ("no_rollback_prompt", *_ROLLBACK_FIELDS):
            if getattr(arguments, name):
                raise UsageError(f"--{name.replace('_', '-')} goes with --rollback; add that, or leave this out")
        return None
    if arguments.dry_run:
        return None
    tracker: Tracker = import_module("nono.cli.review").tracker(  # few runs have one
        messages, home, *(getattr(arguments, name) for name in _ROLLBACK_FIELDS), is_silent=arguments.silent
    )
    return tracker
