"""What becomes of a file that is verified: the outcomes, and the exceptions that carry one.

A reason is the end of a sentence that begins with the file's name, or with "a bundle that": "was changed after
'default' signed it", "is not JSON", "has two signatures". A next step is what the user can do, with the command. The
exceptions carry both apart, so that a verdict has them and a message is made of them.
"""

from __future__ import annotations

from nono.errors import NonoError

VERIFIED = "verified"
UNSIGNED = "unsigned"  # no bundle
BLOCKED = "blocked"  # by a blocklist; denied whatever the enforcement is
BAD_SIGNATURE = "bad_signature"  # it does not verify under the key that it names
WRONG_FILE = "wrong_file"  # a bundle for another file, or for another purpose
UNTRUSTED = "untrusted"  # sound, but by nobody whom the policies name
MALFORMED = "malformed"  # not a bundle
EXPIRED = "expired"  # signed when the certificate was not valid
UNSAFE_FILE = "unsafe_file"  # a link, a fifo, too large, not readable: not a file that can be vouched for
CHANGED = "changed"  # not what was signed, or not what was verified
OUTCOMES = (
    VERIFIED, UNSIGNED, BLOCKED, BAD_SIGNATURE, WRONG_FILE, UNTRUSTED, MALFORMED, EXPIRED, UNSAFE_FILE, CHANGED
)  # fmt: skip


def sentence(reason: str, next_step: str) -> str:
    """Return how a sentence about a file ends."""
    return f"{reason}; {next_step}" if next_step else reason


class TrustError(NonoError):
    """What was to be verified is not. outcome: one of OUTCOMES. source: which file it is about, as a user reads it."""

    def __init__(self, outcome: str, source: str, reason: str, next_step: str = "") -> None:
        super().__init__(f"{source} {sentence(reason, next_step)}")
        self.outcome = outcome
        self.source = source
        self.reason = reason
        self.next_step = next_step


class BundleError(TrustError):
    """A bundle is not one, or does not verify."""


class UnsafeFile(TrustError):
    """A file is not one that can be vouched for, or is no longer the one that was verified."""
