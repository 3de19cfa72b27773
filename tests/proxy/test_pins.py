"""Which addresses may be dialled, by whoever named the host."""

from __future__ import annotations

import threading

import pytest

from nono.errors import NonoError, Refusal, UpstreamError
from nono.loop import Loop
from nono.proxy.pins import LOOPBACK, PUBLIC, ROUTE, THREADS, Address, Pins, permitted, scope_of_route

LOCAL = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]
NEVER = [
    "169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "100.100.100.200", "192.0.0.192",
    "0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
    "168.63.129.16", "::ffff:168.63.129.16", "::168.63.129.16", "fd20:ce::254",
    "::169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
    "::ffff:0:169.254.169.254", "::ffff:0:127.0.0.1", "2001:0:101:101::5601:5601",
    "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::", "64:ff9b:1:0:a9:fea9:fe00:0",
    "64:ff9b:1::7f00:1",
]  # fmt: skip
PRIVATE = ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"]
PRIVATE += ["::10.0.0.1", "fec0::1", "5f00::1", "::ffff:0:10.0.0.1", "::ffff:0:1.1.1.1"]
PRIVATE += ["64:ff9b:1::a00:1", "64:ff9b:1::101:101", "2001:0:101:101::fefe:fefe"]
GLOBAL = ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "::1.1.1.1"]


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [(LOOPBACK, LOCAL), (ROUTE, PRIVATE + GLOBAL), (PUBLIC, GLOBAL)],
)
def test_addresses_of_each_scope(scope: str, allowed: list[str]) -> None:
    every = LOCAL + NEVER + PRIVATE + GLOBAL
    assert [text for text in every if permitted(text, scope)] == [text for text in every if text in allowed]


def test_scope_of_a_routes_host() -> None:
    assert scope_of_route("localhost") == scope_of_route("127.0.0.1") == scope_of_route("::1") == LOOPBACK
    assert scope_of_route("api.openai.com") == scope_of_route("10.0.0.1") == ROUTE


def test_only_checked_addresses_are_handed_out_and_kept() -> None:
    looked_up: list[str] = []

    def lookup(host: str, port: int) -> list[str]:
        looked_up.append(host)
        return ["10.0.0.1", "1.1.1.1", "169.254.169.254"] if host == "mixed.example" else ["10.0.0.1"]

    loop = Loop()
    pins = Pins(loop, lookup)
    answers: list[list[Address] | NonoError] = []

    def collect(answer: list[Address] | NonoError) -> None:
        answers.append(answer)
        if len(answers) == 3:
            loop.stop()

    for name in ("mixed.example", "private.example", "mixed.example"):
        pins.resolve(name, 443, PUBLIC, collect)
    loop.run()
    addresses = [answer for answer in answers if isinstance(answer, list)]
    assert [[address.host for address in found] for found in addresses] == [["1.1.1.1"], ["1.1.1.1"]]
    assert [answer.status for answer in answers if isinstance(answer, Refusal)] == [403]
    pins.resolve("mixed.example", 443, PUBLIC, answers.append)
    assert answers[-1] == addresses[0]
    assert sorted(looked_up) == ["mixed.example", "private.example"]
    loop.close()


def test_many_names_share_few_threads_and_errors_are_told() -> None:
    running = most = 0
    lock = threading.Lock()

    def lookup(host: str, port: int) -> list[str]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1
        raise UnicodeError("label too long")

    loop = Loop()
    pins = Pins(loop, lookup)
    answers: list[list[Address] | NonoError] = []

    def collect(answer: list[Address] | NonoError) -> None:
        answers.append(answer)
        if len(answers) == 50:
            loop.stop()

    for index in range(50):
        pins.resolve(f"name{index}.example", 443, PUBLIC, collect)
    loop.run()
    assert all(isinstance(answer, UpstreamError) and answer.code == "dns" for answer in answers)
    assert most <= THREADS
    loop.close()


def test_a_thread_that_cannot_be_started_is_an_error_and_the_next_look_up_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    loop = Loop()
    pins = Pins(loop, lambda host, port: ["1.1.1.1"])
    answers: list[list[Address] | NonoError] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        for number in range(2 * THREADS):
            pins.resolve(f"{number}.example", 443, PUBLIC, answers.append)
    assert len(answers) == 2 * THREADS
    assert all(isinstance(answer, UpstreamError) and answer.status == 502 for answer in answers)

    def collect(answer: list[Address] | NonoError) -> None:
        answers.append(answer)
        loop.stop()

    pins.resolve("0.example", 443, PUBLIC, collect)
    loop.run()
    loop.close()
    assert isinstance(answers[-1], list)


def test_whatever_a_look_up_raises_is_an_error() -> None:
    def lookup(host: str, port: int) -> list[str]:
        raise ValueError("embedded null")

    loop = Loop()
    answers: list[list[Address] | NonoError] = []

    def collect(answer: list[Address] | NonoError) -> None:
        answers.append(answer)
        loop.stop()

    Pins(loop, lookup).resolve("a.example", 443, PUBLIC, collect)
    loop.run()
    loop.close()
    assert isinstance(answers[0], UpstreamError)
