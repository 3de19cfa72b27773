"""A bundle by a certificate of Fulcio -> who signed it. Offline, over the package `sigstore` (the extra `trust`).

The package verifies: a signed time (of Rekor, or of a timestamp authority); the certificate's chain to
an authority of the trusted root, at that time; the certificate transparency log's signature on it; the entry in Rekor,
by its Merkle proof, its checkpoint, and its promise; the signature over the payload; and that the entry is about this
signature. Here:

- the package gets no more of the trusted root than what counts for this bundle: the logs that it and its certificate
  name, and the authorities, which were believed at the times that it carries. By itself it would take the key of a log
  or the certificate of an authority whose time was over, and any log's key for a name that it does not find;
- what was verified is, byte for byte, what bundle.py read: two parsers, one meaning;
- who it is is read from the certificate that was verified, never from the statement.

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
from functools import lru_cache

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
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from nono.trust.bundle import Bundle
    from nono.trust.policy import Keyless
    from nono.trust.trusted_root import TrustRoot

_ROOTS = (
    "if the signer is right, the trusted root is too old or not his: pip install -U sigstore, or --trusted-root FILE"
)

_CONFIG_TYPE = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
_SIGNING_TYPE = "application/vnd.dev.sigstore.signingconfig.v0.2+json"

# It logs to nobody's terminal: what is wrong is in our sentences.
logging.getLogger("sigstore").addHandler(logging.NullHandler())

_NO_CT_LOG = "has a certificate that no certificate log of the trusted root has seen"

# What the package says when it refuses -> what is wrong. The first whose words are in its message.
_REFUSALS = (
    ("inclusion proof contains", "has a wrong inclusion proof: the signature is not in Rekor"),
    ("not enough sources of verified time", "carries no time that an authority or log of the trusted root signed"),
    ("no Timestamp Authorities have been provided", "carries a timestamp of no authority in the trusted root"),
    ("SCT", _NO_CT_LOG),
    ("SET", "has an entry in Rekor whose promise was not signed by that log"),
    ("checkpoint", "has an inclusion proof whose checkpoint was not signed by that log"),
    ("note must contain", "has an inclusion proof with a checkpoint that is none"),
    ("malformed", "has an inclusion proof with a checkpoint that is none"),
    ("nclusion proof", "has a wrong inclusion proof, or one whose checkpoint is of another tree"),
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
    content = content_of(root)
    try:
        with warnings.catch_warnings(action="ignore"):
            return _identity_of(bundle, content, root.source)
    except (BundleError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001  (a panic of its Rust parts is no Exception)
        raise BundleError(MALFORMED, bundle.source, "is not a bundle that can be verified") from None


@lru_cache(maxsize=4)
def content_of(root: TrustRoot) -> Mapping[str, Any]:
    """Return the JSON of a root that the package takes for one."""
    content = trusted_root.parse(root)
    _verifier(content, root.source)
    return content


def _identity_of(bundle: Bundle, content: Mapping[str, Any], source: str) -> Keyless:
    try:
        claimed = SigstoreBundle.from_json(bundle.raw)
    except InvalidBundle as error:
        raise BundleError(MALFORMED, bundle.source, _reason(_UNREADABLE, error, "is not a Sigstore bundle")) from None
    if "dsseEnvelope" not in _fields(claimed):
        raise BundleError(MALFORMED, bundle.source, "signs the bytes of a file, not a statement about it")
    reader, counts = _Reader(), _what_counts(bundle, claimed, content)
    try:
        verified = _verifier(counts, source).verify_dsse(claimed, reader)
    except VerificationError as error:
        raise _refused(bundle, claimed, counts, error) from None
    if verified != (bundle.payload_type, bundle.payload):
        raise BundleError(MALFORMED, bundle.source, "reads differently to another reader")
    return identity_in(reader.certificate, bundle.source)


def configuration(content: Mapping[str, Any], signing: Mapping[str, Any] | None = None) -> ClientTrustConfig:
    """Return the package's configuration: this root and nothing else. No TUF, nothing from the package's own cache."""
    parts = {
        "mediaType": _CONFIG_TYPE,
        "trustedRoot": content,
        "signingConfig": signing or {"mediaType": _SIGNING_TYPE},
    }
    return ClientTrustConfig.from_json(json.dumps(parts))


def _verifier(content: Mapping[str, Any], source: str) -> Verifier:
    try:
        return Verifier(trusted_root=configuration(content).trusted_root)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001  (see above)
        raise PolicyError(f"{source} is not a trusted root of Sigstore") from None


def _what_counts(bundle: Bundle, claimed: SigstoreBundle, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the root with only the logs that the bundle names and the authorities, believed at the bundle's times."""
    times = _times(bundle, claimed)
    named = trusted_root.logs(content, "tlogs", b64decode(_entry(claimed)["logId"]["keyId"]))
    counts = {
        "tlogs": _believed(named, times),
        "certificateAuthorities": _believed(content["certificateAuthorities"], times),
    }
    if not counts["tlogs"]:
        reason = (
            "is in a log that was not to be believed any more" if named else "is in a log that the root does not name"
        )
        raise BundleError(EXPIRED if named else BAD_SIGNATURE, bundle.source, reason, _ROOTS)
    if not counts["certificateAuthorities"]:
        raise BundleError(EXPIRED, bundle.source, "was signed when no authority of the root was believed", _ROOTS)
    kind = x509.PrecertificateSignedCertificateTimestamps
    extensions = claimed.signing_certificate.extensions
    stamps = [stamp for extension in extensions if isinstance(extension.value, kind) for stamp in extension.value]
    if stamps:
        counts["ctlogs"] = [
            log
            for stamp in stamps
            for log in _believed(
                trusted_root.logs(content, "ctlogs", stamp.log_id), [stamp.timestamp.replace(tzinfo=UTC)]
            )
        ]
        if not counts["ctlogs"]:
            raise BundleError(BAD_SIGNATURE, bundle.source, _NO_CT_LOG, _ROOTS)
    return {**content, **counts}


