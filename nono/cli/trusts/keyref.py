"""Which signing key is meant: --key ID (--id, for keygen and export-key), or --keyref REFERENCE. Pure.

    keystore://ID        in the platform's keystore, service `nono-trust`, account ID
    file:///PATH         a private file, PKCS#8 as base64 or PEM

A signature and a policy name the key by its key id: ID, or the whole file:// reference. References are taken literally:
no percent-decoding, no ~. What has no known form is not quoted, for it may be a key that was pasted in its place.
"""

from __future__ import annotations

from nono.errors import UsageError
from nono.policy.network import nearest
from nono.policy.verdict import shell_quoted
from nono.record import Record

DEFAULT = "default"
KEYSTORE_SCHEME = "keystore://"
FILE_SCHEME = "file://"
ID_MAX = 128
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_FORMS = f"{KEYSTORE_SCHEME}ID or {FILE_SCHEME}/PATH"


class KeyReference(Record):
    """key_id: what signatures and policies name it by. path: of the file that has the key; "" for the keystore."""

    key_id: str
    path: str = ""

    def typed(self, flag: str = "--key") -> str:
        """Return what one types to name this key, with a space before it."""
        return f" --keyref {shell_quoted(self.key_id)}" if self.path else f" {flag} {self.key_id}"


def of(key_id: str) -> KeyReference:
    """Return the key that a key id names."""
    return KeyReference(key_id, key_id.removeprefix(FILE_SCHEME) if key_id.startswith(FILE_SCHEME) else "")


def chosen(flag: str, key_id: str | None, reference: str | None) -> KeyReference:
    """Return the key that is meant. flag: of these two, the one that takes an ID. Raises UsageError."""
    if key_id is not None and reference is not None:
        raise UsageError(f"{flag} and --keyref both say which key; give one of them")
    if reference is not None:
        return _parse(reference, flag)
    if key_id is None:
        return KeyReference(DEFAULT)
    if "://" in key_id:
        if key_id.startswith((FILE_SCHEME, KEYSTORE_SCHEME)):
            raise UsageError(f"{flag} takes an ID; a reference is given with --keyref {shell_quoted(key_id)}")
        raise UsageError(f"{flag} takes an ID; a reference is given with --keyref, as {_FORMS}")
    return KeyReference(_checked_id(key_id, flag))


def _parse(reference: str, flag: str) -> KeyReference:
    if reference.startswith(KEYSTORE_SCHEME):
        return KeyReference(_checked_id(reference.removeprefix(KEYSTORE_SCHEME), f"--keyref {KEYSTORE_SCHEME}"))
    if reference.startswith(FILE_SCHEME):
        return KeyReference(reference, _checked_path(reference.removeprefix(FILE_SCHEME)))
    scheme, separator, _ = reference.partition("://")
    if separator:
        near = nearest(f"{scheme}://", (KEYSTORE_SCHEME, FILE_SCHEME)) if len(scheme) <= 16 else ""
        raise UsageError(f"--keyref takes {_FORMS}{f'; did you mean {near}?' if near else ''}")
    if reference.startswith("/"):
        better = shell_quoted(FILE_SCHEME + reference)
        raise UsageError(f"--keyref takes {_FORMS}; for a file that is: --keyref {better}")
    if _is_id(reference) and len(reference) <= 32:
        raise UsageError(f"--keyref takes {_FORMS}; an ID alone is given with: {flag} {reference}")
    raise UsageError(f"--keyref takes {_FORMS}; a key itself is never an argument")


def _is_id(text: str) -> bool:
    return 0 < len(text) <= ID_MAX and _LETTERS.issuperset(text)


def _checked_id(text: str, where: str) -> str:
    if not _is_id(text) or text.startswith("-"):
        raise UsageError(f"{where}: a key's ID is 1 to {ID_MAX} letters, digits, _ and -, and does not start with -")
    return text


def _checked_path(path: str) -> str:
    """Return the path of a file:// reference; it stands in policies and signatures, so it is text."""
    if path.startswith("~"):
        raise UsageError('--keyref: ~ is not expanded behind file://; type "file://$HOME/…"')
    if not path.startswith("/"):
        raise UsageError(f"--keyref: a file is named by its absolute path: {FILE_SCHEME}/…")
    if any(part in ("", ".", "..") for part in path[1:].split("/")):
        raise UsageError("--keyref: the path names a file, without . and .. and double slashes")
    if not path.isprintable():  # nor are the bytes of a name that is not UTF-8
        raise UsageError("--keyref: the path has a character that is no text; give the file another name")
    return path
