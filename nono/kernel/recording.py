"""The paths that calls name while they wait for the supervisor: collected without Python (csrc/record.c).

`Recording` holds the table of calls, the hashes of what is known and the buffer of what is new. It is given to a
notify.Line, whose threads fill it; `take` empties it. `nono learn` alone has one.
"""

from __future__ import annotations

import os
import struct

from nono.kernel._shim import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from nono.kernel.notify import Call

_BUFFER_BYTES = 1 << 20
_SEEN = 1 << 16
_HEAD = struct.Struct("=III")  # struct nono_record_head


class Recording:
    """What was named. rows: (number of the call, directory, path, flags, flags_mask, may_be_empty), see csrc/shim.h."""

    def __init__(self, rows: Sequence[tuple[int, int, int, int, int, bool]]) -> None:
        self.raw: Any = ffi.new("struct nono_recording *")
        self._rows = ffi.new("struct nono_recorded_call[]", list(rows))
        self._seen = ffi.new("uint64_t[]", _SEEN)
        self._buffer = ffi.new("uint8_t[]", _BUFFER_BYTES)
        self._taken = ffi.new("uint8_t[]", _BUFFER_BYTES)
        self.raw.calls = self._rows
        self.raw.call_count = len(rows)
        self.raw.seen = self._seen
        self.raw.seen_count = _SEEN
        self.raw.seed = int.from_bytes(os.urandom(8))
        self.raw.buffer = self._buffer
        self.raw.size = _BUFFER_BYTES

    @property
    def received(self) -> int:
        """How many calls there were."""
        return int(self.raw.received)

    @property
    def unread(self) -> int:
        """How many paths could not be read from their process."""
        return int(self.raw.unread)

    def add(self, notify_fd: int, call: Call) -> bool:
        """Record a call that was handed up because the buffer was full; False when it still is."""
        return int(lib.nono_record(self.raw, notify_fd, call.raw)) == 0

    def stop(self) -> None:
        """Record no more: calls go on unread."""
        self.raw.stopped = 1

    def take(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield row, flags and the absolute path of each record, and forget them. Of one thread at a time."""
        size = int(lib.nono_record_take(self.raw, self._taken))
        data = bytes(ffi.buffer(self._taken, size))
        at = 0
        while at < size:
            length, row, flags = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            yield row, flags, data[at : at + length]
            at += length
