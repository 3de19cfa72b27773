"""trust-policy.json -> Policy; policies -> Rules; whether a signer is a publisher. Pure.

Everything in a policy that is not understood is refused by its name: a misspelt "publishers" must not mean "nobody", a
second "enforcement" must not replace the first. How policies come together:

- a signer must be a publisher of the user's policy and, where the project's policy names publishers, of that, too: a
  project narrows, it never adds (Rules.circles: the signer must be in each). Where there is no user's policy, the user
  has signed the project's himself, so its publishers count. With neither, the user's own keys do.
- includes, files, and blocklists are united; the strictest enforcement holds.

A keyed publisher is a public key. The key_id that a signer claims, like the hint of a bundle, only says which keys are
worth a try: whoever verified under a publisher's public_key is that publisher, and nobody else is. A publisher without
public_key, whose key_id is that of an own key, has that key; otherwise he cannot be recognised.

A keyless publisher is an identity that Fulcio certified: the issuer exactly, the others with `*` for anything. A field
that the certificate lacks matches nothing, not even `*`.

Source: the Rust tool's trust/types.rs and trust/policy.rs for the format and its limits.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64

from nono.errors import PolicyError
from nono.policy.shape import Each, Kind, Maybe, Member, Mistake, Number, Shape, Text
from nono.record import Record
from nono.trust import globs, keys, strict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

NAME = "trust-policy.json"
PREDICATE = "https://nono.sh/attestation/trust-policy/v1"
AUDIT, WARN, DENY = "audit", "warn", "deny"
ENFORCEMENTS = (AUDIT, WARN, DENY)
"""From the mildest to the strictest."""
OWN_KEYS = "your own keys"
MOST_BYTES = 8 << 20
_MOST = {"includes": 100, "files": 1000, "publishers": 1000, "digests": 10_000}  # the Rust tool's
_MOST_TEXT = 4096
_SHA256 = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_GITHUB = "https://github.com/"
_OURS = ("predicate", "version", "includes", "publishers", "blocklist", "enforcement")


class Publisher(Record):
    """Someone who may sign. Keyed: key_id, public_key (DER, as keys.py has it); keyless: the other fields."""

    name: str
    key_id: str = ""
    public_key: bytes = b""
    issuer: str = ""
    repository: str = ""
    workflow: str = ""
    build_signer_uri: str = ""
    ref_pattern: str = ""


class Keyed(Record):
    """Who signed with a key: `public_key` (DER) verified it. key_id: what the signer calls it."""

    key_id: str
    fingerprint: str
    public_key: bytes


class Keyless(Record):
    """Who signed with a certificate of Fulcio, by what it says. "" for what it does not say.

    repository: without "https://github.com/"; workflow: its path in the repository; both as the Rust tool has them.
    """

    issuer: str
    repository: str
    workflow: str
    ref: str
    build_signer_uri: str = ""
    san: str = ""


Signer = Keyed | Keyless


class Blocked(Record):
    """A publisher on a blocklist. repository: of an issuer's identities only those; "" for all."""

    identity: str
    repository: str = ""
    reason: str = ""


class Policy(Record):
    """One trust-policy.json. blocked_digests: SHA-256, lower-case -> description."""

    source: str
    includes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    publishers: tuple[Publisher, ...] = ()
    blocked_digests: Mapping[str, str] = {}
    blocked_publishers: tuple[Blocked, ...] = ()
    enforcement: str = AUDIT


class Rules(Record):
    """What policies come to.

    built_in, user, project: the policies, apart. circles: a signer must be in each of them; each with its policy's
    source. own: the user's own keys. enforcement: one of ENFORCEMENTS.
    """

    includes: tuple[str, ...]
    files: tuple[str, ...]
    circles: tuple[tuple[str, tuple[Publisher, ...]], ...]
    blocked_digests: Mapping[str, str]
    blocked_publishers: tuple[Blocked, ...]
    enforcement: str
    own: tuple[Publisher, ...]
    built_in: Policy
    user: Policy | None = None
    project: Policy | None = None

    def publisher_for(self, signer: Signer) -> Publisher | None:
        """Return who of the first circle `signer` is, where he is in all of them."""
        if not self.circles or self.lacking(signer):
            return None
        return next(publisher for publisher in self.circles[0][1] if matches(publisher, signer))

    def lacking(self, signer: Signer) -> str:
        """Return the source of the first policy of which `signer` is no publisher; "" where there is none."""
        for source, publishers in self.circles:
            if not any(matches(publisher, signer) for publisher in publishers):
                return source
        return ""

    def candidates(self, key_id: str, hint: str) -> tuple[Publisher, ...]:
        """Return the keyed publishers whose key may have made a signature that says so; each key once.

        First whom the hint says: very many may have the same key_id.
        """
        found: dict[bytes, Publisher] = {}
        for publisher in self.everybody():
            key = publisher.public_key
            if key and key not in found and (publisher.key_id == key_id or keys.fingerprint(key) == hint):
                found[key] = publisher
        return tuple(sorted(found.values(), key=lambda publisher: keys.fingerprint(publisher.public_key) != hint))

    def blocked(self, signer: Signer) -> Blocked | None:
        """Return the entry of a blocklist that `signer` is on, by any name that he has here."""
        if not self.blocked_publishers:
            return None
        names = set()
        for publisher in self.everybody():
            if matches(publisher, signer):
                names |= {publisher.name, publisher.key_id}
        names.discard("")
        for entry in self.blocked_publishers:
            if entry.identity in names or _is_named(entry, signer):
                return entry
        return None

    def everybody(self) -> list[Publisher]:
        """Return the publishers of all circles, and the own keys."""
        return [publisher for _, publishers in (*self.circles, ("", self.own)) for publisher in publishers]


