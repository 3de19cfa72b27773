"""Become a command, in the sandbox, with nobody beside it: no supervisor, so no proxy.

For a command that another program supervises already (a service manager, a pipeline). The process that was nono is the
command then: same number, same parent, same terminal. The network is open or, with --block-net, blocked; what takes a
supervisor (credentials, hosts, ports, limits, sockets) is refused. Its temporary directory, in TMPDIR, is removed by
the next nono wrap.

examples:
  nono wrap --allow-cwd --block-net -- make test
  exec nono wrap --read /srv/data -- ./worker
"""

from __future__ import annotations

import argparse
import os

from nono.cli import render
from nono.cli.flags import add_policy_arguments
from nono.cli.messages import Messages, add_message_arguments
from nono.cli.run import DRY_RUN, make_order, teller
from nono.errors import UsageError
from nono.session import wrap as session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `nono wrap`."""
    parser.usage = "nono wrap [flags] -- COMMAND [ARGUMENT …]"
    add_policy_arguments(parser)
    other = parser.add_argument_group("other")
    other.add_argument("--dry-run", action="store_true", help=DRY_RUN)
    add_message_arguments(other)


def run(arguments: argparse.Namespace) -> int:
    """Become the command; return 0 after a dry run."""
    if not arguments.command:
        raise UsageError("no command to become. Write it behind --, e.g.: nono wrap --allow-cwd -- make test")
    order = make_order(arguments, tuple(arguments.command))
    with Messages(silent=arguments.silent, log_file=arguments.log_file) as messages:
        tell = teller(arguments, messages, render.home_of(os.environ))
        return session.wrap(order, os.environ, tell, messages.notice)
