"""The flags of policy: what `nono run`, `nono shell`, `nono why` and their like share, and the Request they make.

One table of flags, so that a verb that explains, shows or records what another would do takes the same words for it.
"""

from __future__ import annotations

import argparse
import os

from nono.errors import UsageError
from nono.policy.capabilities import SANDBOX_AUTO, SANDBOXES
from nono.policy.network import NETWORK_PROFILES
from nono.policy.paths import is_directory_name
from nono.policy.resolve import PATH_FIELDS, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
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


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare every flag that says what a run may do: see policy_request()."""
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
    add_trust_arguments(parser.add_argument_group("signed files"))
    other = parser.add_argument_group("the wall")
    other.add_argument(
        "--sandbox",
        choices=SANDBOXES,
        default=SANDBOX_AUTO,
        help="which wall: namespace, notify where there are no namespaces (auto: the first of these that works), or "
        "landlock, which leaks",
    )
    other.add_argument("--accept-leaks", action="store_true", help="run although --sandbox landlock leaks")


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


def add_trust_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the flags about files that instruct an agent, where a trust-policy.json says that they are signed."""
    parser.add_argument(
        "--trust-override",
        action="store_true",
        help="start although files are not signed as the policy wants it; not for blocked ones. To be typed each time",
    )
    parser.add_argument(
        "--skip-dir",
        action="append",
        default=[],
        metavar="NAME",
        help="look for signed files in no directory of this name, anywhere in the tree",
    )


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
    parser.add_argument(
        "--extends",
        action="append",
        default=[],
        metavar="NAME|FILE",
        help="take them from this profile, too; where both say something, the one of --profile counts",
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
        extends=tuple(arguments.extends),
    )


def policy_request(arguments: argparse.Namespace) -> Request:
    """Return the request of the flags of add_policy_arguments(). Raises UsageError for a pattern in --deny."""
    for name in arguments.skip_dir:
        if not is_directory_name(name):
            raise UsageError(f"--skip-dir {name}: expected the name of a directory, without a path and without *")
    for text in arguments.deny:
        if "*" in text and not os.path.lexists(os.path.expanduser(text)):
            raise UsageError(
                f"--deny {text}: nothing has this name, and nono expands no * in paths, because files that come later "
                "would not be covered; name the directory, or each file"
            )
    paths: dict[str, Any] = {field: tuple(getattr(arguments, field)) for field, _, _ in PATH_FIELDS}
    return network_request(arguments)._replace(
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
        trust_override=arguments.trust_override,
        skip_dir=tuple(arguments.skip_dir),
        env_credential=tuple(name.strip() for names in arguments.env_credential for name in names.split(",")),
        env_credential_map=tuple((source, variable) for source, variable in arguments.env_credential_map),
    )


def parse_port(text: str) -> int:
    """Return the port that `text` writes."""
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not a port (1 to 65535)")
    return int(text)
