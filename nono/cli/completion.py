"""Print a script that completes nono's command line in your shell, made from the verbs and flags of this very version.

It completes verbs, flags, their values, and what stands behind `--`. Nothing that it finds on the disk is run; it reads
names of files and of your profiles, and no keystore.

examples:
  eval "$(nono completion bash)"                              in ~/.bashrc
  eval "$(nono completion zsh)"                               in ~/.zshrc, behind compinit
  nono completion fish > ~/.config/fish/completions/nono.fish
"""

from __future__ import annotations

import argparse
from importlib import import_module

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the argument of `nono completion`."""
    parser.usage = f"nono completion {'|'.join(SHELLS)}"
    parser.add_argument_group("arguments").add_argument(
        "shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the script; return 0."""
    words = import_module("nono.cli.complete.words").words()  # every verb is imported to make the script
    print(import_module(f"nono.cli.complete.{arguments.shell}").script(words), end="")
    return 0
