"""Lines for a person: a label, and text beside it that is filled to the width of the page."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from nono.cli import render
from nono.cli.args import COLUMNS
from nono.policy.variables import looks_like_key


def hanging(label: str, text: str) -> list[str]:
    """Return `text` in lines beside `label`; what is one word long, as a path, is never broken."""
    return textwrap.wrap(
        render.printable(text),
        COLUMNS,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [label.rstrip()]


def shown(value: Any) -> Any:
    """Return a value of a profile as it may be shown: without a key that was pasted into it."""
    if isinstance(value, str):
        return "…" if looks_like_key(value) else value
    if isinstance(value, (list, tuple)):
        return [shown(each) for each in value]
    if isinstance(value, dict):
        return {shown(name): shown(each) for name, each in value.items()}
    return value


def said(value: Any) -> str:
    """Return a value of a profile as text of one line."""
    value = shown(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
