"""Hosts that have no route, the allowlist, and interception: ./ci/bench network

    tunnels       64 MB through CONNECT to a TLS upstream, setting one up, and the memory of 1,000 that are open; beside
                  no proxy, and the Rust proxy from PyPI
    allowlist     100,000 suffixes beside 10: a verdict, and what it takes to load them
    interception  a request through CONNECT whose TLS the proxy ends, beside the same request on the reverse route
    audit         the proxy's CPU for a request, beside that of the same proxy when it writes no audit log

What is compared is measured in turn, in rounds, in one order and then in the reverse, on two cores, as bench/proxy.py
does it; a ratio is the median of the rounds' ratios. Every tunnel carries TLS between the client and the upstream
(nginx).
"""

from __future__ import annotations

import argparse
import base64
import gc
import os
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import _load, _peers, _report
from bench._load import Sample
from bench._peers import COMPLETIONS, NONE, NONO, RUST, SECRET, Missing, Peer, Stage, Tunnel
from bench._report import Figure, median
from nono.errors import Refusal
from nono.policy.allowlist import Allowlist

CORES = 2
SUFFIXES, FEW = 100_000, 10
# The targets: ratios to the Rust proxy's; KiB; a ratio to the short list's; ms; a ratio to the reverse route's.
RATE, CPU, SET_UP, TUNNEL_KIB, VERDICT, LOAD_MS, INTERCEPTED, AUDITED = 1.0, 0.5, 1.0, 20.0, 2.0, 200.0, 1.5, 1.05
# nono, but for its log of exchanges.
UNLOGGED = """
import sys
from nono.__main__ import main
from nono.audit.log import AuditLog
AuditLog.append = lambda *_: False
sys.argv[0] = "nono"
sys.exit(main())
"""


class Size(NamedTuple):
    """How much is asked in one round, and how many rounds of each there are for one that is asked for."""

    download: int = 64_000_000
    set_ups: int = 100
    open: int = 1000
    verdicts: int = 20_000
    requests: int = 400
    seconds: int = 2  # of load from eight connections
    share: int = 4  # of downloads, set-ups and requests, which vary most


SMOKE = Size(4_000_000, 10, 20, 500, 30, 1, 1)
Samples = dict[str, dict[str, list[float]]]  # by field, then by who was measured


def rounds(count: int, measured: Mapping[str, Callable[[], Sample]]) -> Samples:
    """Take each one's sample in turn, `count` times after one that is not counted."""
    samples: Samples = {}
    for number in range(count + 1):
        order = list(measured)
        for name in order if number % 2 else reversed(order):
            for field, value in measured[name]().items():
                if number:
                    samples.setdefault(field, {}).setdefault(name, []).append(value)
    return samples


def compared(
    samples: Samples,
    field: str,
    label: str,
    unit: str,
    ours: str,
    base: str,
    target: float | None = None,
    more_is_better: bool = False,
) -> list[Figure]:
    """Return a line for each that was measured; `base` is what the others' ratios are to, where it was."""
    taken = samples[field]
    figures = []
    for name in sorted(taken, key=(NONE, base, ours).index):
        ratio = None
        if base in taken and name != NONE:
            ratio = median([mine / other for mine, other in zip(taken[name], taken[base], strict=True)])
        wanted = target if name == ours and ratio is not None else None
        figures.append(Figure(f"{label}, {name}", median(taken[name]), unit, ratio, wanted, more_is_better))
    return figures


