"""The child's variables: withheld, added, passed on."""

from __future__ import annotations

import pytest

from nono.errors import PolicyError
from nono.policy.capabilities import (
    NETWORK_BLOCKED,
    NETWORK_OPEN,
    NETWORK_PROXY,
    READ,
    WRITE,
    EnvironmentRules,
    PathGrant,
)
from nono.policy.environment import CA_VARIABLES, check_rules, child_environment, own_variables
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


NETWORKS = (NETWORK_OPEN, NETWORK_PROXY, NETWORK_BLOCKED)
HOOKS = {
    "LD_PRELOAD": "/x.so", "LD_LIBRARY_PATH": "/x", "LD_AUDIT": "/x.so", "DYLD_INSERT_LIBRARIES": "/x",
    "GCONV_PATH": "/x",
    "PYTHONSTARTUP": "/x.py", "NODE_OPTIONS": "--require /x.js", "PERL5OPT": "-Mx", "RUBYOPT": "-rx", "BASH_ENV": "/x",
    "ENV": "/x", "PROMPT_COMMAND": "x", "IFS": "/", "SHELLOPTS": "xtrace", "BASH_FUNC_ls%%": "() { x; }",
    "old": "() { x; }",
    "JAVA_TOOL_OPTIONS": "-javaagent:/x", "_JAVA_OPTIONS": "x", "JDK_JAVA_OPTIONS": "x",
    "DOTNET_STARTUP_HOOKS": "/x.dll",
    "GIT_SSH_COMMAND": "x", "GIT_ASKPASS": "/x", "OPENSSL_CONF": "/x",
}  # fmt: skip
SESSIONS = {"OP_SESSION_my": "s", "OP_SERVICE_ACCOUNT_TOKEN": "s", "BW_SESSION": "s", "VAULT_TOKEN": "s"}
INNOCENT = {
    "PYTHONPATH": "src", "PERL5LIB": "lib", "NODE_PATH": "/x", "CLASSPATH": "x", "GOFLAGS": "-mod=vendor",
    "EDITOR": "vi",
    "PYTHONUNBUFFERED": "1", "ENVIRONMENT": "dev", "OPTIONS": "x", "OLD": "x", "MAVEN_OPTS": "-Xmx2g",
    "LESSOPEN": "| x",
    "SK": "sk-SK", "HF_HOME": "hf_cache", "PROJECT": "sk-learn-models-for-everybody", "KEYS": "AKIA", "IMAGE": "npm_x",
    "GITHUB_REPOSITORY": "a/b", "GITHUB_SHA": "4f1" * 13, "CI": "true",
}  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
def test_what_makes_programs_run_other_code_is_withheld_in_every_network_mode(network: str) -> None:
    child = child_environment({**HOOKS, **SESSIONS, **INNOCENT}, network=network, routes=select_routes(["github"], {}))
    assert child.withheld == tuple(sorted({**HOOKS, **SESSIONS}))
    assert child.variables.items() >= INNOCENT.items()
    assert child.exposed == ()


KEYS = {
    "A": "sk-ant-api03-" + "x1" * 20, "B": "sk-proj-" + "Ab3_" * 10, "C": "AIza" + "a1" * 18, "D": "ghp_" + "a1" * 18,
    "E": "github_pat_" + "a1" * 30, "F": "glpat-" + "a1" * 10, "G": "xoxb-123456789012-abcdefgh",
    "H": "AKIA" + "A1" * 8,
    "I": "hf_" + "a1" * 17, "J": "-----BEGIN OPENSSH PRIVATE KEY-----\nx",
    "GITHUB_ENTERPRISE_TOKEN": "short", "GITHUB_CLIENT_SECRET": "short", "GITHUB_PAT": "short", "GROQ_API_KEY": "short",
}  # fmt: skip


def test_what_looks_like_a_key_is_withheld_where_routes_provide_a_token() -> None:
    routes = select_routes(["github"], {})
    child = child_environment({**KEYS, **INNOCENT}, network=NETWORK_PROXY, routes=routes, token=TOKEN)
    assert child.withheld == tuple(sorted(KEYS))
    assert child.variables.items() >= INNOCENT.items()
    assert child_environment(KEYS, network=NETWORK_OPEN, routes=()).variables == KEYS


def test_the_profile_allows_by_name() -> None:
    inherited = {
        **HOOKS,
        **INNOCENT,
        "PATH": "/bin",
        "LC_ALL": "C",
        "TERM": "x",
        "AWS_REGION": "x",
        "OPENAI_API_KEY": "k",
    }
    child = child_environment(
        inherited, network=NETWORK_BLOCKED, rules=EnvironmentRules(("GITHUB_*", "CI", "NODE_*", "OPENAI_*"))
    )
    assert child.variables.keys() == {"PATH", "LC_ALL", "TERM", "GITHUB_REPOSITORY", "GITHUB_SHA", "CI", "NODE_PATH"}
    assert set(child.withheld) == inherited.keys() - child.variables.keys()
    assert child_environment(inherited, network=NETWORK_BLOCKED, rules=EnvironmentRules(())).variables.keys() == {
        "PATH", "LC_ALL", "TERM",
    }  # fmt: skip


