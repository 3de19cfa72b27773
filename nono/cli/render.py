"""Results -> text for a person. The voice of DESIGN section 5: a few aligned lines on stderr, nothing else.

What is said is made as rows, (label, text) each, in the order paths, network, credentials, limits, wall; table() sets
them in COLUMNS columns, a label's colour only where a terminal shows it. Control characters never reach the terminal as
they are: a path or a name that an agent chose must not be able to repaint the screen.
"""

from __future__ import annotations

import os
import select
import sys

from nono.errors import Refusal
from nono.policy.allowlist import host_and_port, parse_entry
from nono.policy.capabilities import (
    NETWORK_BLOCKED,
    NETWORK_OPEN,
    READ,
    WRITE,
    CapabilitySet,
    PathGrant,
    is_at_or_below,
)
from nono.policy.network import GROUPS, NETWORK_PROFILES
from nono.policy.protection import PROFILES_DENY, USERS_DENY
from nono.supervisor.command import ORIGIN as COMMAND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nono.session.summary import Summary

_ACCESS = {READ: "read", WRITE: "write", READ | WRITE: "read+write"}
_WIDTH = 11
COLUMNS = 80
_PATIENCE_MS = 1000
_PIPE_BYTES = 4096  # PIPE_BUF: where poll(2) says that a pipe is writable, this much goes in without waiting
_MARGIN = 6 + _WIDTH + 1
_COLOURS = {"denied": 31, "warning": 33, "leaks": 33, "unprotected": 33, "note": 36}  # SGR: red, yellow, cyan
_HOSTS_SHOWN = 8
_PATHS_SHOWN = 8


def summary(what: Summary, home: str, verbose: bool) -> list[tuple[str, str]]:
    """Return the rows that say what the child may do."""
    rows: list[tuple[str, str]] = []
    system = [grant.path for grant in what.grants if grant.optional and grant.origin != COMMAND]
    loud = [grant for grant in what.grants if not grant.optional or _is_news(grant, system)]
    for access in (READ | WRITE, WRITE, READ):
        rows += [(_ACCESS[access], _path(grant, home, verbose)) for grant in loud if grant.access == access]
    quiet = [grant for grant in what.grants if grant not in loud]
    if verbose:
        rows += [(_ACCESS[grant.access], f"{_short(grant.path, home)}  ({printable(grant.origin)})") for grant in quiet]
    else:
        rows.append(("read", f"system ({len(quiet)} paths, -v to list)"))
    rows += _exceptions(what.capabilities, home, verbose)
    rows += _network(what, verbose)
    rows += _credentials(what, home, verbose)
    rows += [("" if index else "limits", line) for index, line in enumerate(what.limits)]
    rows += [(label, printable(text)) for label, text in what.trust]
    rows += [("note", printable(note)) for note in what.notes]
    rows.append(("wall", what.wall))
    rows += [("" if index else "leaks", printable(leak)) for index, leak in enumerate(what.leaks)]
    return rows


def table(rows: Sequence[tuple[str, str]], *, colour: bool = False) -> str:
    """Return the rows as lines of at most COLUMNS columns, unless a single word is longer.

    colour: the labels have their colours, for a terminal.
    """
    lines = []
    for label, text in rows:
        padded = f"{label:<{_WIDTH}}"
        if colour and label in _COLOURS:
            padded = f"\033[{_COLOURS[label]}m{padded}\033[0m"
        first, *more = _folded(text, COLUMNS - _MARGIN)
        lines += [f"{padded} {first}", *(f"{'':<{_WIDTH}} {line}" for line in more)]
    return "".join(f"{'    ' if index else 'nono'}  {line}".rstrip() + "\n" for index, line in enumerate(lines))


def shows_colour() -> bool:
    """Whether standard error is a terminal whose user wants colours (NO_COLOR: no-color.org)."""
    environment = os.environ
    return (
        sys.stderr is not None
        and sys.stderr.isatty()
        and not environment.get("NO_COLOR")
        and environment.get("TERM") != "dumb"
    )


def _folded(text: str, width: int) -> list[str]:
    """Return `text` as lines of at most `width`, broken at spaces; those after the first are indented."""
    lines: list[str] = []
    indent = ""
    while len(text) > width:
        at = text.rfind(" ", len(indent) + 1, width + 1)
        if at < 0:
            at = text.find(" ", len(indent) + 1)
        if at < 0 or not text[at:].strip():
            break
        indent = "  " + " " * (len(text) - len(text.lstrip())) if not lines else indent
        lines.append(text[:at].rstrip())
        text = indent + text[at:].lstrip()
    return [*lines, text]


