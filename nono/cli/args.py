"""The command line: argv in, a parsed namespace or a UsageError out.

One table of verbs. A verb's module is imported when it is called for, by name: `nono run` must not pay for what `nono
credential` needs. A command to run stands behind `--` and is never looked at. What the user's config.toml says comes
before the flags, as if it were typed there (nono/cli/config.py, which is imported only where that file exists).

What is printed here is 80 columns wide, whatever the terminal: asking for its size costs an import, and a page that
looks the same everywhere can be tested.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import ModuleType

from nono import __version__
from nono.errors import UsageError
from nono.policy.network import nearest

# argparse asks gettext for its words in the user's language, which takes 1.5 ms; all others of nono's are English.
_english = ModuleType("gettext")
_english.__dict__.update(gettext=lambda text: text, ngettext=lambda one, more, number: one if number == 1 else more)
_gettext = sys.modules.get("gettext")
sys.modules["gettext"] = _english
import argparse  # noqa: E402

if _gettext is None:
    del sys.modules["gettext"]
else:
    sys.modules["gettext"] = _gettext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

    from nono.cli.config import Configured

VERBS = {
    "run": ("nono.cli.run", "run a command in the sandbox, with the proxy beside it"),
    "shell": ("nono.cli.shell", "start your shell in the sandbox"),
    "wrap": ("nono.cli.wrap", "become a command in the sandbox: no supervisor, so no proxy"),
    "why": ("nono.cli.why", "say why the agent may have a path or a host, or may not"),
    "learn": ("nono.cli.learn", "run a command once, record what it uses, and write a profile to review"),
    "audit": ("nono.cli.audit", "what agents did: list sessions, show them, find tampering, export"),
    "rollback": ("nono.cli.rollback", "see and undo what an agent did to your files"),
    "trust": ("nono.cli.trust", "sign the files that instruct an agent, and verify them"),
    "proxy": ("nono.cli.proxy", "run the proxy alone, for an agent isolated by other means"),
    "credential": ("nono.cli.credential", "store, check, list and remove keys in the keystore"),
    "profile": ("nono.cli.profile", "list, show, check, make and compare profiles"),
    "completion": ("nono.cli.completion", "print a script that completes nono's command line in your shell"),
    "man": ("nono.cli.man", "print the manual page nono(1)"),
    "setup": ("nono.cli.setup", "say what this machine offers, and what would enable more"),
    "demo": ("nono.cli.demo", "see the whole of it work, in seconds, without a network"),
}

_WITH_COMMAND = ("run", "shell", "wrap", "learn")  # of which a word may have been meant as the command

COLUMNS = 80
_PARSED_AT_ONCE = 25  # words
_PLAIN_AT_ONCE = 10


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is an error of ours: one sentence, status 2, no page of usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, add_help=False, **options)
        # In a group, because argparse tries a formatter on what is added to the parser itself: shutil, lzma, 2.5 ms.
        of_all = self.add_argument_group("options")
        of_all.add_argument("-h", "--help", action="help", help="show this help and exit")
        if options.get("usage") is None:
            of_all.add_argument("--no-config", action="store_true", help="ignore what config.toml adds to the flags")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = list(map(str, action.choices))
        near = nearest(str(value), choices)
        meant = f"; did you mean {near}?" if near else ""
        shown = repr(value) if len(str(value)) <= 20 else "this"  # a key may have been typed in the wrong place
        raise argparse.ArgumentError(action, f"{shown} is not one of {', '.join(choices)}{meant}")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}{'' if message.endswith('?') else '.'} See: {self.prog} --help")


class _Formatter(argparse.HelpFormatter):
    """A page of help, COLUMNS wide. What is indented in a description, as an example, keeps its lines."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{**options, "max_help_position": 26, "width": COLUMNS})

    def _format_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None) -> str:
        if usage is None:
            return super()._format_usage(usage, actions, groups, prefix)
        return "\n       ".join(_filled(f"usage: {usage}", COLUMNS - len("usage: "))) + "\n\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in folded(text.strip(), width - len(indent)))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return folded(text, width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Name the value once, behind all names of the flag, as Python does from 3.13 on."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


