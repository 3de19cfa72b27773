"""`nono trust sign-policy`: sign a policy, and show what is signed: which files, and whom it trusts.

A policy that nono could not use is not signed. It is read and hashed once; what is shown is what is signed.
"""

from __future__ import annotations

import argparse
import json
import os

from nono.cli import render
from nono.cli.render import printable, short
from nono.cli.trusts import keep, place, sign
from nono.cli.trusts.keyref import KeyReference
from nono.cli.trusts.place import Where
from nono.errors import UsageError
from nono.policy.verdict import shell_quoted
from nono.trust import anchors, bundle, files, keys, own, policy, signing
from nono.trust.policy import Policy, Publisher

_SHOWN = 8


def run(arguments: argparse.Namespace) -> int:
    """Sign it; return 0."""
    if arguments.user and arguments.file is not None:
        raise UsageError("--user is your own policy; leave FILE out, or --user")
    at = place.where()
    reference = place.key_of("--key", arguments.key, arguments.keyref, at)
    path = _path(arguments, at)
    if arguments.user and not os.path.lexists(path):
        raise UsageError("you have no policy of your own yet. It is made by: nono trust init --user")
    opened = place.open_policy(path)
    try:
        signed = policy.parse(opened.data, path)
        keep.protect()
        private = keep.load(reference, at.config)
        subject = os.path.basename(path), opened.sha256
        payload = signing.statement([subject], bundle.TRUST_POLICY, signing.keyed(reference.key_id))
        sign.write_beside(opened, signing.sign(payload, private))
    finally:
        files.close(opened)
    if arguments.json:
        told = {"policy": path, "sha256": opened.sha256, "bundle": path + bundle.SUFFIX, "key_id": reference.key_id}
        print(json.dumps(told, indent=1))
        return 0
    rows = _rows(path, signed) + _next(path, signed, keys.public_of(private), reference, at)
    print(render.table(rows), end="")
    return 0


def _path(arguments: argparse.Namespace, at: Where) -> str:
    """Return which policy is meant. Raises UsageError where that is unclear."""
    if arguments.user:
        return at.users_policy
    if arguments.file is not None:
        return place.absolute(arguments.file)
    path = f"{at.workdir.rstrip('/')}/{policy.NAME}"
    if os.path.lexists(path):
        return path
    above = anchors.find_root(at.workdir, at.home).path
    if above:
        found = os.path.relpath(f"{above}/{policy.NAME}", at.workdir)
        raise UsageError(f"there is no {policy.NAME} here. To sign the one above: nono trust sign-policy {found}")
    raise UsageError(f"there is no {policy.NAME} here. It is made by: nono trust init --include PATTERN")


def _rows(path: str, signed: Policy) -> list[tuple[str, str]]:
    """Return what a reader should know that he has signed."""
    rows = [("signed", printable(short(path, render.home_of(os.environ))))]
    listed = {
        "includes": list(signed.includes),
        "files": list(signed.files),
        "publishers": [_described(each) for each in signed.publishers],
    }
    for label, texts in listed.items():
        shown = texts if label == "publishers" else texts[:_SHOWN]  # whom he trusts, he is shown to the last
        rows += [("" if index else label, printable(text)) for index, text in enumerate(shown)]
        if len(texts) > len(shown):
            rows.append(("", f"{len(texts) - len(shown)} more"))
        if not texts and label != "files":
            rows.append((label, "none"))
    blocked = len(signed.blocked_digests) + len(signed.blocked_publishers)
    if blocked:
        rows.append(("blocklist", f"{blocked} entries" if blocked > 1 else "1 entry"))
    rows.append(("enforcement", signed.enforcement))
    return rows


def _described(publisher: Publisher) -> str:
    """Return who that is, by what he is recognised by; a name is anybody's choice."""
    if publisher.public_key:
        return f"{publisher.name}  (key {keys.fingerprint(publisher.public_key)[:16]}…)"
    if publisher.key_id:
        return f"{publisher.name}  (your key {publisher.key_id})"
    parts = (
        publisher.issuer,
        publisher.repository,
        publisher.workflow or publisher.build_signer_uri,
        publisher.ref_pattern,
    )
    return f"{publisher.name}  ({', '.join(part for part in parts if part)})"


def _next(path: str, signed: Policy, public: bytes, reference: KeyReference, at: Where) -> list[tuple[str, str]]:
    """Return what is to be done yet, or why this signature does not count here."""
    if public not in [each.public_key for each in own.read(at.config)]:
        adopt = f"nono trust keygen{reference.typed('--id')} --adopt"
        return [("note", printable(f"that key is none of your own here, so what it signs does not count; {adopt}"))]
    flag = place.typed(reference, at)
    if path == at.users_policy:
        command = f"nono trust sign --all{flag}" if signed.includes else f"nono trust init{flag} --include PATTERN"
        return [("next", printable(f"in a project: {command}"))]
    if os.path.basename(path) != policy.NAME:
        return [("note", f"nono run looks for {policy.NAME}, not for this name")]
    if not signed.includes:
        return [("note", "it names no files, so nothing is verified for it")]
    there = "" if os.path.dirname(path) == at.workdir else f"cd {shell_quoted(os.path.dirname(path))} && "
    return [("next", printable(f"{there}nono trust sign --all{flag}"))]
