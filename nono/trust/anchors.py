"""Which policies count, and by whose signature.

    built in            nono/trust/data/trust-policy.json, part of the program
    the user's          CONFIG/nono/trust-policy.json, signed by one of his own keys (own.py)
    the project's       ROOT/trust-policy.json, signed by one of his own keys or by a publisher of his policy

A policy that is there and is not signed like that is no policy: nothing starts. Neither is it passed over, since
whoever can take a signature away could otherwise take the policy away. The user's blocklist holds for the project's
policy as for any file: an old policy is revoked by its digest.

ROOT is the nearest directory, from the working directory upward, that holds a trust-policy.json; in the home
directory the search ends there, elsewhere at /. Those above it count for nothing, which is noted: whoever can write
below a project could copy a milder one there, that the same signer has signed for another. Of the directories above
the working directory only those count that belong to the user, to root, or to the owner of the working directory, as
does the file: a stranger's file in /tmp is nobody's policy. Somebody else's format (AWS IAM calls its trust policies
so) is passed over and noted, unless a bundle stands beside it, or it is the user's own.
"""

from __future__ import annotations

import os

from nono.policy.verdict import shell_quoted
from nono.record import Record
from nono.trust import check, files, own
from nono.trust.bundle import SUFFIX
from nono.trust.errors import UNSAFE_FILE, UNTRUSTED, VERIFIED, TrustError, UnsafeFile
from nono.trust.policy import MOST_BYTES, NAME, OWN_KEYS, Rules, is_foreign, merge, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono.trust.check import IdentityOf
    from nono.trust.files import Opened
    from nono.trust.policy import Policy, Publisher

USERS = "your trust policy"
PROJECTS = "the project's trust policy"
BUILT_IN = "the built-in trust policy"
_OWN_KEYS_OR_USERS = f"{USERS}, and not with one of {OWN_KEYS}"
_BUILT_IN = f"{__file__.rpartition('/')[0]}/data/{NAME}"


class Root(Record):
    """Where the project's policy is. path: its directory, absolute; "" for none. notes: what was passed over."""

    path: str = ""
    notes: tuple[str, ...] = ()


class Loaded(Record):
    """The rules, and what they were read from: policies and their bundles, still open (files.recheck, files.close).

    notes: what the user is to be told, whatever the verdicts.
    """

    rules: Rules
    opened: tuple[Opened, ...] = ()
    notes: tuple[str, ...] = ()


def find_root(workdir: str, home: str) -> Root:
    """Return where the project's policy is. workdir, home: absolute, without links."""
    root = ""
    notes = []
    directory = workdir
    trusted = {0, os.geteuid(), _owner(workdir)}
    while True:
        path = f"{directory.rstrip('/')}/{NAME}"
        if os.path.lexists(path):
            others = ""
            if directory != workdir and not {_owner(directory), _owner(path)} <= trusted:
                others = "belongs to somebody else"
            elif not os.path.lexists(path + SUFFIX) and _is_foreign(directory):
                others = "is not a trust policy of nono's"
            if not root and others:
                notes.append(f"{path} {others} and is passed over")
            elif root and not others:
                notes.append(f"{path} is not asked, because {root}/{NAME} is nearer")
            elif not root:
                root = directory
        if directory in (home, "/"):
            return Root(root, tuple(notes))
        directory = directory.rpartition("/")[0] or "/"


def built_in() -> Policy:
    """Return the policy that is part of nono."""
    with open(_BUILT_IN, "rb") as file:
        return parse(file.read(), BUILT_IN)


def load_policies(root: str, config_dir: str, keyless: IdentityOf, base: Policy | None = None) -> Loaded:
    """Return the rules for the tree `root` ("" where no project has a policy).

    config_dir: CONFIG/nono. base: in place of the built-in policy. Raises TrustError for a policy that is not signed
    as it has to be, PolicyError for one that is wrong.
    """
    base = built_in() if base is None else base
    mine = own.read(config_dir)
    opened: list[Opened] = []
    try:
        user = project = None
        if os.path.lexists(f"{config_dir}/{NAME}"):
            user = _signed(config_dir, USERS, _may_sign(base, None, mine), keyless, opened)
        if root:
            project = _signed(root, PROJECTS, _may_sign(base, user, mine), keyless, opened)
        return Loaded(merge(base, user, project, mine), tuple(opened))
    except BaseException:
        for one in opened:
            files.close(one)
        raise


def _may_sign(base: Policy, user: Policy | None, mine: Sequence[Publisher]) -> Rules:
    """Return the rules by which a policy is verified: who may sign one, and the blocklists that are known by then."""
    rules = merge(base, user, None, mine)
    if user is None:
        return rules._replace(circles=((OWN_KEYS, rules.own),))
    ((_, publishers), *_) = rules.circles
    return rules._replace(circles=((_OWN_KEYS_OR_USERS, (*rules.own, *publishers)),))


def _signed(directory: str, source: str, rules: Rules, keyless: IdentityOf, kept: list[Opened]) -> Policy:
    """Return the policy of a directory, its signature verified; it and its bundle are kept open."""
    path = f"{directory.rstrip('/')}/{NAME}"
    try:
        opened = files.open_path(path, most=MOST_BYTES, keep=True)
    except FileNotFoundError:
        raise TrustError(UNSAFE_FILE, path, "is not there any more", "start again") from None
    except UnsafeFile as error:
        raise TrustError(error.outcome, path, error.reason, error.next_step) from None
    kept.append(opened._replace(data=b""))
    command = "nono trust sign-policy " + ("--user" if source == USERS else shell_quoted(path))
    verdict, _, bundles = check.check_policy(opened, rules, keyless, command)
    kept += bundles
    if verdict.outcome != VERIFIED:
        next_step = verdict.next_step
        if verdict.outcome == UNTRUSTED:
            next_step = f"if you have read it and want it, sign it yourself: {command}"
        if not rules.own:
            next_step += " (you have no key yet: nono trust keygen)"
        raise TrustError(verdict.outcome, path, verdict.reason, next_step)
    return parse(opened.data, source)


def _is_foreign(directory: str) -> bool:
    """Whether the policy there is somebody else's. One that cannot be read is not: it is refused by its name."""
    try:
        opened = files.open_file(directory, NAME, most=MOST_BYTES, keep=True)
    except (OSError, UnsafeFile):
        return False
    files.close(opened)
    return is_foreign(opened.data)


def _owner(path: str) -> int:
    try:
        return os.lstat(path).st_uid
    except OSError:
        return -1
