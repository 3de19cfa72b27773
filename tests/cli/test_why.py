"""`nono why` as a user and as a script has it: the answer, the flag that helps, the exit status."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from nono.policy.capabilities import READ
from nono.policy.resolve import Request
from nono.session import probe, why
from nono.session.policy import Order
from tests.runs import WALL, Site

ALLOWED, DENIED, USAGE = 0, 3, 2


def ask(site: Site, *arguments: str, status: int | None = None) -> dict[str, Any]:
    done = site.nono(["why", "--json", *WALL, *arguments])
    assert done.stderr == "", done
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == {"allowed": ALLOWED, "denied": DENIED}[answer["status"]]
    if status is not None:
        assert done.returncode == status, answer
    return answer


def test_says_what_denies_and_what_would_help(site: Site) -> None:
    key = site.home / ".ssh" / "id_rsa"
    key.parent.mkdir()
    key.touch()
    answer = ask(site, "--path", "~/.ssh/id_rsa", "--allow", "~", status=DENIED)
    assert answer["reason"] == "sensitive_path"
    assert answer["source"] == {"kind": "group", "name": "deny_credentials"}
    assert (answer["path"], answer["op"]) == (str(key), "read")
    assert answer["closest"] == "~ (--allow, read and write)"
    assert answer["tried"]
    assert ask(site, "--path", "~/.ssh/id_rsa", *expanded(site, answer["suggested_flag"]), status=ALLOWED)
    assert json.loads(f"{{{answer['profile_line']}}}")["filesystem"]["bypass_protection"] == ["~/.ssh/id_rsa"]


def expanded(site: Site, flag: str) -> list[str]:
    """As a shell hands it over."""
    return [word.replace("~", str(site.home), 1) for word in shlex.split(flag)]


@pytest.mark.parametrize("operation", ["read", "write", "readwrite"])
@pytest.mark.parametrize("name", ["file", "a b'c", "$HOME", "new/er", "work/x*y"])
@pytest.mark.parametrize("probed", [(), ("--probe",)])
def test_a_suggested_flag_works(site: Site, operation: str, name: str, probed: tuple[str, ...]) -> None:
    directory = site.home / "data"
    directory.mkdir()
    path = directory / name
    if "/" not in name:
        path.touch()
    typed = str(path).replace("$", "$$")  # as flags have it
    question = ("--path", typed, "--op", operation)
    answer = ask(site, *question, *probed)
    if answer["reason"] == "not_found":
        assert answer["suggested_flag"] is None
        return
    assert answer["status"] == "denied"
    after = ask(site, *question, *expanded(site, answer["suggested_flag"]), *probed, status=ALLOWED)
    assert not probed or after["probe"]["agrees"]
    profile = site.work / "p.json"
    profile.write_text(f'{{"meta": {{"name": "p"}}, {answer["profile_line"]}}}')
    saved = ask(site, *question, "-p", str(profile), *probed, status=ALLOWED)
    assert saved["source"] == {"kind": "profile", "name": "p"}


def test_nothing_is_suggested_for_nonos_own_state(site: Site) -> None:
    answer = ask(site, "--path", str(site.state / "audit" / "x"), "--allow", "~", status=DENIED)
    assert (answer["reason"], answer["suggested_flag"], answer["profile_line"]) == ("sensitive_path", None, None)


def test_takes_the_commands_own_grants(site: Site) -> None:
    program = site.home / "tools" / "bin" / "tool"
    (site.home / "tools" / "lib").mkdir(parents=True)
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert ask(site, "--path", str(program))["status"] == "denied"
    answer = ask(site, "--path", str(site.home / "tools" / "lib"), "--", str(program), status=ALLOWED)
    assert answer["source"] == {"kind": "command", "name": ""}


def test_judges_by_where_a_link_leads(site: Site) -> None:
    (site.home / ".ssh").mkdir()
    (site.home / ".ssh" / "id").touch()
    (site.work / "link").symlink_to(site.home / ".ssh" / "id")
    answer = ask(site, "--path", "link", "--allow-cwd", status=DENIED)
    assert (answer["reason"], answer["real_path"]) == ("sensitive_path", str(site.home / ".ssh" / "id"))
    assert ask(site, "--path", "link", "--allow-cwd", *expanded(site, answer["suggested_flag"]), status=ALLOWED)


def test_a_second_name_of_what_is_protected_is_no_way_in(site: Site) -> None:
    """A file that is linked from a protected directory is protected where it lies."""
    (site.home / ".ssh").mkdir()
    (site.home / "dotfiles").mkdir()
    (site.home / "dotfiles" / "config").touch()
    (site.home / ".ssh" / "config").symlink_to(site.home / "dotfiles" / "config")
    answer = ask(site, "--path", "~/dotfiles/config", "--allow", "~/dotfiles", "--probe", status=DENIED)
    assert (answer["reason"], answer["suggested_flag"]) == ("sensitive_path", None)
    assert answer["probe"]["agrees"]


@pytest.mark.parametrize(
    ("arguments", "reason", "status"),
    [
        (["--host", "example.com"], "network_open", ALLOWED),
        (["--host", "example.com", "--block-net"], "network_blocked", DENIED),
        (["--host", "example.com", "--allow-domain", "example.com"], "network_allowed", ALLOWED),
        (["--host", "x.example.com", "--allow-domain", "example.com"], "host_not_allowed", DENIED),
        (["--host", "a.com", "--allow-domain", "a.com", "--deny-domain", "a.com"], "host_denied", DENIED),
        (["--host", "a.com", "--port", "22", "--allow-domain", "a.com"], "port_not_allowed", DENIED),
        (["--host", "api.openai.com", "--credential", "openai"], "route", ALLOWED),
        (["--host", "169.254.169.254", "--allow-domain", "a.com"], "metadata", DENIED),
        (["--url", "http://a.com/x", "--allow-domain", "http://a.com/y/**"], "endpoint_not_allowed", DENIED),
    ],
)
def test_says_why_of_hosts_and_the_proxy_says_the_same(
    site: Site, arguments: list[str], reason: str, status: int
) -> None:
    answer = ask(site, *arguments, status=status)
    assert answer["reason"] == reason
    probed = ask(site, "--probe", *arguments, status=status)
    assert probed["reason"] == reason
    assert probed["probe"]["agrees"]
    if answer["suggested_flag"]:
        assert ask(site, *arguments, *shlex.split(answer["suggested_flag"]), status=ALLOWED)


def test_the_proxy_reaches_what_it_says(site: Site) -> None:
    port = site.upstream.url("openai").rpartition(":")[2].partition("/")[0]
    where = ["--host", "127.0.0.1", "--port", port, "--allow-domain", f"127.0.0.1:{port}"]
    assert ask(site, "--probe", *where, status=ALLOWED)["probe"]["result"] == "allowed"


def test_names_the_level_of_the_profile_that_wrote_it(site: Site) -> None:
    profiles = site.home / ".config" / "nono" / "profiles"
    profiles.mkdir(parents=True)
    (site.home / "notes").mkdir()
    (profiles / "base.json").write_text(
        '{"meta": {"name": "base"}, "filesystem": {"read": ["~/notes"]}, "network": {"allow_domain": ["a.com"]}}'
    )
    (profiles / "mine.json").write_text('{"meta": {"name": "mine"}, "extends": "base"}')
    source = {"kind": "profile", "name": "base"}
    assert ask(site, "--path", "~/notes", "-p", "mine", status=ALLOWED)["source"] == source
    assert ask(site, "--host", "a.com", "-p", "mine", status=ALLOWED)["source"] == source


def test_a_person_is_told_in_eighty_columns(site: Site) -> None:
    (site.home / "notes").mkdir()
    done = site.nono(["why", "--path", "~/notes", "--op", "readwrite", "--read", "~/notes"])
    assert done.returncode == DENIED
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["nono", "denied", "readwrite", "~/notes", "(insufficient_access)"]
    assert "      would help  --write ~/notes" in lines
    assert all(len(line) <= 80 for line in lines)
    assert done.stderr == ""


def test_what_was_chosen_by_others_does_not_reach_the_terminal(site: Site) -> None:
    name = "\x1b]0;owned\x07\u202e"
    (site.work / name).touch()
    done = site.nono(["why", "--path", name])
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert json.loads(site.nono(["why", "--json", "--path", name]).stdout)["path"].endswith(name)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "ask about one thing"),
        (["--path", "x", "--host", "y"], "ask about one thing"),
        (["--path", "x", "--port", "1"], "--port goes with --host"),
        (["--host", "x", "--op", "read"], "--op goes with --path"),
        (["--path", "x", "--method", "GET"], "--method goes with --url"),
        (["--url", "https://a.com/", "--method", "G ET"], "the name of a method"),
        (["--path", ""], "--path must not be empty"),
        (["--path", "x", "--op", "execute"], "--op"),
        (["--path", "x", "--read", "/nonexistent"], "no such file"),
        (["--path", "x", "--self"], "this is none"),
        (["--path", "x", "--self", "--allow-cwd"], "leave out the flags of policy"),
    ],
)
def test_mistakes_are_one_sentence(site: Site, arguments: list[str], sentence: str) -> None:
    done = site.nono(["why", *arguments])
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_leaves_nothing_behind(site: Site) -> None:
    (site.work / "file").write_text("kept")
    before = sorted(map(str, site.directory.rglob("*")))
    for operation in ("read", "write", "readwrite"):
        for path in ("file", "new", "."):
            ask(site, "--probe", "--path", path, "--op", operation, "--allow-cwd", status=ALLOWED)
    after = sorted(str(path) for path in site.directory.rglob("*") if "__pycache__" not in path.parts)
    assert after == before
    assert (site.work / "file").read_text() == "kept"


def test_what_the_kernel_says_counts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the two ever disagree, the answer is the kernel's, and it says so."""
    (site.home / "x").touch()
    monkeypatch.setenv("HOME", str(site.home))
    outcome = probe.Outcome("kernel", probe.ALLOWED, wall="a wall")
    monkeypatch.setattr(probe, "about_paths", lambda behind, asked: [outcome])
    order = Order((), Request(), workdir=str(site.work))
    answer = why.explain(order, why.Question(path="~/x", access=READ), dict(os.environ), probe=True)
    assert answer.verdict.allowed
    assert not answer.agrees
    assert answer.policy is not None
    assert answer.policy.reason == "path_not_granted"
    assert "please tell us" in answer.verdict.detail


