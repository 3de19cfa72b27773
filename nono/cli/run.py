"""Run a command in the sandbox, with the proxy beside it.

The agent holds a token of this session in the place of each key; the proxy puts the real key in on the way out. It
touches only the paths that are granted here. Its output is its own: nono writes to stderr only, before it starts, and
after its end what was refused that a flag would grant.

examples:
  nono run --allow-cwd -- bash                                 a shell that may change this directory only
  nono run --allow-cwd --credential openai -- python agent.py  an agent that never sees the key
  nono run --allow-cwd --network-profile claude-code --credential anthropic -- claude
  nono run --read ~/notes --block-net -- python report.py      no network at all
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module

from nono.cli import render
from nono.errors import UsageError
from nono.policy.capabilities import SANDBOX_AUTO, SANDBOXES
from nono.policy.network import NETWORK_PROFILES
from nono.policy.resolve import PATH_FIELDS, Request
from nono.session import run as session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_PATH_HELP = {
    "allow": ("DIR", "read and write this directory"),
    "read": ("DIR", "read this directory"),
    "write": ("DIR", "write this directory"),
    "allow_file": ("FILE", "read and write this file"),
    "read_file": ("FILE", "read this file"),
    "write_file": ("FILE", "write this file"),
}
_SHORT = {"allow": ["-a"], "read": ["-r"], "write": ["-w"]}


VERBOSE_HELP = "list every path and variable in the summary; show each request of the agent's when it has ended"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `nono run`."""
    parser.usage = "nono run [flags] -- COMMAND [ARGUMENT …]"
    paths = parser.add_argument_group("paths")
    for field, _, _ in PATH_FIELDS:
        metavar, text = _PATH_HELP[field]
        flags = [*_SHORT.get(field, []), "--" + field.replace("_", "-")]
        paths.add_argument(*flags, dest=field, action="append", default=[], metavar=metavar, help=text)
    paths.add_argument("--allow-cwd", action="store_true", help="read and write the working directory")
    paths.add_argument("--workdir", metavar="DIR", help="start the command in DIR instead of here")
    add_protection_arguments(paths)
    network = parser.add_argument_group("network and keys")
    add_credential_arguments(network)
    add_host_arguments(network)
    add_upstream_arguments(network)
    network.add_argument("--block-net", action="store_true", help="no network at all")
    network.add_argument(
        "--open-port",
        type=parse_port,
        action="append",
        default=[],
        metavar="N",
        help="let the agent reach 127.0.0.1:N of this machine, at the same address",
    )
    network.add_argument(
        "--listen-port",
        type=parse_port,
        action="append",
        default=[],
        metavar="N",
        help="let this machine's programs reach the agent's server on port N, at 127.0.0.1:N",
    )
    network.add_argument(
        "--proxy-port", type=parse_port, metavar="N", help="the proxy's port, inside the sandbox (default: any)"
    )
    add_secret_arguments(network)
    add_limit_arguments(parser.add_argument_group("limits"))
    other = parser.add_argument_group("other")
    other.add_argument(
        "--sandbox",
        choices=SANDBOXES,
        default=SANDBOX_AUTO,
        help="which wall: namespace, notify where there are no namespaces (auto: the first of these that works), or "
        "landlock, which leaks",
    )
    other.add_argument("--accept-leaks", action="store_true", help="run although --sandbox landlock leaks")
    other.add_argument("--dry-run", action="store_true", help="print what would be applied, start nothing")
    other.add_argument("-v", "--verbose", action="count", default=0, help=VERBOSE_HELP)
    other.add_argument("-s", "--silent", action="store_true", help="no summary, before or after")


def add_protection_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the flags that deny paths, and that open what is denied."""
    parser.add_argument(
        "--deny", action="append", default=[], metavar="PATH", help="keep this closed, whatever is granted around it"
    )
    parser.add_argument(
        "--bypass-protection",
        action="append",
        default=[],
        metavar="PATH",
        help="lift the built-in protection of this path, and of no other in the same directory; it still has to be "
        "granted (--bypass-protection ~/.aws/config --read-file ~/.aws/config)",
    )
    parser.add_argument(
        "--allow-unix-socket",
        action="append",
        default=[],
        metavar="PATH|own",
        help="connect to this Unix socket; own: make sockets in directories that may be written, and connect to them",
    )


def add_secret_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the flags that hand real secrets to the agent."""
    parser.add_argument(
        "--env-credential",
        action="append",
        default=[],
        metavar="NAME[,…]",
        help="give the agent the real key NAME, in the variable of that provider (openai: OPENAI_API_KEY) or, for "
        "another stored key, of its name in upper case (my-key: MY_KEY); prefer --credential, which keeps it from it",
    )
    parser.add_argument(
        "--env-credential-map",
        action="append",
        default=[],
        nargs=2,
        metavar=("REF", "VAR"),
        help="the same, from any reference (NAME, keyring://SERVICE/ACCOUNT, file:///PATH …) into the variable VAR",
    )


