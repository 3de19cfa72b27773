"""What nono chooses by itself on the kernel that it runs on: which wall, or which refusal.

Runs inside a lab's machine only, where tests/lab/test_lab.py names one of these tests for each machine.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.runs import Site

NAMESPACES = r"wall +namespaces, Landlock \d+, seccomp\n"
NOTIFIER = r"wall +seccomp notifier, Landlock \d+\n"


def test_namespaces(site: Site) -> None:
    _runs_behind(site, [], NAMESPACES)


def test_a_notifier(site: Site) -> None:
    """Of itself; and namespaces, asked for by name, are refused with the reason."""
    _runs_behind(site, [], NOTIFIER)
    _is_refused(site, ["--sandbox", "namespace"], r"user namespace|max_user_namespaces|unprivileged_userns_clone")


def test_no_wall_without_landlock(site: Site) -> None:
    for flags in ([], ["--sandbox", "namespace"], ["--sandbox", "notify"]):
        _is_refused(site, flags, r"Landlock.*Linux 5\.13 .*lsm=")


def test_no_restricted_network_without_tracing(site: Site) -> None:
    """No namespaces, and a notifier that may not take the agent's sockets (Yama): an open network needs none taken."""
    _runs_behind(site, [], NOTIFIER)
    for flags in (["--block-net"], ["--profile", str(site.profile(site.store_in_files()))]):
        _is_refused(site, flags, r"kernel\.yama\.ptrace_scope")


def _runs_behind(site: Site, flags: list[str], wall: str) -> None:
    done = _run(site, flags)
    assert done.returncode == 0, done.stderr
    assert re.search(wall, done.stderr), done.stderr
    mark(site).unlink()


def _is_refused(site: Site, flags: list[str], sentence: str) -> None:
    done = _run(site, flags)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("nono: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.search(sentence, done.stderr), done.stderr
    assert not mark(site).exists()


def _run(site: Site, flags: list[str]) -> subprocess.CompletedProcess[str]:
    return site.run([*flags, "--allow-cwd"], ["touch", str(mark(site))])


def mark(site: Site) -> Path:
    return site.work / "the-agent-ran"
