"""The proxy beside its peers: ./ci/bench proxy

No proxy, nginx, the Rust proxy from PyPI, mitmproxy (requests per second only) and ours stand side by side, before the
same upstreams, and are measured in turn, round by round, so that whatever else the machine does falls on all of them.
Everything shares two cores, whatever the machine has, as the scheduler places it: that is what users get, and the
targets were found that way. A latency depends on whether two processes meet on one core, so latencies are taken often.
Some measurements need a process without a past (its first request, its memory); for those every peer is started anew
in each of their rounds.

What is measured, and what is demanded: bench/_targets.py. How: bench/_load.py. Against whom: bench/_peers.py. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from bench import _load, _peers, _plot, _report, _targets
from bench._peers import MITMPROXY, NGINX, NONE, NONO, RUST, Missing, Peer, Stage

RESULTS = Path(__file__).with_name("proxy.json")
PLOT = Path(__file__).with_name("proxy.svg")
PEERS = (NONE, NGINX, RUST, MITMPROXY, NONO)
CORES = 2
BUSY_CORES = 0.2  # of others, above which a run is worth little


class Size(NamedTuple):
    """How much is asked of each peer in one round."""

    seconds: int = 2  # of wrk
    requests: int = 400
    openings: int = 15
    events: int = 500
    streams: int = 2000
    beside: int = 300  # requests beside the streams
    download: int = 64_000_000
    upload: int = 16_000_000  # the Rust peer refuses more than 16 MiB
    long: int = 1_000_000_000


SMOKE = Size(1, 30, 3, 20, 50, 30, 4_000_000, 4_000_000, 20_000_000)


class Trial(NamedTuple):
    """One measurement. measure: takes one sample. share: of the rounds, in which it is taken. fresh: a new process."""

    name: str
    measure: Callable[[Peer], dict[str, float]]
    peers: Sequence[str]
    share: float = 1.0
    fresh: bool = False


def trials(stage: Stage, size: Size) -> list[Trial]:
    """Return all measurements, in the order in which they are made."""

    def rate(connections: int, unique: bool) -> Callable[[Peer], dict[str, float]]:
        return lambda peer: _load.throughput(peer, stage.directory, connections, size.seconds, unique=unique)

    def streams_are_gone() -> None:
        end = time.monotonic() + 30
        while (left := _load.threads(stage.events_pid)) > 64:  # idle connections of pools are left
            if time.monotonic() > end:
                sys.exit(f"{left} streams are still open although their clients have left")
            time.sleep(0.01)

    proxies = [name for name in PEERS if name not in (NONE, MITMPROXY)]
    most = [NONE, *proxies]
    return [
        Trial("rate8", rate(8, False), PEERS),
        Trial("unique8", rate(8, True), PEERS),
        Trial("rate64", rate(64, False), PEERS),
        Trial("latency", lambda peer: _load.latency(peer, size.requests), most, 4.0),
        Trial("streams", lambda peer: _load.streams(peer, size.openings, size.events), most, 4.0),
        Trial("download", lambda peer: _load.download(peer, size.download), most, 10.0),
        Trial("upload", lambda peer: _load.upload(peer, size.upload), most, 10.0),
        Trial("cold", _load.cold, proxies, 2.0, fresh=True),
        Trial("peaks", lambda peer: _load.peaks(peer, size.long), proxies, 0.4, fresh=True),
        Trial(
            "many",
            lambda peer: _load.many_streams(peer, size.streams, size.beside, streams_are_gone),
            proxies,
            0.4,
            fresh=True,
        ),
    ]


def main() -> None:
    """Measure, print the table, and write it to bench/ unless only a part or smoke is asked for."""
    arguments = _parse()
    signal.signal(signal.SIGTERM, _end)  # so that what was started is ended
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed. On Debian: apt-get install wrk")
    _load.allow_many_files()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    size = SMOKE if arguments.smoke else Size()
    with ExitStack() as undo:
        directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="nono-bench-")))
        busy = _busy_cores()
        if busy > BUSY_CORES:
            print(f"other programs keep {busy:.1f} cores busy: this run's figures mean little", file=sys.stderr)
        try:
            stage = undo.enter_context(_peers.stage(directory, [size.download, size.long]))
        except Missing as missing:
            sys.exit(str(missing))
        chosen = [trial for trial in trials(stage, size) if not arguments.only or trial.name in arguments.only]
        peers = arguments.peer or PEERS
        samples, versions = measure(stage, chosen, 1 if arguments.smoke else arguments.rounds, peers)
    about = _about(versions, busy, arguments)
    judged = _targets.verdicts(samples, peers)
    text = table(samples, judged)
    print(f"{_said(about)}\n\n{text}")
    if not (arguments.smoke or arguments.only or arguments.peer):
        _write(about, samples, text)
    missed = [verdict for verdict in judged if not verdict.met]
    for verdict in missed:
        known = " (known: bench/README.md says why)" if verdict.tolerated else ""
        print(f"missed: {_describe(verdict)}{known}")
    print(f"{len(judged) - len(missed)} of {len(judged)} targets met")
    if arguments.guard and not all(verdict.tolerated for verdict in missed):
        sys.exit(1)


def measure(
    stage: Stage, chosen: Sequence[Trial], rounds: int, names: Sequence[str]
) -> tuple[dict[str, dict[str, list[float]]], dict[str, str]]:
    """Run the trials, peers in turn; return the samples and each peer's version."""
    samples: dict[str, dict[str, list[float]]] = {}
    versions: dict[str, str] = {}
    here = [name for name in names if _is_here(name, stage, versions)]
    with ExitStack() as undo:
        lasting: dict[str, Peer] = {}
        for trial in chosen:
            order = [name for name in trial.peers if name in here]
            if not trial.fresh:
                lasting |= {n: undo.enter_context(_peers.start(n, stage)) for n in order if n not in lasting}
            for number in range(max(1, round(rounds * trial.share))):
                print(f"\r{trial.name} {number + 1} ", end="", file=sys.stderr, flush=True)
                # there and back: no peer is always the one that follows the busiest
                for name in order if number % 2 else reversed(order):
                    if trial.fresh:
                        with _peers.start(name, stage) as peer:
                            sample = trial.measure(peer)
                    else:
                        sample = trial.measure(lasting[name])
                    for field, value in sample.items():
                        samples.setdefault(f"{trial.name}.{field}", {}).setdefault(name, []).append(value)
        print("\r", end="", file=sys.stderr, flush=True)
    return samples, versions


