"""What the wall around the agent costs: ./ci/bench walls

    rules     the whole of `nono run -- true` with 300 granted directories beside 30, to read, and to read and write;
              in a profile, and as flags
    connects  connect(2) to the proxy behind `--sandbox notify`, where the supervisor performs it, beside a bare one
    filter    getpid(2), which the seccomp filter lets through, inside beside outside
    programs  the same command by itself, in bwrap, in srt (npm's @anthropic-ai/sandbox-runtime) and in nono

What is compared is run in turn, in rounds, in one order and then in the reverse; a ratio is the median of the rounds'
ratios. nono is the real command each time; what is timed inside is timed by bench/_inside.c.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import _report
from bench._report import Figure, median

FEW, MANY = 30, 300
# The targets, all ratios. BESIDE_A_STUCK_ONE: "no longer than usual", and what medians of two runs differ by.
RULES, CONNECT, BESIDE_A_STUCK_ONE, FILTER = 1.15, 20.0, 1.2, 1.15
# What hovers at its target, as bench/README.md says; --guard holds it to this.
REPORTED = {f"`nono run -- true`, {MANY} directories to read and write, {how}": 1.2 for how in ("profile", "flags")}
WALLS = ("auto", "notify")
PROXY = ("--allow-domain", "example.com")  # so that there is one; nobody connects to anything there
COMMANDS = {"true": ["true"], "python3 -I -c pass": ["python3", "-I", "-c", "pass"]}
BWRAP = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--"]
_BACKLOG = 4096
_PROGRAM_S = 60.0


class Size(NamedTuple):
    """rounds: of each measurement. connects, loops: in each round."""

    rounds: int = 40
    connects: int = 100
    loops: int = 20


class Stage(NamedTuple):
    """directory: for grants, outside of /tmp. inside: the program of _inside.c. walls: those to be had here."""

    directory: Path
    inside: str
    environment: dict[str, str]
    size: Size
    walls: tuple[str, ...] = ()

    def run(self, command: Sequence[str]) -> str:
        """Return what the command printed. Raises CalledProcessError where it fails."""
        return subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            text=True,
            timeout=_PROGRAM_S,
        ).stdout

    def ms(self, command: Sequence[str]) -> list[float]:
        """Return how long the command took, from its start to its end."""
        start = time.perf_counter()
        self.run(command)
        return [(time.perf_counter() - start) * 1000]

    def numbers(self, command: Sequence[str]) -> list[float]:
        """Return the numbers that the command printed."""
        return [float(word) for word in self.run(command).split()]


Samples = dict[str, list[list[float]]]  # by name, then by what one run yields


def in_turn(rounds: int, measured: Mapping[str, Callable[[], list[float]]]) -> Samples:
    """Take each one's numbers in turn, `rounds` times after one that is not counted."""
    taken: dict[str, list[list[float]]] = {name: [] for name in measured}
    order = list(measured)
    for number in range(rounds + 1):
        for name in order if number % 2 else reversed(order):
            numbers = measured[name]()
            if number:
                taken[name].append(numbers)
    return {name: [list(column) for column in zip(*rows, strict=True)] for name, rows in taken.items()}


def beside(
    label: str, unit: str, mine: Sequence[float], base: Sequence[float], target: float | None = None, scale: float = 1.0
) -> Figure:
    """Return a line whose ratio is the median of the rounds' ratios. scale: of the values shown."""
    ratio = median([one / other for one, other in zip(mine, base, strict=True)])
    return Figure(label, median(mine) * scale, unit, ratio, target)


def nono(*flags: str) -> list[str]:
    """Return the start of a command that runs what follows in the sandbox."""
    return [str(Path(sys.executable).with_name("nono")), "run", "--silent", *flags, "--"]


