"""Start your shell in the sandbox, with the proxy beside it: what `nono run -- $SHELL` does.

The shell is the one that $SHELL names, else the one of your account. Its history and settings stay closed, as they are
for every agent, so it starts plain.

examples:
  nono shell --allow-cwd                      look around as an agent would
  nono shell -p claude-code                   with exactly the rights of a profile
"""

from __future__ import annotations

import argparse
import os
import pwd

from nono.cli.run import add_run_arguments, start
from nono.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `nono shell`."""
    parser.usage = "nono shell [flags]"
    add_run_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the shell; return its exit status."""
    if arguments.command is not None:
        raise UsageError("nono shell takes no command. To run one: nono run -- COMMAND")
    return start(arguments, (_shell(),))


def _shell() -> str:
    shell = os.environ.get("SHELL", "")
    if shell.startswith("/"):
        return shell
    try:
        return pwd.getpwuid(os.getuid()).pw_shell or "/bin/sh"
    except KeyError:
        return "/bin/sh"
