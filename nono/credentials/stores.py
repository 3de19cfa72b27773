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
from types import TracebackType

from nono.credentials import files, keystore, user_keyring
from nono.credentials.keystore import Keystore, KeystoreError
from nono.credentials.reference import FILE, NAME, SERVICE, SESSION, Reference, is_name
from nono.errors import CredentialError, StoreError

SECRET_SERVICE_STORE = "secret-service"
SESSION_STORE = "session"
FILE_STORE = "file"
STORES = (SECRET_SERVICE_STORE, SESSION_STORE, FILE_STORE)

_CHOICES = frozenset((SESSION_STORE, FILE_STORE))
_INDEX = ".stores"  # no credential's name starts with a dot
_LOCK = ".lock"


def state_home() -> str:
    """Return nono's state directory. Source: XDG Base Directory Specification (XDG_STATE_HOME)."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):  # the specification: relative paths are ignored
        base = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "nono")


class Stores:
    """The user's three stores. state_home: nono's state directory, which need not exist yet."""

    def __init__(self, state_home: str) -> None:
        self.directory = os.path.join(state_home, "credentials")

    def label(self, store: str) -> str:
        """Name a store in the user's words."""
        if store == FILE_STORE:
            return f"the file store ({self.directory})"
        return "the session keyring" if store == SESSION_STORE else keystore.keystore_name()

    def path(self, name: str) -> str:
        """Return where the file store keeps `name`."""
        return os.path.join(self.directory, name)

    def chosen(self, name: str) -> str:
        """Return the store that `put` was told for `name`: one of STORES. Raises StoreError."""
        return self._read_index().get(name, SECRET_SERVICE_STORE)

    def resolve(self, reference: Reference) -> Reference:
        """Return the reference to where a bare NAME really is; other references as they are. Raises StoreError."""
        if reference.scheme != NAME:
            return reference
        store = self.chosen(reference.name)
        if store == FILE_STORE:
            return reference._replace(scheme=FILE, name=self.path(reference.name))
        if store == SESSION_STORE:
            return reference._replace(scheme=SESSION)
        return reference

    def put(self, name: str, store: str, secret: memoryview, set_name: str) -> str:
        """Store `secret` as `name` and remember the store; return the store it was removed from, "" if none.

        The keystore's library needs the secret as bytes, so the caller must be a process that ends soon after.
        Raises CredentialError, StoreError.
        """
        if store == FILE_STORE:
            files.private_directory(self.directory)
            files.write(self.path(name), secret)
        elif store == SESSION_STORE:
            user_keyring.put(name, secret)
        else:
            with _Opened(name, set_name) as opened:
                opened.set(SERVICE, name, bytes(secret))
        before = self._remember(name, store)
        if before in (FILE_STORE, SESSION_STORE) and before != store:
            return before if self._remove_from(before, name) else ""
        return ""

    def status(self, name: str, store: str, set_name: str) -> str:
        """Return "stored", or for the keystore "locked" or "unlocked", or "" when `name` is not in `store`.

        Raises CredentialError.
        """
        if store == SECRET_SERVICE_STORE:
            with _Opened(name, set_name) as opened:
                return opened.status(SERVICE, name)
        exists = os.path.lexists(self.path(name)) if store == FILE_STORE else user_keyring.exists(name)
        return "stored" if exists else ""

    def remove(self, name: str, store: str, set_name: str) -> bool:
        """Remove `name` from `store`, and the choice of it; False when it was not there.

        Raises CredentialError, StoreError.
        """
        if store == SECRET_SERVICE_STORE:
            with _Opened(name, set_name, is_wanted=False) as opened:
                return opened.remove(SERVICE, name)
        removed = self._remove_from(store, name)
        if self.chosen(name) == store:
            self._remember(name, SECRET_SERVICE_STORE)
        return removed

    def names(self, store: str) -> list[str]:
        """Return the names of the credentials in `store`. Raises CredentialError, StoreError."""
        if store == SESSION_STORE:
            return user_keyring.names()
        if store == FILE_STORE:
            return files.names(self.directory)
        try:
            opened = keystore.open_keystore()
            try:
                return opened.accounts(SERVICE)
            finally:
                opened.close()
        except KeystoreError as exc:
            raise keystore.unavailable(exc.status) from None

    def _remove_from(self, store: str, name: str) -> bool:
        return files.remove(self.path(name)) if store == FILE_STORE else user_keyring.remove(name)

    def _read_index(self) -> dict[str, str]:
        path = self.path(_INDEX)
        try:
            with open(path, encoding="utf-8") as file:
                rows = [line.split() for line in file]
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError):
            raise StoreError(f"{path} cannot be read; it says which store holds which credential.") from None
        index = {row[0]: row[1] for row in rows if len(row) == 2 and is_name(row[0])}
        if len(index) != len(rows) or not _CHOICES.issuperset(index.values()):
            raise StoreError(
                f"{path} is damaged; its lines are a credential's name and {SESSION_STORE} or {FILE_STORE}."
            )
        return index

    def _remember(self, name: str, store: str) -> str:
        """Write the choice into the index; return the one before."""
        if store == SECRET_SERVICE_STORE and self.chosen(name) == store:
            return store
        files.private_directory(self.directory)
        lock_fd = os.open(self.path(_LOCK), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX)  # two `credential set` at once: neither choice is lost
            index = self._read_index()
            before = index.pop(name, SECRET_SERVICE_STORE)
            if store != SECRET_SERVICE_STORE:
                index[name] = store
            text = "".join(f"{name} {store}\n" for name, store in sorted(index.items()))
            files.write(self.path(_INDEX), memoryview(text.encode()))
        finally:
            os.close(lock_fd)
        return before


class _Opened:
    """The keystore, open for one operation on `name`; what it fails with becomes a CredentialError."""

    def __init__(self, name: str, set_name: str, *, is_wanted: bool = True) -> None:
        """is_wanted: see keystore.failure()."""
        self._reference = Reference(name, NAME, SERVICE, name)
        self._set_name = set_name
        self._is_wanted = is_wanted
        self._keystore: Keystore | None = None

    def __enter__(self) -> Keystore:
        try:
            self._keystore = keystore.open_keystore()
        except KeystoreError as exc:
            raise self._failure(exc) from None
        return self._keystore

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._keystore is not None:
            self._keystore.close()
        if isinstance(error, KeystoreError):
            raise self._failure(error) from None

    def _failure(self, error: KeystoreError) -> CredentialError:
        return keystore.failure(error.status, self._reference, self._set_name, is_wanted=self._is_wanted)
