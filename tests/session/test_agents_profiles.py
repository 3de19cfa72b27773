"""What an agent leaves behind, with its built-in profile: nothing that its user runs outside of the sandbox later.

But for the working directory, which is what it is there to change.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import Site

AGENTS = ("claude-code", "codex", "opencode", "gemini-cli")
# Read by the agent's own program at its next start outside: hooks, MCP servers, plugins, commands that need no asking.
SETTINGS = (
    ".claude/settings.json", ".claude.json", ".claude/hooks/hook.sh", ".codex/config.toml", ".gemini/settings.json",
    ".gemini/extensions/x/gemini-extension.json", ".config/opencode/opencode.json", ".config/opencode/plugin/x.js",
)  # fmt: skip
# Their programs, as their installers put them, and what shells, git, editors and desktops run.
PROGRAMS = (
    ".local/bin/claude", ".local/share/claude/versions/1", ".opencode/bin/opencode", ".npm-global/bin/codex",
    ".bashrc", ".profile", ".gitconfig", ".config/git/hooks/pre-commit", ".vscode/extensions/x.js",
    ".config/autostart/x", ".config/systemd/user/x.service", ".cache/pip/wheel", ".npm/_npx/x", "go/pkg/mod/x",
    ".cargo/registry/x",
)  # fmt: skip
LOGINS = (
    ".claude/.credentials.json", ".codex/auth.json", ".gemini/oauth_creds.json", ".local/share/opencode/auth.json",
    ".ssh/id_ed25519", ".config/gh/hosts.yml", ".npmrc",
)  # fmt: skip
SECRET = "the-users-own"


@pytest.fixture
def site() -> Iterator[Site]:
    """A home that is not below /tmp, of which the agent sees nothing but what is granted."""
    directory = Path(tempfile.mkdtemp(prefix="nono-test-", dir="/var/tmp"))
    with Site(directory / "site") as made:
        yield made
    shutil.rmtree(directory)


def make(site: Site, names: tuple[str, ...]) -> None:
    for name in names:
        path = site.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SECRET)


def run(site: Site, profile: str, script: str) -> tuple[str, str]:
    done = site.run(["-p", profile], ["sh", "-c", f"cd {shlex.quote(str(site.home))}; {script}"])
    return done.stdout, done.stderr


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("profile", AGENTS)
def test_writes_nothing_that_runs_outside(site: Site, profile: str, exists: bool) -> None:
    names = (*SETTINGS, *PROGRAMS)
    if exists:
        make(site, names)
    tries = (f"mkdir -p {Path(name).parent}; echo changed >{name}; rm -f {name}" for name in names)
    own = f".local/share/nono/{profile}/kept"
    stdout, stderr = run(site, profile, f"{'; '.join(tries)}; echo kept >{own} && cat {own}")
    assert stdout == "kept\n", stderr
    assert (site.home / own).read_text() == "kept\n"
    for name in names:
        path = site.home / name
        assert path.exists() == exists, name
        assert not exists or path.read_text() == SECRET, name


@pytest.mark.parametrize("profile", AGENTS)
def test_reads_no_login_of_the_user(site: Site, profile: str) -> None:
    make(site, LOGINS)
    stdout, stderr = run(site, profile, f"cat {' '.join(LOGINS)}; ls .local/share/nono/{profile} && echo listed")
    assert stdout == "listed\n", stderr


@pytest.mark.parametrize("profile", AGENTS)
def test_what_another_agent_keeps_is_closed(site: Site, profile: str) -> None:
    other = next(name for name in AGENTS if name != profile)
    make(site, (f".local/share/nono/{other}/settings.json",))
    stdout, _ = run(site, profile, f"cat .local/share/nono/{other}/settings.json; echo x >.local/share/nono/{other}/y")
    assert stdout == ""
    assert not (site.home / ".local/share/nono" / other / "y").exists()
