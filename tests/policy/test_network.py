"""The routes of one run: built-in, custom, and what is refused."""

from __future__ import annotations

import pytest

from nono.errors import PolicyError, Refusal, UsageError
from nono.policy.allowlist import METADATA_HOSTS, Allowlist, parse_entry
from nono.policy.network import (
    GROUPS,
    NETWORK_PROFILES,
    REGISTRIES,
    add_endpoints,
    builtin_routes,
    check_upstream,
    nearest,
    profile_hosts,
    select_routes,
)
from nono.policy.routes import EndpointRule

SOUND = {"upstream": "https://api.example.com/v1", "credential_key": "example_key"}


def custom(**fields: object) -> dict[str, dict[str, object]]:
    return {"example": {**SOUND, **fields}}


def test_knows_the_providers_of_the_design() -> None:
    routes = builtin_routes()
    assert list(routes) == ["openai", "anthropic", "gemini", "google-ai", "github", "gitlab"]
    assert routes["openai"].upstream == "https://api.openai.com/v1"
    assert routes["openai"].inject.credential_format == "Bearer {}"
    assert routes["anthropic"].inject.inject_header == "x-api-key"
    assert "GOOGLE_GEMINI_BASE_URL" in routes["gemini"].base_url_vars, "the name that google-genai reads"


def test_selects_in_order_and_once() -> None:
    assert [route.name for route in select_routes(["openai", "github", "openai"], {})] == ["openai", "github"]


def test_names_the_known_ones_when_a_credential_is_unknown() -> None:
    with pytest.raises(UsageError, match=r"unknown credential 'opnai'.*openai"):
        select_routes(["opnai"], {})


def test_custom_route_gets_variables_of_its_own_name() -> None:
    (route,) = select_routes(["my-llm"], {"my-llm": SOUND})
    assert route.env_vars == ("MY_LLM_API_KEY",)
    assert route.base_url_vars == ("MY_LLM_BASE_URL",)


def test_custom_route_named_like_a_built_in_keeps_its_variables() -> None:
    (route,) = select_routes(["gemini"], {"gemini": {**SOUND, "env_var": "MY_KEY"}})
    assert route.upstream == SOUND["upstream"]
    assert route.env_vars == ("MY_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY")
    assert route.base_url_vars == ("GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL")


def test_custom_route_with_env_var_sets_only_that() -> None:
    (route,) = select_routes(["example"], custom(env_var="MY_KEY"))
    assert route.env_vars == ("MY_KEY",)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"upstream": "api.example.com"}, "is not a URL"),
        ({"upstream": "ftp://api.example.com"}, "is not a URL"),
        ({"upstream": "http://api.example.com"}, "clear text"),
        ({"upstream": "http://127.evil.example"}, "clear text"),
        ({"upstream": "https://user:pw@api.example.com"}, "plain ASCII URL"),
        ({"upstream": "https://api.example.com?x=1"}, "plain ASCII URL"),
        ({"upstream": "https://api.example.com/a/../b"}, "'.' or '..'"),
        ({"upstream": "https://api.example.com:0"}, "host and port"),
        ({"upstream": "https://api.example.com:99999"}, "host and port"),
        ({"upstream": "https://[::1"}, "host and port"),
        ({"upstream": "https://ex\tample.com"}, "plain ASCII URL"),
        ({"credential_key": ""}, "credential_key is missing"),
        ({"inject_mode": "cookie"}, "inject_mode 'cookie' is not one of"),
        ({"inject_header": "X Key"}, "is not a header name"),
        ({"inject_header": "Host"}, "belongs to HTTP itself"),
        ({"credential_format": "Bearer"}, "must hold {} once"),
        ({"credential_format": "{} {}"}, "must hold {} once"),
        ({"credential_format": "Bearer {}\r\nX: y"}, "must hold {} once"),
        ({"inject_mode": "url_path"}, "path_pattern must hold {}"),
        ({"inject_mode": "url_path", "path_pattern": "bot{}/"}, "path_pattern must begin with '/'"),
        ({"inject_mode": "url_path", "path_pattern": "/{}k"}, "nothing behind {}"),
        ({"inject_mode": "url_path", "path_pattern": "/../{}"}, "must not have '.' or '..'"),
        ({"inject_mode": "url_path", "path_pattern": "/%2e%2e/{}"}, "without escapes"),
        ({"proxy": {"inject_mode": "url_path", "path_pattern": "k{}k"}}, "path_pattern must begin with '/'"),
        ({"inject_mode": "url_path", "path_pattern": "/{}", "path_replacement": "{}"}, "path_replacement must begin"),
        ({"inject_mode": "query_param"}, "query_param_name must name"),
        ({"env_var": "MY-KEY"}, "is not the name of an environment variable"),
        ({"tls_client_cert": "/a"}, "go together"),
        ({"endpoint_rules": [{"method": "GET", "path": "v1"}]}, "must be a list like"),
        ({"endpoint_rules": [{"method": "", "path": "/v1"}]}, "is no method"),
        ({"endpoint_rules": [{"method": "GET ", "path": "/v1"}]}, "is no method"),
        ({"endpoint_rules": [{"method": "GET", "path": "/v1?x"}]}, "without query"),
        ({"endpoint_rules": [{"method": "GET", "path": "/v1/../x"}]}, "'..'"),
        ({"proxy": {"inject_mode": "cookie"}}, "inject_mode 'cookie'"),
    ],
)
def test_refuses_a_custom_route(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(PolicyError) as error:
        select_routes(["example"], custom(**fields))
    assert sentence in str(error.value)
    assert "example" in str(error.value)


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "A", "ü", ".."])
def test_refuses_a_route_name_that_is_no_path_segment(name: str) -> None:
    with pytest.raises(PolicyError, match="must be made of"):
        select_routes([], {name: SOUND})


