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

from nono.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME = "trust-policy.json"
PREDICATE = "https://nono.sh/attestation/trust-policy/v1"
AUDIT, WARN, DENY = "audit", "warn", "deny"
ENFORCEMENTS = (AUDIT, WARN, DENY)
"""From the mildest to the strictest."""
MOST_BYTES = 8 << 20


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

    repository: without "https://github.com/"; workflow: the path in the repository; as the Rust tool has them.
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
        raise NotImplementedError

    def candidates(self, key_id: str, hint: str) -> tuple[Publisher, ...]:
        """Return the keyed publishers whose key may have made a signature that says so; each key once."""
        raise NotImplementedError

    def blocked(self, signer: Signer, publisher: Publisher | None = None) -> Blocked | None:
        """Return the entry of a blocklist that `signer` is on, by any name that he has here."""
        raise NotImplementedError


def parse(data: bytes, source: str) -> Policy:
    """Return the policy. source: how a user knows it. Raises PolicyError, with the place in it."""
    raise NotImplementedError


def is_foreign(data: bytes) -> bool:
    """Whether a file called trust-policy.json is somebody else's: JSON with neither predicate, version nor includes."""
    raise NotImplementedError


def merge(built_in: Policy, user: Policy | None, project: Policy | None, own: Sequence[Publisher]) -> Rules:
    """Return what the policies, whose signatures have been verified, come to."""
    raise NotImplementedError
