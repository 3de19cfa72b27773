"""What is mounted where. Source: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os

from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MOUNTINFO = "/proc/self/mountinfo"


class Mounted(Record):
    """device: "major:minor". root: what of that file system is mounted, as it calls it itself. point: where."""

    device: str
    root: str
    point: str
    type: str


def read(path: str = MOUNTINFO) -> Iterator[Mounted]:
    """Yield what is mounted, in the order of mounting. Raises OSError."""
    with open(path, "rb") as file:
        lines = file.readlines()
    for line in lines:
        before, _, after = line.partition(b" - ")
        _, _, device, root, point, _ = before.split(b" ", 5)
        yield Mounted(device.decode(), _unescape(root), _unescape(point), after.partition(b" ")[0].decode())


def _unescape(field: bytes) -> str:
    """Blanks, line ends and backslashes are written as their octal numbers."""
    if b"\\" not in field:
        return os.fsdecode(field)
    parts = field.split(b"\\")
    return os.fsdecode(parts[0] + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in parts[1:]))
