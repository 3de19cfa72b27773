"""Which addresses may be dialled, by whoever named the host."""

from __future__ import annotations

import ipaddress
import threading

import pytest
from hypothesis import given
from hypothesis.strategies import ip_addresses

from nono.errors import NonoError, Refusal, UpstreamError
from nono.loop import Loop
from nono.proxy.pins import (
    LOOPBACK,
    MAX_ADDRESSES,
    MAX_QUEUED,
    NAMED,
    PUBLIC,
    ROUTE,
    THREADS,
    Address,
    Pins,
    address_denied,
    permitted,
    scope_of_route,
)
from tests.fakes import TIMEOUT_S

# What each address may be dialled as, by what it is. No name of the agent's own may lead to any but the last group.
LOOPBACK_ONLY = ["127.0.0.1", "127.9.9.9", "127.255.255.255", "::1", "::ffff:127.0.0.1"]
# In disguise they are no loopback to the kernel; the operator may still have named a translator of his own.
LOOPBACK_INSIDE = ["::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1"]
LOOPBACK_INSIDE += ["2001:0:101:101::80ff:fffe"]
NEVER = {
    "link-local": ["169.254.0.1", "169.254.255.255", "fe80::1", "fe80::1%eth0", "febf::1"],
    "metadata": [
        "169.254.169.254", "169.254.170.2", "fd00:ec2::254", "fd00:ec2::23", "100.100.100.200", "192.0.0.192",
        "168.63.129.16", "fd20:ce::254", "fd00:42::42",
    ],
    "unspecified": ["0.0.0.0", "::"],
    "this network": ["0.0.0.1", "0.255.255.255", "::5"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "broadcast": ["255.255.255.255"],
    "v4-mapped": [
        "::ffff:169.254.169.254", "::ffff:168.63.129.16", "::ffff:0.0.0.0", "::ffff:255.255.255.255",
        "::ffff:224.0.0.1", "::ffff:100.100.100.200",
    ],
    "v4-compatible": ["::169.254.169.254", "::168.63.129.16", "::255.255.255.255"],
    "v4-translated": ["::ffff:0:169.254.169.254", "::ffff:0:224.0.0.1"],
    "NAT64": ["64:ff9b::a9fe:a9fe", "64:ff9b::ffff:ffff", "64:ff9b::0", "64:ff9b::6464:64c8"],
    "NAT64, local": [
        "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::", "64:ff9b:1:0:a9:fea9:fe00:0",
    ],
    "6to4": ["2002:a9fe:a9fe::1", "2002:ffff:ffff::1", "2002:6464:64c8::1", "2002::1"],
    "Teredo": ["2001:0:101:101::5601:5601"],
}  # fmt: skip
PRIVATE = {
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd12::1", "fc00::1"],
    "carrier-grade NAT": ["100.64.0.1", "100.100.100.201", "100.127.255.255"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "benchmarks": ["198.18.0.1", "198.19.255.255", "2001:2::1"],
    "IETF protocols": ["192.0.0.1", "192.0.0.8", "192.0.0.100", "2001:1::1", "2001:10::1", "2001:20::1"],
    "6to4 relay": ["192.88.99.1"],
    "reserved": ["240.0.0.1", "255.255.255.254"],
    "site-local": ["fec0::1", "feff::1"],
    "not yet given out": ["4000::1", "8000::1", "5f00::1", "100::1", "200::1"],
    "v4-mapped": ["::ffff:10.0.0.1", "::ffff:192.168.0.1", "::ffff:100.64.0.1"],
    "v4-compatible": ["::10.0.0.1"],
    "v4-translated": ["::ffff:0:10.0.0.1", "::ffff:0:1.1.1.1"],
    "NAT64": ["64:ff9b::a00:1"],
    "NAT64, local": ["64:ff9b:1::a00:1", "64:ff9b:1::101:101"],
    "6to4": ["2002:a00:1::1", "2002:c0a8:1::"],
    "Teredo": ["2001:0:101:101::fefe:fefe"],
}
GLOBAL = ["1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1", "223.255.255.254"]
GLOBAL += ["2606:4700::1111", "2a00::1", "2001:4860:4860::8888", "::ffff:1.1.1.1", "64:ff9b::101:101", "::1.1.1.1"]
GLOBAL += ["2002:101:101::1"]

_TABLE = [
    *((text, (LOOPBACK, NAMED)) for text in LOOPBACK_ONLY),
    *((text, (NAMED,)) for text in LOOPBACK_INSIDE),
    *((text, ()) for texts in NEVER.values() for text in texts),
    *((text, (ROUTE, NAMED)) for texts in PRIVATE.values() for text in texts),
    *((text, (ROUTE, NAMED, PUBLIC)) for text in GLOBAL),
]


@pytest.mark.parametrize("scope", [LOOPBACK, ROUTE, NAMED, PUBLIC])
def test_addresses_of_each_scope(scope: str) -> None:
    assert [text for text, scopes in _TABLE if permitted(text, scope) != (scope in scopes)] == []


@pytest.mark.parametrize(
    ("host", "port", "scope", "address", "flag"),
    [
        ("a.example", 443, PUBLIC, "10.0.0.1", "a.example"),
        ("a.example", 8443, PUBLIC, "10.0.0.1", "a.example:8443"),
        ("fd12::1", 443, PUBLIC, "fd12::1", "[fd12::1]"),
        ("fd12::1", 80, PUBLIC, "fd12::1", "[fd12::1]:80"),
        ("a.example", 443, PUBLIC, "127.0.0.1", ""),
        ("a.example", 443, PUBLIC, "::ffff:127.0.0.1", ""),
        ("a.example", 443, PUBLIC, "169.254.169.254", ""),
        ("a.example", 443, PUBLIC, "fe80::1", ""),
        ("a.example", 443, NAMED, "169.254.169.254", ""),
        ("a.example", 443, ROUTE, "127.0.0.1", ""),
    ],
)
def test_a_refusal_names_the_flag_where_it_would_help(
    host: str, port: int, scope: str, address: str, flag: str
) -> None:
    assert not permitted(address, scope)
    refusal = address_denied(host, port, scope, [address])
    assert refusal.code == "address_denied"
    _, _, said = str(refusal).partition(" The operator can grant it with ")
    assert said == (f"--allow-domain {flag}" if flag else "")


@given(ip_addresses())
def test_what_is_public_is_permitted_to_the_operator_too_and_is_never_a_disguise(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    text = str(address)
    if permitted(text, PUBLIC):
        assert permitted(text, ROUTE)
    if permitted(text, ROUTE):
        assert permitted(text, NAMED)
    if isinstance(address, ipaddress.IPv4Address):
        for disguise in (f"::ffff:{text}", str(ipaddress.IPv6Address((0x64FF9B << 96) | int(address)))):
            for scope in (ROUTE, NAMED, PUBLIC):
                assert permitted(disguise, scope) == permitted(text, scope)


def test_families_take_turns() -> None:
    def order(*texts: str) -> list[str]:
        loop = Loop()
        answers: list[list[Address] | NonoError] = []
        pins = Pins(loop, lambda host, port: list(texts))

        def collect(answer: list[Address] | NonoError) -> None:
            answers.append(answer)
            loop.stop()

        pins.resolve("a.example", 443, PUBLIC, collect)
        loop.run()
        loop.close()
        assert isinstance(answers[0], list)
        return [address.host for address in answers[0]]

    assert order("2600::1", "2600::2", "2600::3", "1.1.1.1", "1.1.1.2") == [
        "2600::1", "1.1.1.1", "2600::2", "1.1.1.2", "2600::3",
    ]  # fmt: skip
    assert order("1.1.1.1", "1.1.1.2", "10.0.0.1", "2600::1") == ["1.1.1.1", "2600::1", "1.1.1.2"]
    assert len(order(*(f"1.1.1.{number}" for number in range(1, 200)))) == MAX_ADDRESSES


@pytest.mark.parametrize("scope", [ROUTE, NAMED, PUBLIC])
def test_a_name_that_rebinds_is_checked_anew_when_its_pin_has_expired(scope: str) -> None:
    texts = ["1.1.1.1"]
    looked_up = 0

    def lookup(host: str, port: int) -> list[str]:
        nonlocal looked_up
        looked_up += 1
        return list(texts)

    loop = Loop()
    pins = Pins(loop, lookup)

    def resolve() -> list[str] | int:
        answers: list[list[Address] | NonoError] = []

        def collect(answer: list[Address] | NonoError) -> None:
            answers.append(answer)
            loop.stop()

        pins.resolve("rebinds.example", 443, scope, collect)
        if not answers:
            loop.run()
        answer = answers[0]
        if isinstance(answer, Refusal):
            return answer.status
        assert isinstance(answer, list)
        return [address.host for address in answer]

    def expire() -> None:
        pins._pins = {key: (loop.now - 1, addresses) for key, (_, addresses) in pins._pins.items()}

    assert resolve() == ["1.1.1.1"]
    texts[:] = ["10.0.0.1"]
    assert resolve() == ["1.1.1.1"]  # pinned
    assert looked_up == 1
    expire()
    assert resolve() == (403 if scope == PUBLIC else ["10.0.0.1"])
    texts[:] = ["169.254.169.254"]
    expire()
    assert resolve() == 403
    assert resolve() == 403  # a refusal is not pinned
    texts[:] = ["127.0.0.1", "1.1.1.1"]
    assert resolve() == (["127.0.0.1", "1.1.1.1"] if scope == NAMED else ["1.1.1.1"])
    loop.close()


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


class SlowNames:
    """A resolver that says which names it was asked for, and answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.changed = threading.Condition()
        self.gate = threading.Event()

    def lookup(self, host: str, port: int) -> list[str]:
        with self.changed:
            self.asked.append(host)
            self.changed.notify_all()
        if not host.startswith("fast"):
            assert self.gate.wait(TIMEOUT_S)
        return ["1.1.1.1"]

    def wait(self, count: int) -> list[str]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.asked) >= count, TIMEOUT_S), self.asked
            return list(self.asked)


@pytest.mark.parametrize("scope", [ROUTE, NAMED])
def test_slow_names_of_the_agents_choice_do_not_hold_up_the_operators(scope: str) -> None:
    loop, names = Loop(), SlowNames()
    pins = Pins(loop, names.lookup)
    answers: list[list[Address] | NonoError] = []

    def collect(answer: list[Address] | NonoError) -> None:
        answers.append(answer)
        loop.stop()

    for number in range(100):
        pins.resolve(f"{number}.example", 443, PUBLIC, lambda answer: None)
    for number in range(2):  # one after another: both on what is left to them
        pins.resolve(f"fast{number}.example", 443, scope, collect)
        loop.run()
        assert isinstance(answers[number], list)
    assert len(names.asked) == THREADS  # the two among them
    names.gate.set()
    loop.close()


def test_the_operators_names_go_first() -> None:
    loop, names = Loop(), SlowNames()
    pins = Pins(loop, names.lookup)
    left = 2 * THREADS + 3

    def count(answer: list[Address] | NonoError) -> None:
        nonlocal left
        left -= 1
        if not left:
            loop.stop()

    for number in range(THREADS):
        pins.resolve(f"begun{number}.example", 443, ROUTE, count)
    names.wait(THREADS)
    for number in range(THREADS):
        pins.resolve(f"agent{number}.example", 443, PUBLIC, count)
    for number in range(3):
        pins.resolve(f"route{number}.example", 443, ROUTE, count)
    names.gate.set()
    loop.run()
    loop.close()
    assert {name[:5] for name in names.asked[THREADS : THREADS + 3]} == {"route"}


def test_names_that_wait_are_bounded_and_the_operators_are_not_refused_for_the_agents() -> None:
    loop, names = Loop(), SlowNames()
    pins = Pins(loop, names.lookup)
    answers: list[list[Address] | NonoError] = []
    for number in range(MAX_QUEUED + THREADS - 2):
        pins.resolve(f"{number}.example", 443, PUBLIC, answers.append)
    assert not answers
    for number in range(2):
        pins.resolve(f"{number}.example", 443, PUBLIC, answers.append)  # waits with those who asked before
        pins.resolve(f"more{number}.example", 443, PUBLIC, answers.append)
    assert [(a.status, a.code) for a in answers if isinstance(a, UpstreamError)] == 2 * [(503, "dns")]
    for number in range(THREADS):
        pins.resolve(f"{number}.example", 443, ROUTE, answers.append)
    assert len(answers) == 2
    assert sum(map(len, pins._queues.values())) == MAX_QUEUED + THREADS - 2
    names.gate.set()
    loop.close()


def test_a_look_up_that_nobody_waits_for_any_more_never_begins() -> None:
    loop, names = Loop(), SlowNames()
    pins = Pins(loop, names.lookup)
    answers: list[list[Address] | NonoError] = []

    def left(answer: list[Address] | NonoError) -> None:
        raise AssertionError

    def collect(answer: list[Address] | NonoError) -> None:
        answers.append(answer)
        if len(answers) == 2:
            loop.stop()

    for number in range(100):
        pins.resolve(f"{number}.example", 443, PUBLIC, left)
    pins.resolve("99.example", 443, PUBLIC, collect)
    for number in range(100):
        pins.withdraw(f"{number}.example", 443, PUBLIC, left)
        pins.withdraw(f"{number}.example", 443, PUBLIC, left)  # once more does nothing
    begun = THREADS - 2
    assert sorted(pins._waiting) == sorted((f"{number}.example", 443, PUBLIC) for number in (*range(begun), 99))
    pins.resolve("0.example", 443, PUBLIC, collect)  # joins the look-up that is under way
    names.gate.set()
    loop.run()
    assert all(isinstance(answer, list) for answer in answers)
    assert len(names.asked) == len(set(names.asked)) == begun + 1
    loop.close()
