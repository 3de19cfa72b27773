"""The chain of records that audit logs and their ledger are made of: how one is sealed, and read again.

A record is one line, a JSON object whose first member is its number, from 1, and whose last is its hash:

    {"n":2,"kind":"exchange",…,"hash":"9f86d08…"}

The hash is SHA-256 over the 64 hex digits of the hash before (64 zeros before the first record), followed by the bytes
of the line up to, and without, `,"hash"`. So no byte of a file can change, and no line come, go or move, without a
record that no longer follows from the one before it: verify.py. Nothing here is secret: whoever may write the file can
also seal what he writes. What keeps the agent from it is the sandbox, not the chain.

A write that was cut off (nono was killed, the machine lost power) leaves half a record. Whoever writes on behind it
ends its line, and says in the next record, as its last member, what stands there: `"torn":"SHA-256 of the half"`.

The start is hashed by the interpreter's own SHA-256: OpenSSL's takes 3.5 ms to import, before the agent starts. Once
the proxy has loaded that anyway, it hashes the rest (0.8 µs for a record instead of 2.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from sys import modules

from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha2 import sha256  # Python 3.12
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:  # an interpreter that was built without
            from hashlib import sha256

__all__ = ["NOTHING", "Link", "digest", "follows", "is_half", "parse", "seal", "sha256", "torn"]
NOTHING = b"0" * 64  # before the first record
_OPENS = b'{"n":'
_CLOSES = b',"hash":"'
_TAIL = len(_CLOSES) + 64 + len(b'"}')
_HEX = frozenset(b"0123456789abcdef")
_DIGITS = frozenset(b"0123456789")


class Link(Record):
    """One line of a chain, taken apart. body: what is hashed, besides the hash before."""

    number: int
    body: bytes
    hash: bytes


def seal(number: int, previous: bytes, texts: Iterable[str]) -> tuple[bytes, int, bytes]:
    """Return the lines of records, with the number and the hash of the last one.

    number, previous: those of the record before. texts: the members of each, as JSON, without braces.
    """
    lines = []
    hashed = getattr(modules.get("_hashlib"), "openssl_sha256", sha256)
    for text in texts:
        number += 1
        body = f'{{"n":{number},{text}'.encode()
        previous = hashed(previous + body).hexdigest().encode()
        lines.append(b'%b,"hash":"%b"}\n' % (body, previous))
    return b"".join(lines), number, previous


def follows(link: Link, previous: bytes) -> bool:
    """Whether this record is what was sealed behind the one with the hash `previous`."""
    return digest(previous, link.body) == link.hash


def digest(previous: bytes, body: bytes) -> bytes:
    """Return the hash of a record, as it stands in its line."""
    return sha256(previous + body).hexdigest().encode()


def parse(line: bytes) -> Link | None:
    """Return a line of a chain, taken apart; None for one that is no whole record. `line` without its newline."""
    body, tail = line[:-_TAIL], line[-_TAIL:]
    if not (body.startswith(_OPENS) and tail.startswith(_CLOSES) and tail.endswith(b'"}')):
        return None
    value = tail[len(_CLOSES) : -2]
    digits = body[len(_OPENS) : len(_OPENS) + 20].partition(b",")[0]
    if not (digits and _DIGITS.issuperset(digits) and digits[0] != 0x30 and _HEX.issuperset(value)):
        return None
    return Link(int(digits), body, value)


def is_half(data: bytes, number: int, previous: bytes) -> bool:
    """Whether `data` is what a write leaves that was cut off: the record behind number `number`, up to some byte.

    previous: the hash of that record. Zeros at the end are those of a file system that had no time for the data.
    """
    half = data.rstrip(b"\0")
    opening = b"%b%d," % (_OPENS, number + 1)
    if b"\n" in half or not (half.startswith(opening) or opening.startswith(half)):
        return False
    closing = half.find(_CLOSES)
    if closing < 0 or len(half) < closing + _TAIL:
        return True
    link = parse(half)
    return link is not None and len(half) == len(data) and follows(link, previous)


def torn(half: bytes) -> str:
    """Return the member, as JSON, by which a record says what stands before it."""
    return f'"torn":"{sha256(half).hexdigest()}"'
