"""`nono profile schema`: the JSON Schema of profiles, for editors; made of the shape that nono itself checks.

What is said in several places (a list of paths, a section that platform_overrides has, too) is said once, in $defs:
an editor has a tenth to read.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from nono.policy import profile

_WORTH_A_NAME = 120  # characters: shorter ones are said again


def run(arguments: argparse.Namespace) -> int:
    """Print the schema; return 0."""
    print(json.dumps(schema(), indent=1, ensure_ascii=False))
    return 0


def schema() -> dict[str, Any]:
    """Return the schema, draft 2020-12."""
    whole = profile.schema()
    counts = Counter(map(_text, _schemas(whole)))
    names: dict[str, str] = {}
    definitions: dict[str, Any] = {}

    def within(node: dict[str, Any], *, is_schema: bool) -> dict[str, Any]:
        return {key: named(each, is_schema=key != "properties" or not is_schema) for key, each in node.items()}

    def named(node: Any, *, is_schema: bool = True) -> Any:
        if isinstance(node, list):
            return [named(each) for each in node]
        if not isinstance(node, dict):
            return node
        text = _text(node)
        if not is_schema or counts[text] < 2 or len(text) < _WORTH_A_NAME:
            return within(node, is_schema=is_schema)
        if text not in names:
            names[text] = f"part{len(names) + 1}"
            definitions[names[text]] = within(node, is_schema=True)
        return {"$ref": f"#/$defs/{names[text]}"}

    return {**named(whole), "$defs": definitions}


def _schemas(node: Any, *, is_schema: bool = True) -> Iterator[dict[str, Any]]:
    """Yield each schema in a schema: `properties` maps names to schemas, and is none itself."""
    if isinstance(node, list):
        for each in node:
            yield from _schemas(each)
    elif isinstance(node, dict):
        if is_schema:
            yield node
        for key, each in node.items():
            yield from _schemas(each, is_schema=key != "properties" or not is_schema)


def _text(node: dict[str, Any]) -> str:
    return json.dumps(node)
