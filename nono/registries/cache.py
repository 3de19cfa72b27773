"""What the managers answered: one file in the state directory, which every sandbox denies to the agent.

An answer is kept under the digest of what its manager obeyed (managers.py). A file that is damaged, of another format,
or not this user's alone counts as none. It is replaced in one step, so a reader sees an old one or a new one.

An answer that is not whole (there was no network to learn from where an index serves its files) is asked for again
after RETRY_S; any after KEEP_S, because an index may move its files without a word. Until a new one is there, the old
one is good.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Mapping

from nono.errors import PolicyError
from nono.policy.allowlist import parse_entry
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RETRY_S = 3600.0
KEEP_S = 7 * 86400.0
_FORMAT = 1
_MAX_BYTES = 1 << 18
_MAX_ANSWERS = 64
_MAX_HOSTS = 64  # of one manager


class Host(Record):
    """One member of the group, as an entry of the allowlist, and what named it: a file, a variable, a default."""

    entry: str
    source: str


class Answer(Record):
    """What one manager said. asked: seconds since 1970. whole: False when a part could not be learnt."""

    hosts: tuple[Host, ...]
    whole: bool
    asked: float

    def is_stale(self, now: float) -> bool:
        """Whether it is time to ask again. A clock that went back makes it so, too."""
        return not 0 <= now - self.asked < (KEEP_S if self.whole else RETRY_S)


def path(state: str) -> str:
    """Return the cache's path in the state directory."""
    return os.path.join(state, "registries.json")


def load(state: str) -> dict[str, Answer]:
    """Return the answers by their keys; none when there is no sound file."""
    try:
        fd = os.open(path(state), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
                return {}
            content = json.loads(file.read(_MAX_BYTES))
        if content["format"] != _FORMAT:
            return {}
        return {str(key): _answer(fields) for key, fields in content["answers"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, PolicyError):
        return {}


def store(state: str, answers: Mapping[str, Answer]) -> None:
    """Add `answers` to the cache. One that cannot be written is asked for again next time."""
    known = {**load(state), **answers}
    newest = sorted(known.items(), key=lambda item: -item[1].asked)[:_MAX_ANSWERS]
    fields = {key: {"hosts": answer.hosts, "whole": answer.whole, "asked": answer.asked} for key, answer in newest}
    data = json.dumps({"format": _FORMAT, "answers": fields}, indent=1).encode()
    temporary = f"{path(state)}.{os.getpid()}.new"
    try:
        os.makedirs(state, mode=0o700, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(temporary, path(state))
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass


def answer(hosts: Iterable[Host], whole: bool) -> Answer:
    """Return the answer that was given now, each host once."""
    once: dict[str, Host] = {}
    for host in hosts:
        once.setdefault(host.entry, host)
    return Answer(tuple(once.values())[:_MAX_HOSTS], whole, time.time())


def _answer(fields: Any) -> Answer:
    """Return an answer as it was stored. Raises for what no answer looks like."""
    hosts = tuple(Host(str(entry), str(source)) for entry, source in fields["hosts"][:_MAX_HOSTS])
    for host in hosts:
        if parse_entry(host.entry).is_suffix or "/" in host.entry:
            raise PolicyError(f"{host.entry} is not a host")
    return Answer(hosts, fields["whole"] is True, float(fields["asked"]))
