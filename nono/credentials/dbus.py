"""The part of D-Bus that a client of the Secret Service needs: method calls and signals on the session bus.

Written out here because of what a library costs at this place: docs/decisions/0002. The marshaller knows every type of
the specification, the connection only what a client does; tests compare both with jeepney, byte for byte.

Messages are received by their exact size. So the answer that holds a secret can be received straight into locked
memory, and read there: a value of type `ay` is a slice of the memory that the message is in, never a copy.

Every wait has an end, and every failure is a KeystoreError with a status: what came over the bus may hold the secret,
so no error that quotes it leaves this module.
Sources: D-Bus specification 0.43, "Marshaling", "Message Protocol", "Authentication Protocol", "Server Addresses".
"""

from __future__ import annotations

import os
import select
import stat
import struct
import time
from _socket import AF_UNIX, socket  # not socket: that costs 3 ms of enums and selectors, and adds nothing used here
from collections.abc import Iterator

from nono.credentials import keystore
from nono.credentials.keystore import KeystoreError, Limits
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

METHOD_CALL = 1
METHOD_RETURN = 2
ERROR = 3
SIGNAL = 4

PATH = 1
INTERFACE = 2
MEMBER = 3
ERROR_NAME = 4
REPLY_SERIAL = 5
DESTINATION = 6
SIGNATURE = 8

HEAD_BYTES = 16  # of a message: enough to know how long it is

BUS = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"

_MESSAGE_MAX_BYTES = 1 << 20  # the specification's limit is 128 MiB; no answer that is waited for here comes near this
_FIXED = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "b": "I", "h": "I"}
_ALIGNMENT = {"y": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "g": 1, "v": 1, "(": 8, "{": 8}  # any other type: 4
_ORDER = {ord("l"): "<", ord("B"): ">"}
_FIXED_HEADER = "BBBBII"  # byte order, type, flags, version, length of the body, serial


class Message(Record):
    """A message that was received. kind: METHOD_RETURN and so on. fields: of the header, by the codes above."""

    kind: int
    fields: dict[int, Any]
    body: tuple[Any, ...]


def split(signature: str) -> Iterator[str]:
    """Yield the single complete types of `signature`."""
    at = 0
    while at < len(signature):
        end = _end(signature, at)
        yield signature[at:end]
        at = end


def _end(signature: str, at: int) -> int:
    """Return where the type that begins at `at` ends."""
    code = signature[at]
    if code == "a":
        return _end(signature, at + 1)
    if code in "({":
        at += 1
        while signature[at] not in ")}":
            at = _end(signature, at)
    return at + 1


def marshal(out: bytearray, kind: str, value: Any) -> None:
    """Append `value` of the single complete type `kind` to `out`, little-endian.

    A variant is (type, value), a structure a sequence, an array a sequence (of bytes: bytes; of dict entries: a dict).
    """
    code = kind[0]
    out.extend(bytes(-len(out) % _ALIGNMENT.get(code, 4)))
    if code in _FIXED:
        out += struct.pack("<" + _FIXED[code], value)
    elif code in "so":
        text = value.encode()
        out += struct.pack("<I", len(text)) + text + b"\0"
    elif code == "g":
        out += bytes((len(value),)) + value.encode() + b"\0"
    elif code == "v":
        marshal(out, "g", value[0])
        marshal(out, value[0], value[1])
    elif code == "a":
        length_at, item = len(out), kind[1:]
        out.extend(bytes(4))
        out.extend(bytes(-len(out) % _ALIGNMENT.get(item[0], 4)))
        start = len(out)
        if item == "y":
            out += value
        else:
            for each in value.items() if item[0] == "{" else value:
                marshal(out, item, each)
        struct.pack_into("<I", out, length_at, len(out) - start)
    else:
        for member, each in zip(split(kind[1:-1]), value, strict=True):
            marshal(out, member, each)


