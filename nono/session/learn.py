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
from nono.kernel.spawn import address_of
from nono.policy import learned_profile, paths
from nono.policy.allowlist import Allowlist, normalise, parse_entry
from nono.policy.capabilities import NETWORK_BLOCKED, READ, CapabilitySet, PathDeny, PathGrant, is_at_or_below
from nono.policy.groups import DEFAULT, GROUPS, system_grants
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
from nono.policy.network import GROUPS as HOST_GROUPS
from nono.policy.network import profile_hosts
from nono.policy.resolve import OWN_SOCKETS, Place, expand
from nono.record import Record
from nono.sandbox.bpf import Recorded
from nono.sandbox.expansion import ABSENT, DIRECTORY, Entry, Expansion
from nono.sandbox.filesystem import Disk
from nono.sandbox.mounts import has_own_tmp
from nono.sandbox.plan import Plan
from nono.sandbox.recorded import RECORDED
from nono.session import run as session
from nono.session.policy import Decision, Order
from nono.session.summary import Summary
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
_MAX_HOSTS = 1000
_MAX_DEPTH = 100


class Found(Record):
    """What a run used. sockets: Unix sockets that it asked for, absolute. notes: on the recording, a sentence each.

    extends: the profiles that the run had, on which the learned one builds. groups: (name, line) of groups that are not
    every run's and cover a line.
    """

    learned: Learned
    hosts: Hosts
    place: Place
    blocked: bool
    sockets: tuple[str, ...]
    notes: tuple[str, ...]
    extends: tuple[str, ...] = ()
    groups: tuple[tuple[str, str], ...] = ()


