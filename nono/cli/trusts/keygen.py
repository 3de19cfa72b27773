"""`nono trust keygen`: make a signing key; its public half becomes one of the own keys, by which runs verify."""

from __future__ import annotations

import argparse
import base64
import json
import os

from nono.cli import render
from nono.cli.trusts import keep, keyref, place
from nono.cli.trusts.keyref import KeyReference
from nono.errors import UsageError
from nono.trust import keys, own
from nono.trust.policy import Publisher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nono.cli.trusts.place import Where

_ANOTHER = "A second key has another name: nono trust keygen --id NAME"


def run(arguments: argparse.Namespace) -> int:
    """Make the key, or adopt one; return 0."""
    reference = keyref.chosen("--id", arguments.id, arguments.keyref)
    if arguments.adopt and arguments.force:
        raise UsageError("--adopt takes the key that is there, --force replaces it; say one of them")
    at = place.where()
    keep.protect()
    if arguments.adopt:
        public = keys.public_of(keep.load(reference, at.config))
    else:
        public = _made(reference, at, force=arguments.force)
    path = own.add(at.config, reference.key_id, public, replace=True)
    _forget_others(reference, public, at)
    text = base64.b64encode(public).decode()
    if arguments.json:
        told = {"key_id": reference.key_id, "fingerprint": keys.fingerprint(public), "public_key": text, "file": path}
        print(json.dumps(told, indent=1))
        return 0
    flag = place.typed(reference, at)
    rows: list[tuple[str, str]] = [
        ("key", render.printable(reference.key_id)),
        ("private", f"in {_shown(keep.label(reference))}"),
        ("public", _shown(path)),
        ("fingerprint", keys.fingerprint(public)),
    ]
    if reference.path and not reference.path.startswith(f"{at.config}/"):
        note = "an agent that may read it signs as you; nono run lets none, as long as its public half is there"
        rows.append(("note", note))
    rows.append(("next", render.printable(f"nono trust init{flag} --include CLAUDE.md")))
    print(render.table(rows), end="")
    return 0


def _shown(path: str) -> str:
    return render.printable(render.short(path, render.home_of(os.environ)))


def _made(reference: KeyReference, at: Where, *, force: bool) -> bytes:
    """Make a key and keep it; return its public half."""
    if not force:
        if keep.is_there(reference, at.config):
            raise _taken(reference, at)
        if _known(reference, at) is not None:
            raise UsageError(
                f"you have the public half of a key '{reference.key_id}', whose private half is not in "
                f"{keep.label(reference)}. --force makes a new one; the policies that it signed are refused then until "
                f"you sign them again. {_ANOTHER}"
            )
    private = keys.generate()
    public = keys.public_of(private)
    if reference.path:
        _make_home_of(reference.path, at)
    try:
        keep.put(reference, private, at.config, over=force)
    except FileExistsError:
        raise _taken(reference, at) from None
    return public


def _forget_others(reference: KeyReference, public: bytes, at: Where) -> None:
    """Remove what a key in the same file was: a file's public half is named by its fingerprint."""
    for each in own.read(at.config):
        if reference.path and each.key_id == reference.key_id and each.public_key != public:
            os.unlink(f"{at.config}/{own.DIRECTORY}/{keys.fingerprint(each.public_key)}{own.SUFFIX}")


def _make_home_of(path: str, at: Where) -> None:
    """Make the directory of a key, where it is to be in nono's own directory of settings."""
    if os.path.dirname(path) == f"{at.config}/trust":
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)


def _taken(reference: KeyReference, at: Where) -> UsageError:
    known = _known(reference, at)
    command = f"nono trust keygen{reference.typed('--id')}"
    if known is None:
        return UsageError(
            f"there is a key '{reference.key_id}' already, of another tool or machine. To sign with it: {command} "
            "--adopt; to replace it, which loses it for good: --force"
        )
    return UsageError(
        f"you have a key '{reference.key_id}' already ({keys.fingerprint(known.public_key)[:16]}…). --force replaces "
        f"it: it is lost for good then, and the policies that it signed are refused until you sign them again. "
        f"{_ANOTHER}"
    )


def _known(reference: KeyReference, at: Where) -> Publisher | None:
    return {each.key_id: each for each in own.read(at.config)}.get(reference.key_id)
