"""A certificate of Fulcio -> the identity that it certifies. Over the package `cryptography`.

Only for a certificate that was verified (keyless.py). Fulcio writes what it learnt from the identity provider's token
into extensions below 1.3.6.1.4.1.57264.1: since 2023 as DER UTF8Strings, before as bare text (v1), which is read where
the newer one is missing. An extension that is neither is refused, not passed over: what cannot be read must not count
as absent.

Normalised as the Rust tool does, so that one policy serves both: a repository on GitHub is "org/repo", the workflow its
path in there. One that belongs to another repository stays a URI, and so never passes for a path in this one.

Source: Fulcio docs/oid-info.md; ITU-T X.690 section 8.23 (UTF8String).
"""

from __future__ import annotations

from cryptography import x509

from nono.trust.errors import MALFORMED, BundleError
from nono.trust.policy import Keyless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_ARC = "1.3.6.1.4.1.57264.1."
_ISSUER_V1, _REPOSITORY_V1, _REF_V1, _OTHER_NAME = (f"{_ARC}{number}" for number in (1, 5, 6, 7))
_ISSUER, _SIGNER, _REPOSITORY, _REF, _CONFIG = (f"{_ARC}{number}" for number in (8, 9, 12, 14, 18))
_GITHUB = "https://github.com/"
_UTF8_STRING = 0x0C
_MOST_BYTES = 4096


class _NotText(Exception):
    """An extension is not what Fulcio writes."""


def identity_in(certificate: x509.Certificate, source: str) -> Keyless:
    """Return the identity in a verified certificate. source: its bundle, for messages. Raises BundleError."""
    try:
        extensions = {
            extension.oid.dotted_string: extension.value.value
            for extension in certificate.extensions
            if isinstance(extension.value, x509.UnrecognizedExtension)
        }
        issuer = _text(extensions, _ISSUER, _ISSUER_V1)
        if _ISSUER in extensions and _bare(extensions.get(_ISSUER_V1, issuer.encode())) != issuer:
            raise _NotText
        repository = _text(extensions, _REPOSITORY, _REPOSITORY_V1).removeprefix(_GITHUB).rstrip("/")
        return Keyless(
            issuer=issuer,
            repository=repository,
            workflow=_workflow(_text(extensions, _CONFIG), repository),
            ref=_text(extensions, _REF, _REF_V1),
            build_signer_uri=_text(extensions, _SIGNER),
            san=_san(certificate),
        )
    except (_NotText, ValueError, x509.ExtensionNotFound, x509.UnsupportedGeneralNameType):
        raise BundleError(MALFORMED, source, "has a certificate whose identity cannot be read") from None


def _text(extensions: Mapping[str, bytes], oid: str, oid_v1: str = "") -> str:
    """Return an extension's text; that of its older form where it is missing; "" where both are."""
    if oid in extensions:
        return _der_text(extensions[oid])
    return _bare(extensions[oid_v1]) if oid_v1 in extensions else ""


def _workflow(uri: str, repository: str) -> str:
    """Return the workflow's path in its repository: "https://github.com/org/repo/PATH@REF" -> PATH."""
    path, at, _ = uri.rpartition("@refs/")  # the last one: a path with another one in it must not pass for a shorter
    if not at:
        path = uri.rpartition("@")[0] or uri
    if repository and "://" not in repository:
        path = path.removeprefix(f"{_GITHUB}{repository}/")
    return path.rstrip("/")


def _san(certificate: x509.Certificate) -> str:
    """Return the one subject alternative name: a URI, an e-mail address, or what Fulcio calls a user name."""
    names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    if len(names) != 1:
        raise _NotText
    (name,) = names
    if isinstance(name, x509.UniformResourceIdentifier | x509.RFC822Name):
        return name.value
    if isinstance(name, x509.OtherName) and name.type_id.dotted_string == _OTHER_NAME:
        return _der_text(name.value)
    raise _NotText


def _der_text(data: bytes) -> str:
    """Return the text of a DER UTF8String that fills `data`."""
    if len(data) < 2 or data[0] != _UTF8_STRING:
        raise _NotText
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start])
        if start == 2 or length < 0x80 or data[2] == 0:
            raise _NotText  # not the shortest form, which DER wants
    if len(data) != start + length:
        raise _NotText
    return _bare(data[start:])


def _bare(data: bytes) -> str:
    if len(data) > _MOST_BYTES:
        raise _NotText
    return data.decode()
