"""What the audit is told of each decision: the address that was dialled, and whether nono let it pass."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator

import pytest

from nono.loop import Loop
from nono.policy.allowlist import Allowlist
from nono.proxy.pins import Pins, permitted
from nono.proxy.server import Exchange, Limits
from tests.fakes import Authority, Connection, Upstream
from tests.proxy.harness import TOKEN, Client, RunningProxy, bearer, route

PROXY_AUTH = "Proxy-Authorization: Basic " + base64.b64encode(b"nono:" + TOKEN).decode()
NAMES = {"here.example": ["127.0.0.1"], "private.example": ["10.0.0.1"], "metadata.example": ["169.254.169.254"]}


def pins(loop: Loop) -> Pins:
    """A resolver of NAMES; loopback may be dialled, as everything that is public."""
    return Pins(loop, lambda host, port: NAMES[host], lambda text, scope: text == "127.0.0.1" or permitted(text, scope))


def lookup_error(host: str, port: int) -> list[str]:
    raise OSError


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can have it meanwhile
        yield sock.getsockname()[1]


@pytest.fixture
def proxy(upstream: Upstream, authority: Authority, closed_port: int) -> Iterator[RunningProxy]:
    """A route `api`, and every host below .example on the ports of this test."""
    ports = (443, upstream.port, closed_port)
    allowed = Allowlist([f"*.example:{port}" for port in ports])
    with RunningProxy([route("api", upstream.url, authority.ca)], allowed, pins=pins) as running:
        yield running


def told(proxy: RunningProxy, count: int = 1) -> Exchange:
    """The last of `count` entries."""
    return proxy.wait(lambda exchanges: len(exchanges) >= count)[count - 1]


def connect(proxy: RunningProxy, host: str, port: int, *headers: str) -> Exchange:
    with Client(proxy) as client:
        client.request("CONNECT", f"{host}:{port}", *(headers or (PROXY_AUTH,)), host=f"{host}:{port}")
        if client.answer("HEAD").status == 200:
            client.sock.shutdown(socket.SHUT_WR)
            client.at_end()
    return told(proxy)


def test_a_request_names_the_address_of_its_connection_also_where_it_is_used_again(
    proxy: RunningProxy, upstream: Upstream
) -> None:
    with Client(proxy) as client:
        assert client.get("/api/hello").status == 200
        assert client.get("/api/hello").status == 200
    for count in (1, 2):
        entry = told(proxy, count)
        assert (entry.verdict, entry.address) == ("allowed", f"127.0.0.1:{upstream.port}")
        assert (entry.route, entry.host) == ("api", f"localhost:{upstream.port}")


def test_what_is_refused_after_it_on_the_same_connection_has_no_address(proxy: RunningProxy) -> None:
    with Client(proxy) as client:
        assert client.get("/api/hello").status == 200
        client.request("GET", "/api/hello")
        assert client.answer().status == 401
    entry = told(proxy, 2)
    assert (entry.verdict, entry.address, entry.code) == ("refused", "", "token_missing")


def test_a_tunnel(proxy: RunningProxy, upstream: Upstream) -> None:
    entry = connect(proxy, "here.example", upstream.port)
    assert (entry.verdict, entry.status, entry.code) == ("allowed", 200, "")
    assert (entry.host, entry.address) == (f"here.example:{upstream.port}", f"127.0.0.1:{upstream.port}")


@pytest.mark.parametrize(
    ("host", "headers", "status", "code"),
    [
        ("here.example", ("X-No: token",), 407, "token_missing"),
        ("elsewhere.invalid", (), 403, "host_denied"),
        ("[[x", (), 400, None),
        ("private.example", (), 403, "address_denied"),
        ("metadata.example", (), 403, "address_denied"),
    ],
)
def test_what_is_refused_has_no_address(
    proxy: RunningProxy, host: str, headers: tuple[str, ...], status: int, code: str | None
) -> None:
    entry = connect(proxy, host, 443, *headers)
    assert (entry.verdict, entry.status, entry.address) == ("refused", status, "")
    assert entry.code == code or code is None
    assert entry.host == f"{host}:443"
    assert entry.reason


def test_a_name_that_does_not_resolve_was_allowed() -> None:
    with RunningProxy([], Allowlist(["nowhere.example"]), pins=lambda loop: Pins(loop, lookup_error)) as proxy:
        entry = connect(proxy, "nowhere.example", 443)
    assert (entry.verdict, entry.status, entry.code, entry.address) == ("allowed", 502, "dns", "")


def test_a_connection_that_fails_names_the_address_that_was_tried(proxy: RunningProxy, closed_port: int) -> None:
    entry = connect(proxy, "here.example", closed_port)
    assert (entry.verdict, entry.status, entry.code) == ("allowed", 502, "connect")
    assert entry.address == f"127.0.0.1:{closed_port}"


def test_an_absolute_request_that_fails_to_connect(proxy: RunningProxy, closed_port: int) -> None:
    with Client(proxy) as client:
        where = f"here.example:{closed_port}"
        client.request("GET", f"http://{where}/path?query", PROXY_AUTH, host=where)
        assert client.answer().status == 502
    entry = told(proxy)
    assert (entry.verdict, entry.path, entry.address) == ("allowed", "/path", f"127.0.0.1:{closed_port}")


def test_an_upstream_that_breaks_off_was_allowed(authority: Authority) -> None:
    def hang_up(connection: Connection) -> None:
        connection.read_head()

    with Upstream(hang_up, context=authority.server_context()) as broken:
        with RunningProxy([route("api", broken.url, authority.ca)]) as proxy, Client(proxy) as client:
            assert client.get("/api/x").status == 502
            entry = told(proxy)
    assert (entry.verdict, entry.code, entry.address) == ("allowed", "upstream_closed", f"127.0.0.1:{broken.port}")


def test_a_client_that_leaves_was_allowed(authority: Authority) -> None:
    def never_answer(connection: Connection) -> None:
        connection.read_head()
        connection.sock.recv(1)

    with Upstream(never_answer, context=authority.server_context()) as silent:
        with RunningProxy([route("api", silent.url, authority.ca)]) as proxy:
            with Client(proxy) as client:
                client.request("GET", "/api/x", bearer())
                proxy.settle(lambda: any(c.upstream_state == "AWAITING" for c in proxy.proxy._conversations))
            entry = told(proxy)
    assert (entry.verdict, entry.code, entry.address) == ("allowed", "client_left", f"127.0.0.1:{silent.port}")


def test_a_connection_that_is_turned_away_is_an_entry() -> None:
    with RunningProxy([], limits=Limits(max_connections=1)) as proxy, Client(proxy) as first:
        proxy.settle(lambda: proxy.proxy.connections == 1)
        with Client(proxy) as second:
            assert second.answer().status == 503
        entry = told(proxy)
        assert (entry.verdict, entry.code, entry.address) == ("refused", "too_many_connections", "")
        first.request("GET", "/", bearer())
        assert first.answer().status == 404


def test_connect_that_comes_again_is_granted_again(
    proxy: RunningProxy, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that was granted is remembered, from its second time on: the verdict stays, the address is checked."""

    def connected() -> str | None:
        with Client(proxy) as client:
            client.request("CONNECT", f"here.example:{upstream.port}", PROXY_AUTH, host=f"here.example:{upstream.port}")
            answer = client.answer("HEAD")
        return answer.code

    assert [connected() for _ in range(4)] == [None] * 4
    monkeypatch.setitem(NAMES, "here.example", ["10.0.0.1"])
    proxy.call(lambda: proxy.proxy._pins.forget("here.example", upstream.port, "PUBLIC"))
    assert connected() == "address_denied"
    entries = proxy.wait(lambda exchanges: len(exchanges) == 5)
    assert sorted(entry.verdict for entry in entries) == ["allowed"] * 4 + ["refused"]


def test_who_watches_is_told_of_a_tunnel_when_it_begins(upstream: Upstream) -> None:
    opened: list[Exchange] = []
    with RunningProxy([], Allowlist([f"*.example:{upstream.port}"]), pins=pins, opened=opened.append) as proxy:
        ended = connect(proxy, "here.example", upstream.port)
        connect(proxy, "denied.invalid", upstream.port)
        assert told(proxy, 2).verdict == "refused"
    (begun,) = opened
    assert (begun.code, begun.verdict, begun.status, begun.host) == ("opened", "allowed", 200, ended.host)
    assert begun.address == ended.address == f"127.0.0.1:{upstream.port}"
