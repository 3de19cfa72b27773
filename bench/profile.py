"""What a profile adds to the start of a run: ./ci/bench profile

    python -I -c pass       the baseline
    without                 a Python that imports what every run does before it reads a profile, and decides a run
    five levels, 500 paths  the same, a profile that extends four others: 100 paths, a condition and comments each
    claude-code             the same, with this built-in profile

Each is a process of its own, started in turn, round by round. A line of the table is how much longer one took than the
process without a profile: reading the files, checking and merging them, resolving what comes out, and importing what
does that. What the sandbox then does with 500 paths is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import _report
from bench._report import Figure

LEVELS, PATHS = 5, 100
TARGETS = {"five levels, 500 paths": 1.0, "claude-code": 0.5}
_DECIDE = """\
import os, sys
from nono.session import policy
order = policy.Order((), policy.Request(), sys.argv[1] if len(sys.argv) > 1 else None, {directory!r})
assert policy.decide(order, os.environ).capabilities.grants
"""


def main() -> None:
    """Measure, print the table, and write it to bench/README.md unless only smoke is asked for."""
    parser = argparse.ArgumentParser(prog="ci/bench profile", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, metavar="N", help="how often each command runs (default: 40)")
    parser.add_argument("--smoke", action="store_true", help="a few rounds, to see that it works; changes no file")
    parser.add_argument("--guard", action="store_true", help="exit with 1 where a target is missed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nono-bench-") as directory:
        figures = measure(Path(directory), 5 if arguments.smoke else arguments.rounds)
    text = _report.table(figures)
    print(text)
    if not arguments.smoke:
        _report.write("profile", f"{_report.machine()}\n\n{text}")
    if arguments.guard and not all(figure.met for figure in figures):
        sys.exit("a target was missed")


def measure(directory: Path, rounds: int) -> list[Figure]:
    """Run every command `rounds` times, interleaved; return the figures."""
    last = write_profiles(directory)
    environment = {"HOME": str(directory), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    project = directory / "project"
    project.mkdir()
    decide = [sys.executable, "-c", _DECIDE.format(directory=str(project))]
    commands = {
        "python": [sys.executable, "-I", "-c", "pass"],
        "without": decide,
        "five levels, 500 paths": [*decide, str(last)],
        "claude-code": [*decide, "claude-code"],
    }
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            sample = _whole(command, environment)
            if number:  # the first round only warms the machine's caches
                samples[name].append(sample)
    baseline, without = _report.median(samples["python"]), _report.median(samples["without"])
    figures = [Figure("`python -I -c pass`", baseline, "ms", 1.0)]
    for name, target in TARGETS.items():
        added = _report.median(samples[name]) - without
        figures.append(Figure(f"a profile adds: {name}", added, "ms", added / baseline, target))
    return figures


def write_profiles(directory: Path) -> Path:
    """Write profiles, each of which extends the one before; return the last."""
    path = directory / "none"
    for level in range(LEVELS):
        fields = ("read", "allow", "write", "read_file", "deny")
        filesystem = {
            field: [f"$HOME/src/{level}/{field}/{number}" for number in range(PATHS // len(fields))] for field in fields
        }
        profile = {
            **({"extends": f"./{path.name}"} if level else {}),
            "meta": {"name": f"level-{level}"},
            "groups": {"include": ["python_runtime", {"name": "go_runtime", "when": "linux"}]},
            "filesystem": filesystem,
            "network": {"allow_domain": [f"host-{level}.example.com"], "credentials": ["openai"]},
        }
        path = directory / f"level-{level}.jsonc"
        path.write_text("// as people write them\n" + json.dumps(profile, indent=2), encoding="utf-8")
    return path


def _whole(command: Sequence[str], environment: dict[str, str]) -> float:
    """Return how long the command took, in ms."""
    start = time.monotonic()
    subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL)
    return (time.monotonic() - start) * 1000


if __name__ == "__main__":
    main()
