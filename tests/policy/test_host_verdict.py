"""Why a host or a URL is allowed or denied; and that the proxy's own judge says the same."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nono.errors import Refusal
from nono.policy.capabilities import CapabilitySet
from nono.policy.endpoints import compiled, is_ambiguous
from nono.policy.host_verdict import _fits_any, judge_host, judge_url, split_url
from nono.policy.resolve import Place, Request, resolve
from nono.policy.routes import EndpointRule
from nono.proxy.judge import Judge
from nono.proxy.route import BoundRoute, _endpoint_allowed
from tests.proxy.harness import TOKEN

PLACE = Place("/home/ada", "/home/ada/app", "/tmp", "/home/ada/.config", "/home/ada/.local/state", "/run/user/1")


def caps(**request: object) -> CapabilitySet:
    return resolve(Request(**request), None, PLACE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "host", "port", "reason", "origin", "flag"),
    [
        ({}, "example.com", 443, "network_open", "", ""),
        ({"block_net": True}, "example.com", 443, "network_blocked", "--block-net", ""),
        ({"block_net": True}, "localhost", 3000, "own_loopback", "built-in", "--open-port 3000"),
        ({"block_net": True, "open_port": (3000,)}, "127.0.0.1", 3000, "port_opened", "--open-port", ""),
        ({"allow_domain": ("example.com",)}, "EXAMPLE.com.", 443, "network_allowed", "--allow-domain", ""),
        ({"allow_domain": ("example.com",)}, "example.com", 80, "network_allowed", "--allow-domain", ""),
        (
            {"allow_domain": ("example.com",)}, "example.com", 8443, "port_not_allowed", "--allow-domain",
            "--allow-domain example.com:8443",
        ),
        ({"allow_domain": ("example.com",)}, "example.org", 443, "host_not_allowed", "", "--allow-domain example.org"),
        ({"allow_domain": ("a.com",), "deny_domain": ("a.com",)}, "a.com", 443, "host_denied", "--deny-domain", ""),
        ({"allow_domain": ("*.com",)}, "metadata.google.internal", 80, "metadata", "built-in", ""),
        ({"allow_domain": ("a.com",)}, "169.254.1.1", 80, "link_local", "built-in", ""),
        ({"allow_domain": ("a.com",)}, "fe80::1", 80, "link_local", "built-in", ""),
        ({"allow_domain": ("a.com",)}, "0x7f.1", 80, "bad_host", "", ""),
        ({"credential": ("openai",)}, "api.openai.com", 443, "route", "--credential", ""),
        ({"credential": ("openai",)}, "example.com", 443, "host_not_allowed", "", "--allow-domain example.com"),
        ({"network_profile": "developer"}, "api.openai.com", 443, "network_allowed", "llm_apis", ""),
    ],
)  # fmt: skip
def test_says_who_decided_about_a_host(
    request_: dict[str, object], host: str, port: int, reason: str, origin: str, flag: str
) -> None:
    verdict = judge_host(caps(**request_), host, port)
    assert (verdict.reason, verdict.origin, verdict.flag) == (reason, origin, flag)
    assert verdict.allowed == (reason in ("network_open", "network_allowed", "port_opened", "route"))


def test_names_the_nearest_host() -> None:
    assert judge_host(caps(allow_domain=("exmaple.com", "other.org")), "example.com", 443).closest.startswith("exmaple")
    assert judge_host(caps(allow_domain=("api.example.com",)), "www.example.com", 443).closest.startswith("api.ex")


def test_the_profile_that_wrote_an_entry_is_named() -> None:
    verdict = judge_host(
        caps(allow_domain=("a.com",)), "a.com", 443, written_by={("network.allow_domain", "a.com"): "work"}
    )
    assert verdict.origin == "profile work"


@pytest.mark.parametrize(
    ("url", "method", "reason", "flag"),
    [
        ("https://a.com/v1/x/y", "POST", "network_allowed", ""),
        ("https://a.com/v2", "GET", "endpoint_not_allowed", "--allow-domain https://a.com/v2"),
        ("https://a.com/v1/../v2", "GET", "bad_url", ""),
        ("https://b.com/x", "GET", "network_allowed", ""),
        ("ftp://b.com/x", "GET", "bad_url", ""),
        ("https://user@b.com/x", "GET", "bad_url", ""),
        ("https://api.github.com/repos/a/issues", "GET", "route", ""),
        ("https://a.com/$(x);", "GET", "endpoint_not_allowed", "--allow-domain 'https://a.com/$(x);'"),
        ("https://api.github.com/a;b", "GET", "endpoint_not_allowed", "--allow-endpoint 'github:GET:/a;b'"),
        ("https://api.github.com/user", "GET", "endpoint_not_allowed", "--allow-endpoint github:GET:/user"),
    ],
)
def test_judges_a_request(url: str, method: str, reason: str, flag: str) -> None:
    has = caps(
        allow_domain=("https://a.com/v1/**", "b.com"),
        credential=("github",),
        allow_endpoint=("github:GET:/repos/**",),
    )
    verdict = judge_url(has, url, method)
    assert (verdict.reason, verdict.flag) == (reason, flag)


_HOSTS = st.sampled_from([
    "a.com", "b.a.com", "b.org", "x.b.org", "c.net:8443", "*.d.net", "10.0.0.1", "https://e.com/x/**", "http://f.com",
])  # fmt: skip
_ASKED = st.sampled_from(["a.com", "b.a.com", "A.com.", "b.org", "c.net", "x.d.net", "d.net", "10.0.0.1", "e.com",
                          "f.com", "api.openai.com", "169.254.169.254", "metadata.goog"])  # fmt: skip


@settings(deadline=None)
@given(
    st.lists(_HOSTS, min_size=1, max_size=4), st.lists(_HOSTS.filter(lambda h: "//" not in h), max_size=2), _ASKED,
    st.sampled_from([443, 80, 8443]), st.booleans(),
)  # fmt: skip
def test_the_proxy_says_the_same_and_the_flag_helps(
    allowed: list[str], denied: list[str], host: str, port: int, tunnel: bool
) -> None:
    request: dict[str, object] = {"allow_domain": tuple(allowed), "deny_domain": tuple(denied)}
    verdict = judge_host(caps(**request), host, port, tunnel=tunnel)
    assert verdict.allowed == _proxy_connects(caps(**request), host, port, tunnel)
    if verdict.flag:
        flag, value = shlex.split(verdict.flag)
        assert flag == "--allow-domain"
        request["allow_domain"] = (*allowed, value)
        assert judge_host(caps(**request), host, port, tunnel=tunnel).allowed
        assert json.loads(f"{{{verdict.profile_line}}}") == {"network": {"allow_domain": [value]}}


def _proxy_connects(has: CapabilitySet, host: str, port: int, tunnel: bool) -> bool:
    judge = Judge(
        TOKEN, [BoundRoute(route, None) for route in has.routes], 61999, has.allowlist, 16384, intercepts=True
    )
    start = f"CONNECT {host}:{port}" if tunnel else f"GET http://{host}:{port}/x/y"
    head = f"{start} HTTP/1.1\r\nHost: {host}:{port}\r\nProxy-Authorization: Bearer {TOKEN.decode()}\r\n\r\n"
    try:
        judge(head.encode())
    except Refusal as refusal:
        return refusal.status != 403
    return True


_PATTERNS = st.text("ab*/%2fF", max_size=10).map(lambda text: "/" + text)
_REQUESTED = st.text("ab/%2fF", max_size=10).map(lambda text: "/" + text)


@settings(deadline=None)
@given(_PATTERNS, _REQUESTED)
def test_globs_fit_as_in_the_proxy(pattern: str, path: str) -> None:
    class Head:
        method = b"GET"
        fields = ()

    rules = [EndpointRule("*", pattern)]
    assert _fits_any(rules, "GET", path) == _endpoint_allowed(compiled(rules), Head(), path.encode())  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/a/../b", "/a%2f..%2fb", "/%252e%252e/b", "/%c0%ae%c0%ae/b", "/..;x/b"])
def test_what_the_proxy_reads_in_two_ways_is_none_to_judge(path: str) -> None:
    assert is_ambiguous(path.encode())
    verdict = judge_url(caps(allow_domain=("https://a.com/b/**",)), f"https://a.com{path}", "GET")
    assert (verdict.allowed, verdict.reason) == (False, "bad_url")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://a.com", ("https", "a.com", 443, "/")),
        ("HTTP://a.com:81/x?y#z", ("http", "a.com", 81, "/x")),
        ("https://[::1]:8/x", ("https", "::1", 8, "/x")),
    ],
)
def test_takes_a_url_apart(url: str, parts: tuple[str, str, int, str]) -> None:
    assert split_url(url) == parts
