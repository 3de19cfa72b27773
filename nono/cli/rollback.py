"""See and undo what an agent did to your files in a run with --rollback.

A SESSION is named by its id, what its id begins with, the NAME of the run, or as last. Restoring is all or nothing,
also when it is killed: run it again. What you changed yourself since the session is left alone without --force; and
whatever gives way is kept in the store, so that a restore can be undone, too. docs/rollback.md tells all about it.

examples:
  nono run --rollback --allow-cwd -- claude
  nono rollback list
  nono rollback show last --diff               what the agent changed, as a diff
  nono rollback restore last --dry-run         what would be put back
  nono rollback restore last src/main.py       this file only
  nono rollback restore last                   everything
  nono rollback restore last --undo            take back the last restore
  nono rollback cleanup --keep 10              remove all but the last ten
"""

from __future__ import annotations

import argparse
from importlib import import_module

from nono.cli.args import Parser, parse_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# An action is a module of nono/cli/rollbacks, imported when it is called for.
ACTIONS = {
    "list": ("listing", "list the sessions that can be undone, the latest last"),
    "show": ("show", "show what a session changed, and what cannot be undone"),
    "restore": ("restore", "put back what a session changed: all of it, or some paths"),
    "verify": ("check", "see whether snapshots and contents are as they were stored"),
    "cleanup": ("cleanup", "remove sessions, and the contents that no session needs"),
}
_SESSION = "its id, what that begins with, its name, or last"


class _ActionParser(Parser):
    """Takes paths behind flags, too, where none of these has a value."""

    has_values = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        if args is not None and not self.has_values:
            args = sorted(args, key=lambda word: not word.startswith("-"))
        return super().parse_known_args(args, namespace)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of `nono rollback`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_ActionParser)
    of = {name: actions.add_parser(name, help=text, description=text) for name, (_, text) in ACTIONS.items()}
    for name in ("show", "restore"):
        of[name].add_argument("session", metavar="SESSION", help=_SESSION)
        of[name].add_argument("path", nargs="*", metavar="PATH", help="these only, and what is below them")
        of[name].add_argument("--diff", action="store_true", help="as a unified diff" + _PREVIEW[name])
    of["show"].add_argument("-v", "--verbose", action="store_true", help="list all changes, and all that was left out")
    restore = of["restore"]
    restore.add_argument("--dry-run", action="store_true", help="say what would be put back, change nothing")
    restore.add_argument("--force", action="store_true", help="also what you changed since; it is saved first")
    restore.add_argument("--undo", action="store_true", help="take back the last restore of this session")
    of["verify"].add_argument("session", nargs="?", metavar="SESSION", help=f"{_SESSION} (default: all of them)")
    cleanup = of["cleanup"]
    cleanup.has_values = True
    cleanup.add_argument("session", nargs="*", metavar="SESSION", help=_SESSION)
    cleanup.add_argument("--keep", type=parse_count, metavar="N", help="all but the last N")
    cleanup.add_argument("--older-than", metavar="TIME", help="those that are older: 12h, 30d")
    cleanup.add_argument("--dry-run", action="store_true", help="say what would be removed, remove nothing")
    for name in ACTIONS:
        of[name].add_argument("--json", action="store_true", help="print one JSON object")


_PREVIEW = {"show": "", "restore": " of what would be put back; change nothing"}


def run(arguments: argparse.Namespace) -> int:
    """Do what `arguments` say; return the exit status."""
    status: int = import_module(f"nono.cli.rollbacks.{ACTIONS[arguments.action][0]}").run(arguments)
    return status
