"""P8: bytes arrive unaltered, in order, as they come, both ways; a truncated answer is never made to look complete."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import BinaryIO

import pytest

from tests.runs import TIMEOUT_S, ScriptedUpstream, Site, lines, read_request

Serve = Callable[[BinaryIO, BinaryIO], None]


def flags(site: Site, upstream: ScriptedUpstream) -> list[str]:
    profile = site.profile(site.store_in_files(), upstreams={"openai": f"{upstream.url}/v1"})
    return ["--profile", str(profile), "--allow-cwd"]


def test_bodies_arrive_unaltered_both_ways(site: Site) -> None:
    def echo(reader: BinaryIO, writer: BinaryIO) -> None:
        while request := read_request(reader):
            body = request[1]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            writer.write(body)

    with ScriptedUpstream(site.certificates, echo) as upstream:
        done = site.run(flags(site, upstream), site.agent("echo"))
    assert done.stdout == "whole 200 same\nchunked 200 same\n", done.stderr


def test_each_event_arrives_when_it_is_sent(site: Site) -> None:
    """The upstream sends the next event only when the agent has told of the one before."""
    arrived = [threading.Event() for _ in range(4)]

    def stream(reader: BinaryIO, writer: BinaryIO) -> None:
        while read_request(reader):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number, event in enumerate(arrived):
                writer.write(b"8\r\nevent %d\n\r\n" % number)
                assert event.wait(TIMEOUT_S)
            writer.write(b"0\r\n\r\n")

    with ScriptedUpstream(site.certificates, stream) as upstream:
        process = site.start(flags(site, upstream), site.agent("stream"))
        assert process.stdout is not None
        for number, event in enumerate(arrived):
            assert process.stdout.readline() == b"event %d\n" % number
            event.set()
        assert process.communicate(timeout=TIMEOUT_S)[0] == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 100\r\n", b"x" * 50),
        (b"Transfer-Encoding: chunked\r\n", b"32\r\n" + b"x" * 50 + b"\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"64\r\n" + b"x" * 50),
    ],
    ids=["by length", "between chunks", "inside a chunk"],
)
def test_a_truncated_answer_stays_truncated(site: Site, head: bytes, body: bytes) -> None:
    def break_off(reader: BinaryIO, writer: BinaryIO) -> None:
        if read_request(reader):
            writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body)

    requests = [["OPENAI_BASE_URL", "POST", "/x", {"Authorization": "Bearer TOKEN"}, "{}"]]
    with ScriptedUpstream(site.certificates, break_off) as upstream:
        done = site.run(flags(site, upstream), site.agent("send", json.dumps(requests)))
    (answer,) = lines(done.stdout)
    assert answer["status"] == 200
    assert answer["broken after"] <= 50
    assert "body" not in answer


def test_headers_pass_as_they_are(site: Site) -> None:
    heads: list[str] = []

    def answer(reader: BinaryIO, writer: BinaryIO) -> None:
        while request := read_request(reader):
            heads.append(request[0])
            writer.write(b"HTTP/1.1 200 Fine\r\nX-Mixed-Case: A\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n")

    headers = {"Authorization": "Bearer TOKEN", "X-StainLess-Lang": "python", "anthropic-beta": "a,b", "Cookie": "c=2"}
    requests = [["OPENAI_BASE_URL", "PATCH", "/a%2Fb/c?q=%20x&y", headers, "{}"]]
    with ScriptedUpstream(site.certificates, answer) as upstream:
        done = site.run(flags(site, upstream), site.agent("send", json.dumps(requests)))
        host = upstream.url.removeprefix("https://")
    (told,) = lines(done.stdout)
    assert told["headers"]["X-Mixed-Case"] == "A"
    assert told["headers"]["Set-Cookie"] == "a=1"
    (head,) = heads
    assert head.startswith("PATCH /v1/a%2Fb/c?q=%20x&y HTTP/1.1\r\n")
    assert f"Host: {host}\r\n" in head
    for name in ("X-StainLess-Lang", "anthropic-beta", "Cookie"):
        assert f"{name}: {headers[name]}\r\n" in head
