"""A machine of the lab: one kernel started by QEMU, the tests that ran in it, and what became of each.

The machine has one processor, 1 GB of memory, no disk, no network, and two serial ports: the kernel's console, and one
for results, a JSON document a line (tests/lab/report.py). QEMU translates the machine's code, /dev/kvm or not: the same
everywhere, and some machines that are virtual themselves have a /dev/kvm in which no ordinary kernel comes up. Four
seconds until /init, then minutes for hundreds of tests. Parameters for the kernel and for /init (tests/lab/guest.py:
`lab.…`) are on the kernel's command line.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.lab.kernels import Kernel

TIMEOUT_S = 1200  # for a machine that is translated, on a slow machine
QEMU = (
    "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg",
    "-cpu", "max", "-smp", "1", "-m", "1G",
)  # fmt: skip
# panic=-1: a kernel that cannot go on restarts at once, which -no-reboot makes an end. mitigations=off: nobody spies on
# this machine, and a change of page tables in each system call is slow where code is translated.
ALWAYS = ("console=ttyS0", "quiet", "panic=-1", "mitigations=off")


class Result(NamedTuple):
    """outcome: passed, skipped or failed. why: the reason of a skip, the traceback of a failure."""

    test: str
    outcome: str
    why: str


class Finished(NamedTuple):
    """results: of every test that ran, in order. facts: what /init saw. complete: it shut down by itself."""

    results: list[Result]
    facts: dict[str, str]
    complete: bool
    duration_s: float
    console: str

    def of(self, outcome: str) -> list[Result]:
        return [result for result in self.results if result.outcome == outcome]


def start(kernel: Kernel, image: Path, parameters: Iterable[str], scratch: Path) -> Finished:
    """Start the machine, wait until it has shut down, and return what it told."""
    console, results = scratch / "console", scratch / "results"
    begin = time.monotonic()
    process = subprocess.Popen(
        [
            *QEMU,
            *("-kernel", kernel.image, "-initrd", image, "-append", " ".join((*ALWAYS, *parameters))),
            *("-serial", f"file:{console}", "-serial", f"file:{results}"),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass  # what it told until now says where it hangs
    finally:
        process.kill()
        process.wait()
    told = [json.loads(line) for line in results.read_text().splitlines() if line.endswith("}")]
    return Finished(
        [Result(each["test"], each["outcome"], each["why"]) for each in told if "test" in each],
        {name: value for each in told if "facts" in each for name, value in each["facts"].items()},
        any("end" in each for each in told),
        time.monotonic() - begin,
        console.read_text(errors="replace"),
    )
