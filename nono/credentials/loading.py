"""Load the credentials of one run: start early, collect when needed, wipe at the end.

`start` forks the helper that reads the keystore, which then works while the supervisor makes its plan. `collect` reads
the sources that need no helper, then takes the helper's answers. It returns before the child exists, so an unknown
credential is refused before anything runs. All credentials are wiped when the Loader is closed.

Call `start` before signal handlers and threads: the helper is a fork of this process.
"""

from __future__ import annotations

from types import TracebackType
from typing import Callable, Mapping, Sequence

from nono.credentials import environment, files, keystore, stores, user_keyring
from nono.credentials.credential import Credential
from nono.credentials.environment import HandedOver
from nono.credentials.helper import Helper
from nono.credentials.keystore import Limits
from nono.credentials.reference import ENV, FILE, NAME, SESSION, Reference
from nono.kernel.secretmem import SecretBuffer


class Loader:
    """Loads credentials and owns them. A context manager; leaving it wipes them all.

    limits: how long the keystore and the user may take. handed_over: what environment.hand_over returned.
    notice: told, in one line, what the user should know and what waits for the user.
    """

    def __init__(
        self,
        *,
        limits: Limits = Limits(),
        handed_over: Mapping[str, HandedOver] | None = None,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._limits = limits
        self._handed_over = handed_over or {}
        self._notice = notice
        self._set_names: Mapping[str, str] = {}
        self._local: list[Reference] = []
        self._remote: list[Reference] = []
        self._helper: Helper | None = None
        self._credentials: dict[str, Credential] = {}

    def start(self, references: Sequence[Reference], set_names: Mapping[str, str] | None = None) -> None:
        """Begin to load; returns at once.

        set_names: for the advice in errors, what to say to `nono credential set` for a reference's text (a route name).
        Raises StoreError when the index of stores cannot be read.
        """
        self._set_names = set_names or {}
        for reference in dict.fromkeys(map(stores.resolve, references)):
            (self._local if reference.scheme in (FILE, SESSION, ENV) else self._remote).append(reference)
        if self._remote:
            self._helper = Helper(self._remote, self._limits)

    def collect(self) -> dict[str, Credential]:
        """Return every credential, by its reference's text; they stay the Loader's. Raises CredentialError."""
        for reference in self._local:
            self._keep(reference, *self._read(reference))
        if self._helper is not None:
            self._take_answers(self._helper)
            self._helper.close()
            self._helper = None
        return dict(self._credentials)

    def close(self) -> None:
        """Wipe every credential and end the helper; again is harmless."""
        credentials, self._credentials = self._credentials, {}
        for credential in credentials.values():
            credential.close()
        if self._helper is not None:
            self._helper.close()
            self._helper = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _set_name(self, reference: Reference) -> str:
        return self._set_names.get(reference.text, reference.text)

    def _read(self, reference: Reference) -> tuple[SecretBuffer, int, str]:
        """Read a source of this process; return the buffer, the length in it, and the source in the user's words."""
        own = "://" not in reference.text  # a bare NAME, which `nono credential` stored there
        if reference.scheme == FILE:
            what = f"credential '{reference.text}' in {reference.name}" if own else f"credential file {reference.name}"
            missing = f"no credential file {reference.name}. Write the key there with mode 600."
            if own:
                where = stores.store_label(stores.FILE_STORE)
                missing = f"no credential '{reference.text}' in {where}. Store it with: {self._again(reference, 'file')}"
            return *files.read(reference.name, missing), what
        if reference.scheme == SESSION:
            where = stores.store_label(stores.SESSION_STORE)
            missing = f"no credential '{reference.name}' in {where}. Store it with: {self._again(reference, 'session')}"
            return *user_keyring.read(reference.name, missing), f"credential '{reference.name}' in {where}"
        return *environment.read(reference.name, self._handed_over), f"environment variable {reference.name}"

    def _again(self, reference: Reference, store: str) -> str:
        name = self._set_name(reference) if "://" not in reference.text else reference.name
        return f"nono credential set {name} --store {store}"

    def _take_answers(self, helper: Helper) -> None:
        for answer in helper.answers():
            reference = self._remote[answer.index]
            what = f"{keystore.described(reference)} in {keystore.keystore_name()}"
            if answer.status == keystore.PROMPTING:
                self._notice(f"{keystore.keystore_name()} is locked: answer its dialog to go on")
            elif answer.buffer is None:
                raise keystore.failure(answer.status, reference, self._set_name(reference))
            else:
                if answer.several:
                    self._notice(f"several items match the {what}; using the one with target=default, or the newest")
                self._keep(reference, answer.buffer, answer.length, what)

    def _keep(self, reference: Reference, buffer: SecretBuffer, length: int, what: str) -> None:
        self._credentials[reference.text] = Credential(reference.text, buffer, length, what)
