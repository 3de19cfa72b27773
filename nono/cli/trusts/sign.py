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
from functools import partial
from importlib import import_module

from nono.cli import render
from nono.cli.render import printable
from nono.cli.trusts import keep, place, verdicts, writing
from nono.cli.trusts.keyref import KeyReference
from nono.cli.trusts.place import Sight, Where
from nono.errors import NonoError, StoreError, UsageError
from nono.policy.quantities import counted
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
    """What became of one file. label: of its row. note: behind the path. reason: why it was not signed.

    was: its outcome before, where it had a signature that did not hold.
    """

    path: str
    label: str
    note: str = ""
    reason: str = ""
    sha256: str = ""
    was: str = ""

    @property
    def failed(self) -> bool:
        """Whether it was to be signed, and is not."""
        return self.label in (_REFUSED, _BLOCKED)

    def row(self, at: Where) -> tuple[str, str]:
        """Return a row of render.py."""
        more = "; it was changed since its last signature" if self.was == errors.CHANGED else ""
        note = f"  ({printable(self.note)}{more})" if self.note else ""
        reason = f": {printable(self.reason)}" if self.reason else ""
        return self.label, f"{place.shown(self.path, at)}{note}{reason}"

    def as_json(self) -> dict[str, str]:
        """Return it as data."""
        told = {"path": self.path, "status": self.label.replace(" ", "_")}
        more = {"sha256": self.sha256, "bundle": self.note, "reason": self.reason, "was": self.was}
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
    paths, done, before = _chosen(arguments, sight)
    make = partial(_keyless, arguments.trusted_root, at) if arguments.keyless else partial(_keyed, reference, at)
    if arguments.multi_subject:
        done += _one_bundle(paths, sight, sight.root if sight is not None else at.workdir, make)
    else:
        done += _bundles(paths, sight, make)
    done = sorted(each._replace(was=before.get(each.path, "") if each.label == _SIGNED else "") for each in done)
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


def _chosen(arguments: argparse.Namespace, sight: Sight | None) -> tuple[list[str], list[Done], dict[str, str]]:
    """Return the paths of what is to be signed, what is not to be, and the outcomes before, by path.

    Raises UsageError where there is nothing to begin with.
    """
    paths: list[str] = []
    done: list[Done] = []
    before: dict[str, str] = {}
    if sight is None or not arguments.all:
        for path in dict.fromkeys(map(place.absolute, arguments.file)):
            if path.endswith(bundle.SUFFIX):
                done.append(Done(path, _LEFT_OUT, "a bundle is a signature itself"))
            elif os.path.basename(path) == policy.NAME:
                reason = f"a policy is signed with: nono trust sign-policy {shell_quoted(path)}"
                done.append(Done(path, _REFUSED, reason=reason))
            elif os.path.isdir(path) and not os.path.islink(path):
                done.append(Done(path, _REFUSED, reason="is a directory; name its files, or say --all"))
            else:
                paths.append(path)
        return paths, done, before
    found, unmatched = place.named_files(sight)
    if not found:
        raise UsageError(f"{place.no_match(sight)}; nothing was signed")
    done += [Done(each, _REFUSED, reason=verdicts.NO_MATCH) for each in unmatched]
    for verdict in place.checked(sight, found):
        path = f"{sight.root.rstrip('/')}/{verdict.path}"
        if verdict.outcome == errors.VERIFIED and not arguments.multi_subject:
            done.append(Done(path, _KEPT, f"signed by {verdict.publisher}"))
        elif verdict.outcome in (errors.UNSAFE_FILE, errors.BLOCKED):
            done.append(Done(path, _REFUSED, reason=errors.sentence(verdict.reason, verdict.next_step)))
        else:
            before[path] = verdict.outcome
            paths.append(path)
    return paths, done, before


def _open(path: str, sight: Sight | None) -> Opened | Done:
    """Open what is to be signed, which the caller closes; or say why it is not."""
    relative = place.below(sight.root, path) if sight is not None else ""
    if not _is_text(relative or os.path.basename(path)):
        return Done(path, _REFUSED, reason="has a name that is not UTF-8; rename it")
    try:
        found = files.open_file(sight.root, relative) if sight is not None and relative else files.open_path(path)
    except FileNotFoundError:
        return Done(path, _REFUSED, reason=place.missing(path))
    except errors.UnsafeFile as error:
        return _failed(path, error)
    blocked = sight.rules.blocked_digests.get(found.sha256) if sight is not None else None
    if blocked is None:
        return found
    files.close(found)
    return Done(path, _BLOCKED, reason=f"is on a blocklist{f' ({blocked})' if blocked else ''}")


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


