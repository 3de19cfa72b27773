"""A bundle by a certificate of Fulcio -> who signed it. Offline, over the package `sigstore` (the extra `trust`).

The package verifies, in this order: a signed time (of Rekor, or of a timestamp authority); the certificate's chain to
an authority of the trusted root, at that time; the certificate transparency log's signature on it; the entry in Rekor,
by its Merkle proof, its checkpoint, and its promise; the signature over the payload; and that the entry is about this
signature. Then, here:

- what was verified is, byte for byte, what bundle.py read: two parsers, one meaning;
- logs and authority were believed at the times that count (trusted_root.believed), which the package leaves open;
- who it is: read from the certificate that was verified, never from the statement.

Anybody may get a certificate of Fulcio for himself, so an identity says who signed, not that he may: policy.py does.
Nothing is fetched, and nothing but the trusted root is read. What the package raises never leaves this module: each
failure is a BundleError with one sentence; what we did not foresee counts as malformed, a panic of its Rust parts
included. Importing this costs a third of a second: see verified_cache.py.

Source: sigstore client spec, "Verification"; Fulcio docs/oid-info.md for the certificate's extensions.
"""

from __future__ import annotations

import json
import logging
import warnings
from base64 import b64decode
from datetime import UTC, datetime

from nono.errors import PolicyError, UsageError
from nono.trust import trusted_root
from nono.trust.errors import BAD_SIGNATURE, EXPIRED, MALFORMED, BundleError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from sigstore.errors import CertValidationError, VerificationError
    from sigstore.models import Bundle as SigstoreBundle
    from sigstore.models import ClientTrustConfig, InvalidBundle
    from sigstore.verify import Verifier

    from nono.trust.certificate import identity_in
except ImportError:
    raise UsageError(f"signatures without a key need the package sigstore: {trusted_root.INSTALL}") from None

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nono.trust.bundle import Bundle
    from nono.trust.policy import Keyless
    from nono.trust.trusted_root import SigningConfig, TrustRoot

_ROOTS = (
    "if the signer is right, the trusted root is too old or not his: pip install -U sigstore, or --trusted-root FILE"
)

_CONFIG_TYPE = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
_SIGNING_TYPE = "application/vnd.dev.sigstore.signingconfig.v0.2+json"

# It logs to nobody's terminal: what is wrong is in our sentences.
logging.getLogger("sigstore").addHandler(logging.NullHandler())

# What the package says when it refuses -> what is wrong. The first whose words are in its message.
_REFUSALS = (
    ("not enough sources of verified time", "carries no time that an authority or log of the trusted root signed"),
    ("no Timestamp Authorities have been provided", "carries a timestamp of no authority in the trusted root"),
    ("SCT", "has a certificate that no transparency log of the trusted root has seen"),
    ("SET", "has an entry in Rekor whose promise was not signed by that log"),
    ("checkpoint", "has an inclusion proof whose checkpoint was not signed by that log"),
    ("nclusion proof", "has a wrong inclusion proof: the signature is not in Rekor"),
    ("DSSE: invalid signature", "has a signature that is not over this statement"),
    ("does not match bundle", "has an entry in Rekor that is about another signature"),
    ("inconsistent with other materials", "has an entry in Rekor that is about another signature"),
    ("invalid DSSE log entry", "has an entry in Rekor that is about something else"),
    ("log entry type", "has an entry in Rekor of a kind that is not read"),
    ("Integrated time only supported", "has an entry in Rekor of a kind that is not read"),
    ("usage", "has a certificate that is not for signing"),
)  # fmt: skip

# The same, for what the package will not even read.
_UNREADABLE = (
    ("bundle format", "is a bundle of a version that is not read"),
    ("mediaType", "is a bundle of a version that is not read"),
    ("log entry version", "has an entry in Rekor of a version that is not read"),
    ("exactly one log entry", "has no entry in Rekor, or more than one"),
    ("tlogEntries\n", "has no entry in Rekor"),
    ("inclusionProof", "has an entry in Rekor without an inclusion proof"),
    ("inclusion proof", "has an entry in Rekor without an inclusion proof, or one without a checkpoint"),
    ("signed timestamp(s)", "carries no signed time: neither Rekor's promise nor a timestamp"),
    ("certificate", "has no certificate"),
)


class _Reader:
    """sigstore's policy: it is shown the certificate once its chain is verified. Whoever that names is who signed."""

    certificate: x509.Certificate

    def verify(self, cert: x509.Certificate) -> None:
        """Keep the certificate."""
        self.certificate = cert


