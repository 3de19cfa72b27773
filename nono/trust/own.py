"""The public keys of this user: where trust starts.

`nono trust keygen` writes each to CONFIG/nono/trust/ID.pub, as PEM; for a key in a file (file:///…), the file's name is
the fingerprint, and a line `key-id: file:///…` stands before the PEM. So a run verifies without asking a keystore,
headless and unplugged, and has no private key in reach. The agent can never write there; a file that somebody else
could have written is refused.
"""

from __future__ import annotations

import os
import re

from nono.errors import PolicyError, StoreError, UsageError
from nono.trust import files, keys
from nono.trust.errors import UnsafeFile
from nono.trust.policy import Publisher

DIRECTORY = "trust"
SUFFIX = ".pub"
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_KEY_ID = "key-id: "
_FILE = "file:///"
_BEGIN = "-----BEGIN "
_MOST_KEYS = 1000
_MOST_BYTES = 16 << 10


def read(config_dir: str) -> tuple[Publisher, ...]:
    """Return the own keys as publishers, sorted by key_id. config_dir: CONFIG/nono. Raises PolicyError."""
    directory = f"{config_dir}/{DIRECTORY}"
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(SUFFIX))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise PolicyError(f"{directory}, where your public keys are, cannot be read: {error.strerror}") from None
    if len(names) > _MOST_KEYS:
        raise PolicyError(f"{directory} has more than {_MOST_KEYS} public keys; remove some")
    if names:
        _is_mine(os.stat(directory), directory)
    return tuple(sorted(_read(directory, name) for name in names))


def add(config_dir: str, key_id: str, public: bytes, *, replace: bool = False) -> str:
    """Write a public key (DER) and return the path of its file.

    key_id: [A-Za-z0-9_-]+ or file:///ABSOLUTE. replace: even where there is another key of that name.
    Raises UsageError where there is one, StoreError.
    """
    if not keys.is_public(public):
        raise UsageError("this is not a public key of the curve P-256")
    text = keys.pem(public)
    name = key_id
    if key_id.startswith(_FILE) and key_id.isprintable():
        text = f"{_KEY_ID}{key_id}\n{text}"
        name = keys.fingerprint(public)
    elif not _ID.fullmatch(key_id):
        raise UsageError(
            "the name of a key is of the letters A to Z and a to z, digits, - and _ (at most 128), or file:///PATH"
        )
    directory = f"{config_dir}/{DIRECTORY}"
    path = f"{directory}/{name}{SUFFIX}"
    temporary = f"{directory}/.{name[:64]}.{os.getpid()}.new"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            with open(fd, "w", encoding="utf-8") as file:
                os.fchmod(fd, 0o644)  # whatever the umask: it is public, and nobody else may write it
                file.write(text)
                file.flush()
                os.fsync(fd)
            if replace:
                os.replace(temporary, path)
            else:
                _place(temporary, path, text)
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)
    except OSError as error:
        raise StoreError(f"the public key cannot be kept in {directory}: {error.strerror}") from None
    return path


def _place(temporary: str, path: str, text: str) -> None:
    """Give the file its name, unless another key has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        with open(path, encoding="utf-8", errors="replace") as file:
            if file.read(_MOST_BYTES) == text:
                return
        raise UsageError(f"you already have another key of this name ({path}); choose another name") from None


def _read(directory: str, name: str) -> Publisher:
    try:
        opened = files.open_path(f"{directory}/{name}", most=_MOST_BYTES, keep=True)
    except (UnsafeFile, OSError) as error:
        why = error.reason if isinstance(error, UnsafeFile) else "is gone"
        raise PolicyError(f"your public key {directory}/{name} {why}; remove it, or write it again") from None
    try:
        _is_mine(os.fstat(opened.fd), opened.path)
    finally:
        files.close(opened)
    before, begin, pem = opened.data.decode(errors="replace").partition(_BEGIN)
    try:
        public = keys.load_public(begin + pem)
    except keys.MissingLibrary:
        raise
    except UsageError:
        raise PolicyError(
            f"{opened.path} is not a public key of the curve P-256 in PEM; remove it, or write it again with: "
            "nono trust keygen"
        ) from None
    key_id = name.removesuffix(SUFFIX)
    if before.startswith(_KEY_ID):
        key_id = before[len(_KEY_ID) :].partition("\n")[0].strip()
        wrong = not key_id.startswith(_FILE) or name != keys.fingerprint(public) + SUFFIX
    else:
        wrong = not _ID.fullmatch(key_id)
    if wrong:
        raise PolicyError(f"{opened.path} does not bear the name of its key; remove it, or write it again")
    return Publisher(name=key_id, key_id=key_id, public_key=public)


def _is_mine(status: os.stat_result, path: str) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise PolicyError(f"{path} belongs to another user, and says whom you trust; make it yours or remove it")
    if status.st_mode & 0o022:
        raise PolicyError(
            f"{path} can be written by others, and says whom you trust; forbid it with: chmod go-w {path}"
        )
