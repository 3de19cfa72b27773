"""Print the manual page nono(1), made from the verbs and flags of this very version.

examples:
  nono man | man -l -                           read it
  nono man > ~/.local/share/man/man1/nono.1     where `man nono` finds it
"""

from __future__ import annotations

import argparse
import re

from nono import __version__
from nono.cli import describe
from nono.cli.args import folded
from nono.cli.describe import Argument, Verb

_SUMMARY = "run an AI agent that holds no real key and touches only what you granted"
_COLUMNS = 71  # what is left on a terminal of 80
_CODE = re.compile(r"`([^`\n]+)`")
_SPECIAL = {"\\": "\\e", "-": "\\-", "~": "\\(ti", "^": "\\(ha", "`": "\\(ga", '"': "\\(dq"}

_CLOSING = """\
.SH EXIT STATUS
The exit status of
.B nono run
is that of the command; 128 and the number of the signal that ended it;
127 where there is no such command, 126 where it cannot be executed;
2 for a mistake in flags, profile or config.toml; 1 where nono itself fails.
.SH FILES
.TP
.I $XDG_CONFIG_HOME/nono/profiles/NAME.json
Profiles, as
.B \\-\\-profile NAME
names them. Comments are allowed.
.TP
.I $XDG_CONFIG_HOME/nono/config.toml
Flags to give each time, by verb: a table is a verb, a key the long name
of a flag.
.B \\-\\-no\\-config
ignores it.
.TP
.I $XDG_CONFIG_HOME/nono/trust\\-policy.json
Which files must be signed in all of your projects, and by whom.
.TP
.I $XDG_CONFIG_HOME/nono/trust/
The public halves of your signing keys, by which policies and files are
verified.
.TP
.I $XDG_STATE_HOME/nono/
What nono keeps: the audit log, answers of package managers, keys of the store
.IR file .
.PP
Without the variables they are in
.I \\(ti/.config
and
.IR \\(ti/.local/state .
No agent can write either, nor read them.
.SH ENVIRONMENT
.TP
.B NO_COLOR
No colours, where it is set.
.TP
.BR HTTPS_PROXY ", " ALL_PROXY ", " NO_PROXY
The proxy of your network, which the proxy of nono then connects through.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `nono man`: none of its own."""
    parser.usage = "nono man"


def run(arguments: argparse.Namespace) -> int:
    """Print the page; return 0."""
    print(page(describe.verbs()), end="")
    return 0


def page(verbs: tuple[Verb, ...]) -> str:
    """Return the page, in the man(7) language of roff."""
    lines = [
        f'.TH NONO 1 "" "nono {__version__}" "User Commands"',
        # no hyphenation and no filling to both margins: words here are often typed
        ".nh",
        ".ad l",
        ".SH NAME",
        f"nono \\- {_text(_SUMMARY)}",
        ".SH SYNOPSIS",
        ".nf",
    ]
    for verb in verbs:
        lines += [f".B {_escaped(each.usage)}" for each in (verb.actions or (verb,))]
    lines += [".fi", ".SH DESCRIPTION", f"{_text(_SUMMARY[0].upper() + _SUMMARY[1:])}.", ".SH VERBS"]
    seen: dict[tuple[Argument, ...], str] = {}
    for verb in verbs:
        lines += [f".SS {_escaped(f'nono {verb.name}')}", *_described(verb.description)]
        lines += _flags(verb, seen)
        for action in verb.actions:
            lines += [".PP", f".B {_escaped(f'nono {action.name}')}"]
            lines += [_text(f"{action.summary}.")] if action.summary else []
            lines += _flags(action, seen)
    return "\n".join(lines) + "\n" + _CLOSING


def _flags(verb: Verb, seen: dict[tuple[Argument, ...], str]) -> list[str]:
    """Return the arguments and flags of a verb; a group that another verb has, too, is described there."""
    lines = []
    for argument in verb.arguments:
        lines += [".TP", f".I {_escaped(' '.join(argument.values))}", *_help(argument)]
    for title, flags in verb.groups:
        own = tuple(flag for flag in flags if "--help" not in flag.names and "--no-config" not in flag.names)
        if not own:
            continue
        if own in seen and len(own) > 1:
            lines += [".PP", f"{_text(title)}: as those of", f'.BR "{_escaped(f"nono {seen[own]}")}" .']
            continue
        seen.setdefault(own, verb.name)
        if len(verb.groups) > 2:
            lines += [".PP", f".I {_escaped(title)}"]
        for flag in own:
            names = ", ".join(f"\\fB{_escaped(name)}\\fP" for name in flag.names)
            values = "".join(f" \\fI{_escaped(value)}\\fP" for value in flag.values)
            lines += [".TP", names + values, *_help(flag)]
    return lines


def _help(argument: Argument) -> list[str]:
    text = argument.help.strip() or "-"
    return [_text(line) for line in folded(f"{text[0].upper()}{text[1:]}.", _COLUMNS)]


def _described(description: str) -> list[str]:
    """Return a docstring: paragraphs are filled, what is indented stays as it is."""
    lines: list[str] = []
    verbatim = False
    for line in folded(description, _COLUMNS):
        indented = line.startswith(" ") and bool(line.strip())
        if indented != verbatim:
            lines += [".RS 4", ".nf"] if indented else [".fi", ".RE"]
            verbatim = indented
        if indented:
            lines.append(_escaped(line.rstrip()[2:]))
        elif line.strip():
            lines.append(_text(line))
        elif lines and lines[-1] != ".PP":
            lines.append(".PP")
    return [*lines, *([".fi", ".RE"] if verbatim else [])]


def _text(text: str) -> str:
    """Return prose: what stands in backquotes is bold."""
    parts = _CODE.split(text)
    return _guarded(
        "".join(f"\\fB{_characters(part)}\\fP" if at % 2 else _characters(part) for at, part in enumerate(parts))
    )


def _escaped(text: str) -> str:
    return _guarded(_characters(text))


def _characters(text: str) -> str:
    return "".join(_SPECIAL.get(c) or (c if c.isascii() else f"\\[u{ord(c):04X}]") for c in text)


def _guarded(line: str) -> str:
    """Return a line that is not taken for a request."""
    return f"\\&{line}" if line.startswith((".", "'")) else line
