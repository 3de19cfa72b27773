"""Benchmarks: `./ci/bench WHAT` runs bench/WHAT.py. A name that begins with `_` is no benchmark but a part of some."""
