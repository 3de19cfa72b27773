"""A user's machine with package managers that are scripts: what each prints, and where it connects, a test says."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from nono.policy.capabilities import PathDeny, PathGrant
from nono.policy.resolve import Place
from nono.registries.managers import Reach, Tool, survey

# Every fake begins with this; `visit(url)` is a request through the proxy that a variable names.
PRELUDE = f"""#!{sys.executable}
import base64, json, os, pathlib, socket, sys, time, urllib.parse
arguments = sys.argv[1:]
def visit(target, variable="HTTPS_PROXY", url=""):
    proxy = urllib.parse.urlsplit(url or os.environ[variable])
    assert proxy.password not in " ".join(arguments), "others of the machine read a command line"
    token = base64.b64encode(f"{{proxy.username}}:{{proxy.password}}".encode()).decode()
    method = "GET" if "://" in target else "CONNECT"
    with socket.create_connection((proxy.hostname, proxy.port)) as connection:
        head = f"{{method}} {{target}} HTTP/1.1\\r\\nProxy-Authorization: Basic {{token}}\\r\\n\\r\\n"
        connection.sendall(head.encode())
        return connection.recv(100)
"""


class Machine:
    """`home`, `bin` (the PATH), a working tree `work`, and what a test adds to the environment, grants and denies."""

    def __init__(self, directory: Path) -> None:
        self.home, self.bin, self.work = (directory / name for name in ("home", "bin", "work"))
        for each in (self.home, self.bin, self.work):
            each.mkdir()
        self.state = self.home / ".local/state/nono"
        self.environment = {"HOME": str(self.home), "PATH": f"{self.work / 'bin'}:{self.bin}"}
        self.grants: list[PathGrant] = []
        self.denies: list[PathDeny] = []
        self.workdir = self.work

    @property
    def place(self) -> Place:
        return Place(
            home=str(self.home),
            workdir=str(self.workdir),
            temporary_directory="/tmp",
            config_home=str(self.home / ".config"),
            state_home=str(self.home / ".local/state"),
            runtime_dir="/run/user/1000",
        )

    def program(self, name: str, body: str, directory: Path | None = None) -> Path:
        """Install a program that runs `body`, in Python."""
        path = (directory or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PRELUDE + body)
        path.chmod(0o755)
        return path

    def file(self, name: str, text: str) -> Path:
        """Write a file of the user's home."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def tools(self) -> list[Tool]:
        return survey(self.environment, self.place, Reach(self.place, self.grants, self.denies))

    def tool(self, name: str) -> Tool:
        return next(tool for tool in self.tools() if tool.manager.name == name)

    def names(self, tools: Iterable[Tool] | None = None) -> list[str]:
        return [tool.manager.name for tool in (self.tools() if tools is None else tools)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)
