"""What all benchmarks share: medians, the machine they ran on, and their table in bench/README.md."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

README = Path(__file__).with_name("README.md")


class Figure(NamedTuple):
    """One line of a table. ratio: to the baseline of the same run; target: what it must not exceed, None for none.

    unit: of `value`. Where `ratio` is None, the target is one for `value` itself. more_is_better: it must be reached.
    """

    name: str
    value: float
    unit: str
    ratio: float | None = None
    target: float | None = None
    more_is_better: bool = False

    @property
    def met(self) -> bool:
        """Whether the target, if there is one, is met."""
        measured = self.value if self.ratio is None else self.ratio
        if self.target is None:
            return True
        return measured >= self.target if self.more_is_better else measured <= self.target


def median(samples: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(samples)


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table."""
    rows = ["| | median | ratio | target |", "|---|---:|---:|---:|"]
    for figure in figures:
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f} ×"
        unit = "×" if figure.ratio is not None else figure.unit
        sign = "≥" if figure.more_is_better else "≤"
        mark = "" if figure.met else " **missed**"
        target = "" if figure.target is None else f"{sign} {figure.target:g} {unit}{mark}"
        value = f"{figure.value:,.0f}" if figure.value >= 100 else f"{figure.value:.1f}"
        rows.append(f"| {figure.name} | {value} {figure.unit} | {ratio} | {target} |")
    return "\n".join(rows) + "\n"


def machine() -> str:
    """Return one sentence about this machine: what a reader needs to compare."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return f"{cores} cores, {system}, Python {platform.python_version()}."


def write(name: str, text: str) -> None:
    """Replace what stands between the markers of `name` in bench/README.md."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, _, rest = README.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{README} has no markers for {name}")
    README.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")
