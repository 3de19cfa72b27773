"""Where a message ends.

Pure: no sockets. Bodies are forwarded as they are framed, byte for byte; this room only finds their end. A body is
framed by length, by chunks, or by the end of the connection (answers only). Chunk extensions and trailers pass
unaltered.

The chunk scanner is strict, because a proxy and an upstream that disagree on one chunk disagree on everything after
it: sizes are hexadecimal digits and nothing else (`0x5`, `+5`, `1_0`, a space refuse), every line ends with CRLF, the
CRLF after a chunk's data is checked, and trailers are judged by h11 and must not be framing, routing or credentials.
Lines that arrive in pieces are held back until they are complete and judged (`held_back`), so that of a request that is
refused no octet of the malformed line was forwarded. Answers may have white space after the size, as some servers do
(h11 accepts it too).

Source: RFC 9112 sections 6.3 and 7.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import h11

from nono.proxy.head import CHUNKED, UNTIL_CLOSE, ResponseHead

MAX_CHUNK_LINE_BYTES = 4096
MAX_TRAILER_BYTES = 65536

# At most 16 digits: a size beyond 2**64 is an attack on somebody's integer.
_REQUEST_SIZE = re.compile(rb"([0-9a-fA-F]{1,16})(?:;[^\r\n\x00]*)?\r\n").fullmatch
_RESPONSE_SIZE = re.compile(rb"([0-9a-fA-F]{1,16})[ \t]*(?:;[^\r\n\x00]*)?\r\n").fullmatch
# What these expressions said of short lines before: a stream's chunks are of few sizes.
_REQUEST_SIZES: dict[bytes, int] = {}
_RESPONSE_SIZES: dict[bytes, int] = {}
_MEMO_SIZES = 1024
# RFC 9110 section 6.5.1: fields that must not come as trailers, plus where credentials stand.
_NOT_IN_TRAILERS = frozenset(
    (
        b"transfer-encoding", b"content-length", b"host", b"trailer", b"connection", b"te", b"upgrade", b"expect",
        b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"x-api-key", b"x-goog-api-key", b"api-key",
        b"content-encoding", b"content-type", b"content-range", b"keep-alive", b"forwarded", b"cache-control",
        b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url",
    )
)  # fmt: skip


class FramingError(Exception):
    """The body is not framed as its head says."""


def answer_length(head: ResponseHead, method: bytes) -> int:
    """Body bytes of an answer to `method`: a number, CHUNKED or UNTIL_CLOSE."""
    if method == b"HEAD" or head.status == 304 or head.status == 204:
        return 0
    return head.length


class ChunkScanner:
    """Finds the end of a chunked body; sees every byte once and keeps at most one line of it."""

    __slots__ = (
        "_forbidden", "_held", "_in_trailers", "_is_special", "_left", "_line", "_released", "_size", "_sizes",
        "_trailer_bytes",
    )  # fmt: skip

    def __init__(self, strict: bool, forbidden: bytes = b"", is_special: Callable[[bytes], bool] | None = None) -> None:
        """strict: for requests. forbidden: bytes that no line may hold (the phantom token).

        is_special: whether a header (name in lower case) means something to this proxy, and so must not be a trailer.
        """
        self._size, self._sizes = (_REQUEST_SIZE, _REQUEST_SIZES) if strict else (_RESPONSE_SIZE, _RESPONSE_SIZES)
        self._forbidden = forbidden
        self._left = 0  # bytes until the next line: chunk data and its CRLF
        self._line = b""  # the beginning of a line (or of the CRLF after data) that is not complete
        self._held = 0
        self._released = b""
        self._in_trailers = False
        self._trailer_bytes = 0
        self._is_special = is_special

    def feed(self, buffer: bytes | bytearray, start: int, end: int) -> int:
        """Scan buffer[start:end]. Return the index behind the body's last byte, or -1. Raises FramingError."""
        at = start
        size, sizes, left = self._size, self._sizes, self._left
        while True:
            if 2 <= left <= end - at:  # a chunk's end is here, as of nearly every event of a stream
                at += left
                left = 0
                if buffer[at - 2] != 13 or buffer[at - 1] != 10:
                    raise FramingError("chunk data is not followed by CRLF")
                if at == end:
                    self._left = 0
                    return -1
            elif left:
                if left > 2:
                    step = min(left - 2, end - at)
                    at += step
                    left -= step
                while left and left <= 2 and at < end:
                    if buffer[at] != (13 if left == 2 else 10):
                        raise FramingError("chunk data is not followed by CRLF")
                    at += 1
                    left -= 1
                if left:
                    self._left = left
                    if left == 1 and at > start:
                        self._line, self._held = b"\r", 1
                    return -1
                if self._line:
                    self._released, self._line = self._line, b""
            newline = buffer.find(b"\n", at, end)
            if newline < 0:
                self._line += bytes(buffer[at:end])
                if len(self._line) > (MAX_TRAILER_BYTES if self._in_trailers else MAX_CHUNK_LINE_BYTES):
                    raise FramingError("a chunk header is too long")
                self._held = end - at
                self._left = 0
                return -1
            line = bytes(buffer[at : newline + 1])
            if self._line:
                self._released, line, self._line = self._line, self._line + line, b""
            at = newline + 1
            if self._in_trailers:
                if line == b"\r\n":
                    return at
                self._check_trailer(line)
                continue
            known = sizes.get(line)
            if known is not None:
                left = known
            else:
                match = size(line)
                if match is None or len(line) > MAX_CHUNK_LINE_BYTES:
                    raise FramingError("a malformed chunk header")
                if self._forbidden and self._forbidden in line:
                    raise FramingError("a chunk header holds the session token")
                left = int(match[1], 16)
                if len(line) <= 8:
                    if len(sizes) >= _MEMO_SIZES:
                        sizes.clear()
                    sizes[line] = left
            if left:
                left += 2
            else:
                self._in_trailers = True

    def held_back(self) -> tuple[bytes, int]:
        """What the last `feed` means for forwarding: earlier bytes that may go now, before those of its buffer, and how
        many bytes at the buffer's end must wait because their line is not complete."""
        released, held = self._released, self._held
        self._released, self._held = b"", 0
        return released, held

    def _check_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if self._trailer_bytes > MAX_TRAILER_BYTES:
            raise FramingError("the trailers are too long")
        if self._forbidden and self._forbidden in line:
            raise FramingError("a trailer holds the session token")
        name, colon, value = line[:-2].partition(b":")
        plain = name.lower().replace(b"_", b"-")  # as many servers read it
        if not colon or line[-2:] != b"\r\n" or plain in _NOT_IN_TRAILERS or plain.startswith(b"proxy-"):
            raise FramingError("a malformed or forbidden trailer")
        if self._is_special is not None and self._is_special(plain):
            raise FramingError("a forbidden trailer")
        try:
            h11.EndOfMessage(headers=[(name, value.strip(b" \t"))])
        except h11.ProtocolError:
            raise FramingError("a malformed trailer") from None


__all__ = ["CHUNKED", "UNTIL_CLOSE", "ChunkScanner", "FramingError", "answer_length"]
