"""What a snapshot leaves out, and by which rule.

In this order, the first that has something to say decides:

1. what --rollback-include names is taken, with all that is in it;
2. what --rollback-exclude, or the profile's rollback.exclude_patterns or exclude_globs name, is left out;
3. in `.git`, everything is taken: half a repository is none;
4. directories that DEFAULTS names, which are made anew by a command and are large, are left out;
5. what a .gitignore excludes is left out: the deepest one that says anything decides, its last pattern that matches
   wins, and what is in a directory that is left out is not looked at. Patterns are judged by the library `pathspec`;
   where that is not installed no .gitignore is read, and `notes` say so.

A rule with no wildcard is a name (`node_modules`: anywhere) or the end of a path (`docs/build`); with one, it is
compared with the name, or with the path below the root if it has a "/".

An agent may write .gitignore files. So a session's final snapshot is told those that its baseline read (`texts`), and
reads none: what was covered stays covered. .git/info/exclude and core.excludesFile are not read, and a file that git
tracks though it is ignored is left out: git has it.

Source: gitignore(5).
"""

from __future__ import annotations

import os
import re
from fnmatch import translate
from importlib import import_module
from stat import S_ISREG

from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

DEFAULTS = ("node_modules", ".venv", "target", "__pycache__", ".tox", ".mypy_cache", ".pytest_cache", ".ruff_cache")
"""Directories that are left out unless they are included: a command makes them anew, and they are large."""

# An agent may write a .gitignore for the next session: what it can make it cost is bounded.
_MAX_GITIGNORE_BYTES = 128 << 10
_MAX_ALL_BYTES = 4 << 20
_MAX_WILDCARDS = 3  # between two "/" of a pattern: with 3, 4 ms for the worst name there can be; with 5, half a minute
_MAX_NOTES = 1000
_STARS = re.compile(r"\*+")
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | getattr(os, "O_NOCTTY", 0)


class Rules(Record):
    """What is left out, as the operator says it.

    exclude, include: as the options or the profile have them. defaults: whether DEFAULTS are left out. gitignore:
    whether .gitignore files are read.
    """

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    defaults: bool = True
    gitignore: bool = True


