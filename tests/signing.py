"""Whoever signs files in a test, with a key and without the command line."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from nono.trust import keys, own, signing
from nono.trust.bundle import INSTRUCTION_FILE, MULTI_FILE, MULTI_NAME, SUFFIX, TRUST_POLICY
from nono.trust.policy import NAME, PREDICATE


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


class Signer:
    """Somebody with a key. public: its DER."""

    def __init__(self, key_id: str = "default") -> None:
        self.key_id = key_id
        self._private = keys.generate()
        self.public = keys.public_of(self._private)

    def trusted_by(self, home: Path) -> Signer:
        """Make the key one of the own keys of the user whose home this is."""
        config = home / ".config/nono"
        config.mkdir(parents=True, exist_ok=True, mode=0o700)
        own.add(str(config), self.key_id, self.public)
        return self

    def sign(self, *paths: Path, predicate: str = INSTRUCTION_FILE) -> None:
        """Write FILE.bundle for each."""
        for path in paths:
            payload = signing.statement([(path.name, digest(path))], predicate, signing.keyed(self.key_id))
            path.with_name(path.name + SUFFIX).write_bytes(signing.sign(payload, self._private))

    def sign_tree(self, root: Path, names: Iterable[str]) -> None:
        """Write one bundle for these files of a tree."""
        subjects = [(name, digest(root / name)) for name in names]
        payload = signing.statement(subjects, MULTI_FILE, signing.keyed(self.key_id))
        (root / MULTI_NAME).write_bytes(signing.sign(payload, self._private))

    def publisher(self) -> dict[str, str]:
        """Return the entry of a policy that names this signer."""
        return {"name": self.key_id, "key_id": self.key_id, "public_key": b64encode(self.public).decode()}

    def policy(self, directory: Path, *publishers: Signer, **members: Any) -> Path:
        """Write a policy into `directory`, and sign it."""
        path = directory / NAME
        value = {
            "predicate": PREDICATE, "includes": [], "enforcement": "deny",
            "publishers": [each.publisher() for each in publishers], **members,
        }  # fmt: skip
        path.write_text(json.dumps(value))
        self.sign(path, predicate=TRUST_POLICY)
        return path
