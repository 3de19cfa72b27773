"""Flags + profile + groups -> capability set."""

from __future__ import annotations

import pytest

from nono.errors import PolicyError, UsageError
from nono.policy.capabilities import NETWORK_BLOCKED, NETWORK_OPEN, NETWORK_PROXY, READ, WRITE, PathGrant
from nono.policy.profile import parse
from nono.policy.resolve import Place, Request, expand, resolve

PLACE = Place(
    home="/home/u",
    workdir="/home/u/app",
    temporary_directory="/tmp",
    config_home="/home/u/.config",
    state_home="/home/u/.local/state",
    runtime_dir="/run/user/1",
)


def own(request: Request, profile: str = "") -> list[PathGrant]:
    capabilities = resolve(request, parse(profile, "p") if profile else None, PLACE)
    return [grant for grant in capabilities.grants if not grant.optional]


def test_each_flag_grants_what_its_name_says() -> None:
    request = Request(allow=("~/a",), read=("b",), write=("/c",), read_file=("$HOME/f",), allow_cwd=True)
    assert own(request) == [
        PathGrant("/home/u/a", READ | WRITE, False, "--allow"),
        PathGrant("/home/u/app/b", READ, False, "--read"),
        PathGrant("/c", WRITE, False, "--write"),
        PathGrant("/home/u/f", READ, True, "--read-file"),
        PathGrant("/home/u/app", READ | WRITE, False, "--allow-cwd"),
    ]


def test_profile_adds_to_flags() -> None:
    grants = own(
        Request(read=("/a",)),
        '{"meta": {"name": "x"}, "filesystem": {"allow": ["$WORKDIR/b"]}, "workdir": {"access": "read"}}',
    )
    assert [(grant.path, grant.access, grant.origin) for grant in grants] == [
        ("/a", READ, "--read"),
        ("/home/u/app/b", READ | WRITE, "profile x"),
        ("/home/u/app", READ, "profile x"),
    ]


@pytest.mark.parametrize("path", ["", "a\0b", "$NOPE/x", "~other/x"])
def test_refuses_a_path(path: str) -> None:
    with pytest.raises(UsageError):
        expand(path, PLACE)


def test_refuses_an_unknown_workdir_access() -> None:
    with pytest.raises(PolicyError, match=r"workdir.access"):
        own(Request(), '{"workdir": {"access": "all"}}')


def test_network_is_open_until_something_restricts_it() -> None:
    assert resolve(Request(), None, PLACE).network == NETWORK_OPEN
    assert resolve(Request(block_net=True), None, PLACE).network == NETWORK_BLOCKED
    assert resolve(Request(credential=("openai",)), None, PLACE).network == NETWORK_PROXY


def test_a_profile_restricts_too() -> None:
    blocked = parse('{"network": {"block": true}}', "p")
    assert resolve(Request(), blocked, PLACE).network == NETWORK_BLOCKED
    named = parse('{"network": {"credentials": ["github"]}}', "p")
    assert [route.name for route in resolve(Request(credential=("openai",)), named, PLACE).routes] == [
        "github",
        "openai",
    ]


def test_a_named_host_restricts_the_network_to_it() -> None:
    capabilities = resolve(Request(allow_domain=("example.com", ".example.org:8443")), None, PLACE)
    assert capabilities.network == NETWORK_PROXY
    assert capabilities.allowed_hosts == ("example.com", ".example.org:8443")
    profile = parse('{"network": {"allow_domain": ["a.example"], "deny_domain": ["b.a.example"]}}', "p")
    both = resolve(Request(allow_domain=("example.com",)), profile, PLACE)
    assert (both.allowed_hosts, both.denied_hosts) == (("a.example", "example.com"), ("b.a.example",))


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (Request(allow_domain=("a b",)), "no host name has"),
        (Request(allow_domain=("ftp://x",)), "http://"),
        (Request(allow_domain=("x:0",)), "port"),
        (Request(deny_domain=("x",)), "alone it has no effect"),
        (Request(allow_domain=("x",), block_net=True), "exclude each other"),
    ],
)
def test_refuses_hosts_that_make_no_sense(request_: Request, sentence: str) -> None:
    with pytest.raises((PolicyError, UsageError), match=sentence):
        resolve(request_, None, PLACE)


def test_refuses_blocked_network_with_a_credential() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        resolve(Request(block_net=True, credential=("openai",)), None, PLACE)


def test_expands_paths_of_custom_credentials() -> None:
    fields = '{"upstream": "https://x", "credential_key": "k", "tls_ca": "~/ca.pem"}'
    profile = parse('{"network": {"credentials": ["x"], "custom_credentials": {"x": ' + fields + "}}}", "p")
    (route,) = resolve(Request(), profile, PLACE).routes
    assert route.tls_ca == "/home/u/ca.pem"
