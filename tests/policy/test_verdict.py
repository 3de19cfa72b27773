"""Why a path is allowed or denied: pure, from grants, denies and what the sandbox is said to give."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nono.policy.capabilities import READ, WRITE, PathDeny, PathGrant
from nono.policy.paths import Place, expand, unescaped
from nono.policy.resolve import Request, resolve
from nono.policy.verdict import Verdict, in_profile, judge_path, profile_line, quote, source

HOME = "/home/ada"
PLACE = Place(HOME, f"{HOME}/app", "/tmp", f"{HOME}/.config", f"{HOME}/.local/state", "/run/user/1")
BOTH = READ | WRITE
SSH = PathDeny(f"{HOME}/.ssh", "deny_credentials")


def judge(path: str, access: int, *grants: PathGrant, denies: tuple[PathDeny, ...] = (SSH,), **how: object) -> Verdict:
    real_path = str(how.pop("real_path", path))
    return judge_path(path, real_path, access, grants, denies, PLACE, **how)  # type: ignore[arg-type]


def grant(path: str, access: int = READ, *, is_file: bool = False, origin: str = "--read") -> PathGrant:
    return PathGrant(path, access, is_file, origin)


def test_says_which_grant_allows() -> None:
    verdict = judge(f"{HOME}/app/x.py", READ, grant("/"), grant(f"{HOME}/app", BOTH, origin="profile work"))
    assert (verdict.allowed, verdict.reason, verdict.origin) == (True, "path_granted", "profile work")
    assert verdict.closest == "~/app"
    assert not verdict.flag


def test_names_the_flag_and_the_line_that_would_grant() -> None:
    verdict = judge(f"{HOME}/notes/a b.txt", READ, grant(f"{HOME}/notes/other"))
    assert (verdict.allowed, verdict.reason) == (False, "path_not_granted")
    assert verdict.flag == "--read-file ~/'notes/a b.txt'"
    assert json.loads(f"{{{verdict.profile_line}}}") == {"filesystem": {"read_file": ["~/notes/a b.txt"]}}
    assert verdict.closest == "~/notes/other (--read, read)"


@pytest.mark.parametrize(
    ("access", "is_directory", "flag"),
    [
        (READ, False, "--read-file"),
        (WRITE, False, "--write-file"),
        (BOTH, False, "--allow-file"),
        (READ, True, "--read"),
        (WRITE, True, "--write"),
        (BOTH, True, "--allow"),
    ],
)
def test_the_flag_fits_what_it_is(access: int, is_directory: bool, flag: str) -> None:
    assert judge(f"{HOME}/x", access, is_directory=is_directory).flag == f"{flag} ~/x"


def test_asks_for_no_more_than_is_missing() -> None:
    verdict = judge(f"{HOME}/app/x", BOTH, grant(f"{HOME}/app"))
    assert (verdict.reason, verdict.origin, verdict.flag) == ("insufficient_access", "--read", "--write-file ~/app/x")


def test_what_is_protected_names_the_group_and_both_flags() -> None:
    verdict = judge(f"{HOME}/.ssh/id_rsa", READ, grant(HOME, origin="--allow"))
    assert (verdict.allowed, verdict.reason, verdict.origin) == (False, "sensitive_path", "deny_credentials")
    assert verdict.flag == "--bypass-protection ~/.ssh/id_rsa --read-file ~/.ssh/id_rsa"
    assert verdict.closest == "~ (--allow, read)"


@pytest.mark.parametrize(
    "deny",
    [
        PathDeny(f"{HOME}/.config/nono", "deny_nono"),
        PathDeny(f"{HOME}/keys", "credential_files"),
        PathDeny(f"{HOME}/app", "--deny"),
        PathDeny(f"{HOME}/app", "profile"),
    ],
)
def test_suggests_nothing_where_nothing_may_change_it(deny: PathDeny) -> None:
    verdict = judge(f"{deny.path}/x", READ, grant("/"), denies=(deny, PathDeny(HOME, "deny_more")))
    assert (verdict.allowed, verdict.reason, verdict.origin) == (False, "sensitive_path", deny.group)
    assert verdict.flag == verdict.profile_line == ""


def test_what_stays_read_only_may_be_read() -> None:
    code = PathDeny(f"{HOME}/nono", "nono's own code, read-only", WRITE)
    granted = grant(HOME, BOTH, origin="--allow")
    assert judge(f"{HOME}/nono/x.py", READ, granted, denies=(code,)).allowed
    verdict = judge(f"{HOME}/nono/x.py", WRITE, granted, denies=(code,))
    assert (verdict.allowed, verdict.reason, verdict.flag) == (False, "sensitive_path", "")


def test_a_path_is_judged_by_where_it_leads() -> None:
    link = f"{HOME}/app/link"
    verdict = judge(link, READ, grant(f"{HOME}/app"), real_path=f"{HOME}/.ssh/id_rsa")
    assert (verdict.allowed, verdict.reason) == (False, "sensitive_path")
    assert verdict.flag == "--bypass-protection ~/.ssh/id_rsa --read-file ~/.ssh/id_rsa"
    verdict = judge(link, READ, grant(f"{HOME}/app"), real_path="/etc/x", denies=())
    assert (verdict.allowed, verdict.reason) == (False, "path_not_granted")
    assert "it leads to /etc/x" in verdict.detail


def test_case_does_not_open_what_is_protected() -> None:
    assert judge(f"{HOME}/.SSH/id_rsa", READ, grant(HOME)).reason == "sensitive_path"


def test_a_hole_in_what_is_protected_needs_a_grant() -> None:
    deny = SSH._replace(holes=(f"{HOME}/.ssh/config",))
    assert judge(f"{HOME}/.ssh/config", READ, denies=(deny,)).reason == "path_not_granted"
    assert judge(f"{HOME}/.ssh/config", READ, grant(f"{HOME}/.ssh/config", is_file=True), denies=(deny,)).allowed
    assert judge(f"{HOME}/.ssh/id_rsa", READ, grant(HOME), denies=(deny,)).reason == "sensitive_path"


def test_what_does_not_exist_is_judged_by_its_directory() -> None:
    new = {"exists": False, "directory": f"{HOME}/app"}
    assert judge(f"{HOME}/app/new/x", WRITE, grant(f"{HOME}/app", WRITE), **new).allowed
    verdict = judge(f"{HOME}/app/new/x", WRITE, **new)
    assert (verdict.reason, verdict.flag) == ("path_not_granted", "--write ~/app")
    assert judge(f"{HOME}/app/x", READ, **new).reason == "not_found"
    in_home = judge(f"{HOME}/x", WRITE, exists=False, directory=HOME)
    assert (in_home.allowed, in_home.flag) == (False, "")  # nothing can be made beside what is protected
    assert "make it before the run" in in_home.detail


def test_nothing_new_is_made_beside_what_is_protected() -> None:
    verdict = judge(HOME, WRITE, grant(HOME, BOTH), is_directory=True, reached=READ)
    assert (verdict.allowed, verdict.reason, verdict.flag) == (False, "insufficient_access", "")
    assert "~/.ssh (deny_credentials)" in verdict.detail


def test_what_the_sandbox_gives_counts() -> None:
    assert not judge(f"{HOME}/app/x", READ, grant(f"{HOME}/app"), reached=0).allowed
    assert judge("/dev/pts/3", BOTH, reached=BOTH).allowed


def test_the_users_own_permissions_are_no_matter_of_grants() -> None:
    verdict = judge("/etc/shadow", READ, grant("/etc"), denies=(), permitted=0)
    assert (verdict.allowed, verdict.reason, verdict.flag) == (False, "file_permissions", "")


def test_a_directory_of_its_own() -> None:
    own = {"private": "/tmp", "directory": "/tmp"}
    assert judge("/tmp", READ, is_directory=True, **own).allowed
    assert judge("/tmp/x", BOTH, exists=False, **own).reason == "private_directory"
    assert judge("/tmp/x", WRITE, exists=True, **own).allowed
    verdict = judge("/tmp/x", READ, exists=True, **own)
    assert (verdict.allowed, verdict.reason, verdict.flag) == (False, "path_not_granted", "--read-file /tmp/x")
    assert judge("/tmp/y", READ, exists=False, **own).reason == "not_found"
    assert judge("/proc/1/environ", READ, private="/proc").flag == ""


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("--allow", ("flag", "--allow")),
        ("profile claude-code", ("profile", "claude-code")),
        ("deny_shell_history", ("group", "deny_shell_history")),
        ("the command", ("command", "")),
        ("built-in", ("built-in", "")),
        ("nono's own code, read-only", ("built-in", "nono's own code, read-only")),
        ("", ("none", "")),
    ],
)
def test_says_what_an_origin_is(origin: str, expected: tuple[str, str]) -> None:
    assert source(origin) == expected


_NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)


@settings(deadline=None)
@given(st.lists(_NAMES, min_size=1, max_size=3), st.booleans())
def test_a_path_comes_back_from_the_shell_and_from_json(names: list[str], in_home: bool) -> None:
    path = "/".join([HOME if in_home else "", *names])
    assert expand(shlex.split(quote(path, PLACE))[0], PLACE) == path
    line = json.loads(f"{{{profile_line('filesystem', [('read', in_profile(path, PLACE))])}}}")
    assert expand(unescaped(line["filesystem"]["read"][0]), PLACE) == path


_PATHS = st.sampled_from([
    f"{HOME}/.ssh/id_rsa", f"{HOME}/.ssh", f"{HOME}/.aws/credentials", f"{HOME}/.config/nono/x", f"{HOME}/app/a",
    f"{HOME}/app", f"{HOME}/notes/x", "/etc/hosts", "/etc/secret", "/srv/data/deep/file", f"{HOME}/.bash_history",
])  # fmt: skip


@settings(deadline=None)
@given(_PATHS, st.sampled_from([READ, WRITE, BOTH]), st.booleans(), st.lists(_PATHS, max_size=3), st.lists(_PATHS))
def test_a_suggested_flag_changes_the_verdict(
    path: str, access: int, is_directory: bool, granted: list[str], denied: list[str]
) -> None:
    def ask(request: Request) -> Verdict:
        has = resolve(request, None, PLACE)
        return judge_path(path, path, access, has.grants, has.denies, PLACE, is_directory)

    request = Request(read=tuple(granted), deny=tuple(denied))
    verdict = ask(request)
    if verdict.flag:
        assert not verdict.allowed
        words = shlex.split(verdict.flag)
        for flag, value in zip(words[::2], words[1::2], strict=True):
            field = flag[2:].replace("-", "_")
            request = request._replace(**{field: (*getattr(request, field), value)})
        below = [deny for deny in resolve(request, None, PLACE).denies if deny.path.startswith(path + "/")]
        assert ask(request).allowed or (is_directory and below)
