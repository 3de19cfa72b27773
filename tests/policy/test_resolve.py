"""Flags + profile + groups -> capability set."""

from __future__ import annotations

import pytest

from nono.errors import PolicyError, UsageError
from nono.policy.capabilities import (
    NETWORK_BLOCKED,
    NETWORK_OPEN,
    NETWORK_PROXY,
    READ,
    WRITE,
    CapabilitySet,
    EnvironmentRules,
    Limits,
    PathGrant,
    UpstreamProxy,
)
from nono.policy.inherit import of_text
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
    capabilities = resolve(request, of_text(profile, "p") if profile else None, PLACE)
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


@pytest.mark.parametrize("workdir", ["/home/u", "/home", "/"])
def test_a_profile_does_not_open_the_home_directory_by_chance(workdir: str) -> None:
    profile = of_text('{"meta": {"name": "x"}, "workdir": {"access": "readwrite"}}')
    place = PLACE._replace(workdir=workdir)
    with pytest.raises(UsageError, match=r"profile x opens the working directory.*--allow-cwd"):
        resolve(Request(), profile, place)
    grants = resolve(Request(allow_cwd=True), profile, place).grants
    assert next(grant.origin for grant in grants if grant.path == workdir) == "--allow-cwd"


def test_refuses_an_unknown_workdir_access() -> None:
    with pytest.raises(PolicyError, match=r"workdir.access"):
        own(Request(), '{"workdir": {"access": "all"}}')


def test_network_is_open_until_something_restricts_it() -> None:
    assert resolve(Request(), None, PLACE).network == NETWORK_OPEN
    assert resolve(Request(block_net=True), None, PLACE).network == NETWORK_BLOCKED
    assert resolve(Request(credential=("openai",)), None, PLACE).network == NETWORK_PROXY


def test_a_profile_restricts_too() -> None:
    blocked = of_text('{"network": {"block": true}}', "p")
    assert resolve(Request(), blocked, PLACE).network == NETWORK_BLOCKED
    named = of_text('{"network": {"credentials": ["github"]}}', "p")
    assert [route.name for route in resolve(Request(credential=("openai",)), named, PLACE).routes] == [
        "github",
        "openai",
    ]


def test_a_named_host_restricts_the_network_to_it() -> None:
    capabilities = resolve(Request(allow_domain=("example.com", ".example.org:8443")), None, PLACE)
    assert capabilities.network == NETWORK_PROXY
    assert capabilities.allowed_hosts == ("example.com", ".example.org:8443")
    profile = of_text('{"network": {"allow_domain": ["a.example"], "deny_domain": ["b.a.example"]}}', "p")
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
        (Request(network_profile="minimal", block_net=True), "--network-profile exclude each other"),
        (
            Request(credential=("github",), allow_domain=("x",), deny_domain=("*.github.com",)),
            "upstream of the credential",
        ),
        (Request(credential=("github",), network_profile="codex", deny_domain=("api.github.com:443",)), "leave one"),
        (Request(network_profile="minmal"), "Did you mean 'minimal'"),
        (Request(allow_domain=("metadata.google.internal",)), "never reachable"),
        (Request(allow_domain=("*",)), "every host"),
        (Request(upstream_proxy="p:1"), "nono's own proxy"),
        (Request(upstream_proxy_credential="k", network_profile="minimal"), "there is no proxy"),
        (
            Request(upstream_proxy_credential="k", upstream_proxy="direct", network_profile="minimal"),
            "there is no proxy",
        ),
        (Request(upstream_bypass=("x",), block_net=True), "nono's own proxy"),
        (Request(allow_endpoint=("github:GET:/x",), network_profile="minimal"), "add --credential github"),
    ],
)
def test_refuses_hosts_that_make_no_sense(request_: Request, sentence: str) -> None:
    with pytest.raises((PolicyError, UsageError), match=sentence):
        resolve(request_, None, PLACE)


def test_a_denied_host_may_be_near_an_upstream() -> None:
    denied = ("github.com", "api.github.com:22", "*.openai.com")
    assert resolve(Request(credential=("github",), network_profile="codex", deny_domain=denied), None, PLACE).routes


