"""The completion scripts, in the shells themselves: keys are typed into a terminal, and the line is looked at."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nono.cli import describe
from tests.runs import require_command

SHOWN = re.compile(r"<<<(.*?)>>>", re.DOTALL)
# How each shell is started without settings, reads the script, and binds ^T to showing the line as it is.
SETUP = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        (
            "PS1=; bind 'set enable-bracketed-paste off'; bind 'set bell-style none'; source {script}; "
            """bind -x '"\\C-t": printf "<<<%s>>>\\n" "$READLINE_LINE"'; echo rea''dy"""
        ),
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        (
            "PS1=; unsetopt zle_bracketed_paste beep list_beep; autoload -Uz compinit; compinit -u -D; "
            "source {script}; "
            "show() {{ print -r -- \"<<<$BUFFER>>>\" }}; zle -N show; bindkey '^T' show; echo rea''dy"
        ),
    ),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with profiles of odd names, and the three scripts."""
    home = tmp_path_factory.mktemp("home")
    profiles = home / ".config/nono/profiles"
    profiles.mkdir(parents=True)
    for name in ("work-agent.json", "other.jsonc", "odd $(touch pwned) `touch pwned`;x.json", "it's.json"):
        (profiles / name).write_text("{}")
    (home / "project one").mkdir()
    (home / "notes.txt").write_text("")
    for shell in ("bash", "zsh", "fish"):
        result = subprocess.run(
            [sys.executable, "-m", "nono", "completion", shell], capture_output=True, text=True, check=True
        )
        assert result.stderr == ""
        (home / f"script.{shell}").write_text(result.stdout)
    return home


class Terminal:
    """A shell at a terminal of its own."""

    def __init__(self, shell: str, home: Path) -> None:
        argv, setup = SETUP[shell]
        require_command(argv[0])
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(home)
            environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "TERM": "dumb", "LC_ALL": "C.UTF-8"}
            os.execvpe(argv[0], argv, environment)
        self.type(setup.format(script=home / f"script.{shell}") + "\n")
        self.until("ready\r\n")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def until(self, wanted: str | re.Pattern[str]) -> str:
        """Return what came until `wanted` did."""
        text, end = "", time.monotonic() + 20
        while time.monotonic() < end:
            if select.select([self.fd], [], [], 0.2)[0]:
                text += os.read(self.fd, 4096).decode(errors="replace")
                if wanted in text if isinstance(wanted, str) else wanted.search(text):
                    return text
        raise AssertionError(f"{wanted!r} did not come: {text!r}")

    def completed(self, line: str) -> str:
        """Return what the line becomes when Tab is pressed at its end."""
        self.type(f"{line}\t\x14")
        found = SHOWN.search(self.until(SHOWN))
        assert found
        self.type("\x15")
        return found[1].replace("\r", "").replace("\n", "")

    def close(self) -> None:
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@pytest.fixture(scope="module", params=["bash", "zsh"])
def terminal(request: pytest.FixtureRequest, home: Path) -> Iterator[Terminal]:
    terminal = Terminal(request.param, home)
    yield terminal
    terminal.close()


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("nono comp", "nono completion "),
        ("nono credential get", "nono credential get-status "),
        ("nono credential set --st", "nono credential set --store"),
        ("nono credential set --store fi", "nono credential set --store file "),
        ("nono credential set open", "nono credential set openai "),
        ("nono run --allow-cw", "nono run --allow-cwd "),
        ("nono run --allow-cwd --sandbox not", "nono run --allow-cwd --sandbox notify "),
        ("nono run --network-profile ent", "nono run --network-profile enterprise "),
        ("nono run -p work", "nono run -p work-agent "),
        ("nono run -p oth", "nono run -p other "),
        ("nono run --credential anth", "nono run --credential anthropic "),
        ("nono run --allow pro", "nono run --allow project\\ one/"),
        ("nono run --read-file no", "nono run --read-file notes.txt "),
        ("nono run --allow-cwd -- cat no", "nono run --allow-cwd -- cat notes.txt "),
        ("nono completion ba", "nono completion bash "),
    ],
)
def test_a_tab_completes(terminal: Terminal, line: str, becomes: str) -> None:
    assert terminal.completed(line).strip().removesuffix("=") == becomes.strip()


def test_a_value_behind_an_equals_sign(terminal: Terminal) -> None:
    assert terminal.completed("nono run --sandbox=not").strip() == "nono run --sandbox=notify"


def test_a_name_of_a_file_is_never_run(terminal: Terminal, home: Path) -> None:
    for line in ("nono run -p od", "nono run -p it", "nono run -p ", "nono run -p o"):
        terminal.completed(line)
    completed = terminal.completed("nono run -p od").strip()
    assert not (home / "pwned").exists()
    # what was put into the line is one word, and means that name
    terminal.type(f'\x15nono() {{ printf "[%s]\\n" "$@"; }}; {completed}\n')
    terminal.until("[odd $(touch pwned) `touch pwned`;x]")
    assert not (home / "pwned").exists()


def candidates(home: Path, line: str) -> list[str]:
    """What fish would offer."""
    require_command("fish")
    script = f"source {home}/script.fish; complete -C '{line}'"
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(
        ["fish", "--no-config", "-c", script], cwd=home, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    return [found.partition("\t")[0] for found in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("nono comp", "completion"),
        ("nono credential get", "get-status"),
        ("nono credential set --store fi", "file"),
        ("nono credential set open", "openai"),
        ("nono run --allow-cw", "--allow-cwd"),
        ("nono run --sandbox=not", "--sandbox=notify"),
        ("nono run --allow-cwd --network-profile ent", "enterprise"),
        ("nono run -p work", "work-agent"),
        ("nono run -p oth", "other"),
        ("nono run --credential anth", "anthropic"),
        ("nono run --allow pro", "project one/"),
        ("nono run --read-file no", "notes.txt"),
        ("nono run --allow-cwd -- cat no", "notes.txt"),
    ],
)
def test_fish_offers(home: Path, line: str, offers: str) -> None:
    assert [found.replace("\\ ", " ") for found in candidates(home, line)] == [offers]


def test_fish_runs_no_name_of_a_file(home: Path) -> None:
    assert "odd $(touch pwned) `touch pwned`;x" in candidates(home, "nono run -p od")
    assert not (home / "pwned").exists()


def test_every_flag_is_in_every_script(home: Path) -> None:
    names = {
        name
        for verb in describe.verbs()
        for each in (verb, *verb.actions)
        for flag in each.flags
        for name in flag.names
    }
    for shell in ("bash", "zsh", "fish"):
        script = (home / f"script.{shell}").read_text()
        missing = [
            name for name in names if name.startswith("--") and f"{name[2:] if shell == 'fish' else name}" not in script
        ]
        assert not missing, shell


def test_an_unknown_shell_is_a_mistake() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "nono", "completion", "tcsh"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "bash" in result.stderr
