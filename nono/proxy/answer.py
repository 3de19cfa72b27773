"""What nono itself answers: refusals and upstream failures, in a form that LLM SDKs print whole.

Pure. The body is `{"error": {"type": "nono_error", "code", "message"}}`, the shape of the providers' own errors; the
header `x-nono-error` carries the code for scripts. Where trying again cannot help, `x-should-retry: false` stops the
retries that the SDKs would otherwise make (a refusal stays a refusal).

Messages are nono's own sentences: nothing the agent or the upstream sent is quoted but names that were checked.

No client shows the body of a CONNECT that failed; pip, npm, Go and Java show the reason phrase, so the sentence stands
there, too (curl and git show the number alone).
"""

from __future__ import annotations

import json
from http import HTTPStatus

# Failures of the moment: the SDK's own retry is the right thing.
_WORTH_RETRYING = frozenset((408, 502, 504))
_NEVER_RETRY_CODES = frozenset(("tls_certificate", "tls_config"))
_EXTRA = {
    401: "WWW-Authenticate: Bearer\r\n",
    405: "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n",
    407: 'Proxy-Authenticate: Basic realm="nono"\r\n',
}


def answer(
    status: int, code: str, message: str, *, close: bool, head_only: bool = False, to_connect: bool = False
) -> bytes:
    """Return a whole answer. head_only: to a HEAD request, which gets no body. to_connect: see above."""
    body = json.dumps({"error": {"type": "nono_error", "code": code, "message": message}}).encode()
    extra = _EXTRA.get(status, "")
    if code == "too_many_connections":
        extra += "Retry-After: 1\r\n"
    elif status not in _WORTH_RETRYING or code in _NEVER_RETRY_CODES:
        extra += "x-should-retry: false\r\n"
    if close:
        extra += "Connection: close\r\n"
    is_text = message.isascii() and message.isprintable()
    phrase = message if to_connect and status != 407 and is_text else HTTPStatus(status).phrase
    head = (
        f"HTTP/1.1 {status} {phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nx-nono-error: {code}\r\n{extra}\r\n"
    )
    return head.encode() if head_only else head.encode() + body
