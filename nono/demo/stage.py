"""Build the stand-ins in a temporary directory, and run the agent on them: once without nono, once with it.

    vault/   0700: the key files, the profile, the certificates, nono's own state. Never granted to the agent
    work/    the agent's working directory: agent.py, its orders, and the unix socket of the collector

The run with nono is the real one: `python -m nono run --profile … -- python agent.py`, with a profile like any user's.
The unix socket lies in work/ on purpose: no rule on files is what keeps the agent from it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import platform
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple, Self

from nono.demo import agent, answers, certificates
from nono.demo.collector import Collector
from nono.demo.upstream import Received, Upstream

# service -> the variables where its SDK looks for the key and for the base URL
VARIABLES = {
    "openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL"),
}

_PAUSE_S = 0.012  # between the events of a stream: long enough to see that they arrive one by one
_LONGEST_PARENT = 60  # sun_path has 104 bytes on macOS, 108 on Linux (unix(7)); the rest is ours
_RUN_TIMEOUT_S = 60.0
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_KEYCTL_MACHINES = ("x86_64", "aarch64")


class Run(NamedTuple):
    """What one run of the agent did: its exit status, its lines, what nono said, and what arrived elsewhere."""

    status: int
    lines: tuple[dict[str, Any], ...]
    stderr: str
    received: tuple[Received, ...]
    arrived: frozenset[str]
    duration_s: float

    def asked(self, service: str) -> dict[str, Any]:
        """Return the agent's line about `service`, {} when it never came to that."""
        return next((line for line in self.lines if line.get("asked") == service), {})

    def tried(self, theft: str) -> dict[str, Any]:
        """Return the agent's line about `theft`, {} when it never came to that."""
        return next((line for line in self.lines if line.get("tried") == theft), {})


