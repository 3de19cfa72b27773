"""Who asks for a host that is still being found out waits for the verdict, and nobody waits for ever."""

from __future__ import annotations

import threading

import pytest

from nono.policy.allowlist import Allowlist
from nono.proxy import latecomers
from tests.fakes import Authority, Upstream
from tests.proxy.harness import Client, RunningProxy, bearer, route
from tests.proxy.test_network_attacks import PROXY_AUTH, World, connect, get

HOST = "packages.example"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def allowlist() -> Allowlist:
    return Allowlist(["named.example"])


def test_a_verdict_waits_until_hosts_have_come(
    upstream: Upstream, authority: Authority, world: World, allowlist: Allowlist
) -> None:
    world.names[HOST] = ["10.0.0.1"]
    with RunningProxy([route("api", upstream.url, authority.ca)], allowlist, pins=world.pins) as proxy:
        waiting = proxy.proxy.latecomers
        proxy.call(waiting.expect)
        with Client(proxy) as tunnel, Client(proxy) as plain, Client(proxy) as gone, Client(proxy) as other:
            tunnel.send(connect(f"{HOST}:443", PROXY_AUTH))
            plain.send(get(f"http://{HOST}/", PROXY_AUTH) + b"GET /api/echo HTTP/1.1\r\nHost: a\r\n\r\n")
            gone.send(connect(f"{HOST}:443", PROXY_AUTH))
            other.send(connect("other.example:443", PROXY_AUTH))
            proxy.settle(lambda: len(waiting._waiting) == 4)
            gone.sock.close()
            with Client(proxy) as agent:
                agent.request("GET", "/api/echo", bearer())
                assert agent.answer().status == 200
            assert not proxy.wait(lambda seen: len(seen) == 1)[0].code
            proxy.call(lambda: (allowlist.add([HOST]), waiting.came()))
            assert tunnel.answer().code == plain.answer().code == "address_denied"
            proxy.settle(lambda: len(waiting._waiting) == 1)
            proxy.call(waiting.over)
            assert other.answer().code == "host_denied"
    assert set(world.looked_up) == {HOST}


def test_nobody_waits_for_longer_than_said(
    upstream: Upstream, authority: Authority, world: World, allowlist: Allowlist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latecomers, "WAIT_S", 0.05)
    with RunningProxy([route("api", upstream.url, authority.ca)], allowlist, pins=world.pins) as proxy:
        proxy.call(proxy.proxy.latecomers.expect)
        with Client(proxy) as client:
            client.send(connect(f"{HOST}:443", PROXY_AUTH))
            assert client.answer().code == "host_denied"
        assert not proxy.proxy.latecomers.expected


def test_the_end_of_the_run_does_not_wait(
    upstream: Upstream, authority: Authority, world: World, allowlist: Allowlist
) -> None:
    drained = threading.Event()
    with RunningProxy([route("api", upstream.url, authority.ca)], allowlist, pins=world.pins) as proxy:
        proxy.call(proxy.proxy.latecomers.expect)
        with Client(proxy) as client:
            client.send(connect(f"{HOST}:443", PROXY_AUTH))
            proxy.settle(lambda: len(proxy.proxy.latecomers._waiting) == 1)
            proxy.call(lambda: proxy.proxy.drain(5, drained.set))
            assert drained.wait(2)
        assert [entry.code for entry in proxy.exchanges] == ["host_denied"]


def test_what_no_later_host_could_grant_does_not_wait(upstream: Upstream, authority: Authority, world: World) -> None:
    allowlist = Allowlist(["named.example"], ["denied.example"])
    with RunningProxy([route("api", upstream.url, authority.ca)], allowlist, pins=world.pins) as proxy:
        proxy.call(proxy.proxy.latecomers.expect)
        for host in ("denied.example", "metadata.google.internal", f"127.0.0.1:{proxy.port}"):
            with Client(proxy) as client:
                client.send(connect(host if ":" in host else f"{host}:443", PROXY_AUTH))
                assert client.answer().code == "host_denied"


def test_a_pipelined_request_behind_one_that_waits_is_not_answered_in_its_place(
    upstream: Upstream, authority: Authority, world: World, allowlist: Allowlist
) -> None:
    """Also where the client did not read, so that WRITE and READ come in one turn."""
    slow = b"GET /api/bytes/8000000 HTTP/1.1\r\nHost: a\r\n" + bearer().encode() + b"\r\n\r\n"
    follower = b"GET /api/echo HTTP/1.1\r\nHost: a\r\n" + bearer().encode() + b"\r\n\r\n"
    with RunningProxy([route("api", upstream.url, authority.ca)], allowlist, pins=world.pins) as proxy:
        proxy.call(proxy.proxy.latecomers.expect)
        with Client(proxy) as client:
            client.send(slow + get(f"http://{HOST}/", PROXY_AUTH))
            client.send(follower)
            assert client.answer().status == 200
            proxy.settle(lambda: len(proxy.proxy.latecomers._waiting) == 1)
            client.send(follower)
            proxy.call(proxy.proxy.latecomers.over)
            assert client.answer().code == "host_denied"
            assert client.at_end()
        assert [entry.code for entry in proxy.exchanges] == ["", "host_denied"]
