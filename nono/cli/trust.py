"""Sign the files that instruct an agent, and see whether they are what somebody whom you trust has signed.

SKILL.md, CLAUDE.md, AGENTS.md and their like are code for agents. A trust-policy.json says which files must be signed,
and by whom; nono run checks them before the agent starts, and the agent cannot change them. Your own signing key is
made once; its private half stays in the desktop's keystore, or in a file that only you can read. docs/trust.md tells
all about it.

examples:
  nono trust keygen                              once: your signing key
  nono trust init --include CLAUDE.md --include '**/SKILL.md'
  nono trust sign-policy                         what it says holds from here on
  nono trust sign --all                          each file that the policy names
  nono trust verify --all                        exit status 1 where nono run would refuse
  nono trust keygen --keyref file://$HOME/.config/nono/trust/key.pem      without a keystore
"""

from __future__ import annotations

import argparse
from importlib import import_module

from nono.cli.args import Parser
from nono.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# An action is a module of nono/cli/trusts, imported when it is called for.
ACTIONS = {
    "init": ("init", "make a trust-policy.json here, with your own key as its publisher"),
    "keygen": ("keygen", "make a signing key"),
    "sign": ("sign", "sign files; the signature is put beside each, as FILE.bundle"),
    "sign-policy": ("sign_policy", "sign a policy, after each change of it"),
    "verify": ("verify", "say whether files are signed by whom the policy trusts"),
    "list": ("listing", "list the files that the policies name, and how each stands"),
    "export-key": ("export_key", "print the public half of a key, for the policies of others"),
}
_KEYREF = "the key: keystore://ID, or file:///PATH of a private file"


class _ActionParser(Parser):
    """Takes files also behind flags, and says what became of a pattern that the shell made files of."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        known, left_over = super().parse_known_args(args, namespace)
        words = [word for word in left_over if not word.startswith("-")]
        if words and self.prog.endswith(" init"):
            raise UsageError(
                "--include takes one pattern, in quotes, so that the shell leaves it as it is: --include '**/*.md'"
            )
        if isinstance(getattr(known, "file", None), list):
            known.file += words
            left_over = [word for word in left_over if word.startswith("-")]
        return known, left_over


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of `nono trust`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_ActionParser)
    of = {name: actions.add_parser(name, help=text, description=text) for name, (_, text) in ACTIONS.items()}
    for name in ("init", "sign", "sign-policy"):
        of[name].add_argument("--key", metavar="ID", help="the key, by its ID in the keystore (default: default)")
        of[name].add_argument("--keyref", metavar="REF", help=_KEYREF)
    for name in ("keygen", "export-key"):
        of[name].add_argument("--id", metavar="ID", help="the key's ID in the keystore (default: default)")
        of[name].add_argument("--keyref", metavar="REF", help=_KEYREF)
    of["init"].add_argument(
        "--include", action="append", default=[], metavar="PATTERN", help="files that must be signed (repeatable)"
    )
    of["init"].add_argument("--user", action="store_true", help="your own policy, which holds in every project")
    of["init"].add_argument("--force", action="store_true", help="replace the policy that is there")
    of["keygen"].add_argument("--force", action="store_true", help="replace the key that is there: it is lost")
    of["keygen"].add_argument(
        "--adopt", action="store_true", help="make none: take the one that is there, of another tool or machine, as own"
    )
    for name in ("sign", "verify"):
        of[name].add_argument("file", nargs="*", metavar="FILE", help=f"to {name}")
        of[name].add_argument("--all", action="store_true", help="all files that the policies name")
    of["sign"].add_argument("--multi-subject", action="store_true", help="one .nono-trust.bundle for all of them")
    of["sign"].add_argument(
        "--keyless", action="store_true", help="by Sigstore, as the identity that your CI job has; without a key"
    )
    of["sign-policy"].add_argument("file", nargs="?", metavar="FILE", help="the policy (default: trust-policy.json)")
    of["sign-policy"].add_argument("--user", action="store_true", help="your own policy")
    for name in ("sign", "verify", "list"):
        of[name].add_argument("--policy", metavar="FILE", help="this policy, and no other; signed or not")
        of[name].add_argument("--trusted-root", metavar="FILE", help="the roots of Sigstore to verify by (JSON)")
    of["export-key"].add_argument("--pem", action="store_true", help="as PEM (default: base64 of the DER)")
    for name in ACTIONS:
        of[name].add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Do what `arguments` say; return the exit status."""
    status: int = import_module(f"nono.cli.trusts.{ACTIONS[arguments.action][0]}").run(arguments)
    return status
