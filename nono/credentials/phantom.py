"""Phantom tokens: what the agent holds in the place of every key. Worth something only to this session's proxy."""

from __future__ import annotations

import binascii
import os

TOKEN_BYTES = 32


def new_token() -> bytes:
    """Return a fresh token: 64 lower-case hexadecimal digits from the kernel's random generator."""
    return binascii.hexlify(os.urandom(TOKEN_BYTES))
