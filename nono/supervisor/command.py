"""Find the command as a shell would, and what it needs to be readable so that it can start.

Looks at the disk, changes nothing. A command that was found is granted its own file and, where it stands in a `bin`
directory, the installation around that (`PREFIX` of `PREFIX/bin/x`): a virtual environment or a Node version is of no
use without its libraries. The same holds for each symbolic link on the way and for the interpreter of a `#!` line.
The root, the home directory and what lies above it are never taken for an installation.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping

from nono.errors import CommandNotExecutable, CommandNotFound
from nono.policy.capabilities import READ, PathGrant
from nono.record import Record

_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_MAX_LINKS = 40  # as the kernel: path_resolution(7)
ORIGIN = "the command"


class Command(Record):
    """`path` is absolute and what execve(2) gets; `grants` are read access for it and its installation."""

    path: str
    grants: tuple[PathGrant, ...]


def find(name: str, environment: Mapping[str, str], home: str) -> Command:
    """Return the command called `name`, looked up in PATH when it has no slash.

    Raises CommandNotFound (127) or CommandNotExecutable (126).
    """
    path = _look_up(name, environment)
    grants: dict[PathGrant, None] = {}
    for program in (path, *_interpreters(path, environment)):
        for hop in _links(program):
            grants.update(dict.fromkeys(_installation(hop, home)))
    return Command(path, tuple(grants))


def _look_up(name: str, environment: Mapping[str, str]) -> str:
    if not name:
        raise CommandNotFound("the command is empty")
    if "/" in name:
        path = os.path.abspath(name)
        _check(path, name)
        return path
    refused: CommandNotExecutable | None = None
    for directory in environment.get("PATH", _DEFAULT_PATH).split(":"):
        path = os.path.abspath(os.path.join(directory or ".", name))
        try:
            _check(path, name)
        except CommandNotFound:
            continue
        except CommandNotExecutable as error:
            refused = refused or error
            continue
        return path
    raise refused or CommandNotFound(f"command not found: {name}")


def _check(path: str, name: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno == errno.EACCES:
            raise CommandNotExecutable(f"{name}: permission denied") from None
        raise CommandNotFound(f"command not found: {name}") from None
    if stat.S_ISDIR(mode):
        raise CommandNotExecutable(f"{name}: is a directory")
    if not stat.S_ISREG(mode) or not os.access(path, os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise CommandNotExecutable(f"{name}: not an executable file. Make it one with: chmod +x {name}")


def _interpreters(path: str, environment: Mapping[str, str]) -> list[str]:
    """Return the programs that the `#!` line of `path` names: the interpreter and what env(1) will look up."""
    try:
        with open(path, "rb") as file:
            line = file.readline(4096)
    except OSError:
        return []  # executable but not readable: it has no script to interpret
    if not line.startswith(b"#!"):
        return []
    words = os.fsdecode(line[2:]).split()
    if not words or not words[0].startswith("/"):
        return []
    programs = [words[0]]
    if os.path.basename(words[0]) == "env":
        names = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        try:
            programs += [_look_up(name, environment) for name in names[:1]]
        except (CommandNotFound, CommandNotExecutable):
            pass  # env(1) will say so itself, as it does without nono
    return programs


def _links(path: str) -> list[str]:
    """Return `path` and each target of the symbolic links that lead from it to the file."""
    hops = [path]
    while len(hops) <= _MAX_LINKS:
        try:
            target = os.readlink(hops[-1])
        except OSError:
            break
        hops.append(os.path.normpath(os.path.join(os.path.dirname(hops[-1]), target)))
    real = os.path.realpath(path)
    return hops if real == hops[-1] else [*hops, real]


def _installation(path: str, home: str) -> list[PathGrant]:
    grants = [PathGrant(path, READ, True, ORIGIN, optional=True)]
    directory = os.path.dirname(path)
    if os.path.basename(directory) == "bin":
        prefix = os.path.dirname(directory)
        if os.path.commonpath([prefix, home]) != prefix:
            grants.append(PathGrant(prefix, READ, False, ORIGIN, optional=True))
    return grants
