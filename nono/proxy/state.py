"""The states of one exchange, as tables.

Two half-machines run side by side, because an upstream may answer before the request's body ends:

- the client half says how far the *request* has been read;
- the upstream half says how far the *answer* has been read.

Each event moves one half (`CLIENT`, `UPSTREAM`); what one half means for the other is said once, in `COUPLED`, which
`settle` applies after every event. A transition that is not in a table is a bug of ours, never of a peer, and raises
KeyError; what peers do wrong has events of its own (REFUSED, BROKE). `exchange.py` does the reading and writing.

Client half:
    IDLE      no byte of a request yet                 WAITING   head granted, an upstream is being found
    HEAD      some bytes of a head                     BODY      the body is being forwarded
    DONE      the request was read to its end          DRAIN     the body's rest is read and dropped
    TUNNEL    bytes are no longer HTTP                 CLOSING   a last answer is on its way, then the end
    HANDSHAKE CONNECT was answered, TLS is to begin; then IDLE again, inside it
    HELD      a head whose host may still come into the allowlist (latecomers.py)

Upstream half:
    IDLE      none bound                               AWAITING  request on its way, no byte answered
    HEAD      some bytes of an answer's head           BODY      the answer is being forwarded
    DONE      the answer was read to its end           TUNNEL    bytes are no longer HTTP

An exchange may be retried only in AWAITING: not one byte was answered.

Source: RFC 9112 sections 2 and 9; the shape is h11's (_state.py).
"""

from __future__ import annotations

from typing import Final

# States.
IDLE: Final = "IDLE"
HEAD: Final = "HEAD"
WAITING: Final = "WAITING"
AWAITING: Final = "AWAITING"
BODY: Final = "BODY"
DRAIN: Final = "DRAIN"
DONE: Final = "DONE"
TUNNEL: Final = "TUNNEL"
HANDSHAKE: Final = "HANDSHAKE"
HELD: Final = "HELD"
CLOSING: Final = "CLOSING"

# Events of the client half.
BYTES: Final = "BYTES"  # some bytes of a head that is not complete
GRANTED: Final = "GRANTED"  # a whole head, which passed every room
UNLISTED: Final = "UNLISTED"  # a whole head, whose host may still come into the allowlist
SENT_WITH_BODY: Final = "SENT_WITH_BODY"  # the head left for the upstream, more body is to come from the client
SENT_WHOLE: Final = "SENT_WHOLE"  # the request left for the upstream whole
END: Final = "END"  # the message's last byte was read (either half)
DEAF: Final = "DEAF"  # the upstream takes no more of the body
REFUSED: Final = "REFUSED"  # nono answers itself and hangs up
INTERCEPTED: Final = "INTERCEPTED"  # CONNECT was established, and its TLS ends here
SWITCHED: Final = "SWITCHED"  # 101, or CONNECT was established (either half)
NEXT: Final = "NEXT"  # the exchange is over, the connection goes on

# Events of the upstream half.
BOUND: Final = "BOUND"  # a connection was found and the request is being sent on it
FIRST_BYTES: Final = "FIRST_BYTES"  # some bytes of an answer's head that is not complete
INTERIM: Final = "INTERIM"  # a 1xx head was forwarded
ANSWER: Final = "ANSWER"  # a final head with a body to come
ANSWER_WHOLE: Final = "ANSWER_WHOLE"  # a final head that has no body
LOST: Final = "LOST"  # the connection ended or failed

CLIENT: Final[dict[str, dict[str, str]]] = {
    IDLE: {BYTES: HEAD, GRANTED: WAITING, UNLISTED: HELD, REFUSED: CLOSING},
    HEAD: {BYTES: HEAD, GRANTED: WAITING, UNLISTED: HELD, REFUSED: CLOSING},
    HELD: {GRANTED: WAITING, UNLISTED: HELD, REFUSED: CLOSING},
    WAITING: {
        SENT_WITH_BODY: BODY,
        SENT_WHOLE: DONE,
        REFUSED: CLOSING,
        NEXT: IDLE,
        SWITCHED: TUNNEL,
        INTERCEPTED: HANDSHAKE,
    },
    HANDSHAKE: {NEXT: IDLE},
    BODY: {END: DONE, DEAF: DRAIN, REFUSED: CLOSING},
    DRAIN: {END: DONE, DEAF: DRAIN, REFUSED: CLOSING},
    DONE: {NEXT: IDLE, DEAF: DONE, SWITCHED: TUNNEL, REFUSED: CLOSING},
    TUNNEL: {},
    CLOSING: {},
}

UPSTREAM: Final[dict[str, dict[str, str]]] = {
    IDLE: {BOUND: AWAITING, SWITCHED: TUNNEL, LOST: IDLE},
    AWAITING: {FIRST_BYTES: HEAD, INTERIM: HEAD, ANSWER: BODY, ANSWER_WHOLE: DONE, SWITCHED: TUNNEL, LOST: IDLE},
    HEAD: {FIRST_BYTES: HEAD, INTERIM: HEAD, ANSWER: BODY, ANSWER_WHOLE: DONE, SWITCHED: TUNNEL, LOST: IDLE},
    BODY: {END: DONE, LOST: IDLE},
    DONE: {NEXT: IDLE, LOST: DONE},
    TUNNEL: {},
}

# What a pair of states means for the client half: the event that follows at once.
COUPLED: Final[dict[tuple[str, str], str]] = {
    (BODY, DONE): DEAF,  # answered before the body ended: the rest is of no use to anyone
    (DRAIN, DONE): DEAF,
    (DONE, DONE): NEXT,
}
