"""`nono demo`: in seconds, without a network, readable, and with a status that can be trusted."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from nono.demo import stage, verdict
from tests.runs import WITHOUT_LANDLOCK, Site


def demo(site: Site, *wrap: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*wrap, sys.executable, "-m", "nono", "demo"],
        cwd=site.work,
        env=site.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_defence_holds_within_seconds(site: Site) -> None:
    start = time.monotonic()
    done = demo(site)
    took_s = time.monotonic() - start
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "Every defence held" in done.stdout
    assert took_s < 5


def test_what_it_shows(site: Site) -> None:
    shown = demo(site).stdout
    assert shown.count("GOT THE KEY") == 4, "without nono, the thefts work: else their failing says nothing"
    for words in ("permission denied", "its network is its own", "no such sockets in here", "not permitted"):
        assert words in shown
    assert [line for line in shown[shown.index("3. What") :].splitlines() if len(line) > 100] == []
    assert list(site.tmp.iterdir()) == []
    assert not site.state.exists()


def test_where_nono_cannot_confine_it_says_what_is_missing(site: Site) -> None:
    done = demo(site, *WITHOUT_LANDLOCK)
    assert done.returncode == 1
    assert "did NOT start the agent" in done.stdout
    assert "Landlock" in done.stdout
    assert "Every defence held" not in done.stdout


def test_the_control_fails_every_check() -> None:
    """Judged as if it were the run with nono, the run without it is found out."""
    with stage.Stage() as built:
        run = built.run_without_nono()
        found = verdict.failures(run, built.thefts, built.keys, built.audit_log(), 401)
    assert len(found) >= len(built.thefts)


@pytest.mark.parametrize("service", stage.VARIABLES)
def test_the_services_answer_only_to_the_key(service: str) -> None:
    with stage.Stage() as built:
        assert built.present_directly(service, built.keys[service]) == 200
        assert built.present_directly(service, "a" * 64) == 401
