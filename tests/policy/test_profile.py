"""A profile file: JSON with comments in, a checked profile out, mistakes named with file and place."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import PolicyError
from nono.policy import data
from nono.policy.inherit import of_text
from nono.policy.jsonc import MOST_CHARACTERS, without_comments
from nono.policy.profile import PATCH, SHAPE, Profile, parse, schema
from nono.policy.shape import Each, Map, Maybe, Shape

WHOLE = """{
  // who
  "meta": {"name": "demo", "description": "http://not-a-comment /* nor this */"},
  "filesystem": {"allow": ["$WORKDIR"], "read": ["~/notes",],},  /* trailing commas */
  "network": {
    "credentials": ["mine"],
    "custom_credentials": {
      "mine": {"upstream": "https://localhost:1/v1", "credential_key": "file:///k", "inject_header": "X-Key",
               "endpoint_rules": [{"method": "POST", "path": "/v1/**"}], "proxy": {"inject_header": "X-Token"}}
    }
  },
  "workdir": {"access": "readwrite"}
}"""


def mistake(text: str) -> str:
    with pytest.raises(PolicyError) as error:
        parse(text, "my.json")
    said = str(error.value)
    assert said.startswith("profile my.json: ")
    assert "\n" not in said
    return said.removeprefix("profile my.json: ")


def test_reads_jsonc() -> None:
    profile = of_text(WHOLE, "x.json").profile
    assert profile.meta.description == "http://not-a-comment /* nor this */"
    assert profile.filesystem.read == ("~/notes",)
    assert profile.workdir.access == "readwrite"


def test_custom_routes_carry_what_was_written_and_what_its_omission_means() -> None:
    fields = of_text(WHOLE, "x.json").profile.custom_routes()["mine"]
    assert fields["credential_format"] == "{}"  # of a header that is not Authorization
    assert fields["proxy"] == {"inject_header": "X-Token", "credential_format": "{}"}
    assert "tls_ca" not in fields
    assert "intercept" not in fields
    assert list(fields["endpoint_rules"]) == [{"method": "POST", "path": "/v1/**"}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1, column 1: expecting value"),
        ("[]", "the top level: found an empty list, expected an object"),
        ('{"meta": {}} x', "line 1, column 14: extra data"),
        ('{\n "meta": {\n', "line 3, column 1: expecting property name"),
        ("/* no end", "line 1, column 1: this comment has no end"),
        ('{"network": {"open_port": [NaN]}}', "NaN is not JSON"),
        ('{"netwrok": {}}', "netwrok is not a known key; did you mean network?"),
        ('{"network": {"allow_domian": []}}', "network.allow_domian is not a known key; did you mean allow_domain?"),
        ('{"allow_domain": []}', "did you mean network.allow_domain?"),
        ('{"environment": {"zzzz": []}}', "environment.zzzz is not a known key; known here are allow_vars"),
        ('{"network": {"credentials": "openai"}}', 'network.credentials: found "openai", expected a list of strings'),
        ('{"network": {"block": "yes"}}', 'network.block: found "yes", expected true or false'),
        ('{"network": {"block": null}}', "network.block: found null, expected true or false"),
        ('{"network": {"custom_credentials": {"x": {"upstream": "https://x"}}}}', "credentials.x: credential_key"),
        ('{"filesystem": {"allow": ["a", "b", 7]}}', "filesystem.allow[2]: found 7, expected a path (string)"),
        ('{"filesystem": {"allow": [""]}}', "filesystem.allow[0]: found an empty string, expected a path"),
        ('{"filesystem": []}', "filesystem: found an empty list, expected an object"),
        ('{"network": {"open_port": [0]}}', "network.open_port[0]: found 0, expected a port (1 to 65535)"),
        ('{"network": {"listen_port": [65536]}}', "network.listen_port[0]"),
        ('{"network": {"open_port": [true]}}', "network.open_port[0]: found true"),
        ('{"network": {"open_port": [8.0]}}', "network.open_port[0]: found 8.0"),
        ('{"network": {"tls_intercept": "yes"}}', "network.tls_intercept"),
        ('{"network": {"network_profile": "developr"}}', "did you mean developer?"),
        ('{"environment": {"set_vars": {"A": 1}}}', "environment.set_vars.A: found 1, expected a string"),
        ('{"env_credentials": ["openai"]}', "env_credentials: found a list"),
        ('{"workdir": {"access": "readwrit"}}', "none, read, write, readwrite; did you mean readwrite?"),
        ('{"security": {"signal_mode": "isolatd"}}', "did you mean isolated?"),
        ('{"extends": []}', "extends: found an empty list"),
        ('{"extends": [1]}', "extends[0]: found 1, expected the name of a profile"),
        ('{"filesystem": {"deny": ["/a"], "deny": []}}', "filesystem.deny stands twice"),
        ('{"network": {}, "network": {}}', "network stands twice"),
        ('{"interactive": {"a": 1, "a": 2}, "meta": 1}', "meta"),
        ('{"network": {"proxy_allow": [], "allow_domain": []}}', "allow_domain says the same as proxy_allow"),
        ('{"filesystem": {"read": [{"path": "a", "wen": "linux"}]}}', "read[0].wen is not a known key"),
        ('{"filesystem": {"read": [{"when": "linux"}]}}', "filesystem.read[0]: path is missing"),
        ('{"filesystem": {"read": [{"path": "a", "when": "lniux"}]}}', "read[0].when: lniux is no condition: did"),
        ('{"filesystem": {"read": [{"path": "a", "when": []}]}}', "read[0].when: found an empty list"),
        ('{"filesystem": {"read": ["$HOEM/a"]}}', "$HOEM is not expanded; did you mean $HOME?"),
        ('{"filesystem": {"read": ["~root/a"]}}', "another user's home"),
        ('{"filesystem": {"read": ["/a/**"]}}', "nono expands no *"),
        ('{"filesystem": {"read": ["a\\u0000b"]}}', "filesystem.read[0]: holds a NUL byte"),
        ('{"meta": {"name": "\\ud800"}}', "meta.name: holds half of a surrogate pair"),
        ('{"platform_overrides": {"linux": {"extends": "x"}}}', "platform_overrides.linux.extends is not a known key"),
        ('{"platform_overrides": {"mac": {}}}', "platform_overrides.mac is not a known key; did you mean macos?"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"hooks":' * 10_000, "is nested too deeply"),
        ('{"network": {"open_port": [' + "9" * 5000 + "]}}", "holds a number that is too long"),
        ('{"network": {"open_port": [' + "9" * 500 + "]}}", "found a long number"),
        (" " * (MOST_CHARACTERS + 1), "is longer than 1 MiB"),
        ('{"network": {"allow_domain": [{"domain": "a.b", "endpoints": [{"method": "GET", "path": "/x"}]}]}}', "GET"),
    ],
)  # fmt: skip
def test_names_the_place_of_a_mistake(text: str, sentence: str) -> None:
    assert sentence in mistake(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"security": {"signal_mode": "allow_all"}}', 'signal_mode: "allow_all" is refused: nono never'),
        ('{"linux": {"af_unix_mediation": "off"}}', "is refused"),
        ('{"network": {"tls_intercept": {"ca_lifecycle": "trusted"}}}', "is refused"),
        ('{"network": {"connect_port": [22]}}', "network.connect_port is refused: nono opens no port to any host"),
        ('{"session_hooks": {"before": {"script": "/x"}}}', "session_hooks is refused"),
        ('{"packs": ["a/b"]}', "packs is refused"),
        (
            '{"network": {"custom_credentials": {"x": {"upstream": "https://x", "aws_auth": {"region": "x"}}}}}',
            "network.custom_credentials.x.aws_auth is refused",
        ),
    ],
)
def test_what_is_known_elsewhere_is_refused_by_name_with_the_reason(text: str, sentence: str) -> None:
    assert sentence in mistake(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"interactive": true, "commands": {"deny": ["rm"]}, "diagnostics": {"suppress_system_services": ["x"]}}',
        '{"hooks": {}, "packs": [], "session_hooks": null, "open_urls": {"allow_origins": [], "x": false}}',
        '{"allow_gpu": true, "allow_launch_services": null, "skipdirs": []}',
        '{"security": {"signal_mode": null, "wsl2_proxy_policy": "error", "capability_elevation": false}}',
        '{"network": {"tls_intercept": {"ca_lifecycle": "session", "ca_validity": "24h"}, "allow_http2": true}}',
        '{"environment": null, "extends": null, "platform_overrides": null, "linux": {}}',
    ],
)
def test_what_changes_nothing_is_no_mistake(text: str) -> None:
    assert of_text(text).profile == Profile()


def test_what_has_no_effect_can_be_told() -> None:
    text = """{"interactive": true, "hooks": {},
               "network": {"allow_http2": true, "tls_intercept": {"ca_validity": "1d"}},
               "platform_overrides": {"linux": {"commands": {"deny": ["rm"]}}}}"""
    assert parse(text, "p")
    said = SHAPE.without_effect(json.loads(text))
    assert [place for place, _ in said] == [
        "interactive", "network.allow_http2", "network.tls_intercept.ca_validity", "platform_overrides.linux.commands",
    ]  # fmt: skip
    assert all(reason for _, reason in said)


def test_a_key_that_strayed_into_a_profile_is_not_repeated() -> None:
    key = "sk-ant-api03-" + "a1B2" * 12
    for text in (f'{{"{key}": 1}}', f'{{"network": "{key}"}}', f'{{"workdir": {{"access": "{key}"}}}}'):
        assert key not in mistake(text)


@pytest.mark.parametrize("piece", ["/*", '"\\"', '"', "//", ",", ",  ", "\\", "/*/"])
def test_time_is_linear_in_the_text(piece: str) -> None:
    start = time.process_time()
    mistake(piece * (1_000_000 // len(piece)))
    mistake('{"a": "' + piece * (1_000_000 // len(piece)))
    assert time.process_time() - start < 5


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_json_without_comments_is_left_as_it_is(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        assert without_comments(text) == text


def test_an_empty_list_of_allowed_variables_is_not_none() -> None:
    assert of_text("{}").profile.environment.allow_vars is None
    assert of_text('{"environment": {"allow_vars": []}}').profile.environment.allow_vars == ()


def test_other_names_of_keys_mean_the_same() -> None:
    old = """{"network": {"proxy_allow": ["a.example"], "proxy_credentials": ["openai"], "port_allow": [1],
              "external_proxy": "p:1", "external_proxy_bypass": ["b.example"]},
              "secrets": {"k": "K"}, "undo": {"exclude_globs": ["*.tmp"]}, "filesystem": {"ignore": ["/x"]}}"""
    new = """{"network": {"allow_domain": ["a.example"], "credentials": ["openai"], "open_port": [1],
              "upstream_proxy": "p:1", "upstream_bypass": ["b.example"]},
              "env_credentials": {"k": "K"}, "rollback": {"exclude_globs": ["*.tmp"]},
              "filesystem": {"suppress_save_prompt": ["/x"]}}"""
    assert of_text(old).profile == of_text(new).profile


def test_paths_of_one_host_become_urls() -> None:
    text = """{"network": {"allow_domain": ["a.example", {"domain": "b.example", "endpoints": [
               {"method": "*", "path": "/x/**"}, {"method": "*", "path": "/y"}]},
               {"domain": "c.example", "endpoints": []}]}}"""
    assert of_text(text).profile.network.allow_domain == (
        "a.example", "https://b.example/x/**", "https://b.example/y", "c.example",
    )  # fmt: skip


def test_the_shape_and_the_profile_have_the_same_keys() -> None:
    profile = Profile()
    for name, member in PATCH.members.items():
        if name == "$schema":
            continue
        kind = member.kind.kind if isinstance(member.kind, Maybe) else member.kind
        part = getattr(profile, name)
        if isinstance(kind, Shape):
            assert set(kind.members) == set(part._fields) - {"restricted"}
        else:
            assert isinstance(kind, Map | Each)


def test_every_key_that_is_refused_or_without_effect_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text(encoding="utf-8")
    keys = data.read("profile-keys.json")
    for key in (*keys["refused"], *keys["without_effect"]):
        assert f"`{key.replace('=', ': ')}`" in text, key


def test_every_key_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text(encoding="utf-8")
    for name, member in SHAPE.members.items():
        assert f"`{name}" in text, name
        kind = member.kind.kind if isinstance(member.kind, Maybe) else member.kind
        for key in kind.names if isinstance(kind, Shape) else ():
            assert f"`{key}" in text or f"{name}.{key}" in text, f"{name}.{key}"


def test_the_schema_knows_every_key_and_is_plain_json() -> None:
    described = json.loads(json.dumps(schema()))
    assert set(described["properties"]) == set(SHAPE.names)
    assert set(described["properties"]["network"]["properties"]) >= {"allow_domain", "proxy_allow"}
    assert described["properties"]["filesystem"]["additionalProperties"] is False
