"""What programs say when something was denied them: the lines of the agent's output that tell of it.

`feed` sees every byte that the agent writes to its terminal or to standard error, so it looks for a few words only,
takes the line where it finds one (and the lines before it, because some programs name the path there), and keeps no
more than MAX_LINES different ones; after MAX_SEEN of them it looks no further. wording.py reads what was kept, when
the run is over: most runs have nothing to read, and do not pay for it.
"""

from __future__ import annotations

MAX_LINES, MAX_SEEN = 512, 20_000
LINE_BYTES = 4096
_BEFORE = 3  # lines that are kept with each

# Without the first letter, which some programs write large.
# A mount point is "busy": the agent cannot remove or rename a signed file (sandbox/mounts.py).
DENIED = (b"ermission denied", b"peration not permitted", b"ead-only file system", b"esource busy", b"AccessDenied")
ABSENT = b"o such file or directory"
SIGNS = (*DENIED, ABSENT)


class Complaints:
    """Collects such lines of one stream. `lines`: each with what stood above it, and how often it came."""

    def __init__(self) -> None:
        self.lines: dict[bytes, tuple[bytes, int]] = {}
        self._tail = b""
        self._left = MAX_SEEN

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the stream. Raises nothing, and keeps little."""
        if self._left <= 0:
            return
        text = self._tail + data if self._tail else data
        end = text.rfind(b"\n") + 1
        if end:
            for sign in SIGNS:
                at = text.find(sign, 0, end)
                while at >= 0 and self._left > 0:
                    line_end = text.find(b"\n", at)
                    self._take(text, at, line_end)
                    at = text.find(sign, line_end, end)
        self._tail = text[max(end, len(text) - LINE_BYTES) :]

    def finish(self) -> None:
        """Take the last line, too, which may have no end."""
        if self._tail:
            self.feed(b"\n")

    def _take(self, text: bytes, at: int, line_end: int) -> None:
        self._left -= 1
        begin = text.rfind(b"\n", 0, at) + 1
        line = text[max(begin, at - LINE_BYTES // 2) : min(line_end, at + LINE_BYTES // 2)]
        known = self.lines.get(line)
        if known is not None:
            self.lines[line] = (known[0], known[1] + 1)
        elif len(self.lines) < MAX_LINES:
            above = text[max(0, begin - LINE_BYTES // 2) : begin].splitlines()[-_BEFORE:]
            self.lines[line] = (b"\n".join(above), 1)
