"""A Secret Service that misbehaves as a test says: a real owner of the name on a real bus, in a thread.

    with FakeSecretService(bus.address, {"SearchItems": NO_ANSWER}) as service: ...

A script says for each method what happens: a (signature, body) to return, an Error, or NO_ANSWER. What it does not say
goes well. Signals in `after` are sent to everyone once the method has been answered. `calls` holds the names of the
methods called; `wait_for` waits for one.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple, Self

from jeepney import DBusAddress, HeaderFields, MessageType, new_error, new_method_return, new_signal
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection

ITEM = "/org/freedesktop/secrets/collection/fake/1"
SESSION = "/org/freedesktop/secrets/session/1"
PROMPT = "/org/freedesktop/secrets/prompt/1"
SECRET = b"sk-fake-7Xb2Lq9Vw4"
NO_ANSWER = None


class Error(NamedTuple):
    name: str


Answer = tuple[str, tuple[Any, ...]] | Error | None

DEFAULTS: dict[str, Answer] = {
    "OpenSession": ("vo", (("s", ""), SESSION)),
    "SearchItems": ("aoao", ([ITEM], [])),
    "GetSecret": ("(oayays)", ((SESSION, b"", SECRET, "text/plain"),)),
    "Unlock": ("aoo", ([], PROMPT)),
    "Prompt": ("", ()),
    "Dismiss": ("", ()),
    "ReadAlias": ("o", ("/org/freedesktop/secrets/collection/fake",)),
    "CreateItem": ("oo", (ITEM, "/")),
    "SetSecret": ("", ()),
}
LOCKED: dict[str, Answer] = {"SearchItems": ("aoao", ([], [ITEM]))}


def completed(dismissed: bool) -> Any:
    """The signal that ends a prompt, to everyone on the bus."""
    emitter = DBusAddress(PROMPT, interface="org.freedesktop.Secret.Prompt")
    return new_signal(emitter, "Completed", "bv", (dismissed, ("ao", [ITEM])))


class FakeSecretService:
    def __init__(
        self, address: str, script: dict[str, Answer] | None = None, after: dict[str, Any] | None = None
    ) -> None:
        self._script = {**DEFAULTS, **(script or {})}
        self._after = after or {}
        self._address = address
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self.calls: list[str] = []

    def __enter__(self) -> Self:
        self._connection: DBusConnection = open_dbus_connection(self._address)
        reply = self._connection.send_and_get_reply(message_bus.RequestName("org.freedesktop.secrets"), timeout=5)
        assert reply.header.message_type is MessageType.method_return
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def wait_for(self, method: str, timeout_s: float = 5) -> bool:
        """Wait until `method` has been called; whether it was."""
        with self._changed:
            return self._changed.wait_for(lambda: method in self.calls, timeout_s)

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                message = self._connection.receive(timeout=0.02)
            except TimeoutError:
                continue
            if message.header.message_type is not MessageType.method_call:
                continue
            method = message.header.fields[HeaderFields.member]
            with self._changed:
                self.calls.append(method)
                self._changed.notify_all()
            answer = self._script.get(method, Error("org.freedesktop.DBus.Error.UnknownMethod"))
            if isinstance(answer, Error):
                self._connection.send(new_error(message, answer.name, "s", (f"quotes {SECRET.decode()}",)))
            elif answer is not NO_ANSWER:
                signature, body = answer
                self._connection.send(new_method_return(message, signature or None, body))
            if method in self._after:
                self._connection.send(self._after[method])
