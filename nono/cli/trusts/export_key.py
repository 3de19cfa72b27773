"""`nono trust export-key`: print the public half of an own key. No keystore is asked."""

from __future__ import annotations

import argparse
import base64
import json

from nono.cli.trusts import place
from nono.errors import UsageError
from nono.trust import keys


def run(arguments: argparse.Namespace) -> int:
    """Print it; return 0."""
    if arguments.json and arguments.pem:
        raise UsageError("--json has the key in base64; leave one of --json and --pem out")
    at = place.where()
    reference = place.key_of("--id", arguments.id, arguments.keyref, at)
    public = place.own_key(reference, at).public_key
    text = base64.b64encode(public).decode()
    if arguments.json:
        told = {"key_id": reference.key_id, "fingerprint": keys.fingerprint(public), "public_key": text}
        print(json.dumps(told, indent=1))
    else:
        print(keys.pem(public) if arguments.pem else text, end="" if arguments.pem else "\n")
    return 0
