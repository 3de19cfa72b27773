from __future__ import annotations

import json
import posixpath
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import Refusal
from nono.policy import paths, profile
from nono.policy.allowlist import EveryPublicHost
from nono.policy.capabilities import READ, WRITE, PathDeny, is_at_or_below
from nono.policy.learned import (
    ABSENT,
    DIRECTORY,
    ENTRY,
    EXECUTE,
    FILE,
    MAKE,
    MKDIR,
    Hosts,
    Known,
    Learned,
    Line,
    Tree,
    Wanted,
    Wish,
    entry_of,
    learn,
)
from nono.policy.learned_profile import About, text, written
from nono.policy.resolve import Place

HOME, WORK = "/home/u", "/home/u/work"
PLACE = Place(HOME, WORK, "/tmp", f"{HOME}/.config", f"{HOME}/.local/state", "/run/user/1")
SSH = PathDeny(f"{HOME}/.ssh", "deny_credentials")
NONO = PathDeny(f"{HOME}/.config/nono", "deny_nono")
OWN_CODE = PathDeny("/opt/nono", "nono's own code, read-only", WRITE)
KNOWN = Known(
    home=HOME,
    workdir=WORK,
    cache=f"{HOME}/.cache",
    dropped=("/tmp/nono-1",),
    always=(Tree("/usr", READ), Tree("/etc/hosts", READ, False)),
    given=(
        *(Tree(path, READ) for path in ("/usr", "/etc", "/opt", "/srv")),
        *(Tree(f"{HOME}/{name}", READ) for name in ("notes", "data", ".cache", ".tool", ".config/tool", "src")),
        *(Tree(path, READ, False) for path in (HOME, f"{HOME}/.config", f"{HOME}/.gitconfig")),
        Tree(WORK, READ | WRITE),
        Tree("/tmp/nono-1", READ | WRITE),
        Tree("/data", READ | WRITE),
    ),
    granted=(Tree("/data", READ | WRITE),),
    denies=(SSH, NONO, OWN_CODE),
)


def wish(path: str, access: int = READ, kind: str = FILE) -> Wish:
    return Wish(path, access, kind, posixpath.dirname(path))


def learned(*wishes: Wish, known: Known = KNOWN) -> Learned:
    return learn(wishes, known)


def lines(*wishes: Wish, known: Known = KNOWN) -> dict[str, str]:
    fields = {READ: "read", WRITE: "write", READ | WRITE: "allow"}
    return {
        line.path: fields[line.access] + ("_file" if line.is_file else "")
        for line in learned(*wishes, known=known).lines
    }


def test_a_file_that_was_read_is_a_line() -> None:
    assert lines(wish(f"{HOME}/notes/a")) == {f"{HOME}/notes/a": "read_file"}


def test_what_every_run_has_is_none() -> None:
    assert not lines(wish("/usr/lib/libc.so"), wish("/etc/hosts"), wish("/tmp/nono-1/x", READ | WRITE))


def test_what_is_not_there_is_none() -> None:
    nothing = learned(wish(f"{HOME}/notes/b", READ, ABSENT))
    assert not nothing.lines
    assert not nothing.wanted


def test_the_working_directory_is_no_line_but_an_access() -> None:
    assert learned(wish(f"{WORK}/a")).workdir == READ
    assert learned(Wish(f"{WORK}/a/b", MAKE | WRITE, FILE, f"{WORK}/a")).workdir == WRITE
    assert learned(Wish(f"{WORK}/a", ENTRY, ABSENT, WORK), wish(f"{WORK}/b")).workdir == READ | WRITE


def test_a_grant_of_the_users_is_used_as_it_is() -> None:
    assert lines(wish("/data/a/b"), wish("/data/a/c")) == {"/data": "read"}
    assert lines(wish("/data/a/b"), wish("/data/a/c", WRITE)) == {"/data": "allow"}
    assert lines(Wish("/data/new", MAKE | WRITE, FILE, "/data")) == {"/data": "write"}


def test_many_files_of_a_directory_are_the_directory() -> None:
    files = [wish(f"{HOME}/data/{name}") for name in "abcd"]
    assert set(lines(*files[:3])) == {f"{HOME}/data/{name}" for name in "abc"}
    assert lines(*files) == {f"{HOME}/data": "read"}


def test_a_directory_that_was_listed_is_granted() -> None:
    assert lines(wish(f"{HOME}/data/x", READ, DIRECTORY), wish(f"{HOME}/data/x/y")) == {f"{HOME}/data/x": "read"}


