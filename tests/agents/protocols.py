"""How the providers' requests offer tools and bring results, and how their answers stream: pure.

A Turn is what the model does next; an answer is a list of events, each (name, data): a JSON document, or text as it is.
Sources: the wire formats that the agents of 2026 decode, which tests/agents runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

MODEL = "stand-in-1"
_TIME = 1_790_000_000  # any moment will do

Question = dict[str, Any]
Events = Iterator[tuple[str, object]]


class Turn(NamedTuple):
    """What the model does next: call `tool` with `arguments` (text for a tool that takes any), or else say `text`."""

    text: str
    tool: str = ""
    arguments: Mapping[str, str] | str = ""


class Protocol(NamedTuple):
    """One way to ask a model.

    ending: of the paths where it is asked. offered: the names of the tools that a question offers. result: the text
    of the tool's result that it brings, None without one. events: an answer as a stream.
    """

    ending: str
    offered: Callable[[Question], list[str]]
    result: Callable[[Question], str | None]
    events: Callable[[Turn], Events]


def _texts(content: object) -> str:
    """All text in a message's content: it is text, or parts that have some."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(map(_texts, content))
    return _texts(content.get("text") or content.get("content")) if isinstance(content, dict) else ""


def _functions(tools: object) -> list[str]:
    """The names of OpenAI's and Anthropic's tools: a tool may hold a function, or be a namespace of tools."""
    names = []
    for tool in tools if isinstance(tools, list) else ():
        names += [tool.get("function", tool).get("name", ""), *_functions(tool.get("tools"))]
    return names


# Anthropic: messages.


def _message_result(question: Question) -> str | None:
    blocks = question["messages"][-1]["content"]
    results = [each for each in blocks if isinstance(each, dict) and each["type"] == "tool_result"]
    return _texts(results[-1].get("content")) if results else None


def _message(turn: Turn) -> Events:
    def event(kind: str, **fields: object) -> tuple[str, object]:
        return kind, {"type": kind, **fields}

    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": []}
    usage = {"input_tokens": 1, "output_tokens": 1}
    block: dict[str, object] = {"type": "text", "text": ""}
    delta = {"type": "text_delta", "text": turn.text}
    if turn.tool:
        block = {"type": "tool_use", "id": "toolu_1", "name": turn.tool, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(turn.arguments)}
    yield event("message_start", message={**head, "stop_reason": None, "stop_sequence": None, "usage": usage})
    yield event("content_block_start", index=0, content_block=block)
    yield event("content_block_delta", index=0, delta=delta)
    yield event("content_block_stop", index=0)
    ending = {"stop_reason": "tool_use" if turn.tool else "end_turn", "stop_sequence": None}
    yield event("message_delta", delta=ending, usage=usage)
    yield event("message_stop")


# OpenAI: responses. Codex offers its tools in the input, and one of them takes a program.


def _response_items(question: Question) -> list[Question]:
    items = question["input"]
    return items if isinstance(items, list) else []


def _response_tools(question: Question) -> list[str]:
    added = [_functions(item["tools"]) for item in _response_items(question) if item.get("type") == "additional_tools"]
    return _functions(question.get("tools")) + [name for names in added for name in names]


def _response_result(question: Question) -> str | None:
    kinds = ("function_call_output", "custom_tool_call_output")
    results = [item for item in _response_items(question) if item.get("type") in kinds]
    return _texts(results[-1]["output"]) if results else None


def _response(turn: Turn) -> Events:
    number = 0

    def event(kind: str, **fields: object) -> tuple[str, object]:
        nonlocal number
        number += 1
        return kind, {"type": kind, "sequence_number": number - 1, **fields}

    def response(status: str, *output: object) -> dict[str, object]:
        head = {"id": "resp_1", "object": "response", "created_at": _TIME, "model": MODEL, "status": status}
        usage = {
            "input_tokens": 1, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 1, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 2,
        }  # fmt: skip
        return {**head, "output": list(output), "usage": usage if output else None}

    yield event("response.created", response=response("in_progress"))
    item: dict[str, object]
    if turn.tool:
        if isinstance(turn.arguments, str):
            item, field, argument = {"type": "custom_tool_call", "id": "ctc_1"}, "input", turn.arguments
        else:
            item, field, argument = {"type": "function_call", "id": "fc_1"}, "arguments", json.dumps(turn.arguments)
        item.update(call_id="call_1", name=turn.tool)
        yield event("response.output_item.added", output_index=0, item={**item, field: "", "status": "in_progress"})
        done = {**item, field: argument, "status": "completed"}
    else:
        item = {"type": "message", "id": "msg_1", "role": "assistant"}
        part = {"type": "output_text", "text": "", "annotations": []}
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        yield event("response.output_item.added", output_index=0, item={**item, "content": [], "status": "in_progress"})
        yield event("response.content_part.added", part=part, **place)
        yield event("response.output_text.delta", delta=turn.text, logprobs=[], **place)
        yield event("response.output_text.done", text=turn.text, logprobs=[], **place)
        yield event("response.content_part.done", part={**part, "text": turn.text}, **place)
        done = {**item, "content": [{**part, "text": turn.text}], "status": "completed"}
    yield event("response.output_item.done", output_index=0, item=done)
    yield event("response.completed", response=response("completed", done))


# OpenAI: chat completions, which other providers speak too.


def _chat_result(question: Question) -> str | None:
    last = question["messages"][-1]
    return _texts(last["content"]) if last["role"] == "tool" else None


def _chat(turn: Turn) -> Events:
    def chunk(delta: object, finish_reason: str | None = None) -> tuple[str, object]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": _TIME, "model": MODEL}
        return "", {**head, "choices": [choice]}

    if turn.tool:
        function = {"name": turn.tool, "arguments": json.dumps(turn.arguments)}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        yield chunk({"role": "assistant", "content": None, "tool_calls": [call]})
        yield chunk({}, "tool_calls")
    else:
        yield chunk({"role": "assistant", "content": turn.text})
        yield chunk({}, "stop")
    yield "", "[DONE]"


# Gemini: generateContent, as a stream.


def _declarations(question: Question) -> list[str]:
    return [each["name"] for tool in question.get("tools", ()) for each in tool.get("functionDeclarations", ())]


def _content_result(question: Question) -> str | None:
    parts = question["contents"][-1]["parts"]
    results = [part["functionResponse"]["response"] for part in parts if "functionResponse" in part]
    return str(results[-1].get("output", results[-1])) if results else None


def _content(turn: Turn) -> Events:
    part: dict[str, object] = {"text": turn.text}
    if turn.tool:
        part = {"functionCall": {"name": turn.tool, "args": turn.arguments}}
    candidate = {"content": {"parts": [part], "role": "model"}, "index": 0, "finishReason": "STOP"}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    yield "", {"candidates": [candidate], "usageMetadata": usage, "modelVersion": MODEL}


MESSAGES = Protocol("/v1/messages", lambda question: _functions(question.get("tools")), _message_result, _message)
RESPONSES = Protocol("/responses", _response_tools, _response_result, _response)
CHAT = Protocol("/chat/completions", lambda question: _functions(question.get("tools")), _chat_result, _chat)
CONTENT = Protocol(":streamGenerateContent", _declarations, _content_result, _content)