def test_refuses_blocked_network_with_a_credential() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        resolve(Request(block_net=True, credential=("openai",)), None, PLACE)


def test_expands_paths_of_custom_credentials() -> None:
    fields = '{"upstream": "https://x", "credential_key": "k", "tls_ca": "~/ca.pem"}'
    profile = of_text('{"network": {"credentials": ["x"], "custom_credentials": {"x": ' + fields + "}}}", "p")
    (route,) = resolve(Request(), profile, PLACE).routes
    assert route.tls_ca == "/home/u/ca.pem"


def with_profile(network: str, request: Request = Request(), **environment: str) -> CapabilitySet:  # noqa: B008
    return resolve(request, of_text(f'{{"network": {network}}}', "p"), PLACE, (), environment)


def test_a_network_profile_restricts_the_network_to_its_groups() -> None:
    capabilities = resolve(Request(network_profile="minimal"), None, PLACE)
    assert (capabilities.network, capabilities.network_profile) == (NETWORK_PROXY, "minimal")
    assert "api.anthropic.com" in capabilities.group_hosts
    assert (capabilities.allowed_hosts, capabilities.registries, capabilities.intercept) == ((), False, False)
    assert resolve(Request(network_profile="codex"), None, PLACE).registries


def test_a_flags_network_profile_is_added_to_the_profiles() -> None:
    both = with_profile('{"network_profile": "minimal"}', Request(network_profile="developer"))
    assert both.network_profile == "minimal + developer"
    assert len(set(both.group_hosts)) == len(both.group_hosts)
    same = with_profile(
        '{"network_profile": "minimal"}', Request(network_profile="minimal", deny_domain=("chatgpt.com",))
    )
    assert (same.network_profile, same.denied_hosts) == ("minimal", ("chatgpt.com",))


@pytest.mark.parametrize(
    ("network", "request_", "expected"),
    [
        ("{}", Request(credential=("openai",)), False),
        ("{}", Request(credential=("github",)), True),
        ("{}", Request(allow_domain=("https://a.example",)), False),
        ("{}", Request(allow_domain=("b.example", "https://a.example/x")), True),
        ("{}", Request(allow_domain=("http://a.example/x",)), False),
        ('{"tls_intercept": true}', Request(credential=("openai",)), True),
        ('{"tls_intercept": true}', Request(network_profile="minimal"), True),
        ('{"tls_intercept": true}', Request(), False),
        ('{"tls_intercept": true}', Request(block_net=True), False),
        ('{"tls_intercept": false}', Request(credential=("github",)), False),
    ],
)
def test_when_tls_is_intercepted(network: str, request_: Request, expected: bool) -> None:
    assert with_profile(network, request_).intercept is expected


def test_paths_that_nobody_could_judge_are_refused() -> None:
    with pytest.raises(PolicyError, match="tls_intercept"):
        with_profile('{"tls_intercept": false, "allow_domain": ["https://a.example/x"]}')


def test_upstream_proxy_of_profile_flag_and_environment() -> None:
    proxy = '"upstream_proxy": "a:1", "upstream_proxy_credential": "k", "upstream_bypass": ["b"]'
    network = f'{{"credentials": ["openai"], {proxy}}}'
    assert with_profile(network).upstream_proxy == UpstreamProxy("a", 1, "k", ("b",), "profile")
    flag = Request(upstream_proxy="c:2", upstream_bypass=("d",))
    assert with_profile(network, flag).upstream_proxy == UpstreamProxy("c", 2, "", ("b", "d"), "--upstream-proxy")
    assert with_profile(network, Request(upstream_proxy="direct")).upstream_proxy is None
    inherited = with_profile('{"credentials": ["openai"]}', https_proxy="e:3", no_proxy="f").upstream_proxy
    assert inherited == UpstreamProxy("e", 3, "", ("f",), "https_proxy")


