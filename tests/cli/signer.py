"""A user of `nono trust`: a home, a project, real processes; his keys are in files or in a real Secret Service."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nono.trust import keys

ROOT = Path(__file__).parent.parent.parent
WITHOUT_KEYSTORE = {"DBUS_SESSION_BUS_ADDRESS": "", "XDG_RUNTIME_DIR": "/nonexistent"}
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Done:
    """What a command printed. said: on standard output, as one line. wrong: on standard error."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.status = done.returncode
        self.out, self.err = done.stdout.decode(), done.stderr.decode()
        self.said, self.wrong = " ".join(self.out.split()), " ".join(self.err.split())
        for text in (self.out, self.err):
            assert not CONTROL.search(text), text
            assert "Traceback" not in text
            assert "internal error" not in text

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Signer:
    """environment: where his keystore is."""

    def __init__(self, directory: Path, environment: Mapping[str, str] = WITHOUT_KEYSTORE) -> None:
        self.home, self.project = directory / "home", directory / "home" / "project"
        self.project.mkdir(parents=True)
        self.config = self.home / ".config" / "nono"
        self.environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", **environment}
        self.environment["HOME"] = str(self.home)
        self.key = self.config / "trust" / "key.pem"
        self.keyref = f"file://{self.key}"

    def trust(self, *arguments: str | bytes, within: Path | None = None) -> Done:
        """Run `nono trust ARGUMENTS` in the project."""
        command = [sys.executable, "-m", "nono", "trust", *arguments]
        done = subprocess.run(
            command, cwd=within or self.project, env=self.environment, capture_output=True, timeout=60, stdin=-3
        )
        if self.key.is_file():
            assert self.key.read_bytes().strip() not in done.stdout + done.stderr
        return Done(done)

    def done(self, *arguments: str | bytes, within: Path | None = None) -> Done:
        """As `trust`; it has to succeed."""
        done = self.trust(*arguments, within=within)
        assert done.status == 0, done.out + done.err
        return done

    def write(self, name: str, text: str = "Be nice.\n") -> Path:
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def keygen(self) -> None:
        self.done("keygen", "--keyref", self.keyref)

    def with_policy(self, *includes: str) -> None:
        """Make a key, and a signed policy of the project's."""
        if not self.key.exists():
            self.keygen()
        self.done("init", "--force", *(word for each in includes for word in ("--include", each)))
        self.done("sign-policy")

    def statuses(self, *arguments: str) -> dict[str, str]:
        """Return what `nono trust list` says of each file."""
        return {each["path"]: each["status"] for each in self.done("list", "--json", *arguments).json["files"]}

    def public(self) -> bytes:
        """Return the public half of the key in the file."""
        return keys.public_of(keys.load_private(self.key.read_bytes()))
