"""Which hosts the agent may name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import PolicyError
from nono.policy.allowlist import Allowlist, normalise


@pytest.mark.parametrize(
    ("entry", "host", "allowed"),
    [
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com.", True),
        ("example.com", "a.example.com", False),
        ("example.com", "example.com.evil.org", False),
        (".example.com", "a.example.com", True),
        (".example.com", "a.b.example.com", True),
        (".example.com", "example.com", False),
        (".example.com", "evilexample.com", False),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "evilexample.com", False),
        ("*.example.com", "example.com", False),
        ("bücher.example", "xn--bcher-kva.example", True),
        ("bücher.example", "BÜCHER.example", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("[2001:db8::1]", "2001:db8::1", True),
    ],
)
def test_hosts_and_suffixes(entry: str, host: str, allowed: bool) -> None:
    assert (Allowlist([entry])(host, 443) is None) is allowed


def test_ports() -> None:
    allowlist = Allowlist(["a.example", "b.example:8443"])
    assert allowlist("a.example", 80) is allowlist("b.example", 8443) is None
    refusal = allowlist("a.example", 22)
    assert refusal is not None
    assert "--allow-domain a.example:22" in str(refusal)
    assert allowlist("b.example", 443) is not None


def test_denied_goes_before_allowed_on_every_port() -> None:
    allowlist = Allowlist([".example.com", "a.example.com:22"], [".bad.example.com", "a.example.com"])
    assert allowlist("b.example.com", 443) is None
    assert allowlist("x.bad.example.com", 443) is not None
    assert allowlist("a.example.com", 22) is not None


@pytest.mark.parametrize(
    "host",
    [
        "", ".", "a..b", "a\0.example.com", "a%00.example.com", "a\r\n", "[[::1]]", "a b", "a/b", "a@b", "x" * 64,
        ".".join(["abc"] * 70), "0x7f.1", "2130706433", "127.1", "0177.0.0.1", "1.2.3.04", "fe80::1%eth0",
    ],
)  # fmt: skip
def test_what_is_no_host_name_is_refused_before_anything_else(host: str) -> None:
    refusal = Allowlist(["." + host] if host in ("example.com",) else ["example.com"])(host, 443)
    assert refusal is not None
    assert refusal.status == 400


@pytest.mark.parametrize("entry", ["", "*", "a b", "example.com:0", "example.com:x", "*.*.example.com", ".192.0.2.1"])
def test_entry_that_is_not_sound_is_a_policy_error(entry: str) -> None:
    with pytest.raises(PolicyError):
        Allowlist([entry])


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(host: str) -> None:
    try:
        name = normalise(host)
    except ValueError:
        return
    assert normalise(name) == name
    assert name == name.lower()


@given(st.text(max_size=20))
def test_a_suffix_matches_only_at_a_dot(prefix: str) -> None:
    verdict = Allowlist(["*.example.com"])(prefix + "example.com", 443)
    assert verdict is not None or prefix.endswith((".", "。", "．", "｡"))
