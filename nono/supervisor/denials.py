"""What was denied in a run, one Denial for each thing, with the flag that would grant it.

Pure: the disk and the policy come in as functions. Sources: the kernel's audit records (kernel/audit.py), what programs
said of it (wording.py), the mediator and the proxy.

A path is a denial only if the policy says so, too: what the policy grants, and what this user may not read or write
without nono either, is somebody else's affair. No suggestion is made that would open much at once: never the
home or what is above it; and files of one directory become the directory's flag only where that is below the home or
otherwise deep, and holds nothing protected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from nono.policy import verdict
from nono.policy.capabilities import READ, WRITE, PathDeny, is_at_or_below
from nono.policy.verdict import Verdict
from nono.record import Record

PATH, HOST, SOCKET, REQUEST = "path", "host", "socket", "request"  # Denial.kind
KERNEL, OUTPUT, MEDIATOR, PROXY = "kernel", "output", "mediator", "proxy"  # Denial.source
ACCESS = {0: "", READ: "read", WRITE: "write", READ | WRITE: "read+write"}
HOST_NOT_ALLOWED = "host_not_allowed"  # as policy/host_verdict.py has it
OUTSIDE_THE_WALL = "outside_the_wall"

MAX_LOOKED_AT = 256  # paths
_MAX_DENIALS = 1000
_MANY = 3  # files of one directory
_DEEP = 3  # names from the root
_OF_POLICY = (verdict.PATH_NOT_GRANTED, verdict.SENSITIVE_PATH, verdict.INSUFFICIENT_ACCESS)
_CODES = ("host_denied", "address_denied", "endpoint_denied", "credential_missing")  # of the proxy's refusals


class Denial(Record):
    """One thing that was denied.

    kind: PATH, HOST, SOCKET or REQUEST. what: the path, the host with its port, METHOD and URL. access: read, write,
    read+write; of sockets connect, bind or listen. reason: a word (policy/verdict.py, or the proxy's code).
    origin: what denies it: a group, "--deny", a profile; "" where nothing grants it. flag: what would grant it, as the
    user types it; "" for nothing. times: how often. detail: a sentence. source: who says so (OUTPUT: the agent itself).
    """

    kind: str
    what: str
    access: str
    reason: str
    origin: str
    flag: str
    times: int = 1
    detail: str = ""
    source: str = ""


class Attempt(Record):
    """A path that was tried. access: READ | WRITE bits, 0 where the source does not tell.

    absent: it was told not to be there. loose: it may be no path at all. real: as the kernel names it.
    """

    path: str
    access: int = 0
    absent: bool = False
    loose: bool = False
    source: str = OUTPUT


class Found(Record):
    """What the disk says of a path.

    real: without links. permitted: what this user may do there. directory: the nearest one above that exists. private:
    the directory of the agent's own that it lies in; "" for none. can_run: by its mode, or it is a directory.
    """

    real: str
    exists: bool
    is_directory: bool
    permitted: int
    directory: str
    private: str = ""
    can_run: bool = False


Look = Callable[[str], Found]
Judge = Callable[[str, Found, int], Verdict]


def of_paths(
    attempts: Mapping[Attempt, int], look: Look, judge: Judge, absolute: Callable[[str], str], home: str
) -> list[Denial]:
    """Return what the policy denied of `attempts`, in their order. absolute: resolves a path as the agent would."""
    tried: dict[str, tuple[int, int, Found, str]] = {}
    looked: dict[str, Found] = {}
    for attempt, count in attempts.items():
        path = absolute(attempt.path)
        if path not in looked:
            if len(looked) >= MAX_LOOKED_AT:
                continue
            looked[path] = look(path)
        found = looked[path]
        if path in tried and tried[path][3] == KERNEL != attempt.source:
            continue  # the same, told twice
        if _is_plausible(attempt, found) and (access := _denied_access(attempt, path, found, judge)):
            before = tried.get(path, (0, 0))
            tried[path] = (before[0] | access, before[1] + count, found, attempt.source)
    return [_of_path(path, *values, judge, home) for path, values in tried.items()]


def _is_plausible(attempt: Attempt, found: Found) -> bool:
    """Whether the words can mean this path: a creation needs its directory, and what is hidden has to be there."""
    if attempt.source == KERNEL:
        return True
    if attempt.absent:
        return found.exists and attempt.path.startswith(("/", "~"))
    if found.private:
        return False  # what the agent has there is its own, and so are its permissions
    return found.exists or not attempt.loose


def _denied_access(attempt: Attempt, path: str, found: Found, judge: Judge) -> int:
    """Return which access the policy denied, 0 for none of those that may be meant."""
    if attempt.access:
        asked: tuple[int, ...] = (attempt.access,)
    elif not found.exists:
        asked = (WRITE,)
    else:  # a file that may be read, but not run by its mode, was perhaps to be run: nobody's fault but the file's
        asked = (READ, WRITE) if found.can_run else (READ,)
    for access in asked:
        says = judge(path, found, access)
        if not says.allowed and says.reason in _OF_POLICY and not access & ~found.permitted:
            return access
    return 0


def _of_path(path: str, access: int, times: int, found: Found, source: str, judge: Judge, home: str) -> Denial:
    says = judge(path, found, access)
    flag = says.flag
    if found.real != path:  # an agent can make a link of any name; what is granted is what it leads to
        real = judge(found.real, found, access)
        flag = real.flag if real.reason == says.reason else flag
    # Nobody is advised to open his whole home, or more; and what cannot be shown, or looks like flags itself, cannot be
    # typed.
    named = found.real if found.exists else found.directory
    if is_at_or_below(home, named) or not flag.isprintable() or any(" -" in text for text in (path, found.real)):
        flag = ""
    return Denial(PATH, path, ACCESS[access], says.reason, says.origin, flag, times, says.detail, source)


def of_exchanges(refused: Iterable[tuple[Mapping[str, object], int]]) -> list[Denial]:
    """Return what the proxy refused by its policy. refused: the texts of each Exchange, and how often it came."""
    found = []
    for texts, count in refused:
        route, host, method, path, code, reason, flag = (
            str(texts.get(name, "")) for name in ("route", "host", "method", "path", "code", "reason", "flag")
        )
        if code not in _CODES:
            continue
        if code == "host_denied" or (code == "address_denied" and method == "CONNECT"):
            word = HOST_NOT_ALLOWED if flag and code == "host_denied" else code
            found.append(Denial(HOST, host, "connect", word, "", flag, count, reason, PROXY))
        else:
            what = f"{method} {host}{path}".strip()
            found.append(Denial(REQUEST, what, "", code, route, flag, count, reason, PROXY))
    return found


def grouped(denials: Iterable[Denial], look: Look, judge: Judge, home: str, denies: Iterable[PathDeny]) -> list[Denial]:
    """Return one Denial for each thing, and for files of one directory the directory; at most _MAX_DENIALS."""
    merged: dict[tuple[str, ...], Denial] = {}
    for denial in denials:
        # By its flag, where there is one: for what does not exist yet, that is its directory's.
        named = denial.flag if denial.flag and denial.kind != PATH else denial.what
        key = (denial.kind, named, denial.access)
        if key in merged:
            merged[key] = merged[key]._replace(times=merged[key].times + denial.times)
        elif len(merged) < _MAX_DENIALS:
            merged[key] = denial
    protected = [deny.path for deny in denies]
    return _with_directories(list(merged.values()), look, judge, home, protected)


def _with_directories(
    denials: list[Denial], look: Look, judge: Judge, home: str, protected: Iterable[str]
) -> list[Denial]:
    families: dict[tuple[str, str], list[Denial]] = {}
    for denial in denials:
        if denial.kind == PATH and denial.reason == verdict.PATH_NOT_GRANTED:
            families.setdefault((_above(denial.what), denial.access), []).append(denial)
    instead: dict[Denial, Denial | None] = {}
    for (directory, access), family in families.items():
        found = look(directory)
        same = len({denial.flag for denial in family}) == 1
        if len(family) < (2 if same else _MANY) or not may_be_named(found.real, home, protected):
            continue
        bits = next(bits for bits, word in ACCESS.items() if word == access)
        says = judge(directory, found, bits)
        if not found.is_directory or says.reason != verdict.PATH_NOT_GRANTED or not says.flag:
            continue
        count = sum(denial.times for denial in family)
        source = KERNEL if all(denial.source == KERNEL for denial in family) else OUTPUT
        whole = Denial(PATH, directory, access, says.reason, says.origin, says.flag, count, says.detail, source)
        instead.update(dict.fromkeys(family))
        instead[family[0]] = whole._replace(detail=f"{len(family)} paths in it.")
    return [new for denial in denials if (new := instead.get(denial, denial)) is not None]


def may_be_named(directory: str, home: str, protected: Iterable[str]) -> bool:
    """Whether a directory may be suggested in the place of files in it: not what is near the root, or holds secrets."""
    if is_at_or_below(home, directory) or any(is_at_or_below(path, directory) for path in protected):
        return False
    return is_at_or_below(directory, home) or directory.count("/") >= _DEEP


def _above(path: str) -> str:
    return path.rpartition("/")[0] or "/"
