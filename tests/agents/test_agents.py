"""Real agents, as npm has them, do a task that takes their shell, inside the sandbox: `ci/test --agents`.

Each runs as docs/agents.md says, `nono run -p NAME --credential PROVIDER`, with nono's own profile and the settings
that are given there, in a home that has nothing else. The provider is a host of a World, where a model wants one call
of the shell tool (models.py): once by the agent's command for scripts, once on a terminal. The script that the call
runs leaves a file, and the environment of every process that it sees, the agent's among them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.agents.models import MARK, PROVIDERS, SCRIPT, TEXT, Model
from tests.e2e.terminals import TerminalSession, nono
from tests.e2e.world import World
from tests.runs import KEYS, Site, missing, require_command

INSTALLED = Path(sys.prefix) / "agents"  # put there by ci/test --agents
WALL = os.environ.get("NONO_TEST_SANDBOX", "")
TIMEOUT_S = 180  # they take seconds, and a minute where others compute
MADE, SEEN = "made-by-agent.txt", "environments.txt"
TOOL = f"""\
expr 6 '*' 7 | sed s/^/{MARK}/ >{MADE}
for each in /proc/[0-9]*/environ; do tr '\\0' '\\n' <$each; done >{SEEN} 2>/dev/null
cat {MADE}
"""
PROMPT = "Run the script."

pytestmark = pytest.mark.agents


class Agent(NamedTuple):
    """One agent, and how its user has set it up.

    command: the words before a prompt that is worked off without a terminal. interactive: the words for a terminal.
    settings: files below the home directory, with WORKDIR and INTERACTIVE for what a run knows. keys: what is typed on
    a terminal before the prompt, each when a text has appeared. flags: nono's, besides profile and credential.
    """

    profile: str
    provider: str
    command: list[str]
    interactive: list[str]
    settings: Mapping[str, str]
    keys: tuple[tuple[bytes, bytes], ...]
    websockets: bool = True
    flags: tuple[str, ...] = ()


OWN = ".local/share/nono"
CLAUDE = Agent(
    profile="claude-code",
    provider="anthropic",
    command=["claude", "--dangerously-skip-permissions", "-p"],
    interactive=["claude", "--dangerously-skip-permissions"],
    settings={
        f"{OWN}/claude-code/.claude.json": """{
            "hasCompletedOnboarding": true,
            "bypassPermissionsModeAccepted": true,
            "projects": {"WORKDIR": {"hasTrustDialogAccepted": true}}
        }"""
    },
    keys=((b"API", b"\x1b[A"), (b"Yes", b"\r"), (b"bypass", b"")),
)
CODEX = Agent(
    profile="codex",
    provider="openai",
    command=["codex", "exec", "-s", "danger-full-access", "--skip-git-repo-check"],
    interactive=["codex", "--no-daemon", "-s", "danger-full-access"],
    settings={
        f"{OWN}/codex/config.toml": """
            model_provider = "nono"
            [model_providers.nono]
            name = "OpenAI through nono"
            base_url = "http://127.0.0.1:8100/openai"
            env_key = "OPENAI_API_KEY"
            supports_websockets = true
            [projects."WORKDIR"]
            trust_level = "trusted"
        """
    },
    keys=((b"Ask", b""),),
    flags=("--proxy-port", "8100"),
)
OPENCODE = Agent(
    profile="opencode",
    provider="openai",
    command=["opencode", "run", "-m", "openai/gpt-5"],
    interactive=["opencode", "-m", "openai/gpt-5"],
    settings={},
    keys=((b"Ask", b""),),
)
ANTHROPIC = """{"provider": {"anthropic": {"options": {"baseURL": "{env:ANTHROPIC_BASE_URL}/v1"}}}}"""
COMPATIBLE = """{
    "provider": {
        "compatible": {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": "{env:OPENAI_BASE_URL}", "apiKey": "{env:OPENAI_API_KEY}"},
            "models": {"stand-in-1": {"tool_call": true}}
        }
    }
}"""
GEMINI = Agent(
    profile="gemini-cli",
    provider="gemini",
    command=["gemini", "--yolo", "-p"],
    interactive=["gemini", "--yolo"],
    settings={
        f"{OWN}/gemini-cli/.gemini/settings.json": """{
            "security": {"auth": {"selectedType": "gemini-api-key"}, "folderTrust": {"enabled": false}},
            "model": {"name": "gemini-2.5-pro"},
            "tools": {"shell": {"enableInteractiveShell": INTERACTIVE}}
        }"""
    },
    keys=((b"Type", b""),),
)
AGENTS = {"claude": CLAUDE, "codex": CODEX, "opencode": OPENCODE, "gemini": GEMINI}
VARIANTS = {
    "codex over HTTP": CODEX._replace(websockets=False),
    "opencode with Anthropic": OPENCODE._replace(
        provider="anthropic",
        command=["opencode", "run", "-m", "anthropic/claude-sonnet-4-5"],
        settings={f"{OWN}/opencode/config/opencode/opencode.json": ANTHROPIC},
    ),
    "opencode with chat completions": OPENCODE._replace(
        command=["opencode", "run", "-m", "compatible/stand-in-1"],
        settings={f"{OWN}/opencode/config/opencode/opencode.json": COMPATIBLE},
    ),
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path / "world") as made:
        yield made


def settle(site: Site, agent: Agent) -> list[str]:
    """Make the home of the agent's user, and store his key; return nono's flags."""
    require_command("node")
    if not (INSTALLED / "bin" / agent.command[0]).exists():
        missing(f"{agent.command[0]} in {INSTALLED} (ci/test --agents installs it)")
    site.environment["PATH"] = f"{INSTALLED / 'bin'}:{site.environment['PATH']}"
    # Terminals for what runs inside take /dev/pts of its own, and so a mount namespace.
    interactive = json.dumps(WALL in ("", "namespace"))
    for file, text in agent.settings.items():
        for word, value in {"WORKDIR": str(site.work), "INTERACTIVE": interactive}.items():
            text = text.replace(word, value)
        (site.home / file).parent.mkdir(parents=True, exist_ok=True)
        (site.home / file).write_text(text)
    (site.work / SCRIPT).write_text(TOOL)
    stored = site.nono(["credential", "set", agent.provider, "--store", "file"], stdin=KEYS[agent.provider])
    assert stored.returncode == 0, stored.stderr
    wall = ["--sandbox", WALL] if WALL else []
    return ["-p", agent.profile, "--credential", agent.provider, *agent.flags, *wall]


def check(site: Site, model: Model, said: str) -> None:
    """Check that the tool ran, that the upstream saw the real key alone, and that nobody inside has it."""
    assert model.calls, said
    assert (site.work / MADE).read_text() == f"{MARK}42\n"
    environments = (site.work / SEEN).read_text().splitlines()
    (token,) = {line.partition("=")[2] for line in environments if line.startswith("NONO_PROXY_TOKEN=")}
    assert all(seen.accepted for seen in model.seen), [seen.presented for seen in model.seen]
    for seen in model.seen:
        assert token not in str(seen.request.headers) + seen.request.target
        assert token.encode() not in seen.body
    left = [path for each in (site.home, site.work, site.tmp) for path in each.rglob("*")]
    left = [path for path in left if not path.is_relative_to(site.state)]  # where the key is stored
    contents = [path.read_bytes() for path in left if path.is_file() and not path.is_symlink()]
    for key in KEYS.values():
        assert key not in said
        assert not any(key.encode() in content for content in contents)


@pytest.mark.parametrize("name", [*AGENTS, *VARIANTS])
def test_agent_uses_its_shell(site: Site, world: World, name: str) -> None:
    agent = {**AGENTS, **VARIANTS}[name]
    provider = PROVIDERS[agent.provider]
    model = Model(provider, KEYS[agent.provider], websockets=agent.websockets)
    world.serve(provider.host, model)
    flags = settle(site, agent)
    command = [*agent.command, PROMPT]
    with site.start(flags, command, wrap=world.enter(site.work), stdin=subprocess.DEVNULL) as process:
        try:
            stdout, stderr = (each.decode(errors="replace") for each in process.communicate(timeout=TIMEOUT_S))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            pytest.fail(f"{name} did not end: {process.communicate()}")
    assert process.returncode == 0, stdout + stderr
    assert f"{TEXT} {MARK}42" in stdout, stdout + stderr
    check(site, model, stdout + stderr)


@pytest.mark.parametrize("name", AGENTS)
def test_agent_uses_its_shell_on_a_terminal(site: Site, world: World, name: str) -> None:
    agent = AGENTS[name]
    provider = PROVIDERS[agent.provider]
    model = Model(provider, KEYS[agent.provider])
    world.serve(provider.host, model)
    flags = settle(site, agent)
    nsenter, *enter = world.enter(site.work)
    command = [require_command(nsenter), *enter, *nono(*agent.interactive, flags=["--silent", *flags])]
    with TerminalSession(site, command) as session:
        session.resize(40, 120)
        screen = Screen(session)
        for text, keys in agent.keys:
            screen.expect(text)
            screen.rest()
            session.type(keys)
        session.type(PROMPT.encode())
        screen.expect(f"{MARK}42".encode(), press=b"\r")
    check(site, model, screen.seen.decode(errors="replace"))


class Screen:
    """A terminal's other end that answers what programs ask of it (ECMA-48: DSR, DA), and keeps all that it is sent."""

    ANSWERS = ((b"\x1b[6n", b"\x1b[1;1R"), (b"\x1b[c", b"\x1b[?62;c"))

    def __init__(self, session: TerminalSession) -> None:
        self.session = session
        self.seen = b""

    def expect(self, text: bytes, press: bytes = b"") -> None:
        """Wait until `text` appears that was not there; press keys each second."""
        before, start = len(self.seen), time.monotonic()
        pressed = start
        while self.seen.find(text, before) < 0:
            assert time.monotonic() - start < TIMEOUT_S, f"{text!r} did not appear: {self.seen!r}"
            self._read(0.2)
            if press and time.monotonic() - pressed > 1:
                self.session.type(press)
                pressed = time.monotonic()

    def rest(self) -> None:
        """Wait until nothing appears for a while: what is typed earlier may be meant for what is just leaving."""
        end = time.monotonic() + 3  # some move all the time
        while self._read(0.5) and time.monotonic() < end:
            pass

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self.session.terminal], [], [], timeout_s)[0]:
            return False
        data = os.read(self.session.terminal, 65536)
        self.seen += data
        for question, answer in self.ANSWERS:
            for _ in range(data.count(question)):
                self.session.type(answer)
        return True
