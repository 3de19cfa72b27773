"""What the stand-in services answer, in the shape of OpenAI, Anthropic and Gemini. Pure: no sockets, no clock.

Every service is asked over HTTP with a JSON body. The answer is one JSON document, or, when asked to stream, a
sequence of server-sent events. `answer` chooses the shape from the request alone, as the real services do.
Sources: the wire formats that the official SDKs of 2026 decode (tests/e2e runs them against this).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

PIECES = ("Hello", " from", " the", " other", " side", " of", " the", " wall", " \N{EM DASH}", " \u2713.")
TEXT = "".join(PIECES)

_MODEL = "stand-in-1"
_TIME = 1_790_000_000  # any moment will do; SDKs want an integer


class Service(NamedTuple):
    """One stand-in: where it lives on the server, and where it wants its key.

    base: the path below which it answers; header, key_format: how the key must be presented.
    """

    name: str
    base: str
    header: str
    key_format: str


SERVICES = (
    Service("openai", "/openai/v1", "Authorization", "Bearer {}"),
    Service("anthropic", "/anthropic", "x-api-key", "{}"),
    Service("gemini", "/gemini", "x-goog-api-key", "{}"),
)


class Answer(NamedTuple):
    """status: of HTTP. document: the body, when whole. events: the events of a stream, each a block of bytes."""

    status: int
    document: bytes = b""
    events: Sequence[bytes] = ()


def service_of(path: str) -> Service | None:
    """Return the service below whose base `path` lies."""
    for service in SERVICES:
        if path.startswith(service.base + "/"):
            return service
    return None


def unauthorized(service: Service) -> Answer:
    """What `service` says to a caller with a wrong key."""
    message = "The key is not valid."
    error: dict[str, object]
    if service.name == "openai":
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
        return Answer(401, _json({"error": error}))
    if service.name == "anthropic":
        error = {"type": "authentication_error", "message": message}
        return Answer(401, _json({"type": "error", "error": error}))
    return Answer(401, _json({"error": {"code": 401, "message": message, "status": "UNAUTHENTICATED"}}))


def answer(service: Service, path: str, body: bytes) -> Answer:
    """Answer one request that presented the right key. `path` is the request's, with its query."""
    endpoint = path[len(service.base) :].partition("?")[0]
    try:
        question = json.loads(body)
        wants_stream = bool(question.get("stream"))
    except (ValueError, AttributeError):
        return Answer(400, _json({"error": {"message": "The body is not a JSON object."}}))
    if service.name == "openai" and endpoint == "/chat/completions":
        return _whole_or_stream(wants_stream, _chat_completion(), _chat_completion_events())
    if service.name == "openai" and endpoint == "/responses":
        return _whole_or_stream(wants_stream, _response("completed"), _response_events())
    if service.name == "anthropic" and endpoint == "/v1/messages":
        return _whole_or_stream(wants_stream, _message(), _message_events())
    if service.name == "gemini" and ":generateContent" in endpoint:
        return Answer(200, _json(_content(TEXT, "STOP")))
    if service.name == "gemini" and ":streamGenerateContent" in endpoint:
        return Answer(200, events=tuple(_content_events()))
    return Answer(404, _json({"error": {"message": f"{service.name} has no endpoint {endpoint}."}}))


def _whole_or_stream(wants_stream: bool, document: object, events: Iterator[bytes]) -> Answer:
    return Answer(200, events=tuple(events)) if wants_stream else Answer(200, _json(document))


# OpenAI: chat completions, and the newer responses.


def _chat_completion() -> object:
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": _TIME,
        "model": _MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": len(PIECES), "total_tokens": 1 + len(PIECES)},
    }


def _chat_completion_events() -> Iterator[bytes]:
    def chunk(delta: object, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": _TIME, "model": _MODEL}
        return _event({**head, "choices": [choice]})

    yield chunk({"role": "assistant", "content": ""})
    for piece in PIECES:
        yield chunk({"content": piece})
    yield chunk({}, "stop")
    yield b"data: [DONE]\n\n"


def _response(status: str) -> dict[str, object]:
    text = {"type": "output_text", "text": TEXT, "annotations": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": status, "content": [text]}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": _TIME,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": _MODEL,
        "output": [message] if status == "completed" else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
    }


def _response_events() -> Iterator[bytes]:
    number = 0

    def event(kind: str, **fields: object) -> bytes:
        nonlocal number
        number += 1
        return _event({"type": kind, "sequence_number": number - 1, **fields}, kind)

    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
    text = {"type": "output_text", "text": "", "annotations": []}
    yield event("response.created", response=_response("in_progress"))
    yield event("response.output_item.added", output_index=0, item=message)
    yield event("response.content_part.added", part=text, **place)
    for piece in PIECES:
        yield event("response.output_text.delta", delta=piece, logprobs=[], **place)
    yield event("response.output_text.done", text=TEXT, logprobs=[], **place)
    yield event("response.content_part.done", part={**text, "text": TEXT}, **place)
    done = {**message, "status": "completed", "content": [{**text, "text": TEXT}]}
    yield event("response.output_item.done", output_index=0, item=done)
    yield event("response.completed", response=_response("completed"))


# Anthropic: messages.


def _message() -> dict[str, object]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": _MODEL,
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": len(PIECES)},
    }


def _message_events() -> Iterator[bytes]:
    def event(kind: str, **fields: object) -> bytes:
        return _event({"type": kind, **fields}, kind)

    usage = {"input_tokens": 1, "output_tokens": 0}
    yield event("message_start", message={**_message(), "content": [], "stop_reason": None, "usage": usage})
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield event("ping")
    for piece in PIECES:
        yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
    yield event("content_block_stop", index=0)
    ending = {"stop_reason": "end_turn", "stop_sequence": None}
    yield event("message_delta", delta=ending, usage={"output_tokens": len(PIECES)})
    yield event("message_stop")


# Gemini: generateContent.


def _content(text: str, finish_reason: str | None) -> object:
    candidate: dict[str, object] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if finish_reason:
        candidate["finishReason"] = finish_reason
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": _MODEL}


def _content_events() -> Iterator[bytes]:
    for piece in PIECES[:-1]:
        yield _event(_content(piece, None))
    yield _event(_content(PIECES[-1], "STOP"))


def _event(data: object, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + _json(data) + b"\n\n"


def _json(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
