"""Count the copies of a secret in the memory of another process, as an attacker of the same user would find them.

    scan(pid, secret) -> Copies(full, partial, unreadable)

Every readable mapping is read through /proc/PID/mem and searched for each 12-byte fragment of the secret. Fragments
that lie where one copy would put them are one copy: full when none is missing, partial otherwise. A mapping that the
kernel refuses to show (memfd_secret: EIO even for root) is named in `unreadable`.
The secret must be random enough that its fragments occur nowhere else.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

FRAGMENT = 12


class Copies(NamedTuple):
    full: int
    partial: int
    unreadable: tuple[str, ...]


def scan(pid: int, secret: bytes) -> Copies:
    starts = range(0, len(secret) - FRAGMENT + 1, FRAGMENT)
    found: dict[int, set[int]] = {}
    unreadable = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for low, high, name in _mappings(pid):
            try:
                content = _read(memory.fileno(), low, high)
            except OSError:
                unreadable.append(name)
                continue
            for start in starts:
                fragment = secret[start : start + FRAGMENT]
                position = content.find(fragment)
                while position >= 0:
                    found.setdefault(low + position - start, set()).add(start)
                    position = content.find(fragment, position + 1)
    full = sum(len(parts) == len(starts) for parts in found.values())
    return Copies(full, len(found) - full, tuple(unreadable))


def pid_with(variable: str) -> int:
    """Return the id, for us, of the process with `variable` (NAME=VALUE) in its environment.

    A process in a PID namespace of its own knows itself by another one.
    """
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (directory / "environ").read_bytes().split(b"\0"):
                return int(directory.name)
        except OSError:
            continue  # gone, or another user's
    raise AssertionError("no process has this variable")


def _mappings(pid: int) -> list[tuple[int, int, str]]:
    mappings = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        low, _, high = fields[0].partition("-")
        name = fields[5] if len(fields) > 5 else "anonymous"
        if fields[1].startswith("r") and name not in ("[vvar]", "[vvar_vclock]", "[vsyscall]"):
            mappings.append((int(low, 16), int(high, 16), name))
    return mappings


def _read(fd: int, low: int, high: int) -> bytes:
    parts = []
    while low < high:
        part = os.pread(fd, min(high - low, 1 << 26), low)
        if not part:
            break
        parts.append(part)
        low += len(part)
    return b"".join(parts)


if __name__ == "__main__":
    print(scan(int(sys.argv[1]), sys.stdin.buffer.read().strip()))