class Reader:
    """Reads values out of `data` from `at` on. Raises any Exception where they are malformed."""

    def __init__(self, data: bytes | memoryview, at: int, order: str) -> None:
        self._data = data
        self._order = order
        self.at = at

    def read(self, kind: str) -> Any:
        """Return the value of the single complete type `kind`, in the shape that `marshal` takes."""
        code = kind[0]
        self.align(_ALIGNMENT.get(code, 4))
        if code in _FIXED:
            form = self._order + _FIXED[code]
            (number,) = struct.unpack_from(form, self._data, self.at)
            self.at += struct.calcsize(form)
            return bool(number) if code == "b" else number
        if code in "so":
            return str(self._take(self.read("u"), 1), "utf-8")
        if code == "g":
            return str(self._take(self.read("y"), 1), "utf-8")
        if code == "v":
            inner = self.read("g")
            (inner,) = split(inner)
            return inner, self.read(inner)
        if code == "a":
            return self._read_array(kind[1:], self.read("u"))
        if code not in "({" or len(kind) < 3:  # nothing in it: an array of such would never end
            raise ValueError("no such type")
        return tuple([self.read(member) for member in split(kind[1:-1])])

    def align(self, alignment: int) -> None:
        self.at += -self.at % alignment

    def _read_array(self, item: str, length: int) -> Any:
        self.align(_ALIGNMENT.get(item[0], 4))
        if item == "y":
            return self._take(length, 0)
        end, values = self.at + length, []
        if end > len(self._data):
            raise ValueError("array is cut off")
        while self.at < end:
            values.append(self.read(item))
        return dict(values) if item[0] == "{" else values

    def _take(self, length: int, terminator: int) -> bytes | memoryview:
        end = self.at + length
        if end + terminator > len(self._data):
            raise ValueError("value is cut off")
        taken = self._data[self.at : end]
        self.at = end + terminator
        return taken


def method_call(
    serial: int, name: str, path: str, interface: str, method: str, signature: str, body: tuple[Any, ...]
) -> bytes:
    """Return the bytes of a method call."""
    payload = bytearray()
    for kind, value in zip(split(signature), body, strict=True):
        marshal(payload, kind, value)
    fields = [(PATH, ("o", path)), (DESTINATION, ("s", name)), (INTERFACE, ("s", interface)), (MEMBER, ("s", method))]
    if signature:
        fields.append((SIGNATURE, ("g", signature)))
    out = bytearray(struct.pack("<" + _FIXED_HEADER, ord("l"), METHOD_CALL, 0, 1, len(payload), serial))
    marshal(out, "a(yv)", fields)
    out.extend(bytes(-len(out) % 8))
    return bytes(out + payload)


def message_bytes(head: bytes | bytearray | memoryview) -> int:
    """Return how long the message is whose first HEAD_BYTES are `head`. Raises any Exception if it is malformed."""
    _, _, _, version, body_bytes, _, fields_bytes = struct.unpack_from(_ORDER[head[0]] + _FIXED_HEADER + "I", head)
    length: int = HEAD_BYTES + fields_bytes + -fields_bytes % 8 + body_bytes
    if version != 1 or length > _MESSAGE_MAX_BYTES:
        raise ValueError("no message")
    return length


def parse(data: bytes | memoryview) -> Message:
    """Return the message that is `data`, whole. Raises any Exception if it is malformed."""
    order = _ORDER[data[0]]
    reader = Reader(data, 12, order)
    fields = {code: value for code, (_, value) in reader.read("a(yv)")}
    reader.align(8)
    return Message(data[1], fields, tuple([reader.read(each) for each in split(fields.get(SIGNATURE, ""))]))