def folded(text: str, width: int) -> list[str]:
    """Return `text` in lines of at most `width` columns, unless a single word is longer.

    Paragraphs that begin at the margin are filled anew. A line that is indented stays, or is broken where its second
    column begins, two spaces or more behind the first (an example, and what it is for).
    """
    lines: list[str] = []
    fills = False
    for line in text.split("\n"):
        line = line.rstrip()
        if line.startswith(" ") and len(line) > width:
            lines += _in_columns(line, width)
        elif not line or line.startswith(" "):
            lines.append(line)
        else:
            more = _filled(f"{lines.pop()} {line}" if fills else line, width)
            lines += more
        fills = bool(line) and not line.startswith(" ")
    return lines


def _filled(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return lines


def _in_columns(line: str, width: int) -> list[str]:
    indent = len(line) - len(line.lstrip())
    first, gap, second = line.strip().partition("  ")
    if not gap:
        first, *more = _filled(first, width - indent - 6)
        lines = [
            f"{first} \\" if more else first,
            *(f"    {part} \\" for part in more[:-1]),
            *(f"    {part}" for part in more[-1:]),
        ]
        return [" " * indent + part for part in lines]
    column = len(line) - len(second.lstrip())
    if width - column >= max(30, *map(len, second.split())):
        first, *more = _filled(second, width - column)
        return [line[:column] + first, *(" " * column + part for part in more)]
    return [" " * indent + first, *(" " * (indent + 6) + part for part in _filled(second, width - indent - 6))]


def parse(argv: Sequence[str]) -> tuple[ModuleType, argparse.Namespace]:
    """Return the verb's module and its arguments.

    arguments.command: what stands behind `--`. arguments.configured: the flags that config.toml added, to be shown.
    Raises UsageError. Exits with 0 after --help and --version.
    """
    argv = list(argv)
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    if not argv or argv[0] not in VERBS:
        _top_level(argv)
    module, parser = parser_of(argv[0])
    flags, separator, command = _split(argv[1:])
    flags, configured = _with_config(argv[0], parser, flags)
    arguments = argparse.Namespace()
    unknown = _parse(parser, flags, arguments)
    if unknown:
        raise _unknown(unknown[0], argv[0], parser, flags)
    arguments.command = command if separator else None
    arguments.configured = configured
    return module, arguments


def parser_of(verb: str) -> tuple[ModuleType, Parser]:
    """Return the module of a verb, and what parses its flags."""
    module = import_module(VERBS[verb][0])
    parser = Parser(prog=f"nono {verb}", description=module.__doc__)
    module.add_arguments(parser)
    return module, parser


def action_of(parser: argparse.ArgumentParser, flags: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of the action that comes first in `flags` (nono profile LIST), or that of the verb itself."""
    return actions_of(parser).get(flags[0] if flags else "", parser)


def actions_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each action of a verb, by name; none where the verb has no actions."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def parse_count(text: str) -> int:
    """Return the count that `text` writes."""
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise argparse.ArgumentTypeError(f"{text!r} is not a count")
    return int(text)


def _with_config(verb: str, parser: Parser, flags: list[str]) -> tuple[list[str], Configured | None]:
    """Return the flags with those of the user's config.toml before them, and what these were."""
    path = config_path(os.environ)
    if not path or not os.path.lexists(path) or "-h" in flags or "--help" in flags:
        return flags, None
    found: Configured = import_module("nono.cli.config").configured(path, verb, parser, flags, tuple(VERBS))
    at = 1 if actions_of(parser) else 0  # behind the name of the action
    return [*flags[:at], *found.words, *flags[at:]], found


def config_path(environment: Mapping[str, str]) -> str:
    """Return where the user's config.toml would be; "" without a home."""
    base = environment.get("XDG_CONFIG_HOME", "")
    if not base.startswith("/"):
        home = environment.get("HOME", "")
        if not home.startswith("/"):
            return ""
        base = f"{home}/.config"
    return os.path.normpath(f"{base}/nono/config.toml")


def _unknown(word: str, verb: str, parser: Parser, flags: list[str]) -> UsageError:
    if not word.startswith("-"):
        if actions_of(parser):
            return UsageError(f"unknown argument '{word}'. See: nono {verb} --help")
        if verb == "why":
            return UsageError(f"unknown argument '{word}'. Ask about a path with: nono why --path {word}")
        if verb in _WITH_COMMAND:
            runs = "run" if verb == "shell" else verb
            return UsageError(f"unknown argument '{word}'. A command to run stands behind --: nono {runs} -- {word}")
        return UsageError(f"unknown argument '{word}'. See: nono {verb} --help")
    word = word.partition("=")[0]
    names = [name for name in action_of(parser, flags)._option_string_actions if name.startswith("--")]
    near = nearest(word, names)
    hint = f"; did you mean {near}?" if near else "."
    return UsageError(f"unknown flag '{word}'{hint} See: nono {verb} --help")


def _split(argv: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in argv:
        return argv, False, []
    at = argv.index("--")
    return argv[:at], True, argv[at + 1 :]


def _parse(parser: Parser, flags: list[str], arguments: argparse.Namespace) -> list[str]:
    """Parse the flags into `arguments`; return what is unknown.

    argparse takes 6 µs for a flag. Of long runs of flags that only add their value to a list, it is not asked.
    """
    plain = {} if len(flags) < _PARSED_AT_ONCE else _plain_flags(parser)
    unknown: list[str] = []
    begin = at = 0
    while at < len(flags):
        added, end = _plain_run(flags, at, plain)
        if end - at < _PLAIN_AT_ONCE:
            at = max(end, at + 1)
            continue
        for part in _parts(flags[begin:at]):
            unknown += parser.parse_known_args(part, arguments)[1]
        for dest, values in added.items():
            setattr(arguments, dest, [*getattr(arguments, dest), *values])
        begin = at = end
    for part in _parts(flags[begin:]):
        unknown += parser.parse_known_args(part, arguments)[1]
    return unknown


def _plain_flags(parser: Parser) -> dict[str, str]:
    """Return where the flags put their value that add it to a list as it stands, by their long names."""
    return {
        name: action.dest
        for name, action in parser._option_string_actions.items()
        if name.startswith("--")
        and isinstance(action, argparse._AppendAction)
        and action.nargs is action.type is action.choices is None
    }


def _plain_run(flags: list[str], at: int, plain: dict[str, str]) -> tuple[dict[str, list[str]], int]:
    """Return what a run of plain flags, from `at` on, adds to each list, and where it ends.

    Only spellings in which argparse sees that flag and that value, whatever stands around them.
    """
    added: dict[str, list[str]] = {}
    while at < len(flags):
        name, equals, value = flags[at].partition("=")
        if name not in plain:
            break
        if not equals:
            if at + 1 == len(flags) or flags[at + 1].startswith("-"):
                break
            at += 1
            value = flags[at]
        added.setdefault(plain[name], []).append(value)
        at += 1
    return added, at


def _parts(flags: list[str]) -> Iterator[list[str]]:
    """Yield the flags, of very many of them some at a time: argparse looks at all of them for each of them.

    A part ends before what argparse cannot take for the value of the flag before it. Verbs that take anything but flags
    are never given so many words.
    """
    begin = 0
    for at, word in enumerate(flags):
        if at - begin >= _PARSED_AT_ONCE and word.startswith("--") and " " not in word:
            yield flags[begin:at]
            begin = at
    yield flags[begin:]


def _top_level(argv: list[str]) -> NoReturn:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items())
    parser = Parser(
        prog="nono",
        usage="nono VERB [flags]",
        description="Run an AI agent that holds no real key and touches only what you granted.",
        epilog=f"verbs:\n{verbs}\n\nnono VERB --help tells about each of them.",
    )
    parser.add_argument_group("about").add_argument(
        "--version", action="version", version=f"nono {__version__}", help="show the version and exit"
    )
    if argv and not argv[0].startswith("-"):
        near = nearest(argv[0], VERBS)
        if near:
            raise UsageError(f"unknown verb '{argv[0]}'; did you mean {near}? See: nono --help")
        raise UsageError(
            f"unknown verb '{argv[0]}'. The verbs are: {', '.join(VERBS)}; to run a command: nono run -- {argv[0]}"
        )
    flags, (verb, *_) = _split(argv)[0], (*(word for word in argv if word in VERBS), "")
    if verb and not {"-h", "--help", "--version"}.intersection(flags):
        raise UsageError(f"flags stand behind the verb: nono {verb} {argv[0]}. See: nono {verb} --help")
    parser.parse_args(argv)
    raise UsageError("say what to do, e.g.: nono run --allow-cwd -- COMMAND. See: nono --help")
