"""`nono profile validate` and `schema`: every mistake at once; and what an editor says of the same files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from nono.cli.profiles import schema
from nono.cli.profiles.mistakes import Findings, examine
from nono.policy import data, jsonc, profile
from nono.supervisor.whereabouts import find_place

BUILT_IN = sorted((Path(data.__file__).parent / "profiles").glob("*.json"))
SCHEMA = Draft202012Validator(schema.schema())

WRITTEN_OUT = Draft202012Validator(profile.schema())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / ".config/nono/profiles").mkdir(parents=True)
    return home


def assert_each_once(mistakes: Sequence[str], starts: Sequence[str]) -> None:
    """Assert that there is one mistake for each of these beginnings, and no other."""
    for start in starts:
        assert sum(text.startswith(start) for text in mistakes) == 1, (start, mistakes)
    assert len(mistakes) == len(starts)


def examined(home: Path, value: object, name: str = "mine") -> Findings:
    path = home / ".config/nono/profiles" / f"{name}.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    path.chmod(0o600)
    environment = {"HOME": str(home)}
    return examine(name, find_place(str(home), environment), environment)


def test_every_mistake_is_found_at_once(home: Path) -> None:
    found = examined(
        home,
        {
            "filesystem": {"raed": [], "allow": ["~/x", 5, "~foo/x", "/a*"], "read": "~/y"},
            "netwrok": {},
            "allow_domain": [],
            "network": {
                "open_port": [99999],
                "block": 1,
                "custom_credentials": {"a": {"upstream": "x", "inject_mod": ""}, "b": 5},
            },
            "packs": ["x"],
            "workdir": {"access": "raed"},
            "groups": {"include": ["", {"name": "rust_runtime", "when": "lunix"}]},
            "environment": {"set_vars": {"A": 1}},
        },
    )
    starts = [
        "filesystem.raed is not a known key; did you mean read?",
        "filesystem.allow[1]: found 5",
        "filesystem.allow[2]: ~foo/x",
        "filesystem.allow[3]: /a*",
        'filesystem.read: found "~/y", expected a list',
        "netwrok is not a known key; did you mean network?",
        "allow_domain is not a known key",
        "network.open_port[0]: found 99999",
        "network.block: found 1, expected true or false",
        "network.custom_credentials.a.inject_mod is not a known key; did you mean inject_mode?",
        "network.custom_credentials.a: credential_key is missing",
        "network.custom_credentials.b: found 5",
        "packs is refused",
        'workdir.access: found "raed", expected one of none, read, write, readwrite; did you mean read?',
        "groups.include[0]: found an empty string",
        "groups.include[1].when",
        "environment.set_vars.A: found 1",
    ]
    assert_each_once(found.mistakes, starts)
    assert "did you mean network.allow_domain?" in " ".join(found.mistakes)


def test_what_only_the_whole_tells_is_found_too(home: Path) -> None:
    found = examined(
        home,
        {
            "extends": "claude-code",
            "groups": {"include": ["python_runtme"], "exclude": ["deny_nono"]},
            "network": {
                "allow_domain": ["exa mple.com", "fine.example"],
                "custom_credentials": {
                    "a": {"upstream": "ftp://x", "credential_key": "k"},
                    "b": {"upstream": "https://x.example", "credential_key": "no/name"},
                    "c": {"upstream": "https://x.example", "credential_key": "fine"},
                },
            },
            "env_credentials": {"nothing://x": "KEY"},
        },
    )
    starts = [
        "groups.include[0]: there is no group 'python_runtme'; did you mean python_runtime?",
        "groups.exclude[0]: deny_nono",
        "network.allow_domain[0]: host 'exa mple.com'",
        "network.custom_credentials.a: credential 'a': upstream 'ftp://x'",
        "network.custom_credentials.b: ",
        "env_credentials.nothing://x: ",
    ]
    assert_each_once(found.mistakes, starts)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1, column 2"),
        ('{"a": 1,\n "b" }', "line 2"),
        ("[]", "the top level: found an empty list, expected an object"),
        ("/* ", "has no end"),
        ('{"meta": {"name": "a", "name": "b"}}', "meta.name stands twice"),
        ('{"extends": "mine"}', "extends"),
        ('{"extends": "nowhere"}', "there is no profile 'nowhere'"),
        ('{"network": {"credentials": ["opnai"]}}', "there is no credential 'opnai'; did you mean openai?"),
        ('{"filesystem": {"bypass_protection": ["~/.config/nono"]}}', "bypass_protection"),
        ('{"environment": {"set_vars": {"TMPDIR": "x"}}}', "TMPDIR"),
    ],
)
def test_a_mistake_of_the_whole_file_is_named(home: Path, text: str, says: str) -> None:
    found = examined(home, text)
    assert len(found.mistakes) == 1
    assert says in found.mistakes[0]


def test_warnings_say_what_is_not_as_meant_here(home: Path) -> None:
    (home / "notes").write_text("")
    (home / "src").mkdir()
    found = examined(
        home,
        {
            "interactive": True,
            "extends": "claude-code",  # whose directory does not exist either: not a matter of this file
            "filesystem": {
                "read": ["~/absent", "~/notes", "~/src", "~/.ssh/config"],
                "read_file": ["~/src", "~/notes"],
                "allow": ["~/src/private/x"],
                "deny": ["~/src/private"],
            },
            "network": {"custom_credentials": {"a": {"upstream": "https://x.example", "credential_key": "k",
                                                     "tls_ca": "~/ca.pem"}}},
        },
    )  # fmt: skip
    assert found.mistakes == ()
    starts = [
        "filesystem.allow[0]: ~/src/private/x stays closed; leave one of them out",
        "filesystem.read[0]: ~/absent does not exist here",
        "interactive has no effect: ",
        "filesystem.read[3]: ~/.ssh/config stays closed; the group deny_credentials",
        "filesystem.read_file[0]: ~/src is a directory; write it into filesystem.read",
        "network.custom_credentials.a.tls_ca: ~/ca.pem does not exist here",
    ]
    assert [any(text.startswith(start) for text in found.warnings) for start in starts] == [True] * len(starts)
    assert len(found.warnings) == len(starts)


def test_a_file_that_others_may_write_is_worth_a_warning(home: Path) -> None:
    examined(home, "{}")
    path = home / ".config/nono/profiles/mine.json"
    path.chmod(0o666)
    found = examine(str(path), find_place(str(home), {"HOME": str(home)}), {"HOME": str(home)})
    assert "other users may write this file" in found.warnings[0]


def accepted(home: Path, text: str) -> bool:
    """Whether a run would take the profile, as far as its format goes."""
    try:
        profile.parse(text, "mine")
    except profile.PolicyError:
        return False
    return True


KEYS = [*profile.SHAPE.names, *(key for shape in ("filesystem", "network", "groups") for key in
                                getattr(profile.SHAPE.members[shape].kind, "names", ())), "packs", "x"]  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=4)
    | st.sampled_from(["~/x", "developer", "read", "linux"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYS, "path", "when", "name"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(value=VALUES)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=100
)
def test_what_is_not_accepted_has_mistakes_and_only_that(home: Path, value: Any) -> None:
    text = json.dumps(value)
    found = examined(home, text)
    if not accepted(home, text):
        assert found.mistakes
    for said in (*found.mistakes, *found.warnings):
        assert "\n" not in said
    # what an editor accepts is accepted, but for what no schema says (a path's variables, a condition)
    if isinstance(value, dict) and found.mistakes == ():
        assert accepted(home, text)


@pytest.mark.parametrize("path", BUILT_IN, ids=lambda path: path.stem)
def test_the_schema_accepts_each_built_in_profile(path: Path) -> None:
    assert list(SCHEMA.iter_errors(jsonc.loads(path.read_text(), path.name))) == []


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"$schema": "profile.schema.json", "extends": ["a", "b"]},
        {"filesystem": {"read": ["~/x", {"path": "/y", "when": "linux"}, {"path": "/z", "when": ["macos", "!linux"]}]}},
        {"groups": {"include": ["go_runtime", {"name": "rust_runtime", "when": "linux:debian-like"}]}},
        {"network": {"network_profile": None, "credentials": [], "allow_domain": ["a.example"], "open_port": [1]}},
        {"network": {"proxy_allow": ["a.example"]}},
        {"platform_overrides": {"macos": {"filesystem": {"allow": ["~/Library/x"]}}}},
    ],
)
def test_what_is_accepted_is_accepted_by_the_schema(value: dict[str, Any]) -> None:
    profile.parse(json.dumps(value), "mine")
    assert list(SCHEMA.iter_errors(value)) == []


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"filesystm": {}},
        {"filesystem": {"read": "~/x"}},
        {"filesystem": {"read": [5]}},
        {"filesystem": {"read": [""]}},
        {"filesystem": {"read": [{"path": "/x", "wen": "linux"}]}},
        {"filesystem": {"read": [{"when": "linux"}]}},
        {"network": {"block": "yes"}},
        {"network": {"open_port": [70000]}},
        {"network": {"network_profile": "nothing"}},
        {"network": {"custom_credentials": {"a": {"upstream": "https://x.example"}}}},
        {"workdir": {"access": "raed"}},
        {"extends": []},
    ],
)
def test_what_is_refused_is_refused_by_the_schema(value: Any) -> None:
    with pytest.raises(profile.PolicyError):
        profile.parse(json.dumps(value), "mine")
    assert list(SCHEMA.iter_errors(value))


def test_the_schema_is_one_and_has_all_keys() -> None:
    found = schema.schema()
    Draft202012Validator.check_schema(found)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(found["properties"]) == set(profile.SHAPE.names)
    assert [
        name for name, each in found["properties"].items() if "description" not in each and "$ref" not in each
    ] == []


@given(value=VALUES)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=200)
def test_naming_its_parts_changes_nothing(value: Any) -> None:
    assert SCHEMA.is_valid(value) == WRITTEN_OUT.is_valid(value)
