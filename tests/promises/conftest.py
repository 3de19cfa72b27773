"""What the tests of the promises share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.confined import USERS, Place


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    """A place that every user can reach, with the attack program in it."""
    made = Place()
    yield made
    made.remove()


@pytest.fixture(params=USERS, ids=lambda uid: f"uid{uid}")
def user(request: pytest.FixtureRequest) -> int:
    """Who attacks: root and an ordinary user where the tests run as root, else whoever runs them."""
    return int(request.param)
