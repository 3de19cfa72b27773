"""The event loop: readiness, order, timers, wake-ups."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from nono.loop import READ, WRITE, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def test_calls_back_when_ready(loop: Loop) -> None:
    a, b = socket.socketpair()
    seen: list[int] = []
    loop.register(a.fileno(), READ | WRITE, lambda events: (seen.append(events), loop.stop())[1])
    loop.run()
    assert seen == [WRITE]
    b.send(b"x")
    loop.modify(a.fileno(), READ)
    loop.run()
    assert seen == [WRITE, READ]
    loop.unregister(a.fileno())
    a.close()
    b.close()


def test_descriptor_without_events_keeps_its_callback(loop: Loop) -> None:
    a, b = socket.socketpair()
    seen: list[int] = []
    loop.register(a.fileno(), 0, lambda events: (seen.append(events), loop.stop())[1])
    b.send(b"x")
    loop.call_later(0.01, loop.stop)
    loop.run()
    assert seen == []
    loop.modify(a.fileno(), READ)
    loop.run()
    loop.modify(a.fileno(), 0)
    loop.call_later(0.01, loop.stop)
    loop.run()
    assert seen == [READ]
    loop.unregister(a.fileno())
    a.close()
    b.close()


def test_rebinding_keeps_the_events(loop: Loop) -> None:
    a, b = socket.socketpair()
    seen: list[str] = []
    loop.register(a.fileno(), READ, lambda events: seen.append("old"))
    loop.rebind(a.fileno(), READ, lambda events: (seen.append("new"), loop.stop())[1])
    b.send(b"x")
    loop.run()
    loop.modify(a.fileno(), 0)
    loop.rebind(a.fileno(), READ, lambda events: (seen.append("newer"), loop.stop())[1])
    loop.modify(a.fileno(), READ)
    loop.run()
    assert seen == ["new", "newer"]
    loop.unregister(a.fileno())
    a.close()
    b.close()


def test_timers_fire_in_order_and_cancelled_ones_do_not(loop: Loop) -> None:
    fired: list[str] = []
    loop.call_later(0.02, lambda: (fired.append("late"), loop.stop())[1])
    loop.call_later(0.001, lambda: fired.append("early"))
    loop.call_later(0.001, lambda: fired.append("same time, after"))
    timer = loop.call_later(0.002, lambda: fired.append("never"))
    timer.cancel()
    timer.cancel()
    loop.run()
    assert fired == ["early", "same time, after", "late"]


def test_call_soon_runs_once_in_this_turn(loop: Loop) -> None:
    seen: list[int] = []

    def again() -> None:
        seen.append(1)
        if len(seen) < 3:
            loop.call_soon(again)
        else:
            loop.stop()

    loop.call_soon(again)
    loop.run()
    assert seen == [1, 1, 1]


def test_threads_wake_the_loop(loop: Loop) -> None:
    seen: list[int] = []

    def work() -> None:
        for index in range(5000):
            loop.call_from_thread(lambda index=index: seen.append(index))  # type: ignore[misc]
        loop.call_from_thread(loop.stop)

    threading.Thread(target=work).start()
    loop.run()
    assert seen == list(range(5000))


def test_late_threads_are_harmless() -> None:
    loop = Loop()
    loop.close()
    loop.call_from_thread(loop.stop)


def test_a_callback_may_unregister_others(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    closed: list[int] = []
    seen: list[int] = []

    def ready(index: int) -> None:
        if index in closed:
            return  # as the loop asks: whoever closes ignores what comes after
        seen.append(index)
        other = 1 - index
        loop.unregister(pairs[other][0].fileno())
        pairs[other][0].close()
        closed.append(other)
        loop.call_soon(loop.stop)

    for index, (a, b) in enumerate(pairs):
        loop.register(a.fileno(), READ, lambda events, index=index: ready(index))  # type: ignore[misc]
        b.send(b"x")
    loop.run()
    assert len(seen) == 1


def test_close_releases_its_descriptors() -> None:
    before = len(os.listdir("/dev/fd"))
    loop = Loop()
    loop.close()
    assert len(os.listdir("/dev/fd")) == before
