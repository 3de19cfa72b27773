"""What the user is told before the agent starts."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from nono.cli import learn, render
from nono.policy.inherit import of_text
from nono.policy.resolve import Place, Request, resolve
from nono.session.summary import Summary

PLACE = Place("/home/u", "/home/u/app", "/tmp", "/home/u/.config", "/home/u/.local/state", "/run/user/1")


def unfolded(rows: list[tuple[str, str]]) -> list[str]:
    """Each row as one line, however long."""
    return [f"{label:<11} {text}".strip() for label, text in rows]


def told(
    request: Request, *, verbose: bool = False, environment: dict[str, str] | None = None, intercepts: bool = True
) -> list[str]:
    """The summary's lines about the network."""
    capabilities = resolve(request, None, PLACE, (), environment or {})
    routes = tuple((route.name, route.upstream.split("/")[2], "") for route in capabilities.routes)
    summary = Summary(("true",), capabilities, (), routes, (), (), (), "none", intercepts)
    lines = unfolded(render.summary(summary, PLACE.home, verbose))
    (first,) = [index for index, line in enumerate(lines) if line.startswith("network ")]
    return lines[first:-1]


def test_names_profiles_groups_and_how_many_hosts_each_has() -> None:
    (line,) = told(Request(network_profile="claude-code"))
    assert line.startswith("network     only llm_apis (")
    assert ", package_registries, github (" in line
    assert line.endswith("(--network-profile claude-code, -v to list)")
    assert "api.anthropic.com" not in line


def test_names_the_hosts_of_groups_on_demand() -> None:
    lines = told(Request(network_profile="claude-code"), verbose=True)
    assert "api.anthropic.com" in lines[0]
    assert "package_registries: as nono profile groups says  (claude-code)" in lines


def test_names_routes_hosts_and_what_is_denied() -> None:
    request = Request(
        credential=("github",), allow_domain=("a.example", "*.b.example:8443"), deny_domain=("x.b.example",)
    )
    assert told(request) == [
        "network     only github → api.github.com",
        "a.example  (--allow-domain)",
        "*.b.example:8443  (--allow-domain)",
        "not  x.b.example  (--deny-domain)",
        "intercepts  TLS of api.github.com, to put keys in and to judge requests",
    ]


def test_a_long_list_is_cut() -> None:
    hosts = tuple(f"h{number}.example" for number in range(100))
    lines = told(Request(allow_domain=hosts, deny_domain=hosts))
    assert len(lines) == 10
    assert lines[8] == "92 more hosts  (-v to list)"
    assert lines[9].endswith("h7.example and 92 more  (--deny-domain)")
    assert len(told(Request(allow_domain=hosts), verbose=True)) == 100


@pytest.mark.parametrize(
    ("request_", "note"),
    [
        (Request(allow_domain=("https://api.github.com/user",)), ""),
        (
            Request(allow_domain=("https://api.github.com/user",), network_profile="developer"),
            "; all other paths of api.github.com are granted, too",
        ),
        (Request(allow_domain=("https://a.example/x", "*.example")), "; all other paths of a.example are granted, too"),
        (Request(allow_domain=("https://a.example/x",), deny_domain=("a.example",)), "; but denied"),
    ],
)
def test_says_where_a_path_restricts_nothing(request_: Request, note: str) -> None:
    assert [line for line in told(request_) if line.endswith(f"{request_.allow_domain[0]}  (--allow-domain{note})")]


def test_names_the_profile_that_names_a_host() -> None:
    network = '{"allow_domain": ["a.example"], "deny_domain": ["b.a.example"]}'
    profile = of_text(f'{{"meta": {{"name": "x"}}, "network": {network}}}')
    has = resolve(Request(allow_domain=("c.example",)), profile, PLACE)
    rows = render.summary(
        Summary(("true",), has, (), (), (), (), (), "none", origins=profile.origins), PLACE.home, verbose=False
    )
    texts = [text.strip() for _, text in rows]
    assert "only a.example  (profile x)" in texts
    assert "c.example  (--allow-domain)" in texts
    assert "not  b.a.example  (profile x)" in texts


def test_names_the_proxy_upstream_and_who_named_it() -> None:
    environment = {"HTTPS_PROXY": "http://[2001:db8::1]:3128", "NO_PROXY": "internal.example,10.0.0.0/8"}
    assert told(Request(credential=("openai",)), environment=environment)[-1] == (
        "through     the proxy [2001:db8::1]:3128  (HTTPS_PROXY), but for internal.example, 10.0.0.0/8"
    )


def test_names_whose_tls_is_intercepted_or_what_that_would_need() -> None:
    request = Request(
        credential=("github", "openai"), allow_domain=("https://a.example/x", "https://*.b.example/y", "c")
    )
    (line,) = [line for line in told(request) if line.startswith("intercepts")]
    assert "TLS of api.github.com, api.openai.com, a.example, *.b.example, to" in line
    (line,) = [line for line in told(request, intercepts=False) if line.startswith("note")]
    assert line.endswith("pip install 'nono[intercept]'")
    assert not [line for line in told(Request(credential=("openai",))) if "ntercept" in line]


def test_names_relayed_ports_also_without_a_network() -> None:
    assert told(Request(block_net=True, open_port=(5432, 6379), listen_port=(3000,))) == [
        "network     blocked",
        "ports       5432, 6379 of this machine, reached by the agent  (--open-port)",
        "ports       3000 of the agent, reached from this machine  (--listen-port)",
    ]


