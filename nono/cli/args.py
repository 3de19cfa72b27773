"""The command line: argv in, a parsed namespace or a UsageError out.

One table of verbs. A verb's module is imported when it is called for, by name: `nono run` must not pay for what `nono
credential` needs. A command to run stands behind `--` and is never looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import ModuleType

from nono import __version__
from nono.errors import UsageError

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
    from typing import Any, NoReturn

VERBS = {
    "run": ("nono.cli.run", "run a command in the sandbox, with the proxy beside it"),
    "shell": ("nono.cli.shell", "start your shell in the sandbox"),
    "proxy": ("nono.cli.proxy", "run the proxy alone, for an agent isolated by other means"),
    "credential": ("nono.cli.credential", "store, check, list and remove keys in the keystore"),
    "profile": ("nono.cli.profile", "list the groups of hosts that network profiles are made of"),
    "setup": ("nono.cli.setup", "say what this machine offers, and what would enable more"),
    "demo": ("nono.cli.demo", "see the whole of it work, in seconds, without a network"),
}

_PARSED_AT_ONCE = 25  # words


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is an error of ours: one sentence, status 2, no page of usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False, **options
        )
        # In a group, because argparse tries a formatter on what is added to the parser itself: shutil, lzma, 2.5 ms.
        self.add_argument_group("options").add_argument("-h", "--help", action="help", help="show this help and exit")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See: {self.prog} --help")


def parse(argv: Sequence[str]) -> tuple[ModuleType, argparse.Namespace]:
    """Return the verb's module and its arguments; what stands behind `--` is `arguments.command`.

    Raises UsageError. Exits with 0 after --help and --version.
    """
    argv = list(argv)
    if not argv or argv[0] not in VERBS:
        _top_level(argv)
    module = import_module(VERBS[argv[0]][0])
    flags, separator, command = _split(argv[1:])
    parser = Parser(prog=f"nono {argv[0]}", description=module.__doc__)
    module.add_arguments(parser)
    arguments, unknown = argparse.Namespace(), []
    for part in _parts(flags):
        unknown += parser.parse_known_args(part, arguments)[1]
    if unknown:
        word = unknown[0]
        hint = (
            f"See: nono {argv[0]} --help"
            if word.startswith("-")
            else f"A command to run stands behind --: nono run -- {word}"
        )
        raise UsageError(f"unknown {'flag' if word.startswith('-') else 'argument'} '{word}'. {hint}")
    arguments.command = command if separator else None
    return module, arguments


def _split(argv: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in argv:
        return argv, False, []
    at = argv.index("--")
    return argv[:at], True, argv[at + 1 :]


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
    parser.add_argument("--version", action="version", version=f"nono {__version__}")
    if argv and not argv[0].startswith("-"):
        raise UsageError(f"unknown verb '{argv[0]}'. The verbs are: {', '.join(VERBS)}")
    parser.parse_args(argv)
    raise UsageError("say what to do, e.g.: nono run --allow-cwd -- COMMAND. See: nono --help")
