"""Heads that differ a little from one that was accepted: what may differ, and what must not."""

from __future__ import annotations

import pytest

from nono.errors import Refusal, UpstreamError
from nono.proxy.head import CHUNKED, HeadReader
from nono.proxy.inject import Outgoing
from nono.proxy.judge import Judge
from nono.proxy.pattern import _LENGTHS, Pattern, _judge_value, are_values
from tests.proxy.harness import TOKEN, route

HEAD = (
    b"POST /api/x HTTP/1.1\r\nHost: a\r\nX-Id: 1\r\nAuthorization: Bearer %b\r\nContent-Length: 5\r\n"
    b"Connection: keep-alive\r\nAccept: */*\r\n\r\n" % TOKEN
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 5\r\nConnection: keep-alive\r\nSet-Cookie: a=1\r\n"
    b"Server: n\r\n\r\n"
)


def taught() -> Judge:
    judge = Judge(TOKEN, [route("api", "https://example.com")], 1, None, 16384)
    judge(HEAD)
    assert not judge._similar
    judge(HEAD)
    for old, new in ((b"X-Id: 1", b"X-Id: 8"), (b"*/*", b"image/png"), (b"Length: 5", b"Length: 8")):
        judge(HEAD.replace(old, new))  # teaches what changes
    assert len(judge._similar) == 1
    return judge


def whole_ways(judge: Judge, head: bytes) -> tuple[Outgoing, int]:
    """The verdict, and how often the whole way was taken for it."""
    before = judge._misfits
    outgoing = judge(head)
    assert isinstance(outgoing, Outgoing)
    return outgoing, judge._misfits - before


@pytest.mark.parametrize(
    ("old", "new", "fits"),
    [
        (b"X-Id: 1", b"X-Id: 2", True),
        (b"X-Id: 1", b"X-Id:", True),
        (b"Accept: */*", b"Accept: text/html", True),
        (b"Length: 5", b"Length: 77", True),
        (b"Length: 5", b"Length: 07", False),
        (b"Length: 5", b"Length: 0", True),
        (b"Length: 5", b"Length: 0 ", False),
        (b"Length: 5", b"Length: 0\t", False),
        (b"Length: 5", b"Length:0", False),
        (b"Length: 5", b"Length:  0", False),
        (b"X-Id: 1", b"x-id: 1", False),
        (b"X-Id: 1", b"X-Ib: 1", False),
        (b"Host: a", b"Host: b", False),
        (b"keep-alive", b"close", False),
        (b"X-Id: 1\r\n", b"", False),
        (b"X-Id: 1", b"X-Id: 1\r\nX-Id: 1", False),
        (b"X-Id: 1", b"Expect: 100-continue", False),
    ],
)
def test_a_head_that_fits_gets_the_verdict_of_the_whole_way(old: bytes, new: bytes, fits: bool) -> None:
    head = HEAD.replace(old, new)
    fresh = Judge(TOKEN, [route("api", "https://example.com")], 1, None, 16384)
    by_pattern, taken = whole_ways(taught(), head)
    expected = fresh(head)
    assert isinstance(expected, Outgoing)
    assert taken == (0 if fits else 1)
    assert by_pattern._replace(secret=None) == expected._replace(secret=None)


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (TOKEN, b"f" * 64, 401),
        (b"Bearer " + TOKEN, b"Bearer", 401),
        (b"X-Id: 1", b"X-Id: " + TOKEN, 400),
        (b"X-Id: 1", b"X-Id: \0", 400),
        (b"X-Id: 1", b"X-Id: 1\nEvil: 2", 400),
        (b"X-Id: 1", b"Host: a", 400),
        (b"X-Id: 1", b"Content-Length: 5", 400),
        (b"X-Id: 1", b"Transfer-Encoding: chunked", 400),
        (b"Length: 5", b"Length: +5", 400),
        (b"Length: 5", b"Length: 5, 5", 400),
        (b"keep-alive", b"host", 400),
    ],
)
def test_a_head_that_is_refused_is_refused_after_one_like_it_was_granted(old: bytes, new: bytes, status: int) -> None:
    with pytest.raises(Refusal) as refused:
        taught()(HEAD.replace(old, new))
    assert refused.value.status == status


@pytest.mark.parametrize("place", [b"%cbc", b"a%cc", b"ab%c", b"a %c b", b"a\t%c", b" %c ", b"%c"])
def test_values_are_judged_as_h11_judges_them(place: bytes) -> None:
    for octet in range(256):
        value = place % octet
        for other in (b"", b"x", b"x y", b"\0"):
            judged = _judge_value(value) and _judge_value(other)
            assert are_values([value, other]) == are_values([other, value]) == judged, value


