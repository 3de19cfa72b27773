"""Connecting to the first of several addresses that answers."""

from __future__ import annotations

import base64
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nono.loop import Loop
from nono.policy.allowlist import Allowlist
from nono.proxy import race
from nono.proxy.pins import Address, Pins
from nono.proxy.race import ATTEMPT_DELAY_S, Race
from nono.proxy.server import Limits
from tests.fakes import TIMEOUT_S, Connection, Upstream
from tests.proxy.harness import TOKEN, Client, RunningProxy

PROXY_AUTH = "Proxy-Authorization: Basic " + base64.b64encode(b"nono:" + TOKEN).decode()


@contextmanager
def black_hole(host: str = "127.0.0.2", port: int = 0) -> Iterator[socket.socket]:
    """A listener whose queue is full: the kernel drops whatever else wants to connect, without an answer."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    waiting: list[socket.socket] = []
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            pytest.skip(f"no address {host} here: {error.strerror}")
        listener.listen(0)
        while True:
            waiting.append(socket.socket(family))
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
            poll = select.poll()
            poll.register(waiting[-1], select.POLLOUT)
            if not poll.poll(50):
                waiting.pop().close()
                break
            if len(waiting) > 8:
                pytest.skip("this kernel takes connections beyond a listener's backlog")
        yield listener
    for sock in waiting:
        sock.close()


def address(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return Address(sock.family, host, port)


class Run:
    """One race, until it is decided."""

    def __init__(self, addresses: list[Address], connect_s: float = 10.0) -> None:
        self.loop = Loop()
        self.won: list[socket.socket] = []
        self.failed = 0
        self.race = Race(self.loop, addresses, connect_s, self._connected, self._failed)
        began = time.monotonic()
        self.race.start()
        self.at_once = bool(self.won or self.failed)
        if not self.at_once:
            self.loop.call_later(TIMEOUT_S, self.loop.stop)
            self.loop.run()
        self.seconds = time.monotonic() - began
        self.peer = "".join(sock.getpeername()[0] for sock in self.won)
        self.left_open = len(self.race._pending)
        self.watched = len(self.loop._selector.get_map()) - 1  # its own pipe
        for sock in self.won:
            sock.close()
        self.loop.close()

    def _connected(self, sock: socket.socket) -> None:
        self.won.append(sock)
        self.loop.stop()

    def _failed(self) -> None:
        self.failed += 1
        self.loop.stop()


def test_who_answers_at_once_costs_no_timer_and_no_registration() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.3", 0)) as two:
        run = Run([address(one), address(two)])
    assert run.at_once
    assert run.peer == "127.0.0.1"
    assert run.race._timer is None
    assert not run.loop._timers


def test_a_black_hole_costs_the_attempt_delay_and_is_closed() -> None:
    with black_hole() as hole, socket.create_server(("127.0.0.3", 0)) as answers:
        run = Run([address(hole), address(answers)])
    assert run.peer == "127.0.0.3"
    assert run.race.tried is not None
    assert run.race.tried.host == "127.0.0.3"
    assert ATTEMPT_DELAY_S <= run.seconds < ATTEMPT_DELAY_S + 2
    assert (run.left_open, run.watched) == (0, 0)


def test_who_refuses_is_passed_over_at_once() -> None:
    with socket.create_server(("127.0.0.2", 0)) as closed:
        refuses = address(closed)
    with socket.create_server(("127.0.0.3", 0)) as answers:
        run = Run([refuses, refuses, address(answers)])
    assert run.at_once
    assert run.peer == "127.0.0.3"


def test_an_attempt_that_was_overtaken_may_still_win() -> None:
    with black_hole("127.0.0.2") as one, black_hole("127.0.0.3") as two:
        loop = Loop()
        won: list[str] = []

        def connected(sock: socket.socket) -> None:
            won.append(sock.getpeername()[0])
            sock.close()
            loop.stop()

        def free() -> None:  # the kernel tries again a second after it began
            assert len(runs._pending) == 2
            one.accept()[0].close()

        runs = Race(loop, [address(one), address(two)], 10.0, connected, loop.stop)
        runs.start()
        loop.call_later(ATTEMPT_DELAY_S * 2, free)
        loop.call_later(TIMEOUT_S, loop.stop)
        loop.run()
        assert won == ["127.0.0.2"]
        assert runs.tried == address(one)
        assert not runs._pending
        assert len(loop._selector.get_map()) == 1
        loop.close()


def test_each_address_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "ATTEMPT_DELAY_S", 0.1)
    with black_hole("127.0.0.2") as one, black_hole("127.0.0.3") as two:
        run = Run([address(one), address(two)], connect_s=0.3)
    assert run.failed == 1
    assert run.race.timed_out
    assert 0.4 <= run.seconds < 2
    assert (run.left_open, run.watched) == (0, 0)


def test_a_time_shorter_than_the_delay_brings_the_next_one_sooner() -> None:
    with black_hole() as hole, socket.create_server(("127.0.0.3", 0)) as answers:
        run = Run([address(hole), address(answers)], connect_s=0.05)
    assert run.peer == "127.0.0.3"
    assert 0.05 <= run.seconds < ATTEMPT_DELAY_S


def test_no_address_left_is_told_once_with_the_reason() -> None:
    with socket.create_server(("127.0.0.2", 0)) as closed:
        refuses = address(closed)
    run = Run([refuses, refuses])
    assert (run.failed, run.race.error, run.race.timed_out) == (1, "Connection refused", False)


def test_a_race_that_is_given_up_calls_nobody() -> None:
    with black_hole() as hole:
        loop = Loop()
        runs = Race(loop, [address(hole), address(hole)], 10.0, lambda sock: sock.close(), loop.stop)
        runs.start()
        runs.close()
        assert len(loop._selector.get_map()) == 1
        loop.call_later(ATTEMPT_DELAY_S * 1.2, loop.stop)
        loop.run()
        assert not runs._pending
        loop.close()


def test_an_address_family_that_is_not_there_is_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as answers:
        run = Run([Address(12345, "127.0.0.1", 1), Address(socket.AF_INET6, "fe80::1%nosuch0", 1), address(answers)])
    assert run.peer == "127.0.0.1"


@pytest.mark.parametrize("first", ["::1", "127.0.0.2"])
def test_a_host_whose_first_address_is_a_black_hole_is_reached(first: str) -> None:
    def echo(connection: Connection) -> None:
        while data := connection.sock.recv(65536):
            connection.send(data)

    def pins(loop: Loop) -> Pins:
        return Pins(loop, lambda host, port: [first, "127.0.0.1"], lambda text, scope: True)

    with Upstream(echo) as upstream, black_hole(first, upstream.port):
        allowed = Allowlist([f"both.example:{upstream.port}"])
        with RunningProxy([], allowed, Limits(), pins=pins) as proxy, Client(proxy) as client:
            began = time.monotonic()
            client.request("CONNECT", f"both.example:{upstream.port}", PROXY_AUTH, host="both.example")
            assert client.answer("HEAD").status == 200
            assert time.monotonic() - began < 5
            client.send(b"hello")
            assert client._take_bytes(5) == b"hello"
        assert proxy.exchanges[0].address == f"127.0.0.1:{upstream.port}"
