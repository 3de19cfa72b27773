"""What goes through the operator's own proxy, what goes past it, and what is never asked of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import PolicyError, Refusal, UsageError
from nono.policy.allowlist import Allowlist
from nono.policy.upstream import upstream_proxy
from nono.proxy.chain import Chain
from nono.proxy.pins import NAMED, PUBLIC, ROUTE
from nono.proxy.route import Origin
from tests.fakes import Authority, Upstream
from tests.proxy.corporate import ALLOWED, Corporate, a_chain, behind, connect, echo
from tests.proxy.harness import Client, RunningProxy, route

HOSTS = (
    "example.com", "a.example.com", "a.b.example.com", "evilexample.com", "example.org", "10.1.2.3", "10.200.0.1",
    "11.0.0.1", "fd00::1", "2606:4700::1111", "::ffff:10.1.2.3",
)  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "direct"),
    [
        ("example.com", {"example.com", "a.example.com", "a.b.example.com"}),
        ("EXAMPLE.com.", {"example.com", "a.example.com", "a.b.example.com"}),
        (".example.com", {"a.example.com", "a.b.example.com"}),
        ("*.example.com", {"a.example.com", "a.b.example.com"}),
        ("example.com:443", {"example.com", "a.example.com", "a.b.example.com"}),
        ("example.com:80", set()),
        (".example.com:80", set()),
        ("10.1.2.3", {"10.1.2.3", "::ffff:10.1.2.3"}),
        ("10.1.2.3:443", {"10.1.2.3", "::ffff:10.1.2.3"}),
        ("10.1.2.3:80", set()),
        ("10.0.0.0/8", {"10.1.2.3", "10.200.0.1", "::ffff:10.1.2.3"}),
        ("10.1.2.3/16", {"10.1.2.3", "::ffff:10.1.2.3"}),
        ("10.1.2.3/0", {"10.1.2.3", "10.200.0.1", "11.0.0.1", "::ffff:10.1.2.3"}),
        ("10.0.0.0/8:443", {"10.1.2.3", "10.200.0.1", "::ffff:10.1.2.3"}),
        ("10.0.0.0/8:80", set()),
        ("fd00::/8", {"fd00::1"}),
        ("[fd00::]/64", {"fd00::1"}),
        ("[fd00::1]", {"fd00::1"}),
        ("[fd00::1]:443", {"fd00::1"}),
        ("[fd00::1]:80", set()),
        ("fd00::1", {"fd00::1"}),
        ("*", set(HOSTS)),
        ("*:443", set(HOSTS)),
        ("*:80", set()),
        ("com", {"example.com", "a.example.com", "a.b.example.com", "evilexample.com"}),
    ],
)
def test_bypass_patterns(pattern: str, direct: set[str]) -> None:
    chain = Chain("proxy.corp", 3128, [pattern])
    assert {host for host in HOSTS if not chain.takes(Origin(True, host, 443))} == direct


@pytest.mark.parametrize("pattern", ["", ".", "*.", "a b", "exa*mple.com", "a:0", "a:b", "a..b", "10.0.0.0/33", "/8"])
def test_bypass_patterns_that_mean_nothing(pattern: str) -> None:
    with pytest.raises(PolicyError, match="upstream bypass"):
        Chain("proxy.corp", 3128, [pattern])


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_always_direct(host: str) -> None:
    assert not Chain("proxy.corp", 3128).takes(Origin(False, host, 80))


def test_a_bypassed_host_is_looked_up_and_checked_here() -> None:
    with Upstream(echo) as origin, Corporate(origin.port) as corporate:
        chain = a_chain(corporate.server.port, ("direct.example",))
        with RunningProxy([], ALLOWED, chain=chain) as proxy, Client(proxy) as client:
            proxy.proxy._pins._lookup = lambda host, port: ["10.0.0.1"]
            assert connect(client, "direct.example:443").code == "address_denied"
    assert corporate.heads == []


@pytest.mark.parametrize(
    ("host", "scopes"),
    [
        ("origin.example", {ROUTE, NAMED, PUBLIC}),
        ("1.1.1.1", {ROUTE, NAMED, PUBLIC}),
        ("10.0.0.1", {ROUTE, NAMED}),
        ("fd12::1", {ROUTE, NAMED}),
        ("169.254.169.254", set()),
        ("::ffff:169.254.169.254", set()),
        ("fe80::1", set()),
        ("0.0.0.0", set()),
        ("255.255.255.255", set()),
        ("100.100.100.200", set()),
        ("metadata.google.internal", set()),
        ("Metadata.Google.Internal.", set()),
        ("a.metadata.google.internal", set()),
        ("metadata", set()),
        ("instance-data", set()),
        ("metadata.example", {ROUTE, NAMED, PUBLIC}),
    ],
)
def test_what_is_never_asked_for(host: str, scopes: set[str]) -> None:
    def allowed(scope: str) -> bool:
        try:
            Chain("proxy.corp", 3128).check(Origin(True, host, 443), scope)
        except Refusal:
            return False
        return True

    assert {scope for scope in (ROUTE, NAMED, PUBLIC) if allowed(scope)} == scopes


def test_a_private_literal_is_refused_with_the_flag_that_would_grant_it() -> None:
    with pytest.raises(Refusal, match=r"The operator can grant it with --allow-domain 10\.0\.0\.1:8443$"):
        Chain("proxy.corp", 3128).check(Origin(True, "10.0.0.1", 8443), PUBLIC)
    with pytest.raises(Refusal, match="metadata"):
        Chain("proxy.corp", 3128).check(Origin(True, "169.254.169.254", 80), PUBLIC)


def test_metadata_of_a_route_is_refused_before_the_corporate_proxy_is_dialled(authority: Authority) -> None:
    with Upstream(echo) as origin, Corporate(origin.port) as corporate:
        api = route("api", "https://metadata.google.internal", authority.ca)
        with behind(corporate.server.port, [api]) as client:
            assert client.get("/api/x").code == "address_denied"
        assert corporate.server.connections == 0


@pytest.mark.parametrize("credential", [b"no-colon", b"a:" + b"x" * 8000])
def test_a_credential_that_cannot_be_used_is_the_operator_s_error(credential: bytes) -> None:
    with pytest.raises(PolicyError) as caught:
        a_chain(1, credential=credential)
    assert credential.decode() not in str(caught.value)


@pytest.mark.parametrize("bypass", [(), ("*",)])
def test_the_corporate_proxy_itself_is_no_destination(bypass: tuple[str, ...]) -> None:
    with Upstream(echo) as origin, Corporate(origin.port) as corporate:
        here = f"127.0.0.1:{corporate.server.port}"
        with RunningProxy([], Allowlist([here]), chain=a_chain(corporate.server.port, bypass)) as proxy:
            with Client(proxy) as client:
                answer = connect(client, here)
                assert (answer.status, answer.code) == (403, "host_denied")
        assert corporate.server.connections == 0


@given(st.lists(st.sampled_from(["*", ".", "a.b", "10.0.0.1", "/8", "/032", ":80", "[", "]", "::1", "/"]), max_size=4))
def test_every_pattern_that_the_policy_takes_is_one(pieces: list[str]) -> None:
    pattern = "".join(pieces)
    try:
        found = upstream_proxy("proxy.corp:3128", "", (pattern,), {})
    except UsageError:
        return
    assert found is not None
    Chain(found.host, found.port, found.bypass)