class Learner:
    """Opens more, records, and judges what was recorded. One for one run; `found` is there after it."""

    def __init__(self, order: Order, environment: Mapping[str, str]) -> None:
        self._order = order
        self.recorder = Recorder()
        self.refusals: list[Denial] = []  # of the mediator
        self.found: Found | None = None
        self._environment = environment
        self._hosts: dict[str, None] = {}
        self._untold_hosts = 0
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
            entry = _entry(exchange.host, tunnel=exchange.method == "CONNECT") if exchange.host else ""
            if exchange.verdict == "allowed" and exchange.route:
                self._credentials[exchange.route] = None
            elif exchange.verdict == "allowed" and exchange.address:
                if entry in self._hosts or len(self._hosts) < _MAX_HOSTS:
                    self._hosts[entry] = None
                else:
                    self._untold_hosts += 1
            elif entry and exchange.code != "opened" and len(self._refused) < _MAX_REFUSED:
                self._refused.setdefault(entry, exchange.reason or "it could not be reached")

    def ended(self, plan: Plan, expansion: Expansion, temporary_directory: str) -> None:
        """Judge what was recorded. plan, expansion: of this run. The temporary directory is still there."""
        self.recorder.drain()
        has, place = self._capabilities, self._decision.place
        disk = Disk()
        names = _Names(disk, plan, expansion, temporary_directory)
        known = self._known(disk, expansion, temporary_directory)
        wishes = [wish for path, access in self.recorder.accesses.items() for wish in names.wishes(path, access)]
        wishes += self._interpreters(disk, wishes)
        learned = learn(wishes, known)
        sockets = [refusal.what for refusal in self.refusals if refusal.access == "connect" and refusal.what[:1] == "/"]
        for refusal in self.refusals:
            if refusal.what and refusal.what not in sockets:
                self._refused.setdefault(refusal.what, refusal.detail)
        extends = self._extends()
        if extends:
            for grant in has.grants:
                if _is_of_profile(grant) and grant.path == place.workdir:
                    learned = learned._replace(workdir=learned.workdir | grant.access)
        self.found = Found(
            learned=learned,
            hosts=self._hosts_found(bool(extends)),
            place=place,
            blocked=has.network == NETWORK_BLOCKED,
            sockets=tuple(sockets),
            notes=(*self._notes(), *names.notes()),
            extends=extends,
            groups=tuple(_groups(learned, place, disk)),
        )

    def _extends(self) -> tuple[str, ...]:
        order = self._order
        named = (*order.request.extends, *([order.profile] if order.profile is not None else ()))
        return tuple(os.path.abspath(name) if "/" in name else name for name in named)

    def _hosts_found(self, extends: bool) -> Hosts:
        """What was connected to; not what a profile that is extended has already."""
        allowed: dict[str, str] = {}
        for host in self._hosts:
            allowed.update(dict.fromkeys(self._as_granted(host), _group_of(host)))
        credentials = tuple(self._credentials)
        inherited = self._decision.inherited
        if extends and inherited is not None:
            network = inherited.profile.network
            groups, _ = profile_hosts(network.network_profile) if network.network_profile else ((), False)
            has = Allowlist(network.allow_domain, (), groups)
            allowed = {host: group for host, group in allowed.items() if not _covers(has, host)}
            credentials = tuple(name for name in credentials if name not in network.credentials)
        refused = tuple((host, reason) for host, reason in self._refused.items() if host not in self._hosts)
        is_open = extends and self._capabilities.network != NETWORK_BLOCKED
        return Hosts(allowed, refused, credentials, inherits=is_open)

    def _as_granted(self, host: str) -> tuple[str, ...]:
        """Return the entries of the user's that grant some paths of a host only, or else the host."""
        written = [(text, parse_entry(text)) for text in self._capabilities.allowed_hosts if "://" in text]
        return tuple(text for text, entry in written if entry.rule and entry.name == host.partition(":")[0]) or (host,)

    def _notes(self) -> Iterable[str]:
        if not self.recorder.is_whole:
            yield f"The record is not whole: the run named more than {MAX_PATHS} paths."
        if self._untold_hosts:
            yield f"The record is not whole: the run connected to more than {_MAX_HOSTS} hosts."
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
                (always if grant.optional or _is_of_profile(grant) else granted).append(tree)
        given = [Tree(piece.path, piece.access, piece.kind == DIRECTORY) for piece in expansion.pieces]
        denies: dict[PathDeny, None] = {}
        for deny in has.denies:
            if deny.is_link:
                continue
            for path in (deny.path, disk.look(deny.path).path):
                denies[deny._replace(path=path)] = None
        bypassed = dict.fromkeys(name for path in has.bypassed for name in (path, _real(path)))
        return Known(
            home=home,
            workdir=workdir if has_own_workdir(place) else "",
            cache=_real(place.variables["XDG_CACHE_HOME"]),
            dropped=(_real(temporary_directory),),
            always=tuple(always),
            given=tuple(given),
            granted=tuple(tree for tree in granted if tree.path != workdir or not has_own_workdir(place)),
            denies=tuple(denies),
            bypassed=tuple(bypassed),
        )

    def _interpreters(self, disk: Disk, wishes: Iterable[Wish]) -> Iterable[Wish]:
        """Yield what executing scripts took besides: the programs that their first lines name."""
        executed = dict.fromkeys(wish.path for wish in wishes if wish.access & EXECUTE and wish.kind == FILE)
        for path in list(executed)[:_MAX_EXECUTED]:
            try:
                grants = commands.find(path, self._environment, self._decision.place.home).grants
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
        self._below_tmp = [piece.path for piece in expansion.pieces if piece.path.startswith("/tmp/")]
        self._has_own_tmp = has_own_tmp(plan.mounts)
        self._own = _OWN if plan.own_terminals else _OWN[:-1]
        self._too_deep = 0

    def notes(self) -> Iterable[str]:
        """Say what is missing."""
        if self._too_deep:
            yield f"The record is not whole: {self._too_deep} paths had more than {_MAX_DEPTH} names in them."

    def wishes(self, path: bytes, access: int) -> Iterable[Wish]:
        """Yield what was wanted of the path `path`, as the command named it."""
        name = _tidy(os.fsdecode(path))
        if any(is_at_or_below(name, own) for own in self._own):
            return
        if self._has_own_tmp and is_at_or_below(name, "/tmp") and not self._is_shown(name):
            inside = self._temporary_directory + name[4:]
            if os.path.lexists(inside) or not os.path.lexists(name):
                name = inside  # else it is the machine's, which the command looked for in vain
        if name.count("/") > _MAX_DEPTH:
            self._too_deep += 1
            return
        if access & ENTRY:
            yield self._entry(name, access & (ENTRY | MKDIR))
        access &= ~(ENTRY | MKDIR)
        if not access:
            return
        entry, directory = self._look(name)
        if entry.kind != ABSENT and access & READ and not os.access(entry.path, os.R_OK):
            access &= ~READ  # not the sandbox's doing, and not the profile's to change
        kind = entry.kind if entry.kind in (ABSENT, DIRECTORY) else FILE
        yield Wish(entry.path, access, kind, directory)

    def _look(self, name: str) -> tuple[Entry, str]:
        """Return what a path leads to, and the real directory that it is in, or the nearest that there is.

        From the top, and no farther than there is something: so what is not there leaves nothing behind in the Disk.
        """
        directory, path = "/", ""
        for part in name.strip("/").split("/"):
            path += f"/{part}"
            entry = self._disk.look(path)
            if entry.kind != DIRECTORY:
                break
            directory = entry.path
        if path != name and entry.kind != ABSENT:  # a file is no directory
            return Entry(name, ABSENT), directory
        if entry.kind == ABSENT:
            return Entry(entry.path + name[len(path) :], ABSENT), directory
        return entry, os.path.dirname(entry.path)

    def _is_shown(self, name: str) -> bool:
        return any(is_at_or_below(name, shown) for shown in self._below_tmp)

    def _entry(self, name: str, access: int) -> Wish:
        """Make, remove or rename: of the name itself, wherever it leads."""
        above, _, last = name.rpartition("/")
        directory, nearest = self._look(above or "/")
        path = f"{directory.path.rstrip('/')}/{last}"
        if directory.kind != DIRECTORY:
            return Wish(path, access, ABSENT, nearest)
        return Wish(path, access, FILE if os.path.lexists(path) else ABSENT, directory.path)


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
    learner = Learner(order, environment)
    status = session.run(order, environment, tell, notice, learner.seen, learner=learner)
    return status, learner.found


