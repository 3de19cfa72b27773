"""One run with more let through than usual, and what it used: for `nono learn`.

What is let through, beyond what the flags grant:

- reading, and executing, whatever no group protects: all of the machine but the protected paths and the machine's own
  /tmp, /dev, /proc and /sys (a run has its own, or none). So a profile can be found in one run instead of many, each of
  which ends at the next file. What it costs is said by the verb: the command can read much, and send it;
- any public host by way of the proxy, unless the network is blocked.

Not: writing anywhere but where the flags allow it (by default the working directory; unless that is the home or above
it) and in the temporary directory; Unix sockets; private, link-local and metadata addresses; what is protected. A
command that wanted it was denied, and the profile says so in a comment. Writes are not let through and undone, because
what was written elsewhere may have been acted on by then.

The wall is that of any run: Landlock, the mounts and the filter judge; recording (supervisor/recorder.py) is beside
them and could be left out. What the command wanted is looked at after its end, when nothing of it lives: where its
paths lead, and what is there. A command that lies to the recorder (by rewriting the path while it is read) falsifies
its own record: it gets a line for something that it could have opened in plain sight; never for a protected path,
because each line is held against what the sandbox gave (policy/learned.py).
"""

from __future__ import annotations

import os
import posixpath
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from nono.errors import CommandNotExecutable, CommandNotFound, PolicyError, Refusal
from nono.kernel.spawn import MOUNT_BIND, address_of
from nono.policy import learned_profile
from nono.policy.allowlist import Allowlist, normalise
from nono.policy.capabilities import NETWORK_BLOCKED, READ, CapabilitySet, PathDeny, PathGrant, is_at_or_below
from nono.policy.learned import (
    ENTRY,
    EXECUTE,
    FILE,
    MKDIR,
    Hosts,
    Known,
    Learned,
    Tree,
    Wish,
    entry_of,
    learn,
)
from nono.policy.network import GROUPS
from nono.policy.resolve import Place, expand
from nono.record import Record
from nono.sandbox.bpf import Recorded
from nono.sandbox.expansion import ABSENT, DIRECTORY, Expansion
from nono.sandbox.filesystem import Disk
from nono.sandbox.plan import Plan
from nono.sandbox.recorded import RECORDED
from nono.session import run as session
from nono.session.policy import Decision, Order
from nono.session.run import Summary
from nono.supervisor import command as commands
from nono.supervisor.recorder import MAX_PATHS, Recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.proxy.server import Exchange
    from nono.supervisor.denials import Denial

ORIGIN = "nono learn"
_CLOSED_AT_THE_TOP = ("/dev", "/proc", "/sys", "/tmp", "/lost+found")
_OWN = ("/proc", "/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/tty", "/dev/ptmx", "/dev/pts", "/dev/shm")
_MAX_EXECUTED = 1000
_MAX_REFUSED = 100


class Found(Record):
    """What a run used. sockets: Unix sockets that it asked for, absolute. notes: on the recording, a sentence each."""

    learned: Learned
    hosts: Hosts
    place: Place
    blocked: bool
    sockets: tuple[str, ...]
    notes: tuple[str, ...]