class Stage:
    """Everything the demo needs, as long as the `with` block lasts; nothing is left on the disk after it."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:  # should the building fail half-way
            self._build(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._undo.close()

    def _build(self, undo: contextlib.ExitStack) -> None:
        # The path of a unix socket must be short, and the one of TMPDIR need not be.
        parent = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _LONGEST_PARENT else "/tmp"
        self._directory = os.path.realpath(tempfile.mkdtemp(prefix="nono-demo-", dir=parent))
        undo.callback(shutil.rmtree, self._directory, ignore_errors=True)
        self._vault = os.path.join(self._directory, "vault")
        self._work = os.path.join(self._directory, "work")
        os.mkdir(self._vault, 0o700)
        os.mkdir(self._work, 0o700)
        self.keys = {name: f"sk-demo-{name}-{secrets.token_hex(8)}" for name in VARIABLES}
        self._certificates = certificates.make(self._vault)
        self.upstream = Upstream(self._certificates, self.keys, _PAUSE_S)
        undo.enter_context(self.upstream)
        socket_path = os.path.join(self._work, "agent.sock")
        password = secrets.token_hex(8)  # tells the collector that a message is the thief's
        self._collector = Collector(socket_path, password, self.keys["openai"])
        undo.enter_context(self._collector)
        for name, key in self.keys.items():
            _write(self._key_file(name), key)
        self.thefts = _thefts()
        orders = {
            "services": VARIABLES,
            "thefts": self.thefts,
            "password": password,
            "key_file": self._key_file("openai"),
            "tcp_port": self._collector.tcp_port,
            "udp_port": self._collector.udp_port,
            "unix_socket": socket_path,
            "session_bus": _session_bus(),
        }
        self._orders = os.path.join(self._work, "orders.json")
        self._agent = os.path.join(self._work, "agent.py")
        self._profile = os.path.join(self._vault, "demo.json")
        _write(self._orders, json.dumps(orders))
        _write(self._profile, json.dumps(self._profile_fields(), indent=2))
        shutil.copyfile(agent.__file__, self._agent)

    def run_without_nono(self) -> Run:
        """Run the agent as is usual: with the keys in its environment."""
        environment = dict(os.environ, SSL_CERT_FILE=self._certificates.authority)
        environment.pop("SSL_CERT_DIR", None)
        for name, (key_variable, url_variable) in VARIABLES.items():
            environment[key_variable] = self.keys[name]
            environment[url_variable] = self.upstream.url(name)
        return self._run(self._agent_command(), environment)

    def run_with_nono(self) -> Run:
        """Run the agent in the sandbox, through the proxy."""
        nono = [sys.executable, "-m", "nono", "run", "--profile", self._profile, "--workdir", self._work]
        environment = dict(os.environ, XDG_STATE_HOME=os.path.join(self._vault, "state"))
        return self._run([*nono, "--", *self._agent_command()], environment)

    def present_directly(self, service: str, token: str) -> int:
        """Send the agent's token straight to the service, from outside the sandbox; return the HTTP status."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(self._certificates.authority)
        each = next(each for each in answers.SERVICES if each.name == service)
        path, question = agent.QUESTIONS[service]
        connection = http.client.HTTPSConnection("localhost", self.upstream.port, timeout=5, context=tls)
        try:
            headers = {each.header: each.key_format.format(token)}
            connection.request("POST", each.base + path, json.dumps(question), headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def audit_log(self) -> tuple[str, ...]:
        """Return the lines that nono wrote down about its run."""
        lines: list[str] = []
        for directory, _, names in os.walk(os.path.join(self._vault, "state")):
            for name in sorted(names):
                with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                    lines += file.read().splitlines()
        return tuple(lines)

    def _agent_command(self) -> list[str]:
        return [sys.executable, "-I", "-S", self._agent, self._orders]

    def _run(self, command: list[str], environment: dict[str, str]) -> Run:
        self._collector.forget()
        already = len(self.upstream.received)
        start = time.monotonic()
        done = subprocess.run(
            command,
            check=False,
            cwd=_PACKAGE_PARENT,  # where `-m nono` finds the nono that is running now, installed or not
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_RUN_TIMEOUT_S,
            text=True,
            errors="replace",
        )
        duration_s = time.monotonic() - start
        lines = tuple(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
        received = tuple(self.upstream.received[already:])
        arrived = frozenset(self._collector.arrived)
        return Run(done.returncode, lines, done.stderr, received, arrived, duration_s)

    def _profile_fields(self) -> dict[str, Any]:
        credentials = {
            service.name: {
                "upstream": self.upstream.url(service.name),
                "credential_key": f"file://{self._key_file(service.name)}",
                "inject_header": service.header,
                "credential_format": service.key_format,
                "tls_ca": self._certificates.authority,
            }
            for service in answers.SERVICES
        }
        network = {"credentials": list(credentials), "custom_credentials": credentials, "upstream_proxy": "direct"}
        return {
            "meta": {"name": "demo"},
            "network": network,
            "workdir": {"access": "readwrite"},
        }

    def _key_file(self, service: str) -> str:
        return os.path.join(self._vault, f"{service}.key")


def _thefts() -> list[str]:
    """Return the thefts that mean something on this machine."""
    absent = set()
    if sys.platform != "linux":
        absent.update(("parent_environment", "parent_memory", "kernel_keyring"))
    if platform.machine() not in _KEYCTL_MACHINES:
        absent.add("kernel_keyring")
    if not _session_bus():
        absent.add("session_bus")
    return [name for name in agent.THEFTS if name not in absent]


def _session_bus() -> str:
    """Return the path of the desktop's D-Bus socket, "" when there is none."""
    for part in os.environ.get("DBUS_SESSION_BUS_ADDRESS", "").split(";"):
        if part.startswith("unix:path="):
            return part.removeprefix("unix:path=").partition(",")[0]
    path = f"/run/user/{os.getuid()}/bus"
    return path if os.path.exists(path) else ""


def _write(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
