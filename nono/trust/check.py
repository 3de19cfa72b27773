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

import os

from nono.errors import UsageError
from nono.policy.verdict import shell_quoted
from nono.record import Record
from nono.trust import bundle as bundles
from nono.trust import files, keys, strict
from nono.trust.errors import (
    BAD_SIGNATURE,
    BLOCKED,
    CHANGED,
    MALFORMED,
    UNSAFE_FILE,
    UNSIGNED,
    UNTRUSTED,
    VERIFIED,
    WRONG_FILE,
    BundleError,
    TrustError,
    UnsafeFile,
)
from nono.trust.find import Found
from nono.trust.policy import DENY, OWN_KEYS, Keyed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nono.trust.bundle import Bundle
    from nono.trust.files import Opened
    from nono.trust.policy import Blocked, Keyless, Publisher, Rules, Signer

    IdentityOf = Callable[[Bundle], Keyless]
    """keyless.identity_of, with its trust root: raises BundleError."""

_SIGNED_BY = "is signed by "
_GET_TRUSTED = "have a publisher sign it, or make the signer one"
_MOST_SHOWN = 300
_SIGN_IT = "read it, then sign it: "  # it may be an agent's work
_SIGN_TREE = "nono trust sign --multi-subject --all"
_OF_ONE_FILE = (bundles.INSTRUCTION_FILE,)
_OF_A_TREE = (bundles.MULTI_FILE,)
_OF_A_POLICY = (bundles.TRUST_POLICY,)
_WHAT = {
    bundles.INSTRUCTION_FILE: "a file",
    bundles.MULTI_FILE: "a tree of files",
    bundles.TRUST_POLICY: "a trust policy",
}


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
    """A bundle whose signature was looked at, once for all of its subjects.

    bundle: None where the file is none. error: why it counts for nothing; its reason is about the bundle.
    """

    bundle: Bundle | None
    signer: Signer | None = None
    publisher: Publisher | None = None
    error: TrustError | None = None

    @property
    def by(self) -> str:
        """The name of who signed, as the policies have it; "" where that is not known."""
        return "" if self.publisher is None else self.publisher.name


