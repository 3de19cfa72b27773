"""The freedesktop Secret Service, spoken to directly over jeepney.

Imported in the helper process of a run and in `nono credential`, never on the start-up path: see
docs/decisions/0002-secret-service-over-jeepney.md for why this is neither keyring nor SecretStorage.

Items are looked up by the attributes `service` and `username`, as secret-tool, python-keyring and the Rust keyring do.
Of several matches the one with `target=default` wins (what the Rust tool stores), then the one changed last, so that
the choice is the same each time. What `set` creates carries all three, and what it would shadow it replaces.

A locked item is unlocked through the service's own prompt, which is a dialog on the user's display; without a display
it would wait for ever, so none is opened. jeepney builds, parses and authenticates; the waiting is done here, because
its own blocking connection waits for the bus's first answer without a limit.
Sources: Secret Service API 0.2 (Service, Collection, Item, Prompt interfaces); D-Bus specification, "Message Bus".
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from collections.abc import Callable

import jeepney  # type: ignore[import-untyped]
from jeepney.auth import BEGIN, Authenticator  # type: ignore[import-untyped]
from jeepney.bus import get_bus  # type: ignore[import-untyped]

from nono.credentials import keystore
from nono.credentials.keystore import KeystoreError, Limits
from nono.credentials.validation import RAW_MAX_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_NAME = "org.freedesktop.secrets"
_PATH = "/org/freedesktop/secrets"
_DEFAULT = "/org/freedesktop/secrets/aliases/default"
_PREFIX = "org.freedesktop.Secret."
_SERVICE = _PREFIX + "Service"
_COLLECTION = _PREFIX + "Collection"
_ITEM = _PREFIX + "Item"
_PROMPT = _PREFIX + "Prompt"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_NOTHING = "/"  # the path that means: no object, no prompt needed

# What each method returns; a service that returns something else is not understood.
_RETURNS = {
    "Hello": "s",
    "AddMatch": "",
    "OpenSession": "vo",
    "SearchItems": "aoao",
    "Unlock": "aoo",
    "ReadAlias": "o",
    "CreateCollection": "oo",
    "CreateItem": "oo",
    "GetSecret": "(oayays)",
    "SetSecret": "",
    "Delete": "o",
    "Prompt": "",
    "Get": "v",
    "GetAll": "a{sv}",
}

_STATUS_OF_ERROR = {
    "org.freedesktop.DBus.Error.ServiceUnknown": keystore.NO_SERVICE,
    "org.freedesktop.DBus.Error.NameHasNoOwner": keystore.NO_SERVICE,
    "org.freedesktop.DBus.Error.NoReply": keystore.CALL_TIMEOUT,
    "org.freedesktop.DBus.Error.Timeout": keystore.CALL_TIMEOUT,
    "org.freedesktop.DBus.Error.TimedOut": keystore.CALL_TIMEOUT,
    "org.freedesktop.DBus.Error.AccessDenied": keystore.DENIED,
    "org.freedesktop.DBus.Error.AuthFailed": keystore.DENIED,
    "org.freedesktop.Secret.Error.IsLocked": keystore.LOCKED,
    "org.freedesktop.Secret.Error.NoSuchObject": keystore.NOT_FOUND,
    "org.freedesktop.DBus.Error.UnknownObject": keystore.NOT_FOUND,
}


class _Bus:
    """One authenticated connection to the session bus. Every wait has an end."""

    def __init__(self, limits: Limits, gone_fd: int) -> None:
        self._limits = limits
        self._gone_fd = gone_fd
        self._serial = 0
        self._parser = jeepney.Parser()
        self.signals: list[Any] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(limits.call_s)
        try:
            self._socket.connect(_bus_address())
            self._authenticate()
        except TimeoutError:
            self._fail(keystore.CALL_TIMEOUT)
        except (OSError, KeyError, ValueError, RuntimeError):
            self._fail(keystore.NO_BUS)
        self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")

    def close(self) -> None:
        self._socket.close()

    def call(self, name: str, path: str, interface: str, method: str, signature: str = "", *body: object) -> Any:
        """Call a method and return the body of its answer. Raises KeystoreError."""
        deadline = time.monotonic() + self._limits.call_s
        serial = self._send(name, path, interface, method, signature, body)
        while True:
            message = self._receive(deadline)
            kind = message.header.message_type
            if kind is jeepney.MessageType.signal:
                self.signals.append(message)
            elif message.header.fields.get(jeepney.HeaderFields.reply_serial) == serial:
                break
        if kind is jeepney.MessageType.error:
            error_name = message.header.fields.get(jeepney.HeaderFields.error_name, "")
            default = keystore.NO_SERVICE if ".Spawn." in error_name else keystore.FAILED
            raise KeystoreError(_STATUS_OF_ERROR.get(error_name, default))
        if message.header.fields.get(jeepney.HeaderFields.signature, "") != _RETURNS[method]:
            raise KeystoreError(keystore.FAILED)
        return message.body

    def tell(self, name: str, path: str, interface: str, method: str) -> None:
        """Call a method without waiting for its answer."""
        self._send(name, path, interface, method, "", ())

    def signal(self, path: str, member: str, timeout_s: float) -> Any:
        """Wait for a signal and return its body. Raises KeystoreError."""
        deadline = time.monotonic() + timeout_s
        while True:
            for message in self.signals:
                fields = message.header.fields
                if (fields.get(jeepney.HeaderFields.path), fields.get(jeepney.HeaderFields.member)) == (path, member):
                    self.signals.remove(message)
                    return message.body
            message = self._receive(deadline)
            if message.header.message_type is jeepney.MessageType.signal:
                self.signals.append(message)

    def _send(self, name: str, path: str, interface: str, method: str, signature: str, body: tuple[object, ...]) -> int:
        self._serial += 1
        address = jeepney.DBusAddress(path, bus_name=name, interface=interface)
        message = jeepney.new_method_call(address, method, signature or None, body)
        try:
            self._socket.sendall(message.serialise(serial=self._serial))
        except TimeoutError:
            raise KeystoreError(keystore.CALL_TIMEOUT) from None
        except OSError:
            raise KeystoreError(keystore.FAILED) from None
        return self._serial

    def _receive(self, deadline: float) -> Any:
        while True:
            try:
                message = self._parser.get_next_message()
                if message is not None:
                    return message
                self._wait(deadline)
                data = self._socket.recv(65536)
            except KeystoreError:
                raise
            except Exception:  # noqa: BLE001  (a malformed message raises whatever the parser stumbles over, and may quote it)
                raise KeystoreError(keystore.FAILED) from None
            if not data:
                raise KeystoreError(keystore.FAILED)
            self._parser.add_data(data)

    def _wait(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if self._gone_fd >= 0:
            poll.register(self._gone_fd, 0)  # POLLERR and POLLHUP are always reported
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if any(fd == self._gone_fd for fd, _ in ready):
            raise KeystoreError(keystore.DISMISSED)
        if not ready:
            raise KeystoreError(keystore.CALL_TIMEOUT)

    def _authenticate(self) -> None:
        authenticator = Authenticator(inc_null_byte=False)
        self._socket.sendall(b"\0")
        for line in authenticator:
            self._socket.sendall(line)
            answer = self._socket.recv(1024)
            if not answer:
                raise ConnectionResetError
            authenticator.feed(answer)
        self._socket.sendall(BEGIN)

    def _fail(self, status: int) -> NoReturn:
        self._socket.close()
        raise KeystoreError(status) from None


class Keystore:
    """The user's Secret Service (keystore.Keystore says what each method does)."""

    def __init__(self, limits: Limits, on_prompt: Callable[[], None], gone_fd: int = -1) -> None:
        self._limits = limits
        self._on_prompt = on_prompt
        self._bus = _Bus(limits, gone_fd)
        self._session = ""

    def close(self) -> None:
        self._bus.close()

    def get(self, service: str, account: str) -> tuple[bytes, bool]:
        unlocked, locked = self._search(service=service, username=account)
        path = self._choose(unlocked) or self._choose(locked)
        if not path:
            raise KeystoreError(keystore.NOT_FOUND)
        if not unlocked:
            self._unlock(path)
        ((_, _, secret, _),) = self._call(path, _ITEM, "GetSecret", "o", self._opened_session())
        if len(secret) > RAW_MAX_BYTES:
            raise KeystoreError(keystore.TOO_LONG)
        return secret, len(unlocked) + len(locked) > 1

    def set(self, service: str, account: str, secret: bytes) -> None:
        unlocked, locked = self._search(service=service, username=account)
        value = (self._opened_session(), b"", secret, "text/plain")
        path = self._choose(unlocked) or self._choose(locked)
        if path and self._attributes(path).get("target") == "default":  # whoever stored it: no second one beside it
            if not unlocked:
                self._unlock(path)
            self._call(path, _ITEM, "SetSecret", "(oayays)", value)
            return
        attributes = {"service": service, "username": account, "target": "default", "application": "nono"}
        properties = {
            _ITEM + ".Label": ("s", f"{service}: {account}"),
            _ITEM + ".Attributes": ("a{ss}", attributes),
        }
        collection = self._default_collection()
        _, prompt = self._call(collection, _COLLECTION, "CreateItem", "a{sv}(oayays)b", properties, value, True)
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

    def accounts(self, service: str) -> list[str]:
        unlocked, locked = self._search(service=service)
        names = {self._attributes(path).get("username", "") for path in unlocked + locked}
        return sorted(names - {""})

    def _call(self, path: str, interface: str, method: str, signature: str = "", *body: object) -> Any:
        return self._bus.call(_NAME, path, interface, method, signature, *body)

    def _opened_session(self) -> str:
        """Return the session that secrets are passed in. Opened when first needed: it may start the service."""
        if not self._session:
            # "plain": the secret crosses the user's own bus unencrypted. The alternative (Diffie-Hellman) guards only
            # against a process that can watch this bus, and such a process can call GetSecret itself.
            _, self._session = self._call(_PATH, _SERVICE, "OpenSession", "sv", "plain", ("s", ""))
        return self._session

    def _search(self, **attributes: str) -> tuple[list[str], list[str]]:
        """Return the paths of the items that match: unlocked, locked."""
        unlocked, locked = self._call(_PATH, _SERVICE, "SearchItems", "a{ss}", attributes)
        return unlocked, locked

    def _choose(self, paths: list[str]) -> str:
        """Return the path of the item to use, "" when there is none."""
        if len(paths) < 2:
            return paths[0] if paths else ""
        return max(paths, key=self._preference)

    def _preference(self, path: str) -> tuple[bool, int, str]:
        (properties,) = self._call(path, _PROPERTIES, "GetAll", "s", _ITEM)
        _, attributes = properties.get("Attributes", ("", {}))
        _, modified = properties.get("Modified", ("", 0))
        return attributes.get("target") == "default", modified, path

    def _attributes(self, path: str) -> dict[str, str]:
        ((_, attributes),) = self._call(path, _PROPERTIES, "Get", "ss", _ITEM, "Attributes")
        return dict(attributes)

    def _default_collection(self) -> str:
        """Return the unlocked collection that new items go to, made if the user has none yet."""
        (path,) = self._call(_PATH, _SERVICE, "ReadAlias", "s", "default")
        if path == _NOTHING:
            label = {_COLLECTION + ".Label": ("s", "Default")}
            path, prompt = self._call(_PATH, _SERVICE, "CreateCollection", "a{sv}s", label, "default")
            self._prompt(prompt)
            return path if path != _NOTHING else _DEFAULT
        self._unlock(path)
        return str(path)

    def _unlock(self, path: str) -> None:
        _, prompt = self._call(_PATH, _SERVICE, "Unlock", "ao", [path])
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
        self._bus.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", rule)
        self._on_prompt()
        try:
            self._call(path, _PROMPT, "Prompt", "s", "")
            dismissed, _ = self._bus.signal(path, "Completed", self._limits.prompt_s)
        except BaseException as exc:  # an interrupt, too, takes the dialog away
            self._dismiss(path)
            if isinstance(exc, KeystoreError) and exc.status == keystore.CALL_TIMEOUT:
                raise KeystoreError(keystore.PROMPT_TIMEOUT) from None
            raise
        if dismissed:
            raise KeystoreError(keystore.DISMISSED)

    def _dismiss(self, path: str) -> None:
        try:
            self._bus.tell(_NAME, path, _PROMPT, "Dismiss")
        except KeystoreError:
            pass


def _bus_address() -> str:
    """Return the session bus's socket address; its usual place in the runtime directory when nothing names it."""
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    if address:
        return str(get_bus(address))
    path = os.path.join(os.environ["XDG_RUNTIME_DIR"], "bus")
    status = os.stat(path)
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
        raise FileNotFoundError
    return path
