"""`nono learn`, and the run that follows it, for tests: the user's directories are in /var/tmp.

A run has a /tmp of its own, so what is to be read by its name must be elsewhere.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nono.policy import jsonc
from tests.runs import Site, require_command

PYTHON = "/usr/bin/python3"
SANDBOXES = ["namespace", "notify"]


@pytest.fixture
def site() -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="learn-", dir="/var/tmp") as directory,
        Site(Path(directory) / "site") as made,
    ):
        yield made


@pytest.fixture(params=SANDBOXES)
def wall(request: pytest.FixtureRequest) -> list[str]:
    return ["--sandbox", str(request.param)]


def profile_of(site: Site, name: str = "test") -> dict[str, Any]:
    """What was learned, without the comments."""
    return dict(jsonc.loads(text_of(site, name), name))


def text_of(site: Site, name: str = "test") -> str:
    return (site.home / ".config" / "nono" / "profiles" / f"{name}.jsonc").read_text()


def learn(site: Site, flags: list[str], command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return site.nono(["learn", "--name", "test", *flags, "--", *command], **options)


def again(site: Site, flags: list[str], command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run with what was learned."""
    return site.nono(["run", "-p", "test", *flags, "--", *command])


def script(site: Site, text: str) -> list[str]:
    path = site.work / "script.py"
    path.write_text(text)
    return [require_command(PYTHON), str(path)]
