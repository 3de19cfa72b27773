"""The helper process: reads a keystore whose library leaves copies of a key, so that they end with it.

For the macOS Keychain: keyring returns a str, which can be neither locked nor wiped. The helper is a fresh interpreter
(Apple's frameworks do not work in a forked process). For each request, a service and an account on its pipe, it answers
with a header (status, length: nothing secret) and the raw secret. The supervisor reads the header, makes a locked
buffer of that size, and lets the kernel copy the secret straight into it. The helper ends when its request pipe does.

Where the keystore is spoken to directly (Linux), there is no helper: see docs/decisions/0002.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable

from nono.credentials import keystore
from nono.credentials.keystore import Found, KeystoreError, Limits
from nono.kernel.secretmem import SecretBuffer

_HEADER = struct.Struct("=BI")  # status, bytes of the secret that follows
_REQUEST = struct.Struct("=II")  # bytes of the service and of the account that follow
_PROMPTING = 255  # as a status: not an end, a dialog may open and more time is needed
_GRACE_S = 2.0  # for the interpreter's start, and over the helper's own limits
_LEAVE_S = 0.5  # for a helper that is not needed any more to end by itself

# Only numbers in its arguments; nono from where this one is; -I: no user site, no working directory.
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from nono.credentials import helper, keystore
try:
    helper.serve(int(sys.argv[2]), int(sys.argv[3]), keystore.Limits(float(sys.argv[4]), float(sys.argv[5])))
except BaseException:
    sys.exit(1)
"""


class Keystore:
    """The platform's keystore, read by a helper process (keystore.Keystore says what the methods do)."""

    def __init__(self, limits: Limits, on_prompt: Callable[[], None]) -> None:
        self._limits = limits
        self._on_prompt = on_prompt
        request_fd, self._request_fd = os.pipe()
        self._fd, answer_fd = os.pipe()
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        arguments = [root, *map(str, (request_fd, answer_fd, limits.call_s, limits.prompt_s))]
        command = [sys.executable, "-I", "-c", _PROGRAM, *arguments]
        try:
            for fd in (request_fd, answer_fd):
                os.set_inheritable(fd, True)
            self._pid = os.posix_spawn(sys.executable, command, os.environ)
        except OSError:
            os.close(self._fd)
            os.close(self._request_fd)
            raise KeystoreError(keystore.FAILED) from None
        finally:
            os.close(request_fd)
            os.close(answer_fd)

    def get(self, service: str, account: str) -> Found:
        names = (service.encode(), account.encode())
        try:
            os.write(self._request_fd, _REQUEST.pack(*map(len, names)) + b"".join(names))
        except BrokenPipeError:
            raise KeystoreError(keystore.FAILED) from None
        header = bytearray(_HEADER.size)
        wait_s = self._limits.call_s
        while True:
            self._read_exactly(memoryview(header), wait_s)
            status, length = _HEADER.unpack(header)
            if status != _PROMPTING:
                break
            self._on_prompt()
            wait_s = self._limits.prompt_s
        if status != keystore.FOUND:
            raise KeystoreError(status)
        buffer = SecretBuffer(max(length, 1))
        try:
            with buffer.view[:length] as view:
                self._read_exactly(view, self._limits.call_s)
        except BaseException:
            buffer.close()
            raise
        return Found(buffer, length, several=False)

    def close(self) -> None:
        """End the helper and reap it."""
        os.close(self._request_fd)
        os.close(self._fd)
        give_up = time.monotonic() + _LEAVE_S
        while os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > give_up:
                os.kill(self._pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own
                break
            time.sleep(0.005)
        os.waitpid(self._pid, 0)

    def _read_exactly(self, view: memoryview, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s + _GRACE_S
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        filled = 0
        while filled < len(view):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise KeystoreError(keystore.CALL_TIMEOUT)
            with view[filled:] as rest:
                count = os.readv(self._fd, [rest])
            if not count:  # it died
                raise KeystoreError(keystore.FAILED)
            filled += count


def serve(request_fd: int, answer_fd: int, limits: Limits) -> None:
    """Answer requests until there are no more. Helper process only."""
    with os.fdopen(request_fd, "rb") as requests:
        store, fault = None, keystore.FAILED
        try:
            store = keystore.open_keystore(limits, lambda: _answer(answer_fd, _PROMPTING))
        except KeystoreError as exc:
            fault = exc.status
        while head := requests.read(_REQUEST.size):
            service, account = (requests.read(length).decode() for length in _REQUEST.unpack(head))
            try:
                if store is None:
                    raise KeystoreError(fault)
                found = store.get(service, account)
            except KeystoreError as exc:
                _answer(answer_fd, exc.status)
            else:
                with found.buffer.view[: found.length] as secret:
                    _answer(answer_fd, keystore.FOUND, secret)


def _answer(fd: int, status: int, secret: bytes | memoryview = b"") -> None:
    header = _HEADER.pack(status, len(secret))
    parts = [memoryview(header), memoryview(secret)]
    while parts:
        written = os.writev(fd, parts)
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if parts:
            parts[0] = parts[0][written:]
