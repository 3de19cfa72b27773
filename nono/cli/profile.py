"""List, show, check, make and compare profiles, and say what they are made of.

A profile says what a kind of run may do: `nono run -p NAME`. NAME is one of yours ($XDG_CONFIG_HOME/nono/profiles) or a
built-in one; a FILE has a slash or ends in .json or .jsonc. docs/profiles.md describes the format.

examples:
  nono profile list
  nono profile show claude-code             resolved: what it grants, and which profile says so
  nono profile init mine --extends claude-code
  nono profile validate mine                every mistake, with its place; exit status 1
  nono profile diff claude-code mine        as diff(1): exit status 0 the same, 1 different
  nono profile groups deny_credentials      the paths of one group
  nono profile schema > profile.schema.json for your editor
"""

from __future__ import annotations

import argparse
from importlib import import_module

from nono.cli.args import Parser

# An action is a module of nono/cli/profiles, imported when it is called for.
ACTIONS = {
    "list": ("listing", "list the profiles there are: yours and the built-in ones"),
    "show": ("show", "show what a profile comes to, with all that it builds on, and who says what"),
    "validate": ("validate", "check profiles: every mistake, with its place"),
    "init": ("start", "write a commented profile to start from"),
    "diff": ("diff", "compare what two profiles come to"),
    "schema": ("schema", "print the JSON Schema of profiles, for editors"),
    "groups": ("groups", "list the groups of paths and of hosts that profiles are made of"),
}
_NAMED = "the name of a profile, or a file"
_JSON = "print one JSON object"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of `nono profile`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    of = {name: actions.add_parser(name, help=text, description=text) for name, (_, text) in ACTIONS.items()}
    of["show"].add_argument("profile", metavar="NAME|FILE", help=_NAMED)
    of["show"].add_argument("--raw", action="store_true", help="print the file as it is written")
    of["validate"].add_argument(
        "profiles", nargs="*", metavar="NAME|FILE", help=f"{_NAMED}, each (default: all of yours)"
    )
    of["init"].add_argument("name", nargs="?", metavar="NAME", help="of the new profile (default: that of COMMAND)")
    of["init"].add_argument(
        "--extends", action="append", default=[], metavar="NAME", help="build on this profile (several: in this order)"
    )
    of["init"].add_argument("--for", dest="command_name", metavar="COMMAND", help="the command that it is for")
    for name, help_text in (("one", "the profile to begin with"), ("other", "the profile to compare it with")):
        of["diff"].add_argument(name, metavar="NAME|FILE", help=help_text)
    of["groups"].add_argument("group", nargs="?", metavar="GROUP", help="show this group only, its paths expanded")
    for name in ("list", "show", "validate", "diff", "groups"):
        of[name].add_argument("--json", action="store_true", help=_JSON)


def run(arguments: argparse.Namespace) -> int:
    """Do what `arguments` say; return the exit status."""
    status: int = import_module(f"nono.cli.profiles.{ACTIONS[arguments.action][0]}").run(arguments)
    return status