def add_limit_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the flags that limit what the agent may use."""
    parser.add_argument("--memory", metavar="SIZE", help="of the agent and all it starts: 512M, 2G")
    parser.add_argument("--max-processes", metavar="N", help="how many processes and threads at a time")
    parser.add_argument("--timeout", metavar="TIME", help="end the agent after this long: 30, 10m, 2h")


def add_credential_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the flags that name credentials."""
    parser.add_argument(
        "--credential",
        "--proxy-credential",
        dest="credential",
        action="append",
        default=[],
        metavar="NAME",
        help="route to the provider NAME through the proxy, with its key (openai, anthropic, gemini, google-ai, "
        "github, gitlab, or a custom credential of the profile); the agent then reaches these routes only",
    )
    parser.add_argument(
        "-p", "--profile", metavar="NAME|FILE", help="take paths, routes and custom credentials from a profile"
    )


def add_host_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the flags that name hosts and requests."""
    parser.add_argument(
        "--network-profile",
        default="",
        metavar="NAME",
        help=f"let the agent connect to the hosts of {', '.join(NETWORK_PROFILES)}",
    )
    parser.add_argument(
        "--allow-domain",
        action="append",
        default=[],
        metavar="HOST|URL",
        help="let the agent connect to HOST (*.example.com: all that ends in it; HOST:PORT for another port than 443 "
        "and, without TLS, 80); https://HOST/PATH: only for paths like this (* is one segment, ** any number)",
    )
    parser.add_argument("--deny-domain", action="append", default=[], metavar="HOST", help="except this one")
    parser.add_argument(
        "--allow-endpoint",
        action="append",
        default=[],
        metavar="NAME:METHOD:/PATH",
        help="use the credential NAME for such requests only (github:GET:/repos/**; METHOD * is any)",
    )


def add_upstream_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the flags about the proxy of the operator's network."""
    parser.add_argument(
        "--upstream-proxy",
        default="",
        metavar="HOST:PORT",
        help="connect through this HTTP proxy (default: what HTTPS_PROXY and NO_PROXY say; 'direct': none)",
    )
    parser.add_argument(
        "--upstream-proxy-credential",
        default="",
        metavar="NAME",
        help="with the stored credential NAME, whose value is USER:PASSWORD",
    )
    parser.add_argument(
        "--upstream-bypass",
        action="append",
        default=[],
        metavar="HOST",
        help="connect to HOST without it (example.com: also all below; *.example.com; 10.0.0.0/8)",
    )


def network_request(arguments: argparse.Namespace) -> Request:
    """Return the request of the flags that `nono run` and `nono proxy` share."""
    return Request(
        credential=tuple(arguments.credential),
        allow_domain=tuple(arguments.allow_domain),
        deny_domain=tuple(arguments.deny_domain),
        network_profile=arguments.network_profile,
        allow_endpoint=tuple(arguments.allow_endpoint),
        upstream_proxy=arguments.upstream_proxy,
        upstream_proxy_credential=arguments.upstream_proxy_credential,
        upstream_bypass=tuple(arguments.upstream_bypass),
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    if not arguments.command:
        raise UsageError("no command to run. Write it behind --, e.g.: nono run --allow-cwd -- bash")
    paths: dict[str, Any] = {field: tuple(getattr(arguments, field)) for field, _, _ in PATH_FIELDS}
    order = session.Order(
        argv=tuple(arguments.command),
        request=network_request(arguments)._replace(
            **paths,
            allow_cwd=arguments.allow_cwd,
            block_net=arguments.block_net,
            open_port=tuple(arguments.open_port),
            listen_port=tuple(arguments.listen_port),
            sandbox=arguments.sandbox,
            accept_leaks=arguments.accept_leaks,
            deny=tuple(arguments.deny),
            bypass_protection=tuple(arguments.bypass_protection),
            allow_unix_socket=tuple(arguments.allow_unix_socket),
            memory=arguments.memory,
            max_processes=arguments.max_processes,
            timeout=arguments.timeout,
            env_credential=tuple(name.strip() for names in arguments.env_credential for name in names.split(",")),
            env_credential_map=tuple((source, variable) for source, variable in arguments.env_credential_map),
        ),
        profile=arguments.profile,
        workdir=arguments.workdir,
        proxy_port=arguments.proxy_port,
        dry_run=arguments.dry_run,
    )
    home = render.home_of(os.environ)

    def tell(what: session.Summary) -> None:
        if arguments.dry_run:
            print(render.plan(what, home), end="")
        elif not arguments.silent:
            render.to_stderr(render.summary(what, home, verbose=arguments.verbose > 0))

    def footer(reasons: Sequence[str]) -> None:
        if not arguments.silent:
            render.to_stderr(render.denied(reasons))

    if not arguments.verbose:
        return session.run(order, os.environ, tell, render.notice, footer=footer)
    with import_module("nono.cli.live").LiveView() as live:  # who does not watch does not wait for it
        status: int = session.run(order, os.environ, tell, render.notice, live.show, footer)
    return status


def parse_port(text: str) -> int:
    """Return the port that `text` writes."""
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not a port (1 to 65535)")
    return int(text)
