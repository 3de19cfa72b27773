"""The figures of bench/walls.py: what is run in which order, and what a ratio is."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from bench import walls


def test_rounds_go_to_and_fro_and_the_first_is_not_counted() -> None:
    order: list[str] = []

    def noted(name: str) -> Callable[[], list[float]]:
        def measure() -> list[float]:
            order.append(name)
            return [float(len(order)), 0.5]

        return measure

    taken = walls.in_turn(2, {"a": noted("a"), "b": noted("b")})
    assert "".join(order) == "baabba"
    assert taken == {"a": [[3.0, 6.0], [0.5, 0.5]], "b": [[4.0, 5.0], [0.5, 0.5]]}


def test_a_ratio_is_taken_within_each_round() -> None:
    figure = walls.beside("slow rounds, too", "ms", [2.0, 30.0, 2.0], [1.0, 10.0, 1.0], 2.0, scale=1e-3)
    assert (figure.ratio, figure.value) == (pytest.approx(2.0), pytest.approx(0.002))
    assert figure.met
    assert not walls.beside("slower", "ms", [2.1], [1.0], 2.0).met


def test_a_reported_miss_is_tolerated_up_to_its_bound() -> None:
    (name, bound), *_ = walls.REPORTED.items()
    for ratio, tolerated in ((1.0, True), (bound, True), (bound * 1.01, False)):
        assert walls.is_tolerable(walls.beside(name, "ms", [ratio], [1.0], walls.RULES)) is tolerated
    assert not walls.is_tolerable(walls.beside("another", "ms", [bound], [1.0], walls.RULES))


def test_a_connect_to_a_full_backlog_waits() -> None:
    with walls.full_backlog() as port, socket.socket() as client:
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.connect(("127.0.0.1", port))
