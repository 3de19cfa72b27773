"""`nono profile init`: a commented profile to start from, in the user's directory. Nothing is ever overwritten."""

from __future__ import annotations

import argparse
import json
import os
import shlex

from nono.cli import render
from nono.cli.complete.words import builtin_profiles
from nono.errors import PolicyError, UsageError
from nono.policy.paths import Place
from nono.supervisor.profiles import Profiles, is_file
from nono.supervisor.whereabouts import find_place

_FOR = {"claude": "claude-code", "gemini": "gemini-cli", "python": "python-dev", "python3": "python-dev"}
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_DEFAULT_NAME = "my-agent"

_TEXT = """\
// What a run may do: nono run -p %(name)s -- %(command)s
// docs/profiles.md describes each key. Check with: nono profile validate %(name)s
{
  "meta": {
    "name": %(json_name)s,
    "description": %(description)s,
  },

  // Everything of these profiles holds here, too; lists add up. nono profile list
%(extends)s

  // Groups of paths besides those that every run has. nono profile groups
  "groups": {
    // "include": ["python_runtime"],
  },

  // Paths. ~ is the home directory, $WORKDIR the one where the run starts.
  "filesystem": {
    // "allow": ["~/src/app"],                    // read and write; read, write: one of it
    // "read_file": ["~/notes.txt"],              // also allow_file, write_file
    // "deny": ["$WORKDIR/secrets"],              // closed, whatever is granted around it
  },
%(workdir)s
  // Without any of these the network is open; one of them restricts it to what is named.
  "network": {
    // "network_profile": "developer",            // hosts by the group
    // "allow_domain": ["docs.example.com"],
    // "credentials": ["openai"],                 // a key that the agent never sees: nono credential set openai
    // "block": true,                             // no network at all
  },

  "environment": {
    // "deny_vars": ["AWS_*"],
    // "set_vars": {"CI": "1"},
  },
}
"""


def run(arguments: argparse.Namespace) -> int:
    """Write the profile, print its path; return 0."""
    place = find_place(None, os.environ)
    words = _words(arguments.command_name or "")
    command = shlex.join(words)
    stem = os.path.basename(words[0]) if words else ""
    name = arguments.name
    if name is None:
        name = stem if stem and _NAME.issuperset(stem) and stem[0] not in ".-" else _DEFAULT_NAME
    if not _NAME.issuperset(name) or name[:1] in ("", ".", "-") or name.endswith((".json", ".jsonc")):
        raise UsageError(
            f"'{name}' is no name for a profile: letters, digits, - _ and . only, without an ending such as .json"
        )
    # A file is named from here, but looked for from where the profile is.
    extends = [os.path.abspath(os.path.expanduser(base)) if is_file(base) else base for base in arguments.extends]
    if not extends:
        extends = [base for base in (name, _FOR.get(stem, stem)) if base in builtin_profiles()][:1]
    for base in extends:  # raises where there is none
        Profiles(place).read(base, os.path.join(place.profiles, f"{name}.jsonc"))
    path = _write(text(name, command or "COMMAND", extends), name, place)
    home = render.home_of(os.environ)
    print(path)
    then = f"nono profile validate {name}, and: nono run -p {name} -- {command or 'COMMAND'}"
    render.notice(f"edit {render.short(path, home)}, then: {then}")
    return 0


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a quote without an end
        return [command]


def text(name: str, command: str, extends: list[str]) -> str:
    """Return the profile's text."""
    names = json.dumps(extends[0] if len(extends) == 1 else extends)
    return _TEXT % {
        "name": name,
        "command": " ".join(command.split()),
        "json_name": json.dumps(name),
        "description": json.dumps(f"{command} in the working directory" if command != "COMMAND" else ""),
        "extends": f'  "extends": {names},' if extends else '  // "extends": "python-dev",',
        "workdir": "" if extends else '  "workdir": {"access": "readwrite"},           // or read, write, none\n',
    }


def _write(content: str, name: str, place: Place) -> str:
    for ending in (".json", ".jsonc"):
        path = os.path.join(place.profiles, name + ending)
        if os.path.lexists(path):
            raise PolicyError(f"{path}: is there already, and is left as it is; choose another name")
    try:
        _make_directories(place.profiles)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        raise PolicyError(f"{error.filename or path}: cannot be written: {error.strerror}") from None
    return path


def _make_directories(path: str) -> None:
    """Make the directory and those above it that are missing, for the user alone."""
    if os.path.isdir(path):
        return
    _make_directories(os.path.dirname(path))
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