def tunnels(stage: Stage, size: Size, count: int) -> list[Figure]:
    """Measure CONNECT."""
    context = ssl.create_default_context(cafile=stage.made.authority)
    with ExitStack() as undo:
        flags = ["--allow-domain", f"localhost:{stage.completions_port}"]
        peers = {NONE: undo.enter_context(_peers.start(NONE, stage))}
        try:
            rust = undo.enter_context(_peers.rust_without_routes(stage))
            peers[RUST] = through(rust, stage, token=SECRET, prefix="/v1/", context=context)
        except Missing as missing:
            print(f"skipping {RUST}: {missing}", file=sys.stderr)
        nono, _ = undo.enter_context(_peers.nono_proxy(stage, {}, flags))
        peers[NONO] = through(nono, stage, token=SECRET, prefix="/v1/", context=context)
        proxies = [peer for name, peer in peers.items() if name != NONE]

        def each(measure: Callable[[Peer], Sample], of: Sequence[Peer]) -> dict[str, Callable[[], Sample]]:
            return {peer.name: partial(measure, peer) for peer in of}

        held = {peer.name: hold(peer, size.open) for peer in proxies}  # first: what was freed is not given back
        downloads = each(lambda peer: _load.download(peer, size.download), list(peers.values()))
        moved = rounds(count * size.share, downloads)
        made = rounds(count * size.share, each(lambda peer: set_up(peer, size.set_ups), proxies))
    moved["cpu"].pop(NONE, None)
    what = f"{size.download // 1_000_000} MB through a tunnel"
    return [
        *compared(moved, "rate", what, "MB/s", NONO, RUST, RATE, more_is_better=True),
        *compared(moved, "cpu", "CPU of the proxy for them", "ms", NONO, RUST, CPU),
        *compared(made, "p50", "a tunnel set up, p50", "µs", NONO, RUST, SET_UP),
        *compared(made, "cpu", "CPU of the proxy to set up and end one", "µs", NONO, RUST),
        *(
            Figure(f"memory of one of {size.open:,} open tunnels, {name}", kib, "KiB", target=target)
            for name, kib in held.items()
            for target in [TUNNEL_KIB if name == NONO else None]
        ),
    ]


def through(proxy: Peer, stage: Stage, *, token: str, prefix: str, context: ssl.SSLContext) -> Peer:
    """Return `proxy` as one that leads to the upstream of completions by CONNECT. token, prefix: of requests inside."""
    authority = f"localhost:{stage.completions_port}"
    basic = base64.b64encode(f"nono:{proxy.token}".encode()).decode()
    head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: Basic {basic}\r\n\r\n"
    tunnel = Tunnel(authority, head.encode())
    return proxy._replace(token=token, prefixes={COMPLETIONS: prefix}, tls=context, tunnel=tunnel)


def set_up(peer: Peer, count: int) -> Sample:
    """p50 of microseconds from connecting to the answer that the tunnel stands, one after the other."""
    plain = peer._replace(tls=None)
    before, times = _load.cpu_us(peer), []
    for _ in range(count):
        began = time.perf_counter()
        sock = plain.connect(COMPLETIONS)
        times.append((time.perf_counter() - began) * 1e6)
        sock.close()
        time.sleep(0.001)  # for it to be ended, which nobody waits for
    return {"p50": median(times), "cpu": (_load.cpu_us(peer) - before) / count}


def hold(peer: Peer, count: int) -> float:
    """Return the KiB of resident memory for each of `count` tunnels in which TLS stands. Once for each process."""
    sockets: list[socket.socket] = []
    try:
        for _ in range(20):  # not what the first ones cost that are made at all
            peer.connect(COMPLETIONS).close()
        before = _load.resident_kb(peer)
        sockets.extend(peer.connect(COMPLETIONS) for _ in range(count))
        return (_load.resident_kb(peer) - before) / count
    finally:
        for sock in sockets:
            sock.close()


def allowlist(size: Size, count: int) -> list[Figure]:
    """Measure the verdicts of a long list and of a short one, on names that it grants and names that it does not."""
    long, short = suffixes(SUFFIXES), suffixes(FEW)
    loads = []
    for _ in range(count):
        gc.collect()
        began = time.perf_counter()
        Allowlist(long)
        loads.append((time.perf_counter() - began) * 1000)
    lists = {f"{SUFFIXES:,}": Allowlist(long), f"{FEW}": Allowlist(short)}
    asked = {name: names(int(name.replace(",", "")), size.verdicts) for name in lists}

    def verdicts(name: str) -> Sample:
        judge = lists[name]
        began = time.perf_counter()
        for host in asked[name]:
            try:
                judge(host, 443, tunnel=True)
            except Refusal:
                pass
        return {"us": (time.perf_counter() - began) * 1e6 / len(asked[name])}

    found = rounds(count, {name: partial(verdicts, name) for name in lists})
    entries = f"{SUFFIXES:,} suffixes loaded"
    return [
        *compared(found, "us", "verdict of an allowlist, suffixes", "µs", f"{SUFFIXES:,}", f"{FEW}", VERDICT),
        Figure(entries, median(loads), "ms", target=LOAD_MS),
    ]


