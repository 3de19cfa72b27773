"""The files of profiles: what a NAME or FILE means, and its text; and what machine this is, for their conditions.

Policy (inherit.py) asks for the files one by one, and for the machine only where a profile has a condition.

A NAME is the user's own, NAME.json or NAME.jsonc in his configuration directory, else a built-in one. His own
`claude-code` may extend the built-in `claude-code`; what a built-in profile extends is built in, whatever he has. A
FILE has a slash in it or such an ending; in `extends` it is taken from the directory of the file that names it.
"""

from __future__ import annotations

import os
import stat

from nono.errors import PolicyError
from nono.policy import data
from nono.policy.conditions import Facts, system_of
from nono.policy.inherit import BUILT_IN, Source
from nono.policy.network import nearest
from nono.policy.paths import Place

_ENDINGS = (".json", ".jsonc")
_MOST_BYTES = 4 << 20  # of a file that is read at all; policy has a stricter limit
_DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(data.__file__)), "profiles")
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_PACKS = {"claude": "claude-code", "claude-code": "claude-code", "codex": "codex", "opencode": "opencode"}


class Profiles:
    """The profiles of the user who stands at `place`."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def read(self, name: str, referrer: str = "") -> Source:
        """Return the profile called `name`, or in that file. referrer: the path of the one that extends it.

        Raises PolicyError where there is none, or it cannot be read.
        """
        from_built_in = referrer.startswith(BUILT_IN)
        if is_file(name) and not from_built_in:
            path = f"{self._place.home}{name[1:]}" if name.startswith("~/") else name
            path = os.path.abspath(os.path.join(os.path.dirname(referrer), path))
            if not os.path.lexists(path):
                raise PolicyError(f"profile {path}: does not exist{self._instead_of_file(name)}")
            return Source("", path, _text(path))
        own = None if from_built_in else self._own(name)
        if own is not None and own != referrer:
            return Source(name, own, _text(own))
        path = f"{os.path.join(_DIRECTORY, name)}.json"
        if _NAME.issuperset(name) and not name.startswith(".") and os.path.exists(path):
            return Source(name, BUILT_IN, _text(path))
        raise self._unknown(name, referrer)

    def names(self) -> dict[str, str]:
        """Return the names of all profiles that can be named, each with its file or BUILT_IN."""
        found = {os.path.splitext(entry)[0]: BUILT_IN for entry in sorted(os.listdir(_DIRECTORY))}
        try:
            entries = sorted(os.listdir(self._place.profiles))
        except OSError:
            entries = []
        for entry in entries:
            if entry.endswith(_ENDINGS) and not entry.startswith("."):
                found[os.path.splitext(entry)[0]] = os.path.join(self._place.profiles, entry)
        return found

    def _own(self, name: str) -> str | None:
        stem = os.path.join(self._place.profiles, name)
        paths = [stem + ending for ending in _ENDINGS if os.path.lexists(stem + ending)]
        if len(paths) > 1:
            raise PolicyError(f"profile {name}: there are {' and '.join(paths)}; keep one of them")
        return paths[0] if paths else None

    def _unknown(self, name: str, referrer: str) -> PolicyError:
        names = self.names()
        near = nearest(name, names)
        hint = f"; did you mean {near}?" if near else "."
        who = f"profile {referrer}: extends: " if referrer else ""
        return PolicyError(
            f"{who}there is no profile '{name}'{hint} There are {', '.join(sorted(names))}. Your own are "
            f"{self._place.profiles}/NAME.json"
        )

    def _instead_of_file(self, name: str) -> str:
        namespace, _, stem = name.rpartition("/")
        if not namespace or namespace.startswith(("/", ".", "~")) or name.endswith(_ENDINGS):
            return ""
        instead = _PACKS.get(stem, stem)
        hint = f"; did you mean {instead}?" if instead in self.names() else ""
        return f", and nono has no packs{hint}"


def is_file(name: str) -> bool:
    """Whether `name` is that of a file, and not of a profile."""
    return "/" in name or name.endswith(_ENDINGS)


def _text(path: str) -> str:
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        with open(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PolicyError(f"profile {path}: is not a regular file")
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"profile {path}: cannot be read: {error.strerror}") from None
    if len(raw) > _MOST_BYTES:
        raise PolicyError(f"profile {path}: is longer than {_MOST_BYTES >> 20} MiB, which no profile is")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise PolicyError(f"profile {path}: it is not valid UTF-8") from None


def find_facts(platform: str) -> Facts:
    """Return what this machine is, as far as it says so. platform: sys.platform."""
    system = system_of(platform)
    if system == "macos":
        _, _, rest = _said("/System/Library/CoreServices/SystemVersion.plist").partition("<key>ProductVersion</key>")
        return Facts(system, version=rest.partition("<string>")[2].partition("</string>")[0].strip())
    if system != "linux":
        return Facts(system)
    says = {}
    for line in (_said("/etc/os-release") or _said("/usr/lib/os-release")).splitlines():
        name, _, value = line.strip().partition("=")
        says[name] = value[1:-1] if value[:1] in ('"', "'") and value[-1:] == value[:1] else value
    return Facts(
        system,
        says.get("ID", ""),
        tuple(says.get("ID_LIKE", "").split()),
        says.get("VERSION_ID", ""),
        says.get("VARIANT_ID", ""),
    )


def _said(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""
