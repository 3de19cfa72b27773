"""From the bytes that name a host to the host that is dialled: nothing gets by the allowlist that it did not judge."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono.errors import NonoError, Refusal
from nono.policy.allowlist import METADATA_HOSTS, Allowlist, normalise
from nono.proxy.inject import Outgoing
from nono.proxy.judge import Judge
from tests.proxy.harness import TOKEN

ALLOWLIST = Allowlist(
    ["good.example", "*.suf.example", "10.0.0.1", "[2001:db8::1]", "p.example:8443", "*.internal"],
    ["bad.suf.example", "*.no.suf.example"],
    ["group.example"],
)
AUTHORIZATION = b"Proxy-Authorization: Basic " + base64.b64encode(b"nono:" + TOKEN)
PIECES = (
    b"good.example", b"suf.example", b".suf.example", b"a.suf.example", b"bad.suf.example", b"x.no.suf.example",
    b"10.0.0.1", b"::ffff:10.0.0.1", b"[2001:db8::1]", b"[2001:DB8:0::1]", b"metadata.google.internal", b"0x7f.1",
    b"group.example", b"p.example", b"localhost", b"127.0.0.1", b"xn--", b"EVIL", b"a", b".", b"..", b"%00", b"%2e",
    b"@", b":443", b":80", b":0443", b":8443", b":0", b":", b"[", b"]", b"[[", b"/", b"?", b"#", b"\\", b" ", b"\t",
    b"\x00", b"\x80",
)  # fmt: skip


def dialled(host: bytes, *, connect: bool, header: bytes | None = None) -> tuple[str, int]:
    """What the judge lets through for a target with this host. Raises NonoError."""
    line = b"CONNECT " + host if connect else b"GET http://" + host + b"/x"
    head = line + b" HTTP/1.1\r\nHost: " + (host if header is None else header) + b"\r\n" + AUTHORIZATION + b"\r\n\r\n"
    granted = Judge(TOKEN, [], 61000, ALLOWLIST, 16384)(head)
    where = granted.origin if isinstance(granted, Outgoing) else granted
    return where.host, where.port


@given(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(b"".join),
    st.booleans(),
    st.sampled_from([None, b"good.example:443", b"good.example"]),
)
def test_what_is_dialled_is_what_was_judged(host: bytes, connect: bool, header: bytes | None) -> None:
    try:
        name, port = dialled(host, connect=connect, header=header)
    except NonoError:
        return
    assert normalise(name) == name or ":" in name
    assert normalise(name) not in METADATA_HOSTS
    ALLOWLIST(name, port, tunnel=connect)
    assert name in host.decode().lower()


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"good.example:443", "good.example"),
        (b"GOOD.example.:443", "good.example"),
        (b"[2001:DB8:0::1]:443", "2001:db8:0::1"),
        (b"good.example:0443", "good.example"),
    ],
)
def test_names_that_are_allowed(host: bytes, name: str) -> None:
    assert dialled(host, connect=True) == (name, 443)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"good.example..:443", 400),
        (b".good.example:443", 400),
        (b"good.example%00:443", 400),
        (b"evil.example%2e.suf.example:443", 400),
        (b"evil.example\\.suf.example:443", 400),
        (b"0x7f.1:443", 400),
        (b"good.example:0", 400),
        (b"good.example:65979", 400),
        (b"[::ffff:10.0.0.1]:443", 403),
        (b"10.0.0.1.:22", 403),
        (b"BAD.suf.example.:443", 403),
        (b"metadata.google.internal.:443", 403),
    ],
)
def test_names_that_are_not(host: bytes, status: int) -> None:
    with pytest.raises(Refusal) as error:
        dialled(host, connect=True)
    assert error.value.status == status