@pytest.mark.parametrize("named", [True, False])
def test_a_name_that_leads_to_a_private_address_is_no_bug(
    site: Site, monkeypatch: pytest.MonkeyPatch, *, named: bool
) -> None:
    """The proxy alone looks names up; the flag that is suggested has been put to it, too."""
    monkeypatch.setenv("HOME", str(site.home))
    refused = probe.Outcome("proxy", probe.DENIED, code="address_denied")

    answers = iter([refused, probe.Outcome("proxy", probe.ALLOWED) if named else refused])
    monkeypatch.setattr(probe, "about_host", lambda *question: next(answers))
    order = Order((), Request(allow_domain=("*.example.com",)), workdir=str(site.work))
    answer = why.explain(order, why.Question(host="git.example.com"), dict(os.environ), probe=True)
    assert (answer.verdict.allowed, answer.verdict.reason, answer.agrees) == (False, "address_denied", True)
    assert answer.verdict.flag == ("--allow-domain git.example.com" if named else "")
    assert answer.verified is named


def test_needs_no_key(site: Site) -> None:
    """No keystore is here, and none is asked."""
    assert ask(site, "--probe", "--host", "a.com", "--credential", "openai", "--allow-domain", "b.com", status=DENIED)


def test_a_profile_in_a_file(site: Site, tmp_path: Path) -> None:
    profile = site.work / "p.json"
    profile.write_text('{"filesystem": {"deny": ["$WORKDIR/secret"], "allow": ["$WORKDIR"]}}')
    answer = ask(site, "--path", "secret/x", "--op", "write", "-p", str(profile), status=DENIED)
    assert (answer["reason"], answer["suggested_flag"]) == ("sensitive_path", None)
    assert answer["source"]["kind"] == "profile"


def test_a_link_that_is_denied_denies_what_it_leads_to(site: Site) -> None:
    (site.home / "notes").mkdir()
    (site.home / "link").symlink_to("notes")
    flags = ["--allow", "~", "--deny", "~/link", "--probe"]
    for path in ("~/notes", "~/notes/new"):
        answer = ask(site, "--path", path, *flags, status=DENIED)
        assert (answer["reason"], answer["source"]["name"]) == ("sensitive_path", "--deny")
        assert answer["probe"]["agrees"]
        assert answer["suggested_flag"] is None
