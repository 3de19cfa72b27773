"""Questions that the agent asks the kernel in the place of executing its program: spawn.Prepared.start(..., probe=).

It is the agent itself that asks, behind the whole wall (csrc/probe.c), so the answer is what a program would get. Only
one thing differs: memory is the supervisor's still, so what the kernel allows of a process to its own memory and to
/proc/self is not what it would be.

Nothing is changed by asking: files are opened without truncation and without waiting, what is made is new (O_EXCL) and
removed at once. A reader that waits for a FIFO's writer, or a writer for its reader, may take us for it.
"""

from __future__ import annotations

import os
from errno import EINTR

from nono.errors import KernelError
from nono.kernel._shim import ffi, lib
from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LOOPBACK = 0x7F000001
_HEAD_BYTES = 4096


class Open(Record):
    """Open what exists. flags: os.O_RDONLY, O_WRONLY or O_RDWR."""

    path: str
    flags: int


class List(Record):
    """Read the names in a directory."""

    path: str


class Create(Record):
    """Make a file that does not exist yet, open it, and remove it at once. flags: os.O_WRONLY or O_RDWR."""

    path: str
    flags: int = os.O_WRONLY


class Connect(Record):
    """Open a TCP connection; send `request` and read the head of what comes back. address: IPv4, as a number."""

    port: int
    request: bytes = b""
    address: int = _LOOPBACK
    timeout_s: int = 10


class Reply(Record):
    """errno: 0 for none. answer: what came back. left_behind: what was made could not be removed."""

    errno: int
    answer: bytes = b""
    left_behind: bool = False


class Probe:
    """The questions of one agent, in memory that it reads and writes. connects: whether the network is asked."""

    def __init__(self, questions: Sequence[Open | List | Create | Connect]) -> None:
        self._array = array = ffi.new("struct nono_question[]", len(questions))
        self.questions = ffi.new("struct nono_probe *", (array, len(questions), 0))
        self.connects = any(isinstance(asked, Connect) for asked in questions)
        self._keep: list[object] = []
        for asked, question in zip(questions, array, strict=True):
            if isinstance(asked, Connect):
                question.kind, question.port, question.address = lib.NONO_ASK_CONNECT, asked.port, asked.address
                question.timeout_s = asked.timeout_s
                question.request, question.request_size = self._held(asked.request), len(asked.request)
                question.answer = answer = ffi.new("char[]", _HEAD_BYTES)
                question.answer_size = _HEAD_BYTES if asked.request else 0
                self._keep.append(answer)
                continue
            directory, name = "", asked.path
            if isinstance(asked, Create):
                directory, _, name = asked.path.rpartition("/")
            question.directory = self._held(os.fsencode(directory or "/"))
            question.path = self._held(os.fsencode(name))
            if isinstance(asked, List):
                question.kind = lib.NONO_ASK_LIST
            else:
                question.kind = lib.NONO_ASK_OPEN if isinstance(asked, Open) else lib.NONO_ASK_CREATE
                question.flags = asked.flags

    def replies(self) -> tuple[Reply, ...]:
        """Return the answers, in order. Raises KernelError where the agent was ended before the last."""
        if self.questions.answered < self.questions.count:
            raise KernelError("probe", EINTR, "The probe was ended before all was asked; ask without --probe.")
        return tuple(
            Reply(
                each.error, ffi.buffer(each.answer, each.answered)[:] if each.answered else b"", bool(each.left_behind)
            )
            for each in self._array
        )

    def _held(self, value: bytes) -> object:
        if b"\0" in value and not value.endswith(b"\r\n\r\n"):
            raise ValueError("embedded NUL byte in a path")
        pointer = ffi.from_buffer("char[]", value)  # bytes end in NUL
        self._keep.append(pointer)
        return pointer
