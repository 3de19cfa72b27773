"""CONNECT, absolute-form and WebSocket: allowed hosts, and bytes that are no longer HTTP."""

from __future__ import annotations

import base64
import errno
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from nono.kernel import splice
from nono.loop import READ, Loop
from nono.policy.allowlist import Allowlist, Verdict
from nono.proxy.pins import Pins
from nono.proxy.server import Limits
from nono.proxy.stream import Stream
from nono.proxy.tunnel import BULKY_BYTES, LARGE_PIPES, MAX_ROUNDS, PIPE_BYTES, Pipes, Tunnel
from tests.fakes import Authority, Connection, Upstream, pattern
from tests.proxy.harness import KEY, TOKEN, Client, RunningProxy, any_host, bearer, route

PROXY_AUTH = "Proxy-Authorization: Basic " + base64.b64encode(b"nono:" + TOKEN).decode()
looked_up: list[str] = []


def local_pins(loop: Loop) -> Pins:
    """Every name is on loopback, and loopback is allowed: the upstreams of tests are all there."""

    def lookup(host: str, port: int) -> list[str]:
        looked_up.append(host)
        return ["127.0.0.1"]

    return Pins(loop, lookup, lambda text, scope: True)


def echo(connection: Connection) -> None:
    while data := connection.sock.recv(65536):
        connection.send(data)


@pytest.fixture
def echoing() -> Iterator[Upstream]:
    with Upstream(echo) as upstream:
        yield upstream


@pytest.fixture
def open_proxy(upstream: Upstream, authority: Authority) -> Iterator[RunningProxy]:
    allowed = Allowlist([])

    def allow(host: str, port: int, *, tunnel: bool) -> Verdict:
        return Verdict(False) if host.endswith("good.example") else allowed(host, port, tunnel=tunnel)

    with RunningProxy([route("api", upstream.url, authority.ca)], allow, pins=local_pins) as running:
        yield running


def connect(client: Client, port: int, host: str = "good.example") -> int:
    client.request("CONNECT", f"{host}:{port}", PROXY_AUTH, host=f"{host}:{port}")
    return client.answer("HEAD").status


def test_a_refused_connect_says_why_in_its_status_line(open_proxy: RunningProxy) -> None:
    # the only words of the answer that pip, npm, Go and Java show
    with Client(open_proxy) as client:
        client.request("CONNECT", "bad.example:443", PROXY_AUTH, host="bad.example:443")
        status_line = client.answer().status_line
    assert status_line.startswith("HTTP/1.1 403 bad.example is not in the allowlist.")
    assert status_line.endswith("--allow-domain bad.example")


@pytest.mark.parametrize("host", ["", "Host: good.example\r\n"])
def test_connect_in_http_1_0_needs_no_host(open_proxy: RunningProxy, echoing: Upstream, host: str) -> None:
    # as http.client of Python 3.11 sends it, and with it pip and requests
    with Client(open_proxy) as client:
        head = f"CONNECT good.example:{echoing.port} HTTP/1.0\r\n{host}{PROXY_AUTH}\r\n\r\n"
        client.send(head.encode())
        assert client.answer("HEAD").status == 200
        client.send(b"hello")
        assert client.sock.recv(5) == b"hello"


def test_connect_tunnels_both_ways(open_proxy: RunningProxy, echoing: Upstream) -> None:
    with Client(open_proxy) as client:
        assert connect(client, echoing.port) == 200
        for size in (1, 70000, 3):
            data = b"".join(pattern(size))
            client.send(data)
            assert client._take_bytes(size) == data
        client.sock.shutdown(socket.SHUT_WR)
        assert client.at_end()
    entry = open_proxy.wait(lambda exchanges: bool(exchanges))[0]
    assert (entry.method, entry.host, entry.status) == ("CONNECT", f"good.example:{echoing.port}", 200)
    assert (entry.bytes_up, entry.bytes_down) == (70004, 70004)


