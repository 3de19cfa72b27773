"""What agents did: list the sessions, show one, find what was tampered with, export, clean up.

Each nono run and nono proxy writes a log that no agent can touch: who started what with which grants, every decision of
the proxy, what was denied, and the end. A SESSION is named by its id, what its id begins with, the NAME it was given
(nono run --name), or as last. docs/audit.md describes the format, and what verify can find.

examples:
  nono audit list
  nono audit show last
  nono audit show last --denied             what the agent was refused, and the flag that would grant it
  nono audit verify                         all logs and the ledger; exit status 1 where something is wrong
  nono audit cleanup --older-than 90d       remove old logs; verify does not miss them
  nono audit export last --format html -o session.html
"""

from __future__ import annotations

import argparse
from importlib import import_module

from nono.cli.args import Parser, parse_count

# An action is a module of nono/cli/audits, imported when it is called for.
ACTIONS = {
    "list": ("listing", "list the sessions, the latest last"),
    "show": ("show", "show one session: what it was allowed, what it did, what was denied"),
    "verify": ("check", "find changed, missing, moved and cut-off records, and sessions that vanished"),
    "cleanup": ("cleanup", "remove old logs; the ledger says that you did"),
    "export": ("export", "write one session as JSON Lines, CSV or an HTML page"),
}
_SESSION = "its id, what that begins with, its name, or last"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of `nono audit`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    of = {name: actions.add_parser(name, help=text, description=text) for name, (_, text) in ACTIONS.items()}
    of["list"].add_argument("--limit", type=parse_count, metavar="N", help="the last N only (default: 50; 0 for all)")
    of["show"].add_argument("session", metavar="SESSION", help=_SESSION)
    of["show"].add_argument("--denied", action="store_true", help="only what was denied")
    of["show"].add_argument("-v", "--verbose", action="store_true", help="all grants, and all exchanges")
    of["verify"].add_argument("session", nargs="?", metavar="SESSION", help=f"{_SESSION} (default: all of them)")
    of["verify"].add_argument(
        "--head", metavar="HASH", help="the ledger's head of an earlier verify: the ledger must still lead there"
    )
    of["verify"].add_argument(
        "--public-key",
        metavar="FILE",
        help="every log must be signed by this key (default: signatures by keys of yours)",
    )
    of["export"].add_argument("session", metavar="SESSION", help=_SESSION)
    of["export"].add_argument(
        "--format", choices=("jsonl", "csv", "html"), default="jsonl", help="jsonl: the log as it is (default)"
    )
    of["export"].add_argument("-o", "--output", metavar="FILE", help="write to this new file (default: print)")
    of["export"].add_argument("--force", action="store_true", help="replace FILE")
    of["cleanup"].add_argument("session", nargs="*", metavar="SESSION", help=_SESSION)
    of["cleanup"].add_argument("--older-than", metavar="TIME", help="those that were last written before: 12h, 90d")
    of["cleanup"].add_argument("--dry-run", action="store_true", help="say what would be removed, remove nothing")
    for name in ("list", "show", "verify", "cleanup"):
        of[name].add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Do what `arguments` say; return the exit status."""
    status: int = import_module(f"nono.cli.audits.{ACTIONS[arguments.action][0]}").run(arguments)
    return status
