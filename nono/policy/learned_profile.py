"""What was learned -> the text of a profile: JSON with comments, for a person to read before it counts.

Pure. What counts is what the command used and was given. What was wanted but denied stands there as a comment, with the
reason, and as the line that would grant it: without its two slashes it counts. Names that the command chose are in
JSON's own writing everywhere, so that none ends a comment or paints on a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from nono.errors import NonoError
from nono.policy.capabilities import READ, WRITE
from nono.policy.learned import Hosts, Learned, Line, Wanted
from nono.policy.paths import escaped
from nono.policy.verdict import FIELDS, WORDS
from nono.record import Record

FORMAT = "1"
_ACCESS = {0: "none", READ: "read", WRITE: "write", READ | WRITE: "readwrite"}
_SHOWN = 3
_FLAG = " The operator can grant it with --allow-domain "  # in a refusal's reason (proxy/pins.py)


class About(Record):
    """name: of the profile. command: without its arguments, which may be secrets. when: the day, for a person. notes:
    sentences on the recording.

    blocked: the network was. home: what ~ is for; variables: (name, directory), to be tried in this order.
    expand: what the reader of profiles makes of a written path. extends: profiles that this one builds on. sockets:
    Unix sockets that were denied. groups: (name, path) of groups that have a line. filesystem, network: what flags said
    besides, by the profile's name for it.
    """

    name: str
    command: str
    when: str
    notes: Sequence[str]
    blocked: bool
    variables: Sequence[tuple[str, str]]
    expand: Callable[[str], str]
    extends: Sequence[str] = ()
    sockets: Sequence[str] = ()
    groups: Sequence[tuple[str, str]] = ()
    filesystem: Mapping[str, Sequence[str]] = {}
    network: Mapping[str, Sequence[str | int]] = {}


def text(learned: Learned, hosts: Hosts, about: About) -> str:
    """Return the profile."""
    lines = [
        f"// Learned by nono from one run of {_quoted(about.command)} on {about.when}.",
        "// Read it before you use it: it grants what that run used, and another run may use more.",
        *(f"// {note}" for note in about.notes),
        "{",
    ]
    if about.extends:
        lines.append(f'  "extends": {_list(about.extends)},')
    description = f"learned on {about.when}; to be reviewed"
    meta = {"name": about.name, "description": description, "version": FORMAT}
    lines.append(f'  "meta": {json.dumps(meta)},')
    lines.append(f'  "workdir": {{"access": "{_ACCESS[learned.workdir]}"}},')
    lines += _groups(about)
    lines += _filesystem(learned, about)
    lines += _network(hosts, about)
    lines.append("}")
    return "\n".join(lines) + "\n"


def written(path: str, about: About) -> str:
    """Return `path` as a profile has it, from a variable where one is above it; "" where a profile cannot have it."""
    best = ("", path)
    for name, directory in about.variables:
        if directory not in ("", "/") and (path == directory or path.startswith(f"{directory}/")):
            best = (name, path[len(directory) :])
            break
    name, rest = best
    for candidate in (name + escaped(rest), name + rest, escaped(path), path):
        try:
            candidate.encode()
            if about.expand(candidate) in (path, _joined(name, rest, about)):
                return candidate
        except (NonoError, UnicodeEncodeError):
            continue
    return ""


def _joined(name: str, rest: str, about: About) -> str:
    """What the variable and the rest come to: the variable may lead by way of a link."""
    return about.expand(name) + rest if name else rest


def _groups(about: About) -> list[str]:
    """Suggest groups: they have more than the run used, and what another version of the same needs."""
    lines: list[str] = []
    for name in dict.fromkeys(name for name, _ in about.groups):
        paths = [_shown(path, about) for other, path in about.groups if other == name]
        shown = ", ".join(paths[:_SHOWN]) + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")
        lines += (
            f"  // The group {name} has {shown}; with it, they can be left out below:",
            f'  // "groups": {{"include": [{_quoted(name)}]}},',
        )
    return lines


def _filesystem(learned: Learned, about: About) -> list[str]:
    members = {
        field: [f"{_quoted(value)}," for value in values] for field, values in about.filesystem.items() if values
    }
    plain: list[str] = []
    for line in learned.lines:
        if entry := written(line.path, about):
            members.setdefault(_field(line), []).append(f"{_quoted(entry)},")
        else:
            plain.append(f"// {_quoted(line.path)} was used, but no profile can name it.")
    bypassed: dict[str, None] = {}
    for wanted in learned.wanted:
        shown = _shown(wanted.path, about)
        what = f"// {shown} ({WORDS[wanted.access]}) {wanted.why}"
        entry = written(wanted.line.path, about) if wanted.line is not None else ""
        if wanted.line is None or not entry:
            plain.append(f"{what}.")
            continue
        deny = written(wanted.deny, about) if wanted.deny else ""
        if deny:
            bypassed[deny] = None
        members.setdefault(_field(wanted.line), []).extend((f"{what}{_how(wanted, deny)}", f"// {_quoted(entry)},"))
    if bypassed:
        members["bypass_protection"] = [f"// {_quoted(path)}," for path in bypassed]
    for socket in about.sockets:
        members.setdefault("unix_socket", []).extend(
            ("// a connection to this socket was denied; whoever reaches it can do what its owner does:",
             f"// {_quoted(socket)},")
        )  # fmt: skip
    if learned.left_out:
        plain.append(f"// {learned.left_out} more things were denied, and are not told here.")
    lines = [f"  {line}" for line in plain]
    if not members:
        return lines
    lines.append('  "filesystem": {')
    for field in sorted(members):
        lines += (f'    "{field}": [', *(f"      {entry}" for entry in members[field]), "    ],")
    return [*lines, "  },"]


def _field(line: Line) -> str:
    return FIELDS[line.access] + ("_file" if line.is_file else "")


def _how(wanted: Wanted, deny: str) -> str:
    if deny:
        return ". If it must: this line, and the one in bypass_protection"
    return ". If it must: mkdir it, then this line" if wanted.first else ". If it must, this line"


def _network(hosts: Hosts, about: About) -> list[str]:
    comments: list[str] = []
    suggested: list[str] = []
    ports: list[str] = []
    for host, reason in hosts.refused:
        name, _, port = host.rpartition(":")
        if name in ("127.0.0.1", "[::1]") and port.isdigit() and int(port) not in about.network.get("open_port", ()):
            ports += (f"// {host} was not reached. If this is a service of this machine's, this line", f"// {port},")
            continue
        sentence, flag, entry = reason.partition(_FLAG)
        if flag and " " not in entry and entry.isprintable():
            suggested += (f"// {_plain(sentence)} If it must, this line", f"// {_quoted(entry)},")
        else:
            comments.append(f"// {_quoted(host)} was not reached: {_plain(reason)}")
    if opened := [f"{port}," for port in about.network.get("open_port", ())] + ports:
        comments += ('"open_port": [', *(f"  {line}" for line in opened), "],")
    members = [
        f'"{field}": {_list(values)},' for field, values in about.network.items() if values and field != "open_port"
    ]
    if hosts.credentials:
        members.append(f'"credentials": {_list(hosts.credentials)},')
    if hosts.allowed:
        entries = [f"{_quoted(entry)}," + _of_group(hosts.allowed[entry]) for entry in sorted(hosts.allowed)]
        members += ('"allow_domain": [', *(f"  {entry}" for entry in (*entries, *suggested)), "],")
    elif hosts.credentials or hosts.inherits:
        if suggested:
            members += ('// "allow_domain": [', *suggested, "// ],")
    else:
        why = "the run had no network" if about.blocked else "nothing was connected to"
        members.append(f'"block": true,  // {why}')
        if suggested:
            members += ('// and in the place of "block":', '// "allow_domain": [', *suggested, "// ],")
    lines = (*comments, *members)
    return ['  "network": {', *(f"    {line}" for line in lines), "  }"] if lines else []


def _of_group(group: str) -> str:
    return f"  // one of the group {group}" if group else ""


def _list(values: Sequence[str | int]) -> str:
    return "[" + ", ".join(_quoted(value) if isinstance(value, str) else str(value) for value in values) + "]"


def _shown(path: str, about: About) -> str:
    return _quoted(written(path, about) or path)


def _quoted(value: str) -> str:
    """A JSON string; whatever is not printable is escaped."""
    return json.dumps(value, ensure_ascii=not value.isprintable())


def _plain(value: str) -> str:
    return "".join(character if character.isprintable() else " " for character in value)
