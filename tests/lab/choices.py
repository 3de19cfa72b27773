"""What nono chooses by itself on the kernel that it runs on: which wall, or which refusal.

Runs inside a lab's machine only, where tests/lab/test_lab.py names one of these tests for each machine.
"""

from __future__ import annotations

import re

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


def test_no_wall_at_all(site: Site) -> None:
    """Neither namespaces nor a notifier that may take the child's sockets."""
    _is_refused(site, [], r"\S")


def _runs_behind(site: Site, flags: list[str], wall: str) -> None:
    done = site.run([*flags, "--allow-cwd"], ["touch", "mark"])
    assert done.returncode == 0, done.stderr
    assert re.search(wall, done.stderr), done.stderr
    assert (site.work / "mark").exists()


def _is_refused(site: Site, flags: list[str], sentence: str) -> None:
    done = site.run([*flags, "--allow-cwd"], ["touch", "mark"])
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.search(sentence, done.stderr), done.stderr
    assert not (site.work / "mark").exists()
