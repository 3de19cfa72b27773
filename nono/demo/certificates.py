"""Make a throw-away certificate authority and one server certificate for localhost.

The authority lives as long as the directory it is written to, and is trusted by nobody but the one route whose
`tls_ca` names it. On Linux `cryptography` is always there (keyring needs it for the Secret Service); on macOS it is
not, but /usr/bin/openssl is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import NamedTuple

if sys.platform == "linux":
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME_DAYS = 2

_AUTHORITY_NAME = "nono demo throw-away authority"

# Understood by OpenSSL and by the LibreSSL of macOS, whose `req` has no -addext.
_OPENSSL_CONFIG = f"""\
[req]
distinguished_name = name
prompt = no
[name]
CN = {_AUTHORITY_NAME}
[authority]
basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost,IP:127.0.0.1
authorityKeyIdentifier = keyid
"""


class Certificates(NamedTuple):
    """Paths of PEM files: the authority to trust, the server's certificate and its private key."""

    authority: str
    server: str
    server_key: str


def make(directory: str) -> Certificates:
    """Write an authority and a certificate for localhost and 127.0.0.1 into `directory`; return their paths."""
    if sys.platform == "linux":
        return make_with_cryptography(directory)
    else:  # noqa: RET505 (mypy knows this for the other platforms' half)
        return make_with_openssl(directory)


if sys.platform == "linux":

    def make_with_cryptography(directory: str) -> Certificates:
        """As `make`; the authority's private key is never written anywhere."""
        certificates = _paths(directory)
        now = datetime.now(UTC)
        authority_key = ec.generate_private_key(ec.SECP256R1())
        server_key = ec.generate_private_key(ec.SECP256R1())
        authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _AUTHORITY_NAME)])
        key_identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        blank = (
            x509.CertificateBuilder()
            .issuer_name(authority_name)
            .not_valid_before(now - timedelta(hours=1))  # a clock that is a little slow still accepts it
            .not_valid_after(now + timedelta(days=LIFETIME_DAYS))
        )
        authority = (
            blank.subject_name(authority_name)
            .public_key(authority_key.public_key())
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(key_identifier, critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        names = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
        server = (
            blank.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
            .public_key(server_key.public_key())
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_identifier), critical=False
            )
            .sign(authority_key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        key_pem = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        _write(certificates.authority, authority.public_bytes(pem))
        _write(certificates.server, server.public_bytes(pem))
        _write(certificates.server_key, key_pem)
        return certificates


def make_with_openssl(directory: str) -> Certificates:
    """As `make`, with the openssl command; the authority's private key is removed before returning.

    Raises OSError when there is no openssl, subprocess.CalledProcessError when it fails.
    """
    certificates = _paths(directory)
    config = os.path.join(directory, "openssl.cnf")
    authority_key = os.path.join(directory, "authority.key")
    request = os.path.join(directory, "server.csr")
    days = ["-days", str(LIFETIME_DAYS)]
    _write(config, _OPENSSL_CONFIG.encode())
    for key in (authority_key, certificates.server_key):
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
    _openssl("req", "-x509", "-new", "-sha256", *days, "-key", authority_key, "-config", config,
             "-extensions", "authority", "-out", certificates.authority)  # fmt: skip
    _openssl("req", "-new", "-sha256", "-key", certificates.server_key, "-config", config,
             "-subj", "/CN=localhost", "-out", request)  # fmt: skip
    _openssl("x509", "-req", "-sha256", *days, "-in", request, "-CA", certificates.authority,
             "-CAkey", authority_key, "-set_serial", "2", "-extfile", config, "-extensions", "server",
             "-out", certificates.server)  # fmt: skip
    for path in (authority_key, request, config):
        os.unlink(path)
    return certificates


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL)


def _paths(directory: str) -> Certificates:
    return Certificates(*(os.path.join(directory, name) for name in ("authority.pem", "server.pem", "server.key")))


def _write(path: str, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
