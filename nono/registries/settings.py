"""What the agent may know of the user's settings for package managers: where to install from, and nothing else.

The settings themselves stay closed to the agent: passwords and tokens stand in them beside the names of indexes. But a
manager that cannot read them turns to its default index, which package_registries then does not hold; or it asks the
public one for a company's private name. So the few lines that say where to install from, and whom to trust there, are
copied into the run's temporary directory, and a variable of the manager names the copy. Nobody's user and password are
copied, nor a line or a word that is not of the form of an address; a token in the path of a URL cannot be told from a
path.

Where the user has named a file by that variable himself, nothing is done.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from nono.policy.resolve import Place
from nono.record import Record

_MAX_BYTES = 1 << 16
_USER = re.compile(r"(?<=//)[^/\s]*@")
_SECTION = re.compile(r"\[[\w.-]+\]")
_SCOPE = re.compile(r"@[\w.~-]+:registry")
# What a word of an option looks like once user and password are gone; one that looks otherwise is not copied.
_HOST = r"(?:[\w.-]+|\[[0-9a-fA-F:.]+\])(?::\d+)?"
HTTP_URL = rf"https?://{_HOST}(?:/[\w.~%+/-]*)?"
_PATH = r"[~/][\w.~+/-]*"
_LIST = r"[\w.:/*,|~%+=-]+"


class _Settings(Record):
    """One manager's. variable: names a file of settings. files: the later one counts.

    options: what is copied, and what a word of it looks like. is_continued: an indented line is another value of the
    option above it, as in pip's files (configparser); elsewhere it is an option like any other.
    """

    variable: str
    files: tuple[str, ...]
    options: dict[str, str]
    is_continued: bool = False


PIP = _Settings(
    "PIP_CONFIG_FILE",
    ("~/.pip/pip.conf", "$CONFIG/pip/pip.conf"),
    {"index-url": HTTP_URL, "extra-index-url": HTTP_URL, "trusted-host": _HOST, "cert": _PATH},
    True,
)
NPM = _Settings(
    "npm_config_userconfig", ("~/.npmrc",), {"registry": HTTP_URL, "@*:registry": HTTP_URL, "cafile": _PATH}
)
GO = _Settings(
    "GOENV",
    ("$CONFIG/go/env",),
    dict.fromkeys(("GOPROXY", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOINSECURE"), _LIST),
)


def hand_over(place: Place, environment: Mapping[str, str], directory: str) -> dict[str, str]:
    """Write the copies into `directory`, which the agent can read; return the variables that name them."""
    variables = {}
    for settings in (PIP, NPM, GO):
        variable = settings.variable
        if variable in environment or variable.upper() in environment:
            continue
        for path in reversed(settings.files):
            text = read_settings(path.replace("~", place.home, 1).replace("$CONFIG", place.config_home, 1))
            if text is not None:
                copy = os.path.join(directory, variable.lower())
                with open(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
                    file.write(excerpt(text, settings))
                variables[variable] = copy
                break
    return variables


def has_maven(environment: Mapping[str, str], workdir: str) -> bool:
    """Whether Maven may be run, which has settings of its own kind (maven.py)."""
    programs = [f"{directory}/mvn" for directory in environment.get("PATH", "").split(":")]
    return any(os.path.exists(path) for path in (*programs, f"{workdir}/mvnw"))


def excerpt(text: str, settings: _Settings) -> str:
    """Return the sections of `text`, and the lines of these options without a credential. Pure."""
    kept = []
    form = None  # of the option that a continuation would belong to
    for line in text.split("\n"):
        stripped = line.strip()
        if settings.is_continued and line[:1] in (" ", "\t"):
            value = _USER.sub("", stripped)
            if form and re.fullmatch(form, value):
                kept.append(f"    {value}")
        elif stripped[:1] == "[":
            if not settings.is_continued:
                break  # what follows is no option of npm or go
            form = None
            if _SECTION.fullmatch(stripped):
                kept.append(stripped)
        else:
            name, separator, value = stripped.partition(_separator(stripped, settings.is_continued))
            name = name.strip()
            form = settings.options.get("@*:registry" if _SCOPE.fullmatch(name) else name) if separator else None
            if form and (words := _words(value, form)) is not None:
                kept.append(f"{name}{separator}{words}")
            else:
                form = None
    return "".join(f"{line}\n" for line in kept)


def _separator(line: str, is_pip: bool) -> str:
    """pip takes `name: value`, too."""
    return ":" if is_pip and 0 < line.find(":") < (line.find("=") + 1 or len(line)) else "="


def _words(value: str, form: str) -> str | None:
    """Return the first word and the URLs that follow it at once; "" where the value begins on the next line."""
    words = _USER.sub("", value).replace('"', "").replace("'", "").split()
    if words and not re.fullmatch(form, words[0]):
        return None
    sound = words[:1]
    for word in words[1:]:
        if not re.fullmatch(HTTP_URL, word):
            break
        sound.append(word)
    return " ".join(sound)


def without_users(text: str) -> str:
    """Return `text` without the user and password of each URL in it."""
    return _USER.sub("", text)


def read_settings(path: str) -> str | None:
    """Return the text of a user's file of settings, as far as it is of sound length; None where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        with open(fd, encoding="utf-8", closefd=False) as file:  # open() leaves the descriptor of a directory open
            return file.read(_MAX_BYTES)
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)
