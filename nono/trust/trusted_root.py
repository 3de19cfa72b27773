"""Whom keyless verification believes: Sigstore's trusted_root.json, and which of them at what time.

The one that is read, the first there is: the file that was named (--trusted-root), CONFIG/nono/trust/trusted_root.json
(a company's own Sigstore, or a newer copy of the public one), and the copy inside the package `sigstore`, which a newer
version of that package brings up to date. Nothing is fetched, ever: verification works with the network unplugged, and
what was trusted yesterday is what is trusted today. signing_config.json, which says where to sign, is found alike.

Finding and reading a root imports nothing of `sigstore`. A file in CONFIG that somebody other than the user or root
could have written is refused, and so is a link: what is in CONFIG/nono no agent writes, what a link leads to one might.

Each authority and log in it has a time during which it is believed (validFor). The package leaves that to its caller
where a signature is old, so `believed` looks: a log key that was retired vouches for nothing that was logged later.

Source: sigstore/protobuf-specs sigstore_trustroot.proto.
"""

from __future__ import annotations

import os
import stat
from base64 import b64decode
from datetime import datetime
from hashlib import sha256
from importlib.machinery import PathFinder

from nono.errors import PolicyError, UsageError
from nono.record import Record
from nono.trust import strict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

NAME = "trusted_root.json"
SIGNING_NAME = "signing_config.json"
INSTALL = "pip install 'nono[trust]'"
MOST_BYTES = 1 << 20
_EMBEDDED = os.path.join("_store", "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev")
_EMBEDDED_SIGNING_NAME = "signing_config.v0.2.json"


class SigningConfig(Record):
    """Where to sign: signing_config.json as it was read. source: as a user knows it."""

    source: str
    data: bytes


class TrustRoot(Record):
    """A trusted root as it was read. source: as a user knows it. library: which version of the verifier is here."""

    source: str
    data: bytes
    library: str

    @property
    def digest(self) -> str:
        """What a verification by this root, with this verifier, depends on: hex digits."""
        return sha256(sha256(self.data).digest() + self.library.encode()).hexdigest()


def load(config_dir: str, given: str = "") -> TrustRoot:
    """Return the trusted root that counts. config_dir: CONFIG/nono. given: the path that the user named.

    Raises UsageError where the named one cannot be read or the package is missing, PolicyError for one that is unsafe.
    """
    package = _package()
    version = _read(os.path.join(package, "__init__.py")) or b""
    source, data = _first(given, os.path.join(config_dir, "trust", NAME), os.path.join(package, _EMBEDDED, NAME))
    return TrustRoot(source, data, sha256(version).hexdigest())


def load_signing(config_dir: str, given: str = "") -> SigningConfig:
    """Return the signing configuration that counts: where a certificate and a log entry are asked for."""
    embedded = os.path.join(_package(), _EMBEDDED, _EMBEDDED_SIGNING_NAME)
    return SigningConfig(*_first(given, os.path.join(config_dir, "trust", SIGNING_NAME), embedded))


def parse(root: TrustRoot) -> dict[str, Any]:
    """Return the JSON of a trusted root. Raises PolicyError for what is none."""
    try:
        content = strict.loads(root.data)
    except strict.NotStrict as error:
        raise PolicyError(f"{root.source}: {error}") from None
    if not isinstance(content, dict):
        raise PolicyError(f"{root.source}: is not a JSON object")
    return content


def believed(instance: Mapping[str, Any], times: Iterable[datetime]) -> bool:
    """Whether a log or an authority of the root is believed at all of these times; both ends of its time count."""
    valid = instance.get("validFor") or instance.get("publicKey", {}).get("validFor") or {}
    start, end = valid.get("start"), valid.get("end")
    if start is None:
        return False
    return all(
        datetime.fromisoformat(start) <= time and (end is None or time <= datetime.fromisoformat(end)) for time in times
    )


def logs(content: Mapping[str, Any], kind: str, key_id: bytes) -> list[Mapping[str, Any]]:
    """Return the logs of a root that a log id names. kind: "tlogs" or "ctlogs".

    The id of a log is what the root says, or the SHA-256 of its public key (RFC 6962 section 3.2).
    """
    return [log for log in content.get(kind, ()) if key_id in _ids(log)]


def _ids(log: Mapping[str, Any]) -> tuple[bytes, ...]:
    said = (log.get(name, {}).get("keyId", "") for name in ("logId", "checkpointKeyId"))
    public_key = b64decode(log.get("publicKey", {}).get("rawBytes", ""))
    return (*(b64decode(key_id) for key_id in said if key_id), sha256(public_key).digest())


def _package() -> str:
    """Return the directory of the package `sigstore`, which is not imported."""
    spec = PathFinder.find_spec("sigstore")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"signatures without a key need the package sigstore: {INSTALL}")
    return str(spec.submodule_search_locations[0])


def _first(given: str, configured: str, embedded: str) -> tuple[str, bytes]:
    """Return the first file that there is: its name for messages, its contents."""
    if given:
        data = _read(given)
        if data is None:
            raise UsageError(f"{given} does not exist")
        return given, data
    data = _read(configured, private=True)
    if data is not None:
        return configured, data
    data = _read(embedded)
    if data is None:
        raise UsageError(f"the package sigstore is not complete; install it anew: {INSTALL}")
    return f"{os.path.basename(embedded)} of the package sigstore", data


def _read(path: str, *, private: bool = False) -> bytes | None:
    """Return a file's contents; None where there is none. private: nobody but the user and root may write it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (os.O_NOFOLLOW if private else 0))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if private and os.path.islink(path):
            raise PolicyError(f"{path} is a link, and says whom you trust; put the file itself there") from None
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is not a regular file")
        if private:
            for each, name in ((status, path), (os.stat(os.path.dirname(path)), os.path.dirname(path))):
                if each.st_uid not in (0, os.geteuid()) or each.st_mode & 0o022:
                    raise PolicyError(f"somebody else could have written {name}; if it is yours: chmod go-w {name}")
            if status.st_nlink != 1:
                raise PolicyError(f"{path} has a second name, and says whom you trust; remove it, or copy it anew")
        data = bytearray()
        while len(data) <= MOST_BYTES and (more := os.read(fd, MOST_BYTES)):
            data += more
    finally:
        os.close(fd)
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path} is larger than {MOST_BYTES >> 20} MiB")
    return bytes(data)
