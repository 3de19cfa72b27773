"""The child's variables: withheld, added, passed on."""

from __future__ import annotations

import pytest

from nono.policy.capabilities import NETWORK_BLOCKED, NETWORK_OPEN, NETWORK_PROXY, READ, WRITE, PathGrant
from nono.policy.environment import CA_VARIABLES, child_environment
from nono.policy.network import select_routes

TOKEN = "ab" * 32
USER = {
    "PATH": "/bin",
    "OPENAI_API_KEY": "sk-real",
    "ANTHROPIC_AUTH_TOKEN": "real",
    "GEMINI_API_KEY": "real",
    "SSH_AUTH_SOCK": "/run/agent",
    "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1/bus",
    "HTTPS_PROXY": "http://corporate:8080",
}


def test_routes_put_the_token_in_the_place_of_the_keys() -> None:
    routes = select_routes(["openai"], {})
    child = child_environment(USER, network=NETWORK_PROXY, routes=routes, proxy_port=61000, token=TOKEN)
    assert child.variables["OPENAI_API_KEY"] == TOKEN
    assert child.variables["OPENAI_BASE_URL"] == "http://127.0.0.1:61000/openai"
    assert child.variables["https_proxy"] == f"http://nono:{TOKEN}@127.0.0.1:61000"
    assert child.variables["NODE_USE_ENV_PROXY"] == "1"
    assert child.variables["NONO_PROXY_TOKEN"] == TOKEN
    assert "127.0.0.1" in child.variables["NO_PROXY"]
    assert child.variables["PATH"] == "/bin"
    assert "real" not in " ".join(child.variables.values())


def test_says_what_it_withheld_and_only_what_was_there() -> None:
    routes = select_routes(["openai"], {})
    child = child_environment(USER, network=NETWORK_PROXY, routes=routes, proxy_port=61000, token=TOKEN)
    assert child.withheld == ("ANTHROPIC_AUTH_TOKEN", "DBUS_SESSION_BUS_ADDRESS", "GEMINI_API_KEY", "SSH_AUTH_SOCK")


def test_open_network_keeps_the_users_own_keys_but_no_agent_sockets() -> None:
    child = child_environment(USER, network=NETWORK_OPEN)
    assert child.variables["OPENAI_API_KEY"] == "sk-real"
    assert child.variables["HTTPS_PROXY"] == "http://corporate:8080"
    assert child.withheld == ("DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK")


def test_blocked_network_withholds_keys_and_proxies() -> None:
    child = child_environment(USER, network=NETWORK_BLOCKED)
    assert "ANTHROPIC_AUTH_TOKEN" not in child.variables
    assert "HTTPS_PROXY" not in child.variables
    assert "NONO_PROXY_TOKEN" not in child.variables


def test_variables_found_to_hold_a_key_are_withheld_in_every_mode() -> None:
    child = child_environment({"MINE": "sk-x"}, network=NETWORK_OPEN, secret_variables=["MINE"])
    assert child.variables == {}
    assert child.withheld == ("MINE",)


def test_temporary_directory_replaces_the_users() -> None:
    child = child_environment({"TMPDIR": "/tmp"}, network=NETWORK_OPEN, temporary_directory="/tmp/nono-1")
    assert {child.variables[name] for name in ("TMPDIR", "TMP", "TEMP")} == {"/tmp/nono-1"}


def caches(inherited: dict[str, str], *grants: PathGrant) -> set[str]:
    child = child_environment(
        inherited, network=NETWORK_BLOCKED, temporary_directory="/tmp/run", home="/home/me", grants=grants
    )
    moved = {name for name, value in child.variables.items() if value.startswith("/tmp/run/")}
    assert all(child.variables[name] == value for name, value in inherited.items())
    return moved


def test_caches_that_the_agent_cannot_write_are_moved() -> None:
    assert caches({}) == {"npm_config_cache", "XDG_CACHE_HOME", "GOMODCACHE"}
    assert caches({"NPM_CONFIG_CACHE": "/x", "GOPATH": "/go"}) == {"XDG_CACHE_HOME"}
    assert caches({}, PathGrant("/", READ, False, "--read")) == caches({})
    assert caches({}, PathGrant("/home/me", READ | WRITE, False, "--allow")) == set()
    assert caches({}, PathGrant("/home/me/.npm", READ | WRITE, False, "--allow")) == {"XDG_CACHE_HOME", "GOMODCACHE"}
    assert caches({}, PathGrant("/home/me/.cache/models", READ, False, "--read")) == {"npm_config_cache", "GOMODCACHE"}
    assert caches({}, PathGrant("/home/me/.npmrc", READ, True, "--read-file")) == caches({})


def test_a_bundle_is_named_in_every_variable_and_only_through_the_proxy() -> None:
    inherited = {"SSL_CERT_FILE": "/mine.pem"}
    child = child_environment(inherited, network=NETWORK_PROXY, proxy_port=1, ca_bundle="/tmp/run/ca.pem")
    assert {child.variables[name] for name in CA_VARIABLES} == {"/tmp/run/ca.pem"}
    for network, bundle in ((NETWORK_OPEN, "/tmp/run/ca.pem"), (NETWORK_PROXY, "")):
        child = child_environment(inherited, network=network, proxy_port=1, ca_bundle=bundle)
        assert {name: child.variables.get(name) for name in CA_VARIABLES if name in child.variables} == inherited


def test_hosts_beside_loopback_that_are_not_asked_of_the_proxy() -> None:
    child = child_environment({"NO_PROXY": "old"}, network=NETWORK_PROXY, no_proxy=["a.example", ".b.example"])
    assert child.variables["NO_PROXY"] == child.variables["no_proxy"] == "localhost,127.0.0.1,::1,a.example,.b.example"


@pytest.mark.parametrize(
    ("given", "handed"),
    [
        ("https://u:pw@packages.corp.example/simple", "https://packages.corp.example/simple"),
        ("https://pw@a.example http://u:p@b.example/x@y", "https://a.example http://b.example/x@y"),
        ("https://u:pw@a.example,https://u:pw@b.example|direct", "https://a.example,https://b.example|direct"),
        ("https://a.example/@scope", "https://a.example/@scope"),
    ],
)
def test_where_packages_come_from_is_told_without_the_password(given: str, handed: str) -> None:
    inherited = {"PIP_INDEX_URL": given}
    assert child_environment(inherited, network=NETWORK_PROXY, token="t").variables["PIP_INDEX_URL"] == handed
    assert child_environment(inherited, network=NETWORK_OPEN).variables == inherited


@pytest.mark.parametrize(
    "name",
    ["CARGO_REGISTRIES_CORP_TOKEN", "npm_config__auth", "npm_config_//r.example/:_authToken", "UV_INDEX_CORP_PASSWORD",
     "POETRY_PYPI_TOKEN_CORP", "NPM_TOKEN"],
)  # fmt: skip
def test_tokens_of_registries_are_withheld(name: str) -> None:
    handed = child_environment({name: "secret"}, network=NETWORK_PROXY, token="t")
    assert "secret" not in handed.variables.values()
    assert handed.withheld == (name,)
