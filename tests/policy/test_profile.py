"""A profile file: JSON with comments in, a checked Profile out, mistakes named with their place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import PolicyError
from nono.policy.profile import _without_comments, parse

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


def test_reads_jsonc() -> None:
    profile = parse(WHOLE, "x.json")
    assert profile.meta.description == "http://not-a-comment /* nor this */"
    assert profile.filesystem.read == ("~/notes",)
    assert profile.workdir.access == "readwrite"


def test_custom_routes_carry_only_what_was_written() -> None:
    fields = parse(WHOLE, "x.json").custom_routes()["mine"]
    assert fields["proxy"] == {"inject_header": "X-Token"}
    assert "tls_ca" not in fields
    assert "intercept" not in fields
    assert list(fields["endpoint_rules"]) == [{"method": "POST", "path": "/v1/**"}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"netwrok": {}}', "netwrok"),
        ('{"network": {"credentials": "openai"}}', "network.credentials"),
        ('{"network": {"block": "yes"}}', "network.block"),
        ('{"network": {"custom_credentials": {"x": {"upstream": "https://x"}}}}', "credential_key"),
        ('{"filesystem": {"allow": [1]}}', "filesystem.allow[0]"),
        ('{"meta": {}} x', "malformed"),
        ('{"network": {"open_port": [0]}}', "network.open_port[0]"),
        ('{"network": {"listen_port": [65536]}}', "network.listen_port[0]"),
        ('{"network": {"open_port": ["80"]}}', "network.open_port[0]"),
        ('{"network": {"tls_intercept": "yes"}}', "network.tls_intercept"),
        ('{"network": {"upstream_bypass": "x"}}', "network.upstream_bypass"),
        ('{"filesystem": {"deny": "x"}}', "filesystem.deny"),
        ('{"filesystem": {"unix_socket": [1]}}', "filesystem.unix_socket[0]"),
        ('{"environment": {"allow": []}}', "allow"),
        ('{"environment": {"set_vars": {"A": 1}}}', "environment.set_vars"),
        ('{"env_credentials": ["openai"]}', "env_credentials"),
    ],
)
def test_names_the_place_of_a_mistake(text: str, sentence: str) -> None:
    with pytest.raises(PolicyError) as error:
        parse(text, "my.json")
    assert str(error.value).startswith("profile my.json: ")
    assert sentence in str(error.value)


def test_refuses_what_is_not_utf8() -> None:
    with pytest.raises(PolicyError, match="not valid UTF-8"):
        parse('{"meta": {"name": "\ud800"}}', "my.json")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_json_without_comments_is_left_as_it_is(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        assert _without_comments(text) == text


def test_an_empty_list_of_allowed_variables_is_not_none() -> None:
    assert parse("{}", "p").environment.allow_vars is None
    assert parse('{"environment": {"allow_vars": []}}', "p").environment.allow_vars == ()
