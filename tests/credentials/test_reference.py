from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.credentials.reference import ENV, FILE, KEYRING, NAME, SESSION, Reference, is_name, parse
from nono.errors import PolicyError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("openai_api_key", (NAME, "nono", "openai_api_key")),
        ("Team.key-2@work", (NAME, "nono", "Team.key-2@work")),
        ("keyring://gh/me@example.org", (KEYRING, "gh", "me@example.org")),
        ("keyring://gh:host/a/b", (KEYRING, "gh:host", "a/b")),
        ("keyring://My App/Frau Ü", (KEYRING, "My App", "Frau Ü")),
        ("session://key", (SESSION, "", "key")),
        ("file:///run/my key%20", (FILE, "", "/run/my key%20")),
        ("env://_OPENAI_KEY2", (ENV, "", "_OPENAI_KEY2")),
    ],
)
def test_reads_every_form(text: str, expected: tuple[str, str, str]) -> None:
    assert parse(text) == Reference(text, *expected)


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", "a b", "-x", ".x", "a/b", "a\n", "ü", "a" * 129],
        *["keyring://", "keyring://a", "keyring://a/", "keyring:///a", "keyring://a/b\n"],
        *["session://", "session://a/b", "session://.a", "session://-a"],
        *["file://", "file://relative", "file:///", "file:///dir/", "file:///a\0b"],
        *["env://", "env://1A", "env://A-B", "env://A=B", "env://A B", "env://Ä"],
    ],
)
def test_refuses_what_has_no_form(text: str) -> None:
    with pytest.raises(PolicyError):
        parse(text)


@pytest.mark.parametrize("scheme", ["op", "bw", "cmd", "http"])
def test_names_a_scheme_that_it_does_not_know(scheme: str) -> None:
    with pytest.raises(PolicyError, match=f"{scheme}://"):
        parse(f"{scheme}://sk-1234567890")


@given(st.text(max_size=40), st.sampled_from(["", "keyring://", "session://", "file://", "env://", "sk-://"]))
def test_never_quotes_a_text_that_may_be_a_key(text: str, prefix: str) -> None:
    said = ""
    try:
        parse(f"{prefix}sk:{text}Vw3kQ9zLx7")
    except PolicyError as error:
        said = str(error)
    assert "Vw3kQ9zLx7" not in said


@given(st.text(max_size=140))
def test_a_name_is_safe_as_a_file_name(text: str) -> None:
    if is_name(text):
        assert "/" not in text
        assert "\0" not in text
        assert text[0] not in ".-"
        assert text.isascii()
        assert text.isprintable()
