"""docs/tutorial.md is what a new user sees: its commands are typed here, on a terminal, and what they print is in it.

The keystore is a real gnome-keyring, the agent Claude Code from npm; the model is a stand-in, to which the user's own
profile `claude-code` leads. To write the document anew: NONO_WRITE_TUTORIAL=1 ./ci/test --agents -k tutorial
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agents.models import PROVIDERS, SHELLS, Model
from tests.agents.protocols import Protocol, Turn
from tests.agents.test_agents import INSTALLED
from tests.agents.tutorial import Step, compare, on_terminal, prepare, signing, typed, wrapped
from tests.fakes import Request, Upstream
from tests.runs import KEYS, TESTED_WALL, Site, missing, require_command

NOTES = 'Use tabs. Never say "simply".'
ASKED = "cat ~/notes/style.md"
CLAUDE = "claude --dangerously-skip-permissions -p"
PROMPT = '"Which style do my notes ask for?"'
RUN = "nono run -p claude-code --credential anthropic"
PROFILE = """{
  "extends": "claude-code",
  "meta": {"name": "writer", "description": "Claude Code, and my notes to read"},
  "filesystem": {"read_file": ["~/notes/style.md"]},
  "network": {"credentials": ["anthropic"]}
}"""

DENIED = 3

pytestmark = [
    pytest.mark.agents,
    pytest.mark.skipif(TESTED_WALL != "", reason="the document shows the strongest wall"),
]


STEPS = (
    Step(
        "Store the key once. It is asked for, not shown, and kept in the desktop's keystore (on a machine without one: "
        "`--store file` or `--store session`).",
        "nono credential set anthropic",
        "(not shown): ",
        f"{KEYS['anthropic']}\n",
    ),
    Step(
        "Start Claude Code in your project, with its built-in profile. Before the agent starts, nono says what it may "
        "do. Claude Code finds a key in its environment as always; it is a token that is worth nothing outside of this "
        "run. Asked for your notes, which lie outside of the project, it is refused by the kernel:",
        f"{RUN} -- {CLAUDE} {PROMPT}",
    ),
    Step(
        "Why? `nono why` takes the flags of `nono run`, and says what they come to:",
        "nono why --path ~/notes/style.md --op read -p claude-code --credential anthropic",
        status=DENIED,
    ),
    Step(
        "With `--probe` it does not argue: it puts up the same sandbox, and asks the kernel.",
        "nono why --probe --path ~/notes/style.md --op read -p claude-code --credential anthropic",
        status=DENIED,
    ),
    Step("Add the flag that it suggests:", f"{RUN} --read-file ~/notes/style.md -- {CLAUDE} {PROMPT}"),
    Step(
        "To keep it, write it into a profile of your own, which extends the built-in one:",
        f"cat > ~/.config/nono/profiles/writer.json <<'EOF'\n{PROFILE}\nEOF",
    ),
    Step(
        "Look at it before you use it:",
        "nono profile validate writer && nono profile diff claude-code writer",
        status=1,
    ),
    Step("From now on this is all you type:", f"nono run -p writer -- {CLAUDE} {PROMPT}"),
    Step(
        "What else the notes' directory holds stays closed:",
        "nono why --path ~/notes --op read -p writer",
        status=DENIED,
    ),
)


class Reader(Model):
    """A model that looks into the notes, and tells what it got."""

    def _turn(self, protocol: Protocol, request: Request, body: bytes) -> Turn:
        question: Any = json.loads(body)
        result = protocol.result(question)
        shell = next((name for name in SHELLS if name in protocol.offered(question)), "")
        if result is not None:
            turn = Turn(f"I ran `{ASKED}`. It printed:\n{result.strip()}")
        else:
            turn = Turn("", shell, {"command": ASKED, "description": "Read the notes"}) if shell else Turn("Notes")
        self._note(request, body, turn)
        return turn


@pytest.fixture
def user(desktop: dict[str, str]) -> Iterator[Site]:
    """A user's home, with a project and notes; not in /tmp, which an agent has of its own."""
    require_command("node")
    if not (INSTALLED / "bin" / "claude").exists():
        missing(f"claude in {INSTALLED} (ci/test --agents installs it)")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory, Site(Path(directory) / "site") as site:
        prepare(site, desktop)
        site.environment["PATH"] = f"{INSTALLED / 'bin'}:{site.environment['PATH']}"
        for path in (site.home / "notes", site.home / ".config" / "nono" / "profiles"):
            path.mkdir(parents=True)
        (site.home / "notes" / "style.md").write_text(f"{NOTES}\n")
        yield site


def lead_to(site: Site, url: str) -> None:
    """Let the profile `claude-code` be the built-in one, with a route to the stand-in."""
    provider = PROVIDERS["anthropic"]
    route = {
        "upstream": url,
        "credential_key": "anthropic_api_key",
        "inject_header": provider.header,
        "credential_format": provider.key_format,
        "tls_ca": site.certificates.authority,
    }
    profile = {"extends": "claude-code", "network": {"custom_credentials": {"anthropic": route}}}
    (site.home / ".config" / "nono" / "profiles" / "claude-code.json").write_text(json.dumps(profile))


def test_the_tutorial_is_what_happens(user: Site) -> None:
    model = Reader(PROVIDERS["anthropic"], KEYS["anthropic"])
    parts = ["# A first hour with nono", wrapped(INTRODUCTION)]
    with Upstream(model, user.upstream.tls) as upstream:
        lead_to(user, upstream.url)
        on_terminal(user, Step("", "nono profile groups >/dev/null 2>&1"))  # asks the package managers, once
        parts += typed(user, STEPS)
    assert all(seen.accepted for seen in model.seen)
    parts += [wrapped(END), *signing(user)]
    text = "\n\n".join(parts) + "\n"
    assert KEYS["anthropic"] not in text
    compare(text)


INTRODUCTION = (
    "You have installed nono (`pip install .`, see README.md) and Claude Code (`npm install -g "
    "@anthropic-ai/claude-code`), and have a key for Anthropic's API. Every line below was printed by a real run: "
    "`ci/test --agents` types these commands and compares. Only the model is a stand-in there, so it says little."
)
END = (
    "A request that the network does not allow is told at the end of the run, with the flag that would grant it. "
    "`nono learn -- COMMAND` writes a first profile for a command of which you do not know what it needs, and "
    "`nono shell -p writer` lets you look around with an agent's rights."
)
