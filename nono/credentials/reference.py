"""Read a `credential_key`: which source a credential comes from.

Pure: looks at the text only, never at a source. Forms:

    NAME                        service `nono`, account NAME, in the store that `nono credential set` chose for it
    keyring://SERVICE/ACCOUNT   the platform keystore, another program's item
    session://NAME              the kernel's user keyring, in memory until reboot
    file:///PATH                a private file
    env://VAR                   an environment variable of nono itself

Texts are taken literally: no percent-decoding. A text that has none of these forms is not quoted in the error, for it
may be a key that was pasted in the place of its name.
"""

from __future__ import annotations

from nono.errors import PolicyError
from nono.record import Record

NAME = "name"
KEYRING = "keyring"
SESSION = "session"
FILE = "file"
ENV = "env"

SERVICE = "nono"
SIGNING = "nono-trust"  # the service of keys that sign
NAME_MAX = 128
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAME_FIRST = frozenset(_LETTERS + "0123456789_")
_NAME_REST = _NAME_FIRST | frozenset(".-@")
_VARIABLE_FIRST = frozenset(_LETTERS + "_")
_VARIABLE_REST = _VARIABLE_FIRST | frozenset("0123456789")

_FORMS = "NAME, keyring://SERVICE/ACCOUNT, session://NAME, file:///PATH or env://VAR"


class Reference(Record):
    """Where one credential is: `scheme` is one of the constants above, `text` what was written.

    service: of NAME and KEYRING; SIGNING also of a file with such a key. name: the account, name, absolute path or
    variable.
    """

    text: str
    scheme: str
    service: str
    name: str


def is_name(text: str) -> bool:
    """Whether `text` may name a credential: a file name in every store, and a word in every shell."""
    return 0 < len(text) <= NAME_MAX and text[0] in _NAME_FIRST and all(letter in _NAME_REST for letter in text)


def parse(text: str) -> Reference:
    """Return the Reference that `text` writes. Raises PolicyError."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        if not is_name(text):
            raise PolicyError(
                f"A credential's name has 1 to {NAME_MAX} letters, digits and . _ - @, and starts with a letter, "
                f"digit or _; a credential_key is {_FORMS}."
            )
        return Reference(text, NAME, SERVICE, text)
    if scheme == KEYRING:
        service, _, account = rest.partition("/")
        if not (service and account and service.isprintable() and account.isprintable()):
            raise PolicyError("A keyring:// credential_key is keyring://SERVICE/ACCOUNT, without control characters.")
        return Reference(text, KEYRING, service, account)
    if scheme == SESSION:
        if not is_name(rest):
            raise PolicyError(
                f"A session:// credential_key is session://NAME; NAME has 1 to {NAME_MAX} letters, digits and . _ - @."
            )
        return Reference(text, SESSION, "", rest)
    if scheme == FILE:
        if not rest.startswith("/") or "\0" in rest or any(part in ("", ".", "..") for part in rest[1:].split("/")):
            raise PolicyError("A file:// credential_key is file:///PATH, an absolute path to a file without . and ..")
        return Reference(text, FILE, "", rest)
    if scheme == ENV:
        if not rest or rest[0] not in _VARIABLE_FIRST or not all(letter in _VARIABLE_REST for letter in rest):
            raise PolicyError("An env:// credential_key is env://VAR, and VAR names an environment variable.")
        return Reference(text, ENV, "", rest)
    if is_name(scheme) and len(scheme) <= 16:
        raise PolicyError(f"Credentials cannot be read from {scheme}://; a credential_key is {_FORMS}.")
    raise PolicyError(f"This credential_key has no known form; it is {_FORMS}.")