def test_the_home_is_never_a_line() -> None:
    some = [wish(f"{HOME}/{name}") for name in ("notes", "data", ".gitconfig", "src")]
    found = learned(wish(HOME, READ, DIRECTORY), *some)
    assert HOME not in {line.path for line in found.lines}
    assert HOME in {wanted.path for wanted in found.wanted}


@pytest.mark.parametrize("directory", ["/etc", f"{HOME}/.config", "/", "/home", f"{HOME}/.cache", "/opt"])
def test_directories_of_everything_are_no_lines(directory: str) -> None:
    known = KNOWN._replace(given=(*KNOWN.given, Tree("/", READ)))
    found = lines(*(wish(f"{directory.rstrip('/')}/{name}") for name in "abcdef"), known=known)
    assert directory not in found
    assert len(found) == 6


def test_directories_are_collapsed_only_where_a_tool_keeps_its_own() -> None:
    tools = [wish(f"{HOME}/.tool/lib/{part}/{name}") for part in "abcd" for name in "wxyz"]
    assert lines(*tools) == {f"{HOME}/.tool/lib": "read"}
    projects = [wish(f"{HOME}/src/{part}/{name}") for part in "abcd" for name in "wxyz"]
    assert set(lines(*projects)) == {f"{HOME}/src/{part}" for part in "abcd"}


def test_a_cache_is_granted_as_a_whole() -> None:
    assert lines(wish(f"{HOME}/.cache/tool/1/2/3")) == {f"{HOME}/.cache/tool": "read"}


def test_a_protected_path_is_a_comment_with_both_lines() -> None:
    (wanted,) = learned(wish(f"{HOME}/.ssh/config")).wanted
    assert wanted.line == Line(f"{HOME}/.ssh/config", READ, True)
    assert wanted.deny == f"{HOME}/.ssh/config"
    assert "deny_credentials" in wanted.why


def test_nonos_own_has_no_line_at_all() -> None:
    (wanted,) = learned(wish(f"{HOME}/.config/nono/config.toml")).wanted
    assert wanted.line is None
    assert not wanted.deny


def test_a_write_elsewhere_is_a_comment() -> None:
    (wanted,) = learned(Wish(f"{HOME}/data/new", MAKE | WRITE, ABSENT, f"{HOME}/data")).wanted
    assert wanted.line == Line(f"{HOME}/data", WRITE, False)


def test_a_directory_to_be_made_in_the_home_is_named_itself() -> None:
    (wanted,) = learned(Wish(f"{HOME}/.new/a", MAKE | WRITE, ABSENT, HOME)).wanted
    assert wanted.first == f"{HOME}/.new"
    assert wanted.line == Line(f"{HOME}/.new", WRITE, False)
    (made,) = learned(Wish(f"{HOME}/.new", ENTRY | MKDIR, ABSENT, HOME)).wanted
    assert made.first == f"{HOME}/.new"
    (file,) = learned(Wish(f"{HOME}/.newrc", MAKE | WRITE, ABSENT, HOME)).wanted
    assert file.line is None


def test_the_root_is_never_suggested() -> None:
    (wanted,) = learned(wish("/", READ, DIRECTORY)).wanted
    assert wanted.line is None


def test_compiled_python_of_the_system_is_not_worth_a_word() -> None:
    assert not learned(Wish("/usr/lib/python3/__pycache__/a.pyc", MAKE | WRITE, ABSENT, "/usr/lib/python3")).wanted


def test_what_was_bypassed_for_this_run_is_a_comment() -> None:
    opened = f"{HOME}/.ssh/config"
    known = KNOWN._replace(
        given=(*KNOWN.given, Tree(opened, READ, False)),
        denies=(SSH._replace(holes=(opened,)),),
        bypassed=(opened,),
    )
    found = learned(wish(opened), known=known)
    assert not found.lines
    assert [wanted.deny for wanted in found.wanted] == [opened]


def test_what_is_told_is_bounded() -> None:
    found = learned(*(wish(f"{HOME}/.ssh/{number}") for number in range(5000)))
    assert len(found.wanted) == 200
    assert found.left_out == 4800


