"""Through the operator's own proxy: what goes there, what it is told, and what becomes of its answers."""

from __future__ import annotations

import base64
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nono.errors import UpstreamError
from nono.policy.allowlist import Allowlist
from nono.proxy.chain import MAX_ANSWER_BYTES, Answer, Chain
from nono.proxy.route import Origin
from nono.proxy.server import Limits
from tests.fakes import Authority, Connection, Upstream, pattern
from tests.proxy.corporate import (
    ALLOWED,
    PROXY_AUTH,
    STANDS,
    USER,
    Corporate,
    a_chain,
    answering,
    behind,
    connect,
    echo,
)
from tests.proxy.harness import KEY, TOKEN, Client, PlainBuffer, RunningProxy, bearer, route

# What is sent.


def test_a_route_goes_through_the_corporate_proxy_over_verified_tls(upstream: Upstream, authority: Authority) -> None:
    with Corporate(upstream.port) as corporate:
        api = route("api", f"https://origin.example:{upstream.port}/v1", authority.ca)
        with behind(corporate.server.port, [api]) as client:
            answer = client.get("/api/echo")
            assert (answer.status, answer.code) == (502, "tls_certificate")  # not a certificate of origin.example
    assert corporate.heads == [
        f"CONNECT origin.example:{upstream.port} HTTP/1.1\r\nHost: origin.example:{upstream.port}".encode()
    ]


def test_a_route_s_connection_is_pooled_behind_the_corporate_proxy(authority: Authority) -> None:
    with (
        Upstream(context=authority.server_context("origin.example")) as upstream,
        Corporate(upstream.port) as corporate,
    ):
        api = route("api", "https://origin.example/v1", authority.ca)
        with behind(corporate.server.port, [api], credential=USER) as client:
            for _ in range(3):
                assert client.get("/api/echo").status == 200
        assert [request.all("authorization") for request in upstream.requests] == [[f"Bearer {KEY.decode()}"]] * 3
        assert [request.all("proxy-authorization") for request in upstream.requests] == [[]] * 3
    basic = b"Basic " + base64.b64encode(USER)
    assert corporate.heads == [
        b"CONNECT origin.example:443 HTTP/1.1\r\nHost: origin.example:443\r\nProxy-Authorization: " + basic
    ]


def test_a_tunnel_carries_bytes_both_ways_and_its_ends() -> None:
    with Upstream(echo) as origin, Corporate(origin.port) as corporate:
        with behind(corporate.server.port, credential=USER) as client:
            assert connect(client).status == 200
            for size in (1, 70_000, 3):
                data = b"".join(pattern(size))
                client.send(data)
                assert client._take_bytes(size) == data
            client.sock.shutdown(socket.SHUT_WR)
            assert client.at_end()
    assert TOKEN not in corporate.heads[0]


def test_bytes_behind_the_answer_belong_to_the_tunnel() -> None:
    with Upstream(echo) as origin, Corporate(origin.port, STANDS + b"SSH-2.0-early\r\n\r\n") as corporate:
        with behind(corporate.server.port) as client:
            assert connect(client, "origin.example:22").status == 200
            assert client._take_bytes(17) == b"SSH-2.0-early\r\n\r\n"


def test_a_plain_request_goes_through_a_tunnel() -> None:
    with Upstream() as origin, Corporate(origin.port) as corporate:
        with behind(corporate.server.port, credential=USER) as client:
            client.request("GET", "http://origin.example/echo", PROXY_AUTH, host="origin.example")
            assert client.answer().status == 200
        assert origin.requests[0].target == "/echo"
        assert origin.requests[0].all("proxy-authorization") == []
    assert corporate.heads[0].startswith(b"CONNECT origin.example:80 HTTP/1.1\r\n")


def test_an_ipv6_literal_stands_in_brackets() -> None:
    with Upstream(echo) as origin, Corporate(origin.port) as corporate:
        with RunningProxy([], Allowlist(["[2606:4700::1111]:443"]), chain=a_chain(corporate.server.port)) as proxy:
            with Client(proxy) as client:
                assert connect(client, "[2606:4700::1111]:443").status == 200
    assert corporate.heads[0].startswith(b"CONNECT [2606:4700::1111]:443 HTTP/1.1\r\nHost: [2606:4700::1111]:443")


