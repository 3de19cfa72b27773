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
from nono.credentials.keystore import HEADER, KeystoreError, Limits
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
    """A running helper process for `references` (of the schemes NAME and KEYRING)."""

    def __init__(self, references: Sequence[Reference], limits: Limits) -> None:
        self._limits = limits
        self._remaining = len(references)
        self._fd, write_fd = os.pipe()
        try:
            self._pid = _start(references, limits, self._fd, write_fd)
        except BaseException:
            os.close(self._fd)
            raise
        finally:
            os.close(write_fd)

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


def serve(items: Sequence[tuple[str, str]], limits: Limits, write_fd: int) -> None:
    """Answer each (service, account) on `write_fd`. Helper process only."""

    def answer(at: int, status: int, flags: int = 0, secret: bytes = b"") -> None:
        parts = [memoryview(HEADER.pack(status, flags, at, len(secret))), memoryview(secret)]
        while parts:
            written = os.writev(write_fd, parts)
            while parts and written >= len(parts[0]):
                written -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][written:]

    try:
        store = keystore.open_keystore(limits, lambda: answer(0, keystore.PROMPTING), write_fd)
    except KeystoreError as exc:
        for at in range(len(items)):
            answer(at, exc.status)
        return
    for at, (service, account) in enumerate(items):
        try:
            secret, several = store.get(service, account)
        except KeystoreError as exc:
            answer(at, exc.status)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            answer(at, keystore.FAILED)  # the library stumbled; its error may quote the secret
        else:
            answer(at, keystore.FOUND, keystore.SEVERAL if several else 0, secret)


def _start(references: Sequence[Reference], limits: Limits, read_fd: int, write_fd: int) -> int:
    items = [(reference.service, reference.name) for reference in references]
    pid = os.fork()
    if not pid:
        _run(items, limits, read_fd, write_fd)
    return pid


def _run(items: list[tuple[str, str]], limits: Limits, read_fd: int, write_fd: int) -> NoReturn:
    """Helper process, after fork. Says nothing on any stream, whatever happens, and never returns."""
    status = 1
    try:
        _hide()
        os.close(read_fd)  # or the helper would never see its reader leave
        if sys.platform == "darwin":
            _exec(items, limits, write_fd)
        serve(items, limits, write_fd)
        status = 0
    except BaseException:  # noqa: BLE001  (also an interrupt from the terminal; the supervisor says what is to be said)
        pass
    finally:
        os._exit(status)


def _hide() -> None:
    """Keep other processes of this user from reading the helper's memory. macOS does that for every process."""
    if sys.platform == "linux":
        process.set_dumpable(False)


# The fresh interpreter's program: only names in its arguments, nono found where this one was, -I: no user site, no cwd.
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from nono.credentials import helper, keystore
limits = keystore.Limits(float(sys.argv[3]), float(sys.argv[4]))
try:
    helper.serve(list(zip(sys.argv[5::2], sys.argv[6::2])), limits, int(sys.argv[2]))
except BaseException:
    sys.exit(1)
"""


def _exec(items: list[tuple[str, str]], limits: Limits, write_fd: int) -> NoReturn:
    """Helper process, after fork: become a fresh interpreter that serves the same items."""
    os.set_inheritable(write_fd, True)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    arguments = [root, str(write_fd), str(limits.call_s), str(limits.prompt_s)]
    for item in items:
        arguments += item
    os.execv(sys.executable, [sys.executable, "-I", "-c", _PROGRAM, *arguments])