class Multi(Record):
    """The bundle of a tree. opened: the caller closes it; None where it could not be read."""

    vouched: Vouched
    opened: Opened | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The paths that it names: they are verified like those that the includes match.

        Where it can name none, because it is no bundle, that is its own: so somebody hears of it.
        """
        bundle = self.vouched.bundle
        return (bundles.MULTI_NAME,) if bundle is None else tuple(name for name, _ in bundle.statement.subjects)


def denies(verdict: Verdict, enforcement: str) -> bool:
    """Whether an agent is not to start because of this verdict."""
    return verdict.outcome == BLOCKED or (verdict.outcome != VERIFIED and enforcement == DENY)


def vouch(bundle: Bundle, rules: Rules, keyless: IdentityOf, predicate_types: tuple[str, ...]) -> Vouched:
    """Return who signed `bundle`, if it is of one of these kinds and he may."""
    try:
        _is_of(bundle, predicate_types)
        signer = _keyless_signer(bundle, rules, keyless) if bundle.is_keyless else _keyed_signer(bundle, rules)
        if entry := rules.blocked(signer):
            raise _blocked(entry, bundle)
    except BundleError as error:
        return Vouched(bundle, error=error)
    publisher = rules.publisher_for(signer)
    if publisher is not None:
        return Vouched(bundle, signer, publisher)
    return Vouched(bundle, signer, error=_untrusted(bundle, signer, rules))


def check(opened: Opened, vouched: Vouched | None, rules: Rules, command: str = "") -> Verdict:
    """Return the verdict on a file. vouched: its bundle; None where it has none. command: what would sign it."""
    path, digest = opened.relative, opened.sha256
    if digest in rules.blocked_digests:
        return _on_blocklist(path, digest, rules)
    command = command or _sign(path, vouched)
    if vouched is None:
        return Verdict(path, digest, UNSIGNED, "", "is not signed", f"{_SIGN_IT}{command}")
    if vouched.bundle is None or vouched.error is not None:
        return _not_vouched(path, digest, vouched.error, command)
    signed = _signed_digest(vouched.bundle, path)
    if not signed:
        others = vouched.bundle.statement.subjects
        name = strict.name(others[0][0]) if len(others) == 1 else f"{len(others)} other files"
        reason = f"has a bundle that is for {name}"
        return Verdict(path, digest, WRONG_FILE, vouched.by, reason, f"{_SIGN_IT}{command}")
    if signed != digest:
        reason = f"was changed after '{vouched.by}' signed it"
        return Verdict(path, digest, CHANGED, vouched.by, reason, f"sign it again, if the change is yours: {command}")
    return Verdict(path, digest, VERIFIED, vouched.by)


def open_multi(root: str, rules: Rules, keyless: IdentityOf) -> Multi | None:
    """Return the bundle of the tree `root`; None where there is none."""
    opened, vouched = _open_bundle(root, bundles.MULTI_NAME, rules, keyless, _OF_A_TREE)
    return None if vouched is None else Multi(vouched, opened)


def with_named(found: Iterable[Found], multi: Multi | None) -> list[Found]:
    """Return what is to be verified, sorted: what the includes match, and what the bundle of the tree names."""
    paths = {entry.path: entry for entry in found}
    for name in () if multi is None else multi.names:
        paths.setdefault(name, Found(name))
    return sorted(paths.values())


def check_path(root: str, found: Found, rules: Rules, keyless: IdentityOf, multi: Multi | None = None) -> Checked:
    """Open a file and its bundle, and return the verdict. Never raises for what is in the tree."""
    if found.problem:
        return _unsafe(root, Verdict(found.path, "", UNSAFE_FILE, "", found.problem, found.next_step), rules)
    try:
        opened = files.open_file(root, found.path)
    except FileNotFoundError:
        return Checked(Verdict(found.path, "", UNSAFE_FILE, "", "is not there", "restore it, or sign without it"))
    except UnsafeFile as error:
        return _unsafe(root, Verdict(found.path, "", error.outcome, "", error.reason, error.next_step), rules)
    return _checked(opened, rules, keyless, multi)


def check_file(path: str, rules: Rules, keyless: IdentityOf) -> Checked:
    """Return the verdict on a file outside of the tree (a policy's `files`), by its own bundle. path: absolute."""
    try:
        opened = files.open_path(path)
    except FileNotFoundError:
        return Checked(Verdict(path, "", UNSAFE_FILE, "", "is not there", "restore it, or take it out of the policy"))
    except UnsafeFile as error:
        return _unsafe("/", Verdict(path, "", error.outcome, "", error.reason, error.next_step), rules)
    checked = _checked(opened, rules, keyless, None, f"nono trust sign {shell_quoted(path)}")
    return checked._replace(verdict=checked.verdict._replace(path=path))


def check_policy(opened: Opened, rules: Rules, keyless: IdentityOf, command: str) -> Checked:
    """Return the verdict on a policy, by its own bundle. rules: of who may sign it (anchors.py)."""
    bundle, vouched = _open_bundle(opened.root, opened.relative + bundles.SUFFIX, rules, keyless, _OF_A_POLICY)
    return Checked(check(opened, vouched, rules, command), opened, () if bundle is None else (bundle,))


def _checked(opened: Opened, rules: Rules, keyless: IdentityOf, multi: Multi | None, command: str = "") -> Checked:
    own, vouched = _open_bundle(opened.root, opened.relative + bundles.SUFFIX, rules, keyless, _OF_ONE_FILE)
    verdicts = []
    if vouched is not None:
        verdicts.append(check(opened, vouched, rules, command))
    if multi is not None and (opened.relative in multi.names or (vouched is None and multi.vouched.bundle is None)):
        verdicts.append(check(opened, multi.vouched, rules))
    if not verdicts:
        verdicts.append(check(opened, None, rules, command))
    # One that verifies is enough; but whoever is blocked stays blocked, whatever else there is.
    verdicts.sort(key=lambda verdict: (verdict.outcome != BLOCKED, verdict.outcome != VERIFIED))
    return Checked(verdicts[0], opened, () if own is None else (own,))


def _unsafe(root: str, verdict: Verdict, rules: Rules) -> Checked:
    """Return the verdict on what nono cannot vouch for. Under warn and audit the agent gets it all the same, so what is
    blocked stays so behind a link, too."""
    digest = files.digest(os.path.join(root, verdict.path)) if rules.blocked_digests else ""
    return Checked(_on_blocklist(verdict.path, digest, rules) if digest in rules.blocked_digests else verdict)


def _on_blocklist(path: str, digest: str, rules: Rules) -> Verdict:
    why = rules.blocked_digests[digest]
    return Verdict(path, digest, BLOCKED, "", f"is on the blocklist{f': {why}' if why else ''}", "remove it")


def _open_bundle(
    root: str, name: str, rules: Rules, keyless: IdentityOf, predicate_types: tuple[str, ...]
) -> tuple[Opened | None, Vouched | None]:
    """Return a bundle's file, and what it is worth; (None, None) where there is none."""
    try:
        opened = files.open_file(root, name, most=bundles.MOST_BYTES, keep=True)
    except FileNotFoundError:
        return None, None
    except UnsafeFile as error:
        return None, Vouched(None, error=error)
    try:
        bundle = bundles.parse(opened.data, name)
    except BundleError as error:
        return opened._replace(data=b""), Vouched(None, error=error)
    return opened._replace(data=b""), vouch(bundle, rules, keyless, predicate_types)


def _is_of(bundle: Bundle, predicate_types: tuple[str, ...]) -> None:
    """Raise BundleError for a bundle of another kind, and for one that names what none of its kind can."""
    statement, source = bundle.statement, bundle.source
    kind = statement.predicate_type
    if kind not in predicate_types:
        found = f"for {_WHAT[kind]}" if kind in _WHAT else f"a statement of another kind ({strict.name(kind)[1:-1]})"
        raise BundleError(WRONG_FILE, source, f"is {found}, not for {_WHAT[predicate_types[0]]}")
    if statement.kind and statement.kind != ("keyless" if bundle.is_keyless else "keyed"):
        raise BundleError(MALFORMED, source, "is not signed in the way that its statement says")
    if kind != bundles.MULTI_FILE and len(statement.subjects) != 1:
        raise BundleError(MALFORMED, source, f"names {len(statement.subjects)} files, where it can be for one only")
    for name, _ in statement.subjects:
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise BundleError(
                MALFORMED, source, f"names {strict.name(name)}, which is not a path below the directory that it is in"
            )


def _keyless_signer(bundle: Bundle, rules: Rules, keyless: IdentityOf) -> Signer:
    for source, publishers in rules.circles:  # nobody whom it could name: no need to load what would find out
        if not any(publisher.issuer for publisher in publishers):
            reason = f"{_SIGNED_BY}somebody with a certificate, and no publisher of {source} has one"
            raise BundleError(UNTRUSTED, bundle.source, reason, _GET_TRUSTED)
    try:
        return keyless(bundle)
    except UsageError as error:  # what it takes is not installed
        raise BundleError(UNTRUSTED, bundle.source, f"cannot be verified here: {error}") from None


def _keyed_signer(bundle: Bundle, rules: Rules) -> Keyed:
    claimed, hint = bundle.statement.key_id, bundle.hint
    if entry := rules.blocked(Keyed(claimed, hint, b"")):  # whoever says that he is blocked is believed
        raise _blocked(entry, bundle)
    candidates = rules.candidates(claimed, hint)
    if not candidates:
        raise _untrusted(bundle, Keyed(claimed, hint, b""), rules)
    signed = bundles.pae(bundle.payload_type, bundle.payload)
    for candidate in candidates:
        if keys.verify(candidate.public_key, bundle.signature, signed):
            return Keyed(claimed, keys.fingerprint(candidate.public_key), candidate.public_key)
    names = " or ".join(f"'{candidate.name}'" for candidate in candidates[:2])
    raise BundleError(BAD_SIGNATURE, bundle.source, f"is not signed with the key of {names}, as it says")


def _blocked(entry: Blocked, bundle: Bundle) -> BundleError:
    why = f": {entry.reason}" if entry.reason else ""
    reason = f"{_SIGNED_BY}{strict.name(entry.identity)}, who is on the blocklist{why}"
    return BundleError(BLOCKED, bundle.source, reason, "remove it, or have somebody else look at it and sign it")


def _untrusted(bundle: Bundle, signer: Signer, rules: Rules) -> BundleError:
    if isinstance(signer, Keyed):
        name = strict.name(signer.key_id) if signer.key_id else "somebody"
        who = f"{name} (key {strict.name(signer.fingerprint[:16])[1:-1]}…)"
        if any(publisher.key_id == signer.key_id and not publisher.public_key for publisher in rules.everybody()):
            who += ", whose public_key the policy lacks,"
    else:
        who = signer.san or f"{signer.repository} ({signer.issuer})"
        who = who if who.isprintable() and len(who) <= _MOST_SHOWN else "somebody with a certificate"
    lacking = rules.lacking(signer) or OWN_KEYS
    if lacking == OWN_KEYS:
        reason = f"{_SIGNED_BY}{who} and not with one of your own keys"
    else:
        reason = f"{_SIGNED_BY}{who}, who is no publisher of {lacking}"
    return BundleError(UNTRUSTED, bundle.source, reason, _GET_TRUSTED)


def _not_vouched(path: str, digest: str, error: TrustError | None, command: str) -> Verdict:
    """Return the verdict on a file whose bundle counts for nothing."""
    if error is None:
        return Verdict(path, digest, UNSIGNED, "", "is not signed", f"{_SIGN_IT}{command}")
    itself = error.source == path or error.reason.startswith(_SIGNED_BY)
    reason = error.reason if itself else f"has a bundle that {error.reason}"
    return Verdict(path, digest, error.outcome, "", reason, error.next_step or f"sign it again: {command}")


def _signed_digest(bundle: Bundle, path: str) -> str:
    """Return the digest that the bundle has for a file; "" where it is for another."""
    subjects = dict(bundle.statement.subjects)
    if bundle.statement.predicate_type == bundles.MULTI_FILE:
        return subjects.get(path, "")
    return subjects.get(path.rpartition("/")[2]) or subjects.get(path, "")


def _sign(path: str, vouched: Vouched | None) -> str:
    """Return the command that signs a file again, as it was signed."""
    bundle = None if vouched is None else vouched.bundle
    if bundle is not None and bundle.statement.predicate_type == bundles.MULTI_FILE:
        return _SIGN_TREE
    return f"nono trust sign {shell_quoted(path)}"
