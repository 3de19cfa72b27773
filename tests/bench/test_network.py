"""The figures of bench/network.py: who is compared with whom, and what is asked of the allowlist."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench import _peers, _report, network
from bench._peers import COMPLETIONS, NONE, NONO, RUST, Peer
from nono.errors import Refusal
from nono.policy.allowlist import Allowlist

SAMPLES = {
    "rate": {NONE: [900.0, 900.0, 900.0], RUST: [600.0, 300.0, 500.0], NONO: [660.0, 330.0, 250.0]},
    "cpu": {RUST: [30.0, 30.0, 30.0], NONO: [12.0, 12.0, 18.0]},
    "alone": {NONO: [1.0]},
}


def test_a_ratio_is_taken_within_each_round_and_judged_on_our_line_only() -> None:
    figures = network.compared(SAMPLES, "rate", "64 MB", "MB/s", NONO, RUST, 1.0, more_is_better=True)
    assert [(figure.name, figure.value) for figure in figures] == [
        ("64 MB, no proxy", 900.0),
        ("64 MB, Rust", 500.0),
        ("64 MB, nono", 330.0),
    ]
    assert [figure.ratio for figure in figures] == [None, 1.0, pytest.approx(1.1)]
    assert [figure.target for figure in figures] == [None, None, 1.0]
    assert all(figure.met for figure in figures)


def test_less_is_better_where_nothing_else_is_said() -> None:
    ours = network.compared(SAMPLES, "cpu", "CPU", "ms", NONO, RUST, 0.3)[-1]
    assert (ours.ratio, ours.met) == (0.4, False)
    assert "0.40 × | ≤ 0.3 × **missed** |" in _report.table([ours])


def test_without_the_peer_there_is_a_figure_and_no_verdict() -> None:
    assert network.compared(SAMPLES, "alone", "x", "ms", NONO, RUST, 1.0) == [_report.Figure("x, nono", 1.0, "ms")]


def test_rounds_go_there_and_back_after_one_that_is_not_counted() -> None:
    order: list[str] = []

    def measure(name: str) -> Callable[[], dict[str, float]]:
        def sample() -> dict[str, float]:
            order.append(name)
            return {"n": float(len(order))}

        return sample

    samples = network.rounds(2, {"a": measure("a"), "b": measure("b")})
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert samples == {"n": {"a": [3.0, 6.0], "b": [4.0, 5.0]}}


@pytest.mark.parametrize("count", [10, 1000])
def test_every_second_name_is_granted(count: int) -> None:
    judge = Allowlist(network.suffixes(count))
    asked = network.names(count, 40)
    assert len(set(asked)) == len(asked) == 40
    for host in asked[::2]:
        judge(host, 443, tunnel=True)
    for host in asked[1::2]:
        with pytest.raises(Refusal):
            judge(host, 443, tunnel=True)


def test_a_client_in_a_tunnel_names_the_upstream() -> None:
    proxy = Peer(NONO, "token", {COMPLETIONS: 61000}, {COMPLETIONS: "/openai/"}, (), None, 0.0, "")
    assert proxy.authority(COMPLETIONS) == "127.0.0.1:61000"
    tunnel = _peers.Tunnel("localhost:4430", b"CONNECT localhost:4430 HTTP/1.1\r\n\r\n")
    assert proxy._replace(tunnel=tunnel).authority(COMPLETIONS) == "localhost:4430"
