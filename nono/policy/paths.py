"""Paths as users write them -> absolute paths. Pure.

`~` at the beginning and `$NAME` or `${NAME}` anywhere stand for places (VARIABLES); `$$` is a dollar sign. A relative
path is taken from the working directory. In a profile, `*` is refused, because nono expands no pattern: what one
matches at the start says nothing of the files that come later; `\\*` is a star in the name of a file. (On the command
line the shell has expanded what it wanted to.)
"""

from __future__ import annotations

import posixpath

from nono.errors import PolicyError, UsageError
from nono.policy.network import nearest
from nono.record import Record

VARIABLES = (
    "HOME",
    "WORKDIR",
    "TMPDIR",
    "UID",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
)
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


class Place(Record):
    """Where the user stands: absolute paths.

    config_home, state_home, runtime_dir, data_home, cache_home: the XDG base directories or their defaults. platform:
    sys.platform. uid: his number; "" for unknown. in_the_open: the working directory is the home directory or above it,
    by whatever name.
    """

    home: str
    workdir: str
    temporary_directory: str
    config_home: str
    state_home: str
    runtime_dir: str
    data_home: str = ""
    platform: str = "linux"
    cache_home: str = ""
    uid: str = ""
    in_the_open: bool = False

    @property
    def profiles(self) -> str:
        """The directory of the profiles that are named without a path."""
        return f"{self.config_home}/nono/profiles"

    @property
    def state(self) -> str:
        """nono's own state directory."""
        return f"{self.state_home}/nono"

    @property
    def variables(self) -> dict[str, str]:
        """What each of VARIABLES stands for."""
        return {
            "HOME": self.home,
            "WORKDIR": self.workdir,
            "TMPDIR": self.temporary_directory,
            "UID": self.uid,
            "XDG_CONFIG_HOME": self.config_home,
            "XDG_DATA_HOME": self.data_home or f"{self.home}/.local/share",
            "XDG_STATE_HOME": self.state_home,
            "XDG_CACHE_HOME": self.cache_home or f"{self.home}/.cache",
            "XDG_RUNTIME_DIR": self.runtime_dir,
        }


def normalised(path: str) -> str:
    """Return an absolute path without what a kernel skips.

    POSIX lets a path keep two slashes in front, and so does normpath(); two names of one place must not be two here,
    because what denies the one would not deny the other.
    """
    return "/" + posixpath.normpath(path).lstrip("/")


def expand(path: str, place: Place) -> str:
    """Return `path` absolute and normalised. Raises UsageError for what is no path, or has an unknown variable."""
    if not path or "\0" in path:
        raise UsageError("a path must not be empty or hold a NUL byte")
    head, slash, tail = path.partition("/")
    if head == "~":
        return normalised(place.home + slash + _substitute(tail, place))
    if head.startswith("~"):
        raise UsageError(f"{path}: only ~ itself is expanded, not another user's home")
    return normalised(posixpath.join(place.workdir, _substitute(path, place)))


def escaped(path: str) -> str:
    """Return a path as a profile has it."""
    return path.replace("$", "$$").replace("*", "\\*")


def unescaped(path: str) -> str:
    """Return a profile's path as the command line would have it."""
    return path.replace("\\*", "*") if "*" in path else path


def check(path: str) -> None:
    """Raise PolicyError for what cannot be the path of a profile, wherever its user may stand."""
    head = path.partition("/")[0]
    if head.startswith("~") and head != "~":
        raise PolicyError(f"{path}: only ~ itself is expanded, not another user's home")
    if "$" in path:
        try:
            _words(path)
        except UsageError as error:
            raise PolicyError(str(error)) from None
    if "*" in path.replace("\\*", ""):
        raise PolicyError(
            f"{path}: nono expands no * in paths, because files that come later would not be covered; name the "
            "directory, or each file (a star in the name of a file is written \\\\*)"
        )


def is_directory_name(name: str) -> bool:
    """Whether `name` can be that of directories anywhere in a tree: no path, no pattern."""
    return name not in ("", ".", "..") and not any(character in name for character in "/\0*?")


def _substitute(path: str, place: Place) -> str:
    if "$" not in path:
        return path
    values = place.variables
    return "".join(values[text] if is_name else text for is_name, text in _words(path))


def _words(path: str) -> list[tuple[bool, str]]:
    """Return the pieces of `path`: (False, text) and (True, name of a variable)."""
    first, *rest = path.split("$")
    words = [(False, first)]
    pieces = iter(rest)
    for piece in pieces:
        if not piece:  # $$
            words.append((False, "$" + next(pieces, "")))
            continue
        if piece.startswith("{"):
            name, brace, tail = piece[1:].partition("}")
            if not brace:
                raise UsageError(f"{path}: ${{ has no }}")
        else:
            end = next((at for at, letter in enumerate(piece) if letter not in _LETTERS), len(piece))
            name, tail = piece[:end], piece[end:]
        if name not in VARIABLES:
            near = nearest(name, map(str.lower, VARIABLES)).upper()
            hint = f"did you mean ${near}?" if near else "there are ~"
            known = "" if near else "".join(f", ${each}" for each in VARIABLES) + ", and $$ for a dollar sign"
            raise UsageError(f"{path}: ${name} is not expanded; {hint}{known}")
        words += [(True, name), (False, tail)]
    return words