class Bus:
    """One authenticated connection to the session bus.

    limits: for each call. status_of_error: the KeystoreError status for names of D-Bus errors.
    Everything raises KeystoreError.
    """

    def __init__(self, limits: Limits, status_of_error: dict[str, int]) -> None:
        self._limits = limits
        self._status_of_error = status_of_error
        self._serial = 0
        self._signals: list[Message] = []
        self._socket = self._connected()
        try:
            self.call(BUS, BUS_PATH, BUS, "Hello", "", "s")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def call(
        self,
        name: str,
        path: str,
        interface: str,
        method: str,
        signature: str,
        returns: str,
        *body: Any,
        into: memoryview | None = None,
    ) -> tuple[Any, ...]:
        """Call a method and return the body of its answer, whose signature must be `returns`.

        into: memory to receive the answer in, and in which the answer's arrays of bytes then are slices; TOO_LONG when
        the answer does not fit.
        """
        deadline = time.monotonic() + self._limits.call_s
        serial = self.tell(name, path, interface, method, signature, *body)
        while True:
            message = self._receive(deadline, into)
            if message.kind == SIGNAL:
                self._signals.append(message)
            elif message.fields.get(REPLY_SERIAL) == serial:
                break
        if message.kind == ERROR:
            raise KeystoreError(self._status_of_error.get(message.fields.get(ERROR_NAME, ""), keystore.FAILED))
        if message.fields.get(SIGNATURE, "") != returns:
            raise KeystoreError(keystore.FAILED)
        return message.body

    def tell(self, name: str, path: str, interface: str, method: str, signature: str, *body: Any) -> int:
        """Call a method without waiting for its answer; return the serial number that the answer will refer to."""
        self._serial += 1
        try:
            self._socket.sendall(method_call(self._serial, name, path, interface, method, signature, body))
        except TimeoutError:
            raise KeystoreError(keystore.CALL_TIMEOUT) from None
        except OSError:
            raise KeystoreError(keystore.FAILED) from None
        return self._serial

    def signal(self, path: str, member: str, signature: str, timeout_s: float) -> tuple[Any, ...]:
        """Wait for a signal and return its body. An AddMatch must have asked for it if it is sent to everyone."""
        deadline = time.monotonic() + timeout_s
        wanted = (path, member, signature)
        while True:
            for message in self._signals:
                if tuple(message.fields.get(field, "") for field in (PATH, MEMBER, SIGNATURE)) == wanted:
                    self._signals.remove(message)
                    return message.body
            message = self._receive(deadline)
            if message.kind == SIGNAL:
                self._signals.append(message)

    def _receive(self, deadline: float, into: memoryview | None = None) -> Message:
        try:
            view = memoryview(bytearray(HEAD_BYTES)) if into is None else into
            self._fill(view[:HEAD_BYTES], deadline)
            length = message_bytes(view)
            if into is None:
                view = memoryview(bytearray(view) + bytes(length - HEAD_BYTES))
            elif length > len(into):
                raise KeystoreError(keystore.TOO_LONG)
            self._fill(view[HEAD_BYTES:length], deadline)
            return parse(bytes(view) if into is None else view[:length])
        except KeystoreError:
            raise
        except Exception:  # noqa: BLE001  (what malformed bytes make the reader stumble over; it may quote them)
            raise KeystoreError(keystore.FAILED) from None

    def _fill(self, view: memoryview, deadline: float) -> None:
        filled = 0
        while filled < len(view):
            self._wait(deadline)
            count = self._socket.recv_into(view[filled:])
            if not count:
                raise KeystoreError(keystore.FAILED)
            filled += count

    def _wait(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise KeystoreError(keystore.CALL_TIMEOUT)

    def _connected(self) -> socket:
        """Return a socket to the first of the bus's addresses that lets this user in."""
        status = keystore.NO_BUS
        for address in session_bus_addresses():
            connection = socket(AF_UNIX)
            connection.settimeout(self._limits.call_s)
            try:
                connection.connect(address)
                _authenticate(connection)
            except TimeoutError:
                status = keystore.CALL_TIMEOUT
            except (OSError, ValueError):
                pass
            else:
                return connection
            connection.close()
        raise KeystoreError(status)


def _authenticate(connection: socket) -> None:
    """Say who we are; the bus compares with what the kernel says. Raises OSError, ValueError."""
    connection.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n"):
        part = connection.recv(512)
        answer += part
        if not part or len(answer) > 512:
            raise ValueError("no answer")
    if not answer.startswith(b"OK "):
        raise ValueError("rejected")
    connection.sendall(b"BEGIN\r\n")


def session_bus_addresses() -> list[bytes]:
    """Return the session bus's socket addresses; its usual place in the runtime directory when nothing names it."""
    named = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    if not named:
        return _usual_address()
    addresses = []
    for each in named.split(";"):
        transport, _, rest = each.partition(":")
        pairs = dict(pair.partition("=")[::2] for pair in rest.split(","))
        try:
            if transport == "unix" and "path" in pairs:
                addresses.append(_unescaped(pairs["path"]))
            elif transport == "unix" and "abstract" in pairs:
                addresses.append(b"\0" + _unescaped(pairs["abstract"]))
        except ValueError:
            continue
    return addresses


def _unescaped(text: str) -> bytes:
    first, *rest = text.split("%")
    return os.fsencode(first) + b"".join(bytes.fromhex(piece[:2]) + os.fsencode(piece[2:]) for piece in rest)


def _usual_address() -> list[bytes]:
    path = os.path.join(os.environ.get("XDG_RUNTIME_DIR") or "/nonexistent", "bus")
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [os.fsencode(path)] if stat.S_ISSOCK(status.st_mode) and status.st_uid == os.geteuid() else []
