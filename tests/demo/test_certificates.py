"""Both ways of making a throw-away authority give a certificate for localhost that only that authority vouches for."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nono.demo import certificates
from nono.demo.certificates import Certificates
from tests.runs import require_command

Make = Callable[[str], Certificates]


def with_openssl(directory: str) -> Certificates:
    require_command("openssl")
    return certificates.make_with_openssl(directory)


WAYS = [with_openssl] + ([certificates.make_with_cryptography] if sys.platform == "linux" else [])


@pytest.fixture(params=WAYS, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Make:
    way: Make = request.param
    return way


def handshake(server: Certificates, trusted: str, name: str) -> str:
    """Return the protocol of a TLS connection to `server`, or raise what the client raises."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.server, server.server_key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(trusted)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            context.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as connection:
            return connection.version() or ""
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_its_authority_vouches_for_localhost(make: Make, tmp_path: Path, name: str) -> None:
    made = make(str(tmp_path))
    assert handshake(made, made.authority, name) == "TLSv1.3"


def test_no_other_name_is_vouched_for(make: Make, tmp_path: Path) -> None:
    made = make(str(tmp_path))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made, made.authority, "example.org")


def test_no_other_authority_vouches_for_it(make: Make, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    made, other = (make(str(tmp_path / name)) for name in "ab")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made, other.authority, "localhost")


def test_only_what_is_needed_is_left_and_private(make: Make, tmp_path: Path) -> None:
    made = make(str(tmp_path))
    assert {str(path) for path in tmp_path.iterdir()} == set(made)
    assert stat.S_IMODE(os.stat(made.server_key).st_mode) == 0o600
