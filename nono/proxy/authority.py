"""The session's own certificate authority, for hosts whose TLS the proxy ends itself.

Made before the child starts and trusted by the child alone (the bundle that its environment names). Both private keys,
the authority's and the one that all leaves share, exist in this process's memory only; with it they are gone. A leaf
is minted when its host is first asked for, and lives in an SSLContext that is kept, so that a host costs its
millisecond once. OpenSSL takes certificates from files only, so they are handed over through pipes: nothing of them
ever has a name on a disk.

A leaf is of no use beyond this run: nobody else trusts the authority. It is valid for a week all the same, because
clients (and auditors of their logs) expect dates that make sense, from a day ago, because the clocks of containers and
virtual machines are wrong; contexts are made anew long before.

Needs `cryptography`, the extra `intercept`; only runs that intercept import this module.

Source: RFC 5280 section 4.2; RFC 6125 section 6 (names); CA/Browser Forum, Baseline Requirements section 7.1.
"""

from __future__ import annotations

import os
import re
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nono.errors import StoreError
from nono.policy.environment import CA_VARIABLES

_NAME = "nono session authority"
_SLACK = timedelta(days=1)  # before now: clocks differ
_AUTHORITY_LIFE = timedelta(days=366)  # an agent in a terminal multiplexer may run for months
_LEAF_LIFE = timedelta(days=7)
_RENEWED_S = 86400.0
_MAX_CONTEXTS = 64  # an allowed suffix with a path lets the agent choose names
_MAX_COMMON_NAME = 64  # RFC 5280, ub-common-name


class Authority:
    """One session's authority."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_public_key = leaf_key.public_key()
        self._leaf_key_pem = leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        # The serial number in the name: two runs whose bundles are mixed up do not confuse anyone's chain building.
        self._subject = _common_name(f"{_NAME} {os.urandom(4).hex()}")
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        certificate = (
            _dated(self._subject, _AUTHORITY_LIFE)
            .subject_name(self._subject)
            .public_key(self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(self._identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate_pem = certificate.public_bytes(Encoding.PEM)
        self._contexts: dict[str, tuple[float, ssl.SSLContext]] = {}

    def __repr__(self) -> str:
        return "<Authority>"

    def write_bundle(self, path: str, environment: Mapping[str, str]) -> None:
        """Write the file that the child's programs are to trust. Raises StoreError; `path` must not exist."""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            with open(fd, "wb") as file:
                file.write(bundle(self.certificate_pem, environment))
                os.fchmod(file.fileno(), 0o644)  # whatever the umask: an agent in a container may be another user
        except OSError as error:
            raise StoreError(
                f"cannot write the bundle of certificates {path}: {error.strerror}. Check TMPDIR"
            ) from None

    @staticmethod
    def remove_bundle(path: str) -> None:
        """Remove the file; a cleaner of /tmp may have been quicker."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass

    def context_for(self, host: str) -> ssl.SSLContext:
        """Return the server's context for `host`: a name in lower case without a trailing dot, or an IP address.

        Its handshake fails with CALLBACK_FAILED where the client asks for another name (SNI).
        """
        known = self._contexts.pop(host, None)
        if known is None or known[0] < time.monotonic():
            if len(self._contexts) >= _MAX_CONTEXTS:
                del self._contexts[next(iter(self._contexts))]
            known = (time.monotonic() + _RENEWED_S, self._make_context(host))
        self._contexts[host] = known  # the last one used stands last
        return known[1]

    def leaf_pem(self, host: str) -> bytes:
        """Return a certificate for `host`."""
        try:
            name: x509.GeneralName = x509.IPAddress(ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        certificate = (
            _dated(self._subject, _LEAF_LIFE)
            .subject_name(_common_name(host if len(host) <= _MAX_COMMON_NAME else _NAME))
            .public_key(self._leaf_public_key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._leaf_public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM)

    def _make_context(self, host: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        context.num_tickets = 1  # of two, which are for clients that open connections by pairs
        context.set_alpn_protocols(["http/1.1"])
        _load(context, self.leaf_pem(host), self._leaf_key_pem)

        def check_name(_: object, name: str | None, __: object) -> int | None:
            # Without a name (addresses have none; old clients) the Host of each request says enough.
            fits = name is None or name.lower().removesuffix(".") == host
            return None if fits else int(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)

        context.sni_callback = check_name
        return context


def bundle(authority_pem: bytes, environment: Mapping[str, str]) -> bytes:
    """Return what the child shall trust: the system's roots, those of the user's own bundles, and the authority.

    environment: the user's. A bundle that cannot be read is left out: its user had no use of it either.
    """
    paths = ssl.get_default_verify_paths()
    system = environment.get("SSL_CERT_FILE") or paths.cafile or _bundle_in(paths.capath) or paths.capath
    chosen = (environment.get(name) for name in CA_VARIABLES)
    files = dict.fromkeys(os.path.realpath(path) for path in (system, *chosen) if path)
    certificates = dict.fromkeys(certificate for path in files for certificate in _certificates(path))
    return b"\n".join([*certificates, authority_pem])


def _bundle_in(directory: str | None) -> str | None:
    path = os.path.join(directory or "", "ca-certificates.crt")  # update-ca-certificates(8)
    return path if directory and os.path.isfile(path) else None


def _certificates(path: str) -> list[bytes]:
    """The certificates in a PEM file, or in the files of a directory; and nothing that may stand beside them."""
    if os.path.isdir(path):
        names = sorted(os.listdir(path))
        return [
            c for name in names if not os.path.isdir(os.path.join(path, name)) for c in _certificates(f"{path}/{name}")
        ]
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            return _CERTIFICATE.findall(file.read() or b"")
    except OSError:
        return []


_CERTIFICATE = re.compile(rb"-----BEGIN (?:TRUSTED )?CERTIFICATE-----[^-]+-----END (?:TRUSTED )?CERTIFICATE-----")


def _load(context: ssl.SSLContext, *pems: bytes) -> None:
    """Let OpenSSL read certificate and key, each from a pipe that holds it whole and has no writer any more."""
    fds = []
    try:
        for pem in pems:
            read_fd, write_fd = os.pipe()
            fds.append(read_fd)
            with open(write_fd, "wb") as pipe:
                pipe.write(pem)
        context.load_cert_chain(*(f"/dev/fd/{fd}" for fd in fds))
    finally:
        for fd in fds:
            os.close(fd)


def _dated(issuer: x509.Name, life: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().issuer_name(issuer).serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - _SLACK).not_valid_after(now + life)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=signs_certificates, crl_sign=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
