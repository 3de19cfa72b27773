"""The public keys of this user: where trust starts.

`nono trust keygen` writes each to CONFIG/nono/trust/ID.pub, as PEM; for a key in a file (file:///…), the file's name is
the fingerprint, and a line `key-id: file:///…` stands before the PEM. So a run verifies without asking a keystore,
headless and unplugged, and has no private key in reach. The agent can never write there; a file that somebody else
could have written is refused.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.trust.policy import Publisher


def read(config_dir: str) -> tuple[Publisher, ...]:
    """Return the own keys as publishers, sorted by key_id. config_dir: CONFIG/nono. Raises PolicyError."""
    raise NotImplementedError


def add(config_dir: str, key_id: str, public: bytes, *, replace: bool = False) -> str:
    """Write a public key (DER) and return the path of its file.

    key_id: [A-Za-z0-9_-]+ or file:///ABSOLUTE. replace: even where there is another key of that name.
    Raises UsageError where there is one, StoreError.
    """
    raise NotImplementedError
