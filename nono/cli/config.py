"""Read config.toml: the flags that a user gives each time, by verb.

    [run]
    profile = "my-agent"        as --profile my-agent
    allow = ["~/src"]           as --allow ~/src; a list adds to what the command line says
    silent = true               as --silent

    [credential.set]            an action of a verb
    store = "file"

Keys are the long names of flags, and become flags that stand before those of the command line: so a list adds up, and
anything else is replaced by what is typed. A key that is no flag of the verb is an error, as it is on the command line.
`nono why` takes what it knows of [run], because it explains a run.

One flag cannot stand here: --trust-override, which is to be typed each time.

Whoever can write this file decides what the next run may do. An agent never can: $XDG_CONFIG_HOME/nono is denied to all
of them. Where the file is a link to elsewhere, that file is denied, too (--deny, also with --no-config); a link
by way of another that the user, hence an agent, may write is refused, and so is a file that other users may write.

Imported only where the file exists, because tomllib costs 15 ms.
"""

from __future__ import annotations

import argparse
import os
import stat
import tomllib
from collections.abc import Sequence
from typing import Any, NamedTuple

from nono.cli.args import actions_of
from nono.errors import UsageError
from nono.policy.network import nearest

_MAX_BYTES = 1 << 20
_INSTEAD = "--no-config ignores the file"
_LIKE = {"why": "run"}  # a verb that explains another takes what it knows of that one's section
_NOT_HERE = ("help", "no-config", "version")
_TYPED_ONLY = ("trust-override",)  # what nobody shall have forgotten that he said
_WRITTEN_AS_NUMBERS = ("N", "SIZE", "TIME")
_REFERENCES = ("env-credential-map", "upstream-proxy-credential")  # may be a secret that was pasted in its place


class Configured(NamedTuple):
    """What the file adds to a command line. shown: the same without what may be a secret; path: of the file."""

    path: str
    words: list[str]
    shown: list[str]


def configured(
    path: str, verb: str, parser: argparse.ArgumentParser, flags: Sequence[str], verbs: Sequence[str]
) -> Configured:
    """Return what the file at `path` adds to the flags of `verb`, one of `verbs`. Raises UsageError."""
    if "--self" in flags:  # inside a sandbox, where the file is denied, and where no flag of policy has a meaning
        return Configured(path, [], [])
    link = _deny_target(path) if "--deny" in parser._option_string_actions else []
    if "--no-config" in flags:
        return Configured(path, link, link)
    tables = _read(path)
    _check_sections(path, tables, verbs)
    words, shown = [*link], [*link]
    for section, strict in ((verb, True), (_LIKE.get(verb, ""), False)):
        for action_name, of_action, table in _tables(path, section, tables.get(section, {}), parser):
            if action_name and action_name != (flags[0] if flags else ""):
                continue
            for key, value in table.items():
                flag = _flag(of_action, key)
                if flag is None:
                    if strict:
                        raise _unknown_key(path, action_name or section, key, of_action)
                    continue
                if key in _TYPED_ONLY:
                    raise UsageError(f"{path}: --{key} is typed each time, or not at all; take it out of [{section}]")
                added = _words(f"{path}: {key} in [{section}{action_name and '.'}{action_name}]", key, flag, value)
                words += added
                shown += [f"--{key}", "…"] if key in _REFERENCES and added else added
    return Configured(path, words, shown)


def _check_sections(path: str, tables: dict[str, Any], verbs: Sequence[str]) -> None:
    """Refuse what is in no verb's section. Raises UsageError."""
    for name, value in tables.items():
        if not isinstance(value, dict):
            raise UsageError(f"{path}: {name} is in no section; write it below the line of its verb, e.g. [run]")
        if name not in verbs:
            near = nearest(name, verbs)
            hint = f"did you mean [{near}]?" if near else f"there are {', '.join(verbs)}."
            raise UsageError(f"{path}: [{name}] is no verb; {hint} ({_INSTEAD})")


