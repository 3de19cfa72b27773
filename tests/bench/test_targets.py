"""The figures' arithmetic: what meets a target, and what is drawn."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench import _plot, _targets, proxy
from bench._peers import NGINX, NONE, NONO, RUST

SAMPLES = {
    "rate8.rate": {NONE: [70e3, 70e3], NGINX: [40e3, 20e3], RUST: [6e3, 3e3], NONO: [24e3, 12e3]},
    "latency.p50": {NONE: [40.0, 80.0], NGINX: [100.0, 200.0], RUST: [300.0, 600.0], NONO: [140.0, 280.0]},
    "peaks.up": {NGINX: [20.0], NONO: [31.0]},
}


def metric(label: str) -> _targets.Metric:
    return next(metric for metric in _targets.METRICS if metric.label.startswith(label))


def test_a_ratio_is_taken_within_each_round() -> None:
    slow_round = {"rate8.rate": {NONO: [24e3, 12e3, 1e3], NGINX: [40e3, 20e3, 2e3]}}
    assert _targets.ratio(slow_round, metric("requests/s, 8"), NGINX) == pytest.approx(0.6)


def test_what_a_proxy_adds_is_without_what_it_takes_anyway() -> None:
    assert _targets.values(SAMPLES, metric("added"), NONO) == [100.0, 200.0]
    assert _targets.ratio(SAMPLES, metric("added"), RUST) == pytest.approx(100 / 260)


def test_more_or_less_is_better_as_the_table_says() -> None:
    found = {(v.metric.label, v.peer): v for v in _targets.verdicts(SAMPLES, (NGINX, RUST, NONO))}
    assert found[metric("requests/s, 8").label, RUST].met
    assert found[metric("latency, 1 connection, p50").label, NGINX].met
    assert not found[metric("peak memory, upload").label, NGINX].met


def test_a_reported_miss_is_missed_and_tolerated_only_up_to_its_bound() -> None:
    (name, peer), bound = next(iter(_targets.REPORTED.items()))
    for ratio, tolerated in ((bound, True), (bound * 1.01, False)):
        found = _targets.verdicts({name: {NONO: [ratio], peer: [1.0]}}, (NONO, peer))
        assert [(verdict.met, verdict.tolerated) for verdict in found] == [(False, tolerated)]
    unreported = _targets.verdicts({"peaks.up": SAMPLES["peaks.up"]}, (NGINX, NONO))
    assert [(verdict.met, verdict.tolerated) for verdict in unreported] == [(False, False)]


def test_what_could_not_be_measured_is_not_met() -> None:
    without_rust = {"rate8.rate": {NONO: [1.0], NGINX: [1.0]}}
    assert [v.met for v in _targets.verdicts(without_rust, proxy.PEERS) if v.peer == RUST] == [False]
    assert _targets.verdicts(without_rust, (NONO, NGINX))[0].peer == NGINX


def test_every_target_is_of_a_metric_that_some_trial_takes() -> None:
    names = [metric.name for metric in _targets.METRICS if not metric.added]
    assert len(set(names)) == len(names)
    assert all(metric.targets.keys() <= {RUST, NGINX} for metric in _targets.METRICS)


def test_the_table_marks_what_is_missed() -> None:
    text = proxy.table(SAMPLES, _targets.verdicts(SAMPLES, proxy.PEERS))
    assert "| 20.0 |  | 31.0 |  | 1.55 (≤ 1.5) **missed** |" in text
    assert "0.60 (≥ 0.5) |" in text


def test_the_plot_is_well_formed_and_names_everybody() -> None:
    drawn = _plot.draw(SAMPLES, 'a "machine" & <more>')
    texts = {element.text for element in ElementTree.fromstring(drawn).iter() if element.tag.endswith("text")}
    assert {NONE, NGINX, RUST, NONO, "18,000"} <= texts
