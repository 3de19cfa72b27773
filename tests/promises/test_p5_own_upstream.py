"""P5: a key goes only to its own route's upstream, over verified TLS, never along a redirect; the token never goes up.

That plain HTTP is for loopback only, and what happens with a wrong certificate, is in tests/cli/test_bad_input.py.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

import pytest

from nono.demo import answers
from tests.runs import KEYS, ScriptedUpstream, Site, lines, read_request

QUESTION = "{}"
OPENAI, ANTHROPIC, GEMINI = "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GOOGLE_GEMINI_BASE_URL"
PATHS = {OPENAI: "/chat/completions", ANTHROPIC: "/v1/messages", GEMINI: "/v1/models/m:generateContent"}
TOKEN_LENGTH = 64


def send(site: Site, requests: list[list[Any]], **upstreams: str) -> list[dict[str, Any]]:
    """Let an agent send `requests`; return what it was answered."""
    profile = site.profile(site.store_in_files(), upstreams=upstreams)
    done = site.run(["--profile", str(profile), "--allow-cwd"], site.agent("send", json.dumps(requests)))
    assert done.returncode == 0, done.stderr
    assert not any(key in done.stdout for key in KEYS.values())
    return lines(done.stdout)


def hexadecimal_words(text: str) -> list[str]:
    """Return what could be a token."""
    words = "".join(c if c in "0123456789abcdef" else " " for c in text).split()
    return [word for word in words if len(word) >= TOKEN_LENGTH]


def test_each_key_goes_to_its_own_upstream_alone(site: Site) -> None:
    requests = [[route, "POST", path, {"Authorization": "Bearer TOKEN"}, QUESTION] for route, path in PATHS.items()]
    assert [answer["status"] for answer in send(site, requests)] == [200, 200, 200]
    for received in site.upstream.received:
        assert received.accepted
        for name, key in KEYS.items():
            assert received.head.count(key) == (name == received.service)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer TOKEN"},
        {"x-api-key": "TOKEN"},
        {"x-goog-api-key": "TOKEN"},
        {"api-key": "TOKEN"},
        {"Authorization": "Bearer TOKEN", "x-api-key": "TOKEN"},
    ],
    ids=lambda headers: "+".join(headers),
)
@pytest.mark.parametrize("route", PATHS)
def test_the_token_never_goes_up_wherever_it_is_presented(site: Site, route: str, headers: dict[str, str]) -> None:
    (answer,) = send(site, [[route, "POST", PATHS[route], headers, QUESTION]])
    assert answer["status"] == 200
    (received,) = site.upstream.received
    service = next(each for each in answers.SERVICES if each.name == received.service)
    assert received.presented == service.key_format.format(KEYS[service.name])
    assert hexadecimal_words(received.head) == []


def test_the_token_does_not_go_up_in_the_query(site: Site) -> None:
    (answer,) = send(site, [[GEMINI, "POST", PATHS[GEMINI] + "?key=TOKEN&alt=json", {}, QUESTION]])
    assert answer["status"] == 200
    (received,) = site.upstream.received
    assert "alt=json" in received.head
    assert hexadecimal_words(received.head) == []


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer " + "0" * TOKEN_LENGTH}, {"Authorization": "Bearer TOKENx"}, {"x-mine": "TOKEN"}],
    ids=["none", "wrong", "longer", "elsewhere"],
)
def test_without_the_token_nothing_is_sent(site: Site, headers: dict[str, str]) -> None:
    (answer,) = send(site, [[OPENAI, "POST", PATHS[OPENAI], headers, QUESTION]])
    assert answer["status"] in (400, 401)
    assert json.loads(answer["body"])["error"]["type"] == "nono_error"
    assert site.upstream.received == []


def test_a_redirect_is_the_agents_to_follow(site: Site) -> None:
    heads: list[str] = []

    def elsewhere(reader: BinaryIO, writer: BinaryIO) -> None:
        heads.append("reached")

    with ScriptedUpstream(site.certificates, elsewhere) as other:

        def redirect(reader: BinaryIO, writer: BinaryIO) -> None:
            while request := read_request(reader):
                heads.append(request[0])
                location = f"{other.url}/steal".encode()
                writer.write(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % location)

        with ScriptedUpstream(site.certificates, redirect) as upstream:
            headers = {"Authorization": "Bearer TOKEN"}
            (answer,) = send(site, [[OPENAI, "POST", "/x", headers, QUESTION]], openai=f"{upstream.url}/v1")
            assert (answer["status"], answer["headers"]["Location"]) == (307, f"{other.url}/steal")
        assert other.connections == 0
    assert len(heads) == 1
    assert f"Bearer {KEYS['openai']}" in heads[0]
