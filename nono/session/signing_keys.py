"""What says whom the user trusts, and what signs as he does, is closed to every agent, wherever it lies.

CONFIG/nono is closed in every run. What is there may be links to elsewhere (a repository of dotfiles), which a grant
may be around: whoever writes a public key there, or the policy, is trusted the next time. And a signing key of the
user's may be in a file anywhere (`nono trust keygen --keyref file:///…`): whoever reads it signs as he does. His public
keys name it.

Every run asks, also without a policy; so this is small, and imports nothing of nono/trust.
"""

from __future__ import annotations

import os

from nono.errors import PolicyError
from nono.policy.capabilities import PathDeny
from nono.policy.paths import Place
from nono.policy.protection import NONO

_DECIDING = ("trust", "trust-policy.json", "trust-policy.json.bundle")
_KEY_IN_A_FILE = b"key-id: file://"  # the first line of such a key's public half: nono/trust/own.py


def deciding(place: Place) -> tuple[str, ...]:
    """Return the paths, in CONFIG/nono, of what says whom the user trusts."""
    return tuple(f"{place.config_home}/nono/{name}" for name in _DECIDING)


def denies(place: Place) -> tuple[PathDeny, ...]:
    """Return what no grant opens. Raises PolicyError where that cannot be known."""
    paths = deciding(place)
    decide = [real for path in paths if (real := os.path.realpath(path)) != path]
    return (
        *(PathDeny(path, NONO) for path in decide),  # also where nothing is yet: it would be made there
        *(PathDeny(path, "credential_files") for path in _in_files(paths[0])),
    )


def _in_files(directory: str) -> list[str]:
    """Return the real paths of the signing keys that are in files."""
    found = []
    try:
        for entry in os.scandir(directory):
            if entry.name.endswith(".pub"):
                with open(entry.path, "rb") as file:
                    line = file.readline(1 << 14)
                if line.startswith(_KEY_IN_A_FILE):
                    found.append(os.path.realpath(os.fsdecode(line[len(_KEY_IN_A_FILE) :].strip())))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise PolicyError(
            f"{error.filename or directory} cannot be read ({error.strerror}): which signing keys are to be closed to "
            "the agent is not known; make it readable, or remove it"
        ) from None
    return found
