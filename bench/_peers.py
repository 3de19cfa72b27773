"""The stage of `bench/proxy.py`: two upstreams, and the proxies in front of them, each started and ended here.

Every proxy leads `…/chat/completions` and `…/files/` to the first upstream (nginx, with unique answers' heads), and
`stream`, `hold` and `sink` to the second (bench/peers/events.py); checks a token, swaps it for the key and verifies the
upstream's certificate. The upstreams refuse whoever lacks the key, so a peer that does less shows at once. "No proxy"
is the client itself, over TLS with the key.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from nono.demo import certificates

PEERS = Path(__file__).with_name("peers")
SECRET = "sk-bench-0123456789abcdef0123456789abcdef0123456789abcdef"
TOKEN = "0123456789abcdef" * 4  # of the peers that make none themselves
COMPLETIONS, EVENTS = "completions", "events"
_START_S, _STOP_S = 20.0, 10.0
MAX_CONNECTIONS = 8192  # of the Rust peer, whose default of 256 would end the test of many streams

NONE, NGINX, RUST, MITMPROXY, NONO = "no proxy", "nginx", "Rust", "mitmproxy", "nono"

ANSWER = json.dumps(
    {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion",
        "created": 1763746343,
        "model": "gpt-5-2025-08-07",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The tests pass now. " * 30, "refusal": None},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 519, "completion_tokens": 150, "total_tokens": 669},
        "service_tier": "default",
        "system_fingerprint": None,
    }
)


class Stage(NamedTuple):
    """What every peer needs to know: a directory of its own, the certificates, and the upstreams' ports."""

    directory: Path
    made: certificates.Certificates
    completions_port: int
    events_port: int
    events_pid: int

    def port_of(self, service: str) -> int:
        """Return the upstream's port."""
        return self.completions_port if service == COMPLETIONS else self.events_port


class Tunnel(NamedTuple):
    """Where CONNECT leads: an upstream's authority, and the head that asks a proxy for it."""

    authority: str
    head: bytes


class Peer(NamedTuple):
    """A proxy under test, or none. prefixes: of the path, by service; ports likewise. pids: of all its processes.

    tls: for the client's own TLS, with no proxy or through the tunnel, if there is one.
    """

    name: str
    token: str
    ports: dict[str, int]
    prefixes: dict[str, str]
    pids: tuple[int, ...]
    tls: ssl.SSLContext | None
    start_ms: float  # from exec to the word that it serves
    version: str
    tunnel: Tunnel | None = None

    def authority(self, service: str) -> str:
        """Return what a client's Host header says."""
        return self.tunnel.authority if self.tunnel else f"127.0.0.1:{self.ports[service]}"

    def connect(self, service: str) -> socket.socket:
        """Return a connection on which requests for `service` can be sent."""
        sock = socket.create_connection(("127.0.0.1", self.ports[service]))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tunnel:
            sock.sendall(self.tunnel.head)
            answer = sock.recv(4096)
            assert answer[9:12] == b"200", f"{self.name} refuses the tunnel: {answer[:500]!r}"
        return self.tls.wrap_socket(sock, server_hostname="localhost") if self.tls else sock


class Missing(Exception):
    """A peer that cannot be had here; its argument says what to install."""


@contextmanager
def stage(directory: Path, big_files: Sequence[int]) -> Iterator[Stage]:
    """Start both upstreams.

    big_files: sizes of the files to be offered for download, as /files/SIZE.
    """
    _require_nginx()
    (directory / "files").mkdir()
    for size in big_files:
        with open(directory / "files" / str(size), "wb") as file:
            file.truncate(size)
    made = certificates.make(str(directory))
    completions_port, events_port = _free_port(), _free_port()
    configuration = _fill(
        "upstream.conf", directory, PORT=completions_port, CERTIFICATE=made.server, KEY=made.server_key, ANSWER=ANSWER
    )
    program = [sys.executable, "-I", str(PEERS / "events.py"), str(events_port), made.server, made.server_key, SECRET]
    with (
        _running(["nginx", "-p", str(directory), "-c", configuration], directory) as nginx,
        _running(program, directory) as events,
    ):
        _wait_for_port(completions_port, nginx)
        _wait_for_port(events_port, events)
        yield Stage(directory, made, completions_port, events_port, events.pid)