def parse(data: bytes, source: str) -> Policy:
    """Return the policy. source: how a user knows it. Raises PolicyError, with the place in it."""
    if len(data) > MOST_BYTES:
        raise PolicyError(f"{source} is larger than {MOST_BYTES >> 20} MiB, which no trust policy is")
    try:
        value = _POLICY.check(strict.loads(data), "")
        if value.get("predicate") is None and value.get("version") is None:
            raise Mistake("", f'predicate is missing; it has to be "{PREDICATE}"')
        blocklist = value.get("blocklist") or {}
        policy = Policy(
            source,
            value["includes"],
            value.get("files") or (),
            tuple(_publisher(entry, f"publishers[{n}]") for n, entry in enumerate(value["publishers"])),
            {entry["sha256"].lower(): entry.get("description") or "" for entry in blocklist.get("digests") or ()},
            tuple(
                Blocked(entry["identity"], entry.get("repository") or "", entry.get("reason") or "")
                for entry in blocklist.get("publishers") or ()
            ),
            value["enforcement"],
        )
        globs.compile(policy.includes)
        for pattern in policy.includes:
            globs.refuse_impossible(pattern)
    except Mistake as error:
        raise PolicyError(f"{source}: {error}") from None
    except strict.NotStrict as error:
        raise PolicyError(f"{source} {error}") from None
    except PolicyError as error:
        raise PolicyError(f"{source}: includes: {error}") from None
    return policy


def is_foreign(data: bytes) -> bool:
    """Whether a file called trust-policy.json is somebody else's: sound JSON with none of the keys of ours."""
    try:
        value = strict.loads(data)
    except strict.NotStrict:
        return False
    return not isinstance(value, dict) or not any(key in value for key in _OURS)


def merge(built_in: Policy, user: Policy | None, project: Policy | None, own: Sequence[Publisher]) -> Rules:
    """Return what the policies, whose signatures have been verified, come to."""
    policies = [policy for policy in (built_in, user, project) if policy is not None]
    circles = [] if user is None else [user]
    if project is not None and (project.publishers or user is None):
        circles.append(project)
    if built_in.publishers:
        circles.append(built_in)
    named = [(policy.source, _with_own_keys(policy.publishers, own)) for policy in circles]
    if user is None and project is None:
        named.append((OWN_KEYS, tuple(own)))
    return Rules(
        includes=_united(policy.includes for policy in policies),
        files=_united(policy.files for policy in policies),
        circles=tuple(named),
        blocked_digests={
            digest: why for policy in reversed(policies) for digest, why in policy.blocked_digests.items()
        },
        blocked_publishers=tuple(entry for policy in policies for entry in policy.blocked_publishers),
        enforcement=max((policy.enforcement for policy in policies), key=ENFORCEMENTS.index),
        own=tuple(own),
        built_in=built_in,
        user=user,
        project=project,
    )


def matches(publisher: Publisher, signer: Signer) -> bool:
    """Whether `signer`, whose signature has been verified, is this publisher."""
    if isinstance(signer, Keyed):
        return bool(signer.public_key) and publisher.public_key == signer.public_key
    if not publisher.issuer or publisher.issuer != signer.issuer:
        return False
    place = (publisher.workflow, signer.workflow)
    if publisher.build_signer_uri:
        place = (publisher.build_signer_uri, signer.build_signer_uri)
    return all(
        pattern and value and wildcard(pattern, value)
        for pattern, value in (
            (publisher.repository, signer.repository),
            place,
            (publisher.ref_pattern, signer.ref),
        )
    )


def wildcard(pattern: str, value: str) -> bool:
    """Whether `value` is as `pattern` has it, in which `*` is anything. Linear: each part is searched once."""
    first, *rest = pattern.split("*")
    if not rest:
        return value == first
    last = rest.pop()
    if len(value) < len(first) + len(last) or not value.startswith(first) or not value.endswith(last):
        return False
    at, end = len(first), len(value) - len(last)
    for part in rest:
        at = value.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def _is_named(entry: Blocked, signer: Signer) -> bool:
    """Whether an entry of a blocklist is about `signer` by what is known of him without a policy.

    However it is spelt: where a publisher that is misspelt is nobody, a blocked one would be let in.
    """
    if isinstance(signer, Keyed):
        return bool(entry.identity) and (
            entry.identity == signer.key_id or entry.identity.lower() == signer.fingerprint
        )
    if entry.identity and entry.identity == signer.san:
        return True
    if not entry.identity or entry.identity.rstrip("/") != signer.issuer.rstrip("/"):
        return False
    repository = entry.repository.removeprefix(_GITHUB).rstrip("/")  # a certificate's is "org/repo"
    return not repository or wildcard(repository.lower(), signer.repository.lower())


