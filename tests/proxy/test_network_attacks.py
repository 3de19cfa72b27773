"""What a compromised agent tries at the proxy's port, each try beside what is allowed (DESIGN section 4, issue 4).

Names are looked up by a stand-in that counts; addresses are judged by the real check, so that loopback, where all
upstreams of tests are, is reached only as a host that the operator named.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator

import pytest

from nono.loop import Loop
from nono.policy.allowlist import Allowlist
from nono.proxy.pins import Pins
from tests.fakes import Authority, Connection, Upstream
from tests.proxy.harness import KEY, TOKEN, Client, RunningProxy, bearer, route

PROXY_AUTH = "Proxy-Authorization: Basic " + base64.b64encode(b"nono:" + TOKEN).decode()
BAD_TOKENS = {
    "none": "X-Nothing: here",
    "wrong": "Proxy-Authorization: Basic " + base64.b64encode(b"nono:" + b"0" * 64).decode(),
    "short": "Proxy-Authorization: Basic " + base64.b64encode(b"nono:" + TOKEN[:-1]).decode(),
    "not base64": "Proxy-Authorization: Basic !!!!",
    "unknown scheme": f"Proxy-Authorization: Digest {TOKEN.decode()}",
    "in the place of a route's": bearer(),
}


class World:
    """The names of a test, and how often each was looked up. An answer may be a list of answers, given in turn."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.turns: dict[str, list[list[str]]] = {}
        self.looked_up: list[str] = []

    def pins(self, loop: Loop) -> Pins:
        return Pins(loop, self._lookup)

    def _lookup(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        if self.turns.get(host):
            return self.turns[host].pop(0)
        return self.names[host]


@pytest.fixture
def world() -> World:
    made = World()
    made.names = {"named.example": ["127.0.0.1"], "a.suffix.example": ["127.0.0.1"]}
    return made


@pytest.fixture
def plain() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def proxy(upstream: Upstream, plain: Upstream, authority: Authority, world: World) -> Iterator[RunningProxy]:
    """A route `api`; a named host on `plain`'s port; a suffix on the same port; and a host that is denied again."""
    allowed = [f"named.example:{plain.port}", f".suffix.example:{plain.port}", "denied.example", "169.254.0.1"]
    allowlist = Allowlist(allowed, ["denied.example"])
    bound = route("api", upstream.url, authority.ca, base_url_vars=("API_BASE_URL",))
    with RunningProxy([bound], allowlist, pins=world.pins) as running:
        yield running


def connect(target: str, *headers: str, host: str | None = None) -> bytes:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target if host is None else host}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def get(url: str, *headers: str, host: str | None = None) -> bytes:
    authority = url.partition("://")[2].partition("/")[0]
    lines = [f"GET {url} HTTP/1.1", f"Host: {authority if host is None else host}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def refused(proxy: RunningProxy, data: bytes) -> tuple[int, str | None]:
    """Send a request and, behind it in one piece, one that would be granted; return the answer to the first.

    The connection must end with that answer, so that nothing behind a refusal is ever interpreted.
    """
    follower = b"GET /api/pipelined HTTP/1.1\r\nHost: a\r\n" + bearer().encode() + b"\r\n\r\n"
    with Client(proxy) as client:
        client.send(data + follower + b"\x16\x03\x01\x02\x00" + follower)
        answer = client.answer()
        assert answer.complete
        assert answer.header("connection") == "close"
        with contextlib.suppress(ConnectionResetError):
            assert client.at_end()
        return answer.status, answer.code


def test_what_is_allowed_works(proxy: RunningProxy, plain: Upstream, world: World) -> None:
    with Client(proxy) as client:
        assert client.get("/api/echo").status == 200
        client.send(get(f"http://named.example:{plain.port}/x", PROXY_AUTH))
        assert client.answer().status == 200
        client.send(connect(f"named.example:{plain.port}", PROXY_AUTH))
        assert client.answer("HEAD").status == 200
        client.request("GET", "/y", host="named.example")
        assert client.answer().status == 200
    assert world.looked_up == ["named.example"]


# The token goes first.


@pytest.mark.parametrize("kind", BAD_TOKENS)
@pytest.mark.parametrize(
    "target", ["named.example:PORT", "other.example:443", "a%00b:443", "nonsense", "127.0.0.1:SELF", "localhost:ROUTE"]
)
def test_without_the_token_connect_says_nothing_of_the_host(
    proxy: RunningProxy, upstream: Upstream, plain: Upstream, world: World, kind: str, target: str
) -> None:
    for word, number in (("PORT", plain.port), ("SELF", proxy.port), ("ROUTE", upstream.port)):
        target = target.replace(word, str(number))
    with Client(proxy) as client:
        client.send(connect(target, BAD_TOKENS[kind]))
        answer = client.answer()
    assert answer.status == 407
    assert answer.header("proxy-authenticate") == 'Basic realm="nono"'
    assert answer.header("connection") == "close"
    assert world.looked_up == []


@pytest.mark.parametrize("kind", BAD_TOKENS)
def test_without_the_token_an_absolute_url_is_407(
    proxy: RunningProxy, plain: Upstream, world: World, kind: str
) -> None:
    for url in (f"http://named.example:{plain.port}/", "http://other.example/", "http://a%00b/", "http://127.0.0.2/"):
        assert refused(proxy, get(url, BAD_TOKENS[kind]))[0] == 407
    assert world.looked_up == []
    assert plain.requests == []


# Names that are none, and names that hide another.

MALFORMED = [
    "a\0b.example", "named.example%00.evil.example", "a%2eexample", "a%0d%0ab", "[[::1]]", "a b", "a\tb", "a\xe4b",
    "a..example", ".example", "-", "a" * 64 + ".example", "a." * 127 + "example", "2130706433", "0x7f000001", "0x7f.1",
    "127.1", "017700000001", "127.0.0.01", "256.0.0.1", "[fe80::1%25eth0]", "[::ffff:127.1]", "[1:2:3]", "[]",
    "named.example@evil.example", "evil.example\\named.example", "evil.example#named.example", "evil.example/named",
    "a,b", "a;b", "*.example", "a\"b", "a'b", "a<b", "a^b", "a|b", "a`b", "a{b",
]  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_name_that_is_none_is_400_and_not_looked_up(proxy: RunningProxy, world: World, name: str) -> None:
    wanted = (400, 403) if name == "-" else (400,)
    assert refused(proxy, connect(f"{name}:443", PROXY_AUTH))[0] in wanted
    assert refused(proxy, get(f"http://{name}/", PROXY_AUTH))[0] in (
        (400, 403) if name == "evil.example/named" else wanted
    )
    assert world.looked_up == []


@pytest.mark.parametrize("line", ["\r\nHost: named.example", "\r", "\n", "\r\n\r\nGET http://named.example/ HTTP/1.1"])
def test_a_line_break_in_a_name_is_no_way_out(proxy: RunningProxy, plain: Upstream, world: World, line: str) -> None:
    assert refused(proxy, connect(f"evil.example{line}:443", PROXY_AUTH))[0] in (400, 407)
    assert refused(proxy, connect("evil.example:443", PROXY_AUTH, host=f"evil.example{line}"))[0] in (400, 403, 407)
    assert refused(proxy, get("http://evil.example/", PROXY_AUTH, host=f"evil.example{line}"))[0] in (400, 403, 407)
    assert world.looked_up == []
    assert plain.requests == []


def test_host_cannot_name_another_than_the_target(proxy: RunningProxy, plain: Upstream, world: World) -> None:
    named = f"named.example:{plain.port}"
    for target in ("169.254.169.254:80", f"evil.example:{plain.port}", f"127.0.0.1:{plain.port}"):
        assert refused(proxy, connect(target, PROXY_AUTH, host=named)) == (400, "bad_host")
        assert refused(proxy, get(f"http://{target}/", PROXY_AUTH, host=named)) == (400, "bad_host")
    assert refused(proxy, connect(named, PROXY_AUTH, host="evil.example")) == (400, "bad_host")
    assert refused(proxy, get(f"http://{named}/", PROXY_AUTH, host="evil.example")) == (400, "bad_host")
    assert refused(proxy, get(f"http://{named}/", PROXY_AUTH, "Host: evil.example"))[0] == 400
    assert world.looked_up == []
    assert plain.requests == []


def test_host_on_a_route_is_not_where_it_goes(proxy: RunningProxy, upstream: Upstream, world: World) -> None:
    with Client(proxy) as client:
        client.request("GET", "/api/echo", bearer(), host="169.254.169.254")
        assert client.answer().status == 200
    assert upstream.requests[0].all("host") == [f"localhost:{upstream.port}"]
    assert world.looked_up == []


@pytest.mark.parametrize("scheme", ["https", "ftp", "file", "ws", "HTTPS", "h2c", "unix"])
def test_only_http_urls(proxy: RunningProxy, plain: Upstream, world: World, scheme: str) -> None:
    status, code = refused(proxy, get(f"{scheme}://named.example:{plain.port}/", PROXY_AUTH))
    assert (status, code) == (400, "bad_target")
    assert world.looked_up == []


# What is not in the allowlist.


@pytest.mark.parametrize(
    "host",
    [
        "other.example", "named.example.evil.example", "evilnamed.example", "xsuffix.example", "suffix.example",
        "denied.example", "DENIED.example.", "metadata.google.internal", "169.254.169.254", "127.0.0.1", "10.0.0.1",
        "[::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "localhost", "0.0.0.0", "[::]",
    ],
)  # fmt: skip
def test_a_denied_host_is_403_and_never_looked_up(
    proxy: RunningProxy, plain: Upstream, world: World, host: str
) -> None:
    for port in (443, plain.port):
        assert refused(proxy, connect(f"{host}:{port}", PROXY_AUTH)) == (403, "host_denied")
        assert refused(proxy, get(f"http://{host}:{port}/", PROXY_AUTH)) == (403, "host_denied")
    assert world.looked_up == []
    assert plain.connections == 0


def test_ports_that_were_not_named_are_denied(proxy: RunningProxy, world: World) -> None:
    for port in (22, 25, 80, 443, 6379):
        status, code = refused(proxy, connect(f"named.example:{port}", PROXY_AUTH))
        assert (status, code) == (403, "host_denied")
    for port in ("0", "65536", "99999", "-1", "+80", "0x50", "", "443 "):
        assert refused(proxy, connect(f"named.example:{port}", PROXY_AUTH))[0] == 400
    assert world.looked_up == []


@pytest.mark.parametrize("allowlist", [None, Allowlist([])], ids=["routes only", "empty"])
def test_an_empty_allowlist_denies_all(
    upstream: Upstream, authority: Authority, world: World, allowlist: Allowlist | None
) -> None:
    with RunningProxy([route("api", upstream.url, authority.ca)], allowlist, pins=world.pins) as proxy:
        for host in ("named.example", "a.suffix.example", "127.0.0.1", "localhost", "8.8.8.8"):
            assert refused(proxy, connect(f"{host}:443", PROXY_AUTH)) == (403, "host_denied")
            assert refused(proxy, get(f"http://{host}/", PROXY_AUTH)) == (403, "host_denied")
        with Client(proxy) as client:
            assert client.get("/api/echo").status == 200
    assert world.looked_up == []


# Addresses.


def test_a_suffix_reaches_no_private_address(proxy: RunningProxy, plain: Upstream, world: World) -> None:
    target = f"a.suffix.example:{plain.port}"
    for address in ("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1",
                    "64:ff9b::7f00:1", "2002:7f00:1::", "fe80::1", "fd00::1", "0.0.0.0", "100.64.0.1"):  # fmt: skip
        world.names["a.suffix.example"] = [address]
        assert refused(proxy, connect(target, PROXY_AUTH)) == (403, "address_denied")
        assert refused(proxy, get(f"http://{target}/", PROXY_AUTH)) == (403, "address_denied")
    assert plain.connections == 0


def test_a_named_host_that_rebinds_to_metadata_is_refused(
    proxy: RunningProxy, plain: Upstream, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nono.proxy.pins.PIN_S", 0.0)
    target = f"named.example:{plain.port}"
    world.turns["named.example"] = [["127.0.0.1"], ["169.254.169.254"], ["fd00:ec2::254"], ["127.0.0.1"]]
    for expected in (200, 403, 403, 200):
        with Client(proxy) as client:
            client.send(connect(target, PROXY_AUTH))
            assert client.answer("HEAD").status == expected
    assert world.looked_up == ["named.example"] * 4
    plain.wait(lambda: plain.connections == 2)


def test_a_pin_is_not_looked_up_again(proxy: RunningProxy, plain: Upstream, world: World) -> None:
    world.turns["named.example"] = [["127.0.0.1"], ["169.254.169.254"]]
    for _ in range(3):
        with Client(proxy) as client:
            client.send(connect(f"named.example:{plain.port}", PROXY_AUTH))
            assert client.answer("HEAD").status == 200
    assert world.looked_up == ["named.example"]


# The proxy itself.

SELF = [
    "127.0.0.1", "127.0.0.2", "127.255.255.254", "localhost", "LOCALHOST", "localhost.", "x.localhost", "0.0.0.0",
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::FFFF:0.0.0.0]",
]  # fmt: skip


@pytest.mark.parametrize("host", SELF)
def test_the_proxy_is_not_dialled_through_itself(
    upstream: Upstream, authority: Authority, world: World, host: str
) -> None:
    class Everything:
        def __call__(self, host: str, port: int, *, tunnel: bool) -> object:
            return Allowlist([host])(host, 443, tunnel=tunnel)

    bound = route("api", upstream.url, authority.ca)
    with RunningProxy([bound], Everything(), pins=world.pins) as proxy:  # type: ignore[arg-type]
        target = f"{host}:{proxy.port}"
        assert refused(proxy, connect(target, PROXY_AUTH)) == (403, "host_denied")
        if host.lower() not in ("127.0.0.1", "localhost"):
            assert refused(proxy, get(f"http://{target}/api/echo", PROXY_AUTH, bearer())) == (403, "host_denied")
        else:  # its own name in a request to it: no second connection is made, the route answers
            with Client(proxy) as client:
                client.send(get(f"http://{target}/api/echo", PROXY_AUTH, bearer()))
                assert client.answer().status == 200
        assert proxy.proxy.connections <= 2
    assert world.looked_up == []


# Other protocols.


@pytest.mark.parametrize("upgrade", ["h2c", "h2c, websocket", "TLS/1.2", "HTTP/3", "websocket2"])
@pytest.mark.parametrize("through", ["route", "absolute"])
def test_other_upgrades_never_reach_an_upstream(
    proxy: RunningProxy, upstream: Upstream, plain: Upstream, upgrade: str, through: str
) -> None:
    headers = (f"Upgrade: {upgrade}", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    with Client(proxy) as client:
        if through == "route":
            client.request("GET", "/api/echo", bearer(), *headers)
        else:
            client.send(get(f"http://named.example:{plain.port}/", PROXY_AUTH, *headers))
        assert client.answer().status == 200
    seen = (upstream if through == "route" else plain).requests[0]
    assert (seen.all("upgrade"), seen.all("connection"), seen.all("http2-settings")) == ([], [], [])


@pytest.mark.parametrize("name", ["h2c", "websocket"])
def test_an_upstream_cannot_switch_protocols_unasked(world: World, name: str) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(f"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: {name}\r\n\r\n".encode())
        connection.wait_closed()

    with Upstream(script) as host:
        with RunningProxy([], Allowlist([f"named.example:{host.port}"]), pins=world.pins) as proxy:
            headers = () if name == "websocket" else ("Upgrade: h2c", "Connection: Upgrade")
            with Client(proxy) as client:
                client.send(get(f"http://named.example:{host.port}/", PROXY_AUTH, *headers))
                answer = client.answer()
                assert (answer.status, answer.code) == (502, "upstream_protocol")


def test_http2_with_prior_knowledge_is_505(proxy: RunningProxy, upstream: Upstream, world: World) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    assert refused(proxy, preface) == (505, "http_version")
    assert (upstream.requests, world.looked_up) == ([], [])


def test_tls_and_socks_at_the_plain_port_are_no_requests(proxy: RunningProxy, upstream: Upstream) -> None:
    for data in (b"\x16\x03\x01\x02\x00\x01", b"\x05\x01\x00", b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00"):
        with Client(proxy) as client:
            client.send(data)
            assert client.answer().status == 400
    assert upstream.requests == []


# Redirects.


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/latest/", "https://evil.example/steal", "//evil.example/"]
)
def test_a_redirect_is_passed_through_and_not_followed(authority: Authority, world: World, location: str) -> None:
    def script(connection: Connection) -> None:
        while (request := connection.read_request()) is not None:
            connection.answer(307, b"elsewhere", f"Location: {location}")
            assert request.all("authorization")

    with Upstream(script, authority.server_context()) as api:
        with RunningProxy([route("api", api.url, authority.ca)], Allowlist([]), pins=world.pins) as proxy:
            with Client(proxy) as client:
                answer = client.get("/api/x", method="POST", body=b"secret question")
                assert (answer.status, answer.header("location")) == (307, location)
            if location.startswith("http:"):
                assert refused(proxy, get(location, PROXY_AUTH)) == (403, "host_denied")
        assert len(api.requests) == 1
        assert api.requests[0].all("authorization") == [f"Bearer {KEY.decode()}"]
    assert world.looked_up == []


# What stands behind a refusal, and in its body.


def test_nothing_behind_a_rejected_connect_is_interpreted(
    proxy: RunningProxy, upstream: Upstream, plain: Upstream, world: World
) -> None:
    world.names["gone.suffix.example"] = []
    for data, status in (
        (connect("other.example:443", PROXY_AUTH), 403),
        (connect("other.example:443"), 407),
        (connect("a%b:443", PROXY_AUTH), 400),
        (connect(f"gone.suffix.example:{plain.port}", PROXY_AUTH), 502),
        (connect(f"localhost:{upstream.port}", PROXY_AUTH), 403),
        (connect("other.example:443", PROXY_AUTH, "Content-Length: 5"), 403),
        (connect("other.example:443", PROXY_AUTH, "Transfer-Encoding: chunked"), 403),
        (connect("other.example:443", PROXY_AUTH, "Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    ):
        assert refused(proxy, data)[0] == status
    assert upstream.requests == []
    assert plain.requests == []


def test_a_routes_host_is_told_by_its_variable(proxy: RunningProxy, upstream: Upstream) -> None:
    with Client(proxy) as client:
        client.send(connect(f"localhost:{upstream.port}", PROXY_AUTH))
        answer = client.answer()
    assert (answer.status, answer.code) == (403, "host_denied")
    assert "API_BASE_URL" in answer.json()["error"]["message"]
    status, code = refused(proxy, get(f"http://localhost:{upstream.port}/", PROXY_AUTH))
    assert (status, code) == (403, "host_denied")


# The token and the key stay where they belong.


def test_the_token_never_reaches_an_allowed_host(proxy: RunningProxy, plain: Upstream) -> None:
    base = f"http://named.example:{plain.port}"
    for data in (
        get(f"{base}/?token={TOKEN.decode()}", PROXY_AUTH),
        get(f"{base}/{TOKEN.decode()}", PROXY_AUTH),
        get(f"{base}/", PROXY_AUTH, bearer()),
        get(f"{base}/", PROXY_AUTH, PROXY_AUTH.removeprefix("Proxy-")),
        get(f"{base}/", PROXY_AUTH, f"X-Whatever: {TOKEN.decode()}"),
        get(f"{base}/", PROXY_AUTH, f"Cookie: a={TOKEN.decode()}"),
    ):
        assert refused(proxy, data) == (400, "token_misplaced")
    assert plain.requests == []


def test_a_tunnel_to_an_allowed_host_gets_no_key(proxy: RunningProxy, plain: Upstream) -> None:
    with Client(proxy) as client:
        client.send(connect(f"named.example:{plain.port}", PROXY_AUTH))
        assert client.answer("HEAD").status == 200
        client.request("GET", "/x", bearer(), host="api")
        assert client.answer().status == 200
    assert KEY.decode() not in str(plain.requests)
    assert plain.requests[0].all("proxy-authorization") == []
