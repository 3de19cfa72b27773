"""What the agent may know of the user's settings for package managers: where to install from, and nothing else.

The settings themselves stay closed to the agent: passwords and tokens stand in them beside the names of indexes. But a
manager that cannot read them turns to its default index, which package_registries then does not hold; or it asks the
public one for a company's private name. So the few lines that say where to install from, and whom to trust there, are
copied into the run's temporary directory, and a variable of the manager names the copy. Nobody's user and password are
copied, nor anything that looks like one (an @, a ?) behind them; a token in the path of a URL cannot be told from a
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


class _Settings(Record):
    """One manager's. variable: names a file of settings. files: the later one counts. options: what is copied."""

    variable: str
    files: tuple[str, ...]
    options: tuple[str, ...]


_SETTINGS = (
    _Settings(
        "PIP_CONFIG_FILE",
        ("~/.pip/pip.conf", "$CONFIG/pip/pip.conf"),
        ("index-url", "extra-index-url", "trusted-host", "cert"),
    ),
    _Settings("npm_config_userconfig", ("~/.npmrc",), ("registry", "@*:registry", "cafile")),
    _Settings(
        "GOENV", ("$CONFIG/go/env",), ("GOPROXY", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOINSECURE")
    ),
)


def hand_over(place: Place, environment: Mapping[str, str], directory: str) -> dict[str, str]:
    """Write the copies into `directory`, which the agent can read; return the variables that name them."""
    variables = {}
    for variable, files, options in _SETTINGS:
        if variable in environment or variable.upper() in environment:
            continue
        for path in reversed(files):
            text = _read(path.replace("~", place.home, 1).replace("$CONFIG", place.config_home, 1))
            if text is not None:
                copy = os.path.join(directory, variable.lower())
                with open(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
                    file.write(excerpt(text, options))
                variables[variable] = copy
                break
    return variables


def excerpt(text: str, options: tuple[str, ...]) -> str:
    """Return the sections of `text`, and the lines of these options without a credential. Pure."""
    kept = []
    is_kept = False
    for line in text.splitlines():
        name, separator, value = line.partition(_separator(line))
        if line[:1] in (" ", "\t"):  # another value of the option above
            name, separator, value = "", "", line
        elif line[:1] == "[":
            kept.append(line)
            is_kept = False
            continue
        else:
            is_kept = bool(separator) and _is_named(name.strip(), options)
        value = _USER.sub("", value)
        if is_kept and "@" not in value and "?" not in value:
            kept.append(name + separator + value)
    return "".join(f"{line}\n" for line in kept)


def _separator(line: str) -> str:
    """pip takes `name: value`, too."""
    return ":" if line[:1] != "@" and 0 < line.find(":") < (line.find("=") + 1 or len(line)) else "="


def _is_named(name: str, options: tuple[str, ...]) -> bool:
    if name[:1] == "@":
        return name.endswith(":registry") and "@*:registry" in options
    return name in options


def _read(path: str) -> str | None:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), encoding="utf-8") as file:
            return file.read(_MAX_BYTES)
    except (OSError, ValueError):
        return None