class Ignore:
    """The rules for one root, for one walk: give `rule_for` and `enter` to tree.Walk."""

    def __init__(self, rules: Rules, texts: Mapping[str, str] | None = None) -> None:
        """texts: None to read .gitignore files; else those of the baseline, by their directory."""
        self.texts: dict[str, str] = dict(texts or {})
        self.notes: list[tuple[bytes, str]] = []  # (directory, what was not heeded)
        self._reads = texts is None and rules.gitignore
        self._exclude = _Names(rules.exclude)
        self._include = _Names(rules.include)
        self._defaults = frozenset(os.fsencode(name) for name in DEFAULTS) if rules.defaults else frozenset()
        self._specs: list[tuple[bytes, Any, str]] = []  # the way to here: (directory with "/", spec, its name)
        self._taken = b"\0"  # all below this is taken
        self._git = b"\0"  # below this, only what the operator says is left out
        self._all_bytes = 0
        self._is_missing = False

    def rule_for(self, path: bytes, is_directory: bool) -> str:
        """What excludes this path: "" for nothing. Paths come in the order of the walk."""
        if path.startswith(self._taken):
            return ""
        name = path[path.rfind(b"/") + 1 :]
        if self._include.any and self._include.match(path, name):
            self._taken = path + b"/"
            return ""
        if self._exclude.any and (rule := self._exclude.match(path, name)):
            return f"by the rule {rule}"
        if path.startswith(self._git):
            return ""
        if name == b".git":
            self._git = path + b"/"
            return ""
        if is_directory and name in self._defaults:
            return f"by default: {os.fsdecode(name)}"
        if self._specs:
            return self._ignored(path, is_directory)
        return ""

    def enter(self, path: bytes, fd: int) -> None:
        """A directory is about to be read: its .gitignore, if it has one, rules what is below."""
        if (path + b"/").startswith((self._taken, self._git)):
            return
        directory = path + b"/" if path else b""
        while self._specs and not directory.startswith(self._specs[-1][0]):
            self._specs.pop()
        key = os.fsdecode(path)
        if self._reads:
            text = self._read(path, fd)
            if text:
                self.texts[key] = text
        else:
            text = self.texts.get(key, "")
        if text and (spec := _library()) is None:
            if not self._is_missing:
                self._is_missing = True
                note = ".gitignore is not heeded: the library pathspec is not installed (pip install 'nono[rollback]')"
                self._note(path, note)
        elif text and spec is not None:
            lines = [line for line in text.splitlines() if self._is_harmless(path, line)]
            where = os.fsdecode(directory + b".gitignore")
            try:
                self._specs.append((directory, spec.from_lines(lines), where))
            except ValueError:
                self._note(path, ".gitignore has a pattern that is none; it is not heeded")

    def _ignored(self, path: bytes, is_directory: bool) -> str:
        while self._specs and not path.startswith(self._specs[-1][0]):
            self._specs.pop()
        for directory, spec, where in reversed(self._specs):
            relative = os.fsdecode(path[len(directory) :]) + ("/" if is_directory else "")
            ignored = spec.check_file(relative).include
            if ignored is not None:
                return f"by {where}" if ignored else ""
        return ""

    def _read(self, path: bytes, fd: int) -> str:
        try:
            file = os.open(b".gitignore", _OPEN, dir_fd=fd)
        except OSError:
            return ""
        try:
            found = os.fstat(file)
            if not S_ISREG(found.st_mode):
                return ""
            self._all_bytes += found.st_size
            if found.st_size > _MAX_GITIGNORE_BYTES or self._all_bytes > _MAX_ALL_BYTES:
                self._note(path, ".gitignore is too large; it is not heeded")
                return ""
            return os.fsdecode(os.read(file, _MAX_GITIGNORE_BYTES))
        except OSError:
            return ""
        finally:
            os.close(file)

    def _is_harmless(self, path: bytes, line: str) -> bool:
        if line.startswith("#") or all(len(_STARS.findall(part)) <= _MAX_WILDCARDS for part in line.split("/")):
            return True
        self._note(path, f".gitignore has a pattern with too many wildcards, which is not heeded: {line[:80]}")
        return False

    def _note(self, path: bytes, text: str) -> None:
        if len(self.notes) < _MAX_NOTES:
            self.notes.append((path, text))


def _library() -> Any:
    """pathspec's GitIgnoreSpec, or None. It takes 29 ms to import, which only a tree with a .gitignore costs."""
    try:
        return import_module("pathspec").GitIgnoreSpec
    except ImportError:  # the extra `rollback` is not installed
        return None


class _Names:
    """Rules of the operator's."""

    def __init__(self, rules: Iterable[str]) -> None:
        plain = [rule.strip("/") for rule in rules if rule.strip("/") and not _is_glob(rule)]
        globs = [rule.strip("/") for rule in rules if _is_glob(rule)]
        self.any = bool(plain or globs)
        self._names = {os.fsencode(rule): rule for rule in plain if "/" not in rule}
        self._ends = [(b"/" + os.fsencode(rule), rule) for rule in plain if "/" in rule]
        self._name_globs = _compile([rule for rule in globs if "/" not in rule])
        self._path_globs = _compile([rule for rule in globs if "/" in rule])

    def match(self, path: bytes, name: bytes) -> str:
        if name in self._names:
            return self._names[name]
        for end, rule in self._ends:
            if path.endswith(end) or path == end[1:]:
                return rule
        for compiled, text in ((self._name_globs, name), (self._path_globs, path)):
            for pattern, rule in compiled:
                if pattern.fullmatch(os.fsdecode(text)):
                    return rule
        return ""


def _is_glob(rule: str) -> bool:
    return any(character in rule for character in "*?[")


def _compile(globs: Sequence[str]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(translate(rule)), rule) for rule in globs]