@contextmanager
def start(name: str, stage: Stage) -> Iterator[Peer]:
    """Start one peer on the stage; ended with the block. Raises Missing."""
    with _STARTERS[name](stage) as peer:
        yield peer


@contextmanager
def _none(stage: Stage) -> Iterator[Peer]:
    context = ssl.create_default_context(cafile=stage.made.authority)
    ports = {COMPLETIONS: stage.completions_port, EVENTS: stage.events_port}
    yield Peer(NONE, SECRET, ports, {COMPLETIONS: "/v1/", EVENTS: "/"}, (), context, 0.0, "")


@contextmanager
def _nginx(stage: Stage) -> Iterator[Peer]:
    _require_nginx()
    port = _free_port()
    configuration = _fill(
        "nginx.conf", stage.directory, PORT=port, TOKEN=TOKEN, AUTHORITY=stage.made.authority,
        UPSTREAM=stage.completions_port, EVENTS=stage.events_port,
    )  # fmt: skip
    shown = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    began = time.perf_counter()
    with _running(["nginx", "-p", str(stage.directory), "-c", configuration], stage.directory) as process:
        _wait_for_port(port, process)
        while len(list(_tree(process.pid))) < 2:  # listens before it has a worker
            time.sleep(0.0005)
        yield _proxy(NGINX, port, TOKEN, process, began, shown.strip().rpartition("/")[2])


@contextmanager
def _rust(stage: Stage) -> Iterator[Peer]:
    key = stage.directory / "rust.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(SECRET)
    routes = [
        {
            "prefix": prefix,
            "upstream": f"https://localhost:{stage.port_of(service)}{base}",
            "credential_key": f"file://{key}",
            "tls_ca": stage.made.authority,
        }
        for prefix, service, base in (("/openai", COMPLETIONS, "/v1"), ("/events", EVENTS, ""))
    ]
    with _rust_with(routes, stage) as peer:
        yield peer


@contextmanager
def _rust_with(routes: list[dict[str, str]], stage: Stage) -> Iterator[Peer]:
    python = _venv_program("rust", "python", "nono-py")
    program = [python, "-I", str(PEERS / "rust.py"), json.dumps(routes), str(MAX_CONNECTIONS)]
    began = time.perf_counter()
    with _running(program, stage.directory) as process:
        said = _first_line(process)
        yield _proxy(RUST, said["port"], said["token"], process, began, f"nono-py {said['version']}")


@contextmanager
def _mitmproxy(stage: Stage) -> Iterator[Peer]:
    program = _venv_program("mitmproxy", "mitmdump", "mitmproxy")
    port = _free_port()
    command = [
        program, "-q", "--listen-host", "127.0.0.1",
        "--mode", f"reverse:https://localhost:{stage.completions_port}@{port}",
        "--set", f"ssl_verify_upstream_trusted_ca={stage.made.authority}",
        "--set", f"confdir={stage.directory}/mitmproxy", "-s", str(PEERS / "mitmproxy_addon.py"),
    ]  # fmt: skip
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"Mitmproxy: (\S+)", shown)
    environment = {**os.environ, "BENCH_SECRET": SECRET, "BENCH_TOKEN": TOKEN}
    began = time.perf_counter()
    with _running(command, stage.directory, environment) as process:
        _wait_for_port(port, process)
        yield _proxy(MITMPROXY, port, TOKEN, process, began, version[1] if version else "")


@contextmanager
def rust_without_routes(stage: Stage) -> Iterator[Peer]:
    """Start the Rust proxy for tunnels to any host. Raises Missing."""
    with _rust_with([], stage) as peer:
        yield peer