def _read(path: str) -> dict[str, Any]:
    """Return what is in the file, once it is sure that nobody else can have written it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror} ({_INSTEAD})") from None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path}: is not a regular file ({_INSTEAD})")
        for place, found in ((path, status), *((place, os.stat(place)) for place in _directories(path))):
            if found.st_uid not in (0, os.geteuid()):
                raise UsageError(f"{place}: belongs to another user, who could decide what your agents may do; own it")
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise UsageError(
                    f"{place}: other users may write it, and decide what your agents may do. "
                    f"Keep it your own with: chmod go-w {place}"
                )
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise UsageError(f"{path}: is larger than 1 MiB ({_INSTEAD})")
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError:
        raise UsageError(f"{path}: it is not valid UTF-8 ({_INSTEAD})") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error} ({_INSTEAD})") from None
    except RecursionError:
        raise UsageError(f"{path}: is nested too deeply ({_INSTEAD})") from None


def _directories(path: str) -> set[str]:
    """Return the directories in which the file could be exchanged for another."""
    return {os.path.realpath(os.path.dirname(path)), os.path.dirname(os.path.realpath(path))}


def _deny_target(path: str) -> list[str]:
    """Return the flags that deny the file to agents where `path` is a link to it. Raises UsageError."""
    directory = os.path.realpath(os.path.dirname(path))
    place = os.path.join(directory, os.path.basename(path))
    target = os.path.realpath(place)
    if target == place:
        return []
    parts, at, hops = _target_parts(place), directory, 0
    while parts:
        part = parts.pop(0)
        if part in ("", "/", ".", ".."):
            at = "/" if part == "/" else os.path.dirname(at) if part == ".." else at
            continue
        entry = os.path.join(at, part)
        if not os.path.islink(entry):
            at = entry
            continue
        hops += 1
        if hops > 40 or os.access(at, os.W_OK):  # whoever may write there may turn the link elsewhere
            raise UsageError(
                f"{path}: is a link by way of another, {entry}, that an agent might turn elsewhere. "
                f"Link to the file itself: ln -sfn {target} {path}"
            )
        parts = _target_parts(entry) + parts
    return ["--deny", target]


def _target_parts(link: str) -> list[str]:
    """Return the parts of what the link says, "/" first where that is absolute."""
    text = os.readlink(link)
    return ["/"] * text.startswith("/") + text.split("/")


def _tables(
    path: str, section: str, table: Any, parser: argparse.ArgumentParser
) -> list[tuple[str, argparse.ArgumentParser, dict[str, Any]]]:
    """Return the table of a verb or, for one that has actions, the table of each."""
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {section} is not a section; write [{section}] on a line of its own")
    choices = actions_of(parser)
    if not choices:
        return [("", parser, table)]
    for name, inner in table.items():
        if name not in choices or not isinstance(inner, dict):
            near = nearest(name, choices) or next(iter(choices))
            raise UsageError(f"{path}: {name} in [{section}] is no action; write a section, e.g. [{section}.{near}]")
    return [(name, choices[name], inner) for name, inner in table.items()]


def _flag(parser: argparse.ArgumentParser, key: str) -> argparse.Action | None:
    return None if key in _NOT_HERE else parser._option_string_actions.get(f"--{key}")


def _unknown_key(path: str, section: str, key: str, parser: argparse.ArgumentParser) -> UsageError:
    names = [name[2:] for name in parser._option_string_actions if name.startswith("--") and name[2:] not in _NOT_HERE]
    near = nearest(key.replace("_", "-"), names)
    hint = f"did you mean {near}?" if near else f"the flags of {parser.prog} are the keys; see {parser.prog} --help"
    return UsageError(f"{path}: there is no {key} in [{section}]; {hint} ({_INSTEAD})")


def _words(where: str, key: str, flag: argparse.Action, value: Any) -> list[str]:
    """Return the words that say `value`, checked to be of the flag's type. Raises UsageError."""
    name = f"--{key}"
    if isinstance(flag, argparse._CountAction):
        if not isinstance(value, (int, bool)) or not 0 <= value <= 9:
            raise _wrong(where, value, "a number from 0 to 9")
        return [name] * int(value)
    if flag.nargs == 0:
        if not isinstance(value, bool):
            raise _wrong(where, value, "true or false")
        return [name] if value else []
    if not isinstance(flag, argparse._AppendAction):
        return [f"{name}={_text(where, flag, value)}"]
    if not isinstance(value, list):
        raise _wrong(where, value, f"a list, e.g. {key} = [{_example(flag)}]")
    words = []
    for item in value:
        if not isinstance(flag.nargs, int):
            words.append(f"{name}={_text(where, flag, item)}")
            continue
        if not isinstance(item, list) or len(item) != flag.nargs:
            raise _wrong(where, item, f"lists of {flag.nargs} strings, e.g. {key} = [{_example(flag)}]")
        words += [name, *(_text(where, flag, part) for part in item)]
    return words


def _text(where: str, flag: argparse.Action, value: Any) -> str:
    """Return one value as it would be typed. Raises UsageError."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    takes_numbers = flag.type is not None or flag.metavar in _WRITTEN_AS_NUMBERS
    if not isinstance(value, str) and not (is_number and takes_numbers):
        raise _wrong(where, value, "a number" if flag.type is not None else "a string")
    text = str(value)
    if flag.choices is not None and text not in flag.choices:
        raise _wrong(where, value, f"one of {', '.join(flag.choices)}")
    if isinstance(flag.nargs, int) and text.startswith("-"):
        raise _wrong(where, value, "a string that does not begin with -")
    if callable(flag.type):
        try:
            flag.type(text)
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise UsageError(f"{where}: {error} ({_INSTEAD})") from None
    return text


def _example(flag: argparse.Action) -> str:
    metavar = flag.metavar or flag.dest.upper()
    if isinstance(metavar, tuple):
        return "[" + ", ".join(f'"{part}"' for part in metavar) + "]"
    return metavar if flag.type is not None else f'"{metavar}"'


def _wrong(where: str, value: Any, expected: str) -> UsageError:
    kinds = {bool: "true or false", int: "a number", str: "a string", list: "a list", dict: "a section"}
    shown = ""
    if isinstance(value, bool):
        shown = "true" if value else "false"
    elif isinstance(value, int) or (isinstance(value, str) and len(value) <= 40):
        shown = repr(value)
    found = shown or kinds.get(type(value), "a date" if hasattr(value, "isoformat") else "a number with a point")
    return UsageError(f"{where}: found {found}, expected {expected} ({_INSTEAD})")
