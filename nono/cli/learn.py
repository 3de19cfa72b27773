"""Run a command once, with what it uses recorded, and write a profile to review.

The command may read everything that no group protects (~/.ssh, browsers' data and the like stay closed), and reach any
public host through the proxy: whatever it reads, it could send. So learn with a command that you trust, or with
--block-net. It writes only where the flags allow it, by default in the working directory. What it wanted and was denied
stands in the profile as a comment, with the line that would grant it.

examples:
  nono learn -- python report.py               writes ~/.config/nono/profiles/python-learned.jsonc
  nono learn --name report -- python report.py
  nono learn --block-net -o report.jsonc -- make
  nono run -p report -- python report.py       with what was learned
"""

from __future__ import annotations

import argparse
import os
import shlex

from nono.cli import render
from nono.cli.flags import add_policy_arguments, policy_request
from nono.cli.messages import Messages, add_message_arguments
from nono.cli.new_file import NewFile
from nono.errors import UsageError
from nono.policy.capabilities import NETWORK_BLOCKED
from nono.policy.quantities import counted
from nono.policy.verdict import show
from nono.session import learn
from nono.session.policy import Order
from nono.supervisor.whereabouts import find_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.session.summary import Summary

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `nono learn`."""
    parser.usage = "nono learn [flags] -- COMMAND [ARGUMENT …]"
    written = parser.add_argument_group("the profile")
    written.add_argument("-o", "--output", metavar="FILE", help="write it to FILE")
    written.add_argument(
        "--name", metavar="NAME", help="write it to where -p NAME finds it (default: COMMAND-learned); not with -o"
    )
    written.add_argument("--force", action="store_true", help="also over a file that is there")
    add_policy_arguments(parser)
    add_message_arguments(parser.add_argument_group("other"))


def run(arguments: argparse.Namespace) -> int:
    """Run the command and write the profile; return the command's exit status."""
    if not arguments.command:
        raise UsageError("no command to learn from. Write it behind --, e.g.: nono learn -- python report.py")
    if arguments.output is not None and arguments.name is not None:
        raise UsageError("-o and --name both say where the profile goes; leave one of them out")
    argv = tuple(arguments.command)
    place = find_place(arguments.workdir, os.environ)
    name = arguments.name if arguments.name is not None else f"{_stem(argv[0])}-learned"
    if arguments.output is None:
        if not name or not _NAME.issuperset(name) or name[0] in "-.":
            raise UsageError(f"--name {name}: a profile's name is made of letters, digits, '-', '_' and '.'")
        path = os.path.join(place.profiles, f"{name}.jsonc")
        if arguments.name is not None and os.path.lexists(os.path.join(place.profiles, f"{name}.json")):
            raise UsageError(f"--name {name}: there is a profile {name}.json, which -p {name} would find first")
    else:
        path = os.path.abspath(arguments.output)
        name = os.path.basename(path).rpartition(".")[0] or os.path.basename(path)
    request = policy_request(arguments)
    request = request._replace(
        every_public_host=True,
        allow_cwd=request.allow_cwd or learn.has_own_workdir(place),
    )
    order = Order(
        argv=argv,
        request=request,
        profile=arguments.profile,
        workdir=arguments.workdir,
        proxy_port=arguments.proxy_port,
    )
    home = render.home_of(os.environ)
    with (
        Messages(silent=arguments.silent, log_file=arguments.log_file) as messages,
        NewFile(path, over=arguments.force, make_directory=arguments.output is None) as file,
    ):

        def tell(what: Summary) -> None:
            own = tuple(grant for grant in what.grants if grant.origin != learn.ORIGIN)
            rows = render.summary(what._replace(grants=own), home, verbose=arguments.verbose > 0)
            messages.rows([_warning(what), ("read", "everything that is not protected"), *_with_network(rows, what)])

        status, found = learn.carry_out(order, os.environ, tell, messages.notice)
        if found is not None:
            written = file.write(learn.profile(found, name, order))
            messages.rows(_summary(found, written, arguments.output is None and written == path, name, argv))
    return status


def _stem(command: str) -> str:
    """Return what the profile of a command is called: its name, as far as a file's name may hold it."""
    stem = "".join(character if character in _NAME else "-" for character in os.path.basename(command)).lstrip("-.")
    return stem or "command"


def _warning(what: Summary) -> tuple[str, str]:
    blocked = what.capabilities.network == NETWORK_BLOCKED
    where = "it has no network" if blocked else "whatever it reads it could send to any public host (or --block-net)"
    return "warning", f"learning: the command may read everything that is not protected; {where}"


def _with_network(rows: list[tuple[str, str]], what: Summary) -> list[tuple[str, str]]:
    """Return the rows of the summary with the network that learning gives, in its place: behind the paths."""
    if what.capabilities.network == NETWORK_BLOCKED:
        return rows
    paths = ("", "read", "write", "read+write", "denied", "read-only", "unprotected", "socket")
    at = next((index for index, (label, _) in enumerate(rows) if label not in paths), len(rows))
    rest = [
        ("", f"and  {text.removeprefix('only ')}") if label == "network" else (label, text) for label, text in rows[at:]
    ]
    return [*rows[:at], ("network", "any public host, through the proxy"), *rest]


def _summary(found: learn.Found, path: str, is_named: bool, name: str, argv: tuple[str, ...]) -> list[tuple[str, str]]:
    learned, hosts = found.learned, found.hosts
    denied = len(learned.wanted) + learned.left_out + len(hosts.refused) + len(found.sockets)
    counts = f"{counted(len(learned.lines), 'path')}, {counted(len(hosts.allowed), 'host')}"
    if hosts.credentials:
        counts += f", {counted(len(hosts.credentials), 'credential')}"
    if denied:
        counts += f"; {counted(denied, 'thing')} wanted but denied, as comments"
    rows = [("learned", f"{counts}. Read it before you use it")]
    rows += [("note", render.printable(note)) for note in found.notes]
    rows.append(("profile", render.printable(show(path, found.place))))
    use = name if is_named else shlex.quote(path)
    command = shlex.quote(argv[0]) + (" …" if len(argv) > 1 else "")
    rows.append(("use", f"nono run -p {render.printable(use)} -- {render.printable(command)}"))
    return rows