def test_the_credential_is_wiped_when_it_was_sent_and_when_it_was_not() -> None:
    made: list[PlainBuffer] = []

    def make(size: int) -> PlainBuffer:
        made.append(PlainBuffer(size))
        return made[-1]

    credential = PlainBuffer(content=USER)
    chain = Chain("127.0.0.1", 1, (), credential, make)
    origin = Origin(True, "origin.example", 443)
    encoded = base64.b64encode(USER)
    ours, theirs = socket.socketpair()
    chain.ask(ours, origin)
    assert encoded in theirs.recv(65536)
    assert encoded not in made[0].memory
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        chain.ask(ours, origin)
    assert encoded not in made[0].memory
    chain.ask(theirs, origin)  # the scratch was given back
    chain.close()
    assert bytes(credential.memory) == USER  # its owner wipes it
    ours.close()
    theirs.close()
    assert USER.decode() not in repr(vars(chain))


# What is answered.


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (407, "it wants a credential"),
        (403, "it does not let you reach origin.example:443"),
        (502, "it could not reach origin.example:443"),
        (503, "it could not reach origin.example:443"),
        (504, "it could not reach origin.example:443"),
        (405, "it does not let you reach origin.example:443"),
        (404, "it did not open a tunnel"),
        (301, "it did not open a tunnel"),
    ],
)
def test_a_refusal_is_a_502_with_its_status_and_never_its_body(status: int, says: str) -> None:
    text = b"HTTP/1.1 %d Secret\r\nX-Secret: a\r\nContent-Length: 6\r\n\r\nsecret" % status
    with answering(text) as port, behind(port) as client:
        answer = connect(client)
        message = answer.json()["error"]["message"]
        assert (answer.status, answer.code) == (502, "upstream_proxy")
        assert f"127.0.0.1:{port} answered {status}; {says}" in message
        assert "ecret" not in message
        assert client.at_end()


def test_a_refusal_of_another_port_says_that_it_may_be_the_ports() -> None:
    with answering(b"HTTP/1.1 403 Filtered\r\n\r\n") as port, behind(port) as client:
        client.request("GET", "http://origin.example/", PROXY_AUTH, host="origin.example")
        answer = client.answer()
    assert (answer.status, answer.code) == (502, "upstream_proxy")
    assert "whether CONNECT to port 80 is allowed" in answer.json()["error"]["message"]


