"""Store, check, list and remove the keys that `nono run --credential NAME` uses.

NAME is a provider (openai, anthropic, gemini, google-ai, github, gitlab) or the name of a key that a profile uses. The
key is asked for without showing it, or read from standard input; it is never an argument.

stores:
  secret-service  the desktop's keystore, encrypted (the default; on macOS the Keychain)
  session         the kernel's keyring of this user: in memory, until reboot
  file            a private file in nono's state directory, not encrypted

examples:
  nono credential set openai                    ask for the key, store it in the keystore
  nono credential set openai --store file       for a machine that has no keystore
  pass show openai | nono credential set openai
  nono credential get-status openai             whether there is one, never what it is; exit status 0 or 1
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from nono.cli.args import Parser
from nono.credentials import entry, reference, stores, validation
from nono.credentials.stores import SECRET_SERVICE_STORE, STORES, Stores
from nono.errors import CredentialError, UsageError
from nono.kernel import process
from nono.policy.network import builtin_routes


class _ActionParser(Parser):
    """Refuses what is left over without quoting it: after NAME, that is a key."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        known, left_over = super().parse_known_args(args, namespace)
        if any(not text.startswith("-") for text in left_over):
            raise UsageError(
                "a key is never an argument, for every process of the machine can read it there: replace that key, and "
                f"enter the new one when asked. See: {self.prog} --help"
            )
        if left_over:
            self.error(f"unknown flag {left_over[0].partition('=')[0]}")
        return known, left_over


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of `nono credential` and their flags."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_ActionParser)
    for action, text in {
        "set": "store a key, replacing the one before",
        "get-status": "say whether there is a key, and where",
        "list": "list the names of all keys",
        "remove": "remove a key",
    }.items():
        of_action = actions.add_parser(action, help=text, description=text)
        if action != "list":
            of_action.add_argument("name", metavar="NAME", help="a provider, or the name of a key")
        default = "" if action == "set" else " (default: where `set` put it)"
        if action == "list":
            default = " (default: all of them)"
        of_action.add_argument("--store", choices=STORES, help=f"the store{default}")


def run(arguments: argparse.Namespace) -> int:
    """Do what `arguments` say; return the exit status. Raises NonoError."""
    if sys.platform == "linux":
        process.set_dumpable(False)
    where = Stores(stores.state_home())
    if arguments.action == "list":
        return _list(where, arguments.store)
    name = _key_name(arguments.name)
    if arguments.action == "set":
        return _set(where, name, arguments.name, arguments.store or SECRET_SERVICE_STORE)
    store = arguments.store or where.chosen(name)
    if arguments.action == "remove":
        return _remove(where, name, arguments.name, store)
    return _get_status(where, name, arguments.name, store)


def _key_name(text: str) -> str:
    """Return the name of the key that `text`, a provider or a name, stands for. Raises UsageError."""
    route = builtin_routes().get(text)
    parsed = reference.parse(route.credential_key if route else text)
    if parsed.scheme != reference.NAME:
        raise UsageError(
            f"'{text}' reads its key from {parsed.scheme}://, which is not nono's to change; give the name of a key"
        )
    return parsed.name


def _set(where: Stores, name: str, set_name: str, store: str) -> int:
    buffer, length = entry.read(f"key for {set_name} (not shown): ")
    with buffer:
        with buffer.view[:length] as raw:
            length = validation.check(raw, "key", "nothing was stored")
        with buffer.view[:length] as secret:
            removed_from = where.put(name, store, secret, set_name)
    print(f"stored '{name}' in {where.label(store)}")
    if removed_from:
        print(f"removed the one before from {where.label(removed_from)}")
    return 0


def _get_status(where: Stores, name: str, set_name: str, store: str) -> int:
    status = where.status(name, store, set_name)
    if not status:
        raise _absent(where, name, set_name, store)
    print(f"'{name}' is in {where.label(store)}" + (" (locked)" if status == "locked" else ""))
    return 0


def _remove(where: Stores, name: str, set_name: str, store: str) -> int:
    if not where.remove(name, store, set_name):
        raise _absent(where, name, set_name, store)
    print(f"removed '{name}' from {where.label(store)}")
    return 0


def _list(where: Stores, store: str | None) -> int:
    """Print a line for each key; a store that does not work here is named on stderr, and is an error if asked for."""
    rows = []
    for each in [store] if store else STORES:
        try:
            rows += [(name, each) for name in where.names(each)]
        except CredentialError as exc:
            if store:
                raise
            sys.stderr.write(f"nono: {exc}\n")
    width = max((len(name) for name, _ in rows), default=0)
    for name, each in sorted(rows):
        shown = name if name.isprintable() else ascii(name)  # other programs may store here, too
        print(f"{shown:<{width}}  {each}" + ("" if where.chosen(name) == each else "  (not in use)"))
    if not rows:
        sys.stderr.write("nono: no keys are stored. Store one with: nono credential set openai\n")
    return 0


def _absent(where: Stores, name: str, set_name: str, store: str) -> CredentialError:
    flag = "" if store == SECRET_SERVICE_STORE else f" --store {store}"
    return CredentialError(
        f"no credential '{name}' in {where.label(store)}. Store it with: nono credential set {set_name}{flag}"
    )
