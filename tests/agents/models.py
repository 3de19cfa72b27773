"""Stand-in models that want the agent's shell, each behind the key of its provider.

Asked by an agent that offers a shell tool, a model calls it once, with COMMAND; given the tool's result, it answers
with TEXT and what in that result begins with MARK, so that what the agent prints proves the whole round. Whatever is
asked without such a tool (a title for the session, a check of the key) is answered with TEXT. Everything is decided by
the request alone: an agent may ask in any order, repeat itself, and open any number of connections.

A caller without the real key gets 401. Each request is kept, with the turn that answered it, for the test to judge.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import threading
from collections.abc import Mapping
from typing import NamedTuple

from tests.agents import protocols
from tests.agents.protocols import Events, Protocol, Turn
from tests.fakes import Connection, Request

TEXT = "The tool has answered:"
MARK = "nono-"
SCRIPT = "tool.sh"
COMMAND = f"sh {SCRIPT}"  # Gemini CLI refuses what has $(…) in it

_PROGRAM = f'const done = await tools.exec_command({{"cmd": {json.dumps(COMMAND)}}});\ntext(done.output);\n'


def _described(command: str) -> Mapping[str, str]:
    return {"command": command, "description": "Run the script of the test"}


# The agents' shell tools, by name, and what each is called with; the first one that an agent offers is taken.
SHELLS: Mapping[str, Mapping[str, str] | str] = {
    "Bash": _described(COMMAND),  # Claude Code
    "exec": _PROGRAM,  # Codex: JavaScript
    "exec_command": {"cmd": COMMAND},  # Codex, for a model that it does not know
    "bash": _described(COMMAND),  # OpenCode
    "run_shell_command": _described(COMMAND),  # Gemini CLI
}


class Provider(NamedTuple):
    """Where a provider is, where it wants its key, and the protocols it speaks."""

    host: str
    header: str
    key_format: str
    protocols: tuple[Protocol, ...]


PROVIDERS = {
    "anthropic": Provider("api.anthropic.com", "x-api-key", "{}", (protocols.MESSAGES,)),
    "openai": Provider("api.openai.com", "Authorization", "Bearer {}", (protocols.RESPONSES, protocols.CHAT)),
    "gemini": Provider("generativelanguage.googleapis.com", "x-goog-api-key", "{}", (protocols.CONTENT,)),
}


class Seen(NamedTuple):
    """One question: the key that came with it, whether that is the real one, and what was done.

    body: the question, of a request or a WebSocket's message. turn: None for a refusal.
    """

    presented: str
    accepted: bool
    request: Request
    body: bytes
    turn: Turn | None


class Model:
    """A script for tests.fakes.Upstream: `provider`, for the holder of `key`. websockets: whether it speaks them."""

    def __init__(self, provider: Provider, key: str, *, websockets: bool = True) -> None:
        self.provider, self.key, self.websockets = provider, key, websockets
        self.seen: list[Seen] = []
        self._lock = threading.Lock()

    @property
    def calls(self) -> list[str]:
        """The tools that were called."""
        return [seen.turn.tool for seen in self.seen if seen.turn and seen.turn.tool]

    def __call__(self, connection: Connection) -> None:
        while (request := connection.read_request()) is not None:
            path = request.target.partition("?")[0]
            protocol = next((each for each in self.provider.protocols if path.endswith(each.ending)), None)
            keys = request.all("Sec-WebSocket-Key")
            if not self._accepts(request):
                self._refuse(connection, request, 401)
            elif protocol is None or (not keys and request.method != "POST"):
                self._refuse(connection, request, 404)
            elif not keys:
                _stream(connection, protocol.events(self._turn(protocol, request, _unchunked(request))))
            elif not self.websockets:
                self._refuse(connection, request, 426)
            else:
                self._converse(connection, request, protocol)
                return

    def _converse(self, connection: Connection, request: Request, protocol: Protocol) -> None:
        """Answer over a WebSocket: each question is a message, and so is each event of its answer (RFC 6455)."""
        (key,) = request.all("Sec-WebSocket-Key")
        accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
        )
        while (message := _read_message(connection)) is not None:
            for _, data in protocol.events(self._turn(protocol, request, message)):
                connection.send(_frame(1, json.dumps(data).encode()))

    def _turn(self, protocol: Protocol, request: Request, body: bytes) -> Turn:
        question = json.loads(body)
        result = protocol.result(question)
        shell = next((name for name in SHELLS if name in protocol.offered(question)), "")
        if result is not None:
            turn = Turn(" ".join([TEXT, *re.findall(rf"{MARK}\w+", result)]))
        else:
            turn = Turn("", shell, SHELLS[shell]) if shell else Turn(TEXT)
        self._note(request, body, turn)
        return turn

    def _refuse(self, connection: Connection, request: Request, status: int) -> None:
        self._note(request, request.body, None)
        connection.answer(status, b'{"error":{"message":"refused"}}', "Content-Type: application/json")

    def _note(self, request: Request, body: bytes, turn: Turn | None) -> None:
        with self._lock:
            self.seen.append(Seen(self._presented(request), self._accepts(request), request, body, turn))

    def _presented(self, request: Request) -> str:
        return ", ".join(request.all(self.provider.header))

    def _accepts(self, request: Request) -> bool:
        return self._presented(request) == self.provider.key_format.format(self.key)


def _unchunked(request: Request) -> bytes:
    """The body of a request, out of its chunks."""
    if not request.all("Transfer-Encoding"):
        return request.body
    body, rest = b"", request.body
    while size := int(rest.partition(b"\r\n")[0].split(b";")[0], 16):
        rest = rest.partition(b"\r\n")[2]
        body, rest = body + rest[:size], rest[size + 2 :]
    return body


def _stream(connection: Connection, events: Events) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.send(head)
    for name, data in events:
        event = f"event: {name}\n" if name else ""
        event += f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"
        connection.send(b"%x\r\n%b\r\n" % (len(event), event.encode()))
    connection.send(b"0\r\n\r\n")


def _frame(opcode: int, payload: bytes) -> bytes:
    """One frame of a server: not masked, never a part."""
    if len(payload) < 126:
        return struct.pack(">BB", 0x80 | opcode, len(payload)) + payload
    if len(payload) < 65536:
        return struct.pack(">BBH", 0x80 | opcode, 126, len(payload)) + payload
    return struct.pack(">BBQ", 0x80 | opcode, 127, len(payload)) + payload


def _read_message(connection: Connection) -> bytes | None:
    """Return the next message of a client, None when it closes. Pings are answered."""
    message = b""
    while True:
        head = _take(connection, 2)
        size = head[1] & 127
        if size > 125:
            size = int.from_bytes(_take(connection, 2 if size == 126 else 8))
        mask, data = _take(connection, 4), _take(connection, size)
        keys = (mask * (size // 4 + 1))[:size]
        data = (int.from_bytes(data) ^ int.from_bytes(keys)).to_bytes(size)
        opcode = head[0] & 15
        if opcode == 8:
            connection.send(_frame(8, data[:2]))
            return None
        if opcode == 9:
            connection.send(_frame(10, data))
        elif opcode in (0, 1, 2):
            message += data
            if head[0] & 0x80:
                return message


def _take(connection: Connection, size: int) -> bytes:
    while len(connection.buffer) < size:
        if not connection.read():
            raise ConnectionError("the WebSocket broke off")
    data, connection.buffer = connection.buffer[:size], connection.buffer[size:]
    return data
