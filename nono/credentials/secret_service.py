"""The freedesktop Secret Service, on the session bus.

Spoken to directly, so that the secret goes from the bus into locked memory and nowhere else: a library would leave
copies of it, and cost more than all the rest of a start (docs/decisions/0002).

Items are looked up by the attributes `service` and `username`, as secret-tool, python-keyring and the Rust keyring do.
Of several matches the one with `target=default` wins (what the Rust tool stores), then the one changed last, so that
the choice is the same each time. What `set` creates carries all three, and what it would shadow it replaces.

A locked item is unlocked through the service's own prompt, which is a dialog on the user's display; without a display
it would wait for ever, so none is opened.
Source: Secret Service API 0.2 (Service, Collection, Item, Prompt interfaces).
"""

from __future__ import annotations

from collections.abc import Callable

from nono.credentials import keystore
from nono.credentials.dbus import BUS, BUS_PATH, Bus
from nono.credentials.keystore import Found, KeystoreError, Limits
from nono.credentials.validation import RAW_MAX_BYTES
from nono.kernel.secretmem import SecretBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAME = "org.freedesktop.secrets"
_PATH = "/org/freedesktop/secrets"
_DEFAULT = "/org/freedesktop/secrets/aliases/default"
_PREFIX = "org.freedesktop.Secret."
_SERVICE = _PREFIX + "Service"
_COLLECTION = _PREFIX + "Collection"
_ITEM = _PREFIX + "Item"
_PROMPT = _PREFIX + "Prompt"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_ANSWER_MAX_BYTES = RAW_MAX_BYTES + 4096  # the longest secret, and the header and the session around it
_NOTHING = "/"  # the path that means: no object, no prompt needed

# What `state` returns.
UNLOCKED, LOCKED, EMPTY, IDLE = "unlocked", "locked", "empty", "starts when it is needed"

# What each method takes and returns.
_SIGNATURES = {
    "OpenSession": ("sv", "vo"),
    "SearchItems": ("a{ss}", "aoao"),
    "Unlock": ("ao", "aoo"),
    "ReadAlias": ("s", "o"),
    "CreateCollection": ("a{sv}s", "oo"),
    "CreateItem": ("a{sv}(oayays)b", "oo"),
    "GetSecret": ("o", "(oayays)"),
    "SetSecret": ("(oayays)", ""),
    "Delete": ("", "o"),
    "Prompt": ("s", ""),
    "Get": ("ss", "v"),
    "GetAll": ("s", "a{sv}"),
}

_STATUS_OF_ERROR = {
    "org.freedesktop.DBus.Error.ServiceUnknown": keystore.NO_SERVICE,
    "org.freedesktop.DBus.Error.NameHasNoOwner": keystore.NO_SERVICE,
    "org.freedesktop.DBus.Error.Spawn.ServiceNotFound": keystore.NO_SERVICE,
    "org.freedesktop.DBus.Error.Spawn.ExecFailed": keystore.NO_SERVICE,
    "org.freedesktop.DBus.Error.Spawn.ChildExited": keystore.NO_SERVICE,
    "org.freedesktop.DBus.Error.Spawn.ChildSignaled": keystore.NO_SERVICE,
    "org.freedesktop.DBus.Error.Spawn.Failed": keystore.NO_SERVICE,
    "org.freedesktop.DBus.Error.NoReply": keystore.CALL_TIMEOUT,
    "org.freedesktop.DBus.Error.Timeout": keystore.CALL_TIMEOUT,
    "org.freedesktop.DBus.Error.TimedOut": keystore.CALL_TIMEOUT,
    "org.freedesktop.DBus.Error.AccessDenied": keystore.DENIED,
    "org.freedesktop.DBus.Error.AuthFailed": keystore.DENIED,
    "org.freedesktop.Secret.Error.IsLocked": keystore.LOCKED,
    "org.freedesktop.Secret.Error.NoSuchObject": keystore.NOT_FOUND,
    "org.freedesktop.DBus.Error.UnknownObject": keystore.NOT_FOUND,
}


