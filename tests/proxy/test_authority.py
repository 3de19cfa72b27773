"""The authority of one run: its leaves, its bundle, and what it leaves open or shows."""

from __future__ import annotations

import contextlib
import os
import ssl
from pathlib import Path

import pytest

from nono.proxy.authority import Authority, bundle
from tests.fakes import Authority as UpstreamAuthority
from tests.proxy.interception import trusting


def test_leaves_are_minted_once_and_kept_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nono.proxy.authority._MAX_CONTEXTS", 3)
    authority = Authority()
    first = authority.context_for("a.example")
    for name in ("b.example", "c.example", "a.example", "d.example"):
        authority.context_for(name)
    assert authority.context_for("a.example") is first
    assert len(authority._contexts) == 3
    clock = [1e9]
    monkeypatch.setattr("nono.proxy.authority.time.monotonic", lambda: clock[0])
    assert authority.context_for("a.example") is not first


@pytest.mark.parametrize(
    "name", ["a.example", "127.0.0.1", "::1", "a" * 60 + "." + "b" * 60 + ".example", "a_b.example"]
)
def test_leaves_are_what_strict_clients_ask_for(name: str, tmp_path: Path) -> None:
    authority = Authority()
    server = authority.context_for(name)
    context = trusting(authority)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(theirs, ours, server_hostname=name)
    end = server.wrap_bio(ours, theirs, server_side=True)
    for side in (client, end, client, end):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert client.version() == "TLSv1.3"
    assert client.getpeercert()


def test_nothing_of_the_authority_is_left_open_or_shown() -> None:
    before = len(os.listdir("/dev/fd"))
    authority = Authority()
    authority.context_for("a.example")
    assert len(os.listdir("/dev/fd")) == before
    assert repr(authority) == "<Authority>"
    assert b"PRIVATE" not in authority.certificate_pem


def test_the_bundle_has_the_users_roots_and_no_keys(authority: UpstreamAuthority, tmp_path: Path) -> None:
    with open(authority.ca) as file:
        own = file.read()
    both = tmp_path / "both.pem"
    both.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n" + own)
    directory = tmp_path / "certs"
    directory.mkdir()
    (directory / "0.pem").write_text(own)
    session = Authority().certificate_pem
    environment = {"REQUESTS_CA_BUNDLE": str(both), "CURL_CA_BUNDLE": "/nonexistent", "PIP_CERT": str(directory)}
    text = bundle(session, environment)
    assert b"PRIVATE" not in text
    assert text.count(own.strip().encode()) == 1
    assert text.endswith(session)
    system = len(ssl.create_default_context().get_ca_certs())
    assert len(ssl.create_default_context(cadata=text.decode()).get_ca_certs()) >= system + 2
    only = bundle(session, {"SSL_CERT_FILE": str(both)})
    assert only.count(b"BEGIN CERTIFICATE") == 2