def rules(stage: Stage) -> list[Figure]:
    """Measure what each granted directory adds to the whole run, named by a flag or in a profile."""
    granted = [str(stage.directory / f"granted-{number}") for number in range(MANY)]
    for directory in granted:
        os.makedirs(directory, exist_ok=True)
    figures = []
    for field, access in (("read", "to read"), ("allow", "to read and write")):
        runs: dict[str, list[list[str]]] = {"profile": [], "flags": []}
        for count in (FEW, MANY):
            profile = stage.directory / f"{field}-{count}.json"
            profile.write_text(json.dumps({"filesystem": {field: granted[:count]}}))
            runs["profile"].append(nono("--profile", str(profile)))
            runs["flags"].append(nono(*(f"--{field}={path}" for path in granted[:count])))
        for how, (few, many) in runs.items():
            measured = {"few": partial(stage.ms, [*few, "true"]), "many": partial(stage.ms, [*many, "true"])}
            taken = in_turn(stage.size.rounds, measured)
            base, what = taken["few"][0], f"directories {access}, {how}"
            figures += [
                beside(f"`nono run -- true`, {FEW} {what}", "ms", base, base),
                beside(f"`nono run -- true`, {MANY} {what}", "ms", taken["many"][0], base, RULES),
            ]
    return figures


def connects(stage: Stage) -> list[Figure]:
    """Measure connect(2) to a listener that is there: bare, and to the proxy behind each wall."""
    count = str(stage.size.connects)

    def bare() -> list[float]:
        with socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listener:
            return stage.numbers([stage.inside, "connect", count, str(listener.getsockname()[1])])

    def behind(wall: str, *stuck: str) -> list[float]:
        port = str(free_port())
        flags = ["--sandbox", wall, "--proxy-port", port, *(f"--open-port={port}" for port in stuck)]
        inside = ["--read", os.path.dirname(stage.inside), *PROXY]
        return stage.numbers([*nono(*flags, *inside), stage.inside, "connect", count, port, *stuck])

    if "notify" not in stage.walls:
        return []
    with full_backlog() as stuck:
        taken = in_turn(
            stage.size.rounds,
            {"bare": bare, "auto": partial(behind, "auto"), "notify": partial(behind, "notify", str(stuck))},
        )
    base, alone = taken["bare"][0], taken["notify"][0]
    usual = "connect(2) to the proxy behind `--sandbox notify`"
    return [
        beside("connect(2), no wall, p50", "µs", base, base, scale=1e-3),
        beside("connect(2) to the proxy behind `--sandbox auto`, p50", "µs", taken["auto"][0], base, scale=1e-3),
        beside(f"{usual}, p50", "µs", alone, base, CONNECT, scale=1e-3),
        beside(f"{usual}, p50, while one hangs : usual", "µs", taken["notify"][1], alone, BESIDE_A_STUCK_ONE, 1e-3),
    ]


def is_tolerable(figure: Figure) -> bool:
    """Whether the target is met, or missed by no more than is reported."""
    return figure.met or (figure.ratio is not None and figure.ratio <= REPORTED.get(figure.name, 0.0))


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def full_backlog() -> Iterator[int]:
    """Yield a port of 127.0.0.1 at which a connect waits: one connection fills the backlog, and nobody accepts it."""
    with ExitStack() as undo:
        listener = undo.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        undo.enter_context(socket.create_connection(("127.0.0.1", port)))
        yield port


def system_calls(stage: Stage) -> list[Figure]:
    """Measure a system call that the filter has no rule for."""
    loop = [stage.inside, "getpid", str(stage.size.loops)]
    read = ["--read", os.path.dirname(stage.inside)]
    walls = {wall: partial(stage.numbers, [*nono("--sandbox", wall, *read, *PROXY), *loop]) for wall in stage.walls}
    taken = in_turn(stage.size.rounds, {"outside": partial(stage.numbers, loop), **walls})
    base = taken["outside"][0]
    return [
        beside("getpid(2), no wall", "ns", base, base),
        *(beside(f"getpid(2) behind `--sandbox {wall}`", "ns", taken[wall][0], base, FILTER) for wall in stage.walls),
    ]