def identity_of(bundle: Bundle, root: TrustRoot) -> Keyless:
    """Return who signed `bundle`. Raises BundleError: bad_signature, expired, malformed; PolicyError for the root."""
    content = trusted_root.parse(root)
    verifier = _verifier(root)
    try:
        with warnings.catch_warnings(action="ignore"):
            return _identity_of(bundle, verifier, content)
    except (BundleError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001  (a panic of its Rust parts is no Exception)
        raise BundleError(MALFORMED, bundle.source, "is not a bundle that can be verified") from None


def _identity_of(bundle: Bundle, verifier: Verifier, content: Mapping[str, Any]) -> Keyless:
    try:
        claimed = SigstoreBundle.from_json(bundle.raw)
    except InvalidBundle as error:
        raise BundleError(MALFORMED, bundle.source, _reason(_UNREADABLE, error, "is not a Sigstore bundle")) from None
    if "dsseEnvelope" not in _fields(claimed):
        raise BundleError(MALFORMED, bundle.source, "signs the bytes of a file, not a statement about it")
    reader = _Reader()
    try:
        verified = verifier.verify_dsse(claimed, reader)
    except VerificationError as error:
        raise _refused(bundle, claimed, error) from None
    if verified != (bundle.payload_type, bundle.payload):
        raise BundleError(MALFORMED, bundle.source, "reads differently to another reader")
    _check_times(bundle, claimed, reader.certificate, content)
    return identity_in(reader.certificate, bundle.source)


def configuration(root: TrustRoot, signing: SigningConfig | None = None) -> ClientTrustConfig:
    """Return the package's configuration: this root and nothing else. No TUF, nothing from the package's own cache."""
    where = json.loads(signing.data) if signing else {"mediaType": _SIGNING_TYPE}
    parts = {"mediaType": _CONFIG_TYPE, "trustedRoot": trusted_root.parse(root), "signingConfig": where}
    return ClientTrustConfig.from_json(json.dumps(parts))


def _verifier(root: TrustRoot) -> Verifier:
    try:
        return Verifier(trusted_root=configuration(root).trusted_root)
    except (PolicyError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001  (see above)
        raise PolicyError(f"{root.source} is not a trusted root of Sigstore") from None


def _fields(claimed: SigstoreBundle) -> dict[str, Any]:
    """Return what the package read, under the names of the specification, however they were spelt."""
    fields: dict[str, Any] = json.loads(claimed.to_json())
    return fields


def _entry(claimed: SigstoreBundle) -> dict[str, Any]:
    (entry,) = _fields(claimed)["verificationMaterial"]["tlogEntries"]
    return dict(entry)


def _times(claimed: SigstoreBundle) -> list[datetime]:
    """Return when the bundle says that it was signed: Rekor's time, and those of timestamp authorities."""
    entry = _entry(claimed)
    seconds = int(entry.get("integratedTime", 0))
    times = [datetime.fromtimestamp(seconds, UTC)] if seconds and "inclusionPromise" in entry else []
    stamps = claimed.verification_material.timestamp_verification_data
    return times + [stamp.tst_info.gen_time for stamp in stamps.rfc3161_timestamps] if stamps else times


def _check_times(
    bundle: Bundle, claimed: SigstoreBundle, certificate: x509.Certificate, content: Mapping[str, Any]
) -> None:
    """Raise BundleError unless logs and authority were believed when they vouched for this."""
    times = _times(claimed)
    if not _any_believed(trusted_root.logs(content, "tlogs", b64decode(_entry(claimed)["logId"]["keyId"])), times):
        raise BundleError(EXPIRED, bundle.source, "is in a log that was not believed when it was signed", _ROOTS)
    if not _any_believed(_authorities(content, certificate), times):
        raise BundleError(EXPIRED, bundle.source, "has a certificate of an authority whose time was over", _ROOTS)
    seen = certificate.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value
    for stamp in seen:
        when = stamp.timestamp.replace(tzinfo=UTC)
        if not _any_believed(trusted_root.logs(content, "ctlogs", stamp.log_id), [when]):
            raise BundleError(EXPIRED, bundle.source, "has a certificate of a log whose time was over", _ROOTS)


def _any_believed(instances: list[Mapping[str, Any]], times: list[datetime]) -> bool:
    return any(trusted_root.believed(instance, times) for instance in instances)


def _authorities(content: Mapping[str, Any], certificate: x509.Certificate) -> list[Mapping[str, Any]]:
    """Return the authorities of a root one of whose certificates issued this one."""
    return [
        authority
        for authority in content.get("certificateAuthorities", ())
        if any(
            _issued(certificate, x509.load_der_x509_certificate(b64decode(issuer["rawBytes"])))
            for issuer in authority["certChain"]["certificates"]
        )
    ]


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _refused(bundle: Bundle, claimed: SigstoreBundle, error: VerificationError) -> BundleError:
    """Return why the package refused, in a sentence."""
    start, end = claimed.signing_certificate.not_valid_before_utc, claimed.signing_certificate.not_valid_after_utc
    for time in _times(claimed):
        if not start <= time <= end:
            said = f"was signed on {time:%Y-%m-%d %H:%M} UTC, when its certificate was not valid"
            return BundleError(EXPIRED, bundle.source, f"{said} ({start:%Y-%m-%d %H:%M} to {end:%H:%M})")
    if isinstance(error, CertValidationError):
        reason = "has a certificate of no authority that the trusted root names, or names for that time"
        return BundleError(BAD_SIGNATURE, bundle.source, reason, _ROOTS)
    return BundleError(BAD_SIGNATURE, bundle.source, _reason(_REFUSALS, error, "does not pass Sigstore's verification"))


def _reason(table: tuple[tuple[str, str], ...], error: Exception, otherwise: str) -> str:
    return next((reason for words, reason in table if words in str(error)), otherwise)
