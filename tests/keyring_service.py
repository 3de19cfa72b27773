"""A real gnome-keyring on a D-Bus session bus of its own, for tests.

    with KeyringService(directory) as keyring:
        keyring.store("nono", "openai_api_key", "sk-...", target="default")
        subprocess.run([...], env=keyring.environment())

Both daemons are children of the test process and die with it, so nothing is left behind. The bus activates no
services: the keyring is the only one on it, and it is unlocked with a password at its start. Several may run side by
side.
`bus_only` leaves the keyring out. Needs dbus-daemon, gnome-keyring-daemon and secret-tool.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

_BUS_CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>
"""
_WAIT_S = 20
_DIE_TOO = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []  # when the tests are killed
LOGIN_COLLECTION = "/org/freedesktop/secrets/collection/login"


class KeyringService:
    """Starts on entering, stops on leaving. directory: an empty one; becomes the HOME of both daemons."""

    def __init__(self, directory: Path, *, bus_only: bool = False) -> None:
        self.directory = directory
        self._bus_only = bus_only
        self._processes: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        socket_path = self.directory / "bus"
        configuration = self.directory / "bus.conf"
        configuration.write_text(_BUS_CONFIGURATION.format(socket=socket_path))
        try:
            self._start_bus(configuration)
            if not self._bus_only:
                self._start_keyring()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def environment(self, **more: str) -> dict[str, str]:
        """Return a whole environment for a program that is to use this keyring; no display, its own HOME."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "XDG_RUNTIME_DIR": str(self.directory),
            "DBUS_SESSION_BUS_ADDRESS": self.address,
            **more,
        }

    def store(self, service: str, account: str, secret: str | bytes, **attributes: str) -> None:
        """Store an item as the README says users do."""
        more = [part for item in attributes.items() for part in item]
        self.run(
            ["secret-tool", "store", f"--label={service}: {account}", "service", service, "username", account, *more],
            secret.encode() if isinstance(secret, str) else secret,
        )

    def lookup(self, *attributes: str) -> bytes | None:
        """Return what secret-tool finds for `attributes` (name, value, ...)."""
        done = subprocess.run(["secret-tool", "lookup", *attributes], env=self.environment(), capture_output=True)
        return done.stdout if done.returncode == 0 else None

    def clear(self) -> None:
        """Unlock nothing, remove every item of service `nono`."""
        subprocess.run(["secret-tool", "clear", "service", "nono"], env=self.environment(), check=False)

    def lock(self) -> None:
        """Lock the collection; nothing but a dialog can open it again."""
        self.run(
            ["gdbus", "call", "--session", "--dest", "org.freedesktop.secrets", "--object-path",
             "/org/freedesktop/secrets", "--method", "org.freedesktop.Secret.Service.Lock",
             f"['{LOGIN_COLLECTION}']"]
        )  # fmt: skip

    def run(self, command: list[str], stdin: bytes = b"") -> bytes:
        done = subprocess.run(command, input=stdin, env=self.environment(), capture_output=True, timeout=_WAIT_S)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def stop(self) -> None:
        while self._processes:
            process = self._processes.pop()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start_bus(self, configuration: Path) -> None:
        read_fd, write_fd = os.pipe()
        try:
            self._processes.append(
                subprocess.Popen(
                    [
                        *_DIE_TOO,
                        "dbus-daemon",
                        f"--config-file={configuration}",
                        "--nofork",
                        f"--print-address={write_fd}",
                    ],
                    pass_fds=[write_fd],
                    env=self.environment(),
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        finally:
            os.close(write_fd)
        with open(read_fd, encoding="ascii") as announcement:
            self.address = announcement.readline().strip()
        if not self.address:
            raise RuntimeError("dbus-daemon did not start")

    def _start_keyring(self) -> None:
        keyring = subprocess.Popen(
            [*_DIE_TOO, "gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"],
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(keyring)
        assert keyring.stdin is not None
        keyring.stdin.write(b"test")  # the password: any but an empty one
        keyring.stdin.close()
        self.run(["gdbus", "wait", "--session", "--timeout", str(_WAIT_S), "org.freedesktop.secrets"])