def notice(sentence: str) -> None:
    """Tell the user something while he waits, or while the agent has made the terminal raw."""
    text = table([("note", printable(sentence))], colour=shows_colour())
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    to_stderr(text.replace("\n", "\r\n") if is_terminal else text)


def to_stderr(text: str) -> None:
    """Write `text` to standard error. Where nobody listens (closed, full) the exit status still tells."""
    if sys.stderr is None:
        return
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    try:
        sys.stderr.flush()
        fd = sys.stderr.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        while data and poll.poll(_PATIENCE_MS):  # a pipe that nobody reads must not keep a run from its end
            data = data[os.write(fd, data[:_PIPE_BYTES]) :]
    except (OSError, ValueError):
        pass


def plan(what: Summary, home: str) -> list[tuple[str, str]]:
    """Return the whole of what `--dry-run` shows: the summary in full, the denied paths and the child's variables."""
    rows = summary(what, home, verbose=True)
    for deny in what.capabilities.denies:
        label = "denied" if deny.access & READ else "read-only"
        holes = f", but for {', '.join(_short(hole, home) for hole in deny.holes)}" if deny.holes else ""
        rows.append((label, f"{_short(deny.path, home)}  ({deny.group}){holes}"))
    rows += [("set", name) for name in what.added_variables]
    rows.append(("command", " ".join(map(printable, what.argv))))
    return rows


def error(message: str, details: Iterable[str] = ()) -> list[str]:
    """Return an error as lines that are not folded, so that what stands in them can be copied."""
    return [f"nono: {printable(message)}", *(f"      {printable(line)}" for line in details)]


def printable(text: str) -> str:
    """Return `text` with every character that could move a cursor written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def short(path: str, home: str) -> str:
    """Return a path as it is shown: the user's home is ~."""
    return "~" + path[len(home.rstrip("/")) :] if is_at_or_below(path, home) else path


def _is_news(grant: PathGrant, system: list[str]) -> bool:
    """Whether a grant that the command brought opens what no system group opens anyway."""
    path = f"{grant.path}/"
    return grant.origin == COMMAND and not grant.is_file and not any(path.startswith(f"{above}/") for above in system)


def _path(grant: PathGrant, home: str, verbose: bool) -> str:
    return _short(grant.path, home) + (f"  ({printable(grant.origin)})" if verbose else "")


def _short(path: str, home: str) -> str:
    return printable(short(path, home))


def _exceptions(has: CapabilitySet, home: str, verbose: bool) -> list[tuple[str, str]]:
    """What is taken out of the paths, or opened among those that are protected; and the sockets."""
    own = [_short(deny.path, home) for deny in has.denies if deny.group in (USERS_DENY, PROFILES_DENY)]
    shown = own if verbose else own[:_PATHS_SHOWN]
    rows = [("denied", path) for path in shown]
    if len(shown) < len(own):
        rows.append(("", f"{len(own) - len(shown)} more  (-v to list)"))
    rows += [("unprotected", f"{_short(path, home)}  (--bypass-protection)") for path in has.bypassed]
    rows += [("socket", f"{_short(path, home)}  (--allow-unix-socket)") for path in has.unix_sockets]
    if has.own_sockets:
        rows.append(("socket", "own ones, where it may write  (--allow-unix-socket own)"))
    return rows


def _credentials(what: Summary, home: str, verbose: bool) -> list[tuple[str, str]]:
    """Say where keys come from, and warn of secrets that the agent gets; what is withheld from it.

    Variables alone are named: a reference may be a key that was pasted in its place.
    """
    stored = [f"{route}  ({_short(store, home)})" for route, _, store in what.routes if store]
    rows = [("" if index else "credentials", text) for index, text in enumerate(stored)]
    rows += [
        ("warning", f"the agent holds the real key of {printable(variable)}")
        for _, variable in what.capabilities.env_credentials
    ]
    rows += [("warning", f"the agent gets {printable(name)} as it is  (allow_vars)") for name in what.exposed]
    if what.withheld:
        few = "1 variable" if len(what.withheld) == 1 else f"{len(what.withheld)} variables"
        names = ", ".join(map(printable, what.withheld)) if verbose else f"{few}  (-v to list)"
        rows.append(("withheld", names))
    return rows


