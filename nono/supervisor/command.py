"""Find the command as a shell would, and what it needs to be readable so that it can start.

Looks at the disk, changes nothing. A command that was found is granted its own file and, where it stands in a `bin`
directory, the installation around that (`PREFIX` of `PREFIX/bin/x`): a virtual environment or a Node version is of no
use without its libraries. The same holds for each symbolic link on the way and for the interpreter of a `#!` line.
An installation has a directory of libraries beside its `bin`; the home directory, what lies above it and ~/.local are
never taken for one.

Paths are followed as the kernel does: `..` behind a symbolic link is above the link's target (path_resolution(7)).
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
_MARKS_OF_AN_INSTALLATION = ("lib", "lib64", "libexec", "pyvenv.cfg")
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
    if "\0" in name:
        raise CommandNotFound(f"command not found: {name!r}")
    if "/" in name:
        path = _absolute(name)
        _check(path, name)
        return path
    refused: CommandNotExecutable | None = None
    for directory in environment.get("PATH", _DEFAULT_PATH).split(":"):
        path = _absolute(os.path.join(directory, name))
        try:
            _check(path, name)
        except CommandNotFound:
            continue
        except CommandNotExecutable as error:
            refused = refused or error
            continue
        return path
    words = ". Write its words apart, or: -- sh -c '…'" if " " in name.strip() else ""
    raise refused or CommandNotFound(f"command not found: {name}{words}")


def _absolute(path: str) -> str:
    """Return `path` from the root and without `..`; symbolic links are followed only where that needs it."""
    if ".." in path.split("/"):
        directory, name = os.path.split(path)
        path = os.path.join(os.path.realpath(directory), name)
    return "/" + os.path.abspath(path).lstrip("/")  # POSIX lets a path keep two slashes in front


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
    """Return the programs that the `#!` line of `path` names, as far as they exist: the interpreter, and env(1)'s."""
    try:
        with open(path, "rb") as file:
            line = file.readline(4096)
    except OSError:
        return []  # executable but not readable: it has no script to interpret
    if not line.startswith(b"#!"):
        return []
    words = os.fsdecode(line[2:].partition(b"\0")[0]).split()  # the kernel, too, ends the line at a NUL
    if not words or not words[0].startswith("/"):
        return []
    programs = []
    try:
        programs.append(_look_up(words[0], environment))
        if os.path.basename(words[0]) == "env" and (name := _named_to_env(words[1:])):
            programs.append(_look_up(name, environment))
    except (CommandNotFound, CommandNotExecutable):
        pass  # the kernel or env(1) will say so, as it does without nono
    return programs


def _named_to_env(words: list[str]) -> str:
    """Return the program that env(1) starts when it gets these words; "" for none. Source: env(1) of GNU coreutils."""
    while words:
        word, *words = words
        if word.startswith("--"):
            option, _, value = word.partition("=")
        elif word.startswith("-"):
            letter = next((letter for letter in word[1:] if letter in "uCaS"), "")  # ends a row like -iS
            option, value = f"-{letter}", word.partition(letter)[2] if letter else ""
        elif "=" in word:
            continue
        else:
            return word
        if option in ("-S", "--split-string"):  # its argument is more words
            words = [value, *words] if value else words
        elif option in ("-u", "-C", "-a", "--unset", "--chdir", "--argv0") and not value:
            words = words[1:]
    return ""


def _links(path: str) -> list[str]:
    """Return `path` and each target of the symbolic links that lead from it to the file."""
    hops = [path]
    while len(hops) <= _MAX_LINKS:
        try:
            target = os.readlink(hops[-1])
        except OSError:
            break
        directory, name = os.path.split(target)
        directory = os.path.realpath(os.path.join(os.path.dirname(hops[-1]), directory))
        hops.append(os.path.join(directory, name))
    real = os.path.realpath(path)
    return hops if real == hops[-1] else [*hops, real]


def _installation(path: str, home: str) -> list[PathGrant]:
    grants = [PathGrant(path, READ, True, ORIGIN, optional=True)]
    prefix, directory = os.path.split(os.path.dirname(path))
    if directory == "bin" and _is_installation(prefix, home):
        grants.append(PathGrant(prefix, READ, False, ORIGIN, optional=True))
    return grants


def _is_installation(prefix: str, home: str) -> bool:
    real, home = os.path.realpath(prefix), os.path.realpath(home)
    if os.path.commonpath([real, home]) == real or real == os.path.realpath(os.path.join(home, ".local")):
        return False
    return any(os.path.exists(os.path.join(prefix, mark)) for mark in _MARKS_OF_AN_INSTALLATION)
