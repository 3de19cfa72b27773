"""P-256: keys made, read, and used. Over the package `cryptography` (the extra `trust`).

A private key is handed around as PKCS#8 DER, a public one as the DER of its SubjectPublicKeyInfo with the point written
out (91 bytes): one key has one form, so that keys are compared as bytes. As text, a private key is base64 of the DER
(what the keystore has) or PEM; a public one is PEM or base64 of the DER. Other curves and kinds of key are refused.

No error quotes its input: it may be a key. What `cryptography` copies of a private key is beyond our reach; a process
that signs is short-lived, and never the one that runs an agent.

Source: RFC 5480 (SubjectPublicKeyInfo), RFC 5208 (PKCS#8), FIPS 186-4 (ECDSA).
"""

from __future__ import annotations


def generate() -> bytes:
    """Return a new private key, PKCS#8 DER."""
    raise NotImplementedError


def public_of(private: bytes) -> bytes:
    """Return the public key of a private one: DER. Raises UsageError for what is no P-256 key."""
    raise NotImplementedError


def fingerprint(public: bytes) -> str:
    """Return the SHA-256 of a public key's DER, 64 lower-case hex digits: the `hint` of a bundle."""
    raise NotImplementedError


def sign(private: bytes, data: bytes) -> bytes:
    """Return the ECDSA signature with SHA-256 over `data`: DER."""
    raise NotImplementedError


def verify(public: bytes, signature: bytes, data: bytes) -> bool:
    """Whether `signature` (DER) over `data` is by the key `public` (DER). Never raises for bad bytes."""
    raise NotImplementedError


def load_private(text: bytes | memoryview) -> bytes:
    """Return the private key in `text` (base64 of PKCS#8 DER, or PEM) as PKCS#8 DER. Raises UsageError."""
    raise NotImplementedError


def load_public(text: bytes | str) -> bytes:
    """Return the public key in `text` (PEM, or base64 of the DER) as DER. Raises UsageError."""
    raise NotImplementedError


def pem(public: bytes) -> str:
    """Return a public key as PEM."""
    raise NotImplementedError
