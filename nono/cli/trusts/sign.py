"""`nono trust sign`: sign files, each with a bundle beside it or all of them with one.

A file is opened by the code that verifies: what verification would refuse, as a link, is not signed. What was hashed is
looked at again before its bundle is written, into the very directory that holds it. One file that cannot be signed does
not keep the others from it; it is said, and the exit status is 1.

With --all, a file whose signature verifies keeps it: nobody's signature is replaced by one's own unasked.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module

from nono.cli import render
from nono.cli.render import printable
from nono.cli.trusts import keep, place, verdicts, writing
from nono.cli.trusts.keyref import KeyReference
from nono.cli.trusts.place import Sight, Where
from nono.errors import NonoError, StoreError, UsageError
from nono.policy.verdict import shell_quoted
from nono.record import Record
from nono.trust import bundle, errors, files, policy, signing, trusted_root
from nono.trust.files import Opened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Signs = Callable[[Sequence[tuple[str, str]], str], bytes]
    """(subjects, predicate type) -> the bundle file."""


_SHOWN = 8
_SIGNED, _KEPT, _LEFT_OUT, _REFUSED, _BLOCKED = "signed", "kept", "left out", "refused", "blocked"


class Done(Record):
    """What became of one file. label: of its row. note: behind the path. reason: why it was not signed."""

    path: str
    label: str
    note: str = ""
    reason: str = ""
    sha256: str = ""

    @property
    def failed(self) -> bool:
        """Whether it was to be signed, and is not."""
        return self.label in (_REFUSED, _BLOCKED)

    def row(self, at: Where) -> tuple[str, str]:
        """Return a row of render.py."""
        note = f"  ({printable(self.note)})" if self.note else ""
        reason = f": {printable(self.reason)}" if self.reason else ""
        return self.label, f"{place.shown(self.path, at)}{note}{reason}"

    def as_json(self) -> dict[str, str]:
        """Return it as data."""
        told = {"path": self.path, "status": self.label.replace(" ", "_")}
        more = {"sha256": self.sha256, "bundle": self.note, "reason": self.reason}
        if self.label != _SIGNED:
            more["reason"], more["bundle"] = self.reason or self.note, ""
        return told | {key: value for key, value in more.items() if value}


def run(arguments: argparse.Namespace) -> int:
    """Sign them; return 0, or 1 where one was not signed."""
    if arguments.keyless and (arguments.key is not None or arguments.keyref is not None):
        raise UsageError("--keyless signs without a key; leave --key and --keyref out")
    if bool(arguments.file) == arguments.all:
        raise UsageError("name the files to sign, or say --all, not both" if arguments.all else _nothing_named())
    if arguments.policy is not None and not arguments.all:
        raise UsageError("--policy says which files --all means; a FILE is signed whatever the policy says")
    at = place.where()
    reference = place.key_of("--key", arguments.key, arguments.keyref, at)
    sight, blind = _sight(arguments, at)
    opened, done = _opened_all(arguments, sight, at)
    if opened:
        signs = _keyless(arguments.trusted_root, at) if arguments.keyless else _keyed(reference, at)
        root = sight.root if sight is not None else at.workdir
        done += _one_bundle(opened, root, signs) if arguments.multi_subject else _bundles(opened, signs)
    for each in opened:
        files.close(each)
    done.sort()
    failed = any(each.failed for each in done)
    if arguments.json:
        print(json.dumps({"files": [each.as_json() for each in done]}, indent=1))
        return int(failed)
    rows = [each.row(at) for each in done]
    rows += _afterwards(arguments, at, done, blind)
    print(render.table(rows), end="")
    return int(failed)


def _nothing_named() -> str:
    return "say which files to sign: nono trust sign FILE …, or nono trust sign --all"


def _sight(arguments: argparse.Namespace, at: Where) -> tuple[Sight | None, str]:
    """Return what is in sight; for files that were named, also None and why not."""
    try:
        return place.look(arguments, at), ""
    except NonoError as error:
        if arguments.all:
            raise
        return None, str(error)


def _opened_all(arguments: argparse.Namespace, sight: Sight | None, at: Where) -> tuple[list[Opened], list[Done]]:
    """Open what is to be signed; return it, and what is not. Raises UsageError where there is nothing to begin with."""
    opened: list[Opened] = []
    done: list[Done] = []
    if not arguments.all:
        for path in dict.fromkeys(map(place.absolute, arguments.file)):
            if path.endswith(bundle.SUFFIX):
                done.append(Done(path, _LEFT_OUT, "a bundle is a signature itself"))
            elif os.path.basename(path) == policy.NAME:
                reason = f"a policy is signed with: nono trust sign-policy {shell_quoted(path)}"
                done.append(Done(path, _REFUSED, reason=reason))
            elif os.path.isdir(path) and not os.path.islink(path):
                done.append(Done(path, _REFUSED, reason="is a directory; name its files, or say --all"))
            else:
                _open(path, sight, opened, done)
        return opened, done
    assert sight is not None
    found, unmatched = place.named_files(sight)
    if not found:
        raise UsageError(f"{place.no_match(sight)}; nothing was signed")
    done += [Done(each, _REFUSED, reason=verdicts.NO_MATCH) for each in unmatched]
    for verdict in place.checked(sight, found):
        path = f"{sight.root.rstrip('/')}/{verdict.path}"
        if verdict.outcome == errors.VERIFIED and not arguments.multi_subject:
            done.append(Done(path, _KEPT, f"signed by {verdict.publisher}"))
        elif verdict.outcome in (errors.UNSAFE_FILE, errors.BLOCKED):
            done.append(Done(path, _REFUSED, reason=_sentence(verdict.reason, verdict.next_step)))
        else:
            _open(path, sight, opened, done)
    return opened, done


def _open(path: str, sight: Sight | None, opened: list[Opened], done: list[Done]) -> None:
    relative = place.below(sight.root, path) if sight is not None else ""
    if not _is_text(relative or os.path.basename(path)):
        done.append(Done(path, _REFUSED, reason="has a name that is not UTF-8; rename it"))
        return
    try:
        found = files.open_file(sight.root, relative) if sight is not None and relative else files.open_path(path)
    except FileNotFoundError:
        done.append(Done(path, _REFUSED, reason=place.missing(path)))
    except errors.UnsafeFile as error:
        done.append(_failed(path, error))
    else:
        blocked = sight.rules.blocked_digests.get(found.sha256) if sight is not None else None
        if blocked is None:
            opened.append(found)
        else:
            files.close(found)
            why = f" ({blocked})" if blocked else ""
            done.append(Done(path, _BLOCKED, reason=f"is on a blocklist{why}"))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _keyed(reference: KeyReference, at: Where) -> Signs:
    """Return what signs with a key, which is asked for now."""
    keep.protect()
    private = keep.load(reference, at.config)

    def signs(subjects: Sequence[tuple[str, str]], kind: str) -> bytes:
        return signing.sign(signing.statement(subjects, kind, signing.keyed(reference.key_id)), private)

    return signs


def _keyless(trusted: str | None, at: Where) -> Signs:
    """Return what signs by Sigstore, as the identity of the CI job."""
    keyless: Any = import_module("nono.trust.keyless_signing")
    identity = keyless.ambient()
    root = trusted_root.load(at.config, place.absolute(trusted) if trusted is not None else "")
    sign = keyless.signer(identity, root, trusted_root.load_signing(at.config))

    def signs(subjects: Sequence[tuple[str, str]], kind: str) -> bytes:
        signed: bytes = sign(signing.statement(subjects, kind, identity.signer))
        return signed

    return signs


def _bundles(opened: Iterable[Opened], signs: Signs) -> list[Done]:
    """Sign each file, with a bundle beside it."""
    done = []
    broken: NonoError | None = None  # what signs; then it is not asked again
    for each in opened:
        name = os.path.basename(each.path)
        try:
            if broken is not None:
                raise broken
            write_beside(each, signs([(name, each.sha256)], bundle.INSTRUCTION_FILE))
        except NonoError as error:
            done.append(_failed(each.path, error))
            broken = None if isinstance(error, (errors.TrustError, StoreError)) else error
        else:
            done.append(Done(each.path, _SIGNED, f"{name}{bundle.SUFFIX}", sha256=each.sha256))
    return done


def _one_bundle(opened: Sequence[Opened], root: str, signs: Signs) -> list[Done]:
    """Sign all files with the one bundle of the tree, which replaces the one before."""
    done = []
    inside = []
    for each in opened:
        if place.below(root, each.path):
            inside.append(each)
        else:
            done.append(Done(each.path, _REFUSED, reason=f"is not below {root}, where the bundle is"))
    path = f"{root.rstrip('/')}/{bundle.MULTI_NAME}"
    try:
        if inside:
            data = signs([(place.below(root, each.path), each.sha256) for each in inside], bundle.MULTI_FILE)
            for each in inside:
                files.recheck(each)
            writing.write(path, data, mode=writing.SHARED, over=True)
    except (errors.TrustError, StoreError) as error:
        return [*done, *(_failed(each.path, error) for each in inside)]
    return [*done, *(Done(each.path, _SIGNED, bundle.MULTI_NAME, sha256=each.sha256) for each in inside)]


def write_beside(opened: Opened, data: bytes) -> None:
    """Write the bundle of a file into the directory that holds it. Raises StoreError, UnsafeFile."""
    directory, name = os.path.split(opened.path)
    with writing.Directory(directory) as target:
        files.recheck(opened)
        if not target.holds(name, *opened.identity[:2]):
            raise errors.UnsafeFile(errors.CHANGED, opened.path, "was moved while it was signed")
        target.write(f"{name}{bundle.SUFFIX}", data, mode=writing.SHARED, over=True)


def _failed(path: str, error: NonoError) -> Done:
    if isinstance(error, errors.TrustError):
        return Done(path, _REFUSED, reason=_sentence(error.reason, error.next_step))
    return Done(path, _REFUSED, reason=str(error))


def _sentence(reason: str, next_step: str) -> str:
    return f"{reason}; {next_step}" if next_step else reason


def _afterwards(arguments: argparse.Namespace, at: Where, done: Sequence[Done], blind: str) -> list[tuple[str, str]]:
    """Say what nono run makes of it, in this place."""
    if blind:
        return [("note", f"nono run refuses the policy here: {printable(blind)}")]
    if all(each.label != _SIGNED for each in done) or arguments.policy is not None:
        return []
    sight = place.look(arguments, at)
    if not sight.policy and not sight.rules.user:
        return [("next", "nono trust init --include PATTERN: a policy says that it must be signed, and by whom")]
    named, _ = place.everything(sight)
    refused = [each for each in named if each.outcome != errors.VERIFIED]
    if not refused:
        count = "1 file" if len(named) == 1 else f"{len(named)} files"
        return [("verified", f"all that the policies name ({count})")] if named else []
    said = {each.path for each in done if each.failed}
    news = [each for each in refused if f"{sight.root.rstrip('/')}/{each.path}" not in said]
    if not news:
        return []
    count = "1 file that the policies name does" if len(news) == 1 else f"{len(news)} files that the policies name do"
    rows = [verdicts.row(each, render.home_of(os.environ)) for each in news[:_SHOWN]]
    more = [("", f"{len(news) - _SHOWN} more  (nono trust list)")] if len(news) > _SHOWN else []
    return [("note", f"{count} not verify yet:"), *rows, *more]
