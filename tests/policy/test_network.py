"""The routes of one run: built-in, custom, and what is refused."""

from __future__ import annotations

import pytest

from nono.errors import PolicyError, UsageError
from nono.policy.network import builtin_routes, check_upstream, select_routes

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
        ({"proxy": {"inject_mode": "url_path", "path_pattern": "k{}k"}}, "path_pattern must begin with '/'"),
        ({"inject_mode": "url_path", "path_pattern": "/{}", "path_replacement": "{}"}, "path_replacement must begin"),
        ({"inject_mode": "query_param"}, "query_param_name must name"),
        ({"env_var": "MY-KEY"}, "is not the name of an environment variable"),
        ({"tls_client_cert": "/a"}, "go together"),
        ({"endpoint_rules": [{"method": "GET", "path": "v1"}]}, "must be a list like"),
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