NAMES = st.sampled_from(["a", "b", ".c", "D", "e"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: f"{HOME}/" + "/".join(names))
WISHES = st.builds(
    lambda path, access, kind: wish(path, access, kind),
    PATHS,
    st.integers(1, 63),
    st.sampled_from([ABSENT, DIRECTORY, FILE]),
)


@given(st.lists(WISHES, max_size=40), st.lists(PATHS, min_size=1, max_size=4))
def test_no_line_ever_opens_what_is_protected(wishes: list[Wish], protected: list[str]) -> None:
    """Even if the sandbox had let everything through, and whatever the command did."""
    known = KNOWN._replace(
        given=(Tree("/", READ),), granted=(), denies=tuple(PathDeny(path, "deny_credentials") for path in protected)
    )
    for line in learn(wishes, known).lines:
        for path in protected:
            assert not is_at_or_below(line.path.lower(), path.lower())
            assert line.is_file or not is_at_or_below(path.lower(), line.path.lower())


@given(st.lists(WISHES, max_size=40))
def test_a_line_is_needed_and_covers_what_was_read(wishes: list[Wish]) -> None:
    known = KNOWN._replace(given=(Tree("/", READ),), granted=(), workdir="")
    found = learn(wishes, known)
    read = {each.path for each in wishes if each.access & (READ | EXECUTE) and each.kind != ABSENT}
    told = {wanted.path for wanted in found.wanted}
    for path in read - told:
        assert any(path == line.path if line.is_file else is_at_or_below(path, line.path) for line in found.lines)
    for line in found.lines:
        assert any(is_at_or_below(path, line.path) for path in read)
        others = [other for other in found.lines if other != line and not other.is_file]
        assert not any(is_at_or_below(line.path, other.path) for other in others)


# The text.

ABOUT = About("tool-learned", "tool", "2026-11-22", (), False, (("$WORKDIR", WORK), ("~", HOME)), str)


def read(path: str) -> str:
    paths.check(path)
    return paths.expand(paths.unescaped(path), PLACE)


def about() -> About:
    return ABOUT._replace(expand=read)


def parsed(found: Learned, hosts: Hosts | None = None, how: About | None = None) -> dict[str, Any]:
    """The text, read as JSON without comments."""
    whole = text(found, hosts or Hosts(), how or about())
    profile.parse(whole, "test")
    kept = "\n".join(
        re.sub(r"(,)  // [^\"]*$", r"\1", line) for line in whole.splitlines() if not line.lstrip().startswith("//")
    )
    return dict(json.loads(re.sub(r",(\s*[}\]])", r"\1", kept)))


def test_the_text_is_a_profile() -> None:
    found = Learned(READ, (Line(f"{HOME}/notes", READ, False), Line("/srv/x", READ, True)), ())
    whole = parsed(found, Hosts({"example.com": "", "api.github.com": "github"}, (), ("openai",)))
    assert whole["filesystem"] == {"read": ["~/notes"], "read_file": ["/srv/x"]}
    assert whole["workdir"] == {"access": "read"}
    assert whole["network"] == {"credentials": ["openai"], "allow_domain": ["api.github.com", "example.com"]}


def test_without_a_host_the_network_is_blocked() -> None:
    assert parsed(Learned(0, (), ()))["network"] == {"block": True}


def test_what_was_wanted_counts_once_its_slashes_are_gone() -> None:
    wanted = Wanted(
        f"{HOME}/.ssh/config", READ, "is protected", Line(f"{HOME}/.ssh/config", READ, True), f"{HOME}/.ssh"
    )
    found = Learned(0, (), (wanted,))
    assert parsed(found)["filesystem"] == {"bypass_protection": [], "read_file": []}
    opened = "\n".join(
        line.replace("// ", "", 1) if line.lstrip().startswith('// "~/') and line.endswith('",') else line
        for line in text(found, Hosts(), about()).splitlines()
    )
    profile.parse(opened, "test")
    assert '      "~/.ssh/config",' in opened.splitlines()
    assert '      "~/.ssh",' in opened.splitlines()


ODD = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1).filter(
    lambda name: name not in (".", "..")
)


@given(st.lists(ODD, min_size=1, max_size=3), st.booleans())
def test_odd_names_come_back_as_they_were(names: list[str], at_home: bool) -> None:
    path = (HOME if at_home else "") + "/" + "/".join(names)
    entry = written(path, about())
    assert entry == "" or read(entry) == path
    wanted = Wanted(path, READ, "was wanted", None)
    parsed(Learned(0, (Line(path, READ, True),), (wanted,)))


