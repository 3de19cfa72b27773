"""`nono shell`: the user's own shell, inside."""

from __future__ import annotations

import pwd
from types import SimpleNamespace

import pytest

from nono.cli import shell
from tests.runs import Site


def test_runs_the_shell_that_the_user_has(site: Site) -> None:
    done = site.nono(["shell", "--block-net"], stdin="echo $0 inside; exit 3\n", environment={"SHELL": "/bin/sh"})
    assert (done.returncode, done.stdout) == (3, "/bin/sh inside\n")


def test_takes_no_command(site: Site) -> None:
    done = site.nono(["shell", "--", "true"])
    assert done.returncode == 2
    assert done.stderr == "nono: nono shell takes no command. To run one: nono run -- COMMAND\n"


@pytest.mark.parametrize(("variable", "account", "expected"), [("", "/bin/zsh", "/bin/zsh"), ("fish", "", "/bin/sh")])
def test_falls_back_to_the_account(monkeypatch: pytest.MonkeyPatch, variable: str, account: str, expected: str) -> None:
    monkeypatch.setenv("SHELL", variable)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_shell=account))
    assert shell._shell() == expected