def _bundles(paths: Iterable[str], sight: Sight | None, make: Callable[[], Signs]) -> list[Done]:
    """Sign each file, with a bundle beside it. make: returns what signs, when there is something to sign."""
    done = []
    signs: Signs | None = None
    broken: NonoError | None = None  # what signs; then it is not asked again
    for path in paths:
        opened = _open(path, sight)
        if isinstance(opened, Done):
            done.append(opened)
            continue
        name = os.path.basename(path)
        try:
            signs = signs or make()
            try:
                if broken is not None:
                    raise broken
                write_beside(opened, signs([(name, opened.sha256)], bundle.INSTRUCTION_FILE))
            except NonoError as error:
                done.append(_failed(path, error))
                broken = None if isinstance(error, (errors.TrustError, StoreError)) else error
            else:
                done.append(Done(path, _SIGNED, f"{name}{bundle.SUFFIX}", sha256=opened.sha256))
        finally:
            files.close(opened)
    return done


def _one_bundle(paths: Iterable[str], sight: Sight | None, root: str, make: Callable[[], Signs]) -> list[Done]:
    """Sign all files with the one bundle of the tree, which replaces the one before."""
    done = []
    subjects: dict[str, str] = {}
    signed = []
    for path in paths:
        opened = _open(path, sight)
        if isinstance(opened, Done):
            done.append(opened)
            continue
        files.close(opened)
        relative = place.below(root, path)
        if relative:
            subjects[relative] = opened.sha256
            signed.append(Done(path, _SIGNED, bundle.MULTI_NAME, sha256=opened.sha256))
        else:
            done.append(Done(path, _REFUSED, reason=f"is not below {root}, where the bundle is"))
    if not signed:
        return done
    gone = [f"{root.rstrip('/')}/{name}" for name in _names_before(root) if name not in subjects]
    done += [Done(path, _LEFT_OUT, f"{bundle.MULTI_NAME} was for it, too") for path in gone]
    data = make()(list(subjects.items()), bundle.MULTI_FILE)
    try:
        for each in signed:
            again = _open(each.path, sight)
            if isinstance(again, Done):
                raise errors.UnsafeFile(errors.CHANGED, each.path, again.reason)
            files.close(again)
            if again.sha256 != each.sha256:
                raise errors.UnsafeFile(errors.CHANGED, each.path, "was changed while it was signed")
        writing.write(f"{root.rstrip('/')}/{bundle.MULTI_NAME}", data, mode=writing.SHARED, over=True)
    except (errors.TrustError, StoreError) as error:
        return [*done, *(Done(each.path, _REFUSED, reason=f"was not signed: {error}") for each in signed)]
    return [*done, *signed]


def _names_before(root: str) -> list[str]:
    """Return what the bundle of the tree that is there is for; nothing where it is none."""
    try:
        opened = files.open_file(root, bundle.MULTI_NAME, most=bundle.MOST_BYTES, keep=True)
    except (FileNotFoundError, errors.UnsafeFile):
        return []
    files.close(opened)
    try:
        return [name for name, _ in bundle.parse(opened.data, bundle.MULTI_NAME).statement.subjects]
    except errors.BundleError:
        return []


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
        return Done(path, _REFUSED, reason=errors.sentence(error.reason, error.next_step))
    return Done(path, _REFUSED, reason=str(error))


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
        return [("verified", f"all that the policies name ({counted(len(named), 'file')})")] if named else []
    said = {each.path for each in done if each.failed}
    news = [each for each in refused if f"{sight.root.rstrip('/')}/{each.path}" not in said]
    if not news:
        return []
    do = "does" if len(news) == 1 else "do"
    rows = [verdicts.row(each, render.home_of(os.environ)) for each in news[:_SHOWN]]
    more = [("", f"{len(news) - _SHOWN} more  (nono trust list)")] if len(news) > _SHOWN else []
    return [("note", f"{counted(len(news), 'file')} that the policies name {do} not verify yet:"), *rows, *more]