def test_bytes_sent_before_the_tunnel_stands_are_forwarded(open_proxy: RunningProxy, echoing: Upstream) -> None:
    with Client(open_proxy) as client:
        head = (
            f"CONNECT good.example:{echoing.port} HTTP/1.1\r\nHost: good.example:{echoing.port}\r\n{PROXY_AUTH}\r\n\r\n"
        )
        client.send(head.encode() + b"early")
        assert client.answer("HEAD").status == 200
        assert client._take_bytes(5) == b"early"


@pytest.mark.parametrize("spliced", [True, False])
def test_a_half_closed_tunnel_still_carries_the_other_half(
    open_proxy: RunningProxy, spliced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nono.proxy.tunnel.CAN_SPLICE", spliced)

    def script(connection: Connection) -> None:
        while connection.read():
            pass
        connection.send(b"".join(pattern(5_000_000)))

    with Upstream(script) as upstream, Client(open_proxy) as client:
        connect(client, upstream.port)
        client.send(b"question")
        client.sock.shutdown(socket.SHUT_WR)
        assert client._take_bytes(5_000_000) == b"".join(pattern(5_000_000))
        assert client.at_end()


@pytest.mark.parametrize("spliced", [True, False])
def test_large_tunnels_move_under_back_pressure(
    open_proxy: RunningProxy, spliced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nono.proxy.tunnel.CAN_SPLICE", spliced)

    def script(connection: Connection) -> None:
        for piece in pattern(30_000_000):
            connection.send(piece)

    with Upstream(script) as upstream, Client(open_proxy, rcvbuf=8192) as client:
        connect(client, upstream.port)
        assert client._take_bytes(30_000_000) == b"".join(pattern(30_000_000))


def test_tunnel_ends_when_either_end_resets(open_proxy: RunningProxy) -> None:
    def script(connection: Connection) -> None:
        connection.read()
        connection.reset()

    with Upstream(script) as upstream, Client(open_proxy) as client:
        connect(client, upstream.port)
        client.send(b"x")
        assert client.at_end()
    open_proxy.settle(lambda: open_proxy.proxy.connections == 0)


def test_tls_through_connect(open_proxy: RunningProxy, upstream: Upstream, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=authority.ca)
    with Client(open_proxy) as client:
        connect(client, upstream.port)
        with context.wrap_socket(client.sock, server_hostname="localhost") as tls:
            tls.sendall(b"GET /bytes/1000000 HTTP/1.1\r\nHost: a\r\n\r\n")
            got = 0
            while got < 1_000_000:
                got += len(tls.recv(65536))


@pytest.mark.parametrize("host", ["bad.example", "evilgood.example.org", "169.254.169.254", "localhost"])
def test_host_that_is_not_allowed_is_403_and_never_looked_up(open_proxy: RunningProxy, host: str) -> None:
    looked_up.clear()
    for method, target in (("CONNECT", f"{host}:443"), ("GET", f"http://{host}/")):
        with Client(open_proxy) as client:
            client.request(method, target, PROXY_AUTH, host=f"{host}:443" if method == "CONNECT" else host)
            client.send(b"GET /api/x HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = client.answer()
            assert (answer.status, answer.code) == (403, "host_denied")
            assert client.at_end()
    assert looked_up == []


@pytest.mark.parametrize(
    "target", ["good.example", "good.example:0", "good.example:99999", "http://a/", "a@b:443", "/x"]
)
def test_connect_needs_a_host_and_a_port(open_proxy: RunningProxy, target: str) -> None:
    with Client(open_proxy) as client:
        client.request("CONNECT", target, PROXY_AUTH, host=target)
        assert client.answer().status == 400
        assert client.at_end()


def test_connect_whose_host_disagrees_is_400(open_proxy: RunningProxy) -> None:
    with Client(open_proxy) as client:
        client.request("CONNECT", "good.example:443", PROXY_AUTH, host="other.example:443")
        assert client.answer().status == 400


def test_addresses_that_the_allowlist_must_not_reach(upstream: Upstream) -> None:
    """With the real check, a name that resolves to loopback is refused after the look-up and never dialled."""

    def pins(loop: Loop) -> Pins:
        return Pins(loop, lambda host, port: ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1"])

    with RunningProxy([], any_host, pins=pins) as proxy:
        for target in (f"good.example:{upstream.port}", f"127.0.0.1:{upstream.port}", f"[::1]:{upstream.port}"):
            with Client(proxy) as client:
                client.request("CONNECT", target, PROXY_AUTH, host=target)
                answer = client.answer()
                assert (answer.status, answer.code) == (403, "address_denied")
    assert upstream.connections == 0


def test_name_that_does_not_resolve_is_502() -> None:
    def lookup(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with (
        RunningProxy([], any_host, pins=lambda loop: Pins(loop, lookup)) as proxy,
        Client(proxy) as client,
    ):
        client.request("CONNECT", "good.example:443", PROXY_AUTH, host="good.example:443")
        answer = client.answer()
        assert (answer.status, answer.code) == (502, "dns")


def test_absolute_form_is_forwarded_without_credentials(open_proxy: RunningProxy) -> None:
    with Upstream() as plain, Client(open_proxy) as client:
        for _ in range(2):
            host = f"good.example:{plain.port}"
            client.request("GET", f"http://{host}/echo?a", PROXY_AUTH, "Proxy-Connection: close", "A: b", host=host)
            answer = client.answer()
            assert answer.status == 200
        assert plain.connections == 1
        seen = plain.requests[0]
        assert (seen.target, seen.all("host"), seen.all("a")) == ("/echo?a", [host], ["b"])
        assert TOKEN.decode() not in str(seen)
        assert KEY.decode() not in str(seen)
        assert seen.all("proxy-authorization") == []


def test_absolute_form_to_a_routes_own_origin_is_that_route() -> None:
    with Upstream() as plain:
        with (
            RunningProxy([route("local", plain.url + "/v1")], any_host, pins=local_pins) as proxy,
            Client(proxy) as client,
        ):
            host = f"127.0.0.1:{plain.port}"
            for path in ("/v1/echo", "/v1x/echo"):
                client.request("GET", f"http://{host}{path}", PROXY_AUTH, host=host)
                assert client.answer().status == 200
        assert [seen.all("authorization") for seen in plain.requests] == [[f"Bearer {KEY.decode()}"], []]
        assert [seen.target for seen in plain.requests] == ["/v1/echo", "/v1x/echo"]


def websocket_request(client: Client, target: str, *headers: str) -> None:
    client.request(
        "GET", target, *headers, "Connection: keep-alive, Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
    )  # fmt: skip


def test_websocket_through_a_route(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client:
        websocket_request(client, "/api/websocket", bearer())
        client.send(b"early")
        answer = client.answer()
        assert answer.status == 101
        assert answer.header("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert (answer.header("upgrade"), answer.header("connection")) == ("websocket", "Upgrade")
        assert client._take_bytes(5) == b"early"
        for size in (1, 100_000):
            client.send(bytes(size))
            assert len(client._take_bytes(size)) == size
    seen = upstream.requests[0]
    assert seen.all("authorization") == [f"Bearer {KEY.decode()}"]
    assert (seen.all("upgrade"), seen.all("connection")) == (["websocket"], ["Upgrade"])
    assert proxy.wait(lambda exchanges: bool(exchanges))[0].status == 101
    upstream.wait(lambda: upstream.open == 0)


def test_upgrade_that_is_not_taken_is_an_ordinary_answer(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        websocket_request(client, "/api/echo", bearer())
        assert client.answer().status == 200
        assert client.get("/api/echo").status == 200


def test_other_upgrades_are_not_forwarded(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client:
        assert (
            client.get("/api/echo", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x").status
            == 200
        )
    assert [name for name, _ in upstream.requests[0].headers] == ["Host", "Authorization"]


def test_websocket_needs_the_token(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client:
        websocket_request(client, "/api/websocket")
        assert client.answer().status == 401
    assert upstream.requests == []


def test_websocket_to_an_allowed_host(open_proxy: RunningProxy) -> None:
    with Upstream() as plain, Client(open_proxy) as client:
        host = f"good.example:{plain.port}"
        client.request(
            "GET", f"http://{host}/websocket", PROXY_AUTH, "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Key: x", host=host,
        )  # fmt: skip
        assert client.answer().status == 101
        client.send(b"hello")
        assert client._take_bytes(5) == b"hello"


def test_half_closed_tunnel_in_which_nothing_moves_is_ended() -> None:
    def script(connection: Connection) -> None:
        while connection.read():
            pass
        connection.upstream.gate.acquire(timeout=20)

    limits = Limits(stalled_write_s=0.1)
    with Upstream(script) as upstream, RunningProxy([], any_host, limits, pins=local_pins) as proxy:
        with Client(proxy) as client:
            connect(client, upstream.port)
            client.sock.shutdown(socket.SHUT_WR)
            assert client.at_end()
        upstream.gate.release()


def test_name_that_takes_too_long_is_504() -> None:
    release = threading.Event()

    def lookup(host: str, port: int) -> list[str]:
        release.wait(20)
        return []

    limits = Limits(connect_s=0.1)
    with RunningProxy([], any_host, limits, pins=lambda loop: Pins(loop, lookup)) as proxy:
        with Client(proxy) as client:
            client.request("CONNECT", "good.example:443", PROXY_AUTH, host="good.example:443")
            answer = client.answer()
            assert (answer.status, answer.code) == (504, "dns_timeout")
        release.set()


def test_a_tunnel_in_which_nothing_moves_is_ended_only_where_the_operator_wants_it() -> None:
    limits = Limits(tunnel_idle_s=0.2)
    with Upstream(echo) as upstream, RunningProxy([], any_host, limits, pins=local_pins) as proxy:
        with Client(proxy) as client:
            connect(client, upstream.port)
            until = time.monotonic() + 0.5
            while time.monotonic() < until:  # for longer than the limit, with never so long a pause
                client.send(b"x")
                assert client._take_bytes(1) == b"x"
                time.sleep(0.02)
            assert client.at_end()
        entry = proxy.wait(bool)[0]
        assert (entry.code, entry.reason) == ("cut_off", "no byte moved for 0.2 s")
        assert entry.bytes_up == entry.bytes_down > 5
        upstream.wait(lambda: upstream.open == 0)
    assert Limits().tunnel_idle_s == 0


def test_tunnels_hold_no_pipe_but_for_what_their_reader_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[splice.Pipe] = []

    def open_pipe(capacity: int) -> splice.Pipe:
        made.append(splice_open(capacity))
        return made[-1]

    splice_open = splice.open_pipe
    monkeypatch.setattr(splice, "open_pipe", open_pipe)
    with Upstream(echo) as upstream, RunningProxy([], any_host, pins=local_pins) as proxy, ExitStack() as stack:
        clients = [stack.enter_context(Client(proxy)) for _ in range(30)]
        for client in clients:
            connect(client, upstream.port)
        for _ in range(2):
            for number, client in enumerate(clients):
                client.send(b"%06d" % number * 1000)
            for number, client in enumerate(clients):
                assert client._take_bytes(6000) == b"%06d" % number * 1000
        assert len(made) == 1
        pipes = proxy.proxy._pipes
        assert proxy.call(lambda: (len(pipes._free), pipes._large)) == (1, 1)
        proxy.call(proxy.proxy.close)
        assert (len(pipes._free), pipes._large) == (0, 0)


def test_what_a_tunnel_that_broke_left_in_its_pipe_reaches_no_other_one() -> None:
    def script(connection: Connection) -> None:
        for piece in pattern(100_000_000):
            connection.send(piece)

    with RunningProxy([], any_host, pins=local_pins) as proxy, Upstream(echo) as echoing:
        with Upstream(script) as upstream:
            with Client(proxy, rcvbuf=4096) as client:
                connect(client, upstream.port)
                client._take_bytes(1000)
                proxy.settle(lambda: any(c._tunnel._down.in_pipe for c in proxy.proxy._conversations if c._tunnel))
            proxy.settle(lambda: proxy.proxy.connections == 0)
        with Client(proxy) as client:
            connect(client, echoing.port)
            client.send(b"mine alone")
            assert client._take_bytes(10) == b"mine alone"


def test_without_a_descriptor_for_a_pipe_bytes_are_copied(
    open_proxy: RunningProxy, echoing: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_pipe(capacity: int) -> splice.Pipe:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(splice, "open_pipe", open_pipe)
    with Client(open_proxy) as client:
        connect(client, echoing.port)
        data = b"".join(pattern(3_000_000))
        sender = threading.Thread(target=client.send, args=(data,))
        sender.start()
        assert client._take_bytes(len(data)) == data
        sender.join()
        client.sock.shutdown(socket.SHUT_WR)
        assert client.at_end()


def test_few_pipes_are_large() -> None:
    pipes = Pipes()
    taken = [pipe for _ in range(LARGE_PIPES + 5) if (pipe := pipes.take()) is not None]
    if taken[0].capacity < PIPE_BYTES:
        pytest.skip("this user may have no large pipes")
    assert sum(pipe.capacity >= PIPE_BYTES for pipe in taken) <= LARGE_PIPES
    assert len(taken) == LARGE_PIPES + 5
    for pipe in taken:
        pipes.give_back(pipe)
    again = pipes.take()
    assert again is not None
    assert again.capacity >= PIPE_BYTES
    pipes.discard(again)
    pipes.close()


def test_a_fast_tunnel_does_not_hold_up_the_others() -> None:
    """Two peers that could keep a direction busy for ever: in each turn it moves so much and no more."""
    source, ours = socket.socketpair()
    theirs, target = socket.socketpair()
    loop = Loop()
    moved: list[int] = []

    def forever(fd: int, into: int, size: int) -> int:
        moved.append(size)
        return min(size, 1000)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splice, "splice", forever)
        streams = [Stream(loop, sock, lambda events: None) for sock in (ours, theirs)]
        pipes = Pipes()
        tunnel = Tunnel(streams[0], streams[1], memoryview(bytearray(10)), lambda up, down: None, pipes)
        tunnel._client_event(READ)
        assert len(moved) == 2 * MAX_ROUNDS
        tunnel.close()
        pipes.close()
    for sock in (source, target):
        sock.close()
    loop.close()


def test_a_fast_direction_rests_and_what_came_meanwhile_is_moved_though_nothing_follows() -> None:
    """After a burst the source is not watched for a moment: its last bytes must not wait for more to come."""
    left, ours = socket.socketpair()
    theirs, right = socket.socketpair()
    right.settimeout(10)
    loop = Loop()
    streams = [Stream(loop, sock, lambda events: None) for sock in (ours, theirs)]
    pipes = Pipes()
    tunnel = Tunnel(streams[0], streams[1], memoryview(bytearray(10)), lambda up, down: loop.stop(), pipes)
    tunnel.begin(b"")
    up = tunnel._up
    for _ in range(2):  # within one turn's time, so within REST_S
        left.send(b"x" * 80_000)
        up._start = -BULKY_BYTES
        tunnel._client_event(READ)
    assert up.resting
    left.send(b"the end")
    left.close()
    right.shutdown(socket.SHUT_WR)
    thread = threading.Thread(target=loop.run)
    thread.start()
    data = b""
    while piece := right.recv(65536):
        data += piece
    thread.join()
    assert data == b"x" * 160_000 + b"the end"
    assert not up.resting
    right.close()
    pipes.close()
    loop.close()
