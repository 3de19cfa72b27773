"""Which proxy nono's own goes through: flag, profile, environment."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nono.errors import PolicyError, UsageError
from nono.policy.capabilities import UpstreamProxy
from nono.policy.upstream import parse_bypass, upstream_proxy

FLAG = "--upstream-proxy"
SECRET = "hunter2"


def named(text: str, credential: str = "", *bypass: str) -> UpstreamProxy | None:
    return upstream_proxy(text, credential, bypass, {"HTTPS_PROXY": "http://other:1"})


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("proxy.example:3128", "proxy.example", 3128),
        ("Proxy.EXAMPLE.:3128", "proxy.example", 3128),
        ("http://proxy.example:3128", "proxy.example", 3128),
        ("HTTP://proxy.example:3128/", "proxy.example", 3128),
        ("http://proxy.example", "proxy.example", 80),
        ("10.0.0.1:8080", "10.0.0.1", 8080),
        ("[2001:DB8::1]:8080", "2001:db8::1", 8080),
    ],
)
def test_reads_a_proxy(text: str, host: str, port: int) -> None:
    assert named(text) == UpstreamProxy(host, port, "", (), FLAG)
    found = upstream_proxy("", "", (), {"https_proxy": text})
    assert found == UpstreamProxy(host, port, "", (), "https_proxy")


@pytest.mark.parametrize(
    "text",
    [
        "proxy.example", "proxy.example:0", "proxy.example:x", "proxy.example:70000", ":3128", "*.example:3128",
        "a b:1", "http://", "http://:3128", "http://proxy.example:3128/path", "https://proxy.example:3128", "socks5://p:1080",
        f"user:{SECRET}@proxy.example:3128", f"http://user:{SECRET}@proxy.example:3128", f"http://{SECRET}@p:1",
        f"{SECRET}://p:1", f"http://u:{SECRET}/@p:1", f"p:1@{SECRET}", "*:3128", "p:1\r\nX: y",
    ],
)  # fmt: skip
def test_refuses_what_is_no_proxy_and_quotes_none_of_it(text: str) -> None:
    for arguments in ((text, "", (), {}), ("", "", (), {"HTTPS_PROXY": text})):
        with pytest.raises(UsageError) as error:
            upstream_proxy(*arguments)
        assert SECRET not in str(error.value)
        assert "proxy.example" not in str(error.value)
        assert str(error.value).startswith((f"{FLAG}: ", "HTTPS_PROXY: "))
        assert FLAG in str(error.value)


def test_a_credential_is_named_never_written() -> None:
    found = named("proxy.example:3128", "corp_proxy")
    assert found is not None
    assert found.credential == "corp_proxy"
    with pytest.raises(UsageError, match="--upstream-proxy-credential NAME"):
        upstream_proxy("", "", (), {"HTTPS_PROXY": f"http://user:{SECRET}@proxy.example:3128"})
    found = upstream_proxy("", "corp_proxy", (), {"HTTPS_PROXY": f"http://user:{SECRET}@proxy.example:3128"})
    assert found == UpstreamProxy("proxy.example", 3128, "corp_proxy", (), "HTTPS_PROXY")
    assert upstream_proxy("", "corp_proxy", (), {}) is None


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": " "}, None),
        ({"HTTPS_PROXY": "a:1", "https_proxy": "b:1"}, "b"),
        ({"HTTPS_PROXY": "a:1", "https_proxy": ""}, "a"),
        ({"ALL_PROXY": "a:1", "HTTP_PROXY": "b:1"}, "a"),
        ({"ALL_PROXY": "socks5://a:1", "HTTPS_PROXY": "b:1"}, "b"),
        ({"http_proxy": "a:1"}, "a"),
        ({"HTTPS_PROXY": "a:1", "NO_PROXY": "*"}, None),
    ],
)
def test_the_environment_names_it_where_nobody_else_does(environment: dict[str, str], host: str | None) -> None:
    found = upstream_proxy("", "", (), environment)
    assert (found.host if found else None) == host


def test_a_flag_goes_before_the_environment() -> None:
    environment = {"HTTPS_PROXY": "socks5://unusable:1", "NO_PROXY": "internal.example"}
    assert upstream_proxy("direct", "", (), environment) is None
    assert upstream_proxy("a:1", "", ("b",), environment) == UpstreamProxy("a", 1, "", ("b",), FLAG)


def test_bypasses_of_flag_and_environment() -> None:
    no_proxy = "localhost, .internal.example,*.a.example 10.0.0.0/8,[::1],a b:80,,fd00::/8,!odd,http://x,10.0.0.0/99,"
    found = upstream_proxy("", "", ("mine.example", "mine.example"), {"https_proxy": "p:1", "NO_PROXY": no_proxy})
    assert found is not None
    assert found.bypass == (
        "mine.example", "localhost", ".internal.example", "*.a.example", "10.0.0.0/8", "[::1]", "a", "b:80", "fd00::/8",
    )  # fmt: skip


@pytest.mark.parametrize(
    "pattern",
    [
        "", "*", " * ", "a b", "10.0.0.0/33", "10.0.0.0/", "::1/129", "a.example/8", "/8", "*/8", "https://a.example",
        "http://1.2.3.4/8", "http/8://1.2.3.4", "*.1.2.3.4", "x:0", "%", "a\0",
    ],
)  # fmt: skip
def test_refuses_a_bypass(pattern: str) -> None:
    with pytest.raises(UsageError, match="--upstream-bypass"):
        named("p:1", "", pattern)


PIECES = ["*", ".", "a.b", "10.0.0.1", "/8", "/032", ":80", "[", "]", "::1", "/", " ", "%", "@", "\u00fc", "1" * 5000]


@given(st.lists(st.sampled_from(PIECES), max_size=5).map("".join))
@example("[::1]/64")
@example("[::1]/64:80")
@example("::ffff:1.2.3.4/96")
def test_what_a_run_begins_with_is_what_its_proxy_takes(pattern: str) -> None:
    environment = {"HTTPS_PROXY": "p:1", "NO_PROXY": pattern}
    through = upstream_proxy("", "", (), environment)
    for taken in through.bypass if through else ():
        parse_bypass(taken)
    try:
        through = upstream_proxy("p:1", "", (pattern,), {})
    except UsageError:
        return
    assert through is not None
    parse_bypass(through.bypass[0])


def test_a_network_may_stand_in_brackets() -> None:
    assert parse_bypass("[fd00::1]/8") == parse_bypass("FD00::/8") == parse_bypass("fd00:0::/08")
    assert parse_bypass("[fd00::]/8:443") == parse_bypass("fd00::/8")._replace(port=443)
    with pytest.raises(PolicyError, match="upstream bypass"):
        parse_bypass("fd00::/8/8")
