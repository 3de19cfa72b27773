"""What a snapshot costs before the agent starts: ./ci/bench rollback

    git add -A           the baseline: the tree into an empty repository, which compresses and does not sync
    cold                 the first snapshot: walk, read, hash, copy, sync
    warm                 the next one, of the same tree
    after 100 changes    the same, when 100 of the files were written since
    nono-py              the Rust tool's SnapshotManager, create_baseline and create_incremental, from ci/bench's peers

The tree: 10,000 files of 20 KiB of words, which compress as source code does, in 100 directories. Each is a process of
its own, started in turn, round by round, on a disk that was synced before; ours and nono-py's time is from before their
import to the end. Another tree has a million empty files, 400,000 of them in one directory, below /dev/shm if there is
room: its figure is the peak of memory.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import _peers, _report
from bench._report import Figure

FILES, FILE_BYTES = 10_000, 20_480
MILLION = 1_000_000
COLD, WARM, MEMORY_MIB = 1.5, 0.3, 80
_TAKE = """\
import time; began = time.perf_counter()
import os, resource, sys
from nono.rollback import objects, snapshot
tree, store, path, previous = sys.argv[1:]
taken = snapshot.take([os.fsencode(tree)], objects.Store(store), path, previous=previous, max_bytes=1 << 40)
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, taken.files)
"""
_PEER = """\
import time; began = time.perf_counter()
import sys
from nono_py import SnapshotManager
tree, session = sys.argv[1:]
manager = SnapshotManager(session, [tree])
manager.create_baseline()
cold = time.perf_counter() - began
began = time.perf_counter()
manager.create_incremental()
print(cold, time.perf_counter() - began)
"""


def main() -> None:
    """Measure, print the table, and write it to bench/README.md unless only smoke is asked for."""
    parser = argparse.ArgumentParser(prog="ci/bench rollback", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is taken (default: 5)")
    parser.add_argument("--smoke", action="store_true", help="one round of small trees; changes no file")
    parser.add_argument("--guard", action="store_true", help="exit with 1 where a target is missed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nono-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as directory:
        figures = measure(
            Path(directory), 1 if arguments.smoke else arguments.rounds, FILES // (arguments.smoke * 19 + 1)
        )
    figures += million(MILLION // (arguments.smoke * 99 + 1))
    text = _report.table(figures)
    print(text)
    if not arguments.smoke:
        _report.write("rollback", f"{_report.machine()}\n\n{text}")
    if arguments.guard and not all(figure.met for figure in figures):
        sys.exit("a target was missed")


def make_tree(tree: Path, files: int) -> list[Path]:
    """Write the files; return them."""
    source = random.Random(1)
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz_", k=source.randint(2, 9))) for _ in range(3000)]
    paths = []
    for number in range(files):
        path = tree / f"directory-{number // 100}" / f"file-{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join(source.choices(words, k=FILE_BYTES // 5))[:FILE_BYTES])
        paths.append(path)
    return paths


def measure(directory: Path, rounds: int, files: int) -> list[Figure]:
    """Take everything `rounds` times, interleaved; return the figures."""
    tree = directory / "tree"
    paths = make_tree(tree, files)
    try:
        peer = _peers._venv_program("rust", "python", "nono-py")
    except _peers.Missing as missing:
        print(f"without nono-py: {missing}", file=sys.stderr)
        peer = ""
    samples: dict[str, list[float]] = {}

    def sample(name: str, value: float) -> None:
        samples.setdefault(name, []).append(value)

    for _ in range(rounds):
        work = directory / "work"
        work.mkdir()
        time.sleep(0.2)  # until no file may have been written in the tick of the clock that comes
        subprocess.run(["git", "init", "-q", work / "git"], check=True)
        os.sync()
        began = time.perf_counter()
        subprocess.run(["git", f"--git-dir={work}/git/.git", f"--work-tree={tree}", "add", "-A"], check=True)
        sample("git", time.perf_counter() - began)
        os.sync()
        sample("cold", take(tree, work, "one")[0])
        sample("warm", take(tree, work, "two", "one")[0])
        for path in paths[:: max(files // 100, 1)]:
            path.write_text(f"{path} {time.time_ns()}" * 500)
        sample("changed", take(tree, work, "three", "two")[0])
        if peer:
            os.sync()
            command = [peer, "-c", _PEER, str(tree), str(work / "peer")]
            (work / "peer").mkdir()
            cold, warm = map(float, subprocess.run(command, check=True, stdout=-1, text=True).stdout.split())
            sample("peer cold", cold)
            sample("peer warm", warm)
        shutil.rmtree(work)
    middle = {name: _report.median(values) * 1000 for name, values in samples.items()}
    size = f"{files:,} files, {files * FILE_BYTES // 1_000_000} MB"
    figures = [
        Figure(f"`git add -A`, {size}", middle["git"], "ms", 1.0),
        Figure("a snapshot, cold", middle["cold"], "ms", middle["cold"] / middle["git"], COLD),
    ]
    if peer:
        figures.append(
            Figure("nono-py, `create_baseline`", middle["peer cold"], "ms", middle["peer cold"] / middle["git"])
        )
    figures += [
        Figure("a snapshot, warm : cold", middle["warm"], "ms", middle["warm"] / middle["cold"], WARM),
        Figure("a snapshot, 100 files changed : cold", middle["changed"], "ms", middle["changed"] / middle["cold"]),
    ]
    if peer:
        ratio = middle["peer warm"] / middle["cold"]
        figures.append(Figure("nono-py, `create_incremental` : our cold", middle["peer warm"], "ms", ratio))
    return figures


def million(files: int) -> list[Figure]:
    """The peak of memory, and what it takes, for a tree of that many empty files."""
    room = "/dev/shm" if os.path.isdir("/dev/shm") and os.statvfs("/dev/shm").f_favail > 2 * files else None
    with tempfile.TemporaryDirectory(prefix="nono-bench-", dir=room) as name:
        directory = Path(name)
        for number in range(files):
            if number % 1000 == 0:
                parent = directory / "tree" / (f"{number // 1000}/sub" if number < files * 6 // 10 else "flat")
                parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(parent, os.O_RDONLY)
            os.close(os.open(f"some-file-name-{number}", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
            if number % 1000 == 999:
                os.close(descriptor)
        cold, cold_mib, taken = take(directory / "tree", directory, "one")
        assert taken == files
        time.sleep(0.2)
        warm, warm_mib, _ = take(directory / "tree", directory, "two", "one")
    what = f"{files:,} empty files"
    return [
        Figure(f"peak memory of a cold snapshot, {what} ({cold:.0f} s)", cold_mib, "MiB", None, MEMORY_MIB),
        Figure(f"peak memory of a warm snapshot, {what} ({warm:.0f} s)", warm_mib, "MiB", None, MEMORY_MIB),
    ]


def take(tree: Path, work: Path, name: str, previous: str = "") -> tuple[float, float, int]:
    """Take a snapshot in a process of its own: (seconds, peak MiB, files)."""
    before = str(work / previous) if previous else ""
    command: Sequence[str] = [sys.executable, "-c", _TAKE, str(tree), str(work / "store"), str(work / name), before]
    seconds, peak, files = subprocess.run(command, check=True, stdout=-1, text=True).stdout.split()
    return float(seconds), float(peak) / (1024 if sys.platform == "linux" else 1 << 20), int(files)


if __name__ == "__main__":
    main()