class Keystore:
    """The user's Secret Service (keystore.Keystore says what each method does)."""

    def __init__(self, limits: Limits, on_prompt: Callable[[], None]) -> None:
        self._limits = limits
        self._on_prompt = on_prompt
        self._bus = Bus(limits, _STATUS_OF_ERROR)
        self._session = ""

    def close(self) -> None:
        self._bus.close()

    def get(self, service: str, account: str) -> Found:
        unlocked, locked = self._search(service=service, username=account)
        path = self._choose(unlocked) or self._choose(locked)
        if not path:
            raise KeystoreError(keystore.NOT_FOUND)
        if not unlocked:
            self._unlock(path)
        buffer, length = self._receive_secret(path)
        return Found(buffer, length, len(unlocked) + len(locked) > 1)

    def set(self, service: str, account: str, secret: bytes) -> None:
        unlocked, locked = self._search(service=service, username=account)
        value = (self._opened_session(), b"", secret, "text/plain")
        path = self._choose(unlocked) or self._choose(locked)
        if path and self._attributes(path).get("target") == "default":  # whoever stored it: no second one beside it
            if not unlocked:
                self._unlock(path)
            self._call(path, _ITEM, "SetSecret", value)
            return
        attributes = {"service": service, "username": account, "target": "default", "application": "nono"}
        properties = {
            _ITEM + ".Label": ("s", f"{service}: {account}"),
            _ITEM + ".Attributes": ("a{ss}", attributes),
        }
        collection = self._default_collection()
        _, prompt = self._call(collection, _COLLECTION, "CreateItem", properties, value, True)
        self._prompt(prompt)

    def remove(self, service: str, account: str) -> bool:
        unlocked, locked = self._search(service=service, username=account)
        for path in locked:
            self._unlock(path)
        for path in unlocked + locked:
            (prompt,) = self._call(path, _ITEM, "Delete")
            self._prompt(prompt)
        return bool(unlocked or locked)

    def status(self, service: str, account: str) -> str:
        unlocked, locked = self._search(service=service, username=account)
        return "unlocked" if unlocked else "locked" if locked else ""

    def state(self) -> str:
        """Return UNLOCKED or LOCKED (the collection that new items go to), EMPTY where there is none yet, or IDLE.

        Starts no service and opens no dialog. Raises KeystoreError: NO_SERVICE where there is none to start.
        """
        if not self._ask_bus("NameHasOwner", "s", "b", _NAME):
            if _NAME in self._ask_bus("ListActivatableNames", "", "as"):
                return IDLE
            raise KeystoreError(keystore.NO_SERVICE)
        (path,) = self._call(_PATH, _SERVICE, "ReadAlias", "default")
        if path == _NOTHING:
            return EMPTY
        ((_, locked),) = self._call(path, _PROPERTIES, "Get", _COLLECTION, "Locked")
        return LOCKED if locked else UNLOCKED

    def accounts(self, service: str) -> list[str]:
        unlocked, locked = self._search(service=service)
        names = {self._attributes(path).get("username", "") for path in unlocked + locked}
        return sorted(names - {""})

    def _ask_bus(self, method: str, signature: str, returns: str, *body: object) -> Any:
        (answer,) = self._bus.call(BUS, BUS_PATH, BUS, method, signature, returns, *body)
        return answer

    def _call(self, path: str, interface: str, method: str, *body: object) -> Any:
        return self._bus.call(_NAME, path, interface, method, *_SIGNATURES[method], *body)

    def _opened_session(self) -> str:
        """Return the session that secrets are passed in. Opened when first needed: it may start the service."""
        if not self._session:
            # "plain": the secret crosses the user's own bus unencrypted. The alternative (Diffie-Hellman) guards only
            # against a process that can watch this bus, and such a process can call GetSecret itself.
            _, self._session = self._call(_PATH, _SERVICE, "OpenSession", "plain", ("s", ""))
        return self._session

    def _receive_secret(self, path: str) -> tuple[SecretBuffer, int]:
        """Return an item's secret in a locked buffer that the caller owns, and its length."""
        session = self._opened_session()
        with SecretBuffer(_ANSWER_MAX_BYTES) as answer, answer.view[:] as view:
            signatures = _SIGNATURES["GetSecret"]
            ((_, _, secret, _),) = self._bus.call(_NAME, path, _ITEM, "GetSecret", *signatures, session, into=view)
            length = len(secret)
            if length > RAW_MAX_BYTES:
                raise KeystoreError(keystore.TOO_LONG)
            buffer = SecretBuffer(max(length, 1))
            buffer.view[:length] = secret
        return buffer, length

    def _search(self, **attributes: str) -> tuple[list[str], list[str]]:
        """Return the paths of the items that match: unlocked, locked."""
        unlocked, locked = self._call(_PATH, _SERVICE, "SearchItems", attributes)
        return unlocked, locked

    def _choose(self, paths: list[str]) -> str:
        """Return the path of the item to use, "" when there is none."""
        if len(paths) < 2:
            return paths[0] if paths else ""
        return max(paths, key=self._preference)

    def _preference(self, path: str) -> tuple[bool, int, str]:
        (properties,) = self._call(path, _PROPERTIES, "GetAll", _ITEM)
        _, attributes = properties.get("Attributes", ("", {}))
        _, modified = properties.get("Modified", ("", 0))
        return attributes.get("target") == "default", modified, path

    def _attributes(self, path: str) -> dict[str, str]:
        ((_, attributes),) = self._call(path, _PROPERTIES, "Get", _ITEM, "Attributes")
        return dict(attributes)

    def _default_collection(self) -> str:
        """Return the unlocked collection that new items go to, made if the user has none yet."""
        (path,) = self._call(_PATH, _SERVICE, "ReadAlias", "default")
        if path == _NOTHING:
            label = {_COLLECTION + ".Label": ("s", "Default")}
            path, prompt = self._call(_PATH, _SERVICE, "CreateCollection", label, "default")
            self._prompt(prompt)
            return path if path != _NOTHING else _DEFAULT
        self._unlock(path)
        return str(path)

    def _unlock(self, path: str) -> None:
        _, prompt = self._call(_PATH, _SERVICE, "Unlock", [path])
        self._prompt(prompt)

    def _prompt(self, path: str) -> None:
        """Let the service ask the user what it must ask; nothing when `path` says it need not."""
        if path == _NOTHING:
            return
        if not keystore.has_display():
            self._dismiss(path)
            raise KeystoreError(keystore.LOCKED)
        # A service may send Completed to everyone, not to the caller; then the bus passes it on by this rule only.
        rule = f"type='signal',interface='{_PROMPT}',path='{path}'"
        self._bus.call(BUS, BUS_PATH, BUS, "AddMatch", "s", "", rule)
        self._on_prompt()
        try:
            self._call(path, _PROMPT, "Prompt", "")
            dismissed, _ = self._bus.signal(path, "Completed", "bv", self._limits.prompt_s)
        except BaseException as exc:  # an interrupt, too, takes the dialog away
            self._dismiss(path)
            if isinstance(exc, KeystoreError) and exc.status == keystore.CALL_TIMEOUT:
                raise KeystoreError(keystore.PROMPT_TIMEOUT) from None
            raise
        if dismissed:
            raise KeystoreError(keystore.DISMISSED)

    def _dismiss(self, path: str) -> None:
        try:
            self._bus.tell(_NAME, path, _PROMPT, "Dismiss", "")
        except KeystoreError:
            pass
