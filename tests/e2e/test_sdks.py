"""The official SDKs, unmodified, inside the sandbox: they get answers, the service gets the key, they never do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from nono.demo import answers
from tests.runs import ACCOUNTS, KEYS, Site, lines, missing

ANTHROPIC_1 = Path(sys.prefix) / "anthropic-1"  # put there by ci/test

OPENAI_CALLS = ["chat", "chat stream", "responses", "responses stream", "async chat", "async chat stream"]
ANTHROPIC_CALLS = ["messages", "messages stream", "async messages", "async messages stream"]
GEMINI_CALLS = ["content", "content stream", "async content", "async content stream"]


def require_sdk(module: str) -> None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        missing(f"the SDK {module} (ci/test installs it)")


@pytest.mark.parametrize(
    ("agent", "service", "calls"),
    [
        ("openai_sdk", "openai", OPENAI_CALLS),
        ("anthropic_sdk", "anthropic", ANTHROPIC_CALLS),
        ("gemini_sdk", "gemini", GEMINI_CALLS),
    ],
)
def test_sdk_works_in_the_sandbox(
    site: Site, desktop: dict[str, str], agent: str, service: str, calls: list[str]
) -> None:
    require_sdk({"gemini": "google.genai"}.get(service, service))
    run_sdk(site, desktop, site.agent(agent), service, calls)


def test_older_anthropic_works_in_the_sandbox(site: Site, desktop: dict[str, str]) -> None:
    if not ANTHROPIC_1.is_dir():
        missing(f"anthropic 1.x in {ANTHROPIC_1} (ci/test installs it)")
    done = run_sdk(site, desktop, site.agent("anthropic_sdk", str(ANTHROPIC_1)), "anthropic", ANTHROPIC_CALLS)
    assert {line["sdk"].partition(".")[0] for line in done} == {"1"}


def run_sdk(
    site: Site, desktop: dict[str, str], command: list[str], service: str, calls: list[str]
) -> list[dict[str, str]]:
    profile = site.profile(ACCOUNTS)
    done = site.run(["--profile", str(profile), "--allow-cwd"], command, environment=desktop)
    assert done.returncode == 0, done.stderr
    told = lines(done.stdout)
    assert [line["call"] for line in told] == calls
    assert {line["text"] for line in told} == {answers.TEXT}
    assert len(site.upstream.received) == len(calls)
    header = next(each for each in answers.SERVICES if each.name == service)
    for received in site.upstream.received:
        assert received.service == service
        assert received.presented == header.key_format.format(KEYS[service])
        assert received.head.count(KEYS[service]) == 1
        # The token is 64 hexadecimal digits: none may be in what the service got.
        assert not any(len(word) == 64 for word in received.head.replace("\r\n", " ").split())
    assert not any(key in done.stdout + done.stderr + site.audit_log() for key in KEYS.values())
    return told