class Learner:
    """Opens more, records, and judges what was recorded. One for one run; `found` is there after it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.recorder = Recorder()
        self.refusals: list[Denial] = []  # of the mediator
        self.found: Found | None = None
        self._environment = environment
        self._hosts: dict[str, None] = {}
        self._refused: dict[str, str] = {}
        self._credentials: dict[str, None] = {}

    def widened(self, decision: Decision, capabilities: CapabilitySet) -> CapabilitySet:
        """Return the capabilities with everything to be read that may be."""
        self._decision = decision
        self._capabilities = capabilities
        denied = {path for deny in capabilities.denies if deny.access & READ for path in (deny.path, _real(deny.path))}
        paths = [path for path in _top_level() if path not in denied]
        home = _real(decision.place.home)
        if not any(is_at_or_below(home, path) for path in paths) and home != "/":
            paths.append(home)  # somewhere below /tmp
        wide = (PathGrant(path, READ, False, ORIGIN) for path in paths)
        return capabilities._replace(grants=(*capabilities.grants, *wide))

    def recorded(self, path: bytes) -> Recorded:
        """Return what is recorded of a run that starts with the execve of `path`."""
        return Recorded(RECORDED, address_of(path))

    def seen(self, exchanges: Sequence[Exchange]) -> None:
        """Take what the proxy tells of the exchanges."""
        for exchange in exchanges:
            if exchange.verdict == "refused":
                if exchange.host and len(self._refused) < _MAX_REFUSED:
                    self._refused.setdefault(exchange.host, exchange.reason)
            elif exchange.route:
                self._credentials[exchange.route] = None
            elif not exchange.address:
                if exchange.code != "opened" and len(self._refused) < _MAX_REFUSED:
                    self._refused.setdefault(exchange.host, exchange.reason or "it could not be reached")
            elif exchange.host:
                self._hosts[_entry(exchange.host, tunnel=exchange.method == "CONNECT")] = None

    def ended(self, plan: Plan, expansion: Expansion, temporary_directory: str) -> None:
        """Judge what was recorded. plan, expansion: of this run. The temporary directory is still there."""
        self.recorder.drain()
        has, place = self._capabilities, self._decision.place
        disk = Disk()
        names = _Names(disk, plan, expansion, temporary_directory)
        known = self._known(disk, expansion, temporary_directory)
        wishes = [wish for path, access in self.recorder.accesses.items() for wish in names.wishes(path, access)]
        wishes += self._interpreters(disk)
        sockets = [refusal.what for refusal in self.refusals if refusal.access == "connect" and refusal.what[:1] == "/"]
        for refusal in self.refusals:
            if refusal.what and refusal.what not in sockets:
                self._refused.setdefault(refusal.what, f"{refusal.detail} was refused")
        allowed = {host: _group_of(host) for host in self._hosts}
        refused = tuple((host, reason) for host, reason in self._refused.items() if host not in allowed)
        self.found = Found(
            learned=learn(wishes, known),
            hosts=Hosts(allowed, refused, tuple(self._credentials)),
            place=place,
            blocked=has.network == NETWORK_BLOCKED,
            sockets=tuple(sockets),
            notes=tuple(self._notes()),
        )

    def _notes(self) -> Iterable[str]:
        if not self.recorder.is_whole:
            yield f"The record is not whole: the run named more than {MAX_PATHS} paths."
        if self.recorder.unread:
            yield f"The record is not whole: {self.recorder.unread} paths could not be read from their process."

    def _known(self, disk: Disk, expansion: Expansion, temporary_directory: str) -> Known:
        has, place = self._capabilities, self._decision.place
        home, workdir = _real(place.home), _real(place.workdir)
        always: list[Tree] = []
        granted: list[Tree] = []
        for grant in has.grants:
            entry = disk.look(grant.path)
            if entry.kind != ABSENT:
                tree = Tree(entry.path, grant.access, entry.kind == DIRECTORY)
                (always if grant.optional else granted).append(tree)
        given = [Tree(piece.path, piece.access, piece.kind == DIRECTORY) for piece in expansion.pieces]
        denies: dict[PathDeny, None] = {}
        for deny in has.denies:
            for path in (deny.path, disk.look(deny.path).path):
                denies[deny._replace(path=path)] = None
        bypassed = dict.fromkeys(name for path in has.bypassed for name in (path, _real(path)))
        return Known(
            home=home,
            workdir=workdir if has_own_workdir(place) else "",
            cache=_real(self._environment.get("XDG_CACHE_HOME") or f"{home}/.cache"),
            dropped=(_real(temporary_directory),),
            always=tuple(always),
            given=tuple(given),
            granted=tuple(tree for tree in granted if tree.path != workdir or not has_own_workdir(place)),
            denies=tuple(denies),
            bypassed=tuple(bypassed),
        )

    def _interpreters(self, disk: Disk) -> Iterable[Wish]:
        """Yield what executing scripts took besides: the programs that their first lines name."""
        executed = (path for path, access in self.recorder.accesses.items() if access & EXECUTE)
        for path, _ in zip(executed, range(_MAX_EXECUTED), strict=False):
            try:
                grants = commands.find(os.fsdecode(path), self._environment, self._decision.place.home).grants
            except (CommandNotFound, CommandNotExecutable, OSError):
                continue
            for grant in grants:
                entry = disk.look(grant.path)
                if grant.is_file and entry.kind == FILE:
                    yield Wish(entry.path, EXECUTE, FILE, os.path.dirname(entry.path))


class _Names:
    """The names that the command used -> wishes, by what they lead to now."""

    def __init__(self, disk: Disk, plan: Plan, expansion: Expansion, temporary_directory: str) -> None:
        self._disk = disk
        self._temporary_directory = temporary_directory
        has_own_tmp = any((mount.kind, mount.target) == (MOUNT_BIND, "/tmp") for mount in plan.mounts)
        self._below_tmp = [piece.path for piece in expansion.pieces if piece.path.startswith("/tmp/")]
        self._has_own_tmp = has_own_tmp
        self._own = _OWN if plan.own_terminals else _OWN[:-1]

    def wishes(self, path: bytes, access: int) -> Iterable[Wish]:
        """Yield what was wanted of the path `path`, as the command named it."""
        name = _tidy(os.fsdecode(path))
        if any(is_at_or_below(name, own) for own in self._own):
            return
        if self._has_own_tmp and is_at_or_below(name, "/tmp") and not self._is_shown(name):
            name = self._temporary_directory + name[4:]
        if access & ENTRY:
            yield self._entry(name, access & (ENTRY | MKDIR))
        access &= ~(ENTRY | MKDIR)
        if not access:
            return
        entry = self._disk.look(name)
        directory = entry.path
        if entry.kind == ABSENT:
            directory = self._existing(directory)
        else:
            directory = os.path.dirname(directory)
            if access & READ and not os.access(entry.path, os.R_OK):
                access &= ~READ  # not the sandbox's doing, and not the profile's to change
        kind = entry.kind if entry.kind in (ABSENT, DIRECTORY) else FILE
        yield Wish(entry.path, access, kind, directory)

    def _is_shown(self, name: str) -> bool:
        return any(is_at_or_below(name, shown) for shown in self._below_tmp)

    def _entry(self, name: str, access: int) -> Wish:
        """Make, remove or rename: of the name itself, wherever it leads."""
        above, _, last = name.rpartition("/")
        directory = self._disk.look(above or "/")
        path = f"{directory.path.rstrip('/')}/{last}"
        if directory.kind != DIRECTORY:
            return Wish(path, access, ABSENT, self._existing(path))
        return Wish(path, access, FILE if os.path.lexists(path) else ABSENT, directory.path)

    def _existing(self, path: str) -> str:
        while self._disk.look(path).kind != DIRECTORY:
            path = os.path.dirname(path)
        return self._disk.look(path).path


def has_own_workdir(place: Place) -> bool:
    """Whether the working directory is one of its own, not the home or above it."""
    return not is_at_or_below(_real(place.home), _real(place.workdir))


def carry_out(
    order: Order,
    environment: Mapping[str, str],
    tell: Callable[[Summary], None],
    notice: Callable[[str], None],
) -> tuple[int, Found | None]:
    """Run the command of `order`; return its exit status, and what it used. As session.run."""
    learner = Learner(environment)
    status = session.run(order, environment, tell, notice, learner.seen, learner=learner)
    return status, learner.found


def profile(found: Found, name: str, argv: Sequence[str], extends: str = "") -> str:
    """Return the profile that lets the command run again."""
    place = found.place

    def read(path: str) -> str:
        return expand(path, place)

    variables = [("$WORKDIR", _real(place.workdir)), ("$WORKDIR", place.workdir)] if has_own_workdir(place) else []
    variables += [("~", place.home), ("~", _real(place.home))]
    about = learned_profile.About(
        name=name,
        command=argv,
        when=time.strftime("%Y-%m-%d", time.gmtime()),
        notes=found.notes,
        blocked=found.blocked,
        variables=variables,
        expand=read,
        extends=extends,
        sockets=found.sockets,
    )
    return learned_profile.text(found.learned, found.hosts, about)


def _top_level() -> list[str]:
    with os.scandir("/") as entries:
        found = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return sorted(path for path in found if path not in _CLOSED_AT_THE_TOP)


def _real(path: str) -> str:
    return os.path.realpath(path)


def _tidy(path: str) -> str:
    """Return `path` without what says nothing; `..` is taken out as the kernel does, behind links."""
    if "/.." in path:
        return os.path.realpath(path)
    return "/" + posixpath.normpath(path).lstrip("/")


def _entry(host: str, *, tunnel: bool) -> str:
    entry = entry_of(host, tunnel=tunnel)
    try:
        return entry if entry.startswith("[") or ":" in entry else normalise(entry)
    except ValueError:
        return entry


def _group_of(entry: str) -> str:
    """Return the group of hosts that has this one; "" for none."""
    for name, hosts in GROUPS.items():
        try:
            Allowlist((), (), hosts)(entry, 443, tunnel=True)
        except (Refusal, PolicyError):
            continue
        return name
    return ""
