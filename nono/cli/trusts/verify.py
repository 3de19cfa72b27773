"""`nono trust verify`: whether files are signed by whom the policies trust. Exit status 0 where all are, else 1."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence

from nono.cli import render
from nono.cli.trusts import place, verdicts
from nono.cli.trusts.place import Sight, Where
from nono.errors import UsageError
from nono.trust import bundle, errors, find, policy
from nono.trust.check import Verdict


def run(arguments: argparse.Namespace) -> int:
    """Verify them; return the exit status."""
    if bool(arguments.file) == arguments.all:
        raise UsageError(
            "name the files to verify, or say --all, not both"
            if arguments.all
            else "say which files to verify: nono trust verify FILE …, or nono trust verify --all"
        )
    at = place.where()
    paths = [place.absolute(path) for path in dict.fromkeys(arguments.file)]
    sight = place.look(arguments, at)
    unmatched: tuple[str, ...] = ()
    if arguments.all:
        found, unmatched = place.everything(sight)
        if not found and not unmatched:
            raise UsageError(place.no_match(sight))
    else:
        found = list(_named(sight, paths, at, by_signature=arguments.policy is None))
    failed = bool(unmatched) or any(each.outcome != errors.VERIFIED for each in found)
    if arguments.json:
        print(json.dumps(verdicts.as_json(sight, found, unmatched, at), indent=1))
    else:
        print(render.table(verdicts.rows(sight, found, unmatched, at, render.home_of(os.environ))), end="")
    return int(failed)


def _named(sight: Sight, paths: Sequence[str], at: Where, *, by_signature: bool) -> Iterator[Verdict]:
    """Yield the verdicts on files that were named; on all that it names, where that is the bundle of the tree.

    by_signature: the policies in sight were verified; not with --policy.
    """
    for path in paths:
        relative = place.below(sight.root, path)
        if relative == bundle.MULTI_NAME:
            yield from place.checked(sight, [], with_multi=True)
        elif os.path.basename(path) == policy.NAME:
            yield _of_policy(sight, path, at) if by_signature else _unasked(path)
        elif not os.path.lexists(path):
            yield Verdict(path, "", errors.UNSAFE_FILE, reason=place.missing(path))
        elif path.endswith(bundle.SUFFIX):
            step = f"verify the file that it is for: {os.path.basename(path).removesuffix(bundle.SUFFIX)}"
            yield Verdict(path, "", errors.UNSAFE_FILE, reason="is a signature itself", next_step=step)
        elif relative:
            yield from place.checked(sight, [find.Found(relative)])
        else:
            yield place.checked_elsewhere(sight, path)


def _of_policy(sight: Sight, path: str, at: Where) -> Verdict:
    """Return the verdict on a policy: one that is in use has been verified, or nothing would be."""
    if path in (sight.policy, at.users_policy) and os.path.lexists(path):
        return Verdict(path, "", errors.VERIFIED, "it is in use here")
    step = "change to its directory, and verify it there"
    return Verdict(path, "", errors.UNTRUSTED, reason="is a policy that is not in use here", next_step=step)


def _unasked(path: str) -> Verdict:
    """Return the verdict on a policy where none had to be signed."""
    reason = "is a policy, of whose signature nobody is asked with --policy"
    return Verdict(path, "", errors.UNTRUSTED, reason=reason, next_step="verify it without --policy")