def test_a_credential_that_is_not_accepted_is_said_to_be_so() -> None:
    with answering(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n") as port:
        with behind(port, credential=USER) as client:
            message = connect(client).json()["error"]["message"]
    assert "does not accept the credential" in message
    assert "anna" not in message


@pytest.mark.parametrize("status", [b"200", b"204", b"299"])
def test_any_2xx_is_the_tunnel_whatever_its_fields_say(status: bytes) -> None:
    fields = b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
    with Upstream(echo) as origin, Corporate(origin.port, b"HTTP/1.0 %b\r\n%b\r\n" % (status, fields)) as corporate:
        with behind(corporate.server.port) as client:
            assert connect(client).status == 200
            client.send(b"hello")
            assert client._take_bytes(5) == b"hello"


def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    with Upstream(echo) as origin, Corporate(origin.port, interim + STANDS) as corporate:
        with behind(corporate.server.port) as client:
            assert connect(client).status == 200
            client.send(b"hello")
            assert client._take_bytes(5) == b"hello"


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2OO OK\r\n\r\n",
        b"HTTP/1.1 200OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 600 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\r\nX: a\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_a_502(answer: bytes) -> None:
    with answering(answer) as port, behind(port) as client:
        got = connect(client)
        assert (got.status, got.code) == (502, "upstream_proxy")
        assert "no HTTP answer" in got.json()["error"]["message"]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: y\r\n\r"])
@pytest.mark.parametrize("reset", [True, False])
def test_an_answer_that_breaks_off_is_a_502(answer: bytes, reset: bool) -> None:
    def script(connection: Connection) -> None:
        connection.send(answer)
        if reset:
            connection.reset()

    with answering(script) as port, behind(port) as client:
        got = connect(client)
        assert (got.status, got.code) == (502, "upstream_proxy")
        assert "closed the connection" in got.json()["error"]["message"]


@pytest.mark.parametrize(
    "piece",
    [b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 70_000, b"HTTP/1.1 100 Continue\r\n\r\n" * 1000],
)
def test_an_answer_without_end_is_a_502(piece: bytes) -> None:
    with answering(piece) as port, behind(port) as client:
        got = connect(client)
        assert (got.status, got.code) == (502, "upstream_proxy")
        assert f"larger than {MAX_ANSWER_BYTES} bytes" in got.json()["error"]["message"]


def test_no_answer_in_time_is_a_504() -> None:
    release = threading.Event()
    with (
        answering(lambda connection: assert_waits(release)) as port,
        behind(port, limits=Limits(chain_s=0.1)) as client,
    ):
        got = connect(client)
        assert (got.status, got.code) == (504, "upstream_proxy")
        assert "did not answer in 0.1 s for origin.example:443" in got.json()["error"]["message"]
        release.set()


def assert_waits(release: threading.Event) -> None:
    assert release.wait(20)


def test_a_corporate_proxy_that_is_not_there_is_a_502() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with behind(port) as client:
        got = connect(client)
        assert (got.status, got.code) == (502, "upstream_proxy")
        assert f"The upstream proxy 127.0.0.1:{port} cannot be reached: Connection refused" in got.body.decode()


@pytest.mark.parametrize(
    ("texts", "says"), [([], "proxy.corp does not resolve"), (["169.254.169.254"], "never dials (private, link-local")]
)
def test_a_corporate_proxy_without_an_address_is_a_502(texts: list[str], says: str) -> None:
    with RunningProxy([], ALLOWED, chain=Chain("proxy.corp", 3128)) as proxy, Client(proxy) as client:
        proxy.proxy._pins._lookup = lambda host, port: texts
        got = connect(client)
    assert (got.status, got.code) == (502, "upstream_proxy")
    assert "The upstream proxy proxy.corp:3128 cannot be reached" in got.json()["error"]["message"]
    assert says in got.json()["error"]["message"]


def test_a_client_that_leaves_meanwhile_leaves_nothing_open() -> None:
    release = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        release.wait(20)
        connection.send(STANDS)
        while connection.sock.recv(65536):
            pass

    with Upstream(script) as corporate:
        with RunningProxy([], ALLOWED, chain=a_chain(corporate.port)) as proxy:
            with Client(proxy) as client:
                client.request("CONNECT", "origin.example:443", PROXY_AUTH, host="origin.example:443")
                corporate.wait(lambda: corporate.connections == 1)
            proxy.settle(lambda: proxy.proxy.connections == 0)
            release.set()
        corporate.wait(lambda: corporate.open == 0)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_is_answered_in_whatever_pieces_is_a_tunnel_or_an_error(data: st.DataObject) -> None:
    """A 200 in any pieces is the tunnel, and not one byte behind it is lost; anything else ends in an UpstreamError."""
    after = data.draw(st.binary(max_size=40))
    head = data.draw(
        st.one_of(
            st.just(STANDS),
            st.just(b"HTTP/1.1 100 Continue\r\n\r\n" + STANDS),
            st.binary(max_size=60),
            st.binary(max_size=40).map(lambda junk: b"HTTP/1.1 200 " + junk + b"\r\n\r\n"),
        )
    )
    whole = head + after
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    answer = Answer(Chain("proxy.corp", 3128), Origin(True, "origin.example", 443))
    stands = False
    try:
        sent = 0
        for cut in [*cuts, len(whole)]:
            theirs.sendall(whole[sent:cut])
            sent = cut
            if not stands:
                stands = answer.read(ours)
        theirs.shutdown(socket.SHUT_WR)
        if not stands:
            stands = answer.read(ours)
        rest = b""
        while piece := ours.recv(65536):
            rest += piece
        assert whole.endswith(rest)
        if head.endswith(STANDS):
            assert rest == after
        assert whole[: len(whole) - len(rest)].endswith(b"\r\n\r\n")
    except UpstreamError:
        assert not head.endswith(STANDS)
    finally:
        ours.close()
        theirs.close()


@pytest.mark.parametrize("then", [ConnectionResetError(), b"HTTP/1.1 200 O"])
def test_what_was_seen_and_is_gone_when_it_is_read_is_an_error(then: Exception | bytes) -> None:
    class Fickle:
        def recv(self, size: int, flags: int = 0) -> bytes:
            if flags:
                return STANDS
            if isinstance(then, Exception):
                raise then
            return then

    answer = Answer(Chain("proxy.corp", 3128), Origin(True, "origin.example", 443))
    with pytest.raises(UpstreamError, match="closed the connection"):
        answer.read(Fickle())  # type: ignore[arg-type]


def test_errors_of_the_chain_are_upstream_errors() -> None:
    error = Chain("fd00::1", 3128).failure("is away.")
    assert isinstance(error, UpstreamError)
    assert str(error) == "The upstream proxy [fd00::1]:3128 is away."


def test_a_slow_answer_does_not_hold_up_other_requests(upstream: Upstream, authority: Authority) -> None:
    release = threading.Event()
    with answering(lambda connection: assert_waits(release)) as port:
        with RunningProxy(
            [route("api", upstream.url, authority.ca)], ALLOWED, chain=a_chain(port, credential=USER)
        ) as proxy:
            with Client(proxy) as one, Client(proxy) as two, Client(proxy) as three:
                for client in (one, two):
                    client.request("CONNECT", "origin.example:443", PROXY_AUTH, host="origin.example:443")
                three.request("GET", "/api/echo", bearer())
                assert three.answer().status == 200
                release.set()
