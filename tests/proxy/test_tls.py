"""What upstreams are verified against."""

from __future__ import annotations

import os
import shutil
import ssl
import threading
from pathlib import Path

import pytest

from nono.proxy import tls
from tests.fakes import Authority, Upstream
from tests.proxy.harness import Client, RunningProxy, route


def test_context_verifies_and_speaks_nothing_old() -> None:
    context = tls.make_context("", "", "")
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.keylog_filename is None
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert not context.hostname_checks_common_name


def test_context_that_cannot_be_made_is_an_error_and_the_next_one_is_made(
    monkeypatch: pytest.MonkeyPatch, upstream: Upstream, authority: Authority
) -> None:
    start = threading.Thread.start

    def no_thread(thread: threading.Thread) -> None:
        if thread.name == "nono-tls":
            raise RuntimeError("can't start new thread")
        start(thread)

    with RunningProxy([route("api", upstream.url, authority.ca)]) as proxy, Client(proxy) as client:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            assert client.get("/api/echo").status == 502
        with monkeypatch.context() as patch:
            patch.setattr(tls, "make_context", no_context)
            assert client.get("/api/echo").status == 502
        assert client.get("/api/echo").status == 200


def no_context(*files: str) -> ssl.SSLContext:
    raise ValueError("embedded null byte")


def test_keys_are_not_logged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, upstream: Upstream, authority: Authority
) -> None:
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    with RunningProxy([route("api", upstream.url, authority.ca)]) as proxy, Client(proxy) as client:
        assert client.get("/api/echo").status == 200
    assert not log.exists()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_the_users_own_trust_is_honoured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, upstream: Upstream, authority: Authority, variable: str
) -> None:
    if variable == "SSL_CERT_FILE":
        monkeypatch.setenv(variable, authority.ca)
    else:
        shutil.copy(authority.ca, tmp_path / "ca.pem")
        os.system(f"openssl rehash {tmp_path} >/dev/null 2>&1")
        monkeypatch.setenv(variable, str(tmp_path))
    with RunningProxy([route("api", upstream.url)]) as proxy, Client(proxy) as client:
        assert client.get("/api/echo").status == 200


def test_the_systems_trust_is_the_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hashed directory, which is read on demand, trusts what the bundle beside it holds."""
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(variable, raising=False)
    directory = os.path.realpath(ssl.get_default_verify_paths().openssl_capath)
    bundle = os.path.join(directory, "ca-certificates.crt")
    if not os.path.exists(bundle) or not tls._is_hashed(directory):
        pytest.skip("this system keeps no hashed directory of certificates beside its bundle")
    assert tls.make_context("", "", "").cert_store_stats()["x509"] == 0
    whole = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    whole.load_verify_locations(bundle)
    by_name = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in os.listdir(directory):
        if tls._HASHED_NAME(name):
            by_name.load_verify_locations(os.path.join(directory, name))
    assert set(whole.get_ca_certs(binary_form=True)) <= set(by_name.get_ca_certs(binary_form=True))