def programs(stage: Stage) -> list[Figure]:
    """Measure whole runs of a command: by itself, and in each sandbox that is to be had here."""
    sandboxes: dict[str, Callable[[list[str]], list[str]]] = {"by itself": list}
    srt = str(Path(sys.prefix, "peers/srt/node_modules/.bin/srt"))
    peers: dict[str, Callable[[list[str]], list[str]]] = {
        "bwrap": lambda command: [*BWRAP, *command],
        "srt": lambda command: [srt, "-c", shlex.join(command)],
    }
    for name, peer in peers.items():
        if problem := cannot(stage, peer(["true"])):
            print(f"skipping {name}: {problem}", file=sys.stderr)
        else:
            sandboxes[name] = peer
    for wall in stage.walls:
        sandboxes[f"nono, `--sandbox {wall}`"] = partial(list.__add__, nono("--sandbox", wall, *PROXY))
    figures = []
    for label, command in COMMANDS.items():
        taken = in_turn(
            stage.size.rounds, {name: partial(stage.ms, inside(command)) for name, inside in sandboxes.items()}
        )
        base = taken["by itself"][0]
        figures += [beside(f"`{label}`, {name}", "ms", values[0], base) for name, values in taken.items()]
    return figures


def cannot(stage: Stage, command: Sequence[str]) -> str:
    """Return why a sandbox cannot be measured here, "" where it can. command: something that does nothing, inside."""
    if shutil.which(command[0], path=stage.environment["PATH"]) is None:
        return "it is not installed"
    try:
        stage.run(command)
    except subprocess.CalledProcessError as error:
        return f"it fails here: {error.stderr.strip().splitlines()[-1:]}"
    except subprocess.TimeoutExpired:
        return "it does not end here"
    return ""


PARTS: dict[str, Callable[[Stage], list[Figure]]] = {
    "rules": rules,
    "connects": connects,
    "filter": system_calls,
    "programs": programs,
}


def _stage(directory: Path, size: Size) -> Stage:
    home, program = directory / "home", directory / "program"
    home.mkdir()
    program.mkdir()
    inside = str(program / "inside")
    source = Path(__file__).with_name("_inside.c")
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", inside, str(source)], check=True)
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8"}
    stage = Stage(directory, inside, environment, size)
    problems = {wall: cannot(stage, [*nono("--sandbox", wall), "true"]) for wall in WALLS}
    for wall, problem in problems.items():
        if problem:
            print(f"skipping --sandbox {wall}: {problem}", file=sys.stderr)
    return stage._replace(walls=tuple(wall for wall in WALLS if not problems[wall]))


def main() -> None:
    """Measure, print the table, and write it to bench/README.md unless only a part or smoke is asked for."""
    parser = argparse.ArgumentParser(prog="ci/bench walls", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, metavar="N", help="of each measurement (default: 40)")
    parser.add_argument("--smoke", action="store_true", help="little of everything, to see that it works; no file")
    parser.add_argument("--guard", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--only", choices=PARTS, help="only this part; no file")
    arguments = parser.parse_args()
    size = Size(1, 10, 2) if arguments.smoke else Size(arguments.rounds)
    figures: list[Figure] = []
    # Not in /tmp, of which the agent has its own, so that grants in there are more work than grants are.
    with tempfile.TemporaryDirectory(prefix="nono-bench-", dir="/var/tmp") as directory:
        stage = _stage(Path(directory), size)
        try:
            for name, part in PARTS.items():
                if arguments.only in (None, name):
                    figures += part(stage)
        except subprocess.CalledProcessError as error:
            sys.exit(f"{' '.join(error.cmd[:8])} …: {error.stderr.strip()}")
    text = _report.table(figures)
    print(text)
    if not (arguments.smoke or arguments.only):
        _report.write("walls", f"{_report.machine()}\n\n{text}")
    if arguments.guard and not all(is_tolerable(figure) for figure in figures):
        sys.exit("a target was missed")


if __name__ == "__main__":
    main()
