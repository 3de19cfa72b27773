"""P-256: keys made, read, and used. Over the package `cryptography` (the extra `trust`).

A private key is handed around as PKCS#8 DER, a public one as the DER of its SubjectPublicKeyInfo with the point written
out (91 bytes): one key has one form, so that keys are compared as bytes. As text, a private key is base64 of the DER
(what the keystore has) or PEM; a public one is PEM or base64 of the DER. Other curves and kinds of key are refused.

No error quotes its input: it may be a key. What `cryptography` copies of a private key is beyond our reach; a process
that signs is short-lived, and never the one that runs an agent. The package is loaded when a key is first used.

Source: RFC 5480 (SubjectPublicKeyInfo), RFC 5208 (PKCS#8), FIPS 186-4 (ECDSA).
"""

from __future__ import annotations

from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from functools import lru_cache
from hashlib import sha256
from importlib import import_module

from nono.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# SubjectPublicKeyInfo of a P-256 key up to the point: id-ecPublicKey, prime256v1, BIT STRING of 66 bytes, uncompressed.
_BEFORE_POINT = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_PUBLIC_BYTES = 91
_BEGIN = b"-----BEGIN "
_MOST_TEXT = 16 << 10
_NOT_PRIVATE = "this is not a private key that nono can use: it has to be PKCS#8 for the curve P-256, as PEM or base64"
_NOT_PUBLIC = "this is not a public key that nono can use: it has to be of the curve P-256, as PEM or base64 of its DER"
_library: list[Any] = []


def generate() -> bytes:
    """Return a new private key, PKCS#8 DER."""
    return _private_der(_crypto().ec.generate_private_key(_crypto().ec.SECP256R1()))


def public_of(private: bytes) -> bytes:
    """Return the public key of a private one: DER. Raises UsageError for what is no P-256 key."""
    return _public_der(_private(private).public_key())


@lru_cache(maxsize=4096)  # asked for each key of the policies, with each bundle
def fingerprint(public: bytes) -> str:
    """Return the SHA-256 of a public key's DER, 64 lower-case hex digits: the `hint` of a bundle."""
    return sha256(public).hexdigest()


def is_public(der: bytes) -> bool:
    """Whether `der` has the form of a P-256 key's SubjectPublicKeyInfo; whether its point is on the curve, verify()
    finds out."""
    return len(der) == _PUBLIC_BYTES and der.startswith(_BEFORE_POINT)


def sign(private: bytes, data: bytes) -> bytes:
    """Return the ECDSA signature with SHA-256 over `data`: DER."""
    signature: bytes = _private(private).sign(data, _crypto().ecdsa)
    return signature


def verify(public: bytes, signature: bytes, data: bytes) -> bool:
    """Whether `signature` (DER) over `data` is by the key `public` (DER). Never raises for bad bytes."""
    crypto = _crypto()
    if not is_public(public):
        return False
    try:
        crypto.load_der_public_key(public).verify(signature, data, crypto.ecdsa)
    except (crypto.InvalidSignature, crypto.Unsupported, ValueError):
        return False
    return True


def load_private(text: bytes | memoryview) -> bytes:
    """Return the private key in `text` (base64 of PKCS#8 DER, or PEM) as PKCS#8 DER. Raises UsageError."""
    raw = bytes(text).strip()
    if len(raw) > _MOST_TEXT:
        raise UsageError(_NOT_PRIVATE)
    crypto = _crypto()
    try:
        if raw.startswith(_BEGIN):
            return _private_der(_p256(crypto.load_pem_private_key(raw, None), crypto.ec.EllipticCurvePrivateKey))
        return _private_der(_private(a2b_base64(raw, strict_mode=True)))
    except (ValueError, TypeError, Base64Error, crypto.Unsupported, UsageError):
        raise UsageError(_NOT_PRIVATE) from None


def load_public(text: bytes | str) -> bytes:
    """Return the public key in `text` (PEM, or base64 of the DER) as DER. Raises UsageError."""
    raw = (text.encode(errors="replace") if isinstance(text, str) else text).strip()
    if len(raw) > _MOST_TEXT:
        raise UsageError(_NOT_PUBLIC)
    crypto = _crypto()
    try:
        if raw.startswith(_BEGIN):
            key = crypto.load_pem_public_key(raw)
        else:
            key = crypto.load_der_public_key(a2b_base64(raw, strict_mode=True))
        return _public_der(_p256(key, crypto.ec.EllipticCurvePublicKey))
    except (ValueError, TypeError, Base64Error, crypto.Unsupported, UsageError):
        raise UsageError(_NOT_PUBLIC) from None


def pem(public: bytes) -> str:
    """Return a public key as PEM."""
    text = b64encode(public).decode()
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return f"-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n"


class MissingLibrary(UsageError):
    """`cryptography` is not installed."""


class _Crypto:
    """What of `cryptography` is used here."""

    def __init__(self) -> None:
        exceptions = import_module("cryptography.exceptions")
        hashes = import_module("cryptography.hazmat.primitives.hashes")
        self.serialization = import_module("cryptography.hazmat.primitives.serialization")
        self.ec = import_module("cryptography.hazmat.primitives.asymmetric.ec")
        self.InvalidSignature, self.Unsupported = exceptions.InvalidSignature, exceptions.UnsupportedAlgorithm
        self.ecdsa = self.ec.ECDSA(hashes.SHA256())
        self.load_der_public_key = self.serialization.load_der_public_key
        self.load_pem_public_key = self.serialization.load_pem_public_key
        self.load_pem_private_key = self.serialization.load_pem_private_key


def _crypto() -> _Crypto:
    if not _library:
        try:
            _library.append(_Crypto())
        except ImportError:
            raise MissingLibrary(
                "verifying and signing files takes the package cryptography; install it with: pip install 'nono[trust]'"
            ) from None
    crypto: _Crypto = _library[0]
    return crypto


def _private(der: bytes) -> Any:
    crypto = _crypto()
    try:
        key = crypto.serialization.load_der_private_key(der, None)
    except (ValueError, TypeError, crypto.Unsupported):
        raise UsageError(_NOT_PRIVATE) from None
    return _p256(key, crypto.ec.EllipticCurvePrivateKey)


def _p256(key: Any, kind: Any) -> Any:
    if not isinstance(key, kind) or key.curve.name != "secp256r1":
        raise UsageError(_NOT_PRIVATE if kind is _crypto().ec.EllipticCurvePrivateKey else _NOT_PUBLIC)
    return key


def _private_der(key: Any) -> bytes:
    how = _crypto().serialization
    der: bytes = key.private_bytes(how.Encoding.DER, how.PrivateFormat.PKCS8, how.NoEncryption())
    return der


def _public_der(key: Any) -> bytes:
    how = _crypto().serialization
    der: bytes = key.public_bytes(how.Encoding.DER, how.PublicFormat.SubjectPublicKeyInfo)
    if is_public(der):
        return der
    point = key.public_bytes(how.Encoding.X962, how.PublicFormat.UncompressedPoint)  # it came with its point compressed
    return _BEFORE_POINT[:-1] + bytes(point)
