"""The TLS that interception ends: real clients shake hands; what is no TLS, or not for this host, gets nowhere."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from nono.policy.environment import CA_VARIABLES, child_environment
from nono.proxy.authority import Authority, bundle
from nono.proxy.server import Limits
from tests.fakes import TIMEOUT_S, Upstream
from tests.fakes import Authority as UpstreamAuthority
from tests.proxy.harness import KEY, TOKEN, Client, RunningProxy
from tests.proxy.interception import HOST, PROXY_AUTH, Net, TlsClient, api_route, trusting


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_sessions_resume(
    intercepting: RunningProxy, session_authority: Authority, api: Upstream, version: ssl.TLSVersion
) -> None:
    context = trusting(session_authority)
    context.minimum_version = context.maximum_version = version
    with TlsClient(intercepting, session_authority, api.port, context=context) as client:
        assert client.ask("/echo").status == 200
        session = client.tls.session
    raw = Client(intercepting)
    raw.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
    raw.answer("HEAD")
    with context.wrap_socket(raw.sock, server_hostname=HOST, session=session) as tls:
        assert tls.session_reused


def test_a_client_that_closes_its_tls_is_done(
    intercepting: RunningProxy, session_authority: Authority, api: Upstream
) -> None:
    with TlsClient(intercepting, session_authority, api.port) as client:
        client.request("GET", "/gated/1", host=HOST)
        client.read_until(b"\r\n\r\n")
        with contextlib.suppress(OSError):
            client.tls.unwrap()
    entries = intercepting.wait(lambda exchanges: len(exchanges) == 2)
    assert entries[1].code == "client_left"
    api.gate.release()


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: api.test.example\r\n\r\n", b"\x80\x2e\x01", b"SSH-2.0-x\r\n"]
)
def test_plain_bytes_after_connect_are_never_interpreted(
    intercepting: RunningProxy, api: Upstream, data: bytes
) -> None:
    with Client(intercepting) as client:
        client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
        assert client.answer("HEAD").status == 200
        client.send(data)
        assert client.at_end()
    (entry,) = intercepting.wait(lambda exchanges: bool(exchanges))
    assert (entry.code, entry.verdict, entry.status) == ("not_tls", "refused", 200)
    assert api.requests == []


def test_bytes_that_come_with_connect_are_refused(intercepting: RunningProxy, api: Upstream) -> None:
    with Client(intercepting) as client:
        text = f"{HOST}:{api.port}"
        client.send(f"CONNECT {text} HTTP/1.1\r\nHost: {text}\r\n{PROXY_AUTH}\r\n\r\n".encode() + b"\x16\x03\x01")
        assert client.answer().status == 400
        assert client.at_end()


def test_another_name_in_tls_is_refused(
    intercepting: RunningProxy, session_authority: Authority, api: Upstream
) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        TlsClient(intercepting, session_authority, api.port, sni="other.example")
    (entry,) = intercepting.wait(lambda exchanges: bool(exchanges))
    assert (entry.code, entry.verdict) == ("sni_mismatch", "refused")
    with TlsClient(intercepting, session_authority, api.port, sni=HOST.upper()) as client:
        assert client.ask("/").status == 200


def test_a_client_that_does_not_trust_us_is_told_about_in_the_audit(
    intercepting: RunningProxy, session_authority: Authority, api: Upstream
) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context()
        context.minimum_version = context.maximum_version = version
        with pytest.raises(ssl.SSLCertVerificationError):
            TlsClient(intercepting, session_authority, api.port, context=context)
    entries = intercepting.wait(lambda exchanges: len(exchanges) == 2)
    for entry in entries:
        assert entry.code == "tls_distrust"
        assert "SSL_CERT_FILE" in entry.reason


def test_a_client_that_hangs_up_or_dawdles_in_the_handshake(
    api: Upstream, authority: UpstreamAuthority, session_authority: Authority, net: Net
) -> None:
    limits = Limits(tls_s=0.2)
    with RunningProxy(
        [api_route(api, authority)], limits=limits, intercept=session_authority, pins=net.pins
    ) as proxy:  # fmt: skip
        for data in (b"", b"\x16\x03\x01"):
            with Client(proxy) as client:
                client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
                client.answer("HEAD")
                client.send(data)
                assert client.at_end()
        assert [e.code for e in proxy.wait(lambda exchanges: len(exchanges) == 2)] == ["tls_timeout", "tls_timeout"]
        with Client(proxy) as client:
            client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
            client.answer("HEAD")
            client.send(b"\x16\x03\x01")
        assert proxy.wait(lambda exchanges: len(exchanges) == 3)[2].code in ("tls_client", "client_left")
        proxy.settle(lambda: proxy.proxy.connections == 0)


def test_a_machine_without_descriptors_left_is_no_bug_of_ours(
    api: Upstream, authority: UpstreamAuthority, net: Net
) -> None:
    class Poor:
        def context_for(self, host: str) -> ssl.SSLContext:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with RunningProxy([api_route(api, authority)], intercept=Poor(), pins=net.pins) as proxy:
        with Client(proxy) as client:
            client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
            client.answer("HEAD")
            client.send(b"\x16\x03\x01")
            assert client.at_end()
        (entry,) = proxy.wait(lambda exchanges: bool(exchanges))
        assert entry.code == "tls_config"


def test_a_handshake_that_comes_octet_by_octet(
    intercepting: RunningProxy, session_authority: Authority, api: Upstream
) -> None:
    with Client(intercepting) as client:
        client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
        client.answer("HEAD")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusting(session_authority).wrap_bio(incoming, outgoing, server_hostname=HOST)
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            for octet in outgoing.read():
                client.send(bytes((octet,)))
            incoming.write(client.sock.recv(1000))
        tls.write(b"GET /echo HTTP/1.1\r\nHost: api.test.example\r\n\r\n")
        client.send(outgoing.read())
        while True:
            try:
                assert tls.read(1000).startswith(b"HTTP/1.1 200")
                break
            except ssl.SSLWantReadError:
                incoming.write(client.sock.recv(1000))


def test_drain_and_close_with_handshakes_under_way(intercepting: RunningProxy, api: Upstream) -> None:
    with Client(intercepting) as client:
        client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
        client.answer("HEAD")
        assert intercepting.call(lambda: intercepting.proxy.active) == 1
        intercepting.call(intercepting.proxy.close)
        assert client.at_end()


def test_no_name_in_tls_is_accepted(intercepting: RunningProxy, session_authority: Authority, api: Upstream) -> None:
    context = trusting(session_authority)
    context.check_hostname = False
    with Client(intercepting) as client:
        client.request("CONNECT", f"{HOST}:{api.port}", PROXY_AUTH, host=f"{HOST}:{api.port}")
        client.answer("HEAD")
        with context.wrap_socket(client.sock) as tls:
            tls.sendall(b"GET /echo HTTP/1.1\r\nHost: api.test.example\r\nConnection: close\r\n\r\n")
            with tls.makefile("rb") as file:
                assert file.readline().startswith(b"HTTP/1.1 200")
            assert isinstance(tls, socket.socket)


@pytest.fixture
def child_variables(intercepting: RunningProxy, session_authority: Authority, tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "bundle.pem"
    path.write_bytes(bundle(session_authority.certificate_pem, {}))
    made = child_environment(
        {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, network="proxy", proxy_port=intercepting.port,
        token=TOKEN.decode(), ca_bundle=str(path),
    )  # fmt: skip
    assert {made.variables[name] for name in CA_VARIABLES} == {str(path)}
    return made.variables


def run(variables: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=variables, capture_output=True, timeout=TIMEOUT_S, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("options", [[], ["--proxy-anyauth"], ["--http2"], ["-H", "Authorization: Bearer mine"]])
def test_curl(child_variables: dict[str, str], api: Upstream, options: list[str]) -> None:
    url = f"https://{HOST}:{api.port}/echo"
    shown = run(child_variables, "curl", "-sS", "--fail-with-body", *options, url, url, "-d", "x=1")
    assert shown.count('"method": "POST"') == 2
    assert [seen.all("authorization") for seen in api.requests] == [[f"Bearer {KEY.decode()}"]] * 2


@pytest.mark.parametrize(
    "code",
    [
        "import urllib.request as u; print(u.urlopen(URL).read().decode())",
        "import requests; print(requests.get(URL).text)",
        "import httpx; print(httpx.get(URL).text)",
    ],
)
def test_python_clients(child_variables: dict[str, str], api: Upstream, code: str) -> None:
    library = code.split()[1].rstrip(";")
    if library != "urllib.request":
        pytest.importorskip(library, reason=f"{library} is not installed")
    shown = run(child_variables, sys.executable, "-c", f"URL = 'https://{HOST}:{api.port}/echo'\n{code}")
    assert '"method": "GET"' in shown
    assert api.requests[0].all("authorization") == [f"Bearer {KEY.decode()}"]


def test_http_client(intercepting: RunningProxy, session_authority: Authority, api: Upstream) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", intercepting.port, context=trusting(session_authority))
    connection.set_tunnel(HOST, api.port, {"Proxy-Authorization": PROXY_AUTH.partition(": ")[2]})
    for _ in range(3):
        connection.request("GET", "/echo")
        assert connection.getresponse().read()
    connection.close()
    assert len(api.requests) == 3
