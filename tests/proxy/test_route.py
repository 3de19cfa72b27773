"""Which paths are ambiguous, and what endpoint rules grant: pure functions, also under hostile input."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import PolicyError, Refusal
from nono.policy.endpoints import glob_fits, glob_of, is_ambiguous
from nono.policy.routes import EndpointRule, Presentation
from nono.proxy.inject import Outgoing
from nono.proxy.judge import Judge
from tests.proxy.harness import TOKEN, route

T = TOKEN.decode()
HOSTILE_S = 0.1  # what took seconds before; a loaded machine needs some milliseconds


def judge(base: str, *, rules: tuple[EndpointRule, ...] = (), **fields: Presentation) -> Judge:
    return Judge(TOKEN, [route("api", "https://example.com" + base, endpoint_rules=rules, **fields)], 1, None, 16384)


def sent(by: Judge, target: str) -> bytes:
    """Method and target as they would be sent, `*` for a credential in the path."""
    outgoing = by(f"GET /api{target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert isinstance(outgoing, Outgoing)
    return (outgoing.before + b"*" + outgoing.after).partition(b" HTTP/1.1")[0]


IN_PATH = Presentation("url_path", path_pattern="/bot{}/")


@pytest.mark.parametrize(
    ("base", "target", "line"),
    [
        ("", f"/bot{T}/http://internal.example/admin", b"GET /http://internal.example/admin"),
        ("/v1", f"/bot{T}/sendMessage?a=/../", b"GET /v1/sendMessage?a=/../"),
        ("/v1", f"/a/bot{T}//b", b"GET /v1/a/b"),
        ("", f"/bot{T}/", b"GET /"),
    ],
)
def test_path_without_the_token_is_a_path(base: str, target: str, line: bytes) -> None:
    assert sent(judge(base, proxy=IN_PATH), target) == line


@pytest.mark.parametrize(
    ("pattern", "replacement", "target", "line"),
    [
        ("/bot{}/", "", f"/bot{T}/send", b"GET /v1/bot*/send"),
        ("/bot{}", "", f"/bot{T}/send?a", b"GET /v1/bot*/send?a"),
        ("/bot{}", "", f"/bot{T}", b"GET /v1/bot*"),
        ("/bot{}/", "/v2/{}", f"/bot{T}/send", b"GET /v1/v2/*/send"),
        ("/bot{}", "/bot{}/x/", f"/a/bot{T}/send", b"GET /v1/a/bot*/x/send"),
    ],
)
def test_path_with_the_credential_is_a_path(pattern: str, replacement: str, target: str, line: bytes) -> None:
    inject = Presentation("url_path", path_pattern=pattern, path_replacement=replacement)
    assert sent(judge("/v1", inject=inject), target) == line


@pytest.mark.parametrize("target", [f"/bot{T}beta/x", f"/bot{T}", "/send", f"/.bot{T}/x"])
def test_token_must_fill_the_patterns_place(target: str) -> None:
    for fields in ({"proxy": IN_PATH}, {"inject": IN_PATH}):
        with pytest.raises(Refusal) as refused:
            sent(judge("", **fields), target)
        assert refused.value.status == 401
    with pytest.raises(Refusal):
        sent(judge("", proxy=Presentation("url_path", path_pattern="/bot{}")), f"/bot{T}beta/x")


@pytest.mark.parametrize("pattern", ["k{}k", "{}", "bot{}/", "/bot{}k", "/../{}/", "/a"])
def test_pattern_that_is_no_segment_is_a_policy_error(pattern: str) -> None:
    for how in (Presentation("url_path", path_pattern=pattern), Presentation("url_path", "", "", "/{}/", pattern)):
        with pytest.raises(PolicyError):
            judge("", proxy=how)
        with pytest.raises(PolicyError):
            judge("", inject=how)


def test_endpoint_rules_judge_the_path_that_is_forwarded() -> None:
    rules = (EndpointRule("GET", "/ok/**"), EndpointRule("GET", "/bot*/secret"))
    cut = judge("/v1", proxy=IN_PATH, rules=rules)
    assert sent(cut, f"/bot{T}/ok/x") == b"GET /v1/ok/x"
    for target in (f"/bot{T}/secret", f"/ok/bot{T}"):
        with pytest.raises(Refusal):
            sent(cut, target)
    kept = judge("/v1", inject=IN_PATH, rules=rules)
    assert sent(kept, f"/bot{T}/secret") == b"GET /v1/bot*/secret"
    with pytest.raises(Refusal) as refused:
        sent(kept, f"/bot{T}/other")
    assert refused.value.status == 403


def test_hostile_paths_do_not_hold_up_the_loop() -> None:
    before = time.process_time()
    assert is_ambiguous(b"/" * 8000 + b"%" + b"25" * 4000)
    for rule in ("/**/x/**/y", "/**/x/**/y/**/z", "/**/*a*b*c*/**/*a*b*d"):
        for text in (b"x", b"x/y", b"ab" * 50 + b"c"):
            path = b"/" + b"/".join([text] * (16000 // (len(text) + 1)))
            glob_fits(glob_of(EndpointRule("GET", rule)), path[1:].split(b"/"))
    assert time.process_time() - before < HOSTILE_S


def test_layers_of_escapes() -> None:
    assert not is_ambiguous(b"/a%25252520b")
    assert is_ambiguous(b"/a%2525252525")


def naive(pattern: list[str], path: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(naive(pattern[1:], path[index:]) for index in range(len(path) + 1))
    return bool(path) and naive_text(pattern[0], path[0]) and naive(pattern[1:], path[1:])


def naive_text(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(naive_text(pattern[1:], text[index:]) for index in range(len(text) + 1))
    return bool(text) and text[0] == pattern[0] and naive_text(pattern[1:], text[1:])


segments = st.text("ab", max_size=4)
globs = st.lists(st.just("**") | st.text("ab*", max_size=4).filter(lambda text: "**" not in text), max_size=5)


@given(globs, st.lists(segments, min_size=1, max_size=6))
def test_globs_agree_with_a_naive_matcher(pattern: list[str], path: list[str]) -> None:
    rule = "/" + "/".join(pattern)
    stripped = rule.strip("/").split("/")
    expected = naive(stripped, path)
    if rule.endswith("/") and path[1:] and not path[-1]:
        expected = expected or naive(stripped, path[:-1])
    assert glob_fits(glob_of(EndpointRule("GET", rule)), [text.encode() for text in path]) == expected
