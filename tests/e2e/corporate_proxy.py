"""A corporate proxy, tinyproxy(8), on a machine of world.py: the only one that is to speak with the internet there."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Self

from tests.e2e.world import PRIVATE, World
from tests.runs import TIMEOUT_S, require_command

PORT = 8888


class CorporateProxy:
    """Runs as long as the `with` block lasts.

    credential: USER:PASSWORD that it wants. only: a host that it lets through; "" for all of them.
    """

    def __init__(self, world: World, directory: Path, *, credential: str = "", only: str = "") -> None:
        self._world = world
        self._log = directory / "tinyproxy.log"
        self._settings = directory / "tinyproxy.conf"
        lines = [f"Port {PORT}", f"Listen {PRIVATE}", "Timeout 30", f'LogFile "{self._log}"', "LogLevel Connect"]
        if credential:
            lines.append("BasicAuth " + credential.replace(":", " "))
        if only:
            names = directory / "allowed"
            names.write_text(f"^{only}$\n")
            lines += [f'Filter "{names}"', "FilterDefaultDeny Yes", "FilterType ere"]
        self._settings.write_text("\n".join(lines) + "\n")
        self.address = f"{PRIVATE}:{PORT}"

    def __enter__(self) -> Self:
        # Should the tests be killed, it ends as well.
        program = ["setpriv", "--pdeathsig", "TERM", require_command("tinyproxy"), "-d", "-c", str(self._settings)]
        command = [*self._world.enter(), *program]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + TIMEOUT_S
        while not self._listens() and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.wait(TIMEOUT_S)

    def _listens(self) -> bool:
        """Seen from here as proc(5) has it: the port in hexadecimal, state 0A."""
        sockets = Path(f"/proc/{self._process.pid}/net/tcp").read_text().splitlines()[1:]
        return any(line.split()[1].endswith(f":{PORT:04X}") and line.split()[3] == "0A" for line in sockets)

    @property
    def log(self) -> str:
        """What it wrote down: a line for each connection and request."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""
