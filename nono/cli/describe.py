"""What the command line takes, as data: verbs, their actions, flags and arguments, read off the parsers themselves.

Completion scripts and the man page are made of this, so that neither can name a flag that is not there. All verbs are
imported for it; nothing is run, and no keystore, profile or network is asked.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from nono.cli.args import VERBS, actions_of, parser_of

# What a value is, to whoever completes it.
DIRECTORY, FILE, PATH, PROFILE, NETWORK_PROFILE, CREDENTIAL, GROUP, FREE = (
    "directory", "file", "path", "profile", "network-profile", "credential", "group", "",
)  # fmt: skip
_BY_DEST = {
    "profile": PROFILE,
    "extends": PROFILE,
    "network_profile": NETWORK_PROFILE,
    "credential": CREDENTIAL,
    "env_credential": CREDENTIAL,
}
_BY_METAVAR = {
    "DIR": DIRECTORY,
    "FILE": FILE,
    "PATH": PATH,
    "P": PATH,
    "PATH|own": PATH,
    "NAME|FILE": PROFILE,
    "PROFILE": PROFILE,
    "PROFILE|FILE": PROFILE,
    "GROUP": GROUP,
}
_NAMES_OF_KEYS = "nono credential"  # the NAME of whose actions is a credential's


class Argument(NamedTuple):
    """A flag or, without names, a positional argument.

    values: how they are written, () for none; kind: what they are; choices: all there are, () for no such list.
    """

    names: tuple[str, ...]
    values: tuple[str, ...]
    kind: str
    choices: tuple[str, ...]
    help: str
    repeats: bool
    optional: bool = True


class Verb(NamedTuple):
    """A verb, or an action of one; name: all its words (`credential set`). groups: its flags by the title of help."""

    name: str
    summary: str
    description: str
    usage: str
    groups: tuple[tuple[str, tuple[Argument, ...]], ...]
    arguments: tuple[Argument, ...]
    actions: tuple[Verb, ...]
    takes_command: bool

    @property
    def flags(self) -> tuple[Argument, ...]:
        """All its flags."""
        return tuple(flag for _, flags in self.groups for flag in flags)


def verbs() -> tuple[Verb, ...]:
    """Return all verbs, in the order of `nono --help`."""
    return tuple(_verb(name, summary, parser_of(name)[1]) for name, (_, summary) in VERBS.items())


def _verb(name: str, summary: str, parser: argparse.ArgumentParser) -> Verb:
    usage = parser.usage or " ".join(parser.format_usage().removeprefix("usage: ").split())
    for of_all in ("[-h] ", "[--no-config] ", " [-h]", " [--no-config]"):
        usage = usage.replace(of_all, "")
    groups = tuple(
        (str(group.title), tuple(_argument(action, parser) for action in group._group_actions if action.option_strings))
        for group in parser._action_groups
    )
    helps = {
        choice.dest: choice.help or ""
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for choice in action._choices_actions
    }
    return Verb(
        name,
        summary,
        (parser.description or "").strip(),
        usage,
        tuple((title, flags) for title, flags in groups if flags),
        tuple(
            _argument(action, parser)
            for action in parser._actions
            if not action.option_strings and not isinstance(action, argparse._SubParsersAction)
        ),
        tuple(_verb(f"{name} {action}", helps.get(action, ""), of) for action, of in actions_of(parser).items()),
        "-- " in usage,
    )


def _argument(action: argparse.Action, parser: argparse.ArgumentParser) -> Argument:
    metavar = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper())
    count = action.nargs if isinstance(action.nargs, int) else 1
    values = (metavar,) * count if isinstance(metavar, str) else metavar
    kind = _BY_DEST.get(action.dest) or _BY_METAVAR.get(values[0] if values else "", FREE)
    if not action.option_strings and kind == FREE and parser.prog.startswith(_NAMES_OF_KEYS) and action.dest == "name":
        kind = CREDENTIAL
    return Argument(
        tuple(action.option_strings),
        values,
        kind if values else FREE,
        tuple(map(str, action.choices or ())),
        (action.help or "").replace("%%", "%"),
        isinstance(action, (argparse._AppendAction, argparse._CountAction)) or action.nargs in ("*", "+"),
        bool(action.option_strings) or action.nargs in ("?", "*"),
    )