def test_a_name_that_is_no_text_stays_out() -> None:
    path = b"/srv/\xff\n*/".decode("utf-8", "surrogateescape")
    assert "filesystem" not in parsed(Learned(0, (Line(path, READ, True),), ()))


def test_refusals_cannot_end_a_comment() -> None:
    hosts = Hosts(
        {},
        (
            ("evil\n}", "no\n} \u2028 x"),
            ("10.0.0.1", "Private. The operator can grant it with --allow-domain 10.0.0.1:80"),
        ),
    )
    assert parsed(Learned(0, (), ()), hosts)["network"] == {"block": True}


def test_groups_are_suggested_not_taken() -> None:
    groups = [("node_runtime", f"{HOME}/.nvm/{name}") for name in "abcde"]
    whole = text(Learned(0, (Line(f"{HOME}/.nvm/a", READ, True),), ()), Hosts(), about()._replace(groups=groups))
    assert '  // "groups": {"include": ["node_runtime"]},' in whole.splitlines()
    assert "and 2 more" in whole
    profile.parse(whole, "test")
    assert "node_runtime" in str(profile.parse(whole.replace('// "groups"', '"groups"'), "test"))


def test_what_flags_said_and_what_it_builds_on_stay() -> None:
    how = about()._replace(
        extends=("base",), filesystem={"deny": ["~/x"], "unix_socket": []}, network={"open_port": (5432,)}
    )
    whole = parsed(Learned(0, (), ()), Hosts({"example.com": ""}, inherits=True), how)
    assert whole["extends"] == ["base"]
    assert whole["filesystem"] == {"deny": ["~/x"]}
    assert whole["network"] == {"open_port": [5432], "allow_domain": ["example.com"]}
    assert "network" not in parsed(Learned(0, (), ()), Hosts(inherits=True), about()._replace(extends=("base",)))


def test_a_directory_that_was_moved_has_its_variable() -> None:
    how = about()._replace(
        variables=(("$WORKDIR", WORK), ("$XDG_CACHE_HOME", "/big/cache"), ("~", HOME)),
        expand=lambda path: paths.expand(path, PLACE._replace(cache_home="/big/cache")),
    )
    assert written("/big/cache/tool", how) == "$XDG_CACHE_HOME/tool"
    assert written(f"{WORK}/a", how) == "$WORKDIR/a"
    assert written("/big/cached", how) == "/big/cached"


def test_every_public_host_but_what_is_denied() -> None:
    allowlist = EveryPublicHost(("named.example.com", "https://some.example.com/docs/**"), ("evil.example.com",))
    for host, port, tunnel in (("any.example.com", 443, True), ("any.example.com", 22, True), ("10.0.0.1", 80, False)):
        verdict = allowlist(host, port, tunnel=tunnel)
        assert not verdict.named  # so that a private address is not dialled
        assert not verdict.rules
    assert allowlist("named.example.com", 443, tunnel=True).named
    assert allowlist("some.example.com", 443, tunnel=True).rules
    for host in ("evil.example.com", "169.254.169.254", "metadata.google.internal", "bad host"):
        with pytest.raises(Refusal):
            allowlist(host, 443, tunnel=True)


def test_a_service_of_the_machines_own_is_a_port() -> None:
    hosts = Hosts({}, (("127.0.0.1:5432", "refused"), ("192.0.2.1:80", "refused")))
    assert parsed(Learned(0, (), ()), hosts)["network"] == {"open_port": [], "block": True}
    whole = text(Learned(0, (), ()), hosts, about())
    assert re.search(r"^ *// 5432,$", whole, re.MULTILINE)
    opened = re.sub(r"^( *)// (\d+,)$", r"\1\2", whole, flags=re.MULTILINE)
    profile.parse(opened, "test")
    assert '"192.0.2.1:80" was not reached' in whole


@pytest.mark.parametrize(
    ("host", "tunnel", "entry"),
    [
        ("example.com:443", True, "example.com"),
        ("example.com:8443", True, "example.com:8443"),
        ("example.com:80", True, "example.com:80"),
        ("example.com:80", False, "example.com"),
        ("example.com", False, "example.com"),
        ("[2001:db8::1]:443", True, "[2001:db8::1]"),
        ("[2001:db8::1]", False, "[2001:db8::1]"),
    ],
)
def test_entries_of_hosts(host: str, tunnel: bool, entry: str) -> None:
    assert entry_of(host, tunnel=tunnel) == entry
