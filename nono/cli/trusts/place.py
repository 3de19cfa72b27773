"""What the actions of `nono trust` look at: the own keys, the policies in sight, and the files that these name.

What is judged here is judged as `nono run` would in this directory, by the same code. With --policy FILE, that policy
alone holds, signed or not: whoever typed its name has said so himself. Its includes are relative to the working
directory then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module

from nono.cli.render import home_of, printable, short
from nono.cli.trusts import keyref
from nono.cli.trusts.keyref import KeyReference
from nono.errors import PolicyError, UsageError
from nono.policy.network import nearest
from nono.policy.paths import Place, expand
from nono.record import Record
from nono.supervisor.whereabouts import find_place
from nono.trust import anchors, bundle, check, files, find, globs, own, policy, trusted_root
from nono.trust.errors import UnsafeFile
from nono.trust.files import Opened
from nono.trust.policy import Publisher, Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from nono.trust.bundle import Bundle
    from nono.trust.check import IdentityOf, Verdict
    from nono.trust.policy import Keyless
    from nono.trust.trusted_root import TrustRoot

_NAMES_LOOKED_AT = 1000


class Where(Record):
    """workdir, home: without links. config: nono's own directory of settings."""

    workdir: str
    home: str
    config: str
    place: Place

    @property
    def users_policy(self) -> str:
        """Where the user's own policy is."""
        return f"{self.config}/{policy.NAME}"


class Sight(Record):
    """What is to be judged, and by what.

    root: of the tree, absolute. policy: the path of its policy; "" for none. elsewhere: `files` of the policies.
    """

    root: str
    policy: str
    rules: Rules
    elsewhere: tuple[str, ...]
    notes: tuple[str, ...]
    keyless: IdentityOf


def where() -> Where:
    """Return where the user stands. Raises UsageError."""
    place = find_place(None, os.environ)
    return Where(os.path.realpath(place.workdir), os.path.realpath(place.home), f"{place.config_home}/nono", place)


def look(arguments: argparse.Namespace, at: Where) -> Sight:
    """Return what is in sight. Raises TrustError for a policy that is not signed as it has to be, PolicyError."""
    keyless = _identity_of(getattr(arguments, "trusted_root", None), at)
    if arguments.policy is not None:
        path = os.path.abspath(arguments.policy)
        opened = open_policy(path)
        files.close(opened)
        rules = policy.merge(anchors.built_in(), None, policy.parse(opened.data, path), own.read(at.config))
        return Sight(at.workdir, path, rules, _elsewhere(rules, at), (), keyless)
    found = anchors.find_root(at.workdir, at.home)
    loaded = anchors.load_policies(found.path, at.config, keyless)
    for opened in loaded.opened:
        files.close(opened)
    named = f"{found.path.rstrip('/')}/{policy.NAME}" if found.path else ""
    notes = (*found.notes, *loaded.notes)
    return Sight(found.path or at.workdir, named, loaded.rules, _elsewhere(loaded.rules, at), notes, keyless)


def open_policy(path: str) -> Opened:
    """Return a policy that the user named; the caller closes it. Raises UsageError, PolicyError."""
    try:
        opened = files.open_path(path, most=policy.MOST_BYTES, keep=True)
    except FileNotFoundError:
        raise UsageError(f"there is no {path}{_near(path)}") from None
    except UnsafeFile as error:
        raise PolicyError(f"{path} {error.reason}") from None
    if policy.is_foreign(opened.data):
        files.close(opened)
        raise PolicyError(
            f"{path} is none of nono's policies: it has neither predicate nor version. nono trust init makes one"
        )
    return opened


def key_of(flag: str, key_id: str | None, reference: str | None, at: Where) -> KeyReference:
    """Return the key that is meant: where none is named, `default`, or the only one that the user has."""
    if key_id is None and reference is None:
        return keyref.of(_default(own.read(at.config)))
    return keyref.chosen(flag, key_id, reference)


def typed(reference: KeyReference, at: Where, flag: str = "--key") -> str:
    """Return what one types for this key, with a space before it; "" where that need not be said."""
    return "" if reference.key_id == _default(own.read(at.config)) else reference.typed(flag)


def _default(keys: Sequence[Publisher]) -> str:
    only = keys[0].key_id if len(keys) == 1 else keyref.DEFAULT
    return keyref.DEFAULT if any(each.key_id == keyref.DEFAULT for each in keys) else only


def own_key(reference: KeyReference, at: Where) -> Publisher:
    """Return the public half of an own key. Raises UsageError where there is none, with what makes it."""
    keys = {each.key_id: each for each in own.read(at.config)}
    found = keys.get(reference.key_id)
    if found is not None:
        return found
    make = f"nono trust keygen{reference.typed('--id')}"
    near = nearest(reference.key_id, keys) if not reference.path else ""
    if near:
        raise UsageError(f"you have no key '{reference.key_id}'; did you mean {near}? Another one is made by: {make}")
    others = f" (you have {', '.join(sorted(keys)[:8])})" if keys else ""
    raise UsageError(f"you have no key '{reference.key_id}' yet{others}. It is made by: {make}")


