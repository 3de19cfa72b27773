"""Which policies count, and by whose signature.

    built in            nono/trust/data/trust-policy.json, part of the program
    the user's          CONFIG/nono/trust-policy.json, signed by one of his own keys (own.py)
    the project's       ROOT/trust-policy.json, signed by one of his own keys or by a publisher of his policy

A policy that is there and is not signed like that is no policy: nothing starts. Neither is it passed over, since
whoever can take a signature away could otherwise take the policy away. The user's blocklist holds for the project's
policy as for any file: an old policy is revoked by its digest.

ROOT is the nearest directory, from the working directory upward, that holds a trust-policy.json; in the home directory
the search ends there, elsewhere at /. Of the directories above the working directory only those count that belong to
the user, to root, or to the owner of the working directory, as does the file: a stranger's file in /tmp is nobody's
policy. Somebody else's format (AWS IAM calls its trust policies so) is passed over and noted, unless a bundle stands
beside it, or it is the user's own.
"""

from __future__ import annotations

from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.trust.check import IdentityOf
    from nono.trust.files import Opened
    from nono.trust.policy import Policy, Rules


class Root(Record):
    """Where the project's policy is. path: its directory, absolute; "" for none. notes: what was passed over."""

    path: str = ""
    notes: tuple[str, ...] = ()


class Loaded(Record):
    """The rules, and what they were read from: policies and their bundles, still open (files.recheck, files.close)."""

    rules: Rules
    opened: tuple[Opened, ...] = ()
    notes: tuple[str, ...] = ()


def find_root(workdir: str, home: str) -> Root:
    """Return where the project's policy is. workdir, home: absolute, without links. Raises TrustError, PolicyError."""
    raise NotImplementedError


def built_in() -> Policy:
    """Return the policy that is part of nono."""
    raise NotImplementedError


def load_policies(root: str, config_dir: str, keyless: IdentityOf, base: Policy | None = None) -> Loaded:
    """Return the rules for the tree `root` ("" where no project has a policy).

    config_dir: CONFIG/nono. base: in place of the built-in policy. Raises TrustError for a policy that is not signed
    as it has to be, PolicyError for one that is wrong.
    """
    raise NotImplementedError
