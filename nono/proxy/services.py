"""What all conversations of one proxy share, and what the audit learns of each exchange."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from nono.loop import Loop
from nono.proxy.inject import ScratchPool
from nono.proxy.latecomers import Latecomers
from nono.proxy.limits import Limits
from nono.proxy.memo import MemoJudge
from nono.proxy.route import Origin
from nono.proxy.tunnel import Pipes
from nono.proxy.upstream import Pool

RECV_BYTES = 16384  # a head and the beginning of a body; what follows is read in larger pieces
BUFFER_BYTES = 262144  # fills of 128-256 KiB: larger ones gain nothing
HOLD_BYTES = 65536  # of pipelined requests, or of a body whose upstream is still being dialled
REPLAY_BYTES = 65536


class Exchange(NamedTuple):
    """What the audit learns of one request: no header, no query, no body.

    time: seconds since the epoch at its start. route: empty for CONNECT and absolute-form; host: where it was to go.
    address: the literal address and port of the connection it used, or of the last that failed; empty when none was
    dialled. verdict: "refused" by nono's policy, or "allowed", also where the upstream or the client then failed.
    status: what the client was answered, 0 when nothing. code: why nono answered, or broke off; empty when it did not.
    flag: what would grant what was refused, which the reason then says, too.
    """

    time: float
    route: str
    host: str
    address: str
    method: str
    path: str
    verdict: str
    status: int
    code: str
    bytes_up: int
    bytes_down: int
    duration_ms: float
    reason: str
    flag: str = ""


class Interceptor(Protocol):
    """Ends clients' TLS (authority.py, which is imported only where it is used)."""

    def context_for(self, host: str) -> ssl.SSLContext: ...


class Services(NamedTuple):
    """What all conversations of one proxy share; inside an intercepted connection with another judge.

    pool: by origin, and by which addresses it may have; None for a route's own scope. opened: told of each tunnel that
    begins, when somebody watches.
    """

    loop: Loop
    limits: Limits
    judge: MemoJudge
    token: bytes
    scratch: ScratchPool
    pool: Callable[[Origin, str | None], Pool]
    report: Callable[[Exchange], None]
    closed: Callable[[Any], None]
    buffer: bytearray
    view: memoryview
    pipes: Pipes
    latecomers: Latecomers
    interceptor: Interceptor | None = None
    opened: Callable[[Exchange], None] | None = None