def _is_here(name: str, stage: Stage, versions: dict[str, str]) -> bool:
    try:
        with _peers.start(name, stage) as peer:
            versions[name] = peer.version
    except Missing as missing:
        print(f"skipping {name}: {missing}", file=sys.stderr)
        return False
    return True


def table(samples: _targets.Samples, verdicts: Sequence[_targets.Verdict]) -> str:
    """Return the figures as a Markdown table."""
    names = [name for name in PEERS if any(name in taken for taken in samples.values())]
    rows = [
        f"| | {' | '.join(names)} | nono : Rust | nono : nginx |",
        "|---|" + "---:|" * (len(names) + 2),
    ]
    judged = {(verdict.metric.label, verdict.peer): verdict for verdict in verdicts}
    for metric in _targets.METRICS:
        if metric.name not in samples:
            continue
        figures = [_figure(_targets.median(samples, metric, name)) for name in names]
        ratios = []
        for peer in (RUST, NGINX):
            verdict = judged.get((metric.label, peer))
            against = verdict.ratio if verdict else _targets.ratio(samples, metric, peer)
            shown = "" if against is None else f"{against:.2f}"
            if verdict:
                sign = "≥" if metric.more_is_better else "≤"
                shown = f"{shown or '?'} ({sign} {verdict.target:g}){'' if verdict.met else ' **missed**'}"
            ratios.append(shown)
        rows.append(f"| {metric.label}, {metric.unit} | {' | '.join([*figures, *ratios])} |")
    return "\n".join(rows) + "\n"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _describe(verdict: _targets.Verdict) -> str:
    metric, sign = verdict.metric, "≥" if verdict.metric.more_is_better else "≤"
    against = "could not be measured" if verdict.ratio is None else f"{verdict.ratio:.2f}"
    return f"{metric.label}: {against} of {verdict.peer}'s, wanted {sign} {verdict.target:g}"


def _about(versions: dict[str, str], busy: float, arguments: argparse.Namespace) -> dict[str, Any]:
    processor = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ":").partition(":")[2]
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    return {
        "machine": f"{processor.strip() or platform.machine()}, {CORES} of {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "wrk": (wrk.stdout + wrk.stderr).partition("[")[0].strip().removeprefix("wrk "),
        "h11": version("h11"),
        "peers": {name: versions[name] for name in PEERS if versions.get(name)},
        "nono": _revision(),
        "rounds": 1 if arguments.smoke else arguments.rounds,
        "busy_cores_before": round(busy, 2),
    }


def _said(about: dict[str, Any]) -> str:
    peers = ", ".join(f"{name} {text.removeprefix('nono-py ')}" for name, text in about["peers"].items())
    peers = peers.replace("Rust ", "Rust: nono-py ")
    return (
        f"{about['machine']}, {about['kernel']}, Python {about['python']}, {about['openssl']}; {peers}; "
        f"wrk {about['wrk']}. Medians of {about['rounds']} rounds; other programs kept {about['busy_cores_before']} "
        "cores busy when it began."
    )


def _revision() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return f"{version('nono')} {done.stdout.strip()}".strip()


def _busy_cores() -> float:
    """Return how many cores' worth of time others use, over one second: a run on a busy machine means little."""

    def used() -> tuple[float, float]:
        ticks = [int(text) for text in _lines("/proc/stat")[0].split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # 3 is idle, 4 waits for the disk

    before, all_before = used()
    time.sleep(1)
    after, all_after = used()
    return (after - before) / max(1.0, all_after - all_before) * (os.cpu_count() or 1)


def _write(about: dict[str, Any], samples: _targets.Samples, text: str) -> None:
    rounded = {
        metric: {peer: [float(f"{value:.5g}") for value in taken] for peer, taken in by_peer.items()}
        for metric, by_peer in samples.items()
    }
    rows = ",\n".join(f"  {json.dumps(metric)}: {json.dumps(by_peer)}" for metric, by_peer in rounded.items())
    head = json.dumps(about, ensure_ascii=False, indent=1)
    RESULTS.write_text(f'{{"about": {head},\n"samples": {{\n{rows}\n}}}}\n', encoding="utf-8")
    PLOT.write_text(_plot.draw(samples, _said(about)), encoding="utf-8")
    _report.write("proxy", f"{_said(about)}\n\n{text}")


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ci/bench proxy", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="of each measurement (default: 7)")
    parser.add_argument("--smoke", action="store_true", help="little of everything, to see that it works; no file")
    parser.add_argument("--guard", action="store_true", help="exit with 1 where more is missed than is known")
    parser.add_argument("--only", action="append", metavar="TRIAL", help="only this measurement (repeatable); no file")
    parser.add_argument("--peer", action="append", choices=PEERS, help="only this peer (repeatable); no file")
    return parser.parse_args()


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
