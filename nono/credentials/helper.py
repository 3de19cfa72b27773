"""The helper process: reads the platform's keystore, so that the supervisor never has more than one copy of a key.

A keystore library leaves copies of what it read all over its process (measured: three and more). So they are left in a
process that ends: it is forked before the child exists, makes itself undumpable, imports the library, and writes for
each reference one header (status, length: nothing secret) and the raw secret into a pipe. The supervisor reads the
header, makes a locked buffer of that size, and lets the kernel copy the secret straight into it.

fork, not exec: a second interpreter's start costs 10 ms and more, all of it on the way to the agent's exec. On macOS
the helper is a fresh interpreter all the same, because Apple's frameworks do not work in a forked process.

A pipe, not a socketpair: the same guarantees here, and the supervisor need not import socket to start. The helper
watches its end: when the supervisor is gone, it closes any open dialog and ends.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence

from nono.credentials import keystore
from nono.credentials.keystore import DEFAULT_LIMITS, HEADER, KeystoreError, Limits
from nono.credentials.reference import Reference
from nono.errors import CredentialError
from nono.kernel import process
from nono.kernel.secretmem import SecretBuffer
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_LEAVE_S = 0.5  # for a helper that is not needed any more to close its dialog
_GRACE_S = 2.0  # over the helper's own limits: it reports them itself, in better words


class Answer(Record):
    """What the helper said about one reference, that at position `at`.

    buffer: the raw secret in its first `length` bytes, owned by the receiver; None unless the status is FOUND.
    """

    at: int
    status: int
    several: bool
    buffer: SecretBuffer | None
    length: int


class Helper:
    """A running helper process. It opens the keystore at once, then waits for `ask`; closed unasked, it just ends.

    Starting it is the first thing that `nono run` does when a key may be needed: its imports and the greeting of the
    bus take as long as the supervisor's own start, so on two cores they cost nothing (docs/decisions/0002).
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._remaining = 0
        request_fd, self._request_fd = os.pipe()
        self._fd, write_fd = os.pipe()
        try:
            self._pid = os.fork()
        except BaseException:
            os.close(self._fd)
            os.close(self._request_fd)
            raise
        else:
            if not self._pid:
                _run(request_fd, limits, write_fd, (self._fd, self._request_fd))
        finally:
            os.close(write_fd)
            os.close(request_fd)

    def ask(self, references: Sequence[Reference]) -> None:
        """Ask for `references` (of the schemes NAME and KEYRING), once."""
        self._remaining = len(references)
        fields = [field for reference in references for field in (reference.service, reference.name)]
        request = memoryview("\0".join(fields).encode())
        try:
            while request:
                request = request[os.write(self._request_fd, request) :]
        except BrokenPipeError:
            pass  # it is gone; `answers` says so
        os.close(self._request_fd)
        self._request_fd = -1

    def answers(self) -> Iterator[Answer]:
        """Yield the answer for each reference, in order; one with status PROMPTING before a dialog opens.

        Raises CredentialError when the helper dies or does not keep its own limits.
        """
        header = bytearray(HEADER.size)
        deadline = time.monotonic() + self._limits.call_s + _GRACE_S
        while self._remaining:
            self._read_exactly(memoryview(header), deadline)
            status, flags, at, length = HEADER.unpack(header)
            if status == keystore.PROMPTING:
                deadline = time.monotonic() + self._limits.prompt_s + self._limits.call_s + _GRACE_S
                yield Answer(at, status, False, None, 0)
                continue
            if status != keystore.FOUND:
                self._remaining -= 1
                yield Answer(at, status, False, None, 0)
                continue
            buffer = SecretBuffer(max(length, 1))
            try:
                with buffer.view[:length] as view:
                    self._read_exactly(view, deadline)
            except BaseException:
                buffer.close()
                raise
            self._remaining -= 1
            deadline = time.monotonic() + self._limits.call_s + _GRACE_S
            yield Answer(at, status, bool(flags & keystore.SEVERAL), buffer, length)

    def close(self) -> None:
        """End the helper if it still runs, and reap it."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if self._request_fd >= 0:  # it was never asked, so no dialog of its is open
            os.close(self._request_fd)
            self._request_fd = -1
            os.kill(self._pid, signal.SIGKILL)
        # It ends by itself: after its last answer, or on seeing that nobody reads any more.
        give_up = time.monotonic() + _LEAVE_S
        while self._remaining and os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > give_up:
                os.kill(self._pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own
                break
            time.sleep(0.002)
        os.waitpid(self._pid, 0)

    def _read_exactly(self, view: memoryview, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        filled = 0
        while filled < len(view):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise CredentialError(f"{keystore.keystore_name()} does not answer. Restart it, then run again.")
            with view[filled:] as rest:
                count = os.readv(self._fd, [rest])
            if not count:
                raise CredentialError(
                    f"the helper that reads {keystore.keystore_name()} ended unexpectedly. Run again."
                )
            filled += count


def serve(request_fd: int, limits: Limits, write_fd: int) -> None:
    """Open the keystore, read the request to its end, answer each (service, account) of it. Helper process only."""

    def answer(at: int, status: int, flags: int = 0, secret: bytes = b"") -> None:
        parts = [memoryview(HEADER.pack(status, flags, at, len(secret))), memoryview(secret)]
        while parts:
            written = os.writev(write_fd, parts)
            while parts and written >= len(parts[0]):
                written -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][written:]

    store, fault = None, keystore.FAILED
    try:
        store = keystore.open_keystore(limits, lambda: answer(0, keystore.PROMPTING), write_fd)
    except KeystoreError as exc:
        fault = exc.status
    for at, (service, account) in enumerate(_read_request(request_fd)):
        try:
            if store is None:
                raise KeystoreError(fault)
            secret, several = store.get(service, account)
        except KeystoreError as exc:
            answer(at, exc.status)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            answer(at, keystore.FAILED)  # the library stumbled; its error may quote the secret
        else:
            answer(at, keystore.FOUND, keystore.SEVERAL if several else 0, secret)


def _read_request(request_fd: int) -> list[tuple[str, str]]:
    request = b""
    while part := os.read(request_fd, 65536):
        request += part
    fields = request.decode().split("\0") if request else []
    return list(zip(fields[::2], fields[1::2], strict=True))


def _run(request_fd: int, limits: Limits, write_fd: int, supervisors: tuple[int, int]) -> NoReturn:
    """Helper process, after fork. Says nothing on any stream, whatever happens, and never returns."""
    status = 1
    try:
        _hide()
        for fd in supervisors:  # or the helper would never see its reader leave
            os.close(fd)
        if sys.platform == "darwin":
            _exec(request_fd, limits, write_fd)
        serve(request_fd, limits, write_fd)
        status = 0
    except BaseException:  # noqa: BLE001  (also an interrupt from the terminal; the supervisor says what is to be said)
        pass
    finally:
        os._exit(status)


def _hide() -> None:
    """Keep other processes of this user from reading the helper's memory. macOS does that for every process."""
    if sys.platform == "linux":
        process.set_dumpable(False)


# The fresh interpreter's program: only numbers in its arguments; nono from where this one is; -I: no user site, no cwd.
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from nono.credentials import helper, keystore
try:
    helper.serve(int(sys.argv[2]), keystore.Limits(float(sys.argv[4]), float(sys.argv[5])), int(sys.argv[3]))
except BaseException:
    sys.exit(1)
"""


def _exec(request_fd: int, limits: Limits, write_fd: int) -> NoReturn:
    for fd in (request_fd, write_fd):
        os.set_inheritable(fd, True)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    arguments = [root, str(request_fd), str(write_fd), str(limits.call_s), str(limits.prompt_s)]
    os.execv(sys.executable, [sys.executable, "-I", "-c", _PROGRAM, *arguments])
