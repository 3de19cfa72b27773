"""Where `nono credential` keeps what it is given, and where a bare NAME is looked for.

Three stores. `secret-service` is the platform's keystore (on macOS the Keychain) and the default. `session` is the
kernel's user keyring: in memory, until reboot. `file` is a private file in the state directory.

A bare NAME means the keystore, unless the user chose another store for it when setting it. That choice is remembered in
an index file beside the file store, one line `NAME STORE` each, so that `set --store file` and then `--credential NAME`
is all there is to do on a machine without a keystore; nothing is ever looked for in a second place. The index chooses
between stores, never code, and the child can write neither it nor anything else in the state directory.
"""

from __future__ import annotations

import fcntl
import os
from typing import NamedTuple

from nono.credentials import files, keystore, user_keyring
from nono.credentials.keystore import Keystore, KeystoreError
from nono.credentials.reference import FILE, NAME, SERVICE, SESSION, Reference
from nono.errors import CredentialError, StoreError

SECRET_SERVICE_STORE = "secret-service"
SESSION_STORE = "session"
FILE_STORE = "file"
STORES = (SECRET_SERVICE_STORE, SESSION_STORE, FILE_STORE)

_INDEX = ".stores"  # no credential's name starts with a dot
_LOCK = ".lock"


class Found(NamedTuple):
    """Where a credential is. state: what else is to say about it, such as "locked"; "" nothing."""

    store: str
    state: str


def directory() -> str:
    """Return the file store's directory. Source: XDG Base Directory Specification (XDG_STATE_HOME)."""
    state_home = os.environ.get("XDG_STATE_HOME", "")
    if not state_home.startswith("/"):  # the specification: relative paths are ignored
        state_home = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state_home, "nono", "credentials")


def store_label(store: str) -> str:
    """Name a store in the user's words."""
    if store == FILE_STORE:
        return f"the file store ({directory()})"
    return "the session keyring" if store == SESSION_STORE else keystore.keystore_name()


def chosen_store(name: str) -> str:
    """Return the store that `set` chose for `name`: one of STORES."""
    return _read_index().get(name, SECRET_SERVICE_STORE)


def resolve(reference: Reference) -> Reference:
    """Return the reference to where a bare NAME really is; other references as they are."""
    if reference.scheme != NAME:
        return reference
    store = chosen_store(reference.name)
    if store == FILE_STORE:
        return reference._replace(scheme=FILE, name=_path(reference.name))
    if store == SESSION_STORE:
        return reference._replace(scheme=SESSION)
    return reference


def put(name: str, store: str, secret: memoryview, set_name: str) -> str:
    """Store `secret` as `name` and remember the store; return the store it was removed from, "" if none.

    The keystore's library needs the secret as bytes, so the caller must be a process that ends soon after.
    Raises CredentialError, StoreError.
    """
    if store == FILE_STORE:
        files.private_directory(directory())
        files.write(_path(name), secret)
    elif store == SESSION_STORE:
        user_keyring.put(name, secret)
    else:
        opened = _open(name, set_name)
        try:
            opened.set(SERVICE, name, bytes(secret))
        except KeystoreError as exc:
            raise _failure(exc, name, set_name) from None
        finally:
            opened.close()
    before = _remember(name, store)
    if before in (FILE_STORE, SESSION_STORE) and before != store:
        return before if _remove_from(before, name) else ""
    return ""


def find(name: str, set_name: str) -> Found | None:
    """Say where `name` is, None when it is not where it would be looked for. Raises CredentialError, StoreError."""
    store = chosen_store(name)
    if store == FILE_STORE:
        return Found(store, "") if os.path.lexists(_path(name)) else None
    if store == SESSION_STORE:
        return Found(store, "") if user_keyring.exists(name) else None
    opened = _open(name, set_name)
    try:
        state = opened.status(SERVICE, name)
    except KeystoreError as exc:
        raise _failure(exc, name, set_name) from None
    finally:
        opened.close()
    return Found(store, state) if state else None


def remove(name: str, set_name: str) -> str:
    """Remove `name` from its store and forget the choice; return the store, "" when it was not there."""
    store = chosen_store(name)
    if store == SECRET_SERVICE_STORE:
        opened = _open(name, set_name)
        try:
            removed = opened.remove(SERVICE, name)
        except KeystoreError as exc:
            raise _failure(exc, name, set_name) from None
        finally:
            opened.close()
    else:
        removed = _remove_from(store, name)
        _remember(name, SECRET_SERVICE_STORE)
    return store if removed else ""


def names() -> tuple[list[tuple[str, str]], CredentialError | None]:
    """Return (name, store) of every credential, sorted, and why the keystore's are missing, if they are."""
    index = _read_index()
    found = [(name, store) for name, store in index.items() if _exists(name, store)]
    failure = None
    try:
        opened = keystore.open_keystore()
        try:
            found += [(name, SECRET_SERVICE_STORE) for name in opened.accounts(SERVICE) if name not in index]
        finally:
            opened.close()
    except KeystoreError as exc:
        failure = keystore.unavailable(exc.status)
    return sorted(found), failure


def _exists(name: str, store: str) -> bool:
    return os.path.lexists(_path(name)) if store == FILE_STORE else user_keyring.exists(name)


def _remove_from(store: str, name: str) -> bool:
    return files.remove(_path(name)) if store == FILE_STORE else user_keyring.remove(name)


def _open(name: str, set_name: str) -> Keystore:
    try:
        return keystore.open_keystore()
    except KeystoreError as exc:
        raise _failure(exc, name, set_name) from None


def _failure(error: KeystoreError, name: str, set_name: str) -> CredentialError:
    return keystore.failure(error.status, Reference(name, NAME, SERVICE, name), set_name)


def _path(name: str) -> str:
    return os.path.join(directory(), name)


def _read_index() -> dict[str, str]:
    path = _path(_INDEX)
    try:
        with open(path, encoding="ascii") as file:
            rows = [line.split() for line in file]
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError):
        raise StoreError(f"{path} cannot be read; it says where credentials are stored.") from None
    index = {row[0]: row[1] for row in rows if len(row) == 2}
    if len(index) != len(rows) or not all(store in STORES for store in index.values()):
        raise StoreError(f"{path} is damaged; each line is a credential's name and {SESSION_STORE} or {FILE_STORE}.")
    return index


def _remember(name: str, store: str) -> str:
    """Write the choice into the index; return the one before."""
    if store == SECRET_SERVICE_STORE and name not in _read_index():
        return SECRET_SERVICE_STORE
    files.private_directory(directory())
    lock_fd = os.open(_path(_LOCK), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX)  # two `credential set` at once: neither choice is lost
        index = _read_index()
        before = index.pop(name, SECRET_SERVICE_STORE)
        if store != SECRET_SERVICE_STORE:
            index[name] = store
        text = "".join(f"{name} {store}\n" for name, store in sorted(index.items()))
        files.write(_path(_INDEX), memoryview(text.encode("ascii")))
    finally:
        os.close(lock_fd)
    return before
