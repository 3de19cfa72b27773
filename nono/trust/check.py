"""One file and its bundle against the rules -> Verdict.

In this order, the first that has something to say decides:

1. the digest is on a blocklist: blocked;
2. there is no bundle: unsigned;
3. the statement is of another kind (a policy's bundle is none for a file), or for another file;
4. the signature, under each key that may have made it: bad_signature, untrusted, expired, malformed;
5. the signer is on a blocklist: blocked; he is not a publisher: untrusted;
6. the digest is not the signed one: changed, and by then it is known who signed.

A file's own bundle (FILE.bundle) has one subject, named as the file is, or by its path below the root; the bundle of a
tree (.nono-trust.bundle) has paths below the root. Where a file has both, one that verifies is enough, unless the other
is on a blocklist.

Nothing here reads a policy or walks a tree. Nothing is written, and nobody is asked anything.
"""

from __future__ import annotations

from nono.record import Record
from nono.trust.errors import BLOCKED, VERIFIED
from nono.trust.policy import DENY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nono.trust.bundle import Bundle
    from nono.trust.errors import BundleError
    from nono.trust.files import Opened
    from nono.trust.find import Found
    from nono.trust.policy import Keyless, Publisher, Rules, Signer

    IdentityOf = Callable[[Bundle], Keyless]
    """keyless.identity_of, with its trust root: raises BundleError."""


class Verdict(Record):
    """path: relative to the root. outcome: one of errors.OUTCOMES. sha256: "" where it could not be read.

    publisher: the name of who signed, where he is known. reason: what is wrong, to follow the path in a sentence; ""
    where nothing is. next_step: what the user can do, with the command.
    """

    path: str
    sha256: str
    outcome: str
    publisher: str = ""
    reason: str = ""
    next_step: str = ""


class Checked(Record):
    """A verdict, with what it is about. opened, bundles: still open, the caller closes them (files.close)."""

    verdict: Verdict
    opened: Opened | None = None
    bundles: tuple[Opened, ...] = ()


class Vouched(Record):
    """A bundle whose signature was verified, once for all of its subjects; or `error`, why it was not."""

    bundle: Bundle
    signer: Signer | None = None
    publisher: Publisher | None = None
    error: BundleError | None = None


class Multi(Record):
    """The bundle of a tree. opened: the caller closes it. error: it is there, but is none."""

    vouched: Vouched | None = None
    opened: Opened | None = None
    error: BundleError | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The paths that it names: they are verified like those that the includes match."""
        raise NotImplementedError


def denies(verdict: Verdict, enforcement: str) -> bool:
    """Whether an agent is not to start because of this verdict."""
    return verdict.outcome == BLOCKED or (verdict.outcome != VERIFIED and enforcement == DENY)


def vouch(bundle: Bundle, rules: Rules, keyless: IdentityOf, predicate_types: tuple[str, ...]) -> Vouched:
    """Return who signed `bundle`, if it is of one of these kinds and he may."""
    raise NotImplementedError


def check(opened: Opened, vouched: Vouched | None, rules: Rules) -> Verdict:
    """Return the verdict on a file. vouched: its bundle; None where it has none."""
    raise NotImplementedError


def open_multi(root: str, rules: Rules, keyless: IdentityOf) -> Multi | None:
    """Return the bundle of the tree `root`; None where there is none."""
    raise NotImplementedError


def check_path(root: str, found: Found, rules: Rules, keyless: IdentityOf, multi: Multi | None = None) -> Checked:
    """Open a file and its bundle, and return the verdict. Never raises for what is in the tree."""
    raise NotImplementedError
