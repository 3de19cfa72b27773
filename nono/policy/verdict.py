"""May the agent have this, why, and what would change it: the one place that says so in words.

Pure: no disk, no look-up. `nono why`, the footer after a run and `nono learn` ask it, so that one denial is explained
one way. It explains what was decided elsewhere: grants and denies of the capability set, and what the sandbox really
gives at a path (`reached`, told by the kernel or by the plan), which is never second-guessed here. Hosts are judged in
host_verdict.py, by the allowlist itself.

A path is judged by where it leads (`real_path`); one that does not exist yet is written if its directory may be
written. A flag is only suggested where it would change the verdict: never for what nobody may open (nono's own
settings, keys of this run, the user's own --deny), nor where nothing can be made because something protected lies
beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nono.policy.capabilities import READ, TEMPORARY_DIRECTORY, WRITE, PathDeny, PathGrant, is_at_or_below
from nono.policy.paths import escaped
from nono.policy.protection import PROFILES_DENY, USERS_DENY, can_be_bypassed
from nono.policy.resolve import Place
from nono.record import Record

PATH_GRANTED, PATH_NOT_GRANTED = "path_granted", "path_not_granted"
SENSITIVE_PATH = "sensitive_path"
INSUFFICIENT_ACCESS = "insufficient_access"
NOT_FOUND = "not_found"
PRIVATE_DIRECTORY = "private_directory"  # the agent has a directory of its own there
FILE_PERMISSIONS = "file_permissions"  # the user himself may not, sandbox or no sandbox

BUILT_IN = "built-in"
COMMAND = "the command"  # PathGrant.origin of what the command needs to start (supervisor/command.py)
BOTH = READ | WRITE
WORDS = {READ: "read", WRITE: "write", BOTH: "read and write"}
FIELDS = {READ: "read", WRITE: "write", BOTH: "allow"}
_WRITABLE_PRIVATE = ("/tmp", "/dev/shm")
# What a shell takes as it is.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%+,-./:=@_")


class Verdict(Record):
    """reason: one of the words above, or of host_verdict.py. origin: what decided, in the user's words: a flag, a
    profile, a group, the command; "" where nothing did. detail: one sentence. closest: the grant or the allowed host
    that is nearest. flag: what would change it, as the user would type it; profile_line: as a profile has it.
    """

    allowed: bool
    reason: str
    origin: str = ""
    detail: str = ""
    closest: str = ""
    flag: str = ""
    profile_line: str = ""


def judge_path(
    path: str,
    real_path: str,
    access: int,
    grants: Iterable[PathGrant],
    denies: Iterable[PathDeny],
    place: Place,
    is_directory: bool = False,
    *,
    exists: bool = True,
    reached: int | None = None,
    permitted: int = BOTH,
    private: str = "",
    directory: str = "",
) -> Verdict:
    """Return whether `path`, absolute and normalised, may be had with `access` (READ | WRITE bits), and why.

    real_path: where it leads. grants: their paths real, too. reached: what the sandbox gives there (READ | WRITE bits);
    None: told from grants and denies alone. permitted: what the user himself may do. private: the directory of the
    agent's own (/tmp, /dev …) in which it sees something else by this name. directory: the nearest directory above it
    that exists, for what does not.
    """
    asked = _Asked(path, real_path, access, place, is_directory, exists, directory or _above(real_path))
    granted = [grant for grant in grants if grant.access]
    covering = sorted((g for g in granted if _covers(g, real_path)), key=lambda g: len(g.path))
    denied = _denied(asked, tuple(denies), reached)
    if private and not (denied and exists and access & READ):
        return _in_private(asked, private, granted)
    if denied:
        return _sensitive(asked, denied, granted)
    has = _union(covering) if reached is None else reached
    if access & ~has == 0:
        origin = next((grant for grant in reversed(covering) if grant.access & access), None)
        if access & ~permitted:
            detail = f"the user himself may not {WORDS[access & ~permitted]} it: the permissions of the file forbid it"
            return Verdict(False, FILE_PERMISSIONS, "", _sentence(detail), _named(origin, place))
        return _granted(asked, origin)
    missing = access & ~has
    below = _protected_in(asked, denies) if missing & WRITE and (is_directory or not exists) else None
    if below is not None and any(grant.access & WRITE for grant in covering):
        detail = (
            f"nothing new can be made directly in {show(asked.directory_to_write, place)}, because it holds "
            f"{show(below.path, place)} ({below.group}), which is protected"
        )
        if not exists:
            detail += "; make it before the run, and grant it by its own name"
        return Verdict(False, INSUFFICIENT_ACCESS, below.group, _sentence(detail), _named(covering[-1], place))
    if not exists and not access & WRITE:
        detail = "there is nothing of this name, so nothing can be granted; a grant of its directory would cover it"
        return Verdict(False, NOT_FOUND, "", _sentence(detail), _nearest_grant(asked, granted))
    flag, line = _grant_flag(asked, missing)
    if has:
        origin = next((grant for grant in reversed(covering) if grant.access & has), None)
        by = f" ({show(origin.path, place)}: {origin.origin})" if origin else ""
        detail = f"the agent may only {WORDS[has]} it{by}"
        return Verdict(
            False, INSUFFICIENT_ACCESS, origin.origin if origin else "", _sentence(detail), _named(origin, place),
            flag, line,
        )  # fmt: skip
    detail = f"no grant covers it{_leads(asked)}"
    if not flag:
        detail += "; make it before the run, and grant it by its own name"
    return Verdict(False, PATH_NOT_GRANTED, "", _sentence(detail), _nearest_grant(asked, granted), flag, line)


def source(origin: str) -> tuple[str, str]:
    """Return what `origin` is, and its name: ("flag", "--allow"), ("profile", NAME), ("group", NAME) …"""
    if origin.startswith("--"):
        return "flag", origin
    kind, _, name = origin.partition(" ")
    if kind == "profile":
        return kind, name
    if origin == COMMAND:
        return "command", ""
    if not origin:
        return "none", ""
    return (
        ("built-in", "" if origin == BUILT_IN else origin) if " " in origin or origin == BUILT_IN else ("group", origin)
    )


def show(path: str, place: Place) -> str:
    """Return a path as a person reads it: from ~, where it is below the home directory."""
    home = place.home.rstrip("/")
    if home and is_at_or_below(path, home):
        return "~" + path[len(home) :]
    return path


def quote(path: str, place: Place) -> str:
    """Return a path as a shell reads it, and then nono: a dollar sign is written twice (paths.py)."""
    shown = show(path, place).replace("$", "$$")
    if shown.startswith("~/") or shown == "~":
        head, rest = shown[:2], shown[2:]
        return head + shell_quoted(rest) if rest else shown
    return shell_quoted(shown)


def in_profile(path: str, place: Place) -> str:
    """Return a path as a profile has it (paths.py)."""
    return escaped(show(path, place))


def profile_line(section: str, fields: Iterable[tuple[str, str]]) -> str:
    """Return a member of a profile, in JSON: `"filesystem": {"read": ["~/notes"]}`."""
    lists: dict[str, list[str]] = {}
    for name, value in fields:
        lists.setdefault(name, []).append(_json(value))
    inside = ", ".join(f'"{name}": [{", ".join(values)}]' for name, values in lists.items())
    return f'"{section}": {{{inside}}}'


class _Asked(Record):
    """What is asked about, and where the user stands. directory: the nearest one above it that exists."""

    path: str
    real_path: str
    access: int
    place: Place
    is_directory: bool
    exists: bool
    directory: str

    @property
    def directory_to_write(self) -> str:
        """Where something new would be made."""
        return self.real_path if self.is_directory else self.directory


def _granted(asked: _Asked, grant: PathGrant | None) -> Verdict:
    where = show(grant.path, asked.place) if grant else ""
    detail = f"it is granted by {_origin(grant)} {where}" if grant else "the sandbox gives it"
    if not asked.exists:
        detail += "; it does not exist yet"
    return Verdict(True, PATH_GRANTED, grant.origin if grant else "", _sentence(detail), where)


def _in_private(asked: _Asked, private: str, grants: Sequence[PathGrant]) -> Verdict:
    """Judge what the agent does not see, because it has a directory of its own there."""
    own = f"the agent has a {private} of its own"
    writable = private in _WRITABLE_PRIVATE
    if asked.real_path == private and (asked.access == READ or writable):
        return Verdict(True, PRIVATE_DIRECTORY, BUILT_IN, _sentence(f"{own}, empty at first"), private)
    if writable and asked.access & WRITE and not (asked.exists and asked.access & READ):
        detail = f"{own}: what it writes there is seen by nobody else, and gone after the run"
        return Verdict(True, PRIVATE_DIRECTORY, BUILT_IN, _sentence(detail), private)
    nearest = _nearest_grant(asked, grants)
    if not asked.exists:
        return Verdict(False, NOT_FOUND, BUILT_IN, _sentence(f"{own}, and there is nothing of this name"), nearest)
    flag, line = ("", "") if private == "/proc" else _grant_flag(asked, asked.access)
    return Verdict(False, PATH_NOT_GRANTED, BUILT_IN, _sentence(f"{own}, without this"), nearest, flag, line)


def _denied(asked: _Asked, denies: Sequence[PathDeny], reached: int | None) -> list[PathDeny]:
    """Return what denies it: by its real name always, by the other where the sandbox does not give it."""
    names = {asked.real_path}
    if reached is None or asked.access & ~reached:
        names.add(asked.path)
    return [
        d for d in denies if d.access & asked.access and not d.is_link and any(_is_denied(d, name) for name in names)
    ]


def _is_denied(deny: PathDeny, path: str) -> bool:
    if not is_at_or_below(path.lower(), deny.path.lower()):
        return False
    return not any(is_at_or_below(path, hole) for hole in deny.holes)


def _sensitive(asked: _Asked, denied: Sequence[PathDeny], grants: Sequence[PathGrant]) -> Verdict:
    place = asked.place
    deny = next((deny for deny in denied if not can_be_bypassed(deny)), denied[0])
    where = show(deny.path, place)
    nearest = _named(max((g for g in grants if _covers(g, asked.real_path)), key=_length, default=None), place)
    origin = deny.group
    if deny.group in (USERS_DENY, PROFILES_DENY):
        what = "filesystem.deny of the profile" if deny.group == PROFILES_DENY else deny.group
        detail = f"it is denied by {what} ({where}), and only leaving that out would open it"
    elif not deny.access & READ:
        detail = f"it stays read-only ({deny.group}: {where}), whatever is granted"
    elif not can_be_bypassed(deny):
        detail = f"it is protected ({deny.group}: {where}) and never opened, because it decides what later runs may do"
        if not deny.group.startswith("deny_"):
            detail = f"it is protected ({deny.group}: {where}) and never opened by a grant"
    else:
        detail = f"it is protected ({deny.group}: {where}), also inside of what is granted"
        detail += "" if asked.exists else "; there is nothing of this name"
        opened = next((p for p in (asked.path, asked.real_path) if is_at_or_below(p, deny.path)), "")
        if opened and (asked.exists or not asked.access & WRITE):
            flag, line = _grant_flag(asked, asked.access, opened)
            return Verdict(False, SENSITIVE_PATH, origin, _sentence(detail), nearest, flag, line)
    return Verdict(False, SENSITIVE_PATH, origin, _sentence(detail), nearest)


def _grant_flag(asked: _Asked, missing: int, bypass: str = "") -> tuple[str, str]:
    """Return the flag, and the profile's line, that grants what is missing; bypass: what is opened before."""
    path, is_directory = bypass or asked.path, asked.is_directory
    if not asked.exists:
        path, is_directory = asked.directory, True
        if is_at_or_below(asked.place.home, path):
            return "", ""  # they hold protected paths, so that nothing can be made in them
    field = FIELDS[missing] + ("" if is_directory else "_file")
    flag = f"--{field.replace('_', '-')} {quote(path, asked.place)}"
    fields = [(field, in_profile(path, asked.place))]
    if bypass:
        flag = f"--bypass-protection {quote(bypass, asked.place)} {flag}"
        fields.insert(0, ("bypass_protection", in_profile(bypass, asked.place)))
    return flag, profile_line("filesystem", fields)


