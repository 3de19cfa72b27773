"""What the tests of the promises share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.confined import Place


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    """A place that every user can reach, with the attack program in it."""
    made = Place()
    yield made
    made.remove()