@pytest.mark.parametrize(
    "upstream",
    ["http://127.0.0.1:8080", "http://localhost:1/v1", "http://[::1]:80", "https://localhost", "https://a-b.c/d/e"],
)
def test_accepts_an_upstream(upstream: str) -> None:
    check_upstream(upstream, AssertionError)


def test_only_github_and_gitlab_intercept_and_a_custom_route_that_says_so() -> None:
    assert [name for name, route in builtin_routes().items() if route.intercept] == ["github", "gitlab"]
    assert [select_routes(["example"], custom(intercept=value))[0].intercept for value in (True, False)] == [
        True,
        False,
    ]


def test_groups_and_profiles_of_the_design() -> None:
    assert list(GROUPS) == [
        "llm_apis", "package_registries", "github", "gitlab", "sigstore", "documentation", "google_cloud", "azure",
        "aws_bedrock",
    ]  # fmt: skip
    assert list(NETWORK_PROFILES) == ["minimal", "developer", "claude-code", "codex", "opencode", "enterprise"]
    assert NETWORK_PROFILES["minimal"] == ("llm_apis",)
    assert set(NETWORK_PROFILES["enterprise"]) == set(GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_made_of_whole_hosts_of_https(group: str) -> None:
    hosts = GROUPS[group]
    assert len(set(hosts)) == len(hosts)
    assert not METADATA_HOSTS.intersection(hosts)
    for text in hosts:
        entry = parse_entry(text)
        assert (entry.port, entry.rule) == (0, None)
        assert text == ("*." if entry.is_suffix else "") + entry.name, "as it is compared"
        assert entry.name.count(".") >= 1


def test_no_host_of_a_package_registry_is_in_any_group() -> None:
    """What serves packages is computed. Such a host has one of these labels, or is a bucket in a cloud's storage."""
    assert GROUPS[REGISTRIES] == ()
    labels = {"registry", "packages", "pkg", "index", "mirror", "artifacts", "artifact", "storage", "files", "static"}
    for host in {host for hosts in GROUPS.values() for host in hosts}:
        assert labels.isdisjoint(host.split(".")), host
    everything = Allowlist([], [], [host for hosts in GROUPS.values() for host in hosts])
    for service in ("storage.googleapis.com", "a.storage.googleapis.com", "s3.us-east-1.amazonaws.com"):
        with pytest.raises(Refusal):
            everything(service, 443, tunnel=True)


def test_a_profile_is_the_hosts_of_its_groups() -> None:
    assert profile_hosts("minimal") == (GROUPS["llm_apis"], False)
    hosts, registries = profile_hosts("claude-code")
    assert registries
    assert {"api.anthropic.com", "github.com", "api.github.com", "docs.python.org"} <= set(hosts)


@pytest.mark.parametrize(
    ("slip", "meant"),
    [("claud-code", "claude-code"), ("CODEX", "codex"), ("devloper", "developer"), ("opencod", "opencode")],
)
def test_an_unknown_profile_is_refused_with_the_nearest(slip: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"unknown network profile '{slip}'. Did you mean '{meant}'\\?"):
        profile_hosts(slip)


def test_what_is_near_nothing_gets_the_list_only() -> None:
    for word in ("", "zzzzzz", "x" * 100_000):
        assert nearest(word, NETWORK_PROFILES) == ""
    assert nearest("a", []) == ""
    with pytest.raises(UsageError, match=r"unknown network profile 'zzz'\. Known ones: minimal, developer"):
        profile_hosts("zzz")


def test_endpoints_of_flags_are_added_to_their_route() -> None:
    routes = select_routes(["github", "openai"], {})
    github, openai = add_endpoints(routes, ["github:get:/repos/**", "github:*:/user", "github:GET:/repos/**"])
    assert github.endpoint_rules == (EndpointRule("GET", "/repos/**"), EndpointRule("*", "/user"))
    assert openai.endpoint_rules == ()
    (route,) = add_endpoints(
        select_routes(["example"], custom(endpoint_rules=[{"method": "POST", "path": "/a"}])), ["example:GET:/b:c"]
    )
    assert route.endpoint_rules == (EndpointRule("POST", "/a"), EndpointRule("GET", "/b:c"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "NAME:METHOD:/glob"),
        ("github", "NAME:METHOD:/glob"),
        ("github:/repos", "NAME:METHOD:/glob"),
        ("gitlab:GET:/x", "add --credential gitlab"),
        ("github::/x", "is no method"),
        ("github:GET:", "must begin with '/'"),
        ("github:GET:repos", "must begin with '/'"),
        ("github:GET:/a/../b", "'..'"),
        ("github:GET:/a?b", "without query"),
        ("github:GET,POST:/a", "is no method"),
        ("github:ＧＥＴ:/a", "is no method"),
    ],
)
def test_refuses_an_endpoint(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        add_endpoints(select_routes(["github"], {}), [text])
    assert sentence in str(error.value)
