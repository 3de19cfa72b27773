"""What was denied: only what the policy denies, one line a thing, and no advice that opens much."""

from __future__ import annotations

import pytest

from nono.policy.capabilities import READ, WRITE, PathDeny, PathGrant
from nono.policy.resolve import Place
from nono.policy.verdict import Verdict, judge_path
from nono.supervisor.denials import (
    HOST,
    HOST_NOT_ALLOWED,
    KERNEL,
    OUTPUT,
    REQUEST,
    SOCKET,
    Attempt,
    Denial,
    Found,
    grouped,
    of_exchanges,
    of_paths,
)

HOME = "/home/u"
PLACE = Place(HOME, f"{HOME}/app", "/tmp", f"{HOME}/.config", f"{HOME}/.local/state", "/run/user/1000")
DENIES = (PathDeny(f"{HOME}/.aws", "deny_credentials"), PathDeny(f"{HOME}/.config/nono", "deny_nono"))
GRANTS = (
    PathGrant(f"{HOME}/app", READ | WRITE, False, "--allow-cwd"),
    PathGrant(f"{HOME}/docs", READ, False, "--read"),
    PathGrant("/usr", READ, False, "system_read"),
)
DIRECTORIES = {"/", "/home", HOME, "/srv", "/srv/a", "/srv/a/b", "/etc", "/tmp"} | {
    f"{HOME}/{name}" for name in ("app", "docs", "notes", ".aws", ".config", ".ssh")
}
MISSING = {f"{HOME}/notes/new", f"{HOME}/new", "/srv/a/b/new", f"{HOME}/gone/x"}
FORBIDDEN = {"/etc/shadow": 0, "/srv/read-only": READ}


def look(path: str) -> Found:
    directory = path.rpartition("/")[0] or "/"
    while directory not in DIRECTORIES:
        directory = directory.rpartition("/")[0] or "/"
    permitted = FORBIDDEN.get(path, READ | WRITE)
    private = "/tmp" if path.startswith("/tmp/") else ""
    can_run = path in DIRECTORIES or path.endswith("/program")
    return Found(path, path not in MISSING, path in DIRECTORIES, permitted, directory, private, can_run)


def judge(path: str, found: Found, access: int) -> Verdict:
    return judge_path(
        path, found.real, access, GRANTS, DENIES, PLACE, found.is_directory,
        exists=found.exists, private=found.private, directory=found.directory,
    )  # fmt: skip


def absolute(path: str) -> str:
    if path.startswith("~"):
        return HOME + path[1:]
    return path if path.startswith("/") else f"{PLACE.workdir}/{path}"


def denials(*attempts: Attempt | str) -> list[Denial]:
    tried = {each if isinstance(each, Attempt) else Attempt(each): 1 for each in attempts}
    return grouped(of_paths(tried, look, judge, absolute, HOME), look, judge, HOME, DENIES)


def told(*attempts: Attempt | str) -> list[tuple[str, str, str]]:
    return [(each.access, each.what, each.flag) for each in denials(*attempts)]


def test_a_path_is_told_with_what_denies_it_and_what_would_grant_it() -> None:
    (denial,) = denials("~/.aws/credentials")
    assert denial == Denial(
        "path", f"{HOME}/.aws/credentials", "read", "sensitive_path", "deny_credentials",
        "--bypass-protection ~/.aws/credentials --read-file ~/.aws/credentials", 1,
        "It is protected (deny_credentials: ~/.aws), also inside of what is granted.", OUTPUT,
    )  # fmt: skip


def test_what_the_policy_grants_is_never_blamed_on_it() -> None:
    assert denials("~/app/x", "/usr/bin/x", Attempt("~/docs/x", READ), "~/app", "~/docs/x") == []
    assert told(Attempt("~/docs/x", WRITE)) == [("write", f"{HOME}/docs/x", "--write-file ~/docs/x")]


def test_what_the_user_himself_may_not_is_never_blamed_on_it() -> None:
    assert denials("/etc/shadow", Attempt("/srv/read-only", WRITE)) == []
    assert told("/srv/read-only") == [("read", "/srv/read-only", "--read-file /srv/read-only")]


def test_a_path_that_may_be_read_was_to_be_written() -> None:
    assert told("~/docs/program") == [("write", f"{HOME}/docs/program", "--write-file ~/docs/program")]
    assert told("~/docs/x") == []  # but perhaps it was to be run, and its mode forbids that


def test_what_is_not_there_was_to_be_made() -> None:
    assert told("~/notes/new") == [("write", f"{HOME}/notes/new", "--write ~/notes")]
    assert told("~/new") == [("write", f"{HOME}/new", "")]  # nothing can be made directly in the home


def test_what_is_said_to_be_absent_is_hidden_only_where_it_is_there() -> None:
    assert told(Attempt("/tmp/x", absent=True)) == [("read", "/tmp/x", "--read-file /tmp/x")]
    assert denials(Attempt("~/notes/new", absent=True), Attempt("relative", absent=True)) == []


def test_what_the_agent_may_not_do_in_a_directory_of_its_own_is_its_own_affair() -> None:
    assert denials("/tmp/x", Attempt("/tmp/x", WRITE)) == []


def test_a_word_that_is_no_file_is_no_path() -> None:
    assert denials(Attempt("git@github.com", loose=True)) == []