def suffixes(count: int) -> list[str]:
    """Return entries as an operator writes them."""
    return [f"*.host{number}.example.com" for number in range(count)]


def names(granted: int, count: int) -> list[str]:
    """Return hosts to ask for, every second of them below one of `suffixes(granted)`."""
    step = 7919  # a prime: all over the list
    below = (f"api{number}.host{number * step % granted}.example.com" for number in range(count // 2))
    return [host for number, ours in enumerate(below) for host in (ours, f"www.host{number}.example.org")]


def interception(stage: Stage, size: Size, count: int) -> list[Figure]:
    """Measure a request on a route, sent to the route's address, and sent to the upstream's own through CONNECT."""
    with _peers.nono_proxy(stage, _peers.nono_routes(stage, intercept=True)) as (reverse, environment):
        context = ssl.create_default_context(cafile=environment["SSL_CERT_FILE"])
        inside = through(reverse, stage, token=reverse.token, prefix="/v1/", context=context)
        peers = {"reverse route": reverse, "intercepted": inside}
        measured: dict[str, Callable[[], Sample]] = {
            name: partial(_load.latency, peer, size.requests) for name, peer in peers.items()
        }
        samples = rounds(count * size.share, measured)
    return compared(samples, "p50", "a request, p50", "µs", "intercepted", "reverse route", INTERCEPTED)


def audit(stage: Stage, size: Size, count: int) -> list[Figure]:
    """Measure what the audit log adds to a request."""
    routes = _peers.nono_routes(stage)
    with (
        _peers.nono_proxy(stage, routes) as (logged, _),
        _peers.nono_proxy(stage, routes, program=[sys.executable, "-c", UNLOGGED]) as (unlogged, _),
    ):
        peers = {"with its audit log": logged, "without": unlogged}
        measured: dict[str, Callable[[], Sample]] = {
            name: partial(_load.throughput, peer, stage.directory, 8, size.seconds, unique=False)
            for name, peer in peers.items()
        }
        samples = rounds(count * 2, measured)
    label = "CPU of the proxy for a request, 8 connections"
    return compared(samples, "cpu", label, "µs", "with its audit log", "without", AUDITED)


def main() -> None:
    """Measure, print the table, and write it to bench/README.md unless only a part or smoke is asked for."""
    parser = argparse.ArgumentParser(prog="ci/bench network", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of each measurement (default: 5)")
    parser.add_argument("--smoke", action="store_true", help="little of everything, to see that it works; no file")
    parser.add_argument("--guard", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument(
        "--only", choices=("tunnels", "allowlist", "interception", "audit"), help="only this part; no file"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what was started is ended
    _load.allow_many_files()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    size, count = (SMOKE, 1) if arguments.smoke else (Size(), arguments.rounds)
    figures: list[Figure] = []
    with ExitStack() as undo:
        directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="nono-bench-")))
        try:
            stage = undo.enter_context(_peers.stage(directory, [size.download]))
        except Missing as missing:
            sys.exit(str(missing))
        parts: dict[str, Callable[[], list[Figure]]] = {
            "tunnels": lambda: tunnels(stage, size, count),
            "allowlist": lambda: allowlist(size, count),
            "interception": lambda: interception(stage, size, count),
            "audit": lambda: audit(stage, size, count),
        }
        for name, part in parts.items():
            if arguments.only in (None, name):
                figures += part()
    text = _report.table(figures)
    print(text)
    if not (arguments.smoke or arguments.only):
        _report.write("network", f"{_report.machine()}\n\n{text}")
    if arguments.guard and not all(figure.met for figure in figures):
        sys.exit("a target was missed")


if __name__ == "__main__":
    main()