def _protected_in(asked: _Asked, denies: Iterable[PathDeny]) -> PathDeny | None:
    """Return what is protected below the directory in which something would be made."""
    top = asked.directory_to_write.lower()
    below = [deny for deny in denies if deny.access & WRITE and is_at_or_below(deny.path.lower(), top)]
    return min(below, key=lambda deny: (deny.path.count("/"), deny.path), default=None)


def _nearest_grant(asked: _Asked, grants: Sequence[PathGrant]) -> str:
    """Return the grant that shares most of the way; one that shares only the root, or the home, is not near."""
    home = asked.place.home.rstrip("/")
    least = home.count("/") + 1 if is_at_or_below(asked.real_path, home or "/nonexistent") else 1
    grants = [grant for grant in grants if grant.origin != TEMPORARY_DIRECTORY]
    scored = [(_shared(asked.real_path, grant.path), -len(grant.path), index) for index, grant in enumerate(grants)]
    best = max(scored, default=(0, 0, 0))
    return _named(grants[best[2]], asked.place) if best[0] > least else ""


def _shared(one: str, other: str) -> int:
    """Return how many names, from the root, two paths have in common; one more where only the last name differs."""
    left, right = one.split("/"), other.split("/")
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def _covers(grant: PathGrant, path: str) -> bool:
    return path == grant.path if grant.is_file else is_at_or_below(path, grant.path)


def _origin(grant: PathGrant) -> str:
    kind, _ = source(grant.origin)
    return f"the group {grant.origin}:" if kind == "group" else grant.origin


def _union(grants: Iterable[PathGrant]) -> int:
    access = 0
    for grant in grants:
        access |= grant.access
    return access


def _length(grant: PathGrant) -> int:
    return len(grant.path)


def _named(grant: PathGrant | None, place: Place) -> str:
    return f"{show(grant.path, place)} ({grant.origin}, {WORDS[grant.access]})" if grant is not None else ""


def _leads(asked: _Asked) -> str:
    if asked.path == asked.real_path:
        return ""
    return f", and it leads to {show(asked.real_path, asked.place)}"


def _above(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def shell_quoted(text: str) -> str:
    """Return one word as a shell reads it."""
    return text if text and _PLAIN.issuperset(text) else "'" + text.replace("'", "'\\''") + "'"


def _json(text: str) -> str:
    """Return a JSON string; what is no text (a name that is not UTF-8) as JSON's own escapes."""
    escaped = (f"\\u{ord(c):04x}" if ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 else c for c in text)
    return '"' + "".join(escaped if escaped not in '"\\' else "\\" + escaped for escaped in escaped) + '"'
