"""What a spawn does to the test process itself is undone after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nono.kernel import process


@pytest.fixture(autouse=True)
def dumpable() -> Iterator[None]:
    yield
    process.set_dumpable(True)
