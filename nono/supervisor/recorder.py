"""What a program wanted of the file system, collected while it runs: for `nono learn`.

No part of the wall: the calls that are recorded go on in the kernel, where Landlock and the mounts judge them. The
threads of the mediator read the paths (csrc/record.c); one of them comes here when the buffer is full, and the program
waits that long. What is kept is bounded: MAX_PATHS paths and MAX_BYTES of them; beyond that nothing more is recorded,
the program runs on, and `is_whole` is False.
"""

from __future__ import annotations

import os
from threading import Lock

from nono.kernel.recording import Recording
from nono.sandbox.recorded import PATH_CALLS, wanted
from nono.sandbox.syscalls import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.kernel.notify import Call

MAX_PATHS = 200_000
MAX_BYTES = 64 << 20


class Recorder:
    """accesses: what was wanted (bits of sandbox/recorded.py) of each absolute path, as the program named it."""

    def __init__(self, *, max_paths: int = MAX_PATHS, max_bytes: int = MAX_BYTES) -> None:
        machine = os.uname().machine
        known = [(call, number(call.name, machine)) for call in PATH_CALLS]
        self._calls = [call for call, nr in known if nr is not None]
        self.recording = Recording(
            [
                (nr, call.directory, call.path, call.flags, call.flags_mask, call.may_be_empty)
                for call, nr in known
                if nr is not None
            ]
        )
        self.accesses: dict[bytes, int] = {}
        self.is_whole = True
        self._left = max_paths
        self._bytes_left = max_bytes
        self._lock = Lock()

    @property
    def unread(self) -> int:
        """How many paths could not be read, so that they are not among the accesses."""
        return self.recording.unread

    def add(self, notify_fd: int, call: Call) -> None:
        """Record a call for which the buffer had no room."""
        while not self.recording.add(notify_fd, call):
            self.drain()

    def drain(self) -> None:
        """Take what was recorded into `accesses`."""
        with self._lock:
            for row, flags, path in self.recording.take():
                access = wanted(self._calls[row], flags)
                known = self.accesses.get(path, 0)
                if access | known == known:
                    continue
                if not known:
                    if not self._left or self._bytes_left < len(path):
                        self.is_whole = False
                        self.recording.stop()
                        break
                    self._left -= 1
                    self._bytes_left -= len(path)
                self.accesses[path] = known | access
