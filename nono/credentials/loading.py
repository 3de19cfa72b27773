"""Load the credentials of one run: start early, collect before the child exists, wipe at the end.

`start` opens the keystore, if one of the credentials is there; `collect` reads them all, straight into locked memory.
It returns before the child exists, so an unknown credential is refused before anything runs. All credentials are wiped
when the Loader is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

from nono.credentials import env, files, keystore, user_keyring
from nono.credentials.credential import Credential
from nono.credentials.env import HandedOver
from nono.credentials.keystore import DEFAULT_LIMITS, Keystore, KeystoreError, Limits, open_keystore
from nono.credentials.reference import ENV, FILE, KEYRING, NAME, SESSION, SIGNING, Reference
from nono.credentials.stores import FILE_STORE, SESSION_STORE, Stores
from nono.kernel.secretmem import SecretBuffer
from nono.policy.network import builtin_routes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["Credential", "Loader"]


class Loader:
    """Loads credentials and owns them. A context manager; leaving it wipes them all.

    state_home: nono's state directory. handed_over: what env.hand_over returned.
    limits: how long the keystore and the user may take.
    notice: told, in one line, what the user should know or do while the run waits.
    """

    def __init__(
        self,
        state_home: str,
        handed_over: Mapping[str, HandedOver] | None = None,
        *,
        limits: Limits = DEFAULT_LIMITS,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._stores = Stores(state_home)
        self._handed_over = handed_over or {}
        self._limits = limits
        self._notice = notice
        self._wanted: dict[Reference, list[str]] = {}  # each source once, and the names it is wanted under
        self._keystore: Keystore | None = None
        self._credentials: dict[Reference, Credential] = {}

    def start(self, references: Mapping[str, Reference]) -> None:
        """Find out where the credentials are, and open the keystore if one is there.

        references: by route name.
        Raises StoreError when it cannot be known where a NAME is stored, CredentialError when there is no keystore.
        """
        for name, reference in references.items():
            self._wanted.setdefault(self._stores.resolve(reference), []).append(name)
        for reference in self._wanted:
            if reference.scheme in (NAME, KEYRING):
                try:
                    self._keystore = open_keystore(self._limits, self._on_prompt, keystore.IN_SUPERVISOR)
                except KeystoreError as exc:
                    raise keystore.failure(exc.status, reference, self._set_name(reference)) from None
                break

    def collect(self) -> dict[str, Credential]:
        """Return every credential, by route name; they stay the Loader's. Raises CredentialError."""
        for reference in self._wanted:
            store, buffer, length, what = self._read(reference)
            for_signing = (reference.scheme, reference.service) == (FILE, SIGNING)  # which no credential_key says
            self._credentials[reference] = Credential(
                reference.text, store, buffer, length, what, for_signing=for_signing
            )
        self._close_keystore()
        return {name: self._credentials[reference] for reference, names in self._wanted.items() for name in names}

    def close(self) -> None:
        """Wipe every credential and close the keystore; again is harmless."""
        while self._credentials:
            self._credentials.popitem()[1].close()
        self._close_keystore()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _close_keystore(self) -> None:
        opened, self._keystore = self._keystore, None
        if opened is not None:
            opened.close()

    def _on_prompt(self) -> None:
        self._notice(f"{keystore.keystore_name()} is locked: answer its dialog to go on")

    def _read(self, reference: Reference) -> tuple[str, SecretBuffer, int, str]:
        """Read one source: return its store, the buffer, the length in it, and what it is called."""
        if self._keystore is not None and reference.scheme in (NAME, KEYRING):
            return self._read_keystore(self._keystore, reference)
        name = reference.name
        if reference.scheme == ENV:
            return "environment", *env.read(name, self._handed_over), f"environment variable {name}"
        if reference.scheme == SESSION:
            where = self._stores.label(SESSION_STORE)
            set_name = self._set_name(reference) if _is_bare(reference) else name
            what = f"credential '{name}' in {where}"
            missing = f"no {what}. Store it with: nono credential set {set_name} --store session"
            return where, *user_keyring.read(name, missing), what
        if not _is_bare(reference):
            missing = f"no credential file {name}. Write the key there, and nothing else, with mode 600"
            return name, *files.read(name, missing), f"credential file {name}"
        where = self._stores.label(FILE_STORE)
        what = f"credential '{reference.text}' in {where}"
        missing = f"no {what}. Store it with: nono credential set {self._set_name(reference)} --store file"
        return where, *files.read(name, missing), what

    def _read_keystore(self, opened: Keystore, reference: Reference) -> tuple[str, SecretBuffer, int, str]:
        where = keystore.keystore_name()
        what = f"{keystore.described(reference)} in {where}"
        try:
            found = opened.get(reference.service, reference.name)
        except KeystoreError as exc:
            raise keystore.failure(exc.status, reference, self._set_name(reference)) from None
        if found.several:
            self._notice(f"several items match the {what}; using the one with target=default, or the newest")
        return where, found.buffer, found.length, what

    def _set_name(self, reference: Reference) -> str:
        """Return what to say to `nono credential set`: the built-in route's name, else the key's."""
        routes = builtin_routes()
        for name in self._wanted[reference]:
            if name in routes and routes[name].credential_key == reference.text:
                return name
        return reference.text


def _is_bare(reference: Reference) -> bool:
    """Whether it was written as a NAME, wherever that turned out to be stored."""
    return "://" not in reference.text
