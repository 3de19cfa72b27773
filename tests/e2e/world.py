"""A machine with a network of its own, whose internet is ours: names, addresses, certificates and servers.

A World has a mount and a network namespace. In there, the loopback interface has addresses that are global to whoever
looks at them, /etc/resolv.conf names our name server (stub_dns.py), and the system's certificates hold our authority.
So nono runs in it as it is, and its rules about addresses, names and certificates are met by what they were made for.
Outside nothing changes: no address, no mount, no file. It ends with the `with` block.

    with World(directory) as world:
        page = world.serve("www.example.org", standins.page)            https://www.example.org/
        world.run(["curl", "https://www.example.org/"])
        page.requests, world.dns.queries                                what was seen

The servers are threads of this process, so a test reads and changes them directly: only their sockets are made inside,
by inside.py, which sends them here. Each server has an address of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from tests.e2e.stub_dns import StubDNS
from tests.fakes import Authority, Script, Upstream
from tests.runs import TIMEOUT_S, missing, require_command

# Global, and nobody's web server: the networks of AS112 (RFC 7534, RFC 7535).
NETWORK, NETWORK_6 = "192.31.196.", "2620:4f:8000::"
# What must never be dialled for an agent is there all the same, so that a dial would be seen.
PRIVATE, METADATA = "10.9.8.7", "169.254.169.254"
NAME_SERVER = "127.0.0.1"
INSIDE = str(Path(__file__).parent / "inside.py")


class World:
    """See above. `directory` is made, and keeps the certificates."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o755)
        self.authority = Authority(str(directory))
        self._servers = 0
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:  # should it fail half-way
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._control.settimeout(TIMEOUT_S)
            undo.enter_context(self._control)
            with theirs:
                self._process = self._start(theirs)
            undo.callback(self._end)
            if self._control.recv(1000) != b"ready":
                _, stderr = self._process.communicate(timeout=TIMEOUT_S)
                missing(f"a mount and a network namespace of our own ({stderr.strip()})")
            self.dns = StubDNS(self.socket("udp", NAME_SERVER, 53))
            undo.callback(self.dns.close)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._undo.close()

    def _start(self, stdin: socket.socket) -> subprocess.Popen[str]:
        for command in ("ip", "unshare", "nsenter", "mount", "openssl"):
            require_command(command)
        networks = [f"{NETWORK}1/24", f"{PRIVATE}/32", f"{METADATA}/32", f"{NETWORK_6}1/64"]
        orders = {"mounts": self._mounts(), "networks": networks, "may_fail": networks[-1:]}
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        command = ["unshare", *user, "--mount", "--net", sys.executable, "-I", INSIDE, json.dumps(orders)]
        return subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/"
        )

    def _end(self) -> None:
        self._control.close()
        self._process.communicate(timeout=TIMEOUT_S)

    def _mounts(self) -> dict[str, str]:
        """Write the files of the machine; return where they belong."""
        certificates = self.directory / "certificates"
        certificates.mkdir()
        bundle = certificates / "ca-certificates.crt"
        system = ssl.get_default_verify_paths()
        bundle.write_bytes(Path(system.cafile or os.devnull).read_bytes() + Path(self.authority.ca).read_bytes())
        command = ["openssl", "x509", "-noout", "-subject_hash", "-in", self.authority.ca]
        digest = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
        shutil.copyfile(self.authority.ca, certificates / f"{digest}.0")
        resolver, switch = self.directory / "resolv.conf", self.directory / "nsswitch.conf"
        resolver.write_text(f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n")
        switch.write_text("passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n")
        mounts = {
            system.openssl_capath: certificates, "/etc/resolv.conf": resolver, "/etc/nsswitch.conf": switch,
        }  # fmt: skip
        return {os.path.realpath(path): str(source) for path, source in mounts.items() if os.path.exists(path)}

    def socket(self, kind: str, address: str, port: int) -> socket.socket:
        """Return a bound socket of this machine; kind: "udp", or "tcp" for one that listens."""
        self._control.send(json.dumps([kind, address, port]).encode())
        message, fds, _, _ = socket.recv_fds(self._control, 1000, 1)
        if not fds:
            raise OSError(message.decode())
        return socket.socket(fileno=fds[0])

    def serve(
        self,
        name: str,
        script: Script,
        *,
        port: int = 443,
        tls: bool = True,
        address: str = "",
        also: Iterable[str] = (),
    ) -> Upstream:
        """Serve `name` (a certificate for it, an entry in the name server), and other names `also`.

        address: the next free global one unless said otherwise; with `address`, the name server learns nothing.
        """
        names = [name, *also]
        if not address:
            self._servers += 1
            address = f"{NETWORK}{10 + self._servers}"
            self.dns.names.update((each, [address]) for each in names)
        context = self.authority.server_context(*names) if tls else None
        upstream = Upstream(script, context, listener=self.socket("tcp", address, port))
        self._undo.callback(upstream.close)
        return upstream

    def enter(self, workdir: Path | str = "/") -> list[str]:
        """Return the words that, before a command, let it run on this machine, in a directory."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        enter = ["nsenter", f"--target={self._process.pid}", *user, "--mount", "--net"]
        return [*enter, "env", f"--chdir={workdir}"]

    def run(
        self, command: Iterable[str], *, environment: Mapping[str, str], workdir: Path | str = "/"
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this machine, to its end."""
        return subprocess.run(
            [*self.enter(workdir), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
