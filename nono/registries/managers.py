"""The package managers: what each obeys, where it stands, and whether the agent of this run could change either.

Looks at the disk, runs nothing; cheap, because a run does it before the child starts. A manager of which the agent can
write anything that it obeys or executes is not asked, and what it answered before is not used.

The key of an answer is a digest of the identity (path, time, size) of the program and of every file of settings, and of
the variables: when one of them changes, the answer is no longer good. A digest, because a variable may hold a password.
"""

from __future__ import annotations

import json
import os
import stat
from _blake2 import blake2b  # hashlib costs 3 ms, mostly for OpenSSL
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from nono.policy.capabilities import WRITE, PathDeny, PathGrant, is_at_or_below
from nono.policy.resolve import Place
from nono.record import Record

_MAX_LINKS = 40  # as the kernel: path_resolution(7)
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
# What every manager gets of the user's environment, besides its own variables: nothing that makes an interpreter load
# code (PYTHONPATH, NODE_OPTIONS, RUBYOPT, JAVA_TOOL_OPTIONS).
_SHARED = (
    "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME",
    "JAVA_HOME", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy",
    "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
# Where programs that choose a version for another one (pyenv, nvm, rustup …) keep what they execute.
_VERSIONS = (
    "~/.pyenv", "~/.nvm", "~/.volta", "~/.rustup", "~/.rbenv", "~/.sdkman", "~/.asdf", "~/.tool-versions",
    "$CONFIG/mise",
)  # fmt: skip


class Manager(Record):
    """One package manager.

    commands: its program, under any of these names. variables: patterns of the names of its own ones that it is given:
    those that say where to install from, as whom, and whom to trust; no others, because some name what is executed,
    obeyed or written (PIP_PYTHON, PIP_REQUIREMENT, PIP_LOG, NPM_CONFIG_PREFIX, RUSTUP_TOOLCHAIN, MAVEN_OPTS).
    settings: the files that it obeys. code: what it executes besides its own installation. interpreters: what it may be
    executed by, found on the PATH. A path begins with "/", "~", $CONFIG, $PREFIX (PREFIX/bin/program; both as it was
    found and where links lead), or a variable.
    """

    name: str
    commands: tuple[str, ...]
    variables: tuple[str, ...]
    settings: tuple[str, ...]
    code: tuple[str, ...] = ()
    interpreters: tuple[str, ...] = ()


MANAGERS = (
    Manager(
        "pip",
        ("pip", "pip3"),
        (
            "PIP_INDEX_URL",
            "PIP_EXTRA_INDEX_URL",
            "PIP_NO_INDEX",
            "PIP_TRUSTED_HOST",
            "PIP_CERT",
            "PIP_CLIENT_CERT",
            "PIP_PROXY",
            "PIP_CONFIG_FILE",
            "PYENV_ROOT",
            "PYENV_VERSION",
        ),
        (
            "/etc/pip.conf",
            "/etc/xdg/pip/pip.conf",
            "/Library/Application Support/pip/pip.conf",
            "~/Library/Application Support/pip/pip.conf",
            "~/.pip/pip.conf",
            "$CONFIG/pip/pip.conf",
            "$PREFIX/pip.conf",
            "$PIP_CONFIG_FILE",
        ),
        ("~/.local/lib", "~/Library/Python", "$PYENV_ROOT"),
        ("python3", "python"),
    ),
    Manager(
        "npm",
        ("npm",),
        tuple(
            f"{prefix}{name}"
            for prefix in ("npm_config_", "NPM_CONFIG_")
            for option in (
                "registry",
                "@*:registry",
                "//*",
                "userconfig",
                "globalconfig",
                "cafile",
                "ca",
                "proxy",
                "https_proxy",
                "noproxy",
                "strict_ssl",
            )
            for name in dict.fromkeys((option, option.upper()))
        ),
        (
            "~/.npmrc",
            "/etc/npmrc",
            "$PREFIX/etc/npmrc",
            "$PREFIX/npmrc",
            "$NPM_CONFIG_USERCONFIG",
            "$npm_config_userconfig",
            "$NPM_CONFIG_GLOBALCONFIG",
            "$npm_config_globalconfig",
        ),
        ("$PREFIX/node_modules", "~/.node_modules", "~/.node_libraries"),
        ("node",),
    ),
    Manager(
        "cargo",
        ("cargo",),
        (
            "CARGO_HOME",
            "CARGO_HTTP_CAINFO",
            "CARGO_HTTP_PROXY",
            "CARGO_REGISTRY_DEFAULT",
            "CARGO_REGISTRY_TOKEN",
            "CARGO_REGISTRIES_*_INDEX",
            "CARGO_REGISTRIES_*_TOKEN",
            "CARGO_SOURCE_*_REGISTRY",
            "CARGO_SOURCE_*_REPLACE_WITH",
            "RUSTUP_HOME",
        ),
        (
            "~/.cargo/config.toml",
            "~/.cargo/config",
            "~/.cargo/credentials.toml",
            "~/.cargo/credentials",
            "$CARGO_HOME/config.toml",
            "$CARGO_HOME/config",
            "$CARGO_HOME/credentials.toml",
            "$CARGO_HOME/credentials",
        ),
        ("~/.gitconfig", "$CONFIG/git", "$RUSTUP_HOME"),
    ),
    Manager(
        "go",
        ("go",),
        ("GOPROXY", "GOSUMDB", "GONOPROXY", "GONOSUMDB", "GOPRIVATE", "GOENV"),
        ("$CONFIG/go/env", "~/Library/Application Support/go/env", "$GOENV", "$PREFIX/go.env"),
    ),
    Manager(
        "maven",
        ("mvn",),
        (),
        (
            "~/.m2/settings.xml",
            "~/.mavenrc",
            "/etc/mavenrc",
            "/etc/maven/settings.xml",
            "$PREFIX/conf/settings.xml",
            "$PREFIX/libexec/conf/settings.xml",
        ),
        ("$JAVA_HOME",),
        ("java",),
    ),
    Manager(
        "gem",
        ("gem",),
        ("GEMRC",),
        ("~/.gemrc", "$CONFIG/gem/gemrc", "/etc/gemrc", "$GEMRC"),
        ("~/.gem", "~/.local/share/gem"),
        ("ruby",),
    ),
)


class Tool(Record):
    """A manager that the user has. obstacle: why it is not asked; "" when it is. settings: the files that exist."""

    manager: Manager
    path: str
    environment: dict[str, str]
    settings: tuple[str, ...]
    key: str
    obstacle: str


class Reach:
    """What the agent may write: the grants less the denies, and the working tree in any case.

    writable: the real paths of these directories and files, the denies not taken off.
    """

    def __init__(self, place: Place, grants: Iterable[PathGrant] = (), denies: Iterable[PathDeny] = ()) -> None:
        self._walked: dict[str, tuple[str, ...]] = {"/": ("/",)}
        tree, home = self._walk(place.workdir)[-1], self._walk(place.home)[-1]
        # A home directory, or what lies above it, is nobody's working tree: the settings of the user are in there.
        self.writable = [] if is_at_or_below(home, tree) else [tree]
        self.writable += [self._walk(grant.path)[-1] for grant in grants if grant.access & WRITE]
        denied = [deny for deny in denies if deny.access & WRITE and not deny.holes] if self.writable else []
        self._protected = {deny.path for deny in denied}
        self._protected.update(self._walk(deny.path)[-1] for deny in denied if not deny.is_link)
        # The sandbox grants their other entries one by one (sandbox/expansion.py), so these stay where they are.
        self._fixed = {above for each in self._protected for above in _and_above(each)}

    def covers(self, path: str) -> bool:
        """Whether the agent can change what `path` leads to, or something below it."""
        *spots, real = self._walk(path)
        if any(spot not in self._fixed and self._can_write(spot) for spot in spots):
            return True
        above = any(is_at_or_below(writable, real) for writable in self.writable)
        return self._can_write(real) or (above and not self._is_protected(real))

    def _can_write(self, path: str) -> bool:
        return any(is_at_or_below(path, writable) for writable in self.writable) and not self._is_protected(path)

    def _is_protected(self, path: str) -> bool:
        return any(above in self._protected for above in _and_above(path))

    def _walk(self, path: str, links: int = 0) -> tuple[str, ...]:
        """Return each entry that the kernel looks up on the way, links included, and last where `path` leads.

        Who can replace one of them leads the path elsewhere.
        """
        walked = self._walked.get(path)
        if walked is None:
            directory, _, name = path.rstrip("/").rpartition("/")
            *before, parent = self._walk(directory or "/", links)
            entry = os.path.dirname(parent) if name == ".." else os.path.join(parent, name) if name != "." else parent
            walked = (*before, parent, entry)
            try:
                target = os.path.join(parent, os.readlink(entry))
            except OSError:
                pass
            else:
                if links < _MAX_LINKS:
                    walked = (*walked, *self._walk(target.rstrip("/") or "/", links + 1))
            self._walked[path] = walked
        return walked


def survey(environment: Mapping[str, str], place: Place, reach: Reach) -> list[Tool]:
    """Return the managers that are on the user's PATH, as they would be asked."""
    found = [directory for directory in environment.get("PATH", _DEFAULT_PATH).split(":") if directory.startswith("/")]
    directories = [directory for directory in dict.fromkeys(found) if not reach.covers(directory)]
    shared = {name: environment[name] for name in _SHARED if name in environment}
    shared["PATH"] = ":".join(directories)
    tools = []
    for manager in MANAGERS:
        path = _find(manager.commands, directories)
        if path:
            tools.append(_look_at(manager, path, shared, _own(manager, environment), place, reach))
        elif path := _find(manager.commands, found):
            tools.append(Tool(manager, path, {}, (), "", f"the agent may write {os.path.dirname(path)}"))
    return tools


def _own(manager: Manager, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are the manager's own.

    In a script of npm, its variables hold what the settings of the project say, which is the working tree.
    """
    if manager.name == "npm" and "npm_lifecycle_event" in environment:
        return {}
    return {name: value for name, value in environment.items() if is_own(name, manager)}


def is_own(name: str, manager: Manager) -> bool:
    """Whether a variable is one of the manager's own."""
    return any(fnmatchcase(name, pattern) for pattern in manager.variables)


def _look_at(
    manager: Manager, path: str, shared: Mapping[str, str], own: Mapping[str, str], place: Place, reach: Reach
) -> Tool:
    environment = {**shared, **own}
    real = os.path.realpath(path)
    on_path = [_find((name,), environment["PATH"].split(":")) for name in manager.interpreters]
    programs = {path, real}
    for interpreter in (_interpreter(real), *on_path):
        if interpreter:
            programs |= {interpreter, os.path.realpath(interpreter)}
    prefixes = [os.path.dirname(os.path.dirname(program)) for program in (path, real)]
    named = {"~": [place.home], "$CONFIG": [place.config_home, f"{place.home}/.config"], "$PREFIX": prefixes}
    settings = list(dict.fromkeys(_expand(manager.settings, named, environment)))
    code = [*_expand((*manager.code, *_VERSIONS), named, environment), *programs]
    for program in programs:
        prefix = os.path.dirname(os.path.dirname(program))
        code += [os.path.dirname(program), os.path.join(prefix, "lib")]
    obstacle = next((f"the agent may write {each}" for each in (*settings, *code) if reach.covers(each)), "")
    present = [each for each in settings if _identity(each)]
    identities = [_identity(each) for each in (path, real, *settings)]
    text = json.dumps([manager.name, place.home, identities, sorted(own.items())])
    key = blake2b(text.encode(), digest_size=16).hexdigest()
    return Tool(manager, path, environment, tuple(present), key, obstacle)


def _find(names: Iterable[str], directories: Iterable[str]) -> str:
    for name in names:
        for directory in directories:
            path = f"{directory.rstrip('/')}/{name}"
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
    return ""


def _interpreter(path: str) -> str:
    """Return the interpreter that the first line of a script names; "" for none. What env(1) finds is on the PATH."""
    try:
        with open(path, "rb") as file:
            line = file.readline(4096)
    except OSError:
        return ""
    words = os.fsdecode(line[2:]).split() if line.startswith(b"#!") else []
    return words[0] if words and words[0].startswith("/") else ""


def _expand(patterns: Iterable[str], named: Mapping[str, list[str]], environment: Mapping[str, str]) -> Iterator[str]:
    for pattern in patterns:
        head, slash, rest = pattern.partition("/")
        if not head:
            yield pattern
        for base in named.get(head, [environment.get(head[1:], "")]) if head else ():
            if base.startswith("/") and base != os.devnull:
                yield f"{base.rstrip('/')}{slash}{rest}"


def _identity(path: str) -> list[object]:
    """Return path, number, time and size of a regular file; [] for what is none.

    The time of the last change of the inode: the agent can set the other ones of files that it cannot read.
    """
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [path, status.st_ino, status.st_ctime_ns, status.st_size] if stat.S_ISREG(status.st_mode) else []


def _and_above(path: str) -> Iterator[str]:
    while path not in ("/", ""):
        yield path
        path = path.rpartition("/")[0]
