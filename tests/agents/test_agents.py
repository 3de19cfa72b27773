"""Real agents, as npm has them, do a task that takes their shell, inside the sandbox: `ci/test --agents`.

Each runs in a new home with the profile of profiles/, as docs/agents.md says, against a model that wants one call of
the shell tool (models.py). The script that this call runs leaves a file, and the environment of all processes it sees.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.agents.models import MARK, PROVIDERS, SCRIPT, TEXT, Model
from tests.fakes import Upstream
from tests.runs import KEYS, Site, missing, require_command

INSTALLED = Path(sys.prefix) / "agents"  # put there by ci/test --agents
PROFILES = Path(__file__).parent / "profiles"
WALL = os.environ.get("NONO_TEST_SANDBOX", "")
MADE, SEEN = "made-by-agent.txt", "environments.txt"
TOOL = f"""\
expr 6 '*' 7 | sed s/^/{MARK}/ >{MADE}
for each in /proc/[0-9]*/environ; do tr '\\0' '\\n' <$each; done >{SEEN} 2>/dev/null
cat {MADE}
"""
PROMPT = f"Run {SCRIPT} and tell me what it says."

pytestmark = pytest.mark.agents


class Agent(NamedTuple):
    """command: with BASE in the place of the route's URL inside; home: files that its user has, by their path there."""

    command: list[str]
    profile: str
    provider: str
    home: Mapping[str, str] = {}
    environment: Mapping[str, str] = {}
    websockets: bool = True


CODEX = ["codex", "-c", "openai_base_url=BASE", "exec", "--skip-git-repo-check", "-s", "danger-full-access", PROMPT]
COMPATIBLE = {
    "provider": {
        "compatible": {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": "{env:OPENAI_BASE_URL}", "apiKey": "{env:OPENAI_API_KEY}"},
            "models": {"stand-in-1": {"tool_call": True}},
        }
    }
}
API_KEY = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
AGENTS = {
    "claude": Agent(
        ["claude", "-p", PROMPT, "--dangerously-skip-permissions"],
        "claude-code",
        "anthropic",
        environment={"IS_SANDBOX": "1"},  # without it, that flag is refused to root
    ),
    "codex": Agent(CODEX, "codex", "openai"),
    "codex without WebSockets": Agent(CODEX, "codex", "openai", websockets=False),
    "opencode": Agent(["opencode", "run", "-m", "openai/gpt-5", PROMPT], "opencode", "openai"),
    "opencode with chat completions": Agent(
        ["opencode", "run", "-m", "compatible/stand-in-1", PROMPT],
        "opencode",
        "openai",
        home={".config/opencode/opencode.json": json.dumps(COMPATIBLE)},
    ),
    "gemini": Agent(
        ["gemini", "--yolo", "--skip-trust", "-p", PROMPT],
        "gemini-cli",
        "gemini",
        home={".gemini/settings.json": json.dumps(API_KEY)},
    ),
}


def settle(site: Site, agent: Agent, url: str) -> tuple[list[str], list[str]]:
    """Make the home of the agent's user, and its profile, whose route leads to `url`; return flags and command."""
    require_command("node")
    program, *arguments = agent.command
    if not (INSTALLED / "bin" / program).exists():
        missing(f"{program} in {INSTALLED} (ci/test --agents installs it)")
    site.environment["PATH"] = f"{INSTALLED / 'bin'}:{site.environment['PATH']}"
    profile = json.loads((PROFILES / f"{agent.profile}.json").read_text())
    for directory in profile["filesystem"].get("allow", ()):
        (site.home / directory.removeprefix("~/")).mkdir(parents=True)
    for file in profile["filesystem"].get("allow_file", ()):
        (site.home / file.removeprefix("~/")).write_text("{}")
    for file, text in agent.home.items():
        (site.home / file).write_text(text)
    (site.work / SCRIPT).write_text(TOOL)
    provider = PROVIDERS[agent.provider]
    route = profile["network"].setdefault("custom_credentials", {}).setdefault(agent.provider, {})
    route |= {
        "upstream": url,
        "credential_key": site.store_in_files()[agent.provider],
        "inject_header": provider.header,
        "credential_format": provider.key_format,
        "tls_ca": site.certificates.authority,
    }
    path = site.vault / "profile.json"
    path.write_text(json.dumps(profile))
    port = free_port()
    base = f"http://127.0.0.1:{port}/{agent.provider}"
    flags = ["--profile", str(path), "--proxy-port", str(port), *(["--sandbox", WALL] if WALL else [])]
    return flags, [program, *(argument.replace("BASE", base) for argument in arguments)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.parametrize("name", AGENTS)
def test_agent_uses_its_shell_inside(site: Site, name: str) -> None:
    agent = AGENTS[name]
    model = Model(PROVIDERS[agent.provider], KEYS[agent.provider], websockets=agent.websockets)
    with Upstream(model, site.upstream.tls) as upstream:
        flags, command = settle(site, agent, upstream.url)
        done = site.run(flags, command, environment=agent.environment)

    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    assert len(model.calls) == 1, said
    assert f"{TEXT} {MARK}42" in done.stdout, said
    assert (site.work / MADE).read_text() == f"{MARK}42\n"

    environments = (site.work / SEEN).read_text().splitlines()
    (token,) = {line.partition("=")[2] for line in environments if line.startswith("NONO_PROXY_TOKEN=")}
    assert all(seen.accepted for seen in model.seen), [seen.presented for seen in model.seen]
    for seen in model.seen:
        assert token not in str(seen.request.headers) + seen.request.target
        assert token.encode() not in seen.body
    reached = [site.home, site.work, site.tmp]
    left = "".join(path.read_text(errors="replace") for each in reached for path in each.rglob("*") if path.is_file())
    assert not [key for key in KEYS.values() if key in said + left]