def test_an_exact_name_lets_through_what_is_withheld_and_a_secret_is_said_to_be_exposed() -> None:
    inherited = {**HOOKS, **SESSIONS, "GROQ_API_KEY": "k", "MINE": "sk-x", "SSH_AUTH_SOCK": "/s", "X": "x"}
    rules = EnvironmentRules(("*", "NODE_OPTIONS", "GROQ_API_KEY", "BW_SESSION", "SSH_AUTH_SOCK", "MINE"))
    child = child_environment(inherited, network=NETWORK_PROXY, rules=rules, token="t", secret_variables=["MINE"])
    names = {"NODE_OPTIONS", "GROQ_API_KEY", "BW_SESSION", "SSH_AUTH_SOCK", "X"}
    assert names == inherited.keys() & child.variables.keys()
    assert child.exposed == ("BW_SESSION", "GROQ_API_KEY", "SSH_AUTH_SOCK")


def test_the_token_stands_in_the_place_of_a_key_whatever_the_profile_allows() -> None:
    routes, rules = select_routes(["openai"], {}), EnvironmentRules(("OPENAI_API_KEY", "HTTPS_PROXY"))
    child = child_environment(USER, network=NETWORK_PROXY, routes=routes, proxy_port=1, token=TOKEN, rules=rules)
    assert child.variables["OPENAI_API_KEY"] == TOKEN
    assert child.variables["HTTPS_PROXY"].startswith("http://nono:")


def test_the_profile_denies_by_name_and_denying_wins() -> None:
    inherited = {"AWS_REGION": "x", "AWS_PROFILE": "y", "TERM": "z", "A": "1"}
    rules = EnvironmentRules(("AWS_REGION", "A"), ("AWS_*", "TERM"))
    child = child_environment(inherited, network=NETWORK_OPEN, rules=rules)
    assert child.variables == {"A": "1"}
    assert child.withheld == ("AWS_PROFILE", "AWS_REGION", "TERM")


def test_the_profile_sets_variables_with_places_in_them() -> None:
    rules = EnvironmentRules(
        set_vars=(("A", "$HOME/a:$WORKDIR:$TMPDIR/$HOMEX$$"), ("NODE_OPTIONS", "--x"), ("GOPATH", "g"))
    )
    child = child_environment(
        {"A": "old"}, network=NETWORK_OPEN, rules=rules, temporary_directory="/tmp/run", home="/h", workdir="/h/w"
    )
    assert child.variables["A"] == "/h/a:/h/w:/tmp/run/$HOMEX$$"
    assert child.variables["NODE_OPTIONS"] == "--x"
    assert "GOMODCACHE" not in child.variables, "who sets GOPATH has chosen a place"


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        (EnvironmentRules(set_vars=(("HTTPS_PROXY", "x"),)), "HTTPS_PROXY is set by nono itself"),
        (EnvironmentRules(set_vars=(("OPENAI_API_KEY", "x"),)), "OPENAI_API_KEY is set by nono itself"),
        (EnvironmentRules(set_vars=(("OPENAI_BASE_URL", "x"),)), "OPENAI_BASE_URL is set by nono itself"),
        (EnvironmentRules(set_vars=(("NONO_PROXY_TOKEN", "x"),)), "NONO_PROXY_TOKEN is set by nono itself"),
        (EnvironmentRules(set_vars=(("SSL_CERT_FILE", "x"),)), "SSL_CERT_FILE is set by nono itself"),
        (EnvironmentRules(set_vars=(("TMPDIR", "x"),)), "TMPDIR is set by nono itself"),
        (EnvironmentRules(set_vars=(("A=B", "x"),)), "'A=B' is not the name"),
        (EnvironmentRules(set_vars=(("", "x"),)), "'' is not the name"),
        (EnvironmentRules(set_vars=(("A", "\0"),)), "NUL"),
        (EnvironmentRules(("A=*",)), "allow_vars: 'A=\\*'"),
        (EnvironmentRules(deny_vars=("A B",)), "deny_vars: 'A B'"),
    ],
)
def test_rules_that_cannot_be_honoured(rules: EnvironmentRules, sentence: str) -> None:
    own = own_variables(NETWORK_PROXY, select_routes(["openai"], {}), intercept=True)
    with pytest.raises(PolicyError, match=sentence):
        check_rules(rules, own)


def test_what_nono_does_not_set_can_be_set() -> None:
    rules = EnvironmentRules(
        ("*", "A_*"), ("*",), (("HTTPS_PROXY", "x"), ("SSL_CERT_FILE", "x"), ("OPENAI_API_KEY", "x"))
    )
    check_rules(rules, own_variables(NETWORK_OPEN, (), intercept=False))


def test_settings_of_package_managers_are_nonos_own() -> None:
    rules = EnvironmentRules(())
    child = child_environment(
        {"PIP_CONFIG_FILE": "/mine"}, network=NETWORK_PROXY, rules=rules, settings={"PIP_CONFIG_FILE": "/run/pip"}
    )
    assert child.variables["PIP_CONFIG_FILE"] == "/run/pip"


def test_a_variable_that_a_real_key_is_to_stand_in_is_left_to_the_caller() -> None:
    child = child_environment(
        {"GROQ_API_KEY": "old", "X": "x"}, network=NETWORK_PROXY, env_credentials=[("groq", "GROQ_API_KEY")]
    )
    assert "GROQ_API_KEY" not in child.variables
    assert child.withheld == ()


@pytest.mark.parametrize(
    "value", ["/run/agent", "unix:path=/run/agent", "unix:path=/run/agent,guid=1", "unix:///run/agent"]
)
def test_the_address_of_a_socket_that_may_be_connected_to_passes(value: str) -> None:
    for name in ("SSH_AUTH_SOCK", "DOCKER_HOST", "DBUS_SESSION_BUS_ADDRESS"):
        for socket, withheld in (("/run/agent", ()), ("/run/other", (name,))):
            child = child_environment({name: value}, network=NETWORK_BLOCKED, unix_sockets=[socket])
            assert child.withheld == withheld
