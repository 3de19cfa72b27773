"""A run's audit log, signed at its end (`--audit-sign-key`), by a key of `nono trust keygen`.

The key is loaded with the run's credentials, so it is in locked memory, denied to the agent, and wiped at the end; it
is refused before the agent starts when it cannot be had or is no key. What signs is a process of its own, forked for
that and gone at once, which gets the key by a pipe: so that no copy that a library makes lies in the supervisor's own
memory (P2), and the library is never loaded there.

What is signed is an in-toto statement: the log's name and SHA-256, and how many records it has and the hash of the
last, as its ledger says them. audit/ knows nothing of keys: it is handed a Signer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module

from nono.credentials.reference import FILE, KEYRING, SIGNING, Reference, parse
from nono.errors import NonoError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.audit.log import Signer
    from nono.credentials.loading import Credential

NAME = "--audit-sign-key"  # among the credentials of a run
PREDICATE_TYPE = "https://nono.sh/attestation/audit-log/v1"
_KEYSTORE = "keystore://"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_MOST_BYTES = 1 << 20
_OK, _FAILED = b"+", b"-"


def reference_of(text: str) -> Reference:
    """Return where the key is. Raises UsageError, which does not quote it: it may be a key that was pasted there."""
    if text.startswith(_KEYSTORE):
        key_id = text.removeprefix(_KEYSTORE)
        if key_id and _LETTERS.issuperset(key_id):
            return Reference(f"keyring://{SIGNING}/{key_id}", KEYRING, SIGNING, key_id)
    elif text.startswith(f"{FILE}:///"):
        return parse(text)._replace(service=SIGNING)
    raise UsageError(f"{NAME} takes {_KEYSTORE}ID or file:///PATH, a key of: nono trust keygen")


def signer(text: str, credentials: Mapping[str, Credential]) -> Signer | None:
    """Return who signs the log of a run; None where nobody is asked to. Raises UsageError for what is no key."""
    if not text:
        return None
    key = credentials[NAME].view
    key_id = text.removeprefix(_KEYSTORE)
    fingerprint = _apart(key, _fingerprint).decode()
    made: Signer = import_module("nono.audit.log").Signer(fingerprint, partial(_sign, key, key_id))
    return made


def _sign(key: memoryview, key_id: str, name: str, sha256: str, records: int, last: str) -> bytes:
    return _apart(key, partial(_bundle, key_id, name, sha256, records, last))


def _fingerprint(private: bytes) -> bytes:
    keys = import_module("nono.trust.keys")
    mark: str = keys.fingerprint(keys.public_of(private))
    return mark.encode()


def _bundle(key_id: str, name: str, sha256: str, records: int, last: str, private: bytes) -> bytes:
    signing = import_module("nono.trust.signing")
    signer = signing.keyed(key_id)
    payload = signing.statement([(name, sha256)], PREDICATE_TYPE, signer, records=records, last=last)
    made: bytes = signing.sign(payload, private)
    return made


def _apart(key: memoryview, made_of: Callable[[bytes], bytes]) -> bytes:
    """Return what another process makes of the key (PKCS#8 DER). Raises UsageError, OSError."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(to_write)
        os.close(from_read)
        _work(to_read, from_write, made_of)
    for fd in (to_read, from_write):
        os.close(fd)
    try:
        try:
            os.write(to_write, key)  # a pipe takes all of it: a credential has 16 KiB at most
        except BrokenPipeError:
            pass  # it has ended; what it answered says why
        finally:
            os.close(to_write)
        answer = b""
        while len(answer) < _MOST_BYTES and (piece := os.read(from_read, _MOST_BYTES)):
            answer += piece
    finally:
        os.close(from_read)
        os.waitpid(pid, 0)
    if not answer.startswith(_OK):
        raise UsageError(answer.removeprefix(_FAILED).decode(errors="replace") or "the process that signs ended early")
    return answer[1:]


def _work(to_read: int, from_write: int, made_of: Callable[[bytes], bytes]) -> None:
    """Child: answer, and end, whatever happens. It runs nothing else of its parent's."""
    try:
        answer = _FAILED
        try:
            answer = _OK + made_of(import_module("nono.trust.keys").load_private(_all_of(to_read)))
        except NonoError as error:
            answer = _FAILED + f"{NAME}: {error}".encode()
        while answer:
            answer = answer[os.write(from_write, answer) :]
    finally:
        os._exit(0)


def _all_of(fd: int) -> bytes:
    data = b""
    while piece := os.read(fd, _MOST_BYTES):
        data += piece
    return data
