"""How long a user waits for his agent, and what nono costs while it waits: ./ci/bench startup

The commands are started in turn, round by round, so that whatever else the machine does falls on all of them:

    python -I -c pass                      the baseline: what starting any Python program costs here
    nono run --credential openai -- PROBE  with the key in a file, and in the Secret Service where one can be started
    nono run --credential openai -- true   likewise
    nono --help, and others that start no agent: ANSWERS

And `nono run --allow-cwd -- PROBE` in two equal projects of a hundred files that would instruct an agent: in one they
are signed, and a policy wants them so. What that adds is the difference within each round.

PROBE is a C program that prints CLOCK_MONOTONIC as the first thing it does: from the exec of nono to that is the time
to the agent's start. The whole command is measured on its own, with true(1) in the place of PROBE. The supervisor's
memory is its resident set while an agent sleeps.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import _report
from bench._report import Figure
from tests.keyring_service import KeyringService
from tests.signing import Signer

FLAGS = ["--credential", "openai"]
KEY = "sk-bench-0123456789abcdef0123456789abcdef"
TO_AGENT, WHOLE, IDLE_MIB = 4.0, 8.0, 40.0  # the targets
SIGNED_FILES, SIGNED_ADDS = 100, 13.0  # by what Python takes to start: 150 ms where that is 11.5
# What starts no agent: its arguments, and its target. --help shall take no more than 80 ms, of which these are half.
ANSWERS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("--help",), 3.0),
    (("run", "--help"), 4.0),
    (("why", "--path", "/usr/bin/env"), 4.0),
    (("why", "--path", "/usr/bin/env", "-p", "default"), 5.0),
    (("why", "--path", "/usr/bin/env", "--probe"), 5.5),
)

PROBE = """\
#include <stdio.h>
#include <time.h>
int main(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	printf("%lld.%09ld\\n", (long long)now.tv_sec, now.tv_nsec);
	return 0;
}
"""


class Store(NamedTuple):
    """One place for the key: its name in the table, and the environment to run in."""

    name: str
    environment: dict[str, str]


def main() -> None:
    """Measure, print the table, and write it to bench/README.md unless only smoke is asked for."""
    parser = argparse.ArgumentParser(prog="ci/bench startup", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, metavar="N", help="how often each command runs (default: 40)")
    parser.add_argument("--smoke", action="store_true", help="a few rounds, to see that it works; changes no file")
    parser.add_argument("--guard", action="store_true", help="exit with 1 where a target is missed")
    arguments = parser.parse_args()
    with ExitStack() as undo:
        directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="nono-bench-")))
        stores, rounds = _stores(directory, undo), 5 if arguments.smoke else arguments.rounds
        figures = measure(stores, _build_probe(directory), _projects(directory), rounds)
    text = _report.table(figures)
    print(text)
    if not arguments.smoke:
        _report.write("startup", f"{_report.machine()}\n\n{text}")
    if arguments.guard and not all(figure.met for figure in figures):
        sys.exit("a target was missed")


def measure(stores: Sequence[Store], probe: str, projects: tuple[Path, Path], rounds: int) -> list[Figure]:
    """Run every command `rounds` times, interleaved; return the figures. projects: without signatures, and with."""
    python = [sys.executable, "-I", "-c", "pass"]
    commands: dict[str, Callable[[], float]] = {"python": partial(_whole, python, stores[0].environment)}
    nono = [_console_script(), "run", *FLAGS, "--"]
    for name, environment in stores:
        commands[f"{name}: to the agent"] = partial(_to_agent, [*nono, probe], environment)
        commands[f"{name}: whole command"] = partial(_whole, [*nono, "true"], environment)
    for arguments, _ in ANSWERS:
        name = " ".join(("nono", *arguments))
        commands[name] = partial(_whole, [_console_script(), *arguments], stores[0].environment)
    in_project = [_console_script(), "run", "--allow-cwd", "--block-net", "--", probe]
    for name, project in zip(("unsigned", "signed"), projects, strict=True):
        commands[name] = partial(_to_agent, in_project, stores[0].environment, project)
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, run in commands.items():
            sample = run()
            if number:  # the first round only warms the machine's caches
                samples[name].append(sample)
    baseline = _report.median(samples["python"])
    figures = [Figure("`python -I -c pass`", baseline, "ms", 1.0)]
    for store in stores:
        for suffix, label, target in (
            ("to the agent", "exec of nono to the agent's exec", TO_AGENT),
            ("whole command", "`nono run --credential openai -- true`", WHOLE),
        ):
            value = _report.median(samples[f"{store.name}: {suffix}"])
            figures.append(Figure(f"{label}, key in {store.name}", value, "ms", value / baseline, target))
    for arguments, target in ANSWERS:
        name = " ".join(("nono", *arguments))
        value = _report.median(samples[name])
        figures.append(Figure(f"`{name}`", value, "ms", value / baseline, target))
    adds = [signed - plain for plain, signed in zip(samples["unsigned"], samples["signed"], strict=True)]
    label = f"what verifying {SIGNED_FILES} signed files adds to the agent's exec"
    value = _report.median(adds)
    figures.append(Figure(label, value, "ms", value / baseline, SIGNED_ADDS))
    idle = "supervisor's memory while idle, key in"
    return figures + [Figure(f"{idle} {store.name}", _idle_mib(store), "MiB", target=IDLE_MIB) for store in stores]


def _whole(command: list[str], environment: dict[str, str]) -> float:
    """Return how long the command took, in ms."""
    start = time.monotonic()
    null = subprocess.DEVNULL
    subprocess.run(command, env=environment, check=True, stdin=null, stdout=null, stderr=null)
    return (time.monotonic() - start) * 1000


def _to_agent(command: list[str], environment: dict[str, str], directory: Path | None = None) -> float:
    """Return how long it took from here to the first thing the agent did, in ms. directory: to start in."""
    start = time.monotonic()
    done = subprocess.run(
        command,
        env=environment,
        cwd=directory,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return (float(done.stdout) - start) * 1000


def _idle_mib(store: Store) -> float:
    """Return the resident set of a supervisor whose agent does nothing, once it has stopped growing."""
    command = [_console_script(), "run", *FLAGS, "--silent", "--", "sleep", "600"]
    with subprocess.Popen(
        command, env=store.environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            before, now = -1.0, 0.0
            while now != before or not now:
                time.sleep(0.5)  # a sample a while later, not a wait for an event
                before, now = now, _resident_mib(process.pid)
            return now
        finally:
            process.terminate()


def _resident_mib(pid: int) -> float:
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], check=True, capture_output=True, text=True)
    return int(shown.stdout) / 1024


def _stores(directory: Path, undo: ExitStack) -> list[Store]:
    """Return the places for the key that this machine has, each with the key in it."""
    home = directory / "home"
    home.mkdir(mode=0o700)
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8"}
    storing = [_console_script(), "credential", "set", "openai", "--store", "file"]
    subprocess.run(storing, env=environment, input=KEY.encode(), check=True, capture_output=True)
    stores = [Store("a file", environment)]
    if all(shutil.which(name) for name in ("dbus-daemon", "gnome-keyring-daemon", "secret-tool", "gdbus")):
        keyring = undo.enter_context(KeyringService(directory / "keyring"))
        keyring.store("nono", "openai_api_key", KEY, target="default")
        stores.append(Store("the Secret Service", {**environment, **keyring.environment()}))
    else:
        print("No Secret Service can be started here; measuring the file only.", file=sys.stderr)
    return stores


def _projects(directory: Path) -> tuple[Path, Path]:
    """Return two equal projects of the user's: in the second one the files are signed, by his own key."""
    home = directory / "home"
    signer = Signer().trusted_by(home)
    plain, signed = home / "plain", home / "signed"
    for root in (plain, signed):
        for number in range(SIGNED_FILES):
            path = root / "skills" / str(number) / "SKILL.md"
            path.parent.mkdir(parents=True)
            path.write_text(f"# Skill {number}\n" + "How it is done, step by step.\n" * 100)
    signer.sign(*signed.rglob("SKILL.md"))
    signer.policy(signed, signer, includes=["**/SKILL.md"])
    return plain, signed


def _build_probe(directory: Path) -> str:
    source, program = directory / "probe.c", directory / "probe"
    source.write_text(PROBE)
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", str(program), str(source)], check=True)
    return str(program)


def _console_script() -> str:
    return str(Path(sys.executable).with_name("nono"))


if __name__ == "__main__":
    main()
