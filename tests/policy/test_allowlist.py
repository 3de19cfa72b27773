"""Which hosts the agent may name, and what it may ask of them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import PolicyError, Refusal
from nono.policy.allowlist import Allowlist, Verdict, host_and_port, normalise, parse_entry
from nono.policy.routes import EndpointRule


def refusal(allowlist: Allowlist, host: str, port: int = 443, *, tunnel: bool = True) -> Refusal | None:
    """What the agent is answered; None when it may go on."""
    try:
        allowlist(host, port, tunnel=tunnel)
    except Refusal as error:
        return error
    return None


@pytest.mark.parametrize(
    ("entry", "host", "allowed"),
    [
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com.", True),
        ("EXAMPLE.com.", "example.com", True),
        ("example.com", "a.example.com", False),
        ("example.com", "example.com.evil.org", False),
        ("example.com", "example.com.", True),
        (".example.com", "a.example.com", True),
        (".example.com", "a.b.example.com.", True),
        (".example.com", "example.com", False),
        (".example.com", "evilexample.com", False),
        (".example.com", "a.example.com.evil.org", False),
        ("*.Example.com", "a.example.com", True),
        ("*.example.com", "evilexample.com", False),
        ("*.example.com", "example.com", False),
        ("bücher.example", "xn--bcher-kva.example", True),
        ("bücher.example", "BÜCHER.example", True),
        ("*.bücher.example", "a.XN--BCHER-KVA.example", True),
        ("bücher.example", "bucher.example", False),
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", False),
        ("[2001:db8::1]", "2001:db8::1", True),
        ("[2001:DB8::1]", "2001:db8:0:0::0001", True),
        ("2001:db8::1", "[2001:db8::1]", True),
        ("[::ffff:192.0.2.1]", "::ffff:c000:201", True),
        ("[2001:db8::1]", "2001:db8::2", False),
        ("_dmarc.example.com", "_dmarc.example.com", True),
    ],
)
def test_hosts_and_suffixes(entry: str, host: str, allowed: bool) -> None:
    assert (refusal(Allowlist([entry]), host) is None) is allowed


@pytest.mark.parametrize(
    ("entry", "port", "tunnel", "allowed"),
    [
        ("a.example", 443, True, True),
        ("a.example", 80, True, False),
        ("a.example", 22, True, False),
        ("a.example", 443, False, True),
        ("a.example", 80, False, True),
        ("a.example", 8080, False, False),
        ("a.example:8443", 8443, True, True),
        ("a.example:8443", 8443, False, True),
        ("a.example:8443", 443, True, False),
        ("a.example:80", 80, True, True),
        ("https://a.example", 443, True, True),
        ("https://a.example", 80, False, False),
        ("https://a.example", 443, False, False),
        ("HTTPS://a.example/x", 443, False, False),
        ("https://a.example:80", 80, False, False),
        ("https://a.example:80", 80, True, True),
        ("http://a.example:443", 443, False, True),
        ("http://a.example/", 80, False, True),
        ("http://a.example", 443, True, False),
        ("https://a.example:8443", 8443, True, True),
    ],
)
def test_ports(entry: str, port: int, tunnel: bool, allowed: bool) -> None:
    for text, host in ((entry, "a.example"), (entry.replace("a.example", "*.a.example"), "b.a.example")):
        assert (refusal(Allowlist([text]), host, port, tunnel=tunnel) is None) is allowed


def test_https_grants_nothing_in_plain_text_beside_other_entries() -> None:
    allowlist = Allowlist(["https://a.example/x", "http://a.example:443/y"])
    assert allowlist("a.example", 443, tunnel=False) == Verdict(True, (EndpointRule("*", "/y"),))
    assert Allowlist(["https://a.example/x", "a.example"])("a.example", 443, tunnel=False) == Verdict(True)


def test_several_ports_of_one_host() -> None:
    allowlist = Allowlist(["a.example:22", "a.example", "a.example:8080", "a.example"])
    assert all(refusal(allowlist, "a.example", port) is None for port in (22, 443, 8080))
    assert refusal(allowlist, "a.example", 80) is not None


@pytest.mark.parametrize(
    ("host", "port", "tunnel", "flag"),
    [
        ("B.example.", 443, True, "--allow-domain b.example"),
        ("b.example", 80, False, "--allow-domain b.example"),
        ("b.example", 80, True, "--allow-domain b.example:80"),
        ("a.example", 22, True, "--allow-domain a.example:22"),
        ("2001:db8::9", 8080, True, "--allow-domain [2001:db8::9]:8080"),
        ("2001:db8::9", 443, True, "--allow-domain [2001:db8::9]"),
    ],
)
def test_a_refusal_names_the_flag_that_would_grant_it(host: str, port: int, tunnel: bool, flag: str) -> None:
    error = refusal(Allowlist(["a.example"]), host, port, tunnel=tunnel)
    assert error is not None
    assert (error.status, error.code) == (403, "host_denied")
    assert str(error).endswith(flag)
    assert refusal(Allowlist([flag.removeprefix("--allow-domain ")]), host, port, tunnel=tunnel) is None


def test_denied_goes_before_allowed_on_every_port() -> None:
    allowlist = Allowlist(
        [".example.com", "a.example.com:22"],
        [".bad.example.com", "a.example.com", "c.example.com:22"],
        ["x.bad.example.com", "d.example.com"],
    )
    assert refusal(allowlist, "b.example.com") is None
    for host in ("x.bad.example.com", "X.BAD.example.com.", "a.example.com"):
        for port in (22, 443):
            error = refusal(allowlist, host, port)
            assert error is not None
            assert "--deny-domain" in str(error)
    assert refusal(allowlist, "c.example.com") is None
    assert "denied by" in str(refusal(allowlist, "c.example.com", 22))


def test_an_empty_allowlist_denies_all() -> None:
    for host in ("example.com", "127.0.0.1", "localhost", "::1"):
        assert refusal(Allowlist([]), host) is not None


def test_only_a_host_that_the_operator_wrote_is_named() -> None:
    allowlist = Allowlist(
        ["a.example", "10.0.0.1:8080", "*.b.example", "c.example:8443"], (), ["d.example", "a.example"]
    )
    named = {
        host: allowlist(host, port, tunnel=True)
        for host, port in (("a.example", 443), ("10.0.0.1", 8080), ("x.b.example", 443), ("d.example", 443))
    }
    assert named == {
        "a.example": Verdict(True),
        "10.0.0.1": Verdict(True),
        "x.b.example": Verdict(False),
        "d.example": Verdict(False),
    }
    both = Allowlist(["c.example:8443", ".example"])
    assert both("c.example", 8443, tunnel=True).named
    assert not both("c.example", 443, tunnel=True).named, "named on another port"


ISSUES = EndpointRule("*", "/repos/*/issues/**")
USER = EndpointRule("*", "/user")


def test_a_path_in_a_url_grants_only_its_requests() -> None:
    allowlist = Allowlist(["https://api.example.com/repos/*/issues/**", "https://api.example.com/user"])
    assert allowlist("api.example.com", 443, tunnel=True) == Verdict(True, (ISSUES, USER))
    assert refusal(allowlist, "api.example.com", 80, tunnel=False) is not None
    assert refusal(allowlist, "api.example.com", 8443) is not None


@pytest.mark.parametrize(
    ("entries", "groups", "verdict"),
    [
        (["https://a.example/user", "a.example"], [], Verdict(True)),
        (["a.example", "https://a.example/user"], [], Verdict(True)),
        (["https://a.example/user", "https://a.example"], [], Verdict(True)),
        # What a suffix grants beyond the path, it does not grant at a private address.
        (["https://a.example/user", "*.example"], [], Verdict(False)),
        (["https://a.example/user"], ["a.example"], Verdict(False)),
        (["https://a.example/user", "https://*.example/repos/*/issues/**"], [], Verdict(False, (USER, ISSUES))),
        (["https://*.example/user"], [], Verdict(False, (USER,))),
        (["https://a.example/user", "a.example:8443"], [], Verdict(True, (USER,))),
        (["https://a.example/user", "https://a.example/user"], [], Verdict(True, (USER,))),
    ],
)
def test_all_paths_win_over_some(entries: list[str], groups: list[str], verdict: Verdict) -> None:
    assert Allowlist(entries, (), groups)("a.example", 443, tunnel=True) == verdict


def test_groups_may_come_later() -> None:
    allowlist = Allowlist(["a.example"], ["bad.late.example"])
    assert refusal(allowlist, "x.late.example") is not None
    allowlist.add(["*.late.example", "late.example"])
    assert allowlist("x.late.example", 443, tunnel=True) == Verdict(False)
    assert allowlist("late.example", 443, tunnel=True) == Verdict(False)
    assert refusal(allowlist, "bad.late.example") is not None


@pytest.mark.parametrize(
    "host", ["metadata.google.internal", "METADATA.google.internal.", "metadata", "169.254.169.254"]
)
def test_metadata_services_are_never_reachable(host: str) -> None:
    error = refusal(Allowlist([".internal", ".google.internal"], (), [host]), host, 80, tunnel=False)
    assert error is not None
    assert error.status == 403
    assert "metadata" in str(error)
    with pytest.raises(PolicyError, match="never reachable"):
        Allowlist([host])


@pytest.mark.parametrize(
    "host",
    [
        "", ".", "..", "a..b", ".example.com", "*.example.com", "a\0.example.com", "example.com\0", "a%00.example.com",
        "a\r\n", "[[::1]]", "[::1", "a b", "a/b", "a@b", "a:b", "x" * 64, "x" * 64 + ".example.com",
        ".".join(["abc"] * 70), "0x7f.1", "2130706433", "127.1", "0177.0.0.1", "1.2.3.04", "1.2.3.256", "1.2.3.4.5",
        "0x7f000001", "example.0x", "fe80::1%eth0", ":", ":::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9",
        "1.2.3.4::", "::1.2.3", "::ffff:127.1", "12345::", "::g", "127.0.0.1\n", "１２７.1", "a。。b", "\ud800",
        "a\u2100b", "example.com..", "a" * 300,
    ],
)  # fmt: skip
def test_what_is_no_host_name_is_refused_before_anything_else(host: str) -> None:
    error = refusal(Allowlist(["example.com", ".com", ".example.com"], ["example.com"]), host)
    assert error is not None
    assert (error.status, error.code) == (400, "bad_host")
    assert str(error).isprintable()


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("", "empty"),
        ("*", "every host"),
        (" * ", "every host"),
        (".", "empty"),
        ("*.", "empty"),
        ("**.example.com", "no host name has"),
        ("a b", "no host name has"),
        ("a*.example.com", "no host name has"),
        ("*.*.example.com", "no host name has"),
        ("..example.com", "a part of it is empty"),
        ("*..example.com", "a part of it is empty"),
        ("example.com:0", "port"),
        ("example.com:", "port"),
        ("example.com:x", "port"),
        ("example.com:65536", "port"),
        ("example.com:٣", "port"),
        ("example.com:99999999999999999999", "port"),
        (".192.0.2.1", "no subdomains"),
        ("*.192.0.2.1", "no subdomains"),
        ("*.[::1]", "no subdomains"),
        (".2.1", "only some resolvers"),
        ("10.0.0.0/8", "no host name has"),
        ("straße.example", "xn--"),
        ("a\u200db.example", "xn--"),
        ("ftp://example.com", "http://"),
        ("://example.com", "http://"),
        ("https://", "empty"),
        ("https:///path", "empty"),
        ("https://*/path", "no host name has"),
        ("https://user:pw@example.com/", "user name"),
        ("https://example.com?x", "no host name has"),
        ("https://example.com:0/x", "port"),
        ("https://example.com/a?b", "without query"),
        ("https://example.com/a#b", "without query"),
        ("https://example.com/a b", "without query"),
        ("https://example.com/ä", "without query"),
        ("https://example.com/a\\b", "without query"),
        ("https://example.com/a/../b", "'..'"),
        ("https://example.com/a\0", "without query"),
        ("example.com/path", "no host name has"),
    ],
)
def test_entry_that_is_not_sound_is_a_policy_error(entry: str, sentence: str) -> None:
    with pytest.raises(PolicyError) as error:
        Allowlist([entry])
    assert sentence in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("entry", ["https://example.com", "http://example.com/x"])
def test_whole_hosts_are_denied(entry: str) -> None:
    with pytest.raises(PolicyError, match="HOST:PORT"):
        Allowlist([], [entry])


def test_duplicates_change_nothing() -> None:
    allowlist = Allowlist(["a.example"] * 3 + ["A.example", ".b.example", "*.b.example"] * 2, ["c.example"] * 2)
    assert allowlist("a.example", 443, tunnel=True) == Verdict(True)
    assert allowlist("x.b.example", 443, tunnel=True) == Verdict(False)


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(host: str) -> None:
    try:
        name = normalise(host)
    except ValueError:
        return
    assert normalise(name) == name
    assert name == name.lower()
    assert name.isascii()


LABELS = st.text(alphabet="ab0x9-_.:A[]*%é", max_size=12)


@given(LABELS, LABELS)
def test_the_short_way_and_the_whole_way_agree(entry: str, host: str) -> None:
    """A list reads plain entries without parse_entry; what it then allows is what parse_entry says."""
    try:
        parsed = parse_entry(entry)
        name = normalise(host)
    except (PolicyError, ValueError):
        return
    expected = name.endswith("." + parsed.name) if parsed.is_suffix else name == parsed.name
    assert (refusal(Allowlist([entry]), host, parsed.port or 443) is None) is expected


NAMES = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map(".".join)
ENTRIES = st.lists(
    st.tuples(st.sampled_from(["", ".", "*."]), NAMES, st.sampled_from(["", ":22", ":443"])).map("".join), max_size=6
)


def covers(text: str, host: str, port: int, default: bool) -> bool:
    """What an entry means, said in the plainest way."""
    name, _, digits = text.partition(":")
    suffix = name.removeprefix("*")
    fits = host.endswith(suffix) if suffix.startswith(".") else host == name
    return fits and (port == int(digits) if digits else default)


@given(ENTRIES, ENTRIES, ENTRIES, NAMES, st.sampled_from([22, 80, 443]), st.booleans())
def test_a_list_means_what_its_entries_mean(
    allowed: list[str], denied: list[str], groups: list[str], host: str, port: int, tunnel: bool
) -> None:
    default = port == 443 or (port == 80 and not tunnel)
    refused = any(covers(entry, host, port, True) for entry in denied)
    named = any(covers(entry, host, port, default) for entry in allowed if not entry.startswith((".", "*")))
    reachable = any(covers(entry, host, port, default) for entry in (*allowed, *groups))
    allowlist = Allowlist(allowed, denied, groups)
    if refused or not reachable:
        assert refusal(allowlist, host, port, tunnel=tunnel) is not None
    else:
        assert allowlist(host, port, tunnel=tunnel) == Verdict(named)


@given(st.text(max_size=20))
def test_a_suffix_matches_only_at_a_dot(prefix: str) -> None:
    error = refusal(Allowlist(["*.example.com"]), prefix + "example.com")
    assert error is not None or prefix.endswith((".", "。", "．", "｡"))


def test_a_verdict_costs_the_same_with_a_hundred_thousand_suffixes() -> None:
    """The figures are the benchmark's (bench/); here only that nobody walks through the list."""
    few = [f"*.h{number}.example.com" for number in range(10)]
    many = [f"*.h{number}.example.com" for number in range(100_000)]

    def cost(entries: list[str]) -> float:
        allowlist = Allowlist(entries)
        best = 1.0
        for _ in range(5):
            before = time.perf_counter()
            for number in range(200):
                allowlist(f"a.b.h{number % 10}.example.com", 443, tunnel=True)
            best = min(best, time.perf_counter() - before)
        return best

    assert cost(many) < 10 * cost(few)


def test_addresses_are_written_as_in_a_url() -> None:
    assert host_and_port("203.0.113.7", 443) == "203.0.113.7:443"
    assert host_and_port("2001:db8::7", 443) == "[2001:db8::7]:443"
    assert host_and_port("a.example", 0) == "a.example"
    assert host_and_port("::1", 0) == "[::1]"
