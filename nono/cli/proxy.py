"""Run the credential proxy alone, for an agent that is isolated by other means (a container, a virtual machine).

It listens on this machine's loopback and prints the variables that the agent needs, then serves until it is ended.
Nothing is sandboxed here: whoever gets the token, and reaches the port, can use the routes.

Where TLS is intercepted (github, gitlab), variables as SSL_CERT_FILE name a bundle of certificates: give the container
that file under the same path. It is removed when the proxy ends.

examples:
  nono proxy --credential openai > agent.env
  nono proxy --profile my-agent --json        one line: {"port": …, "env": {…}}
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping

from nono.cli import render
from nono.cli.flags import (
    add_credential_arguments,
    add_host_arguments,
    add_upstream_arguments,
    network_request,
    parse_port,
)
from nono.cli.live import LiveView
from nono.session import serve as session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `nono proxy`."""
    parser.usage = "nono proxy [flags]"
    add_credential_arguments(parser)
    add_host_arguments(parser)
    add_upstream_arguments(parser)
    parser.add_argument("--port", type=parse_port, default=0, metavar="N", help="listen on 127.0.0.1:N (default: any)")
    parser.add_argument("-v", "--verbose", action="store_true", help="show each request on stderr when it has ended")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of NAME=VALUE lines")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP; return 0."""

    def ready(port: int, variables: Mapping[str, str]) -> None:
        if arguments.json:
            text = json.dumps({"port": port, "env": dict(variables)}) + "\n"
        else:
            text = "".join(f"{name}={value}\n" for name, value in variables.items())
        print(text, end="", flush=True)

    order = session.ServeOrder(network_request(arguments), arguments.profile, arguments.port)
    if not arguments.verbose:
        return session.serve(order, os.environ, ready, render.notice)
    with LiveView() as live:
        return session.serve(order, os.environ, ready, render.notice, live.show)
