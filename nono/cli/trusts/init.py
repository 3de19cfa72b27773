"""`nono trust init`: a policy to start from, whole: it names files and an own key, and denies what is not signed."""

from __future__ import annotations

import argparse
import base64
import json
import os

from nono.cli import render
from nono.cli.trusts import place, writing
from nono.cli.trusts.place import Where
from nono.errors import StoreError, UsageError
from nono.policy.quantities import counted
from nono.policy.verdict import shell_quoted
from nono.trust import bundle, find, globs, policy
from nono.trust.policy import Publisher

_COMMON = ("AGENTS.md", "CLAUDE.md", "GEMINI.md", "SKILL.md")
_SHOWN = 8


def run(arguments: argparse.Namespace) -> int:
    """Make the policy; return 0."""
    at = place.where()
    reference = place.key_of("--key", arguments.key, arguments.keyref, at)
    key = place.own_key(reference, at)
    includes = list(dict.fromkeys(arguments.include))
    if not includes and not arguments.user:
        raise UsageError(f"a policy that names no files verifies nothing. Say which: nono trust init {_example(at)}")
    for pattern in includes:
        _check(pattern)
    matcher = globs.compile(includes)
    path = at.users_policy if arguments.user else f"{at.workdir.rstrip('/')}/{policy.NAME}"
    data = _text(includes, key)
    policy.parse(data, path)
    if arguments.user:
        _make_directory(at.config)
    try:
        writing.write(path, data, mode=writing.PRIVATE if arguments.user else writing.SHARED, over=arguments.force)
    except FileExistsError:
        raise UsageError(f"{path} is there already; --force replaces it, and its signature is void then") from None
    if arguments.json:
        print(json.dumps({"policy": path, "includes": includes, "publishers": [key.key_id]}, indent=1))
        return 0
    print(
        render.table(_rows(path, includes, matcher, key, place.typed(reference, at), at, user=arguments.user)), end=""
    )
    return 0


def _rows(
    path: str, includes: list[str], matcher: globs.Matcher, key: Publisher, flag: str, at: Where, *, user: bool
) -> list[tuple[str, str]]:
    home = render.home_of(os.environ)
    rows = [("made", render.printable(render.short(path, home)))]
    found = [] if user else [each.path for each in find.find(at.workdir, matcher)]
    nothing = () if user else matcher.unmatched(found)
    for index, pattern in enumerate(includes[:_SHOWN]):
        none_yet = "  (matches nothing yet)" if pattern in nothing else ""
        rows.append(("" if index else "includes", render.printable(pattern) + none_yet))
    if len(includes) > _SHOWN:
        rows.append(("", f"{len(includes) - _SHOWN} more"))
    if found:
        rows.append(("matches", counted(len(found), "file")))
    rows.append(("publisher", render.printable(key.key_id)))
    if user:
        rows.append(("next", render.printable(f"nono trust sign-policy --user{flag}")))
        return rows
    rows.append(("next", render.printable(f"nono trust sign-policy{flag}")))
    if found:
        rows.append(("", render.printable(f"nono trust sign --all{flag}")))
    return rows


def _check(pattern: str) -> None:
    """Refuse a pattern that can match nothing, for it is not relative to the policy's directory."""
    where = f"--include {shell_quoted(pattern)}"
    if not pattern:
        raise UsageError("--include takes a pattern, which is not empty")
    if pattern.startswith(("/", "~")) or "://" in pattern:
        raise UsageError(f"{where}: a pattern is relative to the directory of the policy")
    parts = pattern.split("/")
    if "." in parts or ".." in parts:
        better = os.path.normpath(pattern)
        hint = "" if ".." in better.split("/") else f"; write {shell_quoted(better)}"
        raise UsageError(f"{where}: a pattern has no . and .. in it{hint}")
    if pattern.endswith("/"):
        raise UsageError(f"{where}: that is a directory; what is below it is {shell_quoted(pattern + '**')}")
    if pattern.endswith(bundle.SUFFIX):
        raise UsageError(f"{where}: a bundle is a signature, and is not signed itself")


def _example(at: Where) -> str:
    """Return flags that name files which are there, or might be."""
    there = [name for name in _COMMON if os.path.isfile(os.path.join(at.workdir, name))]
    return " ".join(f"--include {name}" for name in there or ["CLAUDE.md"]) + " --include '**/SKILL.md'"


def _text(includes: list[str], key: Publisher) -> bytes:
    publisher = {
        "name": os.path.basename(key.key_id),
        "key_id": key.key_id,
        "public_key": base64.b64encode(key.public_key).decode(),
    }
    made = {
        "predicate": policy.PREDICATE,
        "version": 1,
        "includes": includes,
        "publishers": [publisher],
        "blocklist": {"digests": [], "publishers": []},
        "enforcement": policy.DENY,
    }
    return (json.dumps(made, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape")


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be made: {error.strerror}") from None
