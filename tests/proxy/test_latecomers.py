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
        assert [entry.code for entry in proxy.exchanges] == ["cut_off"]
