"""The tutorial signs a SKILL.md, runs, tampers, and is refused: typed on a terminal, with a real keystore."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.agents import tutorial
from tests.runs import TESTED_WALL, Site


@pytest.mark.skipif(TESTED_WALL != "", reason="the document shows the strongest wall")
def test_the_part_about_signatures_is_what_happens(desktop: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory, Site(Path(directory) / "site") as site:
        tutorial.prepare(site, desktop)
        text = "\n\n".join(tutorial.signing(site)) + "\n"
    tutorial.compare(text, tutorial.SIGNING)
    assert "Read-only file system" in text
    assert "nothing was started" in text
