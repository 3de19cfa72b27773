"""What `bench/proxy.py` measures, and what is demanded of it: one table.

A target is a ratio, ours by the peer's, of the same round. Where more is better it must be reached, otherwise it must
not be exceeded. "Added" is what is left when the same without a proxy is taken off both.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from bench._peers import NGINX, NONE, NONO, RUST

# metric: peer: one value a round, None where the peer could not be measured
Samples = Mapping[str, Mapping[str, Sequence[float]]]


class Metric(NamedTuple):
    """One row. name: TRIAL.FIELD, what the trial's sample calls it. targets: by peer."""

    name: str
    label: str
    unit: str
    targets: Mapping[str, float] = {}
    more_is_better: bool = False
    added: bool = False


METRICS = (
    Metric("rate8.rate", "requests/s, 8 connections, answers' heads unique", "/s", {RUST: 3.0, NGINX: 0.50}, True),
    Metric("rate8.cpu", "CPU for each of them", "µs"),
    Metric("unique8.rate", "requests/s, 8 connections, all heads unique", "/s", {RUST: 2.0, NGINX: 0.38}, True),
    Metric("unique8.cpu", "CPU for each of them", "µs"),
    Metric("rate64.rate", "requests/s, 64 connections, answers' heads unique", "/s", {RUST: 3.5, NGINX: 0.45}, True),
    Metric("latency.p50", "latency, 1 connection, p50", "µs", {RUST: 0.6, NGINX: 1.6}),
    Metric("latency.p99", "latency, 1 connection, p99", "µs", {RUST: 0.65, NGINX: 1.7}),
    Metric("latency.p50", "added to no proxy, p50", "µs", {RUST: 0.55, NGINX: 2.0}, added=True),
    Metric("streams.first", "stream (SSE): first event", "µs", {RUST: 0.7, NGINX: 1.8}),
    Metric("streams.p50", "stream: each event, p50", "µs", {RUST: 1.05, NGINX: 1.1}),
    Metric("streams.p99", "stream: each event, p99", "µs", {RUST: 1.2, NGINX: 1.4}),
    Metric("many.cpu", "CPU to open one stream", "µs", {RUST: 1.0}),
    Metric("cold.first", "first request of a cold process", "ms", {RUST: 1.0}),
    Metric("cold.since_exec", "exec to the first answer", "ms"),
    Metric("download.rate", "download of 64 MB", "MB/s", {RUST: 1.1, NGINX: 1.3}, True),
    Metric("upload.rate", "upload of 16 MB", "MB/s", {RUST: 1.5, NGINX: 1.1}, True),
    Metric("peaks.down", "peak memory, download of 1 GB", "MiB", {NGINX: 1.5}),
    Metric("peaks.up", "peak memory, upload of 1 GB", "MiB", {NGINX: 1.5}),
    Metric("many.memory", "memory of one idle stream of 2,000", "KiB", {RUST: 0.6}),
    Metric("many.p50", "latency beside 2,000 idle streams, p50", "µs", {RUST: 0.6}),
    Metric("many.idle", "memory while idle", "MiB", {RUST: 0.65}),
)


# Targets that are out of reach, which bench/README.md explains with their profile ("Missed, and why"). They stay in the
# table as missed; `--guard` holds them to what is reached.
REPORTED = {("streams.p50", RUST): 1.25, ("streams.p50", NGINX): 1.2, ("many.cpu", RUST): 1.9}


class Verdict(NamedTuple):
    """A target and what was measured; ratio: None where it could not be."""

    metric: Metric
    peer: str
    target: float
    ratio: float | None

    @property
    def met(self) -> bool:
        return self._within(self.target)

    @property
    def tolerated(self) -> bool:
        """Whether it is met, or missed by no more than is reported."""
        return self.met or self._within(REPORTED.get((self.metric.name, self.peer), self.target))

    def _within(self, bound: float) -> bool:
        if self.ratio is None:
            return False
        return self.ratio >= bound if self.metric.more_is_better else self.ratio <= bound


def values(samples: Samples, metric: Metric, peer: str) -> list[float]:
    """Return the metric's value in each round; empty where the peer was not measured."""
    taken = samples.get(metric.name, {})
    if metric.added:
        if peer == NONE:
            return []
        return [value - base for value, base in zip(taken.get(peer, ()), taken.get(NONE, ()), strict=False)]
    return list(taken.get(peer, ()))


def median(samples: Samples, metric: Metric, peer: str) -> float | None:
    """Return the median over the rounds."""
    found = values(samples, metric, peer)
    return statistics.median(found) if found else None


def ratio(samples: Samples, metric: Metric, peer: str) -> float | None:
    """Return the median of the rounds' ratios, ours by the peer's: a slow round is slow for both."""
    pairs = zip(values(samples, metric, NONO), values(samples, metric, peer), strict=False)
    ratios = [ours / theirs for ours, theirs in pairs if theirs]
    return statistics.median(ratios) if ratios else None


def verdicts(samples: Samples, peers: Collection[str]) -> list[Verdict]:
    """Judge every target of a metric that was measured at all, against those of `peers` that were asked for."""
    if NONO not in peers:
        return []
    return [
        Verdict(metric, peer, target, ratio(samples, metric, peer))
        for metric in METRICS
        if metric.name in samples
        for peer, target in metric.targets.items()
        if peer in peers
    ]
