"""The built-in policy as JSON: read by `read()`, edited by hand, checked by the tests."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HERE = __file__[: -len("__init__.py")]


def read(name: str) -> Any:
    """Return the decoded JSON of the built-in file `name`, which ships inside the package."""
    with open(f"{_HERE}{name}", encoding="utf-8") as file:
        return json.load(file)