def _network(what: Summary, verbose: bool) -> list[tuple[str, str]]:
    has = what.capabilities
    if has.network == NETWORK_OPEN:
        return [
            (
                "network",
                "open: the agent reaches whatever this machine reaches (--credential NAME or --block-net restricts it)",
            )
        ]
    rows = [("network", "blocked")]
    if has.network != NETWORK_BLOCKED:
        reachable = [f"{route} → {host}" for route, host, _ in what.routes]
        for profile in has.network_profile.split(" + ") if has.network_profile else ():
            reachable += _profile(profile, verbose)
        shown = has.allowed_hosts if verbose else has.allowed_hosts[:_HOSTS_SHOWN]
        reachable += [f"{printable(host)}  ({_named('allow_domain', host, what)}{_wider(host, has)})" for host in shown]
        if len(shown) < len(has.allowed_hosts):
            reachable.append(f"{len(has.allowed_hosts) - len(shown)} more hosts  (-v to list)")
        rows = [("", f"     {text}") if index else ("network", f"only {text}") for index, text in enumerate(reachable)]
        if has.denied_hosts:
            denied = has.denied_hosts if verbose else has.denied_hosts[:_HOSTS_SHOWN]
            more = "" if len(denied) == len(has.denied_hosts) else f" and {len(has.denied_hosts) - len(denied)} more"
            names = ", ".join(dict.fromkeys(_named("deny_domain", host, what) for host in denied))
            rows.append(("", f"not  {', '.join(map(printable, denied))}{more}  ({names})"))
        if has.upstream_proxy is not None:
            proxy = has.upstream_proxy
            but = f", but for {', '.join(map(printable, proxy.bypass))}" if proxy.bypass else ""
            rows.append(("through", f"the proxy {host_and_port(proxy.host, proxy.port)}  ({proxy.origin}){but}"))
        if has.intercept:
            rows.append(_intercepted(what))
    if has.open_ports:
        rows.append(("ports", f"{_ports(has.open_ports)} of this machine, reached by the agent  (--open-port)"))
    if has.listen_ports:
        rows.append(("ports", f"{_ports(has.listen_ports)} of the agent, reached from this machine  (--listen-port)"))
    return rows


def _named(member: str, host: str, what: Summary) -> str:
    """Who named the host: a profile, or the flag."""
    profile = what.origins.get((f"network.{member}", host))
    return f"profile {printable(profile)}" if profile is not None else f"--{member.replace('_', '-')}"


def _profile(name: str, verbose: bool) -> list[str]:
    """The groups of a network profile: how many hosts each has or, verbose, which."""
    groups = [(group, GROUPS[group]) for group in NETWORK_PROFILES[name]]
    if verbose:
        lists = [", ".join(hosts) if hosts else "as nono profile groups says" for _, hosts in groups]
        return [f"{group}: {text}  ({name})" for (group, _), text in zip(groups, lists, strict=True)]
    counted = [f"{group} ({len(hosts)})" if hosts else group for group, hosts in groups]
    return [f"{', '.join(counted)}  (--network-profile {name}, -v to list)"]


def _intercepted(what: Summary) -> tuple[str, str]:
    """Whose TLS ends at nono, which is not seen otherwise; or that it cannot."""
    hosts = [host for _, host, _ in what.routes]
    urls = [parse_entry(text) for text in what.capabilities.allowed_hosts if text.lower().startswith("https:")]
    hosts += [("*." if url.is_suffix else "") + url.name for url in urls if url.rule is not None]
    text = ", ".join(dict.fromkeys(hosts)) or "no host"
    if not what.intercepts:
        return ("note", f"to be reached by name, {text} would need: pip install 'nono[intercept]'")
    return ("intercepts", f"TLS of {text}, to put keys in and to judge requests")


def _wider(text: str, has: CapabilitySet) -> str:
    """Say so where a URL's path does not restrict anything: grants add up."""
    if has.allowlist is not None and "://" in text and (entry := parse_entry(text)).rule and not entry.is_suffix:
        try:
            granted = has.allowlist(entry.name, entry.port, tunnel=True)
        except Refusal:
            return "; but denied"
        if not granted.rules:
            return f"; all other paths of {entry.name} are granted, too"
    return ""


def _ports(ports: tuple[int, ...]) -> str:
    return ", ".join(map(str, ports))


def home_of(environment: os._Environ[str] | dict[str, str]) -> str:
    """Return the user's home as it is shown: a prefix to shorten to `~`."""
    return environment.get("HOME", "") or "/nonexistent"