def test_reading_and_writing_one_path_is_one_line() -> None:
    assert told(Attempt("~/notes/1", READ), Attempt("~/notes/1", WRITE)) == [
        ("read+write", f"{HOME}/notes/1", "--allow-file ~/notes/1")
    ]


def test_many_files_of_a_directory_become_the_directory() -> None:
    assert told("~/notes/1", "~/notes/2") == [
        ("read", f"{HOME}/notes/1", "--read-file ~/notes/1"),
        ("read", f"{HOME}/notes/2", "--read-file ~/notes/2"),
    ]
    (denial,) = denials("~/notes/1", "~/notes/2", "~/notes/3")
    assert (denial.what, denial.flag, denial.times) == (f"{HOME}/notes", "--read ~/notes", 3)
    assert len(denials("/srv/a/b/1", "/srv/a/b/2", "/srv/a/b/3")) == 1


@pytest.mark.parametrize("directory", ["~", "~/.aws", "~/.config", "/", "/srv", "/home"])
def test_no_advice_opens_much(directory: str) -> None:
    files = [f"{directory.rstrip('/')}/{name}" for name in ("1", "2", "3", "4")]
    found = denials(*files)
    assert len(found) == 4
    assert all(" --read " not in f" {each.flag} " for each in found)
    if directory in ("~", "/", "/home"):
        assert denials(directory)[0].flag == ""


def test_what_cannot_be_shown_is_not_advised() -> None:
    (denial,) = denials(Attempt("/srv/a\nb", source=KERNEL))
    assert denial.flag == ""
    (denial,) = denials("/srv/a; rm ~")
    assert denial.flag == "--read-file '/srv/a; rm ~'"


@pytest.mark.parametrize("link", [f"{HOME}/app/cache", "/srv/a/link"])
def test_what_a_link_leads_to_is_what_is_advised(link: str) -> None:
    """The agent may have made it, under a name that looks harmless, and may turn it elsewhere before the next run."""

    def through(path: str) -> Found:
        return look(path.replace(link, f"{HOME}/notes"))._replace(real=path.replace(link, f"{HOME}/notes"))

    (denial,) = of_paths({Attempt(f"{link}/1"): 1}, through, judge, absolute, HOME)
    assert (denial.what, denial.flag) == (f"{link}/1", "--read-file ~/notes/1")
    (denial,) = of_paths({Attempt(f"{link}/new", WRITE): 1}, through, judge, absolute, HOME)
    assert denial.flag == "--write ~/notes"


def test_a_name_that_looks_like_flags_is_not_advised() -> None:
    """A long flag is shown in several lines, of which one could be the agent's own advice."""
    assert [each.flag for each in denials("/srv/a --allow ~ --read b", f"{HOME}/notes/x -a /")] == ["", ""]


def test_to_make_something_beside_the_home_opens_not_what_is_around_it() -> None:
    real = "/data/u"  # where HOME is a link to it
    for path, directory in (("/home/new", "/home"), (f"{real}/new", real)):
        found = Found(path, False, False, READ | WRITE, directory)
        home = real if directory == real else HOME
        (denial,) = of_paths({Attempt(path): 1}, lambda _, found=found: found, judge, absolute, home)  # type: ignore[misc]
        assert denial.flag == ""


def test_a_flood_of_paths_asks_the_disk_a_bounded_number_of_times() -> None:
    asked = []

    def counting(path: str) -> Found:
        asked.append(path)
        return look(path)

    of_paths({Attempt(f"/srv/{n}"): 1 for n in range(5000)}, counting, judge, absolute, HOME)
    assert len(asked) == 256


def exchange(**texts: str) -> tuple[dict[str, object], int]:
    return dict(texts), 2


def test_hosts_and_requests_come_from_the_proxy_as_data() -> None:
    found = of_exchanges(
        [
            exchange(host="a.example:443", method="CONNECT", code="host_denied", flag="--allow-domain a.example"),
            exchange(host="b.example:443", method="CONNECT", code="host_denied", reason="b.example is denied."),
            exchange(host="c.example", method="GET", path="/x", code="endpoint_denied", flag="--allow-domain x"),
            exchange(code="token_wrong"),
        ]
    )
    assert [(each.kind, each.access, each.what, each.reason, each.flag, each.times) for each in found] == [
        (HOST, "connect", "a.example:443", HOST_NOT_ALLOWED, "--allow-domain a.example", 2),
        (HOST, "connect", "b.example:443", "host_denied", "", 2),
        (REQUEST, "", "GET c.example/x", "endpoint_denied", "--allow-domain x", 2),
    ]


def test_one_flag_is_one_line() -> None:
    """A host by CONNECT and by a plain request; but sockets that nothing would grant stay apart."""
    hosts = [Denial(HOST, what, "connect", HOST_NOT_ALLOWED, "", "--allow-domain a", 2) for what in ("a:443", "a")]
    sockets = [Denial(SOCKET, what, "connect", "outside_the_wall", "", "") for what in ("10.0.0.1:1", "10.0.0.1:2")]
    found = grouped([*hosts, *sockets], look, judge, HOME, DENIES)
    assert [(each.what, each.times) for each in found] == [("a:443", 4), ("10.0.0.1:1", 1), ("10.0.0.1:2", 1)]
