"""Real runs of nono: a home of their own, stand-in services, and `python -m nono` as a user starts it.

A Site is one user's machine as a test wants it. Its environment is made from nothing, so that no test depends on the
variables of whoever runs the tests. The agents (tests/e2e/agents/*.py) are copied into the site's working directory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Self

import pytest

from nono.demo import answers, certificates
from nono.demo.upstream import Upstream

AGENTS = Path(__file__).parent / "e2e" / "agents"
KEYS = {  # as long as real ones, and as random: what is searched for in memory must not be there by chance
    "openai": "sk-test-openai-Vw3kQ9zLx7RbTn5HcYp2MfJd8GsXe4Aq6Zu1Nv0Wi",
    "anthropic": "sk-test-anthropic-Ck8Tz5PwQb2YdLx9RmVh4NsGj7Fe3Ua6Xo1Ki0",
    "gemini": "AItest-Hn4Rv8BzKq6WcXt2LpYd9MjGs5Fe7Ua3Qo1Zi0Tx",
}
# the names in the keystore that the built-in routes look for
ACCOUNTS = {"openai": "openai_api_key", "anthropic": "anthropic_api_key", "gemini": "gemini_api_key"}
TIMEOUT_S = 60
_WITHOUT_LANDLOCK = """\
import ctypes, errno, os, struct, sys
# struct sock_filter: load the number of the call; landlock_* (444 to 446) fail with ENOSYS; allow the others
instructions = [(0x20, 0, 0, 0), (0x35, 0, 2, 444), (0x25, 1, 0, 446), (0x06, 0, 0, 0x00050000 | errno.ENOSYS),
                (0x06, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("HBBI", *each) for each in instructions)
buffer = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
if libc.prctl(22, 2, ctypes.create_string_buffer(program)):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
"""
# starts a command as on a kernel that has no Landlock
WITHOUT_LANDLOCK = (sys.executable, "-c", _WITHOUT_LANDLOCK)
NOTHING: Mapping[str, str] = {}


def missing(feature: str) -> NoReturn:
    """Skip this test, which needs a system package that is not here; with CI=true fail instead."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{feature} is missing, and with CI=true it must not be")
    pytest.skip(f"{feature} is missing")


def require_command(name: str) -> str:
    """Return the path of the command `name`, or see `missing`."""
    return shutil.which(name) or missing(name)


def use_if_present(name: str) -> str:
    """Return the path of the command `name`, which ci/test does not install (Go, Java, Node), or skip this test."""
    return shutil.which(name) or pytest.skip(f"{name} is missing, which is not installed for tests")


# ci/test runs the promises once behind each wall; "bare" has no flag, and is for tests/confined.py.
TESTED_WALL = os.environ.get("NONO_TEST_SANDBOX", "")
WALL = ["--sandbox", TESTED_WALL] if TESTED_WALL in ("namespace", "notify") else []