def whole(request: Request, profile: str = "", *, verbose: bool = False, **fields: Any) -> list[str]:
    """The summary, each line without its margin."""
    capabilities = resolve(request, of_text(profile, "p") if profile else None, PLACE)
    summary = Summary(("true",), capabilities, (), (), (), (), (), "Landlock 7, seccomp", True)._replace(**fields)
    return unfolded(render.summary(summary, PLACE.home, verbose))


def test_says_what_is_limited_and_opened_and_leaks_in_one_order() -> None:
    request = Request(
        deny=("secret",), bypass_protection=("~/.aws/config",), allow_unix_socket=("/run/x.sock", "own"),
        block_net=True, env_credential=("anthropic",),
    )  # fmt: skip
    lines = whole(
        request, withheld=("LD_PRELOAD",), leaks=("any address on the proxy's port", "listen() without bind"),
        limits=("2 GiB memory for all together  (--memory)", "10 min  (--timeout)"),
    )  # fmt: skip
    assert lines == [
        "read        system (0 paths, -v to list)",
        "denied      ~/app/secret",
        "unprotected ~/.aws/config  (--bypass-protection)",
        "socket      /run/x.sock  (--allow-unix-socket)",
        "socket      own ones, where it may write  (--allow-unix-socket own)",
        "network     blocked",
        "warning     the agent holds the real key of ANTHROPIC_API_KEY",
        "withheld    1 variable  (-v to list)",
        "limits      2 GiB memory for all together  (--memory)",
        "10 min  (--timeout)",
        "wall        Landlock 7, seccomp",
        "leaks       any address on the proxy's port",
        "listen() without bind",
    ]
    assert max(map(len, lines)) <= 80


def test_says_which_secrets_a_profile_lets_through_and_what_it_denies() -> None:
    profile = '{"filesystem": {"deny": ["a", "b"]}, "env_credentials": {"file:///sk-ant-secret": "A_KEY"}}'
    lines = whole(Request(), profile, exposed=("GROQ_API_KEY",))
    assert lines[1:3] == ["denied      ~/app/a", "denied      ~/app/b"]
    assert "warning     the agent holds the real key of A_KEY" in lines
    assert "warning     the agent gets GROQ_API_KEY as it is  (allow_vars)" in lines
    assert "sk-ant" not in "".join(lines)


def test_a_long_list_of_denied_paths_is_cut() -> None:
    request = Request(deny=tuple(f"{number}" for number in range(100)))
    assert "92 more  (-v to list)" in whole(request)
    assert len(whole(request, verbose=True)) == 102


def test_dry_run_names_the_hole_in_what_is_denied() -> None:
    capabilities = resolve(Request(bypass_protection=("~/.aws/config",)), None, PLACE)
    rows = render.plan(Summary(("true",), capabilities, (), (), (), (), (), "none"), PLACE.home)
    assert ("denied", "~/.aws  (deny_credentials), but for ~/.aws/config") in rows


def test_a_table_has_eighty_columns_and_breaks_at_spaces() -> None:
    words = " ".join(f"word{number}" for number in range(40))
    lines = render.table(
        [("network", words), ("", f"     {words}"), ("wall", "x" * 200), ("note", "a " * 60)]
    ).splitlines()
    assert lines[0].startswith("nono  network     word0 word1")
    assert all(line.startswith("      ") for line in lines[1:])
    assert [line.strip() for line in lines if len(line) > 80] == [f"wall        {'x' * 200}"]
    assert " ".join(" ".join(lines[:6]).split()).startswith(f"nono network {words}")


@pytest.mark.parametrize("text", ["", " ", "x" * 63, f"{'x' * 80} y", f"  {'x' * 80}", " " * 100])
def test_no_text_is_too_odd_to_be_folded(text: str) -> None:
    assert "".join(render.table([("a", text)]).split()) == "nonoa" + "".join(text.split())


def test_colours_are_for_terminals_whose_user_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert render.shows_colour()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not render.shows_colour()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not render.shows_colour()
    assert render.table([("denied", "x")], colour=True) == "nono  \x1b[31mdenied     \x1b[0m x\n"


def test_a_pipe_that_nobody_reads_keeps_nobody_waiting_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    read_fd, write_fd = os.pipe()
    with open(read_fd, "rb") as reader, open(write_fd, "w") as writer:
        monkeypatch.setattr(sys, "stderr", writer)
        monkeypatch.setattr(render, "_PATIENCE_MS", 10)
        render.to_stderr("x" * 5000)
        for _ in range(100):
            render.to_stderr("y" * 4000)  # more than a pipe takes
        assert reader.read(5000) == b"x" * 5000


def test_learning_tells_its_network_behind_the_paths_and_routes_besides() -> None:
    capabilities = resolve(Request(credential=("openai",)), None, PLACE, (), {})
    summary = Summary(("true",), capabilities, (), (("openai", "api.openai.com", "store"),), (), (), (), "none", True)
    rows = learn._with_network(render.summary(summary, PLACE.home, verbose=False), summary)
    assert [label for label, _ in rows] == ["read", "network", "", "credentials", "wall"]
    assert rows[2] == ("", "and  openai → api.openai.com")
