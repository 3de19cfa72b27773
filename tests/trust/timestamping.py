"""A timestamp authority of our own (RFC 3161), by `openssl ts`. Its clock is this machine's: it cannot be set.

authority = Timestamping(directory)
authority.entry({"start": …})     how a trusted root names it
authority.reply(query)            a timestamp; both DER
"""

from __future__ import annotations

import subprocess
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.runs import require_command
from tests.trust.sigstore_world import BEGINNING, Authority, new_key

_CONFIGURATION = """
[tsa]
default_tsa = ours
[ours]
serial = serial
signer_cert = certificate.pem
signer_key = key.pem
signer_digest = sha256
default_policy = 1.3.6.1.4.1.57264.2
digests = sha256, sha384, sha512
ess_cert_id_alg = sha256
"""


class Timestamping:
    """directory: for the files that openssl wants."""

    def __init__(self, directory: Path) -> None:
        require_command("openssl")
        directory.mkdir()
        self._directory = directory
        self._root, key = Authority("timestamps.test"), new_key()
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "timestamps")]))
            .issuer_name(self._root.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(BEGINNING)
            .not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._root.key.public_key()), critical=False
            )
            .sign(self._root.key, hashes.SHA256())
        )
        (directory / "configuration").write_text(_CONFIGURATION)
        (directory / "serial").write_text("01")
        (directory / "certificate.pem").write_bytes(self._certificate.public_bytes(Encoding.PEM))
        (directory / "key.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )  # fmt: skip

    def entry(self, valid_for: Mapping[str, str]) -> dict[str, Any]:
        chain = (self._certificate, self._root.certificate)
        certificates = [{"rawBytes": b64encode(made.public_bytes(Encoding.DER)).decode()} for made in chain]
        return {
            "subject": {"organization": "timestamps.test", "commonName": "timestamps"},
            "uri": "https://timestamps.test",
            "certChain": {"certificates": certificates},
            "validFor": valid_for,
        }

    def reply(self, query: bytes) -> bytes:
        (self._directory / "query").write_bytes(query)
        command = ["openssl", "ts", "-reply", "-config", "configuration", "-queryfile", "query"]
        return subprocess.run(command, cwd=self._directory, capture_output=True, check=True).stdout
