"""Load the credentials of one run: start early, collect when needed, wipe at the end.

`start` forks the helper that reads the keystore, which then works while the supervisor makes its plan. `collect` reads
the sources that need no helper, then takes the helper's answers. It returns before the child exists, so an unknown
credential is refused before anything runs. All credentials are wiped when the Loader is closed.

Call `start` before signal handlers and threads: the helper is a fork of this process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

from nono.credentials import env, files, keystore, user_keyring
from nono.credentials.credential import Credential
from nono.credentials.env import HandedOver
from nono.credentials.helper import Helper
from nono.credentials.keystore import DEFAULT_LIMITS, Limits
from nono.credentials.reference import ENV, FILE, SESSION, Reference
from nono.credentials.stores import FILE_STORE, SESSION_STORE, Stores
from nono.kernel.secretmem import SecretBuffer
from nono.policy.network import builtin_routes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["Credential", "Loader"]


class Loader:
    """Loads credentials and owns them. A context manager; leaving it wipes them all.

    state_home: nono's state directory. handed_over: what env.hand_over returned. helper: one that was started before.
    limits: how long the keystore and the user may take.
    notice: told, in one line, what the user should know or do while the run waits.
    """

    def __init__(
        self,
        state_home: str,
        handed_over: Mapping[str, HandedOver] | None = None,
        helper: Helper | None = None,
        *,
        limits: Limits = DEFAULT_LIMITS,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._stores = Stores(state_home)
        self._handed_over = handed_over or {}
        self._limits = limits
        self._notice = notice
        self._wanted: dict[Reference, list[str]] = {}  # each source once, and the names it is wanted under
        self._remote: list[Reference] = []  # those that the helper reads
        self._helper = helper
        self._credentials: dict[Reference, Credential] = {}

    def start(self, references: Mapping[str, Reference]) -> None:
        """Begin to load; returns at once.

        references: by route name.
        Raises StoreError when it cannot be known where a bare NAME is stored.
        """
        for name, reference in references.items():
            self._wanted.setdefault(self._stores.resolve(reference), []).append(name)
        self._remote = [reference for reference in self._wanted if reference.scheme not in (FILE, SESSION, ENV)]
        if self._remote:
            self._helper = self._helper or Helper(self._limits)
            self._helper.ask(self._remote)
        else:
            self._end_helper()

    def collect(self) -> dict[str, Credential]:
        """Return every credential, by route name; they stay the Loader's. Raises CredentialError."""
        for reference in self._wanted:
            if reference not in self._remote:
                self._keep(reference, *self._read(reference))
        if self._helper is not None:
            self._take_answers(self._helper)
            self._end_helper()
        return {name: self._credentials[reference] for reference, names in self._wanted.items() for name in names}

    def close(self) -> None:
        """Wipe every credential and end the helper; again is harmless."""
        while self._credentials:
            self._credentials.popitem()[1].close()
        self._end_helper()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _end_helper(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.close()

    def _read(self, reference: Reference) -> tuple[str, SecretBuffer, int, str]:
        """Read a source that needs no helper: its store, the buffer, the length in it, and what it is called."""
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

    def _take_answers(self, helper: Helper) -> None:
        where = keystore.keystore_name()
        for answer in helper.answers():
            reference = self._remote[answer.at]
            what = f"{keystore.described(reference)} in {where}"
            if answer.status == keystore.PROMPTING:
                self._notice(f"{where} is locked: answer its dialog to go on")
            elif answer.buffer is None:
                raise keystore.failure(answer.status, reference, self._set_name(reference))
            else:
                if answer.several:
                    self._notice(f"several items match the {what}; using the one with target=default, or the newest")
                self._keep(reference, where, answer.buffer, answer.length, what)

    def _keep(self, reference: Reference, store: str, buffer: SecretBuffer, length: int, what: str) -> None:
        self._credentials[reference] = Credential(reference.text, store, buffer, length, what)

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