def named_files(sight: Sight) -> tuple[list[find.Found], tuple[str, ...]]:
    """Return what the policies name below the root, and the patterns of the project's policy that match nothing."""
    found = list(find.find(sight.root, globs.compile(sight.rules.includes)))
    return found, _unmatched(sight, [each.path for each in found])


def everything(sight: Sight) -> tuple[list[Verdict], tuple[str, ...]]:
    """Return the verdicts on all that the policies name, and the patterns of the project's that match nothing."""
    found, _ = named_files(sight)
    verdicts = list(checked(sight, found, with_multi=True))
    verdicts += [checked_elsewhere(sight, path) for path in sight.elsewhere]
    return verdicts, _unmatched(sight, [each.path for each in verdicts])


def checked(sight: Sight, chosen: Iterable[find.Found], *, with_multi: bool = False) -> Iterator[Verdict]:
    """Yield the verdict on each file. with_multi: and on all others that the bundle of the tree names, and itself."""
    multi = check.open_multi(sight.root, sight.rules, sight.keyless)
    for each in check.with_named(chosen, multi) if with_multi else chosen:
        yield _closed(check.check_path(sight.root, each, sight.rules, sight.keyless, multi))
    if multi is not None and multi.opened is not None:
        files.close(multi.opened)


def checked_elsewhere(sight: Sight, path: str) -> Verdict:
    """Return the verdict on a file outside of the tree; its path is the absolute one."""
    return _closed(check.check_file(path, sight.rules, sight.keyless))


def no_match(sight: Sight) -> str:
    """Return what is said where the policies come to no file."""
    if sight.rules.includes:
        patterns = ", ".join(sight.rules.includes[:8])
        return f"nothing below {sight.root} matches the includes of the policy ({patterns})"
    if sight.policy:
        return f"{sight.policy} names no files; write their patterns into its includes, and sign it again"
    return "no policy in sight names files. One is made by: nono trust init --include PATTERN"


def below(root: str, path: str) -> str:
    """Return what leads from the root to an absolute path, whatever links lead to the root; "" where it is outside."""
    top = root.rstrip("/") + "/"
    if not path.startswith(top):
        directory, name = os.path.split(path)
        path = os.path.join(os.path.realpath(directory), name)
    return path.removeprefix(top) if path.startswith(top) else ""


def absolute(path: str) -> str:
    """Return a path that the user typed, as an absolute one. Raises UsageError for what cannot be one."""
    if not path or "\0" in path:
        raise UsageError("a file's name must not be empty or hold a NUL byte")
    return os.path.abspath(path)


def shown(path: str, at: Where) -> str:
    """Return an absolute path for a person: as one would type it here."""
    top = at.workdir.rstrip("/") + "/"
    return printable(path.removeprefix(top) if path.startswith(top) else short(path, home_of(os.environ)))


def missing(path: str) -> str:
    """Return the end of a sentence about a file that is not there."""
    return f"is not there{_near(path)}"


def _unmatched(sight: Sight, paths: Sequence[str]) -> tuple[str, ...]:
    """Return the patterns of the project's policy that match nothing; the user's are for all projects."""
    project = sight.rules.project
    return globs.compile(project.includes if project is not None else ()).unmatched(paths)


def _elsewhere(rules: Rules, at: Where) -> tuple[str, ...]:
    return tuple(expand(path, at.place) for path in rules.files)


def _closed(found: check.Checked) -> Verdict:
    for opened in (*((found.opened,) if found.opened is not None else ()), *found.bundles):
        files.close(opened)
    return found.verdict


def _identity_of(given: str | None, at: Where) -> IdentityOf:
    """Return what verifies a keyless bundle, anew each time; the library is loaded when the first one comes.

    given: a trusted root that the user named. Raises UsageError, PolicyError where it is none.
    """
    loaded: list[TrustRoot] = []
    if given is not None:
        loaded.append(trusted_root.load(at.config, absolute(given)))
        trusted_root.parse(loaded[0])

    def identity_of(of: Bundle) -> Keyless:
        keyless: Any = import_module("nono.trust.keyless")
        if not loaded:
            loaded.append(trusted_root.load(at.config))
        found: Keyless = keyless.identity_of(of, loaded[0])
        return found

    return identity_of


def _near(path: str) -> str:
    """Return the question whether a name beside it was meant."""
    directory, name = os.path.split(path)
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry, _ in zip(entries, range(_NAMES_LOOKED_AT), strict=False)]
    except OSError:
        return ""
    known = {each.lower(): each for each in names if each != name and not each.endswith(bundle.SUFFIX)}
    near = nearest(name, known)
    return f"; did you mean {known[near]}?" if near else ""