def test_a_profile_may_be_used_where_no_proxy_is() -> None:
    network = '{"credentials": ["openai"], "upstream_proxy_credential": "k", "upstream_bypass": ["b"]}'
    assert with_profile(network).upstream_proxy is None
    assert with_profile(network, https_proxy="e:3").upstream_proxy == UpstreamProxy("e", 3, "k", ("b",), "https_proxy")


@pytest.mark.parametrize("network", ["{}", '{"block": true}', '{"upstream_proxy": "a:1"}'])
def test_without_a_proxy_of_its_own_a_run_needs_none_upstream(network: str) -> None:
    assert with_profile(network, https_proxy="socks5://unusable").upstream_proxy is None


def test_ports_of_profile_and_flags() -> None:
    ports = Request(block_net=True, open_port=(2, 4), listen_port=(5,))
    both = with_profile('{"open_port": [1, 2], "listen_port": [3]}', ports)
    assert (both.open_ports, both.listen_ports) == ((1, 2, 4), (3, 5))
    assert with_profile('{"open_port": [1]}', Request()).open_ports == ()  # the machine's own network has them anyway


def test_no_proxy_is_a_list_of_hosts() -> None:
    assert with_profile('{"no_proxy": ["a.test", ".b.test"]}').no_proxy == ("a.test", ".b.test")
    for host in ("", "a,b", "a b", "a\\n", "ä"):
        with pytest.raises(PolicyError, match="no_proxy"):
            with_profile(f'{{"no_proxy": ["{host}"]}}')


def test_an_endpoint_of_a_flag_is_added_to_the_profiles() -> None:
    (route,) = with_profile('{"credentials": ["github"]}', Request(allow_endpoint=("github:GET:/x",))).routes
    assert [rule.path for rule in route.endpoint_rules] == ["/x"]


def test_landlock_alone_must_be_accepted_with_what_it_leaks() -> None:
    with pytest.raises(UsageError, match=r"any address on the proxy's port, and listen\(\) without bind.*accept-leaks"):
        resolve(Request(sandbox="landlock"), None, PLACE)
    assert resolve(Request(sandbox="landlock", accept_leaks=True), None, PLACE).sandbox == "landlock"
    for sandbox in ("auto", "namespace", "notify"):
        assert resolve(Request(sandbox=sandbox), None, PLACE).sandbox == sandbox
        with pytest.raises(UsageError, match=r"--sandbox landlock alone"):
            resolve(Request(sandbox=sandbox, accept_leaks=True), None, PLACE)
    with pytest.raises(UsageError, match=r"auto, namespace, notify, landlock"):
        resolve(Request(sandbox="chroot"), None, PLACE)


def test_limits_and_sockets() -> None:
    request = Request(memory="2G", max_processes="100", timeout="10m", allow_unix_socket=("~/a.sock", "own", "./own"))
    capabilities = resolve(request, None, PLACE)
    assert capabilities.limits == Limits(2 << 30, 100, 600)
    assert capabilities.unix_sockets == ("/home/u/a.sock", "/home/u/app/own")
    assert capabilities.own_sockets
    assert resolve(Request(), None, PLACE).limits == Limits()


def test_sockets_of_a_profile_and_rules_for_variables() -> None:
    text = """{"filesystem": {"unix_socket": ["~/a.sock", "own"]},
               "environment": {"allow_vars": ["A_*"], "deny_vars": ["B"], "set_vars": {"C": "$HOME"}}}"""
    capabilities = resolve(Request(allow_unix_socket=("/b.sock", "~/a.sock")), of_text(text, "p"), PLACE)
    assert capabilities.unix_sockets == ("/home/u/a.sock", "/b.sock")
    assert capabilities.own_sockets
    assert capabilities.environment == EnvironmentRules(("A_*",), ("B",), (("C", "$HOME"),))
    assert resolve(Request(), None, PLACE).environment == EnvironmentRules()


def test_a_profile_does_not_set_what_nono_sets() -> None:
    profile = of_text(
        '{"network": {"credentials": ["github"]}, "environment": {"set_vars": {"GITHUB_TOKEN": "x"}}}', "p"
    )
    with pytest.raises(PolicyError, match="GITHUB_TOKEN is set by nono itself"):
        resolve(Request(), profile, PLACE)