@contextmanager
def nono_proxy(
    stage: Stage, network: Mapping[str, Any], flags: Sequence[str] = (), program: Sequence[str] = ()
) -> Iterator[tuple[Peer, dict[str, str]]]:
    """Start `nono proxy` with this network in its profile; yield it, and the variables that it hands over.

    program: in place of the command `nono`.
    """
    home = stage.directory / "home"
    home.mkdir(mode=0o700, exist_ok=True)
    profile = home / "profile.json"
    profile.write_text(json.dumps({"meta": {"name": "bench"}, "network": network}))
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8"}
    program = program or [str(Path(sys.executable).with_name("nono"))]
    command = [*program, "proxy", "--profile", str(profile), "--json", *flags]
    began = time.perf_counter()
    with _running(command, stage.directory, environment) as process:
        said = _first_line(process)
        yield _proxy(NONO, said["port"], said["env"]["NONO_PROXY_TOKEN"], process, began, ""), said["env"]


def nono_routes(stage: Stage, **fields: Any) -> dict[str, Any]:
    """Return a profile's network with both routes. fields: more of each."""
    key = stage.directory / "nono.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(SECRET)
    routes = {
        name: {
            "upstream": f"https://localhost:{stage.port_of(service)}{base}",
            "credential_key": f"file://{key}",
            "inject_header": "Authorization",
            "credential_format": "Bearer {}",
            "tls_ca": stage.made.authority,
            **fields,
        }
        for name, service, base in (("openai", COMPLETIONS, "/v1"), ("events", EVENTS, ""))
    }
    return {"credentials": list(routes), "custom_credentials": routes}


@contextmanager
def _nono(stage: Stage) -> Iterator[Peer]:
    with nono_proxy(stage, nono_routes(stage)) as (peer, _):
        yield peer


_STARTERS: dict[str, Callable[[Stage], AbstractContextManager[Peer]]] = {
    NONE: _none,
    NGINX: _nginx,
    RUST: _rust,
    MITMPROXY: _mitmproxy,
    NONO: _nono,
}


def _proxy(name: str, port: int, token: str, process: subprocess.Popen[str], began: float, version: str) -> Peer:
    start_ms = (time.perf_counter() - began) * 1000
    ports = {COMPLETIONS: port, EVENTS: port}
    prefixes = {COMPLETIONS: "/openai/", EVENTS: "/events/"}
    return Peer(name, token, ports, prefixes, tuple(_tree(process.pid)), None, start_ms, version)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from _tree(int(child))


@contextmanager
def _running(
    command: list[str],
    directory: Path,
    environment: dict[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run a program until the block ends. Its standard input is a pipe, its standard error this program's."""
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _first_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{_named(process)} ended with {process.wait()} before it served")
    said: dict[str, Any] = json.loads(line)
    return said


def _named(process: subprocess.Popen[str]) -> str:
    return " ".join(process.args) if isinstance(process.args, list) else str(process.args)


def _wait_for_port(port: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if process.poll() is not None:
                raise SystemExit(f"{_named(process)} ended with {process.returncode} before it served") from None
            time.sleep(0.0005)
    raise SystemExit(f"{_named(process)} does not listen")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _fill(name: str, directory: Path, **values: object) -> str:
    """Write a configuration file with its @NAMES@ filled in; return its path."""
    text = (PEERS / name).read_text(encoding="utf-8")
    user = "" if os.geteuid() else "user root;"  # else its workers are `nobody`, who may not enter the directory
    for key, value in {"DIRECTORY": directory, "SECRET": SECRET, "USER": user, **values}.items():
        text = text.replace(f"@{key}@", str(value))
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def _require_nginx() -> None:
    if not any(os.access(f"{folder}/nginx", os.X_OK) for folder in os.environ.get("PATH", "").split(":")):
        raise Missing("nginx is not installed. On Debian: apt-get install nginx-light")


def _venv_program(venv: str, program: str, package: str) -> str:
    path = Path(sys.prefix) / "peers" / venv / "bin" / program
    if not path.exists():
        raise Missing(f"{package} is not installed in {path.parent.parent}; ./ci/bench does that where it can")
    return str(path)
