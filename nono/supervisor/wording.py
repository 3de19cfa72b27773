"""The words with which programs tell that something was denied them, and the path that they name.

A dozen forms of Python, Node, Go, Rust, Ruby, Java, PHP, shells, git and the coreutils, in English. All of it is the
agent's word: it may print what it never tried, so nothing follows from a line alone. denials.py asks the policy about
each path, and the disk whether this user could have reached it without nono.

Pure: bytes in, paths out. Nothing of it is imported where no line was kept (complaints.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from nono.policy.capabilities import READ, WRITE
from nono.supervisor.complaints import ABSENT, SIGNS
from nono.supervisor.denials import Attempt

_MAX_PATH = 1024  # characters: longer ones name nothing that a person grants by flag

_SIGN = re.compile("|".join(sign.decode() for sign in SIGNS))
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]")
_QUOTED = re.compile(r"'([^'\n]+)'|\"([^\"\n]+)\"|‘([^’\n]+)’|“([^”\n]+)”")
_IN_BACKTICKS = re.compile(r"`([^`'\n]+)[`']")
_BARE = re.compile(r"(?:^|[\s(=])((?:~|\.\.?)?/.*)$")
_RUBY = re.compile(r" @ \w+ - (.+?)(?: \(Errno|$)")
_JAVA = re.compile(r"AccessDeniedException: (\S.*?)(?: -> (\S.*))?$")
_JUNK = " \t\r│|.,;:)"
_WRITES = re.compile(
    r"\b(?:creat|mkdir|mkdtemp|touch|remov|unlink|rmdir|renam|mov(?:e|ing)|writ|lock|chmod|chown|mkfifo|symlink|link|"
    r"truncat|append|utime|copyfile|save|install|delet|tee:|truncate:)|[Rr]ead-only file system|[Rr]esource busy"
)
_READS = re.compile(r"\b(?:for reading|scandir|opendir|readdir|open directory|cannot access|reading)\b")


def attempts(line: bytes, before: bytes = b"") -> Iterator[Attempt]:
    """Yield the paths that a line complains of. before: the lines above it, where some programs name them."""
    text = _plain(line)
    sign = _SIGN.search(text)
    if sign is None:
        return
    absent = sign[0].encode() == ABSENT
    paths = _paths(text, sign)
    if not paths:
        above = _plain(before)
        paths, text = _paths_above(text, above), f"{above}\n{text}"
    for path, _ in paths:
        text = text.replace(path, "")  # whose own words tell nothing
    access = _access(text)
    for path, loose in dict.fromkeys(paths):
        if 0 < len(path) <= _MAX_PATH and path.isprintable():
            yield Attempt(path, access, absent, loose)


def _plain(line: bytes) -> str:
    """Return the text without what colours it and moves the cursor; of a line that was drawn anew, the last."""
    text = _ESCAPES.sub("", line.decode("utf-8", "surrogateescape")).rstrip("\r")
    return text if "\n" in text else text.rpartition("\r")[2]


def _access(text: str) -> int:
    if _READS.search(text):
        return READ
    return WRITE if _WRITES.search(text) else 0


def _paths(text: str, sign: re.Match[str]) -> list[tuple[str, bool]]:
    """Find the paths on the line itself: quoted behind the words or before them, or bare."""
    head, rest = text[: sign.start()], text[sign.end() :]
    for pattern in (_RUBY, _JAVA):
        if special := pattern.search(text):
            return [(path.rstrip(_JUNK), False) for path in special.groups() if path]
    for part in (rest, head):
        quoted = [next(filter(None, match)) for match in _QUOTED.findall(part)]
        if quoted:
            return [(path, False) for path in quoted[-2:]]
    pieces = head[:-1].rstrip(" :(").split(": ")
    for piece in reversed(pieces):
        if bare := _BARE.search(piece):
            path = bare[1].strip(_JUNK) if bare[1].count("(") < bare[1].count(")") else bare[1].rstrip(" \t\r│|")
            return [(path, False)] if path else []
    last = pieces[-1].strip()
    return [(last, True)] if len(pieces) > 1 and last and " " not in last else []


def _paths_above(text: str, before: str) -> list[tuple[str, bool]]:
    """Find the path in the lines above, where Rust's programs tell only the error itself (`Caused by: …`)."""
    if "os error" not in text:
        return []
    for line in reversed(before.splitlines()):
        if quoted := _IN_BACKTICKS.search(line):
            return [(quoted[1], False)]
        if quoted := _QUOTED.search(line):
            return [(next(filter(None, quoted.groups())), False)]
        if bare := _BARE.search(line.rpartition(": ")[2]):
            return [(bare[1].rstrip(_JUNK), False)]
    return []
