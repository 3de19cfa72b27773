"""A user with a key and his project of signed files, and what verifying them says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nono.errors import NonoError
from nono.policy.paths import Place
from nono.session import trust, verification
from nono.session.verification import Verified
from nono.supervisor.whereabouts import find_place
from tests.signing import Signer

INCLUDES = ["**/SKILL.md", "**/CLAUDE.md"]


class Tree:
    """A user with a key, and his project."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.root = self.home / "project"
        (self.root / "docs").mkdir(parents=True)
        self.signer = Signer().trusted_by(self.home)
        self.claude = self.write("CLAUDE.md")
        self.skill = self.write("docs/SKILL.md")

    @property
    def config(self) -> Path:
        return self.home / ".config/nono"

    def write(self, name: str, text: str = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text or f"what {name} says")
        return path

    def policy(self, **members: Any) -> Path:
        members = {"includes": INCLUDES, **members}
        return self.signer.policy(self.root, self.signer, **members)

    def place(self, workdir: Path | None = None) -> Place:
        return find_place(str(workdir or self.root), {"HOME": str(self.home)})

    def verify(self, workdir: Path | None = None, *, skip: tuple[str, ...] = (), override: bool = False) -> Verified:
        place = self.place(workdir)
        return verification.verify(place, trust.in_sight(place), skip=skip, override=override)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Two files, both signed, and a policy that wants them so."""
    made = Tree(tmp_path)
    made.signer.sign(made.claude, made.skill)
    made.policy()
    return made


class Log:
    """An audit log of records, and what a user is told."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.told: list[str] = []

    def write(self, kind: str, members: dict[str, Any]) -> None:
        assert kind == "trust"
        self.records.append(members)


def left(verified: Verified) -> Log:
    """Look again, as after a run."""
    log = Log()
    verified.is_running = True
    verified.look_again(log, log.told.append)  # type: ignore[arg-type]
    return log


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(NonoError) as caught:
        call()
    assert caught.value.exit_status in (1, 2)
    return "\n".join((str(caught.value), *caught.value.details))
