"""Which real keys the agent is to hold, and in which variables."""

from __future__ import annotations

from typing import Any

import pytest

from nono.errors import NonoError, PolicyError, UsageError
from nono.policy.inherit import of_text
from nono.policy.resolve import Place, Request, resolve

PLACE = Place("/home/u", "/home/u/app", "/tmp", "/home/u/.config", "/home/u/.local/state", "/run/user/1")
PROFILE = """{
  "network": {"custom_credentials": {"my-llm": {"upstream": "https://x.example", "credential_key": "file:///k"}}},
  "env_credentials": {"keyring://a/b": "FROM_RING"}
}"""


def pairs(profile: str = "", **fields: Any) -> tuple[tuple[str, str], ...]:
    request = Request(**fields)
    return resolve(request, of_text(profile, "p") if profile else None, PLACE).env_credentials


def test_a_name_brings_its_variable() -> None:
    assert pairs(env_credential=("openai", "gemini", "my-key.1", "openai")) == (
        ("openai_api_key", "OPENAI_API_KEY"),
        ("gemini_api_key", "GEMINI_API_KEY"),
        ("my-key.1", "MY_KEY_1"),
    )


def test_a_profile_names_them_too_and_a_flag_uses_its_custom_credentials() -> None:
    assert pairs(PROFILE, env_credential=("my-llm",), env_credential_map=(("env://A", "B"),)) == (
        ("file:///k", "MY_LLM_API_KEY"),
        ("keyring://a/b", "FROM_RING"),
        ("env://A", "B"),
    )


SECRET = "sk-ant-3f9Lw8RkQz7TnYb5"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"env_credential": ("openai",), "credential": ("openai",)}, "OPENAI_API_KEY holds the token .*leave one"),
        ({"env_credential_map": (("x", "GOOGLE_API_KEY"),), "credential": ("gemini",)}, "GOOGLE_API_KEY holds the"),
        ({"env_credential": ("",)}, "takes names"),
        ({"env_credential": (f"file:///{SECRET}",)}, "--env-credential-map REF VAR"),
        ({"env_credential_map": ((SECRET, "A=B"),)}, "VAR is the name of"),
        ({"env_credential_map": (("x", SECRET + "\n"),)}, "VAR is the name of"),
        ({"env_credential_map": (("x", ""),)}, "VAR is the name of"),
        ({"env_credential_map": (("x", "A"), ("y", "A"))}, "two keys are to stand in A"),
        ({"env_credential_map": (("x", "PATH"),)}, "something else to programs"),
        ({"env_credential_map": (("x", "LD_PRELOAD"),)}, "something else to programs"),
        ({"env_credential_map": (("x", "TMPDIR"),)}, "set by nono itself"),
        ({"env_credential_map": (("x", "HTTPS_PROXY"),), "credential": ("openai",)}, "set by nono itself"),
    ],
)
def test_refuses_what_cannot_be(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as raised:
        resolve(Request(**fields), None, PLACE)
    assert SECRET not in str(raised.value)


def test_a_variable_is_not_set_twice() -> None:
    with pytest.raises(PolicyError, match="set_vars: A "):
        pairs('{"environment": {"set_vars": {"A": "x"}}, "env_credentials": {"x": "A"}}')


def test_two_routes_and_none_in_the_environment() -> None:
    assert pairs(credential=("openai",), env_credential=("anthropic",)) == (("anthropic_api_key", "ANTHROPIC_API_KEY"),)
    assert pairs() == ()
    with pytest.raises(NonoError):
        pairs('{"env_credentials": {"x": "OPENAI_API_KEY"}}', credential=("openai",))