def profile(found: Found, name: str, order: Order) -> str:
    """Return the profile that lets the command of `order` run again."""
    place, request = found.place, order.request
    variables = [("$WORKDIR", directory) for directory in _names_of(place.workdir) if has_own_workdir(place)]
    moved = {name: path for name, path in place.variables.items() if name.startswith("XDG_") and path}
    variables += [
        (f"${name}", path) for name, path in moved.items() if not is_at_or_below(path, place.home) and path != "/"
    ]
    variables += [("~", directory) for directory in _names_of(place.home)]
    about = learned_profile.About(
        name=name,
        command=os.path.basename(order.argv[0]),
        when=time.strftime("%Y-%m-%d", time.gmtime()),
        notes=found.notes,
        blocked=found.blocked,
        variables=variables,
        expand=lambda path: _as_a_profile_has_it(path, place),
        extends=found.extends,
        sockets=found.sockets,
        groups=found.groups,
        network={
            "deny_domain": request.deny_domain if found.hosts.allowed else (),
            "open_port": request.open_port,
            "listen_port": request.listen_port,
        },
    )

    def rewritten(texts: Sequence[str]) -> list[str]:
        return [text if text == OWN_SOCKETS else learned_profile.written(expand(text, place), about) for text in texts]

    flags = {"deny": rewritten(request.deny), "unix_socket": rewritten(request.allow_unix_socket)}
    return learned_profile.text(found.learned, found.hosts, about._replace(filesystem=flags))


def _as_a_profile_has_it(path: str, place: Place) -> str:
    """Return where a path of a profile leads."""
    paths.check(path)
    return expand(paths.unescaped(path), place)


def _groups(learned: Learned, place: Place, disk: Disk) -> Iterable[tuple[str, str]]:
    """Yield what groups of language runtimes, which are no run's by default, have of the learned lines."""
    for name in GROUPS:
        if name in DEFAULT or not name.endswith("_runtime"):
            continue
        grants = system_grants(place.home, place.config_home, platform=place.platform, names=(name,))
        paths = [disk.look(grant.path).path for grant in grants if is_at_or_below(grant.path, place.home)]
        for line in learned.lines:
            if line.access == READ and any(is_at_or_below(line.path, path) for path in paths):
                yield name, line.path


def _is_of_profile(grant: PathGrant) -> bool:
    return grant.origin.startswith("profile")


def _names_of(path: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((path, _real(path))))


def _covers(allowlist: Allowlist, entry: str) -> bool:
    try:
        written = parse_entry(entry)
        return not allowlist(written.name, written.port or 443, tunnel=True).rules
    except (Refusal, PolicyError):
        return False


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
    return next((name for name, hosts in HOST_GROUPS.items() if _covers(Allowlist((), (), hosts), entry)), "")
