"""nono(1): every verb and flag is in it, and no roff processor complains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nono.cli import describe, man
from tests.runs import require_command


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("man") / "nono.1"
    result = subprocess.run([sys.executable, "-m", "nono", "man"], capture_output=True, check=True)
    assert result.stderr == b""
    path.write_bytes(result.stdout)
    return path


def test_every_verb_and_every_flag_is_named(page: Path) -> None:
    text = page.read_text()
    for verb in describe.verbs():
        for each in (verb, *verb.actions):
            assert f"nono {each.name}".replace("-", "\\-") in text
            for flag in each.flags:
                assert all(name.replace("-", "\\-") in text for name in flag.names if name not in ("-h", "--help"))


def test_groff_finds_no_mistake(page: Path) -> None:
    groff = require_command("groff")
    result = subprocess.run([groff, "-man", "-Tutf8", "-ww", page], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert "Run a command in the sandbox, with the proxy beside it." in result.stdout


def test_mandoc_finds_no_mistake_but_that_it_has_no_date(page: Path) -> None:
    mandoc = require_command("mandoc")
    result = subprocess.run([mandoc, "-Tlint", page], capture_output=True, text=True, check=False)
    assert [line for line in result.stdout.splitlines() if "missing date" not in line] == []


def test_a_page_is_the_same_each_time(page: Path) -> None:
    assert man.page(describe.verbs()) == page.read_text()


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        (".profile", "\\&.profile"),
        ("'quoted'", "\\&'quoted'"),
        ("a\\b --x ~/y", "a\\eb \\-\\-x \\(ti/y"),
        ("says `nono run`", "says \\fBnono run\\fP"),
        ("one → two", "one \\[u2192] two"),
    ],
)
def test_no_text_is_taken_for_roff(text: str, roff: str) -> None:
    assert man._text(text) == roff
