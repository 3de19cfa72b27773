"""`nono profile schema`: the JSON Schema of profiles, for editors; made of the shape that nono itself checks."""

from __future__ import annotations

import argparse
import json

from nono.policy import profile


def run(arguments: argparse.Namespace) -> int:
    """Print the schema; return 0."""
    print(json.dumps(profile.schema(), indent=1, ensure_ascii=False))
    return 0
