"""The signatures of logs (nono run --audit-sign-key), checked: by one's own keys, or by one that is named.

A signature says: this key's owner vouches for this file, with these bytes. So the statement is about the log's name,
the log is what was signed, and the key is one of CONFIG/nono/trust, or that of --public-key. A log of which the ledger
says that it was signed has its signature; with --public-key every log has.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256

from nono.audit import read, verify
from nono.audit.examine import Fault
from nono.audit.log import BUNDLE
from nono.audit.verify import Session
from nono.errors import UsageError
from nono.record import Record
from nono.session.audit_key import PREDICATE_TYPE
from nono.supervisor.whereabouts import find_place
from nono.trust import bundle, keys, own
from nono.trust.bundle import Bundle
from nono.trust.errors import BundleError

NO_SIGNATURE, WRONG_KEY, OTHER, BAD = "not signed", "wrong key", "other session", "bad signature"
_MOST_KEY = 16 << 10
_UNSIGNED = "it was to be signed, and is not: that failed, as was told at its end, or nono was killed in that instant"
_PIECE = 1 << 18


class Signed(Record):
    """What a signature comes to. by: what the user calls the key, "" for none that is good. note: a sentence."""

    by: str
    faults: tuple[Fault, ...] = ()
    note: str = ""


class Keys(Record):
    """Whose signatures are good. names: what the user calls a key, by fingerprint. demanded: every log has one."""

    names: Mapping[str, str]
    public: Mapping[str, bytes]
    demanded: bool


def keys_of(public_key: str | None) -> Keys:
    """Return the keys: the one in the file `public_key`, else the user's own. Raises UsageError, PolicyError."""
    if public_key is None:
        found = own.read(os.path.join(find_place(None, os.environ).config_home, "nono"))
        named = {keys.fingerprint(each.public_key): each for each in found}
        return Keys(
            {each: key.key_id for each, key in named.items()},
            {each: key.public_key for each, key in named.items()},
            False,
        )
    try:
        with open(public_key, "rb") as file:
            text = file.read(_MOST_KEY)
        public = keys.load_public(text[max(text.find(b"-----BEGIN "), 0) :])  # of a key in a file, its name is before
    except OSError as error:
        raise UsageError(f"--public-key {public_key} cannot be read: {error.strerror}") from None
    except UsageError as error:
        raise UsageError(f"--public-key {public_key}: {error}") from None
    mark = keys.fingerprint(public)
    return Keys({mark: public_key}, {mark: public}, True)


def check(directory: str, session: Session, trusted: Keys) -> Signed:
    """Check the signature of a session's log, as `verify` found it. Raises OSError, UsageError without the library."""
    name = session.session + read.SUFFIX
    path = os.path.join(directory, name)
    if session.state in (verify.RUNNING, verify.VANISHED, verify.REMOVED):
        return Signed("")
    if any(fault.what == verify.NO_FILE for fault in session.faults):
        return Signed("")
    try:
        with read.opened(path + BUNDLE) as file:
            data = file.read(bundle.MOST_BYTES + 1)
    except read.NoFileError as error:
        return _fault(name, BAD, f"its signature is no file: {error.strerror}")
    except FileNotFoundError:
        if session.signature or trusted.demanded:
            return _fault(name, NO_SIGNATURE, "its signature is gone" if session.signature else "no key has signed it")
        was_to_be = session.signed_by and session.state in (verify.WHOLE, verify.UNENTERED)
        return Signed("", (), f"{session.session}: {_UNSIGNED}" if was_to_be else "")
    try:
        found = bundle.parse(data, name + BUNDLE)
    except BundleError as error:
        return _fault(name, BAD, f"its signature {error.reason}")
    public = trusted.public.get(found.hint)
    if found.is_keyless or public is None:
        known = (
            "that of --public-key" if trusted.demanded else "one of yours (nono trust list; or say --public-key FILE)"
        )
        signer = found.statement.key_id or "somebody"
        return _fault(name, WRONG_KEY, f"it is signed by {signer}, fingerprint {found.hint or 'unknown'}, not {known}")
    if not keys.verify(public, found.signature, bundle.pae(found.payload_type, found.payload)):
        return _fault(name, BAD, "its signature was changed, or made for something else")
    if session.signed_by not in ("", found.hint):
        signer = trusted.names[found.hint]
        return _fault(name, WRONG_KEY, f"it is signed by {signer}, and its start names the key {session.signed_by}")
    return _about(path, name, found, trusted.names[found.hint])


def _about(path: str, name: str, found: Bundle, by: str) -> Signed:
    """Hold a good signature against the log."""
    statement = found.statement
    if statement.predicate_type != PREDICATE_TYPE or len(statement.subjects) != 1:
        return _fault(name, OTHER, "this is not the signature of a log")
    ((subject, digest),) = statement.subjects
    if subject != name:
        return _fault(name, OTHER, f"this is the signature of {subject}")
    actual = sha256()
    with read.opened(path) as file:
        while piece := file.read(_PIECE):
            actual.update(piece)
    if actual.hexdigest() != digest:
        records = statement.predicate.get("records")
        return _fault(name, "changed", f"the log is not the one that was signed, which had {records} records")
    return Signed(by)


def _fault(name: str, what: str, detail: str) -> Signed:
    return Signed("", (Fault(name, 0, what, detail),))