def test_what_is_learned_to_change_is_what_was_seen_to_change() -> None:
    judge = Judge(TOKEN, [route("api", "https://example.com")], 1, None, 16384)
    judge(HEAD)
    judge(HEAD.replace(b"X-Id: 1", b"X-Id: 0"))
    for old, new, taken in (
        (b"X-Id: 1", b"X-Id: 2", 1),
        (b"X-Id: 1", b"X-Id: 3", 0),
        (b"Accept: */*", b"Accept: a", 1),
        (b"X-Id: 1", b"X-Id: 4", 0),
        (b"X-Id: 1\r\nAuth", b"X-Id: 5\r\nauth", 1),  # another kind
        (b"X-Id: 1", b"X-Id: 6", 0),
    ):
        assert whole_ways(judge, HEAD.replace(old, new))[1] == taken, new


def test_kinds_of_answers_are_kept_beside_each_other() -> None:
    reader = HeadReader()
    kinds = [ANSWER.replace(b"Server", b"X-%d" % kind) for kind in range(9)]
    for _ in range(32):
        for head in kinds:
            assert reader.response(head) == HeadReader().response(head)
    assert 1 < len(reader._answers[b"HTTP/1.1 200 OK"]) <= 4


def test_an_enormous_head_leaves_no_pattern() -> None:
    reader = HeadReader()
    many = b"".join(b"X-%d: %b\r\n" % (number, b"v" * 100) for number in range(200))
    reader.response(ANSWER.replace(b"Date: now\r\n", many))
    assert not reader._answers


def test_what_a_hostile_head_leaves_is_bounded() -> None:
    reader = HeadReader()
    for number in range(200):
        reason = b"r" * 600 + b"%d" % number
        reader.response(ANSWER.replace(b"200 OK", b"200 " + reason).replace(b"keep-alive", b"x-" + reason))
        length = b"Length:" + b" " * 100 + b"%d" % number
        reader.response(ANSWER.replace(b"Length: 5", length))
    assert not reader._statuses.keys() - {b"HTTP/1.1 200 OK"}
    assert not reader._connections.keys() - {b"keep-alive"}
    assert all(len(value) < 30 for value in _LENGTHS)


@pytest.mark.parametrize("name", [b"Private-Token", b"x_api_key", b"Set-Cookie", b"Proxy-Authorization"])
def test_another_credential_is_not_kept(name: bytes) -> None:
    judge = Judge(TOKEN, [route("api", "https://example.com")], 1, None, 16384)
    judge.reader = HeadReader(frozenset((b"private-token",)))
    for number in range(3):
        judge(HEAD.replace(b"X-Id: 1", name + b": sesame\r\nX-Id: %d" % number))
    assert not judge._similar


@pytest.mark.parametrize("status", [b"103 Early Hints", b"204 No Content"])
def test_an_answer_without_a_body_does_not_speak_of_one(status: bytes) -> None:
    reader = HeadReader()
    head = ANSWER.replace(b"200 OK", status)
    for date in (b"now", b"then", b"later"):
        text = reader.response(head.replace(b"now", date)).head
        assert date in text
        assert b"Content-Length" not in text


def test_answers_that_fit() -> None:
    reader = HeadReader()
    reader.response(ANSWER)
    reader.response(ANSWER.replace(b"now", b"then"))
    reader.response(ANSWER.replace(b"Length: 5", b"Length: 8"))
    for old, new in ((b"now", b"later"), (b"a=1", b"b=2"), (b"Length: 5", b"Length: 6"), (b"Length: 5", b"Length: 06")):
        head = ANSWER.replace(old, new)
        assert reader.response(head) == HeadReader().response(head)
    chunked = ANSWER.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
    assert reader.response(chunked).length == CHUNKED
    assert reader.response(ANSWER).length == 5
    for bad in (b"Server: n\nEvil: 1", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Server: \0"):
        with pytest.raises(UpstreamError):
            reader.response(ANSWER.replace(b"Server: n", bad))
    assert not reader.response(ANSWER).close
    assert reader.response(ANSWER.replace(b"HTTP/1.1", b"HTTP/1.0")).close
    known = [known.pattern for patterns in reader._answers.values() for known in patterns]
    assert known
    assert "a=1" not in repr([[getattr(pattern, name) for name in Pattern.__slots__] for pattern in known])
