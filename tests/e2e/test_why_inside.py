"""`nono why --self`, asked by an agent inside its run; and what an agent might make of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import nono
from tests.runs import KEYS, Site

ALLOWED, DENIED = 0, 3
NONO = ["--read", str(Path(nono.__file__).parent.parent)]  # the agent may run it
WHY = [sys.executable, "-m", "nono", "why", "--self"]


def ask(site: Site, flags: list[str], *question: str, status: int, first: str = ":") -> dict[str, Any]:
    """Let an agent ask. first: what it does before, in a shell."""
    script = f'{first}; exec "$0" "$@"'
    done = site.run([*NONO, *flags], ["/bin/sh", "-c", script, *WHY, "--json", *question], wrap=())
    assert done.returncode == status, done
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def python() -> list[str]:
    """What the agent's own Python needs, which the command's grants do not name (the command is a shell)."""
    return [flag for path in {sys.prefix, sys.base_prefix} for flag in ("--read", path)]


def test_the_kernel_answers_and_the_policy_says_why(site: Site, python: list[str]) -> None:
    (site.home / ".ssh").mkdir()
    (site.home / ".ssh" / "id").touch()
    (site.home / "notes").mkdir()
    (site.home / "notes" / "n").touch()
    flags = [*python, "--read", str(site.home / "notes"), "--allow-cwd"]
    granted = ask(site, flags, "--path", str(site.home / "notes" / "n"), status=ALLOWED)
    assert granted["source"] == {"kind": "flag", "name": "--read"}
    assert granted["probe"]["asked"] == "kernel"
    lacking = ask(site, flags, "--path", str(site.home / "notes" / "n"), "--op", "write", status=DENIED)
    assert (lacking["reason"], lacking["suggested_flag"]) == ("insufficient_access", "--write-file ~/notes/n")
    key = ask(site, flags, "--path", str(site.home / ".ssh" / "id"), status=DENIED)
    assert (key["reason"], key["source"]["name"]) == ("sensitive_path", "deny_credentials")
    assert key["suggested_flag"] == "--bypass-protection ~/.ssh/id --read-file ~/.ssh/id"
    assert ask(site, flags, "--path", "new", "--op", "readwrite", status=ALLOWED)["reason"] == "path_granted"
    assert os.listdir(site.work) == []


def test_the_proxy_answers(site: Site, python: list[str]) -> None:
    port = site.upstream.url("openai").rpartition(":")[2].partition("/")[0]
    flags = [*python, "--allow-domain", f"127.0.0.1:{port}", "--allow-domain", "*.example.com"]
    reached = ask(site, flags, "--host", "127.0.0.1", "--port", port, status=ALLOWED)
    assert (reached["probe"]["asked"], reached["probe"]["result"]) == ("proxy", "allowed")
    denied = ask(site, flags, "--host", "example.org", status=DENIED)
    assert (denied["reason"], denied["probe"]["code"]) == ("host_not_allowed", "host_denied")
    assert denied["suggested_flag"] == "--allow-domain example.org"
    blocked = ask(site, [*python, "--block-net"], "--host", "example.org", status=DENIED)
    assert (blocked["reason"], blocked["probe"]["result"]) == ("network_blocked", "denied")


def test_the_policy_of_a_profile_is_known_inside(site: Site, python: list[str]) -> None:
    (site.home / "notes").mkdir()
    profile = site.vault / "p.json"
    profile.write_text('{"meta": {"name": "mine"}, "filesystem": {"read": ["~/notes"]}}')
    answer = ask(site, [*python, "-p", str(profile)], "--path", str(site.home / "notes"), status=ALLOWED)
    assert answer["source"] == {"kind": "profile", "name": "mine"}


def test_nothing_secret_is_left_for_the_agent(site: Site) -> None:
    """Neither a key nor the token, nor where keys come from."""
    profile = site.profile(site.store_in_files())
    script = 'i=0; while [ ! -s "$NONO_POLICY" ] && [ $i -lt 200 ]; do sleep 0.01; i=$((i+1)); done; cat "$NONO_POLICY"'
    flags = ["-p", str(profile), "--env-credential-map", f"file://{site.vault}/gemini.key", "MY_KEY"]
    done = site.run(flags, ["/bin/sh", "-c", script + '; echo; echo "$NONO_PROXY_TOKEN"'])
    assert done.returncode == 0, done
    text, token = done.stdout.splitlines()
    said = json.loads(text)
    assert [route[0] for route in said["routes"]] == list(KEYS)
    assert len(token) == 64
    for secret in (*KEYS.values(), token, "file:", str(site.vault), "gemini.key"):
        assert secret not in text
    shown = site.nono(["run", *flags, "--dry-run", "--", "/bin/true"]).stdout
    for path, group, *_ in said["denies"]:
        assert path.replace(str(site.home), "~") in shown, (path, group)


def test_an_agent_deceives_nobody_but_itself(site: Site, python: list[str]) -> None:
    """It rewrites its copy; the kernel answers as before. What it puts in the place of the file is not written to."""
    victim = site.work / "victim"
    victim.write_text("kept")
    (site.home / "secret").touch()
    lie = (
        'while [ ! -s "$NONO_POLICY" ]; do sleep 0.01; done; '
        'sed \'s|"grants": .|&["/", 3, false, "--allow"], |\' "$NONO_POLICY" > lie; cp lie "$NONO_POLICY"'
    )
    flags = [*python, "--allow-cwd"]
    answer = ask(site, flags, "--path", str(site.home / "secret"), status=DENIED, first=lie)
    assert answer["probe"]["result"] in ("denied", "not_found")  # behind a /tmp of its own
    early = f'rm -f "$NONO_POLICY"; ln -s {victim} "$NONO_POLICY"; sleep 0.5'
    done = site.run(["--allow-cwd"], ["/bin/sh", "-c", early])
    assert done.returncode == 0, done
    assert victim.read_text() == "kept"


@pytest.mark.parametrize(
    "text", ["x", "[]", "{}", '{"version": 1}', "[" * 100000, '{"version": 1, "home": 3}', "\\xff"]
)
def test_a_spoilt_file_is_one_sentence(site: Site, text: str, tmp_path: Path) -> None:
    path = tmp_path / "policy"
    path.write_text(text)
    done = site.nono(["why", "--self", "--path", "x"], environment={"NONO_POLICY": str(path)})
    assert (done.returncode, done.stdout) == (2, "")
    assert "start a new run" in done.stderr
    assert done.stderr.count("\n") == 1


def test_asking_does_not_write(site: Site, python: list[str]) -> None:
    """Behind the wall a question for writing is no way to write."""
    (site.home / "other").mkdir()
    for path in ("other", "other/new"):
        ask(site, python, "--path", str(site.home / path), "--op", "write", status=DENIED)
    assert os.listdir(site.home / "other") == []


def test_nothing_of_it_is_left_after_the_run(site: Site) -> None:
    assert site.run([], ["/bin/sh", "-c", 'test -e "$NONO_POLICY"']).returncode == 0
    assert os.listdir(site.tmp) == []
