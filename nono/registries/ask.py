"""Ask a package manager where it installs from, by running it as the user would, from the directory `/`.

Each manager has a function here that knows how to ask it. Two ways are used, and both where one does not tell all:

- its own command for its settings (`npm config list`, `go env`, `gem sources`), or, for Maven, which has none that does
  not first install plugins, the files that it reads: settings.xml and the model that all projects inherit (in its jar);
- its own first request, to a recorder (recorder.py).

An index may serve its files from another host, and only it knows which. pip and npm are asked for the address of one
file without fetching it, and cargo to fetch one small package into a directory that is removed again; they speak to the
user's index with his settings, credentials and certificates. Without a network that part is missing, and the answer is
not whole.

A program gets a clean environment, no input, a process group of its own, TIMEOUT_S, and MAX_OUTPUT bytes to answer.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import select
import shutil
import signal
import subprocess
import threading
import time
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from glob import glob
from typing import Any, ClassVar
from urllib.parse import urlsplit
from xml.etree import ElementTree

from nono.policy.allowlist import normalise
from nono.record import Record
from nono.registries import cache
from nono.registries.cache import Answer, Host
from nono.registries.managers import Tool, is_own
from nono.registries.recorder import Recorder

TIMEOUT_S = 10.0
MAX_OUTPUT = 1 << 20
_MAX_FILE = 1 << 20
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")
_SUPER_POM = "org/apache/maven/model/pom-4.0.0.xml"
_CARGO_MANIFEST = """\
[package]
name = "nono-asks"
version = "0.0.0"
edition = "2018"
[dependencies]
itoa = "1"
[workspace]
"""


class Found(Record):
    """URLs that a manager named. files: those that its index named. whole: whether nothing is missing."""

    urls: Iterable[str]
    files: Iterable[str]
    whole: bool


def ask(tool: Tool, scratch: str) -> Answer:
    """Return what `tool` answers. scratch: an empty directory of its own. Never raises for what a program does."""
    run = Program(tool, scratch)
    try:
        found = _ASK[tool.manager.name](run)
        urls, files, whole = list(found.urls), list(found.files), found.whole
    except Exception:  # noqa: BLE001  (an answer or a file of whatever form; the other managers are asked all the same)
        urls, files, whole = [], [], False
    hosts = [Host(entry, _source(tool, entry)) for entry in map(entry_of, urls) if entry]
    hosts += [
        Host(entry, f"named by the index of {tool.manager.name}")
        for entry in map(entry_of, files)
        if entry and not is_private(entry)  # an index must not lead the agent to this machine
    ]
    return cache.answer(hosts, whole and bool(hosts))


def entry_of(url: str) -> str:
    """Return the host of `url` as an entry of the allowlist, with its port where it is unusual; "" for no sound one."""
    try:
        parts = urlsplit(url)
        host, port = normalise(parts.hostname or ""), parts.port
    except ValueError:
        return ""
    if parts.scheme not in _DEFAULT_PORTS:
        return ""
    host = f"[{host}]" if ":" in host else host
    return host if port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{host}:{port}"


def is_private(entry: str) -> bool:
    """Whether an entry plainly is no public host: then the proxy dials it only for --allow-domain."""
    host = urlsplit(f"//{entry}").hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Program:
    """One manager's program: call it with arguments and variables, get what it writes to standard output."""

    _lock = threading.Lock()
    _groups: ClassVar[set[int] | None] = set()  # of the processes that run now; None: no more are started

    def __init__(self, tool: Tool, scratch: str) -> None:
        self.tool = tool
        self.path = tool.path
        self.scratch = scratch

    def __call__(self, *arguments: str, **variables: str) -> str:
        with Program._lock:
            if Program._groups is None:
                return ""
            process = subprocess.Popen(
                [self.path, *arguments],
                cwd="/",
                env={**self.tool.environment, "TMPDIR": self.scratch, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            Program._groups.add(process.pid)
        try:
            assert process.stdout is not None
            with process.stdout:
                output = _read_until(process.stdout.fileno(), time.monotonic() + TIMEOUT_S)
        finally:  # not reaped yet: the id is still its own
            with Program._lock:
                _kill_group(process.pid)
                if Program._groups is not None:
                    Program._groups.discard(process.pid)
            process.wait()
        return _ESCAPE_SEQUENCE.sub("", output.decode(errors="replace"))

    @classmethod
    def stop_all(cls) -> None:
        """End every program that runs, and start no more."""
        with cls._lock:
            for group in cls._groups or ():
                _kill_group(group)
            cls._groups = None


def _read_until(fd: int, deadline: float) -> bytes:
    """Read to the end of the file, MAX_OUTPUT, or the deadline: what holds the other end may be of another group."""
    output = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while len(output) < MAX_OUTPUT and (left := deadline - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            part = os.read(fd, 65536)
            if not part:
                break
            output += part
    return output


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _pip(run: Program) -> Found:
    _pass_pyenv(run)
    no = ("--no-deps", "--no-input", "--no-cache-dir", "--disable-pip-version-check")
    one = (*no, "--only-binary", ":all:", "--retries", "0", "--timeout", "5", "pip")
    with Recorder() as recorder:
        proxy = {"PIP_PROXY": recorder.proxy_url, **recorder.environment()}  # on a command line others would read it
        run("download", "--dest", run.scratch, *one, PIP_REQUIRE_VIRTUALENV="0", **proxy)
    report = _json(run("install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", *one))
    files = [str(each["download_info"]["url"]) for each in report.get("install", ())]
    return Found(recorder.urls, files, any(map(entry_of, files)))


def _pass_pyenv(run: Program) -> None:
    """Run the pip that a shim of pyenv stands for: after `install`, a dry run too, a shim writes all shims anew."""
    directory, name = os.path.split(run.path)
    places = f"{os.path.dirname(directory)}/bin:{run.tool.environment['PATH']}"
    pyenv = shutil.which("pyenv", path=places) if os.path.basename(directory) == "shims" else None
    if pyenv:
        run.path = pyenv
        found = run("which", name).strip()
        run.path = found if os.path.isabs(found) else run.tool.path


def _npm(run: Program) -> Found:
    settings = _json(run("config", "list", "--json", npm_config_cache=run.scratch))
    urls = [str(url) for name, url in settings.items() if name == "registry" or name.endswith(":registry")]
    variables = {"npm_config_fetch_retries": "0", "npm_config_update_notifier": "false"}
    file = run("view", "once", "dist.tarball", npm_config_cache=run.scratch, **variables).strip()
    return Found(urls, [file], bool(entry_of(file)))


def _cargo(run: Program) -> Found:
    home, manifest = f"{run.scratch}/home", f"{run.scratch}/Cargo.toml"
    os.makedirs(f"{run.scratch}/src")
    os.mkdir(home)
    for path, text in ((manifest, _CARGO_MANIFEST), (f"{run.scratch}/src/lib.rs", "")):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    user_home = run.tool.environment.get("CARGO_HOME") or f"{run.tool.environment.get('HOME', '')}/.cargo"
    for name in ("config.toml", "config", "credentials.toml", "credentials"):
        if os.path.exists(f"{user_home}/{name}"):
            os.symlink(f"{user_home}/{name}", f"{home}/{name}")
    variables = {"CARGO_HOME": home, "CARGO_NET_RETRY": "0", "RUSTUP_AUTO_INSTALL": "0"}
    with Recorder() as recorder:
        proxy = {"CARGO_HTTP_PROXY": recorder.proxy_url, **recorder.environment()}
        run("fetch", "--manifest-path", manifest, **variables, **proxy)
    run("fetch", "--manifest-path", manifest, **variables)
    files = [str(_json(_read(path)).get("dl", "")) for path in glob(f"{home}/registry/index/*/config.json")]
    named = [value for name, value in run.tool.environment.items() if name.startswith("CARGO_REGISTR")]
    for path in run.tool.settings:
        named += _cargo_registries(_read(path))
    return Found([*recorder.urls, *(url.removeprefix("sparse+") for url in named)], files, any(map(entry_of, files)))


def _cargo_registries(text: str) -> Iterator[str]:
    settings = tomllib.loads(text)
    for table, field in (("registries", "index"), ("source", "registry")):
        for fields in settings.get(table, {}).values():
            if isinstance(fields, dict) and field in fields:
                yield str(fields[field])


def _go(run: Program) -> Found:
    settings = _json(run("env", "-json", "GOPROXY", "GOSUMDB", GOTOOLCHAIN="local"))
    urls = re.split("[,|]", settings["GOPROXY"])
    checksums = settings["GOSUMDB"].split()  # NAME[+KEY] [URL]; source: `go help module-auth`
    if checksums and checksums != ["off"]:
        url = checksums[-1] if len(checksums) > 1 else checksums[0].partition("+")[0]
        urls.append(url if "://" in url else f"https://{url}")
    return Found(urls, (), True)


def _gem(run: Program) -> Found:
    with Recorder() as recorder:
        settings = f"{run.scratch}/gemrc"  # on the command line others would read the token
        with open(os.open(settings, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(f":http_proxy: {recorder.proxy_url}\n")
        listed_files = [*filter(None, [run.tool.environment.get("GEMRC")]), settings]
        run("install", "--explain", "rake", GEMRC=":".join(listed_files), **recorder.environment())
    listed = [line.strip() for line in run("sources", "--list").splitlines()]
    return Found([*(line for line in listed if "://" in line), *recorder.urls], (), bool(recorder.urls))


def _maven(run: Program) -> Found:
    home = re.search(r"^Maven home: (.+)$", run("--batch-mode", "--version"), re.MULTILINE)
    directory = home[1].strip() if home else ""
    settings = [path for path in run.tool.settings if path.endswith("settings.xml")]
    mirrors: list[tuple[str, str]] = []
    repositories: list[tuple[str, str]] = []
    models = _super_poms(directory)
    for text in (*map(_read, dict.fromkeys((*settings, f"{directory}/conf/settings.xml"))), *models):
        if not text:
            continue
        root = ElementTree.fromstring(text)
        blocked = {mirror for mirror in root.iterfind(".//{*}mirror") if mirror.findtext("{*}blocked", "") == "true"}
        mirrors += _pairs((each for each in root.iterfind(".//{*}mirror") if each not in blocked), "mirrorOf")
        repositories += _pairs(root.iterfind(".//{*}repository"), "id")
        repositories += _pairs(root.iterfind(".//{*}pluginRepository"), "id")
    urls = [url for _, url in mirrors]
    urls += [url for name, url in repositories if not any(_is_mirrored(name, of) for of, _ in mirrors)]
    variables = run.tool.environment
    expanded = [re.sub(r"\$\{env\.(\w+)\}", lambda match: variables.get(match[1], ""), url.strip()) for url in urls]
    return Found(expanded, (), bool(models))


def _pairs(elements: Iterable[ElementTree.Element], field: str) -> list[tuple[str, str]]:
    return [(element.findtext(f"{{*}}{field}", ""), element.findtext("{*}url", "")) for element in elements]


def _super_poms(home: str) -> list[str]:
    """Return the model that all projects inherit, out of the jar of this Maven that holds it."""
    found = []
    for jar in sorted(glob(f"{home}/lib/maven-*.jar")) if home else ():
        try:
            with zipfile.ZipFile(jar) as archive, archive.open(_SUPER_POM) as file:
                found.append(file.read(_MAX_FILE).decode())
        except (KeyError, zipfile.BadZipFile):
            continue
    return found


def _is_mirrored(repository: str, pattern: str) -> bool:
    """Whether a mirror stands for `repository`. Source: Maven's guide to mirror settings (`mirrorOf`)."""
    words = [word.strip() for word in pattern.split(",")]
    if f"!{repository}" in words:
        return False
    return repository in words or "*" in words or "external:*" in words


_ASK = {"pip": _pip, "npm": _npm, "cargo": _cargo, "go": _go, "maven": _maven, "gem": _gem}


def _json(text: str) -> dict[str, Any]:
    """Return the JSON object that `text` is; an empty one when the program said nothing of the kind."""
    try:
        decoded = json.loads(text)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _read(path: str) -> str:
    """Return the beginning of a file; "" when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_FILE)
    except OSError:
        return ""


def _source(tool: Tool, entry: str) -> str:
    """Return what named the host: a variable, a file of settings, or else the program itself."""
    host = urlsplit(f"//{entry}").hostname or entry
    for name, value in tool.environment.items():
        if is_own(name, tool.manager) and host in value:
            return name
    for path in tool.settings:
        if host in _read(path):
            return path
    return f"the default of {tool.path}"