class Site:
    """One user's machine: `home`, a working directory `work`, key files in `vault`, and the stand-in services."""

    def __init__(self, directory: Path, upstream_certificates: certificates.Certificates | None = None) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700)
        self.home, self.work, self.vault, self.tmp = (directory / name for name in ("home", "work", "vault", "tmp"))
        for each in (self.home, self.work, self.vault, self.tmp):
            each.mkdir(mode=0o700)
        self.state = self.home / ".local" / "state" / "nono"
        self.environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "TMPDIR": str(self.tmp),
            "LANG": "C.UTF-8",
        }
        self.certificates = certificates.make(str(self.vault))
        self.upstream = Upstream(upstream_certificates or self.certificates, KEYS)

    def __enter__(self) -> Self:
        self.upstream.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.upstream.__exit__(*exc)

    def store_in_files(self, keys: Mapping[str, str] = KEYS) -> dict[str, str]:
        """Write each key to a file that only the user can read; return their references."""
        references = {}
        for name, key in keys.items():
            path = self.vault / f"{name}.key"
            path.touch(mode=0o600)
            path.write_text(key)
            references[name] = f"file://{path}"
        return references

    def profile(self, references: Mapping[str, str], *, upstreams: Mapping[str, str] = NOTHING, **network: Any) -> Path:
        """Write a profile whose routes lead to the stand-ins, with the keys that `references` names; return it."""
        custom = {
            service.name: {
                "upstream": upstreams.get(service.name) or self.upstream.url(service.name),
                "credential_key": references[service.name],
                "inject_header": service.header,
                "credential_format": service.key_format,
                "tls_ca": self.certificates.authority,
            }
            for service in answers.SERVICES
            if service.name in references
        }
        fields = {"credentials": list(custom), "custom_credentials": custom, **network}
        path = self.vault / "profile.json"
        path.write_text(json.dumps({"meta": {"name": "test"}, "network": fields}))
        return path

    def agent(self, name: str, *arguments: str) -> list[str]:
        """Return the command that runs the agent `name` by this Python, from a copy that the sandbox can read."""
        copy = self.work / f"{name}.py"
        shutil.copyfile(AGENTS / f"{name}.py", copy)
        return [sys.executable, "-I", str(copy), *arguments]

    def start(
        self,
        flags: Iterable[str],
        command: Iterable[str],
        *,
        wrap: Iterable[str] = (),
        environment: Mapping[str, str] = NOTHING,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start `nono run FLAGS -- COMMAND` in the working directory, with pipes. wrap: a command that starts nono."""
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            [*wrap, sys.executable, "-m", "nono", "run", *WALL, *flags, "--", *command],
            cwd=self.work,
            env={**self.environment, **environment},
            **{**streams, **options},
        )

    def run(self, flags: Iterable[str], command: Iterable[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """As `start`, to its end, with nothing on standard input."""
        process = self.start(flags, command, stdin=subprocess.DEVNULL, **options)
        try:
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.kill()
            raise
        return subprocess.CompletedProcess(
            process.args, process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace")
        )

    def nono(
        self, arguments: Iterable[str], *, stdin: str = "", environment: Mapping[str, str] = NOTHING
    ) -> subprocess.CompletedProcess[str]:
        """Run `nono ARGUMENTS`, any verb, in the working directory; `stdin` is what it reads."""
        return subprocess.run(
            [sys.executable, "-m", "nono", *arguments],
            input=stdin,
            cwd=self.work,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    @contextmanager
    def working(self, flags: Iterable[str], command: Iterable[str], **options: Any) -> Iterator[dict[str, Any]]:
        """Start an agent and yield its first line of JSON, with the "supervisor"'s pid, while it holds still.

        Its standard input ends with the block; that it then ends well is checked.
        """
        with self.start(flags, command, **options) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                pytest.fail(process.communicate()[1].decode())
            yield {**json.loads(line), "supervisor": process.pid}
            _, stderr = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, stderr.decode()

    def exchanges(self) -> list[dict[str, Any]]:
        """Return the exchanges in the audit logs of all runs."""
        return [record for record in lines(self.audit_log()) if record.get("kind") == "exchange"]

    def audit_log(self) -> str:
        """Return all that nono wrote to its state directory."""
        files = sorted(path for path in self.state.rglob("*") if path.is_file())
        return "".join(path.read_text(errors="replace") for path in files)


@contextmanager
def as_ordinary_user(site: Site, user: int) -> Iterator[tuple[str, ...]]:
    """Give the site to `user`; yield what starts a command as him. He may read this Python, wherever it lies."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    require_command("setpriv")
    for path in (site.directory, *site.directory.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)
    modes = {path: path.stat().st_mode for path in site.directory.parents}
    for path, mode in modes.items():
        if not mode & 0o001:
            path.chmod(mode | 0o011)
    capability = "dac_read_search"
    try:
        yield (
            "setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", "--bounding-set",
            f"-all,+{capability}", "--inh-caps", f"-all,+{capability}", "--ambient-caps", f"+{capability}",
        )  # fmt: skip
    finally:
        for path, mode in modes.items():
            if not mode & 0o001:
                path.chmod(mode)


def unfolded(text: str) -> str:
    """Return what nono said as one line: it is broken at 80 columns."""
    return " ".join(text.split())


def lines(text: str) -> list[dict[str, Any]]:
    """Return the JSON documents that an agent printed, one a line."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


class ScriptedUpstream:
    """A TLS server on loopback that does with each connection what `serve(reader, writer)` says, on its own thread."""

    def __init__(self, made: certificates.Certificates, serve: Callable[[BinaryIO, BinaryIO], None]) -> None:
        self._serve = serve
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(made.server, made.server_key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        self.url = f"https://localhost:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        try:
            with self._tls.wrap_socket(connection, server_side=True) as tls:
                with tls.makefile("rb") as reader, tls.makefile("wb", buffering=0) as writer:
                    self._serve(reader, writer)
        except OSError:
            pass  # a client that goes away, as the warm connections of the proxy do


def read_request(reader: BinaryIO) -> tuple[str, bytes] | None:
    """Return the head and the body of one request, the body taken out of its chunks; None at the end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (line := reader.readline()):
            return None
        head += line
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:-2])
    if b"content-length" in fields:
        return head.decode(), reader.read(int(fields[b"content-length"]))
    body = b""
    while b"transfer-encoding" in fields and (size := int(reader.readline().split(b";")[0], 16)):
        body += reader.read(size)
        reader.readline()
    if b"transfer-encoding" in fields:
        reader.readline()
    return head.decode(), body