def _believed(instances: Iterable[Mapping[str, Any]], times: list[datetime]) -> list[Mapping[str, Any]]:
    return [instance for instance in instances if trusted_root.believed(instance, times)]


def _fields(claimed: SigstoreBundle) -> dict[str, Any]:
    """Return what the package read, under the names of the specification, however they were spelt."""
    fields: dict[str, Any] = json.loads(claimed.to_json())
    return fields


def _entry(claimed: SigstoreBundle) -> dict[str, Any]:
    (entry,) = _fields(claimed)["verificationMaterial"]["tlogEntries"]
    return dict(entry)


def _times(bundle: Bundle, claimed: SigstoreBundle) -> list[datetime]:
    """Return when the bundle says that it was signed: Rekor's time, and those of timestamp authorities."""
    entry = _entry(claimed)
    seconds = int(entry.get("integratedTime", 0))
    times = [datetime.fromtimestamp(seconds, UTC)] if seconds and "inclusionPromise" in entry else []
    try:
        stamps = claimed.verification_material.timestamp_verification_data
    except VerificationError:
        raise BundleError(MALFORMED, bundle.source, "carries a timestamp that cannot be read") from None
    return times + [stamp.tst_info.gen_time for stamp in stamps.rfc3161_timestamps] if stamps else times


def _refused(
    bundle: Bundle, claimed: SigstoreBundle, counts: Mapping[str, Any], error: VerificationError
) -> BundleError:
    """Return why the package refused, in a sentence."""
    certificate = claimed.signing_certificate
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    for time in _times(bundle, claimed):
        if not start <= time <= end:
            said = f"was signed on {time:%Y-%m-%d %H:%M} UTC, when its certificate was not valid"
            return BundleError(EXPIRED, bundle.source, f"{said} ({start:%Y-%m-%d %H:%M} to {end:%H:%M})")
        if isinstance(error, CertValidationError) and any(
            not issuer.not_valid_before_utc <= time <= issuer.not_valid_after_utc
            for issuer in _issuers(certificate, counts)
        ):
            said = f"was signed on {time:%Y-%m-%d %H:%M} UTC, when the certificate of its authority was not valid"
            return BundleError(EXPIRED, bundle.source, said)
    if isinstance(error, CertValidationError):
        reason = "has a certificate of no authority that the trusted root names for that time"
        return BundleError(BAD_SIGNATURE, bundle.source, reason, _ROOTS)
    return BundleError(BAD_SIGNATURE, bundle.source, _reason(_REFUSALS, error, "does not pass Sigstore's verification"))


def _issuers(certificate: x509.Certificate, content: Mapping[str, Any]) -> Iterator[x509.Certificate]:
    """Yield the certificates of a root by whose key this one is signed. (Each in a root is believed by itself.)"""
    for authority in content["certificateAuthorities"]:
        for each in authority["certChain"]["certificates"]:
            issuer = x509.load_der_x509_certificate(b64decode(each["rawBytes"]))
            try:
                certificate.verify_directly_issued_by(issuer)
            except (ValueError, TypeError, InvalidSignature):
                continue
            yield issuer


def _reason(table: tuple[tuple[str, str], ...], error: Exception, otherwise: str) -> str:
    said = "\n".join(line.partition(" [type=")[0] for line in str(error).splitlines())  # without what it quotes
    return next((reason for words, reason in table if words in said), otherwise)