def _with_own_keys(publishers: Sequence[Publisher], own: Sequence[Publisher]) -> tuple[Publisher, ...]:
    of = {publisher.key_id: publisher.public_key for publisher in own}
    return tuple(
        publisher._replace(public_key=of[publisher.key_id])
        if not publisher.public_key and publisher.key_id in of
        else publisher
        for publisher in publishers
    )


def _united(of: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry for entries in of for entry in entries))


def _publisher(value: Mapping[str, Any], at: str) -> Publisher:
    said = {key: entry for key, entry in value.items() if entry}
    if bool(said.get("issuer")) == bool(said.get("key_id")):
        what = "both key_id and issuer; a publisher is one" if said.get("issuer") else "neither key_id nor issuer"
        raise Mistake(at, f"has {what}")
    if "issuer" in said:
        if "public_key" in said:
            raise Mistake(at, "has a public_key beside issuer; a publisher is keyed (key_id) or keyless (issuer)")
        for key in ("repository", "ref_pattern"):
            if key not in said:
                raise Mistake(at, f'{key} is missing; "*" is any')
        if "workflow" not in said and "build_signer_uri" not in said:
            raise Mistake(at, 'workflow is missing, or build_signer_uri in its place; "*" is any')
    else:
        for key in ("repository", "workflow", "build_signer_uri", "ref_pattern"):
            if key in said:
                raise Mistake(f"{at}.{key}", " belongs to a publisher with issuer, not to one with key_id")
        if "public_key" in said:
            said["public_key"] = _public_key(said["public_key"], f"{at}.public_key")
    return Publisher(**said)


def _public_key(text: str, at: str) -> bytes:
    try:
        der = a2b_base64(text, strict_mode=True)
    except (ValueError, Base64Error):
        der = b""
    if not keys.is_public(der):
        raise Mistake(at, "is no public key of the curve P-256 as base64 of its DER (nono trust export-key prints it)")
    return der


class _Some(Each):
    """A list of at most so many entries."""

    def __init__(self, kind: Kind, name: str) -> None:
        super().__init__(kind)
        self._most, self._name = _MOST[name], name

    def check(self, value: object, at: str) -> Any:
        if isinstance(value, list) and len(value) > self._most:
            raise Mistake(at, f"has {len(value)} entries, more than {self._most}")
        return super().check(value, at)


def _short(text: str) -> None:
    if len(text) > _MOST_TEXT:
        raise PolicyError(f"is longer than {_MOST_TEXT} characters")


def _shown(text: str) -> None:
    _short(text)
    if not text.isprintable():
        raise PolicyError("has a character that cannot be shown")


def _path(text: str) -> None:
    _shown(text)
    if not text.startswith(("/", "~/")):
        raise PolicyError("is not an absolute path; begin it with / or ~/")


def _digest(text: str) -> None:
    if not _SHA256.fullmatch(text):
        raise PolicyError("is not a SHA-256 in 64 hexadecimal digits")


_NAMED = Text("a string that is not empty", rule=_shown, empty=False)
_MAYBE = Member(Maybe(Text(rule=_shown)))
_REMARK = Member(Maybe(Text(rule=_short)))
_PUBLISHER = Shape(
    {
        "name": Member(_NAMED, needed=True),
        "issuer": _MAYBE,
        "repository": _MAYBE,
        "workflow": _MAYBE,
        "build_signer_uri": _MAYBE,
        "ref_pattern": _MAYBE,
        "key_id": _MAYBE,
        "public_key": _MAYBE,
    },
    "trust.publishers",
)
_DIGEST = Shape(
    {"sha256": Member(Text(rule=_digest), needed=True), "description": _REMARK, "added": _REMARK}, "trust.digests"
)
_BLOCKED = Shape(
    {"identity": Member(_NAMED, needed=True), "repository": _MAYBE, "reason": _REMARK, "added": _REMARK},
    "trust.blocked",
)
_BLOCKLIST = Shape(
    {
        "digests": Member(Maybe(_Some(_DIGEST, "digests"))),
        "publishers": Member(Maybe(_Some(_BLOCKED, "publishers"))),
    },
    "trust.blocklist",
)
_POLICY = Shape(
    {
        "predicate": Member(Maybe(Text(choices=lambda: (PREDICATE,)))),
        "version": Member(Maybe(Number(1, 1, "1"))),
        "includes": Member(_Some(_NAMED, "includes"), needed=True),
        "files": Member(Maybe(_Some(Text("a path", rule=_path, empty=False), "files"))),
        "publishers": Member(_Some(_PUBLISHER, "publishers"), needed=True),
        "blocklist": Member(Maybe(_BLOCKLIST)),
        "enforcement": Member(Text(choices=lambda: ENFORCEMENTS), needed=True),
    },
    "trust",
)
