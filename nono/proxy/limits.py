"""Time-outs and sizes of the proxy, with their defaults (DESIGN section 4)."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Seconds (`_s`; 0 is none) and bytes."""

    connect_s: float = 10.0  # each address, and before them the look-up of the name
    tls_s: float = 10.0
    chain_s: float = 30.0  # for the operator's own proxy to connect; it has a look-up and a connection to make
    client_head_s: float = 30.0
    client_body_s: float = 60.0  # without a byte of a body that is awaited, as nginx; not once the answer has begun
    client_idle_s: float = 75.0  # as nginx keeps connections alive
    upstream_head_s: float = 0.0  # a model may think for ten minutes
    stalled_write_s: float = 60.0
    tunnel_idle_s: float = 0.0  # in which no byte moves; none: an idle WebSocket is alive, and both ends may hang up
    linger_s: float = 5.0  # after a last answer, for the client to read it
    pool_idle_s: float = 50.0  # below the 60 s after which many load balancers hang up
    pool_size: int = 128  # idle connections per origin
    max_head_bytes: int = 65536
    max_target_bytes: int = 16384
    max_connections: int = 4096
    scratch_slots: int = 4  # of 16 KiB of locked memory; a fifth waiting head waits
    # A slot is wanted by every route, so one upstream must not keep it: longer than this, and the request fails,
    # whatever progress it makes. Half of what a head waits for a slot before its 503: who queues behind four gets one.
    slot_s: float = 5.0
    slot_wait_s: float = 10.0
